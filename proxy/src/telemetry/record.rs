//! One request, counted when its body ends.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use tokio::time::Instant;

use crate::downstream::Life;
use crate::error::{Flag, Flags};
use crate::policy::grant::Grant;

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
    life: Rc<Life>,
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
}

impl RequestRecord {
    /// A request begins.
    pub fn begin(life: Rc<Life>) -> Self {
        add(&life.stats.requests_active, 1);
        life.begin();
        Self {
            life,
            started: Instant::now(),
            slot: None,
            code: 0,
            flags: Flags::default(),
            complete: false,
            handed_over: false,
            grant: None,
        }
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
    pub fn route(&mut self, slot: Rc<RouteSlot>) {
        self.slot = Some(slot);
    }

    /// The answer begins; `no_route` counts it where no route was found.
    pub fn answer(&mut self, status: StatusCode, no_route: impl FnOnce() -> Rc<RouteSlot>) {
        self.code = status.as_u16();
        self.slot.get_or_insert_with(no_route);
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
        add(&self.life.stats.requests_active, 1);
        self.life.begin();
        self.handed_over = true;
        Self {
            life: Rc::clone(&self.life),
            started: self.started,
            slot: self.slot.take(),
            code: StatusCode::SWITCHING_PROTOCOLS.as_u16(),
            flags: self.flags,
            complete: false,
            handed_over: false,
            grant: self.grant.take(),
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.life.end();
        let active = &self.life.stats.requests_active;
        active.store(active.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        if !self.complete {
            // The caller went away before the end.
            self.flag(Flag::DC);
        }
        if let Some(slot) = self.slot.as_ref().filter(|_| !self.handed_over) {
            let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            slot.count(self.code, self.flags, micros);
        }
    }
}
