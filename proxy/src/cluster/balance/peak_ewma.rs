//! The endpoint that is likely to answer soonest: the cheaper of two drawn at random, by the time to the first byte of
//! late times the requests in flight (Finagle's and Linkerd's "peak EWMA").
//!
//! The time is an average that forgets within [`DECAY`] and follows a peak at once: an endpoint that was slow a moment
//! ago is taken for slow, and one that has not been asked for a while for fast, so that it is asked again. A failure counts
//! as a slow answer: an endpoint that refuses everything at once would be the fastest of all otherwise.
//!
//! What was measured is the process's and outlives configuration: it stands beside the endpoint's other counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cluster::Member;
use crate::cluster::standing::Moment;
use crate::random::Random;

use super::Shares;

/// What is assumed of an endpoint that has not answered yet (Linkerd).
const DEFAULT: Duration = Duration::from_millis(30);
/// After it, a measurement counts for a third (Linkerd).
const DECAY: Duration = Duration::from_secs(10);
/// What a failure counts as, unless it took longer (Linkerd's shortest penalty).
const FAILURE: Duration = Duration::from_secs(1);

/// The recent time to the first byte of an endpoint's answers, in one word: bits of an `f32` in milliseconds, and the
/// milliseconds at which it was noted.
#[derive(Debug)]
pub struct Latency(AtomicU64);

impl Latency {
    /// Of an endpoint that is known from now on.
    pub(in crate::cluster) fn new(now: Moment) -> Self {
        Self(AtomicU64::new(pack(DEFAULT.as_secs_f32() * 1e3, wrapped(now))))
    }

    /// Notes that an attempt took so long.
    pub(in crate::cluster) fn observe(&self, now: Moment, took: Duration, failed: bool) {
        self.note(wrapped(now), took, failed);
    }

    /// `now` in milliseconds; it may wrap.
    fn note(&self, now: u32, took: Duration, failed: bool) {
        let took = if failed { took.max(FAILURE) } else { took }.as_secs_f32() * 1e3;
        // Who loses a race tries again: the closure always has an answer.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (average, noted) = unpack(word);
            let old = decayed(now, noted);
            Some(pack(if took > average { took } else { average * old + took * (1.0 - old) }, now))
        });
    }

    /// What may be expected now, in milliseconds.
    pub fn expected_at(&self, now: Moment) -> f32 {
        self.expected(wrapped(now))
    }

    fn expected(&self, now: u32) -> f32 {
        let (average, noted) = unpack(self.0.load(Ordering::Relaxed));
        average * decayed(now, noted)
    }
}

/// How much of what was noted then still counts.
#[allow(clippy::cast_precision_loss)] // Milliseconds of some minutes.
fn decayed(now: u32, noted: u32) -> f32 {
    // Another worker may have noted something later than this one's now.
    let age = now.wrapping_sub(noted);
    let age = if age > u32::MAX / 2 { 0 } else { age };
    (-(age as f32) / (DECAY.as_secs_f32() * 1e3)).exp()
}

/// All that fits: it starts anew after 49 days.
#[allow(clippy::cast_possible_truncation)]
fn wrapped(now: Moment) -> u32 {
    now.millis() as u32
}

fn pack(average: f32, noted: u32) -> u64 {
    u64::from(average.to_bits()) << 32 | u64::from(noted)
}

#[allow(clippy::cast_possible_truncation)] // The two halves.
fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

/// The cheaper of two.
pub(super) fn pick(members: &[Member], shares: &Shares, random: &Random) -> Option<usize> {
    let (one, other) = shares.draw_two(members.len(), random)?;
    if one == other {
        return Some(one);
    }
    let now = wrapped(Moment::now());
    Some(if cost(members.get(other)?, now) < cost(members.get(one)?, now) { other } else { one })
}

/// Expected milliseconds until it has answered one more, per weight.
#[allow(clippy::cast_precision_loss)]
fn cost(member: &Member, now: u32) -> f32 {
    let waiting = member.state.active().saturating_add(1) as f32;
    member.state.latency.expected(now) * waiting / member.weight as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_average_follows_a_peak_at_once_and_forgets_slowly() {
        let latency = Latency::new(Moment::default());
        assert!((latency.expected(0) - 30.0).abs() < 0.01);
        latency.note(1, MS(200), false);
        assert!((latency.expected(1) - 200.0).abs() < 0.01, "a peak");
        latency.note(1, MS(10), false);
        assert!(latency.expected(1) > 190.0, "one quick answer proves nothing");
        assert!((latency.expected(10_001) / latency.expected(1) - 0.3679).abs() < 0.001, "a third after 10 s");
        latency.note(100_000, MS(10), false);
        assert!((latency.expected(100_000) - 10.0).abs() < 0.1, "long ago is forgotten");
    }

    #[test]
    fn a_failure_counts_as_slow() {
        let latency = Latency::new(Moment::default());
        latency.note(5, MS(1), true);
        assert!((latency.expected(5) - 1000.0).abs() < 0.01);
        latency.note(5, MS(3000), true);
        assert!((latency.expected(5) - 3000.0).abs() < 0.01, "unless it took longer");
    }

    #[test]
    fn a_clock_that_wraps_or_runs_behind_does_no_harm() {
        let latency = Latency::new(Moment::default());
        latency.note(u32::MAX, MS(50), false);
        assert!((latency.expected(4) - 50.0).abs() < 0.1);
        latency.note(1000, MS(80), false);
        assert!((latency.expected(990) - 80.0).abs() < 0.1);
    }
}
