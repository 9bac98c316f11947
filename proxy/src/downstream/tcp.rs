//! Bytes both ways.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use leno_config::ir::MtlsMode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::attempt::choice::guard;
use crate::cluster::balance::PickContext;
use crate::cluster::limits::{Limit, Permit};
use crate::cluster::outcome::Outcome;
use crate::cluster::{EndpointState, InFlight};
use crate::error::Flag;
use crate::policy::{enforce, sticky};
use crate::telemetry::tcp::{self, TcpRecord, Traffic};
use crate::tls::client::{Encryption, Inside, Reached};
use crate::tls::transport::{Prefixed, Transport};
use crate::upstream::connect::ConnectError;
use crate::upstream::opened::Noted;
use crate::worker::{Worker, WorkerCluster};

use super::{Arrival, Carries, Connection, admit, draining, undeclared};

/// Endpoints that are tried when connecting fails.
const MAX_ENDPOINTS: usize = 3;
/// What is taken of an endpoint's first words at a time.
const GREETING: usize = 2048;
/// One direction's buffer.
const BUFFER: usize = 16 * 1024;

/// A connection to the app or to another workload.
pub(super) struct Upstream {
    stream: Prefixed<Transport>,
    to: tcp::Upstream,
    idle: Option<Duration>,
    /// However busy it is.
    longest: Option<Duration>,
    /// It counts at its endpoint and in its cluster.
    in_use: (InFlight, Permit),
    /// It is remembered, for the loop guard.
    noted: Option<Box<Noted>>,
}

/// Why there is no connection, and how far it came.
pub(super) struct NoUpstream {
    flag: Flag,
    to: tcp::Upstream,
    error: String,
}

impl NoUpstream {
    fn new(flag: Flag, error: impl Into<String>) -> Self {
        Self { flag, to: tcp::Upstream::default(), error: error.into() }
    }

    fn toward(self, cluster: &WorkerCluster, endpoint: Option<&Arc<EndpointState>>) -> Self {
        let to = tcp::Upstream {
            cluster: Some(Arc::clone(&cluster.shared)),
            endpoint: endpoint.cloned(),
            ..tcp::Upstream::default()
        };
        Self { to, ..self }
    }
}

pub(super) async fn serve(arrival: Arrival, mode: MtlsMode, stream: TcpStream) {
    match mode {
        MtlsMode::Disable => {
            let Some(record) = arrival.enter(None).and_then(let_in) else { return };
            let opened = open(record.connection()).await;
            pass(record, stream, opened).await;
        }
        MtlsMode::Strict => {
            let stream = Prefixed::new(Bytes::new(), stream);
            let Some((stream, verified)) = admit::tcp_strict(&arrival, stream).await else { return };
            let Some(connection) = arrival.enter(Some(verified)) else { return };
            serve_admitted(connection, stream).await;
        }
        MtlsMode::Permissive => undeclared::serve(arrival, mode, stream).await,
    }
}

/// Serves a caller whose TLS has been ended.
pub(super) async fn serve_admitted(connection: Rc<Connection>, stream: Transport) {
    let Some(record) = let_in(connection) else { return };
    let opened = open(record.connection()).await;
    pass(record, stream, opened).await;
}

/// Lets a caller in whom policy allows, before anybody is called for it who has not been yet.
pub(super) fn let_in(connection: Rc<Connection>) -> Option<TcpRecord> {
    connection.carries.set(Carries::Bytes);
    // One long exchange, as far as the callers' patience goes: what rests too long is the relay's business.
    connection.life.begin();
    let is_allowed = enforce::admit(&connection);
    let mut record = TcpRecord::begin(connection);
    if !is_allowed {
        record.failed(Flag::UAEX, "the authorization policies do not allow this; the proxy's log says which");
    }
    is_allowed.then_some(record)
}

impl Upstream {
    /// Ready when the endpoint has said something, or has ended. What it said is not lost.
    pub(super) async fn hear(&mut self) {
        let mut said = Vec::with_capacity(GREETING);
        // An error is found again by whoever reads next.
        let _ = self.stream.read_buf(&mut said).await;
        self.stream.unread(said.into());
    }

    /// Lets the pool of its endpoint have the connection, where requests may use it.
    pub(super) async fn keep_for_requests(self, worker: &Worker) {
        let Self { stream, to, in_use: (in_flight, permit), noted, .. } = self;
        let is_plain = to.security.is_none();
        if let (Some(stream), true) = (stream.into_inner(), is_plain) {
            let cluster = Rc::clone(permit.cluster());
            drop(permit);
            cluster.keep_for_requests(worker, in_flight.endpoint(), stream, noted).await;
        }
    }
}

/// Passes bytes both ways, if there is somebody to pass them to.
pub(super) async fn pass(
    mut record: TcpRecord,
    stream: impl AsyncRead + AsyncWrite,
    opened: Result<Upstream, NoUpstream>,
) {
    let Upstream { stream: upstream, to, idle, longest, in_use, noted } = match opened {
        Ok(upstream) => upstream,
        Err(NoUpstream { flag, to, error }) => {
            record.leads_to(to, false);
            return record.failed(flag, error);
        }
    };
    let connection = Rc::clone(record.connection());
    if let Some(endpoint) = &to.peer {
        if connection.worker.tls.has_revoked_server(endpoint) {
            record.leads_to(to, false);
            return record.failed(Flag::UF, "the certificate of the endpoint has been revoked");
        }
        // There is none before: a connection is passed on once.
        let _ = connection.endpoint.set(endpoint.clone());
    }
    record.leads_to(to, true);
    let traffic = Rc::clone(record.traffic());
    let relay = relay(stream, upstream, idle, &traffic);
    tokio::select! {
        ended = relay => {
            if let Err(Broken { flag, error }) = ended {
                tracing::debug!(peer = %connection.caller, %error, "the connection ended");
                record.failed(flag, error.to_string());
            }
        }
        () = connection.life.overdue() => match connection.life.is_given_up() {
            true => record.failed(Flag::LR, "the proxy's drain time is over"),
            false => record.failed(Flag::UAEX, "policies, roots or revocations have changed and no longer allow this"),
        },
        () = over(longest) => record.failed(Flag::DT, "the connection lasted for as long as it may"),
        // Nobody can be asked to finish in TCP: what is under way goes on until the process's drain time is over.
        () = async { draining(&connection).await; std::future::pending().await } => {}
    }
    drop((in_use, noted));
}

/// When a connection has lasted for as long as it may.
async fn over(longest: Option<Duration>) {
    match longest {
        Some(longest) => tokio::time::sleep(longest).await,
        None => std::future::pending().await,
    }
}

/// A connection to an endpoint of the listener's cluster. None, too, when so many are open (Envoy: nobody waits here,
/// since nobody would ever give one back).
pub(super) async fn open(connection: &Connection) -> Result<Upstream, NoUpstream> {
    let view = connection.listener.view();
    let Some((targets, route)) = view.listener.bytes(connection.way.get()) else {
        return Err(NoUpstream::new(Flag::NR, "this port is for HTTP now"));
    };
    let worker = &connection.worker;
    let cluster = targets
        .choose(&worker.random)
        .and_then(|chosen| view.view.clusters.get(chosen.cluster?))
        .ok_or_else(|| NoUpstream::new(Flag::NC, "the listener leads to a cluster that is not in force"))?;
    let no_endpoint = || NoUpstream::new(Flag::UH, "the cluster has no healthy endpoint").toward(cluster, None);
    let permit = cluster
        .admit(Limit::Connections)
        .map_err(|overflow| NoUpstream::new(Flag::UO, overflow.to_string()).toward(cluster, None))?;
    let hash = route.hashes_source.then(|| sticky::of_address(connection.caller.ip()));
    let mut tried = Vec::new();
    let mut last = None;
    while tried.len() < MAX_ENDPOINTS {
        let context = PickContext { tried: &tried, ..PickContext::first(&worker.random, hash) };
        let Some(picked) = cluster.pick(&context, connection.original.as_ref()) else { break };
        let endpoint = Arc::clone(&picked.endpoint);
        if tried.iter().any(|tried| Arc::ptr_eq(tried, &endpoint)) {
            break;
        }
        if let Some(reason) = guard(worker, &view.view, &cluster.shared.config.discovery, endpoint.address) {
            if worker.quiet.allows() {
                tracing::warn!(address = %endpoint.address, "refused to connect: {reason}");
            }
            return Err(NoUpstream::new(Flag::LR, reason).toward(cluster, Some(&endpoint)));
        }
        let in_flight = picked.begin();
        match reach(worker, cluster, &endpoint).await {
            Ok((Reached { stream, peer, security, local }, noted)) => {
                cluster.report(&in_flight, Outcome::Connected);
                cluster.shared.stats.opened(security.is_some());
                if let Some(security) = security {
                    worker.tls.agreed(security);
                }
                let (idle, longest) = (route.idle_timeout, cluster.shared.config.max_connection_duration);
                let (endpoint, peer) = (Some(endpoint), peer.map(Box::new));
                let to = tcp::Upstream { cluster: Some(Arc::clone(&cluster.shared)), endpoint, peer, security, local };
                let stream = Prefixed::new(Bytes::new(), stream);
                return Ok(Upstream { stream, to, idle, longest, in_use: (in_flight, permit), noted });
            }
            Err(error) => {
                cluster.report(&in_flight, Outcome::of_connect(&error));
                cluster.shared.stats.connect_failures.fetch_add(1, Ordering::Relaxed);
                if worker.quiet.allows() {
                    let cluster = &cluster.shared.config.name;
                    tracing::info!(%cluster, address = %endpoint.address, "cannot connect: {error}");
                }
                last = Some(NoUpstream::new(Flag::UF, error.to_string()).toward(cluster, Some(&endpoint)));
                tried.push(endpoint);
            }
        }
    }
    Err(last.unwrap_or_else(no_endpoint))
}

/// How often an endpoint is called again that answers TLS with a greeting. A PERMISSIVE port gives its app's greeting to
/// whoever is silent ([`super::first_words`]), and so to a sidecar on a machine that is busy just between its SYN and its
/// ClientHello, as a sidecar is at the first TLS of its life.
const GREETINGS: u32 = 8;
/// Before it is called again for the first time; then twice as long each time, 255 ms in all: a machine that is busy now
/// is busy in the next instant, too.
const BREATH: Duration = Duration::from_millis(1);

async fn reach(
    worker: &Worker,
    cluster: &WorkerCluster,
    endpoint: &EndpointState,
) -> Result<(Reached, Option<Box<Noted>>), ConnectError> {
    let config = &cluster.shared.config;
    let encryption = Encryption::new(&config.tls, &endpoint.security, cluster.shared.dns_name());
    let mut again = 0;
    loop {
        let (stream, noted) = cluster.dial(worker).to(endpoint.address).await?;
        match worker.tls.connect(stream, &encryption, Inside::Bytes).await {
            // Nothing of the caller's has been sent.
            Err(error) if error.is_no_tls() && again < GREETINGS => {
                tokio::time::sleep(BREATH * (1 << again)).await;
                again += 1;
            }
            reached => return Ok((reached?, noted)),
        }
    }
}

/// Why bytes no longer pass.
#[derive(Debug)]
pub(super) struct Broken {
    /// Whose doing it was: `DC` the caller's, `UC` the endpoint's, `SI` nobody's.
    pub(super) flag: Flag,
    pub(super) error: io::Error,
}

/// Copies both ways until both have ended, or neither has moved a byte for `idle`. The end of one direction is passed
/// on and the other goes on (half-close). `one` is the caller; what passes is counted in `traffic`.
pub(super) async fn relay<A, B>(one: A, other: B, idle: Option<Duration>, traffic: &Traffic) -> Result<(), Broken>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let last = std::cell::Cell::new(Instant::now());
    let (mut one_read, mut one_write) = tokio::io::split(one);
    let (mut other_read, mut other_write) = tokio::io::split(other);
    let both = async {
        let (caller, endpoint) = (Flag::DC, Flag::UC);
        let there = copy((&mut one_read, caller), (&mut other_write, endpoint), &last, |bytes| traffic.receive(bytes));
        let back = copy((&mut other_read, endpoint), (&mut one_write, caller), &last, |bytes| traffic.send(bytes));
        tokio::try_join!(there, back).map(|_| ())
    };
    let Some(idle) = idle else { return both.await };
    tokio::select! {
        ended = both => ended,
        () = silence(&last, idle) => {
            let error = io::Error::new(io::ErrorKind::TimedOut, "no byte for the idle timeout");
            Err(Broken { flag: Flag::SI, error })
        }
    }
}

/// Copies one way; each end comes with the flag for when it breaks. `count` is told what has been passed on.
async fn copy(
    (from, from_flag): (&mut (impl AsyncRead + Unpin), Flag),
    (to, to_flag): (&mut (impl AsyncWrite + Unpin), Flag),
    last: &std::cell::Cell<Instant>,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await.map_err(|error| Broken { flag: from_flag, error })?;
        last.set(Instant::now());
        if read == 0 {
            return to.shutdown().await.map_err(|error| Broken { flag: to_flag, error });
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await.map_err(|error| Broken { flag: to_flag, error })?;
        count(read);
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
