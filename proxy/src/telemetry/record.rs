//! One request, counted when its body ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::{Response, StatusCode};
use tokio::time::Instant;

use crate::downstream::Connection;
use crate::error::{Flag, Flags, ProxyError};
use crate::policy::grant::Grant;

use super::detail::Detail;
use super::observe::{self, Ended};
use super::tcp::Traffic;

/// Upper bounds of the duration histogram in microseconds: 0.5 ms to 60 s, as dashboards for Envoy have them.
pub(super) const BUCKETS: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 60_000_000,
];

/// What one worker counted of one route. The worker alone writes; a scrape reads.
#[derive(Debug, Default)]
pub(super) struct RouteBlock {
    /// Grows by one entry for each pair of status and flags; the lock is taken only then and at a scrape.
    pub(super) answers: Mutex<Vec<Arc<Answers>>>,
    /// One more than there are bounds: the last is for the rest.
    pub(super) buckets: [AtomicU64; BUCKETS.len() + 1],
    pub(super) sum_micros: AtomicU64,
}

/// Answers of one kind.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) code: u16,
    pub(super) flags: Flags,
    pub(super) count: AtomicU64,
}

/// Adds where nobody else writes: cheaper than a locked instruction.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

/// A worker's handle on its block of one route.
#[derive(Debug)]
pub struct RouteSlot {
    block: Arc<RouteBlock>,
    /// The worker's own copy of the list, to be searched without a lock.
    answers: RefCell<Vec<Arc<Answers>>>,
}

impl RouteSlot {
    pub(super) fn new(block: Arc<RouteBlock>) -> Self {
        Self { block, answers: RefCell::default() }
    }

    fn count(&self, code: u16, flags: Flags, micros: u64) {
        let mut answers = self.answers.borrow_mut();
        match answers.iter().find(|answers| answers.code == code && answers.flags == flags) {
            Some(answers) => add(&answers.count, 1),
            None => {
                let new = Arc::new(Answers { code, flags, count: AtomicU64::new(1) });
                self.block.answers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&new));
                answers.push(new);
            }
        }
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.block.buckets.get(bucket) {
            add(bucket, 1);
        }
        add(&self.block.sum_micros, micros);
    }
}

/// A request under way. Counted when it is dropped: with its last byte, or when somebody gave up on it.
#[derive(Debug)]
pub struct RequestRecord {
    connection: Rc<Connection>,
    started: Instant,
    /// Unknown until a route is found; a request that leaves before that is not counted.
    slot: Option<Rc<RouteSlot>>,
    /// 0: no answer yet.
    code: u16,
    flags: Flags,
    complete: bool,
    /// Somebody else counts it.
    handed_over: bool,
    /// It may go on until this is revoked; `None`: nobody would ask again.
    grant: Option<Rc<Grant>>,
    /// Bytes of its body; `None`: it has none.
    request_body: Option<Rc<Meter>>,
    /// Bytes of the body of its answer, so far.
    response_bytes: u64,
    /// What passes after it has become a tunnel.
    tunnel: Option<Rc<Traffic>>,
    /// What is told of it, where somebody wants to know.
    detail: Option<Box<Detail>>,
}

/// What passes of a request's body.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: Cell<u64>,
}

impl Meter {
    /// So many bytes have passed.
    pub fn passed(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// All that has passed.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

impl RequestRecord {
    /// A request begins; `detail` where somebody wants to know of it.
    pub fn begin(connection: Rc<Connection>, detail: Option<Box<Detail>>) -> Self {
        add(&connection.life.stats.requests_active, 1);
        connection.life.begin();
        Self {
            connection,
            started: Instant::now(),
            slot: None,
            code: 0,
            flags: Flags::default(),
            complete: false,
            handed_over: false,
            grant: None,
            request_body: None,
            response_bytes: 0,
            tunnel: None,
            detail,
        }
    }

    /// What is told of it, where somebody wants to know.
    pub fn detail(&mut self) -> Option<&mut Detail> {
        self.detail.as_deref_mut()
    }

    /// It has a body, and what of it passes is to be counted there.
    pub fn has_body(&mut self) -> Rc<Meter> {
        Rc::clone(self.request_body.get_or_insert_default())
    }

    /// So many bytes of the body of its answer have passed.
    pub fn answered(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    /// It has become a tunnel, whose bytes count as those of its body and of its answer's.
    pub fn tunnels(&mut self) -> Rc<Traffic> {
        Rc::clone(self.tunnel.get_or_insert_default())
    }

    /// Policies have let it in.
    pub fn granted(&mut self, grant: Option<Rc<Grant>>) {
        self.grant = grant;
    }

    /// Its permission, where it can be revoked.
    pub fn grant(&self) -> Option<&Rc<Grant>> {
        self.grant.as_ref()
    }

    /// Its route is known.
    pub fn route(&mut self, route: (usize, usize), slot: Rc<RouteSlot>) {
        self.slot = Some(slot);
        if let Some(detail) = &mut self.detail {
            detail.route = Some(route);
        }
    }

    /// The answer begins; `no_route` counts it where no route was found.
    pub fn answer<B>(&mut self, response: &Response<B>, no_route: impl FnOnce() -> Rc<RouteSlot>) {
        // Who has left gets no answer, and none is counted.
        self.code = if self.flags.is_left() { 0 } else { response.status().as_u16() };
        self.slot.get_or_insert_with(no_route);
        if let Some(detail) = &mut self.detail {
            detail.response_headers = response.headers().clone();
        }
    }

    /// It is answered here because something went wrong.
    pub fn failed(&mut self, error: &ProxyError) {
        self.flag(error.reply().flag);
        if let Some(detail) = &mut self.detail {
            detail.error = Some(error.to_string());
        }
    }

    /// Something went wrong on the way; the first word stays.
    pub fn flag(&mut self, flag: Flag) {
        self.flags.add(flag);
    }

    /// Something else is to be said of the way.
    pub fn note(&mut self, notes: Flags) {
        self.flags.add_notes(notes);
    }

    /// All that has been said.
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// It is delayed on purpose.
    pub fn delayed(&mut self) {
        self.flags.add(Flag::DI);
    }

    /// All of it has passed.
    pub fn complete(mut self) {
        self.complete = true;
    }

    /// An answer made here is complete as soon as it is written.
    pub fn local(mut self) -> Self {
        self.complete = true;
        self
    }

    /// The same request, counted from now on by somebody else: a tunnel outlives the exchange that opened it. What is
    /// left behind counts nothing.
    pub fn hand_over(&mut self) -> Self {
        add(&self.connection.life.stats.requests_active, 1);
        self.connection.life.begin();
        self.handed_over = true;
        Self {
            connection: Rc::clone(&self.connection),
            started: self.started,
            slot: self.slot.take(),
            code: StatusCode::SWITCHING_PROTOCOLS.as_u16(),
            flags: self.flags,
            complete: false,
            handed_over: false,
            grant: self.grant.take(),
            request_body: self.request_body.take(),
            response_bytes: self.response_bytes,
            tunnel: None,
            detail: self.detail.take(),
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.connection.life.end();
        let active = &self.connection.life.stats.requests_active;
        active.store(active.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        if !self.complete {
            // The caller went away before the end.
            self.flag(Flag::DC);
        }
        if self.handed_over {
            return;
        }
        let duration = self.started.elapsed();
        let (received, sent) = self.tunnel.as_ref().map_or((0, 0), |tunnel| (tunnel.received(), tunnel.sent()));
        let request_bytes = received + self.request_body.as_ref().map_or(0, |meter| meter.bytes());
        let response_bytes = sent + self.response_bytes;
        if let Some(slot) = &self.slot {
            slot.count(self.code, self.flags, u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
        }
        if let Some(mut detail) = self.detail.take() {
            detail.finish();
            observe::ended(Ended {
                detail,
                connection: Rc::clone(&self.connection),
                code: self.code,
                flags: self.flags,
                duration,
                request_bytes,
                response_bytes,
            });
        }
    }
}
