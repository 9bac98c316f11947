//! The control plane's own HTTP: readiness, metrics, status, and one command. HTTP/1.1, in clear text.
//!
//! Probes and Prometheus come from other machines, and get `/ready` and `/metrics`. All else is for loopback (in a cluster
//! `kubectl port-forward`), unless the operator trusts the network: it tells all rules, and what passes through any proxy.
//! A web page that a person opens on this machine reaches loopback too: one under a name of its own is refused, and the
//! command wants a token that only who may read the state directory can make.
//!
//! | path | answer |
//! |---|---|
//! | `/ready` | 200 once rules are in force, else 503 with the reason |
//! | `/metrics` | Prometheus' text format |
//! | `/debug/status` | the JSON of `leno status -o json`; with `?resources` the version of each resource too |
//! | `/debug/places?rules=` | where rules stand (JSON array of `{kind, namespace, name, index}`): file and line of each |
//! | `/debug/ca` | the JSON of `leno ca status -o json` |
//! | `/logging` | how much this process logs; `POST /logging?level=debug` or `?MODULE=LEVEL` changes it |
//! | `/proxies`, `/proxies/NODE/PATH` | who is connected, and what a proxy answers: see [`crate::relay::http`] |
//! | `/figures` | what all proxies count: see [`crate::figures`] |
//! | `POST /ca/rotate` | takes the next step of a change of roots; with `?force` whatever speaks against it |

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use leno_config::ir::Origin;
use leno_proxy::admin::{self, guard};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use crate::board::{Board, CommandError};
use crate::ca::rotate::Insistence;
use crate::percent;
use crate::relay::http::Desk;

/// Connections that are served at a time; others wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// Requests that are answered at a time; others get 503.
const REQUESTS: usize = 32;
/// For the head of a request, and for its answer to be made.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way may end when the process stops.
const DRAIN: Duration = Duration::from_secs(1);

/// Who may ask for more than readiness and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trusted {
    /// Who calls from this machine.
    Loopback,
    /// Whoever reaches the port.
    Everybody,
}

impl Trusted {
    /// Whether a caller may ask this, or why not.
    fn admits<B>(self, caller: IpAddr, request: &Request<B>) -> Result<(), String> {
        if matches!(request.uri().path(), "/ready" | "/metrics") {
            return Ok(());
        }
        let on_loopback = caller.to_canonical().is_loopback();
        if self == Self::Loopback && !on_loopback {
            return Err(
                "from other machines there is /ready and /metrics; for all else ask from this one, in a cluster \
                        by `kubectl port-forward`\n"
                    .to_owned(),
            );
        }
        guard::may_read(request.headers(), on_loopback)
    }
}

/// Serves until `stop` resolves.
pub(crate) async fn serve(
    listener: TcpListener,
    board: Arc<Board>,
    desk: Desk,
    trusted: Trusted,
    stop: impl Future<Output = ()>,
) {
    let answers = ServiceBuilder::new().load_shed().concurrency_limit(REQUESTS).timeout(TIMEOUT).service_fn(
        move |request: Request<()>| {
            let board = Arc::clone(&board);
            // Status and metrics of thousands of proxies take a while to write down.
            async move { tokio::task::spawn_blocking(move || answer(&board, &request)).await }
        },
    );
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            permit = Arc::clone(&room).acquire_owned() => {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = &mut stop => break,
                };
                match accepted {
                    Ok((socket, caller)) => {
                        let (answers, desk) = (answers.clone(), desk.clone());
                        connections.spawn(async move {
                            let _permit = permit;
                            connection(socket, answers, desk, |request| trusted.admits(caller.ip(), request)).await;
                        });
                    }
                    // Out of descriptors, most likely: wait for some to come back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
            () = &mut stop => break,
        }
        while connections.try_join_next().is_some() {}
    }
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

/// One client. An error here is the client's: it left or spoke something else.
async fn connection<S>(
    socket: TcpStream,
    answers: S,
    desk: Desk,
    admits: impl Fn(&Request<Incoming>) -> Result<(), String>,
) where
    S: Service<Request<()>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (answers, desk) = (answers.clone(), desk.clone());
        let admitted = admits(&request);
        let request = request.map(drop);
        async move {
            if let Err(refusal) = admitted {
                return Ok(text(StatusCode::FORBIDDEN, refusal).map(Either::Left));
            }
            // Proxies have deadlines and bounds of their own: a tap lasts for as long as somebody looks.
            if Desk::answers(request.uri().path()) {
                return Ok::<_, Infallible>(desk.answer(&request).await);
            }
            let answered = answers.oneshot(request).await.unwrap_or_else(|_| {
                text(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time; try again\n".to_owned())
            });
            Ok(answered.map(Either::Left))
        }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

fn answer(board: &Board, request: &Request<()>) -> Response<Full<Bytes>> {
    if request.method() == Method::POST && request.uri().path() == "/ca/rotate" {
        return rotate(board, request);
    }
    if request.uri().path() == "/logging" {
        return logging(request);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood here\n".to_owned());
    }
    match request.uri().path() {
        "/ready" => match board.readiness() {
            Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        },
        "/metrics" => match board.metrics().text() {
            Ok(metrics) => with_type(StatusCode::OK, metrics, "text/plain; version=0.0.4; charset=utf-8"),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")),
        },
        "/debug/status" => json(StatusCode::OK, &board.status(asks_for(request, "resources"), Instant::now())),
        "/debug/places" => places(board, request),
        "/debug/ca" => json(StatusCode::OK, &board.authority(Instant::now())),
        "/" => text(
            StatusCode::OK,
            "/ready\n/metrics\n/debug/status\n/debug/status?resources\n/debug/ca\n/logging\n/proxies\n/figures\n"
                .to_owned(),
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            "there is: /ready, /metrics, /debug/status, /debug/ca, /logging, /proxies, /figures\n".to_owned(),
        ),
    }
}

/// Where rules stand, for `leno explain`.
fn places(board: &Board, request: &Request<()>) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("rules=")).map(percent::decoded).unwrap_or_default();
    match serde_json::from_str::<Vec<Origin>>(&asked) {
        Ok(rules) => {
            let places = board.places(&rules).into_iter();
            let places = places.map(|place| match place {
                Some(place) => serde_json::json!({ "file": place.file, "line": place.line }),
                None => serde_json::json!({ "file": null, "line": null }),
            });
            json(StatusCode::OK, &places.collect::<Vec<_>>())
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("rules= is no JSON array of rules: {error}\n")),
    }
}

/// The command of `leno ca rotate`.
fn rotate(board: &Board, request: &Request<()>) -> Response<Full<Bytes>> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
    let insistence = if asks_for(request, "force") { Insistence::Force } else { Insistence::No };
    match board.rotate(token, insistence, Instant::now()) {
        Ok(rotation) if rotation.done.is_some() => json(StatusCode::OK, &rotation),
        Ok(rotation) => json(StatusCode::CONFLICT, &rotation),
        Err(error @ CommandError::Token(_)) => text(StatusCode::UNAUTHORIZED, format!("{error}\n")),
        Err(error @ CommandError::Failed(_)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// The same page as a proxy's. A web page must not turn the log off.
fn logging(request: &Request<()>) -> Response<Full<Bytes>> {
    if request.method() == Method::POST
        && let Err(refusal) = guard::may_change(request.headers())
    {
        return text(StatusCode::FORBIDDEN, refusal);
    }
    let answer = admin::logging(request.method(), request.uri().query().unwrap_or_default());
    answer.map(|body| Full::new(body.into_whole().unwrap_or_default()))
}

fn asks_for(request: &Request<()>, key: &str) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| pair.split('=').next() == Some(key))
}

fn json<T: serde::Serialize>(status: StatusCode, value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(body) => with_type(status, body, "application/json"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer cannot be written: {error}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    with_type(status, body, "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, body: String, content_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_get_readiness_and_metrics_alone() {
        use Trusted::{Everybody, Loopback};
        let rows = [
            (Loopback, "10.0.0.9", "leno:15014", "/ready", true),
            (Loopback, "10.0.0.9", "leno:15014", "/metrics", true),
            (Loopback, "10.0.0.9", "leno:15014", "/debug/status", false),
            (Loopback, "10.0.0.9", "leno:15014", "/proxies/shop/logging", false),
            (Loopback, "10.0.0.9", "leno:15014", "/metrics/../debug/status", false),
            (Loopback, "127.0.0.1", "127.0.0.1:15014", "/debug/status", true),
            (Loopback, "::1", "localhost:15014", "/debug/status", true),
            (Loopback, "::ffff:127.0.0.1", "localhost:15014", "/debug/status", true),
            (Loopback, "::ffff:10.0.0.9", "localhost:15014", "/debug/status", false),
            // A page under a name that suddenly means this machine.
            (Loopback, "127.0.0.1", "evil.example:15014", "/debug/status", false),
            (Everybody, "10.0.0.9", "leno.leno-system.svc:15014", "/debug/status", true),
            (Everybody, "127.0.0.1", "evil.example:15014", "/debug/status", false),
        ];
        for (trusted, caller, host, path, expected) in rows {
            let request = Request::get(path).header(header::HOST, host).body(()).expect("a request");
            let admitted = trusted.admits(caller.parse().expect("an address"), &request);
            assert_eq!(admitted.is_ok(), expected, "{trusted:?} {caller} {host} {path}: {admitted:?}");
        }
    }
}
