//! `leno echo`: a small HTTP service that says who it is and what it was asked.
//!
//! The demo and the examples put sidecars in front of it. It speaks HTTP/1.1 and HTTP/2 with prior knowledge on one
//! port, and may call other services itself, through the sidecar given as `--proxy`, handing on the headers that tie
//! a request to its cause. It is a peer for demonstrations, not a load target: one thread, no tuning.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, request, response};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::failure::Failure;

/// Headers that a service hands on, so that routing by user and tracing work beyond the first hop: W3C's, B3's in one
/// header and in several, and Jaeger's.
const HANDED_ON: [HeaderName; 12] = [
    HeaderName::from_static("end-user"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
    HeaderName::from_static("x-b3-flags"),
    HeaderName::from_static("uber-trace-id"),
];
/// A call that takes longer has failed.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// After SIGTERM, what is still running gets this long.
const DRAIN: Duration = Duration::from_secs(5);
/// A peer that has not sent its first bytes by then is gone.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// Connections beyond this many wait in the accept queue.
const MAX_CONNECTIONS: usize = 1024;
/// Idle connections kept to the sidecar.
const MAX_IDLE: usize = 64;
/// Largest answer read from a service that is called.
const MAX_ANSWER: usize = 1 << 20;

/// `leno echo`
#[derive(Debug, Clone, clap::Args)]
#[command(disable_version_flag = true)]
pub(crate) struct Arguments {
    /// Name that it answers with
    #[arg(long)]
    name: String,
    /// Version that it answers with
    #[arg(long = "version", value_name = "VERSION", default_value = "v1")]
    own_version: String,
    /// Address that it listens on; a pod's app listens on 0.0.0.0
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Port; 0 takes a free one, which is printed
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// URL to call for every request (repeatable); the answer is part of its own
    #[arg(long = "call", value_name = "URL")]
    calls: Vec<Uri>,
    /// Sidecar through which it calls (as an HTTP proxy)
    #[arg(long, value_name = "ADDRESS", requires = "calls")]
    proxy: Option<SocketAddr>,
}

/// What it answers, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Who answers.
    pub(crate) name: String,
    /// Which version of it.
    pub(crate) version: String,
    /// As requested.
    pub(crate) method: String,
    /// As requested, query included.
    pub(crate) path: String,
    /// As received; several values are joined with a comma.
    pub(crate) headers: BTreeMap<String, String>,
    /// Length of the request's body.
    pub(crate) body_bytes: u64,
    /// What the services answered that it called, in order.
    pub(crate) calls: Vec<CallResult>,
}

/// How one call ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CallResult {
    /// What was called.
    pub(crate) url: String,
    /// Status; 0 when there was no response.
    pub(crate) status: u16,
    /// Until the whole answer was there, in milliseconds.
    pub(crate) ms: f64,
    /// The answer, when it was one of this kind.
    pub(crate) answer: Option<Answer>,
    /// What went wrong, else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) error: String,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(arguments))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let asked = SocketAddr::from((arguments.bind, arguments.port));
    let listener = TcpListener::bind(asked).await.with_context(|| format!("cannot listen on {asked}"))?;
    announce(&arguments, listener.local_addr()?)?;
    let service = Arc::new(Service { arguments, idle: Mutex::default() });

    let (stop, stopped) = watch::channel(());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&service), stopped.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop((stop, listener));
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// One line of JSON on stdout, so that whoever started it with port 0 knows where it is.
fn announce(arguments: &Arguments, address: SocketAddr) -> anyhow::Result<()> {
    let line = serde_json::json!({
        "name": arguments.name, "version": arguments.own_version, "address": address.to_string(), "port": address.port(),
    });
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

/// One connection, until the peer ends it or the service stops.
async fn converse(stream: TcpStream, service: Arc<Service>, mut stopped: watch::Receiver<()>) {
    let _ = stream.set_nodelay(true);
    let Ok(Some(version)) = tokio::time::timeout(FIRST_BYTES, detect(&stream)).await else { return };
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let io = TokioIo::new(stream);
    match version {
        Spoken::Http1 => {
            let mut connection = std::pin::pin!(
                hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, answer)
            );
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
        Spoken::Http2 => {
            let mut connection = std::pin::pin!(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .serve_connection(io, answer)
            );
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
    }
}

#[derive(Clone, Copy)]
enum Spoken {
    Http1,
    Http2,
}

/// HTTP/2's preface begins with `PRI`; no method that HTTP/1.1 clients use does. `None`: the peer sent nothing.
async fn detect(stream: &TcpStream) -> Option<Spoken> {
    const PREFACE: &[u8] = b"PRI";
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await.ok().filter(|seen| *seen > 0)?;
        let seen = first.get(..seen)?;
        if seen == PREFACE {
            return Some(Spoken::Http2);
        }
        if !PREFACE.starts_with(seen) {
            return Some(Spoken::Http1);
        }
        // A preface in pieces: the rest is on its way, and peeking again at once would spin.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct Service {
    arguments: Arguments,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, mut body) = request.into_parts();
        let mut body_bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            body_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        let mut calls = Vec::with_capacity(self.arguments.calls.len());
        for url in &self.arguments.calls {
            calls.push(self.call(url, &head.headers).await);
        }
        let failed = calls.iter().any(|call| !(200..300).contains(&call.status));
        let answer = Answer {
            name: self.arguments.name.clone(),
            version: self.arguments.own_version.clone(),
            method: head.method.to_string(),
            path: head.uri.path_and_query().map_or_else(|| "*".to_owned(), ToString::to_string),
            headers: as_map(&head),
            body_bytes,
            calls,
        };
        let mut text = serde_json::to_vec(&answer).unwrap_or_default();
        text.push(b'\n');
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if failed {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
        }
        response
    }

    /// Calls one service, for a request with these headers.
    async fn call(&self, url: &Uri, cause: &HeaderMap) -> CallResult {
        let started = Instant::now();
        let outcome = match tokio::time::timeout(CALL_DEADLINE, self.try_call(url, cause)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no answer within {} s", CALL_DEADLINE.as_secs())),
        };
        let ms = started.elapsed().as_secs_f64() * 1000.0;
        let url = url.to_string();
        match outcome {
            Ok((head, body)) => {
                let answer = serde_json::from_slice(&body).ok();
                // A sidecar that answers itself says why in a header.
                let words = head.headers.get("x-leno-error").map_or(&body[..], |words| words.as_bytes());
                let error = if answer.is_some() { String::new() } else { String::from_utf8_lossy(words).into_owned() };
                CallResult { url, status: head.status.as_u16(), ms, answer, error }
            }
            Err(error) => CallResult { url, status: 0, ms, answer: None, error: format!("{error:#}") },
        }
    }

    async fn try_call(&self, url: &Uri, cause: &HeaderMap) -> anyhow::Result<(response::Parts, Bytes)> {
        let authority = url.authority().context("a URL to call needs a host")?;
        let mut request = Request::get(url.clone()).header(header::HOST, authority.as_str()).body(Empty::new())?;
        if self.arguments.proxy.is_none() {
            // To the service itself: origin form.
            let path = url.path_and_query().map_or("/", |path| path.as_str());
            *request.uri_mut() = path.parse()?;
        }
        for name in HANDED_ON {
            for value in cause.get_all(&name) {
                request.headers_mut().append(&name, value.clone());
            }
        }
        let (response, connection) = self.send(request, authority).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
        self.put_back(connection);
        Ok((head, body))
    }

    /// Sends on an idle connection; one that the peer has closed in the meantime hands the request back, and the next
    /// is tried.
    async fn send(
        &self,
        mut request: Request<Empty<Bytes>>,
        authority: &http::uri::Authority,
    ) -> anyhow::Result<(Response<Incoming>, SendRequest<Empty<Bytes>>)> {
        while let Some(mut connection) = self.take_idle() {
            if connection.ready().await.is_err() {
                continue;
            }
            match connection.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        let stream = match self.arguments.proxy {
            Some(proxy) => TcpStream::connect(proxy).await.with_context(|| format!("cannot reach the sidecar {proxy}")),
            None => TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80)))
                .await
                .with_context(|| format!("cannot reach {authority}")),
        }?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        Ok((response, sender))
    }

    fn take_idle(&self) -> Option<SendRequest<Empty<Bytes>>> {
        // Of direct calls each goes to a host of its own; only the sidecar is the same for all.
        self.arguments.proxy?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put_back(&self, connection: SendRequest<Empty<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE && !connection.is_closed() {
            idle.push(connection);
        }
    }
}

/// The headers; what HTTP/2 says as `:authority` stands under `host`, as HTTP/1.1 has it.
fn as_map(head: &request::Parts) -> BTreeMap<String, String> {
    let mut map = BTreeMap::<String, String>::new();
    if let Some(authority) = head.uri.authority().filter(|_| !head.headers.contains_key(header::HOST)) {
        map.insert(header::HOST.to_string(), authority.to_string());
    }
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        map.entry(name.as_str().to_owned())
            .and_modify(|joined| {
                joined.push_str(", ");
                joined.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_shown_whichever_version_of_http_was_spoken() {
        let head = |uri: &str, host: Option<&str>| {
            let request = host.into_iter().fold(Request::get(uri), |request, host| request.header(header::HOST, host));
            request.body(()).unwrap().into_parts().0
        };
        for (uri, host, shown) in [
            ("/", Some("reviews:9080"), Some("reviews:9080")),
            ("http://reviews:9080/", None, Some("reviews:9080")),
            ("http://reviews:9080/", Some("other"), Some("other")),
            ("/", None, None),
        ] {
            assert_eq!(as_map(&head(uri, host)).get("host").map(String::as_str), shown, "{uri} {host:?}");
        }
    }
}
