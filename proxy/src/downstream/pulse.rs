//! What the bytes of a connection tell of its life: that a head has begun, that a frame is not complete, that nobody reads.
//!
//! The streams below are what hyper reads and writes. They take no clock and keep no timer: each leaves one number in the
//! connection's [`Pulse`], which changes as long as things move, and the worker looks once a second whether it has.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::forwarding::forward_writes;
use crate::rarely::RarelyRead;
use crate::tls::transport::{Prefixed, Transport};

pub(super) const IDLE: u32 = 0;
pub(super) const HEAD: u32 = 1;
pub(super) const BUSY: u32 = 2;
/// HTTP/2 has begun, its SETTINGS are not here.
pub(super) const PREFACE: u32 = 3;
const PHASES: u32 = 4;

/// How a frame is incomplete: not at all.
pub(super) const WHOLE: u32 = 0;
/// It is one of a body.
pub(super) const HALF_DATA: u32 = 1;
/// It is any other.
pub(super) const HALF: u32 = 2;
const HALVES: u32 = 4;

/// What one connection does. Atomic only because hyper wants its streams `Send`: there is one writer.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// The phase, and how often it has changed.
    phase: AtomicU32,
    /// How a frame is incomplete, and how many have begun.
    frames: AtomicU32,
    /// Not 0: the peer does not take what is written; another number each time.
    stuck: AtomicU32,
    /// How often that was so.
    jams: AtomicU32,
    /// Frames that carry nothing and may still come.
    credit: AtomicU32,
    /// More of them have come.
    flooded: AtomicU32,
}

impl Pulse {
    /// Phase and changes together: the same as long as nothing happens.
    pub(super) fn beat(&self) -> u32 {
        self.phase.load(Ordering::Relaxed)
    }

    pub(super) fn phase(&self) -> u32 {
        self.beat() % PHASES
    }

    pub(super) fn changes(&self) -> u32 {
        self.beat() / PHASES
    }

    pub(super) fn change(&self, phase: u32) {
        let changes = self.changes().wrapping_add(1) % (u32::MAX / PHASES);
        self.phase.store(changes * PHASES + phase, Ordering::Relaxed);
    }

    /// Bytes arrived.
    pub(super) fn read(&self) {
        if self.phase() == IDLE {
            self.change(HEAD);
        }
    }

    /// So many frames have begun, and this is left of the last.
    pub(super) fn frames(&self, begun: u32, half: u32) {
        self.frames.store((begun % (u32::MAX / HALVES)) * HALVES + half, Ordering::Relaxed);
    }

    /// How a frame is incomplete, and a number that changes with each frame.
    pub(super) fn half(&self) -> (u32, u32) {
        let frames = self.frames.load(Ordering::Relaxed);
        (frames % HALVES, frames)
    }

    /// 0, or the same number as long as the peer takes nothing.
    pub(super) fn stuck(&self) -> u32 {
        self.stuck.load(Ordering::Relaxed)
    }

    #[inline]
    fn wrote(&self, is_pending: bool) {
        let is_stuck = self.stuck.load(Ordering::Relaxed) != 0;
        match (is_pending, is_stuck) {
            (true, false) => {
                let jam = self.jams.load(Ordering::Relaxed).wrapping_add(1).max(1);
                self.jams.store(jam, Ordering::Relaxed);
                self.stuck.store(jam, Ordering::Relaxed);
            }
            (false, true) => self.stuck.store(0, Ordering::Relaxed),
            (true, true) | (false, false) => {}
        }
    }

    /// Frames that carry nothing and may still come.
    pub(super) fn credit(&self) -> u32 {
        self.credit.load(Ordering::Relaxed)
    }

    /// More of them may come, up to `most`; what is there already stays.
    pub(super) fn grant(&self, more: u32, most: u32) {
        let now = self.credit();
        self.credit.store(now.max(now.saturating_add(more).min(most)), Ordering::Relaxed);
    }

    /// So many have come; whether they may.
    pub(super) fn spend(&self, frames: u32) -> bool {
        let left = self.credit().checked_sub(frames);
        self.credit.store(left.unwrap_or_default(), Ordering::Relaxed);
        if left.is_none() {
            self.flooded.store(1, Ordering::Relaxed);
        }
        left.is_some()
    }

    /// Whether more have come than may.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed) != 0
    }
}

/// A stream that tells when its peer does not take what is written.
#[derive(Debug)]
pub(super) struct Outflow {
    stream: RarelyRead<Prefixed<Transport>>,
    pulse: Arc<Pulse>,
}

impl Outflow {
    pub(super) fn new(stream: Prefixed<Transport>, pulse: Arc<Pulse>) -> Self {
        Self { stream: RarelyRead::new(stream), pulse }
    }

    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    #[inline]
    fn wrote(&mut self, went: Poll<usize>) {
        self.pulse.wrote(went.is_pending());
    }

    /// Gives what was read last back to whoever reads next.
    pub(super) fn unread(&mut self, bytes: bytes::Bytes) {
        self.stream.inside().unread(bytes);
    }
}

impl AsyncRead for Outflow {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

forward_writes!(Outflow, stream => wrote);

/// A stream of HTTP/1.1: it tells when bytes arrive as well.
#[derive(Debug)]
pub(super) struct Watched(pub(super) Outflow);

impl AsyncRead for Watched {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.0).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.0.pulse.read();
        }
        polled
    }
}

forward_writes!(Watched, 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_nothing_is_stuck_until_something_goes() {
        let pulse = Pulse::default();
        pulse.wrote(false);
        assert_eq!(pulse.stuck(), 0);
        pulse.wrote(true);
        let first = pulse.stuck();
        pulse.wrote(true);
        assert_eq!((pulse.stuck(), first), (first, 1), "the same as long as nothing goes");
        pulse.wrote(false);
        pulse.wrote(true);
        assert_ne!(pulse.stuck(), first, "something went between");
    }

    #[test]
    fn credit_is_spent_granted_up_to_its_bound_and_never_taken_away() {
        let pulse = Pulse::default();
        pulse.grant(1000, 10);
        assert!(pulse.spend(10) && !pulse.is_flooded());
        pulse.grant(50, 100);
        pulse.grant(5, 10);
        assert_eq!(pulse.credit(), 50, "a smaller bound takes nothing away");
        assert!(!pulse.spend(51) && pulse.is_flooded());
    }
}
