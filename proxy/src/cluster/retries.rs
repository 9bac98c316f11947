//! What became of second attempts, counted per cluster for the whole process. Only retries and timeouts write here: a
//! request that is answered at the first attempt touches none of it.

use std::sync::atomic::{AtomicU64, Ordering};

use leno_config::ir::RetryOn;

/// How many reasons there are.
const REASONS: usize = 16;

/// Counts of retries and timeouts; the names in `/clusters` and metrics are Envoy's.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct RetryStats {
    /// Retries that were begun.
    pub begun: AtomicU64,
    /// Requests that a retry has saved.
    pub succeeded: AtomicU64,
    /// Requests for which no retry was left.
    pub used_up: AtomicU64,
    /// Answers that were not tried again since whoever answered had done so already.
    pub given_up: AtomicU64,
    /// Retries that were not possible since the body had been too large to be kept.
    pub body_too_large: AtomicU64,
    /// Requests that took longer than the route's timeout.
    pub timeouts: AtomicU64,
    /// Attempts that took longer than one may.
    pub try_timeouts: AtomicU64,
    by_reason: [AtomicU64; REASONS],
}

impl RetryStats {
    /// A retry begins.
    pub fn begin(&self, reason: RetryOn) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if let Some(count) = self.by_reason.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One more.
    pub fn count(&self, counter: fn(&Self) -> &AtomicU64) {
        counter(self).fetch_add(1, Ordering::Relaxed);
    }

    /// All counts by Envoy's names, without `upstream_`.
    pub fn facts(&self) -> [(&'static str, u64); 6] {
        [
            ("rq_retry", &self.begun),
            ("rq_retry_success", &self.succeeded),
            ("rq_retry_limit_exceeded", &self.used_up),
            ("rq_retry_body_too_large", &self.body_too_large),
            ("rq_timeout", &self.timeouts),
            ("rq_per_try_timeout", &self.try_timeouts),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// Retries by their reason, those that occurred.
    pub fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.by_reason.iter().map(|count| count.load(Ordering::Relaxed));
        RetryOn::words().zip(counts).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_counted_under_the_word_of_its_reason() {
        for word in RetryOn::words() {
            let stats = RetryStats::default();
            stats.begin(RetryOn::parse(word).unwrap());
            assert_eq!(stats.reasons().collect::<Vec<_>>(), [(word, 1)]);
        }
    }
}
