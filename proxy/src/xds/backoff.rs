//! How long to wait before the next attempt to reach the control plane.

use std::time::Duration;

/// Exponential back-off with full jitter: uniform between nothing and a ceiling that doubles with every failure. Full,
/// because a restarted control plane meets all its proxies at once: a floor under the jitter would keep them together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Envoy's numbers for xDS are 0.5 s and 30 s; ours are shorter, since a proxy that waits serves by old rules.
    pub const FIRST: Duration = Duration::from_millis(250);
    /// See [`Backoff::FIRST`].
    pub const LONGEST: Duration = Duration::from_secs(10);

    /// The highest ceiling after a stream that had been answered.
    pub const ANSWERED: Duration = Duration::from_secs(1);

    /// The first ceiling is `first`, the last `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, ceiling: first.min(longest) }
    }

    /// The next delay, for a random number of 64 bits.
    pub fn next(&mut self, random: u64) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = ceiling.saturating_mul(2).min(self.longest);
        // The fraction needs no more than 53 bits.
        #[allow(clippy::cast_precision_loss)]
        let share = (random >> 11) as f64 / (1u64 << 53) as f64;
        ceiling.mul_f64(share)
    }

    /// A stream ended that had been answered and lived for `lived`. It was a good one if it lived longer than the
    /// current ceiling: a server that accepts, answers and falls over must not be met without any delay. But it was there,
    /// and whoever answers is not waited for as long as one who has been gone for minutes: after [`Backoff::ANSWERED`] at
    /// the latest it is tried again.
    pub fn after_answered_stream(&mut self, lived: Duration) {
        self.ceiling = match lived >= self.ceiling {
            true => self.first.min(self.longest),
            false => self.ceiling.min(Self::ANSWERED),
        };
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Self::FIRST, Self::LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALMOST_ONE: u64 = u64::MAX;

    #[test]
    fn the_ceiling_doubles_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let delays: Vec<u128> = (0..8).map(|_| backoff.next(ALMOST_ONE).as_millis()).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn the_jitter_is_full() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(backoff.next(0), Duration::ZERO);
        assert_eq!(backoff.next(1 << 63), Duration::from_millis(500));
    }

    #[test]
    fn a_good_stream_starts_it_anew_and_a_short_one_in_part() {
        let mut backoff = Backoff::default();
        for _ in 0..8 {
            backoff.next(0);
        }
        backoff.after_answered_stream(Duration::from_secs(9));
        assert_eq!(backoff.next(ALMOST_ONE).as_millis(), 1000);
        assert_eq!(backoff.next(ALMOST_ONE).as_millis(), 2000);
        backoff.after_answered_stream(Duration::from_secs(5));
        assert_eq!(backoff.next(ALMOST_ONE).as_millis(), 250);
    }
}
