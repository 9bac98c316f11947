//! How long a caller may keep us waiting.
//!
//! Eight kinds of connections stall, and each is closed on time (`limits` of the bootstrap):
//!
//! | the caller | limit | who notices |
//! |---|---|---|
//! | says nothing | `first_byte` | [`super::detect`] |
//! | begins TLS and does not finish | `handshake` | [`crate::tls::server`] |
//! | begins the preface of HTTP/2, or sends no SETTINGS after it | `preface` | [`super::detect`], here |
//! | begins a head, or a frame, and does not finish | `head` | here |
//! | begins a body and does not go on | `body_idle` | [`super::flows`] |
//! | does not read | `write_stall` | here, and [`super::flows`] for one stream of HTTP/2 |
//! | asks nothing on HTTP/1.1 | `connection_idle` | here |
//! | asks nothing on HTTP/2, PINGs or not | `connection_idle` | here |
//!
//! hyper's own timer for heads would also close connections that merely rest between two requests, and costs an allocation
//! and a timer per request. Here the request path only moves a connection from one phase to another, and the worker looks
//! once a second who has not moved:
//!
//! ```text
//!   HTTP/2: Preface ─┐ SETTINGS
//!                    ▼     bytes arrive (HTTP/1.1)    the head is complete
//!                   Idle ────────────────────▶ Head ────────────────────────▶ Busy
//!                    ▲                                                          │ the last byte of the last answer
//!                    └──────────────────────────────────────────────────────────┘ has passed
//! ```

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::overload::budget::Pressure;
use crate::overload::limits::{Control, Patience};
use crate::overload::reached::Reached;
use crate::telemetry::WorkerStats;

use super::flows::{Flows, Weight};
use super::pulse::{BUSY, HALF, HALF_DATA, HEAD, IDLE, PREFACE, Pulse};

/// How long a connection rests that is to end: as long as a caller who is about to use it may need to do so.
const LAST_IDLE: Duration = Duration::from_secs(30);
/// The same where memory runs out.
const TIGHT_IDLE: Duration = Duration::from_secs(5);
/// Looks that find a connection at rest before its buffers are given back.
const RESTS: u32 = 1;

/// One connection's life, shared by its requests.
#[derive(Debug)]
pub struct Life {
    /// Figures of its worker.
    pub stats: Arc<WorkerStats>,
    pulse: Arc<Pulse>,
    requests: Cell<u32>,
    /// A first request has come.
    asked: Cell<bool>,
    /// Bodies of requests that are not complete.
    bodies: Cell<u32>,
    /// Bytes of the heads under way.
    heads: Cell<u32>,
    /// Bodies that wait.
    flows: Flows,
    /// Which stream is at work, where there are several.
    stream: OnceCell<Rc<Cell<u64>>>,
    phase: Glance,
    frame: Glance,
    jam: Glance,
    /// Requests are served: before, others keep the time.
    serves: Cell<bool>,
    /// Its buffers may be given back while it rests.
    rests: Cell<bool>,
    /// What there is to be told.
    news: Notify,
    over: Cell<bool>,
    tired: Cell<bool>,
    /// The connection should finish what it does and end.
    leaving: Cell<bool>,
    /// It was let in only to be told that there are too many.
    surplus: Cell<bool>,
    /// Heads that were too much.
    refused_heads: Cell<u32>,
    /// The process has no more time for it.
    given_up: Cell<bool>,
    /// Somebody waits for its first request.
    awaited: Cell<bool>,
    first: Notify,
    /// Told so.
    leave: Notify,
}

/// What whoever serves a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// It is over, whatever it does.
    Over,
    /// Some of its streams are.
    Streams,
    /// It rests, and will for a while.
    Rest,
}

/// What the last look saw, and for how many looks.
#[derive(Debug, Default)]
struct Glance(Cell<(u32, u32)>);

impl Glance {
    /// For how many looks it was the same.
    fn looks(&self, now: u32) -> u32 {
        let (before, looks) = self.0.get();
        let looks = if before == now { looks.saturating_add(1) } else { 0 };
        self.0.set((now, looks));
        looks
    }

    fn forget(&self) {
        self.0.set((u32::MAX, 0));
    }
}

/// So many looks take as long.
pub(super) fn looks_of(limit: Duration) -> u32 {
    u32::try_from(limit.as_secs()).unwrap_or(u32::MAX).max(1)
}

impl Life {
    pub(super) fn new(stats: Arc<WorkerStats>) -> Self {
        Self {
            stats,
            pulse: Arc::default(),
            requests: Cell::new(0),
            asked: Cell::new(false),
            bodies: Cell::new(0),
            heads: Cell::new(0),
            flows: Flows::default(),
            stream: OnceCell::new(),
            phase: Glance::default(),
            frame: Glance::default(),
            jam: Glance::default(),
            serves: Cell::new(false),
            rests: Cell::new(false),
            news: Notify::new(),
            over: Cell::new(false),
            tired: Cell::new(false),
            leaving: Cell::new(false),
            surplus: Cell::new(false),
            refused_heads: Cell::new(0),
            given_up: Cell::new(false),
            awaited: Cell::new(false),
            first: Notify::new(),
            leave: Notify::new(),
        }
    }

    pub(super) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    pub(super) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Requests come from now on, on streams that are numbered there if there are several at a time.
    pub(super) fn serves(&self, stream: Option<Rc<Cell<u64>>>) {
        self.serves.set(true);
        if let Some(stream) = stream {
            // It is told once.
            let _ = self.stream.set(stream);
        }
    }

    /// Whether there are several streams at a time.
    #[inline]
    pub fn is_multiplexed(&self) -> bool {
        self.stream.get().is_some()
    }

    /// The stream at work.
    pub(super) fn stream(&self) -> u64 {
        self.stream.get().map_or(0, |stream| stream.get())
    }

    /// The head of a request is complete.
    pub fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.asked.set(true);
        self.pulse.change(BUSY);
        if self.awaited.get() {
            self.first.notify_one();
        }
    }

    /// Ready when a first request has come.
    pub(super) async fn used(&self) {
        if !self.asked.get() {
            self.awaited.set(true);
            self.first.notified().await;
        }
    }

    /// A request has been answered, or given up.
    pub fn end(&self) {
        let left = self.requests.get().saturating_sub(1);
        self.requests.set(left);
        if left == 0 {
            self.pulse.change(IDLE);
        }
    }

    /// A request has a body.
    #[inline]
    pub(super) fn body_comes(&self) {
        self.bodies.set(self.bodies.get() + 1);
    }

    /// It is complete. One that is given up never is: what is left of it on the wire is nobody's.
    #[inline]
    pub fn body_has_come(&self) {
        self.bodies.set(self.bodies.get().saturating_sub(1));
    }

    /// Bytes of the heads of all requests under way.
    pub(super) fn heads(&self) -> u32 {
        self.heads.get()
    }

    pub(super) fn set_heads(&self, bytes: u32) {
        self.heads.set(bytes);
    }

    /// Whether a request, or its head, is under way.
    pub fn is_busy(&self) -> bool {
        !matches!(self.pulse.phase(), IDLE | PREFACE)
    }

    /// How often it has gone from one phase to another.
    pub fn changes(&self) -> u64 {
        self.pulse.changes().into()
    }

    /// Called once a second. Each limit that is reached is told; the connection, or a stream of it, ends then.
    pub fn look(&self, patience: &Patience, pressure: Pressure, mut reached: impl FnMut(Reached)) {
        let looks = self.phase.looks(self.pulse.beat());
        if !self.serves.get() || self.over.get() {
            return;
        }
        if pressure >= Pressure::Tight && !self.leaving.get() {
            reached(Reached::MemoryTight);
            self.leave();
        }
        let idle = match () {
            () if pressure >= Pressure::Tight => TIGHT_IDLE.min(patience.connection_idle),
            () if self.leaving.get() => LAST_IDLE.min(patience.connection_idle),
            () => patience.connection_idle,
        };
        let phase = match self.pulse.phase() {
            HEAD => Some((patience.head, Reached::Head)),
            PREFACE => Some((patience.preface, Reached::Preface)),
            IDLE if self.flows.is_empty() => Some((idle, Reached::ConnectionIdle)),
            _ => None,
        };
        let (half, frames) = self.pulse.half();
        let frame = match half {
            HALF => Some((patience.head, Reached::Head)),
            HALF_DATA => Some((patience.body_idle, Reached::BodyIdle)),
            _ => None,
        };
        let jam = (self.pulse.stuck() != 0).then_some((patience.write_stall, Reached::WriteStall));
        let seen = [(looks, phase), (self.frame.looks(frames), frame), (self.jam.looks(self.pulse.stuck()), jam)];
        for (looks, limit) in seen {
            if let Some((limit, which)) = limit
                && looks >= looks_of(limit)
            {
                reached(which);
                return self.cut();
            }
        }
        let mut doomed = false;
        self.flows.look(patience.body_idle, patience.write_stall, |which| {
            doomed = true;
            reached(which);
        });
        if doomed {
            self.streams_end();
        }
        if looks >= RESTS && self.may_rest() {
            self.tired.set(true);
            self.news.notify_one();
        }
    }

    /// Called once a second: more frames that carry nothing may come.
    pub fn refill(&self, control: &Control) {
        self.pulse.grant(control.per_second, control.burst);
    }

    /// Whether it was flooded with frames that carry nothing.
    pub(super) fn is_flooded(&self) -> bool {
        self.pulse.is_flooded()
    }

    /// Whether its buffers may be given back while it rests, if it does.
    pub(super) fn set_rests(&self, rests: bool) {
        self.rests.set(rests);
    }

    /// Whether there is proof that it rests: no request is under way, each body has been read to its end, the last byte has
    /// left, and nothing has come.
    pub(super) fn may_rest(&self) -> bool {
        self.rests.get()
            && !self.leaving.get()
            && self.pulse.phase() == IDLE
            && self.pulse.stuck() == 0
            && self.requests.get() == 0
            && self.bodies.get() == 0
            && self.flows.is_empty()
    }

    /// Of the answer that holds memory for longest.
    pub(crate) fn heaviest_answer(&self) -> Option<Weight> {
        self.flows.heaviest()
    }

    /// Ends the stream of that answer; whether there was one.
    pub(crate) fn end_heaviest(&self) -> bool {
        let ends = self.flows.doom_heaviest();
        if ends {
            self.streams_end();
        }
        ends
    }

    fn streams_end(&self) {
        match self.stream.get() {
            Some(_) => self.news.notify_one(),
            None => self.cut(),
        }
    }

    /// Ends the connection now, whatever it does: its caller is no longer allowed.
    pub fn cut(&self) {
        self.over.set(true);
        self.news.notify_one();
    }

    /// The same because the process has no more time for it: whatever is under way is told as cut off by ourselves.
    pub fn give_up(&self) {
        self.given_up.set(true);
        self.cut();
    }

    /// Whether the process has no more time for it.
    pub fn is_given_up(&self) -> bool {
        self.given_up.get()
    }

    /// Asks the connection to finish what it does and end. One that rests is not closed at once: its caller may have
    /// sent a request a moment ago, which would be lost. In HTTP/2 GOAWAY settles that; in HTTP/1.1 the next answer says
    /// `connection: close`, and who asks nothing for a while goes then.
    pub fn leave(&self) {
        if !self.leaving.replace(true) {
            // Its last rest begins now.
            self.phase.forget();
            self.leave.notify_one();
        }
    }

    /// One more head is too much; how many there have been.
    pub(super) fn refuses_head(&self) -> u32 {
        self.refused_heads.set(self.refused_heads.get().saturating_add(1));
        self.refused_heads.get()
    }

    /// There are too many connections: each request of this one is refused, and it ends with the first.
    pub fn turn_away(&self) {
        self.surplus.set(true);
        self.leave();
    }

    /// Whether there are too many.
    pub fn is_surplus(&self) -> bool {
        self.surplus.get()
    }

    /// Whether it was asked to.
    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    pub(super) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    /// What there is to be told; [`News::Over`] is told again and again.
    pub(super) async fn news(&self) -> News {
        loop {
            if self.over.get() {
                return News::Over;
            }
            if self.tired.take() {
                return News::Rest;
            }
            self.news.notified().await;
            if !self.over.get() && self.stream.get().is_some() {
                return News::Streams;
            }
        }
    }

    /// Ready when the caller has kept us waiting for too long, or is to be cut off.
    pub(super) async fn overdue(&self) {
        while self.news().await != News::Over {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overload::limits::{Limits, Profile};

    fn patience() -> Patience {
        Limits::of(Profile::Istio).patience
    }

    fn is_overdue(life: &Life) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(life.overdue()).as_mut().poll(&mut context).is_ready()
    }

    fn serving() -> Life {
        let life = Life::new(Arc::default());
        life.serves(None);
        life
    }

    /// What was reached.
    fn look_under(life: &Life, seconds: Duration, pressure: Pressure) -> Vec<Reached> {
        let mut all = Vec::new();
        (0..seconds.as_secs()).for_each(|_| life.look(&patience(), pressure, |reached| all.push(reached)));
        all
    }

    fn look(life: &Life, seconds: Duration) -> Vec<Reached> {
        look_under(life, seconds, Pressure::None)
    }

    const LOOK: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_begun_and_not_finished_is_overdue_and_a_busy_connection_never_is() {
        let half = |half| move |life: &Life| life.pulse.frames(7, half);
        type Stall = Box<dyn Fn(&Life)>;
        let rows: [(&str, Stall, Duration, Reached); 5] = [
            ("a head", Box::new(|life| life.pulse.read()), patience().head, Reached::Head),
            ("a preface", Box::new(|life| life.pulse.change(PREFACE)), patience().preface, Reached::Preface),
            ("a frame", Box::new(half(HALF)), patience().head, Reached::Head),
            ("a frame of a body", Box::new(half(HALF_DATA)), patience().body_idle, Reached::BodyIdle),
            ("nothing", Box::new(|_| ()), patience().connection_idle, Reached::ConnectionIdle),
        ];
        for (name, begin, limit, expected) in rows {
            let life = serving();
            begin(&life);
            let early = look(&life, limit - LOOK);
            assert!(early.is_empty() && !is_overdue(&life), "{name}: {early:?}");
            let reached = look(&life, LOOK * 2);
            assert!(reached == [expected] && is_overdue(&life), "{name}: {reached:?}");
        }
        let life = serving();
        life.pulse.read();
        life.begin();
        assert!(look(&life, patience().connection_idle * 2).is_empty() && !is_overdue(&life));
    }

    #[test]
    fn before_requests_are_served_others_keep_the_time() {
        let life = Life::new(Arc::default());
        assert!(look(&life, patience().connection_idle * 2).is_empty() && !is_overdue(&life));
    }

    #[test]
    fn a_connection_that_is_to_end_has_time_for_a_request_that_is_on_its_way() {
        let life = serving();
        look(&life, LAST_IDLE * 2);
        life.leave();
        look(&life, LAST_IDLE);
        assert!(!is_overdue(&life) && life.is_leaving());
        life.pulse().read();
        life.begin();
        look(&life, LAST_IDLE * 2);
        assert!(!is_overdue(&life), "an answer takes as long as it takes");
        life.end();
        look(&life, LAST_IDLE + LOOK);
        assert!(is_overdue(&life));
    }

    #[test]
    fn a_connection_rests_for_an_hour_and_each_request_starts_the_hour_anew() {
        let life = serving();
        for _ in 0..3 {
            life.pulse().read();
            life.begin();
            life.begin();
            life.end();
            look(&life, LOOK * 100);
            life.end();
            look(&life, patience().connection_idle);
            assert!(!is_overdue(&life));
        }
        look(&life, LOOK);
        assert!(is_overdue(&life));
    }

    #[test]
    fn where_memory_runs_out_connections_leave_and_rest_for_a_moment_only() {
        let life = serving();
        let reached = look_under(&life, TIGHT_IDLE + LOOK * 2, Pressure::Tight);
        assert_eq!(reached, [Reached::MemoryTight, Reached::ConnectionIdle]);
        assert!(life.is_leaving() && is_overdue(&life));
    }

    #[test]
    fn buffers_are_given_back_only_where_rest_is_proven() {
        let life = serving();
        life.set_rests(true);
        assert!(life.may_rest());
        life.begin();
        assert!(!life.may_rest(), "a request is under way");
        life.body_comes();
        life.end();
        assert!(!life.may_rest(), "a body was not read to its end");
        life.body_has_come();
        assert!(life.may_rest());
        life.pulse.read();
        assert!(!life.may_rest(), "something has come");
    }
}
