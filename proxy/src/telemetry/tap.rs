//! Taps: live traffic, for who wants to look for a while.
//!
//! A tap is a wish (which requests, how many a second, with headers or without) and a bounded queue. Workers hear of taps as they
//! hear of everything else, by a message, and keep the list: where nobody taps, a request pays for one branch. A request
//! is offered when it has ended, with its last byte; the worker looks at the filter and the rate and moves handles into
//! the queue. It never waits: what finds no room is counted as dropped, and the reader is told how many. Texts are made
//! where they are read.
//!
//! Requests that had begun before the tap are not told: nobody gathered what there would be to tell.

mod filter;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use leno_config::identity::SpiffeId;
use leno_config::ir::Direction;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::cluster::{Cluster, EndpointState};
use crate::error::Flags;
use crate::random::Random;
use crate::tls::exchange::Workload;
use crate::tls::peer::Peer;

use super::detail::Detail;
use super::observe::{ConnectionEnded, Ended};

pub use filter::{Facts, Filter, FlagWish, RequestFacts, StatusRange};

/// Taps at a time.
pub const MAX_TAPS: usize = 4;
/// What waits to be read, for each tap.
const QUEUE: usize = 256;
/// In which samples are counted.
const MILLION: u32 = 1_000_000;

/// What somebody wants to see.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Which requests and connections.
    pub filter: Filter,
    /// Of a million that the filter takes, so many are shown.
    pub sample: u32,
    /// At most so many a second; the others are counted.
    pub rate: u32,
    /// With the headers of request and answer.
    pub headers: bool,
}

impl Default for Wish {
    /// All of them, a hundred a second, without headers.
    fn default() -> Self {
        Self { filter: Filter::default(), sample: MILLION, rate: 100, headers: false }
    }
}

/// A tap, as workers see it.
#[derive(Debug)]
pub struct Tap {
    wish: Wish,
    began: Instant,
    /// The second since `began` in the upper half, how many were shown in it in the lower.
    window: AtomicU64,
    dropped: AtomicU64,
    seen: mpsc::Sender<Box<Seen>>,
}

/// All taps of a process.
type List = Arc<[Arc<Tap>]>;

/// Who listens now.
#[derive(Debug, Default)]
pub struct Taps(watch::Sender<List>);

impl Taps {
    /// Begins to listen; `None`: so many do already that one more would be too many.
    pub fn open(self: &Arc<Self>, wish: Wish) -> Option<Listening> {
        let (sender, seen) = mpsc::channel(QUEUE);
        let (window, dropped) = (AtomicU64::default(), AtomicU64::default());
        let tap = Arc::new(Tap { wish, began: Instant::now(), window, dropped, seen: sender });
        let opened = self.0.send_if_modified(|list| {
            let has_room = list.len() < MAX_TAPS;
            if has_room {
                *list = list.iter().chain([&tap]).map(Arc::clone).collect();
            }
            has_room
        });
        opened.then(|| Listening { taps: Arc::clone(self), tap, seen })
    }

    /// The list and all that becomes of it.
    pub fn watch(&self) -> watch::Receiver<List> {
        self.0.subscribe()
    }

    fn close(&self, tap: &Arc<Tap>) {
        self.0.send_modify(|list| *list = list.iter().filter(|one| !Arc::ptr_eq(one, tap)).map(Arc::clone).collect());
    }
}

/// The reader's end of a tap, which ends with it.
#[derive(Debug)]
pub struct Listening {
    taps: Arc<Taps>,
    tap: Arc<Tap>,
    seen: mpsc::Receiver<Box<Seen>>,
}

impl Listening {
    /// The next that has ended. Never `None` as long as this is there.
    pub async fn next(&mut self) -> Option<Box<Seen>> {
        self.seen.recv().await
    }

    /// How many the filter took and nobody could be shown, since this was asked last.
    pub fn dropped(&self) -> u64 {
        self.tap.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.taps.close(&self.tap);
    }
}

/// The taps as one worker knows them.
#[derive(Debug, Default)]
pub struct WorkerTaps {
    any: Cell<bool>,
    list: RefCell<List>,
}

impl WorkerTaps {
    /// Whether anybody listens.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.get()
    }

    /// Takes a new list.
    pub fn set(&self, list: List) {
        self.any.set(!list.is_empty());
        *self.list.borrow_mut() = list;
    }

    /// A request has ended.
    pub fn ended(&self, ended: &Ended, random: &Random) {
        if self.any() {
            let (detail, figures) = (&ended.detail, (ended.flags, ended.duration));
            let request = RequestFacts {
                method: &detail.method,
                path: detail.target.path(),
                authority: authority(detail),
                code: ended.code,
            };
            let direction = detail.view.listener.config.direction;
            self.offer(&Facts::new(direction, figures, Some(request)), random, |headers| Seen::request(ended, headers));
        }
    }

    /// A TCP connection has ended.
    pub fn connection_ended(&self, ended: &ConnectionEnded, random: &Random) {
        if self.any() {
            let direction = ended.view.listener.config.direction;
            let facts = Facts::new(direction, (ended.flags, ended.duration), None);
            self.offer(&facts, random, |_| Seen::connection(ended));
        }
    }

    fn offer(&self, facts: &Facts<'_>, random: &Random, seen: impl Fn(bool) -> Seen) {
        for tap in self.list.borrow().iter() {
            if tap.wish.filter.takes(facts) && (tap.wish.sample >= MILLION || random.below(MILLION) < tap.wish.sample) {
                tap.show(|| seen(tap.wish.headers));
            }
        }
    }
}

impl Tap {
    fn show(&self, seen: impl FnOnce() -> Seen) {
        let second = u32::try_from(self.began.elapsed().as_secs()).unwrap_or(u32::MAX);
        match self.seen.try_reserve() {
            Ok(room) if self.admits(second) => room.send(Box::new(seen())),
            // Nobody reads any more: the list is about to change.
            Err(mpsc::error::TrySendError::Closed(())) => {}
            Ok(_) | Err(mpsc::error::TrySendError::Full(())) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether one more may be shown in this second.
    fn admits(&self, second: u32) -> bool {
        let update = |word: u64| {
            let same = word >> 32 == u64::from(second);
            let shown = if same { word & u64::from(u32::MAX) } else { 0 };
            (shown < u64::from(self.wish.rate)).then_some(u64::from(second) << 32 | (shown + 1))
        };
        self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).is_ok()
    }
}

/// A request or connection that has ended, in handles that any thread may hold.
#[derive(Debug)]
pub struct Seen {
    /// When it came.
    pub began: SystemTime,
    /// To its last byte.
    pub duration: Duration,
    /// From the mesh to the own app, or from the app.
    pub direction: Direction,
    /// What went wrong, or was done on purpose.
    pub flags: Flags,
    /// The sentence of `x-leno-error`.
    pub error: Option<String>,
    /// Bytes of the body, or of the connection, that came from the caller.
    pub received: u64,
    /// Bytes that went to the caller.
    pub sent: u64,
    /// Where the caller called from.
    pub caller: SocketAddr,
    /// The address that was called.
    pub local: SocketAddr,
    /// Who the caller is.
    pub peer: Option<Party>,
    /// Where it was sent.
    pub cluster: Option<Arc<Cluster>>,
    /// The endpoint that was called last.
    pub endpoint: Option<Arc<EndpointState>>,
    /// Who that is, where a connection was looked at.
    pub upstream: Option<Party>,
    /// What only requests have.
    pub request: Option<RequestSeen>,
}

/// Who is at the other end of an encrypted connection.
#[derive(Debug, Clone)]
pub struct Party {
    /// By its certificate.
    pub id: SpiffeId,
    /// Who this proxy was to it.
    pub own: SpiffeId,
    /// What it says of itself.
    pub workload: Option<Arc<Workload>>,
}

/// What only requests have.
#[derive(Debug)]
pub struct RequestSeen {
    /// As the caller wrote it.
    pub method: Method,
    /// As the caller wrote it.
    pub target: Uri,
    /// The host that was asked for.
    pub authority: String,
    /// What the caller spoke.
    pub version: Version,
    /// 0: there was no answer.
    pub code: u16,
    /// From the first attempt to the head of its answer.
    pub upstream_time: Option<Duration>,
    /// How often it was sent.
    pub attempts: usize,
    /// The rule behind its route.
    pub rule: Option<String>,
    /// The `x-request-id` that goes with it.
    pub request_id: Option<HeaderValue>,
    /// W3C's `traceparent`, as it came.
    pub trace_parent: Option<HeaderValue>,
    /// Headers of the request and of the answer, where somebody wants them.
    pub headers: Option<(HeaderMap, HeaderMap)>,
}

impl Party {
    fn of(peer: &Peer) -> Self {
        Self { id: peer.id.clone(), own: peer.own.clone(), workload: peer.workload.clone() }
    }
}

impl Seen {
    fn request(ended: &Ended, headers: bool) -> Self {
        let (detail, connection) = (&*ended.detail, &ended.connection);
        let request = RequestSeen {
            method: detail.method.clone(),
            target: detail.target.clone(),
            authority: authority(detail).to_owned(),
            version: detail.version,
            code: ended.code,
            upstream_time: detail.upstream_time,
            attempts: detail.attempts.len(),
            rule: rule(detail),
            request_id: detail.request_id.clone(),
            trace_parent: detail.request_headers.get("traceparent").cloned(),
            headers: headers.then(|| (detail.request_headers.clone(), detail.response_headers.clone())),
        };
        Self {
            began: detail.began,
            duration: ended.duration,
            direction: detail.view.listener.config.direction,
            flags: ended.flags,
            error: detail.error.clone(),
            received: ended.request_bytes,
            sent: ended.response_bytes,
            caller: connection.caller,
            local: connection.local,
            peer: connection.peer.as_ref().map(Party::of),
            cluster: detail.cluster.clone(),
            endpoint: detail.attempts.last().map(|attempt| Arc::clone(&attempt.endpoint)),
            upstream: None,
            request: Some(request),
        }
    }

    fn connection(ended: &ConnectionEnded) -> Self {
        let connection = &ended.connection;
        Self {
            began: ended.began,
            duration: ended.duration,
            direction: ended.view.listener.config.direction,
            flags: ended.flags,
            error: ended.error.clone(),
            received: ended.received,
            sent: ended.sent,
            caller: connection.caller,
            local: connection.local,
            peer: connection.peer.as_ref().map(Party::of),
            cluster: ended.upstream.cluster.clone(),
            endpoint: ended.upstream.endpoint.clone(),
            upstream: ended.upstream.peer.as_deref().map(Party::of),
            request: None,
        }
    }
}

/// HTTP/2 says it in the target, HTTP/1.1 in `Host`.
fn authority(detail: &Detail) -> &str {
    let host = || detail.request_headers.get(header::HOST).and_then(|host| host.to_str().ok());
    detail.target.authority().map(http::uri::Authority::as_str).or_else(host).unwrap_or_default()
}

/// `FILE:LINE` of the rule, or what else is known of where the route comes from.
fn rule(detail: &Detail) -> Option<String> {
    let (http, (host, route)) = detail.view.listener.http().zip(detail.route)?;
    http.table.route(host, route)?.origin.as_ref().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            began: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            direction: Direction::Inbound,
            flags: Flags::default(),
            error: None,
            received: 0,
            sent: 0,
            caller: ([127, 0, 0, 1], 1).into(),
            local: ([127, 0, 0, 1], 2).into(),
            peer: None,
            cluster: None,
            endpoint: None,
            upstream: None,
            request: None,
        }
    }

    fn wish(rate: u32) -> Wish {
        Wish { rate, ..Wish::default() }
    }

    fn worker(taps: &Arc<Taps>) -> WorkerTaps {
        let worker = WorkerTaps::default();
        worker.set(taps.watch().borrow().clone());
        worker
    }

    fn end(worker: &WorkerTaps) {
        let facts = Facts::new(Direction::Inbound, (Flags::default(), Duration::ZERO), None);
        worker.offer(&facts, &Random::seeded(1), |_| seen());
    }

    #[test]
    fn no_more_are_shown_in_a_second_than_were_asked_for() {
        let taps = Arc::new(Taps::default());
        let listening = taps.open(wish(3)).expect("the first");
        for second in [0, 1, 7] {
            let admitted = (0..5).filter(|_| listening.tap.admits(second)).count();
            assert_eq!(admitted, 3, "in second {second}");
        }
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_nobody_up() {
        let taps = Arc::new(Taps::default());
        let mut listening = taps.open(wish(u32::MAX)).expect("the first");
        let worker = worker(&taps);
        (0..QUEUE + 7).for_each(|_| end(&worker));
        assert_eq!(listening.dropped(), 7);
        assert!(listening.next().await.is_some());
        end(&worker);
        assert_eq!(listening.dropped(), 0, "there is room again");
    }

    #[test]
    fn few_listen_at_a_time_and_who_leaves_makes_room() {
        let taps = Arc::new(Taps::default());
        let mut all: Vec<_> = (0..MAX_TAPS).map(|_| taps.open(wish(1)).expect("there is room")).collect();
        assert!(taps.open(wish(1)).is_none());
        drop(all.pop());
        all.push(taps.open(wish(1)).expect("there is room again"));
        let worker = worker(&taps);
        assert!(worker.any());
        drop(all);
        worker.set(taps.watch().borrow().clone());
        assert!(!worker.any());
    }
}
