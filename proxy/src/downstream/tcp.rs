//! Bytes both ways.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leno_config::ir::{ListenerProtocol, MtlsMode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cluster::balance::PickContext;
use crate::cluster::limits::{Limit, Permit};
use crate::cluster::outcome::Outcome;
use crate::cluster::{EndpointState, InFlight};
use crate::policy::{enforce, sticky};
use crate::state::snapshot::Handler;
use crate::tls::client::{Encryption, Inside, Reached};
use crate::tls::peer::Peer;
use crate::tls::transport::Transport;
use crate::upstream::connect::{ConnectError, connect};
use crate::worker::{Worker, WorkerCluster};

use super::admit::Verified;
use super::detect::SILENCE;
use super::{Arrival, Connection, admit, draining};

/// Endpoints that are tried when connecting fails.
const MAX_ENDPOINTS: usize = 3;
/// One direction's buffer.
const BUFFER: usize = 16 * 1024;

/// A connection to the app or to another workload.
struct Upstream {
    stream: Transport,
    peer: Option<Peer>,
    idle: Option<Duration>,
    /// However busy it is.
    longest: Option<Duration>,
    /// It counts at its endpoint and in its cluster.
    in_use: (InFlight, Permit),
}

pub(super) async fn serve(arrival: Arrival, mode: MtlsMode, stream: TcpStream) {
    match mode {
        MtlsMode::Disable => {
            let Some(connection) = let_in(arrival, None) else { return };
            if let Some(upstream) = open(&connection).await {
                pass(&connection, stream, upstream).await;
            }
        }
        MtlsMode::Strict => {
            let Some((stream, verified)) = admit::tcp_strict(&arrival, stream).await else { return };
            let Some(connection) = let_in(arrival, Some(verified)) else { return };
            if let Some(upstream) = open(&connection).await {
                pass(&connection, stream, upstream).await;
            }
        }
        MtlsMode::Permissive => either(arrival, stream).await,
    }
}

/// Lets a caller in whom policy allows, before anybody is called for it.
fn let_in(arrival: Arrival, verified: Option<Box<Verified>>) -> Option<Rc<Connection>> {
    let connection = arrival.enter(verified);
    // One long exchange, as far as the callers' patience goes: what rests too long is the relay's business.
    connection.life.begin();
    enforce::admit(&connection).then_some(connection)
}

/// Who speaks first decides. A caller in clear text may wait for the app to greet it, as MySQL does, so the app is called
/// before a byte has come, if policy would let such a caller in; a caller with TLS speaks at once.
async fn either(arrival: Arrival, stream: TcpStream) {
    let plain = arrival.in_clear_text();
    let greeted = enforce::may_stay(&plain, &arrival.listener.view());
    let mut opening = pin!(open(&plain));
    let mut upstream: Option<Upstream> = None;
    loop {
        tokio::select! {
            biased;
            first = first_byte(&stream) => match first {
                Some(_) => break,
                None => return,
            },
            opened = opening.as_mut(), if greeted && upstream.is_none() => match opened {
                Some(opened) => upstream = Some(opened),
                None => return,
            },
            // Nobody greets it, so that it has to speak.
            () = tokio::time::sleep(SILENCE), if !greeted => return drop(let_in(arrival, None)),
            () = greeting(upstream.as_ref()), if upstream.is_some() => {
                let (Some(upstream), Some(connection)) = (upstream, let_in(arrival, None)) else { return };
                return pass(&connection, stream, upstream).await;
            }
        }
    }
    let Some((stream, verified)) = admit::tcp_either(&arrival, stream).await else { return };
    let is_plain = verified.is_none();
    let Some(connection) = let_in(arrival, verified) else { return };
    let upstream = match upstream.filter(|_| is_plain) {
        Some(upstream) => Some(upstream),
        None => open(&connection).await,
    };
    if let Some(upstream) = upstream {
        pass(&connection, stream, upstream).await;
    }
}

/// The first byte of the caller, left where it is; `None`: it is gone.
async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1) => first.first().copied(),
        Ok(_) | Err(_) => None,
    }
}

/// Ready when the app has said something, or left.
async fn greeting(upstream: Option<&Upstream>) {
    match upstream.map(|upstream| &upstream.stream) {
        // An error is found again by whoever reads.
        Some(Transport::Plain(stream)) => drop(stream.readable().await),
        // The app speaks clear text; were it otherwise, the caller would have to speak first.
        Some(Transport::Tls(_)) | None => std::future::pending().await,
    }
}

async fn pass(connection: &Connection, stream: impl AsyncRead + AsyncWrite, upstream: Upstream) {
    if let Some(endpoint) = upstream.peer.map(Box::new) {
        if connection.worker.tls.has_revoked_server(&endpoint) {
            return;
        }
        // There is none before: a connection is passed on once.
        let _ = connection.endpoint.set(endpoint);
    }
    let relay = relay(stream, upstream.stream, upstream.idle);
    tokio::select! {
        ended = relay => {
            if let Err(error) = ended {
                tracing::debug!(peer = %connection.caller, %error, "the connection ended");
            }
        }
        () = connection.life.overdue() => {}
        () = over(upstream.longest) => {}
        // Nobody can be asked to finish in TCP: what is under way goes on until the process's drain time is over.
        () = async { draining(connection).await; std::future::pending().await } => {}
    }
    drop(upstream.in_use);
}

/// When a connection has lasted for as long as it may.
async fn over(longest: Option<Duration>) {
    match longest {
        Some(longest) => tokio::time::sleep(longest).await,
        None => std::future::pending().await,
    }
}

/// A connection to an endpoint of the listener's cluster. `None`, too, when so many are open (Envoy: nobody waits here,
/// since nobody would ever give one back).
async fn open(connection: &Connection) -> Option<Upstream> {
    let view = connection.listener.view();
    let (Handler::Tcp(targets), ListenerProtocol::Tcp(route)) =
        (&view.listener.handler, &view.listener.config.protocol)
    else {
        return None;
    };
    let worker = &connection.worker;
    let cluster = targets.choose(&worker.random).and_then(|chosen| view.view.clusters.get(chosen.cluster?))?;
    let permit = cluster.admit(Limit::Connections).ok()?;
    let hash = route.hashes_source.then(|| sticky::of_address(connection.caller.ip()));
    let mut tried = Vec::new();
    while tried.len() < MAX_ENDPOINTS {
        let context = PickContext { tried: &tried, ..PickContext::first(&worker.random, hash) };
        let picked = cluster.pick(&context)?;
        let endpoint = Arc::clone(&picked.endpoint);
        if tried.iter().any(|tried| Arc::ptr_eq(tried, &endpoint)) {
            return None;
        }
        if view.view.shared.is_own_outbound(endpoint.address) {
            tracing::warn!(address = %endpoint.address, "refused to connect to an outbound listener of this very proxy");
            return None;
        }
        let in_flight = picked.begin();
        let stats = &cluster.shared.stats;
        match reach(worker, cluster, &endpoint).await {
            Ok(Reached { stream, peer, security }) => {
                cluster.report(&in_flight, Outcome::Connected);
                stats.opened(security.is_some());
                if let Some(security) = security {
                    worker.tls.agreed(security);
                }
                let (idle, longest) = (route.idle_timeout, cluster.shared.config.max_connection_duration);
                return Some(Upstream { stream, peer, idle, longest, in_use: (in_flight, permit) });
            }
            Err(error) => {
                cluster.report(&in_flight, Outcome::of_connect(&error));
                stats.connect_failures.fetch_add(1, Ordering::Relaxed);
                if worker.quiet.allows() {
                    let cluster = &cluster.shared.config.name;
                    tracing::info!(%cluster, address = %endpoint.address, "cannot connect: {error}");
                }
                tried.push(Arc::clone(&endpoint));
            }
        }
    }
    None
}

async fn reach(worker: &Worker, cluster: &WorkerCluster, endpoint: &EndpointState) -> Result<Reached, ConnectError> {
    let config = &cluster.shared.config;
    let encryption = Encryption::new(&config.tls, &endpoint.security, cluster.shared.dns_name());
    let stream = connect(endpoint.address, config.connect_timeout, config.tcp_keepalive.as_ref()).await?;
    Ok(worker.tls.connect(stream, &encryption, Inside::Bytes).await?)
}

/// Copies both ways until both have ended, or neither has moved a byte for `idle`. The end of one direction is passed
/// on and the other goes on (half-close).
pub(super) async fn relay<A, B>(one: A, other: B, idle: Option<Duration>) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let last = std::cell::Cell::new(Instant::now());
    let (mut one_read, mut one_write) = tokio::io::split(one);
    let (mut other_read, mut other_write) = tokio::io::split(other);
    let both = async {
        let there = copy(&mut one_read, &mut other_write, &last);
        let back = copy(&mut other_read, &mut one_write, &last);
        tokio::try_join!(there, back).map(|_| ())
    };
    let Some(idle) = idle else { return both.await };
    tokio::select! {
        ended = both => ended,
        () = silence(&last, idle) => Err(io::Error::new(io::ErrorKind::TimedOut, "no byte for the idle timeout")),
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    last: &std::cell::Cell<Instant>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        last.set(Instant::now());
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
    }
}

async fn silence(last: &std::cell::Cell<Instant>, idle: Duration) {
    loop {
        let end = last.get() + idle;
        if end <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}
