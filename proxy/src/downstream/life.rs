//! How long a caller may keep us waiting.
//!
//! A head that does not end and a connection on which nothing happens are closed. hyper's own timer for heads would also
//! close connections that merely rest between two requests, and costs an allocation and a timer per request. Here the
//! request path only moves a connection from one phase to another, and the worker looks once a second who has not moved:
//!
//! ```text
//!          bytes arrive            the head is complete
//!   Idle ────────────────▶ Head ────────────────────────▶ Busy
//!     ▲                                                     │ the last byte of the last answer has passed
//!     └─────────────────────────────────────────────────────┘
//! ```

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;

use crate::forwarding::forward_writes;
use crate::telemetry::WorkerStats;
use crate::tls::transport::{Prefixed, Transport};

/// Seconds from the first byte of a head to its last.
const HEAD_SECONDS: u32 = 10;
/// Seconds that a connection may rest between two requests (Envoy: 1 h).
const IDLE_SECONDS: u32 = 3600;
/// The same for one that is to end: as long as a caller who is about to use it may need to do so.
const LAST_IDLE_SECONDS: u32 = 30;

const IDLE: u32 = 0;
const HEAD: u32 = 1;
const BUSY: u32 = 2;
const PHASES: u32 = 4;

/// The phase of a connection, and how often it has changed. Atomic only because hyper wants its streams `Send`: there is
/// one writer.
#[derive(Debug, Default)]
pub(super) struct Pulse(AtomicU32);

impl Pulse {
    fn phase(&self) -> u32 {
        self.0.load(Ordering::Relaxed) % PHASES
    }

    fn change(&self, phase: u32) {
        let changes = (self.0.load(Ordering::Relaxed) / PHASES).wrapping_add(1) % (u32::MAX / PHASES);
        self.0.store(changes * PHASES + phase, Ordering::Relaxed);
    }

    /// Bytes arrived.
    pub(super) fn read(&self) {
        if self.phase() == IDLE {
            self.change(HEAD);
        }
    }
}

/// A stream that tells when bytes arrive.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) stream: Prefixed<Transport>,
    pub(super) pulse: Arc<Pulse>,
}

impl AsyncRead for Watched {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.pulse.read();
        }
        polled
    }
}

forward_writes!(Watched, stream);

/// One connection's life, shared by its requests.
#[derive(Debug)]
pub struct Life {
    /// Figures of its worker.
    pub stats: Arc<WorkerStats>,
    pulse: Arc<Pulse>,
    requests: Cell<u32>,
    /// What the last look saw, and for how many looks.
    seen: Cell<(u32, u32)>,
    overdue: Notify,
    /// The connection should finish what it does and end.
    leaving: Cell<bool>,
    /// It was let in only to be told that there are too many.
    surplus: Cell<bool>,
    /// The process has no more time for it.
    given_up: Cell<bool>,
    /// Somebody waits for its first request.
    awaited: Cell<bool>,
    first: Notify,
    /// Told so.
    leave: Notify,
}

impl Life {
    pub(super) fn new(stats: Arc<WorkerStats>) -> Self {
        Self {
            stats,
            pulse: Arc::default(),
            requests: Cell::new(0),
            seen: Cell::new((0, 0)),
            overdue: Notify::new(),
            leaving: Cell::new(false),
            surplus: Cell::new(false),
            given_up: Cell::new(false),
            awaited: Cell::new(false),
            first: Notify::new(),
            leave: Notify::new(),
        }
    }

    pub(super) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// The head of a request is complete.
    pub fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.pulse.change(BUSY);
        if self.awaited.get() {
            self.first.notify_one();
        }
    }

    /// Ready when a first request has come.
    pub(super) async fn used(&self) {
        if self.changes() == 0 {
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

    /// Whether a request, or its head, is under way.
    pub fn is_busy(&self) -> bool {
        self.pulse.phase() != IDLE
    }

    /// How often it has gone from one phase to another.
    pub fn changes(&self) -> u64 {
        (self.pulse.0.load(Ordering::Relaxed) / PHASES).into()
    }

    /// Called once a second.
    pub fn look(&self) {
        let now = self.pulse.0.load(Ordering::Relaxed);
        let (before, looks) = self.seen.get();
        let looks = if before == now { looks.saturating_add(1) } else { 0 };
        self.seen.set((now, looks));
        let limit = match now % PHASES {
            HEAD => HEAD_SECONDS,
            IDLE if self.leaving.get() => LAST_IDLE_SECONDS,
            IDLE => IDLE_SECONDS,
            _ => return,
        };
        if looks >= limit {
            self.overdue.notify_one();
        }
    }

    /// Ends the connection now, whatever it does: its caller is no longer allowed.
    pub fn cut(&self) {
        self.overdue.notify_one();
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
            self.seen.set((u32::MAX, 0));
            self.leave.notify_one();
        }
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

    /// Ready when the caller has kept us waiting for too long, or is to be cut off.
    pub(super) async fn overdue(&self) {
        self.overdue.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_overdue(life: &Life) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(life.overdue()).as_mut().poll(&mut context).is_ready()
    }

    fn look(life: &Life, times: u32) {
        (0..times).for_each(|_| life.look());
    }

    #[test]
    fn a_head_that_does_not_end_is_overdue_and_a_busy_connection_never_is() {
        let life = Life::new(Arc::default());
        life.pulse().read();
        look(&life, HEAD_SECONDS);
        assert!(!is_overdue(&life), "one look too early: the first only remembers");
        look(&life, 1);
        assert!(is_overdue(&life));
        life.begin();
        look(&life, IDLE_SECONDS * 2);
        assert!(!is_overdue(&life));
    }

    #[test]
    fn a_connection_that_is_to_end_has_time_for_a_request_that_is_on_its_way() {
        let life = Life::new(Arc::default());
        look(&life, LAST_IDLE_SECONDS * 2);
        life.leave();
        look(&life, LAST_IDLE_SECONDS);
        assert!(!is_overdue(&life) && life.is_leaving());
        life.pulse().read();
        life.begin();
        look(&life, LAST_IDLE_SECONDS * 2);
        assert!(!is_overdue(&life), "an answer takes as long as it takes");
        life.end();
        look(&life, LAST_IDLE_SECONDS + 1);
        assert!(is_overdue(&life));
    }

    #[test]
    fn a_connection_rests_for_an_hour_and_each_request_starts_the_hour_anew() {
        let life = Life::new(Arc::default());
        for _ in 0..3 {
            life.pulse().read();
            life.begin();
            life.begin();
            life.end();
            look(&life, 100);
            life.end();
            look(&life, IDLE_SECONDS);
            assert!(!is_overdue(&life));
        }
        look(&life, 1);
        assert!(is_overdue(&life));
    }
}
