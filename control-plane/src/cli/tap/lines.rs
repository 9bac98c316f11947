//! From the proxies to one stream of lines: whom to ask, and what they say as it comes.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Wish;
use crate::cli::ask::authority;
use crate::cli::failure::Failure;
use crate::relay::http::ProxyEntry;

/// Until an answer begins.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// Largest answer that is no tap: a list, or words about what went wrong.
const LARGEST: usize = 16 << 20;
/// Longest line; a request with all its headers is a tenth of that.
const LONGEST_LINE: usize = 1 << 20;
/// Lines that wait to be shown.
const QUEUE: usize = 256;
/// Proxies that are tapped at a time. More could not be read, and each costs its proxy something.
const MOST: usize = 64;

/// What one proxy said.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) proxy: String,
    pub(crate) text: String,
}

/// Open taps; they end when it is dropped.
#[derive(Debug)]
pub(crate) struct Taps {
    lines: mpsc::Receiver<Line>,
    readers: JoinSet<anyhow::Result<()>>,
    names: Vec<String>,
    /// How many have not ended in failure, and why the last one did.
    good: usize,
    failure: Option<anyhow::Error>,
}

impl Taps {
    /// Opens a tap at every proxy that is meant.
    pub(crate) async fn open(wish: &Wish, query: &str) -> Result<Self, Failure> {
        let (sender, lines) = mpsc::channel(QUEUE);
        let mut readers = JoinSet::new();
        let names = match &wish.proxy {
            Some(proxy) => {
                let authority = authority(proxy).map_err(Failure::usage)?;
                readers.spawn(read(authority, format!("/tap?{query}"), proxy.clone(), sender));
                vec![proxy.clone()]
            }
            None => {
                let authority = authority(&wish.address).map_err(Failure::usage)?;
                let all = list(&authority).await.with_context(|| {
                    format!("cannot ask the control plane at {} (is `leno serve` running?)", wish.address)
                });
                let chosen = choose(wish, all.map_err(Failure::unreachable)?)?;
                for proxy in &chosen {
                    let path = format!("/proxies/{}/tap?{query}", proxy.node);
                    readers.spawn(read(authority.clone(), path, proxy.name.clone(), sender.clone()));
                }
                chosen.into_iter().map(|proxy| proxy.name).collect()
            }
        };
        let good = names.len();
        Ok(Self { lines, readers, names, good, failure: None })
    }

    /// Whom they are at, for people.
    pub(crate) fn names(&self) -> String {
        match self.names.as_slice() {
            [first, rest @ ..] if rest.len() > 4 => format!("{first} and {} more proxies", rest.len()),
            names => names.join(", "),
        }
    }

    /// The next line of any; `None`: all have ended.
    pub(crate) async fn next(&mut self) -> Option<Line> {
        loop {
            tokio::select! {
                biased;
                line = self.lines.recv() => return line,
                Some(ended) = self.readers.join_next() => {
                    let ended = ended.map_err(anyhow::Error::from).and_then(|ended| ended);
                    if let Err(error) = ended {
                        self.good = self.good.saturating_sub(1);
                        self.failure = Some(error);
                    }
                }
            }
        }
    }

    /// Fails if nobody could be tapped; if only some, says so.
    pub(crate) fn outcome(mut self) -> Result<(), Failure> {
        while let Some(Ok(ended)) = self.readers.try_join_next() {
            if let Err(error) = ended {
                self.good = self.good.saturating_sub(1);
                self.failure = Some(error);
            }
        }
        match self.failure {
            None => Ok(()),
            Some(error) if self.good == 0 => Err(Failure::unreachable(error)),
            Some(error) => {
                let failed = self.names.len() - self.good;
                std::io::Write::write_fmt(
                    &mut anstream::stderr(),
                    format_args!("warning: {failed} of {} proxies could not be tapped: {error:#}\n", self.names.len()),
                )?;
                Ok(())
            }
        }
    }
}

/// Everyone who is connected.
async fn list(authority: &str) -> anyhow::Result<Vec<ProxyEntry>> {
    let response = get(authority, "/proxies").await?;
    let text = whole(response).await?;
    serde_json::from_slice(&text).context("the list of proxies is not understood")
}

/// Those that are meant.
fn choose(wish: &Wish, all: Vec<ProxyEntry>) -> Result<Vec<ProxyEntry>, Failure> {
    let shown = |proxy: &ProxyEntry| wish.all_namespaces || proxy.namespace == wish.namespace;
    let is_called = |proxy: &ProxyEntry, name: &str| {
        let full = name.strip_suffix(&proxy.namespace).and_then(|name| name.strip_suffix('.'));
        let is_short = (proxy.name == name || proxy.workload == name) && shown(proxy);
        proxy.node == name || is_short || full.is_some_and(|name| name == proxy.name || name == proxy.workload)
    };
    let unknown = wish.proxies.iter().find(|name| !all.iter().any(|proxy| is_called(proxy, name)));
    if let Some(name) = unknown {
        let known = all.iter().map(|proxy| format!("{}.{}", proxy.name, proxy.namespace)).take(10).collect::<Vec<_>>();
        let known = if known.is_empty() { "none is connected".to_owned() } else { known.join(", ") };
        return Err(
            anyhow!("no connected proxy or workload is called `{}`; there is {known}", name.escape_debug()).into()
        );
    }
    let is_meant = |proxy: &ProxyEntry| match wish.proxies.is_empty() {
        true => shown(proxy),
        false => wish.proxies.iter().any(|name| is_called(proxy, name)),
    };
    let chosen = all.into_iter().filter(|proxy| proxy.relay && is_meant(proxy)).collect::<Vec<_>>();
    match chosen.len() {
        0 => Err(anyhow!("no proxy that can be asked is connected in this namespace (-A: all namespaces)").into()),
        1..=MOST => Ok(chosen),
        many => Err(Failure::usage(anyhow!("{many} proxies are too many at a time; name up to {MOST} of them"))),
    }
}

/// Reads one tap to its end.
async fn read(authority: String, path: String, proxy: String, lines: mpsc::Sender<Line>) -> anyhow::Result<()> {
    let response = get(&authority, &path).await.with_context(|| format!("cannot tap {proxy}"))?;
    let status = response.status();
    if status != StatusCode::OK {
        let text = whole(response).await?;
        bail!("cannot tap {proxy}: {status}: {}", String::from_utf8_lossy(&text).trim());
    }
    let mut body = response.into_body();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("the tap of {proxy} has broken off"))?;
        let Ok(data) = frame.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            if lines.send(Line { proxy: proxy.clone(), text }).await.is_err() {
                return Ok(());
            }
        }
        if rest.len() > LONGEST_LINE {
            bail!("the tap of {proxy} has a line of more than {} KiB", LONGEST_LINE >> 10);
        }
    }
    Ok(())
}

/// Asks on a connection of its own.
async fn get(authority: &str, path: &str) -> anyhow::Result<Response<Incoming>> {
    let exchange = async {
        let socket = TcpStream::connect(authority).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        // Ends with the body or with the runtime.
        tokio::spawn(connection);
        let request = Request::get(path).header(header::HOST, authority).body(Empty::<Bytes>::new())?;
        anyhow::Ok(sender.send_request(request).await?)
    };
    timeout(HEAD_DEADLINE, exchange).await.map_err(|_| anyhow!("no answer within {} s", HEAD_DEADLINE.as_secs()))?
}

async fn whole(response: Response<Incoming>) -> anyhow::Result<Bytes> {
    let body = timeout(HEAD_DEADLINE, Limited::new(response.into_body(), LARGEST).collect()).await?;
    Ok(body.map_err(|error| anyhow!(error))?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Parser {
        #[command(flatten)]
        wish: Wish,
    }

    fn chosen(arguments: &[&str]) -> Result<Vec<String>, String> {
        let entry = |name: &str, workload: &str, namespace: &str, relay| ProxyEntry {
            node: format!("sidecar~10.0.0.1~{name}.{namespace}~{namespace}.svc.cluster.local"),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            workload: workload.to_owned(),
            connected_since: String::new(),
            relay,
        };
        let all = vec![
            entry("cart-1", "cart", "default", true),
            entry("cart-2", "cart", "default", true),
            entry("cart-1", "cart", "bank", true),
            entry("envoy", "envoy", "default", false),
        ];
        let arguments = std::iter::once(&"tap").chain(arguments);
        let wish = <Parser as clap::Parser>::parse_from(arguments).wish;
        let name = |proxy: ProxyEntry| format!("{}.{}", proxy.name, proxy.namespace);
        choose(&wish, all).map(|all| all.into_iter().map(name).collect()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn proxies_are_chosen_by_name_workload_or_namespace() {
        let ok = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(chosen(&[]), ok(&["cart-1.default", "cart-2.default"]));
        assert_eq!(chosen(&["-A"]), ok(&["cart-1.default", "cart-2.default", "cart-1.bank"]));
        assert_eq!(chosen(&["-n", "bank"]), ok(&["cart-1.bank"]));
        assert_eq!(chosen(&["cart-1"]), ok(&["cart-1.default"]));
        assert_eq!(chosen(&["cart-1.bank"]), ok(&["cart-1.bank"]));
        assert_eq!(chosen(&["cart"]), ok(&["cart-1.default", "cart-2.default"]));
        assert!(chosen(&["envoy"]).is_err_and(|error| error.contains("can be asked")));
        assert!(chosen(&["crat"]).is_err_and(|error| error.contains("cart-1.default")));
    }
}
