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
mod seats;
mod shared;
mod stats;
mod tap;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::handover::{Gate, OwnSockets};

pub(crate) use answer::text as text_answer;
pub use answer::{AdminBody, Answer};
pub use drain::{Closing, ListenerDrain};
pub use logging::logging;
pub use routes::respond;
pub use shared::Shared;

use routes::Act;
use seats::{Seat, Seats};

/// Connections at a time on one admin address. Where there are more, the one that has been there longest and asks nothing
/// at the moment makes room: whoever holds connections keeps neither a kubelet nor a scraper out.
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
pub async fn open(
    sockets: &OwnSockets,
    address: SocketAddr,
    shared: Arc<Shared>,
    face: Face,
) -> anyhow::Result<SocketAddr> {
    let life = match face {
        Face::All | Face::Relay => OPERATORS_LIFE,
        Face::Metrics | Face::Ready => LIFE,
    };
    let answer = move |ends: Ends, request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { answer(&shared, face, ends, &request).await }
    };
    listen(sockets, address, &face.to_string(), life, answer).await
}

/// The same for whatever answers; a connection ends after `life`.
pub(crate) async fn listen<A, F>(
    sockets: &OwnSockets,
    address: SocketAddr,
    name: &str,
    life: Duration,
    answer: A,
) -> anyhow::Result<SocketAddr>
where
    A: Fn(Ends, Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Answer> + 'static,
{
    let listener = sockets
        .open(name, address)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {address} ({name}): {error}"))?;
    let real = listener.local_addr()?;
    tokio::task::spawn_local(accept(listener, sockets.gate(), life, answer));
    Ok(real)
}

/// The metrics of the proxy, made on this very thread.
pub(crate) fn own_metrics(shared: &Shared) -> Answer {
    stats::prometheus(shared)
}

async fn accept<A, F>(listener: Rc<TcpListener>, mut gate: watch::Receiver<Gate>, life: Duration, answer: A)
where
    A: Fn(Ends, Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Answer> + 'static,
{
    let mut seats = Seats::default();
    // An error means that the process is at its end.
    let _ = gate.wait_for(|gate| *gate != Gate::Shut).await;
    loop {
        let accepted = tokio::select! {
            biased;
            // Who waits in the socket's queue is answered by the next process.
            _ = gate.wait_for(|gate| *gate == Gate::Gone) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, caller)) => {
                let seat = tokio::select! {
                    biased;
                    // It has been accepted, but all seats are taken by requests: nobody will have read a word of it.
                    _ = gate.wait_for(|gate| *gate == Gate::Gone) => return,
                    seat = seats.take() => seat,
                };
                let answer = answer.clone();
                tokio::task::spawn_local(async move {
                    if let Ok(local) = stream.local_addr() {
                        serve(stream, Ends { caller, local }, life, answer, &seat).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on an admin address for the moment");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve<A, F>(stream: TcpStream, ends: Ends, life: Duration, answer: A, seat: &Seat)
where
    A: Fn(Ends, Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answered = answer(ends, request);
        async move {
            let _asks = seat.asks();
            Ok::<_, Infallible>(answered.await)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let served = pin!(tokio::time::timeout(life, served));
    let ended = tokio::select! {
        // First what it has to say: it may have begun to ask.
        biased;
        ended = served => ended,
        () = seat.is_wanted() => return,
    };
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
