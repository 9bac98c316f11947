//! The demo's traffic: requests to productpage through the customers' sidecar; the demo itself never tries one again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cli::echo::Answer;

/// Requests under way at any time, each on a connection of its own.
const CALLERS: usize = 8;
/// A request that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(15);
/// Largest answer read.
const MAX_ANSWER: usize = 1 << 20;

/// How one request ended.
#[derive(Debug)]
pub(super) struct Sample {
    /// Index of the kind of request in what was ordered.
    pub(super) kind: usize,
    /// Until the whole answer was there.
    pub(super) took: Duration,
    /// What productpage got from the services it called: name, version, milliseconds. Or what went wrong.
    pub(super) outcome: Result<Vec<Seen>, String>,
}

/// An answer that productpage got.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    /// The service.
    pub(super) service: String,
    /// Which version answered.
    pub(super) version: String,
    /// Until productpage had the whole answer.
    pub(super) ms: f64,
}

/// What to send.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// Where the mesh takes them in.
    pub(super) to: SocketAddr,
    /// The kinds of request by their headers; a request's kind goes by its number.
    pub(super) kinds: Vec<HeaderMap>,
    /// Number of requests; `None`: until the receiver is dropped.
    pub(super) count: Option<usize>,
    /// Pause of each caller between two requests.
    pub(super) pause: Duration,
    /// The kind of request number `n`, given the number of kinds.
    pub(super) kind_of: fn(n: usize, kinds: usize) -> usize,
}

/// Sends what is ordered; every request gives one sample, in the order of their ends.
pub(super) fn send(order: Order) -> (mpsc::Receiver<Sample>, JoinSet<()>) {
    let (samples, receiver) = mpsc::channel(1024);
    let order = Arc::new(order);
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(call_in_a_loop(Arc::clone(&order), Arc::clone(&next), samples.clone()));
    }
    (receiver, callers)
}

async fn call_in_a_loop(order: Arc<Order>, next: Arc<AtomicUsize>, samples: mpsc::Sender<Sample>) {
    let mut connection = None;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if order.count.is_some_and(|count| number >= count) {
            return;
        }
        let kind = (order.kind_of)(number, order.kinds.len());
        let headers = order.kinds.get(kind).cloned().unwrap_or_default();
        let started = Instant::now();
        let outcome = match tokio::time::timeout(DEADLINE, request(order.to, headers, &mut connection)).await {
            Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
        };
        if outcome.is_err() {
            connection = None;
        }
        if samples.send(Sample { kind, took: started.elapsed(), outcome }).await.is_err() {
            return;
        }
        tokio::time::sleep(order.pause).await;
    }
}

async fn request(
    to: SocketAddr,
    headers: HeaderMap,
    connection: &mut Option<SendRequest<Empty<Bytes>>>,
) -> anyhow::Result<Vec<Seen>> {
    let mut sender = match connection.take().filter(|sender| !sender.is_closed()) {
        Some(sender) => sender,
        None => connect(to).await?,
    };
    sender.ready().await?;
    let mut request = Request::get("/productpage").header(header::HOST, "productpage:9080").body(Empty::new())?;
    request.headers_mut().extend(headers);
    let response = sender.send_request(request).await.context("the sidecar did not answer")?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
    *connection = Some(sender);
    understand(head.status, &head.headers, &body)
}

async fn connect(to: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("cannot reach the sidecar {to}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Who answered productpage; or whose fault it was that it could not answer.
fn understand(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> anyhow::Result<Vec<Seen>> {
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        let words = headers.get("x-leno-error").map_or(body, |value| value.as_bytes());
        anyhow::bail!("{status}: {}", String::from_utf8_lossy(words).trim());
    };
    let mut seen = Vec::with_capacity(answer.calls.len());
    for call in answer.calls {
        match call.answer {
            Some(answer) if (200..300).contains(&call.status) => {
                seen.push(Seen { service: answer.name, version: answer.version, ms: call.ms });
            }
            _ => anyhow::bail!("{} answered {} to productpage: {}", call.url, call.status, call.error.trim()),
        }
    }
    Ok(seen)
}

/// A small GET for readiness: the status, or why there is none.
pub(super) async fn status_of(address: SocketAddr, path: &str) -> anyhow::Result<StatusCode> {
    let asking = async {
        let mut sender = connect(address).await?;
        let request = Request::get(path).header(header::HOST, address.to_string()).body(Empty::new())?;
        anyhow::Ok(sender.send_request(request).await?.status())
    };
    tokio::time::timeout(Duration::from_secs(2), asking).await.context("no answer within 2 s")?
}

/// A small GET for figures: the whole body as text.
pub(super) async fn text_of(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let asking = async {
        let mut sender = connect(address).await?;
        let request = Request::get(path).header(header::HOST, address.to_string()).body(Empty::new())?;
        let body = Limited::new(sender.send_request(request).await?.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
        anyhow::Ok(String::from_utf8_lossy(&body).into_owned())
    };
    tokio::time::timeout(Duration::from_secs(2), asking).await.context("no answer within 2 s")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_who_answered_productpage() {
        let body = serde_json::json!({
            "name": "productpage", "version": "v1", "method": "GET", "path": "/", "headers": {}, "body_bytes": 0,
            "calls": [{"url": "http://reviews:9080/reviews/0", "status": 200, "ms": 1.5, "answer": {
                "name": "reviews", "version": "v2", "method": "GET", "path": "/", "headers": {}, "body_bytes": 0, "calls": [],
            }}],
        });
        let seen = understand(StatusCode::OK, &HeaderMap::new(), body.to_string().as_bytes()).unwrap();
        assert_eq!(seen, [Seen { service: "reviews".into(), version: "v2".into(), ms: 1.5 }]);
    }

    #[test]
    fn a_failure_names_its_cause() {
        let mut headers = HeaderMap::new();
        headers.insert("x-leno-error", "UF; cannot connect".parse().unwrap());
        let error = understand(StatusCode::SERVICE_UNAVAILABLE, &headers, b"upstream connect error").unwrap_err();
        assert!(error.to_string().contains("UF; cannot connect"), "{error}");
    }
}
