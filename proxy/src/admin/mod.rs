//! What an operator asks a proxy.
//!
//! Loopback unless the bootstrap says otherwise; what changes something is POST only. Served from the control thread by
//! plain hyper: a web framework for twenty paths would double the program.
//!
//! * [`routes`]: which page answers which request, without any socket: [`respond`].
//! * [`guard`]: keeps web pages out. [`query`]: filters, read strictly. [`answer`]: texts and streams.
//! * [`dump`], [`clusters`], [`stats`], [`process`], [`logging`](mod@logging), [`drain`], [`tap`]: the pages. [`redact`]: what none of them shows.
//! * [`shared`]: what the control thread puts up for them to read.

mod answer;
pub mod clusters;
mod drain;
mod dump;
mod explain;
pub mod guard;
mod logging;
mod process;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod query;
mod redact;
mod routes;
mod shared;
mod stats;
mod tap;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub(crate) use answer::text as text_answer;
pub use answer::{AdminBody, Answer};
pub use drain::{Closing, ListenerDrain};
pub use logging::logging;
pub use routes::respond;
pub use shared::Shared;

use routes::Act;

/// Connections at a time on one admin address.
const CONNECTIONS: usize = 64;
/// For one connection that is open to others, all requests included; a scraper opens a new one.
pub(crate) const LIFE: Duration = Duration::from_secs(300);
/// For one of an operator, who may be tapping.
const OPERATORS_LIFE: Duration = tap::LONGEST.saturating_add(LIFE);
/// From a connection to the head of its request.
const HEAD: Duration = Duration::from_secs(10);
/// Bytes of the head of a request.
const MAX_HEAD: usize = 16 << 10;

/// By which way a request comes, and so what it may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// The admin address: everything.
    All,
    /// From afar, through the control plane: whatever only reads, and `POST /logging`. Nobody drains or ends a proxy from
    /// another machine.
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

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Who calls.
    pub caller: SocketAddr,
    /// The address that was called.
    pub local: SocketAddr,
}

/// Serves an address until the process ends; returns where it really listens.
pub async fn open(address: SocketAddr, shared: Arc<Shared>, face: Face) -> anyhow::Result<SocketAddr> {
    let life = match face {
        Face::All | Face::Relay => OPERATORS_LIFE,
        Face::Metrics | Face::Ready => LIFE,
    };
    let answer = move |ends: Ends, request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { answer(&shared, face, ends, &request).await }
    };
    listen(address, &face.to_string(), life, answer).await
}

/// The same for whatever answers; a connection ends after `life`.
pub(crate) async fn listen<A, F>(
    address: SocketAddr,
    name: &str,
    life: Duration,
    answer: A,
) -> anyhow::Result<SocketAddr>
where
    A: Fn(Ends, Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Answer> + 'static,
{
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {address} ({name}): {error}"))?;
    let real = listener.local_addr()?;
    tokio::task::spawn_local(accept(listener, life, answer));
    Ok(real)
}

/// The metrics of the proxy, made on this very thread.
pub(crate) fn own_metrics(shared: &Shared) -> Answer {
    stats::prometheus(shared)
}

async fn accept<A, F>(listener: TcpListener, life: Duration, answer: A)
where
    A: Fn(Ends, Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Answer> + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, caller)) => {
                let answer = answer.clone();
                tokio::task::spawn_local(async move {
                    if let Ok(local) = stream.local_addr() {
                        serve(stream, Ends { caller, local }, life, answer).await;
                    }
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

async fn serve<A, F>(stream: TcpStream, ends: Ends, life: Duration, answer: A)
where
    A: Fn(Ends, Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answered = answer(ends, request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::time::timeout(life, pin!(served)).await;
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "an admin connection ended");
    }
}

async fn answer(shared: &Arc<Shared>, face: Face, ends: Ends, request: &Request<Incoming>) -> Answer {
    let on_loopback = ends.local.ip().to_canonical().is_loopback();
    let allowed = match (face, routes::act(request.method())) {
        // Anybody may know these, by whatever name: a kubelet, a scraper.
        (Face::Metrics | Face::Ready, _) => Ok(()),
        (Face::All | Face::Relay, Act::Read) => guard::may_read(request.headers(), on_loopback),
        (Face::All | Face::Relay, Act::Change) => guard::may_change(request.headers()),
    };
    if let Err(refusal) = allowed {
        return answer::text(StatusCode::FORBIDDEN, refusal);
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    respond(shared, face, request.method(), target).await
}
