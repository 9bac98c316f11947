//! What an operator asks a proxy.
//!
//! Loopback unless the bootstrap says otherwise; what changes something is POST only. Served from the control thread by
//! plain hyper: a web framework for ten paths would double the program.

pub mod clusters;
mod dump;
mod shared;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Encoder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub use shared::Shared;

use crate::{cluster, identity};

/// Connections at a time on one admin address.
const CONNECTIONS: usize = 64;
/// For one connection, all requests included; a scraper opens a new one.
const LIFE: Duration = Duration::from_secs(300);
/// From a connection to the head of its request.
const HEAD: Duration = Duration::from_secs(10);

/// What an address answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// Everything.
    All,
    /// What an operator may ask from another machine, through the control plane.
    Relay,
    /// `/stats/prometheus` and `/metrics`.
    Metrics,
    /// `/ready` and `/healthz/ready`.
    Ready,
}

impl fmt::Display for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "admin",
            Self::Relay => "relayed admin",
            Self::Metrics => "metrics",
            Self::Ready => "readiness",
        })
    }
}

/// Its body.
pub type AdminBody = Full<Bytes>;
/// An answer.
pub type Answer = Response<AdminBody>;

/// Serves an address until the process ends; returns where it really listens.
pub async fn open(address: SocketAddr, shared: Arc<Shared>, face: Face) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {address} ({face}): {error}"))?;
    let real = listener.local_addr()?;
    tokio::task::spawn_local(accept(listener, shared, face));
    Ok(real)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, face: Face) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::task::spawn_local(async move {
                    serve(stream, shared, face).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on an admin address for the moment");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, face: Face) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(&shared, face, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::time::timeout(LIFE, pin!(served)).await;
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "an admin connection ended");
    }
}

const HELP: &str = "\
leno-proxy admin
  GET  /ready              200 when it can serve, 503 with the reason when it cannot
  GET  /config_dump        what is in force, with versions and what is not enforced (JSON)
  GET  /clusters           clusters, their limits and endpoints, breakers and health (?format=json)
  GET  /certs              own certificate, trusted roots, renewals (JSON)
  GET  /listeners          listeners and their addresses
  GET  /stats/prometheus   metrics
  GET  /figures            counters of requests and connections since the start (JSON)
  GET  /server_info        version, node, state (JSON)
  POST /quitquitquit       drain and exit
";

fn answer(shared: &Shared, face: Face, request: &Request<Incoming>) -> Answer {
    let uri = request.uri();
    page(shared, face, request.method(), uri.path(), uri.query().unwrap_or_default())
}

/// The answer to a request that comes by `face`, without any socket.
pub async fn respond(shared: &Arc<Shared>, face: Face, method: &Method, target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    page(shared, face, method, path, query)
}

fn page(shared: &Shared, face: Face, method: &Method, path: &str, query: &str) -> Answer {
    let wanted = match face {
        Face::All | Face::Relay => true,
        Face::Metrics => matches!(path, "/stats/prometheus" | "/metrics"),
        Face::Ready => matches!(path, "/ready" | "/healthz/ready"),
    };
    if !wanted {
        return text(StatusCode::NOT_FOUND, "not here\n");
    }
    match (method, path) {
        (&Method::GET | &Method::HEAD, path) => get(shared, path, query),
        (&Method::POST, _) if face == Face::Relay => text(StatusCode::FORBIDDEN, "not from another machine\n"),
        (&Method::POST, "/quitquitquit") => {
            shared.quit();
            text(StatusCode::OK, "OK\n")
        }
        (&Method::POST, _) => text(StatusCode::NOT_FOUND, HELP),
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "use GET, or POST for what changes something\n"),
    }
}

fn get(shared: &Shared, path: &str, query: &str) -> Answer {
    match path {
        "/" | "/help" => text(StatusCode::OK, HELP),
        "/ready" | "/healthz/ready" => match shared.why_not_ready() {
            None => text(StatusCode::OK, "LIVE\n"),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        "/config_dump" => json(&dump::config(shared)),
        "/clusters" if query == "format=json" => json(&serde_json::json!(clusters::status(&shared.snapshot()))),
        "/clusters" => text(StatusCode::OK, clusters::text(&shared.snapshot())),
        "/certs" => json(&identity::certs(&shared.keyring, SystemTime::now())),
        "/listeners" => text(StatusCode::OK, dump::listeners(shared)),
        "/figures" => json(&serde_json::json!(shared.telemetry.figures(SystemTime::now()))),
        "/server_info" => json(&dump::server_info(shared)),
        "/stats/prometheus" | "/metrics" => metrics(shared),
        "/quitquitquit" => text(StatusCode::METHOD_NOT_ALLOWED, "use POST: it changes something\n"),
        _ => text(StatusCode::NOT_FOUND, HELP),
    }
}

fn metrics(shared: &Shared) -> Answer {
    let mut encoded = Vec::new();
    let mut families = shared.registry.gather();
    families.extend(cluster::metrics::collected(shared.snapshot().clusters.iter().map(|cluster| &**cluster)));
    match prometheus::TextEncoder::new().encode(&families, &mut encoded) {
        Ok(()) => with_type(StatusCode::OK, prometheus::TEXT_FORMAT, encoded),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn json(value: &serde_json::Value) -> Answer {
    with_type(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
