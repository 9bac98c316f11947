//! What the kubelet, a scraper and the pod's own containers ask of the sidecar: one address, 15020 (Istio's).
//!
//! | path | who asks | answer |
//! |---|---|---|
//! | `/healthz/ready`, `/ready` | kubelet | 200 when the proxy can serve, 503 with the reason when it cannot |
//! | `/stats/prometheus`, `/metrics` | Prometheus | the app's metrics and the proxy's |
//! | `/app-health/CONTAINER/{livez,readyz,startupz}` | kubelet | the app's own answer to its probe |
//! | `POST /quitquitquit` | a container of this pod | 200; the proxy drains and exits |
//!
//! It is open to the network, because those who ask have no certificate of the mesh. So it is no way into the app: of a
//! probe a caller learns the status and nothing else, it leads only where the pod's specification says ([`probes`]), and
//! headers and query of the caller go nowhere. [`metrics`] is the one body of the app that is passed on, which its
//! annotations have offered to scrapers.
//!
//! * [`ask`]: calling the app. [`exposition`], [`merge`]: two expositions into one. [`app`]: is the app still there?
//! * [`call`]: the other side, for `leno-proxy wait` and `leno-proxy quit`.

pub(crate) mod app;
mod ask;
pub mod call;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod exposition;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod merge;
mod metrics;
mod probes;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use hyper::body::Incoming;

use crate::admin::{self, Answer, Ends, Face, Shared, guard, text_answer};
use crate::dns::Dns;
use crate::handover::OwnSockets;

pub use metrics::AppMetrics;
pub use probes::{Probes, ProbesError, WrittenProbe};

use app::App;
use ask::Asker;
use metrics::Scraper;
use probes::Probe;

/// What the bootstrap says of the pod.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// Where this is served; `None`: nowhere.
    pub merged: Option<SocketAddr>,
    /// Where the app's metrics are; `None`: it has none.
    pub metrics: Option<AppMetrics>,
    /// What the kubelet asks the app.
    pub probes: Probes,
}

/// What answers.
#[derive(Debug)]
struct Desk {
    shared: Arc<Shared>,
    asker: Arc<Asker>,
    scraper: Option<Scraper>,
    probes: Probes,
}

/// What is served, where and who is asked of the app's end. The address is `None` where nothing is to be served.
pub(crate) async fn open(
    pod: &Pod,
    sockets: &OwnSockets,
    shared: &Arc<Shared>,
    dns: Arc<Dns>,
) -> anyhow::Result<(Option<SocketAddr>, App)> {
    let asker = Arc::new(Asker::new(&shared.node, dns)?);
    let app = App::new(pod, &shared.node, Arc::clone(&asker));
    let Some(address) = pod.merged else { return Ok((None, app)) };
    let scraper = pod.metrics.clone().map(|metrics| Scraper::new(metrics, &shared.registry)).transpose()?;
    let desk = Arc::new(Desk { shared: Arc::clone(shared), asker, scraper, probes: pod.probes.clone() });
    let answer = move |ends, request| {
        let desk = Arc::clone(&desk);
        async move { desk.answer(ends, &request).await }
    };
    Ok((Some(admin::listen(sockets, address, "merged", admin::LIFE, answer).await?), app))
}

impl Desk {
    async fn answer(&self, ends: Ends, request: &Request<Incoming>) -> Answer {
        let (method, path) = (request.method(), request.uri().path());
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match path {
            "/quitquitquit" if method == Method::POST => self.quit(ends, request),
            "/quitquitquit" => not_allowed("POST"),
            "/healthz/ready" | "/ready" => admin::respond(&self.shared, Face::Ready, method, path).await,
            "/stats/prometheus" | "/metrics" if reads => match &self.scraper {
                Some(scraper) => scraper.scrape(&self.shared, &self.asker, request.headers()).await,
                None => admin::respond(&self.shared, Face::Metrics, method, path).await,
            },
            _ => match self.probes.at(path) {
                Some(probe) if reads => self.probe(probe, path).await,
                Some(_) => not_allowed("GET, HEAD"),
                None if path == "/stats/prometheus" || path == "/metrics" => not_allowed("GET, HEAD"),
                None => unknown(path),
            },
        }
    }

    /// The kubelet takes 200 to 399 for success and everything else for failure. The app's own status is passed on, so
    /// that events of the pod tell it; where there is none, it is 503 with the reason.
    async fn probe(&self, probe: &Probe, path: &str) -> Answer {
        let failed = |says: String| {
            tracing::debug!(path, "a probe failed: {says}");
            text_answer(StatusCode::SERVICE_UNAVAILABLE, format!("{says}\n"))
        };
        match tokio::time::timeout(probe.timeout, self.asker.probe(probe)).await {
            Err(_) => failed(format!("the app did not answer within {:?}", probe.timeout)),
            Ok(Err(error)) => failed(match std::error::Error::source(&error) {
                Some(cause) => format!("the app cannot be asked: {error}: {cause}"),
                None => format!("the app cannot be asked: {error}"),
            }),
            Ok(Ok(status)) => text_answer(status, format!("the app answered {status}\n")),
        }
    }

    /// Only from this pod, and from no web page in it. The redirect rules let the proxy's own calls to the app come from
    /// 127.0.0.6, on behalf of whoever called: that is not this pod's word.
    fn quit(&self, ends: Ends, request: &Request<Incoming>) -> Answer {
        let is_here = |ip: IpAddr| ip.is_loopback() && ip != IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
        if !is_here(ends.caller.ip().to_canonical()) || !is_here(ends.local.ip().to_canonical()) {
            let says = "only a container of this pod may end its proxy: ask 127.0.0.1\n";
            return text_answer(StatusCode::FORBIDDEN, says);
        }
        if let Err(refusal) = guard::may_change(request.headers()) {
            return text_answer(StatusCode::FORBIDDEN, refusal);
        }
        self.shared.quit();
        text_answer(StatusCode::OK, "OK\n")
    }
}

/// The port of a URL, `usual` where it names none; `None`: it names one that is not.
fn port(uri: &Uri, usual: u16) -> Option<u16> {
    let authority = uri.authority()?;
    let named = authority.as_str().rsplit('@').next()?.strip_prefix(authority.host())?;
    match named.strip_prefix(':') {
        None => Some(usual),
        Some(number) => number.parse().ok().filter(|number| *number != 0),
    }
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = text_answer(StatusCode::METHOD_NOT_ALLOWED, format!("use {methods}\n"));
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

fn unknown(path: &str) -> Answer {
    let path: String = path.chars().filter(|c| !c.is_control()).take(100).collect();
    let says = format!(
        "there is no {path}; there are /healthz/ready, /stats/prometheus, the probes of LENO_APP_PROBES and POST \
         /quitquitquit\n"
    );
    text_answer(StatusCode::NOT_FOUND, says)
}
