//! Connections to one endpoint, kept by one worker.
//!
//! HTTP/1.1 connections carry one request at a time and wait on a stack, the most recently used on top: it is warm, and
//! the others can go. HTTP/2 connections are shared up to the peer's stream limit. Where the cluster limits connections,
//! requests wait in `line` for one, at most for the connect timeout; a worker without a connection may always open one.
//!
//! A pool belongs to one endpoint in one role: whom its connections have to show, and how they are encrypted, never
//! changes within a pool. Each of its connections speaks for the own identity with which it was opened: when that becomes
//! another, or a root changes, what is idle and no longer good is closed, and what is in use carries nothing new; a
//! connection to a peer who has been revoked ends with everything on it.
//!
//! A connection comes back when its response has been read to the end and all of its request had come by then; if that is
//! still being written, it waits for it on its own, for a limited time. After an early answer, or one that is not to be
//! trusted ([`crate::sanitize`]), it is closed: what was left over could be taken for the next request or answer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use leno_config::ir::TcpKeepalive;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::cluster::ClusterStats;
use crate::cluster::limits::{Limit, Overflow};
use crate::nest::{Nest, Nested};
use crate::rarely::RarelyRead;
use crate::telemetry::LinkName;
use crate::telemetry::place::Place;
use crate::tls::Sessions;
use crate::tls::client::{Encryption, Inside, Reached};
use crate::tls::peer::Peer;
use crate::tls::transport::Transport;

use super::connect::{ConnectError, Dial, NoConnection};
use super::h2_windows;
use super::line::{Counted, Line, Prelude, Slot, Turn};
use super::opened::{Noted, Opened};

/// Idle connections that one worker keeps to one endpoint.
const MAX_IDLE: usize = 1024;
/// How long a connection whose response has ended may go on writing its request before it is given up.
const RECLAIM: Duration = Duration::from_secs(30);
/// The HTTP/2 preface and SETTINGS of the peer.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How connections of a pool are opened and how long they live; from the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    /// For the TCP handshake.
    pub connect_timeout: Duration,
    /// An idle connection is closed after it.
    pub idle_timeout: Option<Duration>,
    /// A connection is closed after so many requests.
    pub max_requests: Option<u32>,
    /// A connection takes no new request after it.
    pub max_duration: Option<Duration>,
    /// Requests at a time on one HTTP/2 connection, if the endpoint allows more.
    pub max_streams: Option<u32>,
    /// TCP keep-alive probes.
    pub keepalive: Option<TcpKeepalive>,
    /// From where they come: the one of the endpoint's family, else as the system chooses.
    pub sources: Vec<IpAddr>,
}

/// Connections to one endpoint.
#[derive(Debug)]
pub struct Pool {
    place: Place,
    encryption: Encryption,
    tls: Rc<Sessions>,
    opened: Arc<Opened>,
    settings: PoolSettings,
    stats: Arc<ClusterStats>,
    line: Rc<Line<Idle>>,
    idle: RefCell<Vec<Idle>>,
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
    /// What is to end with a revocation of the peer.
    revocable: RefCell<Vec<Revocable>>,
    /// Only one HTTP/2 connection is opened at a time: those who wait share it.
    opening: tokio::sync::Mutex<()>,
    /// The endpoint is gone: nothing comes back.
    closed: Cell<bool>,
}

/// A task that moves bytes to and from a verified peer.
#[derive(Debug)]
struct Revocable {
    peer: Rc<Peer>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Idle {
    connection: Http1,
    requests: u32,
    since: Instant,
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    peer: Option<Rc<Peer>>,
    /// Where it begins. A lease lies in every answer's body, so this is kept small.
    local: Option<Box<SocketAddr>>,
    /// As whom its requests are counted.
    link: LinkName,
    opened: Instant,
    /// What may come before the answer.
    prelude: Arc<Prelude>,
}

/// An HTTP/2 connection.
#[derive(Debug)]
pub struct Multiplexed {
    sender: http2::SendRequest<RequestBody>,
    peer: Option<Rc<Peer>>,
    /// Where it begins. A lease lies in every answer's body, so this is kept small.
    local: Option<Box<SocketAddr>>,
    /// As whom its requests are counted.
    link: LinkName,
    streams: Cell<usize>,
    max_streams: Rc<Cell<usize>>,
    requests: Cell<u32>,
    /// When the last stream ended.
    since: Cell<Instant>,
    opened: Instant,
    line: Rc<Line<Idle>>,
}

/// A connection on which nothing has been said yet.
struct Fresh {
    stream: Counted,
    peer: Option<Rc<Peer>>,
    link: LinkName,
    local: Option<Box<SocketAddr>>,
}

/// A connection that can carry a request now.
#[derive(Debug)]
pub enum Lease {
    /// An HTTP/1.1 connection of its own.
    Http1(Http1Lease),
    /// One stream of an HTTP/2 connection.
    Http2(Http2Lease),
}

/// An HTTP/1.1 connection taken from the pool.
#[derive(Debug)]
pub struct Http1Lease {
    pool: Rc<Pool>,
    connection: Http1,
    requests: u32,
}

/// One stream of an HTTP/2 connection.
#[derive(Debug)]
pub struct Http2Lease {
    connection: Rc<Multiplexed>,
}

impl Pool {
    /// No connection yet.
    pub fn new(
        place: Place,
        encryption: Encryption,
        settings: PoolSettings,
        stats: Arc<ClusterStats>,
        tls: Rc<Sessions>,
        opened: Arc<Opened>,
    ) -> Self {
        Self {
            place,
            encryption,
            tls,
            opened,
            settings,
            line: Rc::new(Line::new(Arc::clone(&stats))),
            stats,
            idle: RefCell::default(),
            multiplexed: RefCell::default(),
            revocable: RefCell::default(),
            opening: tokio::sync::Mutex::new(()),
            closed: Cell::new(false),
        }
    }

    /// Where its connections lead.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// How its connections are encrypted.
    pub fn encryption(&self) -> &Encryption {
        &self.encryption
    }

    /// How its connections are opened and how long they live.
    pub fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    /// Connections that wait for a request.
    pub fn idle(&self) -> usize {
        self.idle.borrow().len() + self.multiplexed.borrow().len()
    }

    /// An idle HTTP/1.1 connection, if there is one that can carry a request now.
    pub fn idle_http1(self: &Rc<Self>) -> Option<Http1Lease> {
        let Idle { connection, requests, .. } = self.take_idle()?;
        Some(Http1Lease { pool: Rc::clone(self), connection, requests })
    }

    /// A new HTTP/1.1 connection, if the cluster with `allowed` connections has room; else the next one that is given
    /// back.
    pub async fn new_http1(self: Rc<Self>, allowed: Option<u32>) -> Result<Http1Lease, NoConnection> {
        let end = Instant::now() + self.settings.connect_timeout;
        loop {
            if let Some(slot) = self.line.slot(allowed) {
                let connection = self.open_http1(slot).await?;
                return Ok(Http1Lease { pool: self, connection, requests: 0 });
            }
            match tokio::time::timeout_at(end, self.line.turn()).await {
                Ok(Some(Turn::Connection(Idle { connection, requests, .. }))) if connection.sender.is_ready() => {
                    return Ok(Http1Lease { pool: self, connection, requests });
                }
                // Or it was closed on its way.
                Ok(Some(Turn::Connection(_) | Turn::Room)) => {}
                Ok(None) => return Err(Overflow(Limit::Pending).into()),
                Err(_) => return Err(Overflow(Limit::Connections).into()),
            }
        }
    }

    /// A stream on an HTTP/2 connection that has room, if there is one.
    pub fn idle_http2(&self) -> Option<Http2Lease> {
        self.with_room().map(Http2Lease::new)
    }

    /// A stream on an HTTP/2 connection that somebody else is just opening, or on a new one if the cluster with `allowed`
    /// connections has room; else on the next one that has.
    pub async fn new_http2(self: Rc<Self>, allowed: Option<u32>) -> Result<Http2Lease, NoConnection> {
        let end = Instant::now() + self.settings.connect_timeout;
        loop {
            let opening = self.opening.lock().await;
            if let Some(connection) = self.with_room() {
                return Ok(Http2Lease::new(connection));
            }
            if let Some(slot) = self.line.slot(allowed) {
                return Ok(self.share(slot).await?);
            }
            drop(opening);
            if tokio::time::timeout_at(end, self.line.room()).await.is_err() {
                return Err(Overflow(Limit::Connections).into());
            }
        }
    }

    /// Opens an HTTP/2 connection for all.
    async fn share(&self, slot: Slot) -> Result<Http2Lease, ConnectError> {
        let connection = self.open_http2(slot).await?;
        // Roots that changed during the handshake were looked at without it.
        if self.accepts(connection.peer.as_ref()) {
            self.multiplexed.borrow_mut().push(Rc::clone(&connection));
        }
        Ok(Http2Lease::new(connection))
    }

    fn take_idle(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        while let Some(top) = idle.pop() {
            let Http1 { sender, peer, opened, .. } = &top.connection;
            let is_usable = !sender.is_closed() && sender.is_ready() && !self.is_over(*opened);
            if is_usable && self.accepts(peer.as_ref()) {
                return Some(top);
            }
        }
        None
    }

    fn with_room(&self) -> Option<Rc<Multiplexed>> {
        let mut connections = self.multiplexed.borrow_mut();
        connections.retain(|connection| !connection.sender.is_closed() && self.accepts(connection.peer.as_ref()));
        let most = self.settings.max_streams.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        connections
            .iter()
            .find(|connection| {
                let used_up = self.settings.max_requests.is_some_and(|max| connection.requests.get() >= max);
                let has_room = connection.streams.get() < connection.max_streams.get().min(most);
                has_room && !used_up && !self.is_over(connection.opened)
            })
            .cloned()
    }

    /// Whether a connection has lasted for as long as it may.
    fn is_over(&self, opened: Instant) -> bool {
        self.settings.max_duration.is_some_and(|longest| opened.elapsed() >= longest)
    }

    async fn open_http1(&self, slot: Slot) -> Result<Http1, ConnectError> {
        let reached = self.open(Inside::Http1, slot).await?;
        self.begin_http1(reached).await
    }

    /// Takes a connection in clear text to its endpoint that has carried nothing yet, if the cluster with `allowed`
    /// connections has room.
    pub async fn adopt(self: &Rc<Self>, stream: Transport, noted: Option<Box<Noted>>, allowed: Option<u32>) {
        if self.encryption != Encryption::None {
            return;
        }
        let (Some(slot), Transport::Plain(socket)) = (self.line.slot(allowed), &stream) else { return };
        let local = socket.local_addr().ok().map(Box::new);
        let link = self.place.reached(None, None);
        let reached = Fresh {
            stream: Counted { bytes: RarelyRead::new(stream), slot, noted, prelude: Arc::default() },
            peer: None,
            link,
            local,
        };
        // An error would have been found by the request as well, which opens another.
        if let Ok(connection) = self.begin_http1(reached).await {
            self.give_back(connection, 0);
        }
    }

    async fn begin_http1(&self, reached: Fresh) -> Result<Http1, ConnectError> {
        let Fresh { stream, peer, link, local } = reached;
        let prelude = Arc::clone(&stream.prelude);
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_RESPONSE_HEADERS)
            .max_header_size(MAX_RESPONSE_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        // Ends with the connection; what went wrong reaches whoever waits for the response.
        let task = tokio::task::spawn_local(connection.with_upgrades());
        self.ends_with(peer.as_ref(), task.abort_handle());
        Ok(Http1 { sender, peer, local, link, opened: Instant::now(), prelude })
    }

    async fn open_http2(&self, slot: Slot) -> Result<Rc<Multiplexed>, ConnectError> {
        let Fresh { stream, peer, link, local } = self.open(Inside::Http2, slot).await?;
        let nest = Nest::default();
        let handshake = http2::Builder::new(nest.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(h2_windows::STREAM)
            .initial_connection_window_size(h2_windows::CONNECTION)
            .max_header_list_size(h2_windows::HEADER_LIST)
            .max_send_buf_size(h2_windows::SEND_BUFFER)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = tokio::time::timeout(HANDSHAKE, handshake)
            .await
            .map_err(|_| ConnectError::TimedOut(HANDSHAKE))?
            .map_err(std::io::Error::other)?;
        let max_streams = Rc::new(Cell::new(connection.current_max_send_streams()));
        let seen = Rc::clone(&max_streams);
        let mut connection = Box::pin(connection);
        let watched = poll_fn(move |context| {
            let polled = connection.as_mut().poll(context);
            seen.set(connection.current_max_send_streams());
            polled.map(|_| ())
        });
        let task = tokio::task::spawn_local(Nested::client(nest, watched));
        self.ends_with(peer.as_ref(), task.abort_handle());
        Ok(Rc::new(Multiplexed {
            sender,
            peer,
            local,
            link,
            streams: Cell::new(0),
            max_streams,
            requests: Cell::new(0),
            since: Cell::new(Instant::now()),
            opened: Instant::now(),
            line: Rc::clone(&self.line),
        }))
    }

    /// Ends a task when its peer is revoked: at the next look at all peers, or now if that was a moment ago.
    fn ends_with(&self, peer: Option<&Rc<Peer>>, task: AbortHandle) {
        let Some(peer) = peer else { return };
        if self.tls.has_revoked_server(peer) {
            return task.abort();
        }
        self.revocable.borrow_mut().push(Revocable { peer: Rc::clone(peer), task });
    }

    async fn open(&self, inside: Inside, slot: Slot) -> Result<Fresh, ConnectError> {
        let (opened, noted) = self.reach(inside).await.inspect_err(|_| {
            self.stats.connect_failures.fetch_add(1, Ordering::Relaxed);
        })?;
        self.stats.opened(opened.security.is_some());
        if let Some(security) = opened.security {
            self.tls.agreed(security);
        }
        let link = self.place.reached(opened.peer.as_ref(), opened.security);
        let stream = Counted { bytes: RarelyRead::new(opened.stream), slot, noted, prelude: Arc::default() };
        let peer = opened.peer.map(Rc::new);
        Ok(Fresh { stream, peer, link, local: opened.local.map(Box::new) })
    }

    async fn reach(&self, inside: Inside) -> Result<(Reached, Option<Box<Noted>>), ConnectError> {
        let PoolSettings { connect_timeout, keepalive, sources, .. } = &self.settings;
        let dial = Dial { limit: *connect_timeout, keepalive: keepalive.as_ref(), sources, opened: &self.opened };
        let (stream, noted) = dial.to(self.place.address).await?;
        Ok((self.tls.connect(stream, &self.encryption, inside).await?, noted))
    }

    fn give_back(&self, connection: Http1, requests: u32) {
        let used_up = self.settings.max_requests.is_some_and(|max| requests >= max);
        let is_over = connection.sender.is_closed() || self.is_over(connection.opened);
        if self.closed.get() || used_up || is_over || !self.accepts(connection.peer.as_ref()) {
            return;
        }
        let given_back = Idle { connection, requests, since: Instant::now() };
        let Some(rests) = self.line.offer(given_back) else { return };
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push(rests);
        }
    }

    /// Closes what has been idle for too long; called by the worker once a second.
    pub fn sweep(&self, now: Instant) {
        self.revocable.borrow_mut().retain(|revocable| !revocable.task.is_finished());
        let limit = self.settings.idle_timeout.unwrap_or(Duration::MAX);
        self.idle.borrow_mut().retain(|idle| {
            let rests = now.saturating_duration_since(idle.since);
            !idle.connection.sender.is_closed() && rests < limit && !self.is_over(idle.connection.opened)
        });
        self.multiplexed.borrow_mut().retain(|connection| {
            let rests = connection.streams.get() == 0;
            let too_long = now.saturating_duration_since(connection.since.get()) >= limit;
            !(connection.sender.is_closed() || rests && (too_long || self.is_over(connection.opened)))
        });
    }

    /// Roots or revocations have changed: connections to peers who are no longer believed carry nothing new, and those
    /// to peers who have been revoked end.
    pub fn review(&self) {
        self.revocable.borrow_mut().retain(|Revocable { peer, task }| {
            let is_revoked = self.tls.has_revoked_server(peer);
            if is_revoked {
                task.abort();
            }
            !is_revoked
        });
        self.idle.borrow_mut().retain(|idle| self.accepts(idle.connection.peer.as_ref()));
        self.multiplexed.borrow_mut().retain(|connection| self.accepts(connection.peer.as_ref()));
    }

    /// Whether a connection to a peer may carry another request.
    fn accepts(&self, peer: Option<&Rc<Peer>>) -> bool {
        peer.is_none_or(|peer| self.tls.still_accepts_server(peer))
    }

    /// The endpoint is gone: idle connections close now, the others when their requests end.
    pub fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
        self.multiplexed.borrow_mut().clear();
    }
}

/// More header fields in a response are refused (safety: 100).
const MAX_RESPONSE_HEADERS: usize = 100;
/// Bytes of a response head, and of its trailers.
const MAX_RESPONSE_HEAD: usize = 64 << 10;

impl Lease {
    /// Where its connection begins.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Http1(lease) => lease.connection.local.as_deref().copied(),
            Self::Http2(lease) => lease.connection.local.as_deref().copied(),
        }
    }

    /// Who the endpoint is, where it showed a certificate of the mesh.
    pub fn peer(&self) -> Option<&Rc<Peer>> {
        match self {
            Self::Http1(lease) => lease.connection.peer.as_ref(),
            Self::Http2(lease) => lease.connection.peer.as_ref(),
        }
    }

    /// As whom a request on it is counted: a number.
    pub fn link(&self) -> u32 {
        match self {
            Self::Http1(lease) => lease.connection.link.id(),
            Self::Http2(lease) => lease.connection.link.id(),
        }
    }

    /// The answer has begun: what comes now is its body.
    pub fn answered(&self) {
        match self {
            Self::Http1(lease) => lease.connection.prelude.end(),
            Self::Http2(_) => {}
        }
    }

    /// Gives back what no request was sent on.
    pub fn unused(self) {
        match self {
            Self::Http1(lease) => lease.unused(),
            Self::Http2(_) => {}
        }
    }

    /// The connection has become a tunnel: from now on its peer's revocation ends this task. A stream of HTTP/2 ends with
    /// its connection anyway.
    pub fn becomes(&self, tunnel: AbortHandle) {
        match self {
            Self::Http1(lease) => lease.ends(tunnel),
            Self::Http2(_) => {}
        }
    }
}

impl Http1Lease {
    /// Whether the connection has carried a request before: then the peer may have closed it a moment ago.
    pub fn is_reused(&self) -> bool {
        self.requests > 0
    }

    /// Ends a task that uses the bytes of this connection when its peer is revoked.
    fn ends(&self, task: AbortHandle) {
        self.pool.ends_with(self.connection.peer.as_ref(), task);
    }

    pub(super) fn sender(&mut self) -> &mut http1::SendRequest<RequestBody> {
        &mut self.connection.sender
    }

    pub(super) fn count(&mut self) {
        self.requests = self.requests.saturating_add(1);
        self.connection.prelude.begin();
    }

    /// Gives a connection back that no request was sent on.
    pub fn unused(self) {
        let Self { pool, connection, requests } = self;
        pool.give_back(connection, requests);
    }

    /// Gives the connection back once its response has been read to the end.
    pub fn release(self) {
        let Self { pool, mut connection, requests } = self;
        if connection.sender.is_ready() {
            pool.give_back(connection, requests);
        } else if !connection.sender.is_closed() {
            tokio::task::spawn_local(async move {
                if let Ok(Ok(())) = tokio::time::timeout(RECLAIM, connection.sender.ready()).await {
                    pool.give_back(connection, requests);
                }
            });
        }
    }
}

impl Http2Lease {
    /// Whether the connection has carried another request before.
    pub fn is_reused(&self) -> bool {
        self.connection.requests.get() > 1
    }

    fn new(connection: Rc<Multiplexed>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.requests.set(connection.requests.get().saturating_add(1));
        Self { connection }
    }

    pub(super) fn sender(&self) -> http2::SendRequest<RequestBody> {
        self.connection.sender.clone()
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        let left = self.connection.streams.get().saturating_sub(1);
        self.connection.streams.set(left);
        self.connection.line.made_room();
        if left == 0 {
            self.connection.since.set(Instant::now());
        }
    }
}
