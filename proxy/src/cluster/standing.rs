//! Whether an endpoint is fit for requests, as all workers know it at once: circuit breaking, second meaning.
//!
//! ```text
//!             too many errors                    its time is over (seen at an interval)
//!   closed ─────────────────────▶ open until … ────────────────────────▶ half-open
//!     ▲                              ▲                                     │    ▲
//!     │ the probe succeeded          │ the probe failed                    │    │ the probe ended
//!     │                              │                       claim_probe() ▼    │ without an outcome
//!     └──────────────────────────────┴──────────────────────────────────  probing
//! ```
//!
//! Active health checks are a second, independent fact about the same endpoint: one that fails them gets nothing,
//! however the breaker stands, and one that passes is taken back at once (Envoy).
//!
//! All of it is one atomic word, so that nobody sees half of a change and exactly one of those who want the same change
//! makes it. Whoever changes what a pick depends on also lets [`ClusterStats::changed`](super::ClusterStats::changed)
//! tell the workers.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{ClusterStats, EndpointState};

/// How an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It gets its share.
    Available,
    /// It gets nothing until then, or a little longer: who is out is looked at once an interval.
    Ejected {
        /// When it may be probed.
        until: Moment,
        /// What it did.
        reason: Reason,
    },
    /// Its ejection is over, and one request is to tell whether it is well: see [`EndpointState::claim_probe`].
    HalfOpen,
    /// That request is under way.
    Probing,
    /// It fails its health checks, or has not passed its first one yet.
    Unhealthy,
}

impl Standing {
    /// Whether it gets its share of requests. One that is half-open does not: it gets a probe.
    pub fn is_available(self) -> bool {
        match self {
            Self::Available => true,
            Self::Ejected { .. } | Self::HalfOpen | Self::Probing | Self::Unhealthy => false,
        }
    }

    /// In the words of circuit breakers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "closed",
            Self::Ejected { .. } => "open",
            Self::HalfOpen => "half-open",
            Self::Probing => "probing",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Errors in a row.
    Consecutive5xx,
    /// 502, 503 and 504 in a row.
    ConsecutiveGateway,
    /// Connections that failed, were reset or timed out in a row.
    ConsecutiveLocal,
    /// It succeeds less often than the others.
    SuccessRate,
    /// The same of local errors.
    LocalSuccessRate,
    /// It fails too often.
    FailurePercentage,
    /// The same of local errors.
    LocalFailurePercentage,
    /// It failed the request that was to show that it is well.
    FailedProbe,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGateway,
        Self::ConsecutiveLocal,
        Self::SuccessRate,
        Self::LocalSuccessRate,
        Self::FailurePercentage,
        Self::LocalFailurePercentage,
        Self::FailedProbe,
    ];

    /// In Envoy's words, as they stand in its metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway_failure",
            Self::ConsecutiveLocal => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::LocalSuccessRate => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalFailurePercentage => "local_origin_failure_percentage",
            Self::FailedProbe => "failed_probe",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A point in time, in milliseconds since the process began to look at the clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(u64);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self::default() + START.elapsed()
    }

    /// In milliseconds since the process began to look at the clock.
    pub(super) fn millis(self) -> u64 {
        self.0
    }

    /// In whole seconds since the process began to look at the clock.
    pub fn seconds(self) -> u32 {
        u32::try_from(self.0 / 1_000).unwrap_or(u32::MAX)
    }

    /// From here to `later`; zero when that is over.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis).min(LATEST))
    }
}

/// The fitness of one endpoint.
///
/// Bits 0 and 1: the breaker; 2: fails its health checks; 3: is gone from its cluster; 8 to 15: why it is out; 16 to 63:
/// until when.
#[derive(Debug, Default)]
pub(super) struct Fitness(AtomicU64);

const BREAKER: u64 = 0b11;
const CLOSED: u64 = 0;
const OPEN: u64 = 1;
const HALF_OPEN: u64 = 2;
const PROBING: u64 = 3;
const UNHEALTHY: u64 = 1 << 2;
const GONE: u64 = 1 << 3;
const REASON: u32 = 8;
const UNTIL: u32 = 16;
/// The latest moment that fits: in 8900 years.
const LATEST: u64 = u64::MAX >> UNTIL;

fn opened(until: Moment, reason: Reason) -> u64 {
    OPEN | (reason as u64) << REASON | until.0.min(LATEST) << UNTIL
}

/// What the breaker says, without what health checks say.
fn breaker(word: u64) -> u64 {
    word & !(UNHEALTHY | GONE)
}

impl Fitness {
    /// How it stands.
    pub(super) fn standing(&self) -> Standing {
        if self.is_unhealthy() { Standing::Unhealthy } else { self.breaker() }
    }

    /// Whether it fails its health checks.
    pub(super) fn is_unhealthy(&self) -> bool {
        self.0.load(Ordering::Acquire) & UNHEALTHY != 0
    }

    /// How it stands, whatever health checks say.
    pub(super) fn breaker(&self) -> Standing {
        let word = self.0.load(Ordering::Acquire);
        match word & BREAKER {
            OPEN => Standing::Ejected { until: Moment(word >> UNTIL), reason: reason(word) },
            HALF_OPEN => Standing::HalfOpen,
            PROBING => Standing::Probing,
            _ => Standing::Available,
        }
    }

    /// Whether outlier detection keeps it from its share: open, half-open or probing.
    pub(super) fn is_out(&self) -> bool {
        self.0.load(Ordering::Acquire) & BREAKER != CLOSED
    }

    /// Closed → open. Whether it was this call that did it: not when it is out already, or gone.
    pub(super) fn eject(&self, until: Moment, reason: Reason) -> bool {
        self.change(|word| (word & (BREAKER | GONE) == CLOSED).then_some(word & UNHEALTHY | opened(until, reason)))
    }

    /// Open → half-open, when its time is over. Whether it was this call that did it.
    pub(super) fn half_open(&self, now: Moment) -> bool {
        let is_over = |word: u64| word & BREAKER == OPEN && Moment(word >> UNTIL) <= now;
        self.change(|word| is_over(word).then_some(word & !BREAKER | HALF_OPEN))
    }

    /// Whatever it was → closed. Whether it was out.
    pub(super) fn readmit(&self) -> bool {
        self.change(|word| (word & BREAKER != CLOSED).then_some(word & (UNHEALTHY | GONE)))
    }

    /// Notes what health checks say. Whether that is news.
    pub(super) fn set_unhealthy(&self, is_unhealthy: bool) -> bool {
        let set = |word: u64| if is_unhealthy { word | UNHEALTHY } else { word & !UNHEALTHY };
        self.change(|word| Some(set(word)).filter(|new| *new != word))
    }

    /// It is gone from its cluster and can no longer be ejected. Whether it was out.
    pub(super) fn retire(&self) -> bool {
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |_| Some(GONE));
        before.is_ok_and(|word| word & BREAKER != CLOSED)
    }

    /// Half-open → probing, for one caller; it gets what the breaker says from now on.
    fn claim(&self) -> Option<u64> {
        let may = |word: u64| word & (BREAKER | UNHEALTHY | GONE) == HALF_OPEN;
        let claimed = |word: u64| word & !BREAKER | PROBING;
        let before =
            self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| may(word).then(|| claimed(word))).ok()?;
        Some(breaker(claimed(before)))
    }

    /// Ends the probing that began with `claimed`. Whether it was still that one.
    fn settle(&self, claimed: u64, new: u64) -> bool {
        self.change(|word| (breaker(word) == claimed).then_some(word & (UNHEALTHY | GONE) | new))
    }

    fn change(&self, new: impl Fn(u64) -> Option<u64>) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, new).is_ok()
    }
}

fn reason(word: u64) -> Reason {
    let number = usize::try_from(word >> REASON & 0xff).unwrap_or_default();
    Reason::ALL.get(number).copied().unwrap_or(Reason::Consecutive5xx)
}

/// The one request that tells whether a half-open endpoint is well. It goes back to half-open when this is dropped
/// without an outcome: the caller went away, or we refused the request ourselves.
#[derive(Debug)]
pub struct Probe {
    endpoint: Arc<EndpointState>,
    stats: Arc<ClusterStats>,
    claimed: u64,
    is_settled: std::cell::Cell<bool>,
}

impl Probe {
    /// The endpoint that is probed.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }

    /// It is well: closed. False when this was settled before, or somebody else has decided meanwhile.
    pub(super) fn succeed(&self) -> bool {
        self.settle(CLOSED)
    }

    /// It is not: open again. False as above.
    pub(super) fn fail(&self, until: Moment) -> bool {
        self.settle(opened(until, Reason::FailedProbe))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_settled.get()
    }

    fn settle(&self, new: u64) -> bool {
        !self.is_settled.replace(true) && self.endpoint.fitness.settle(self.claimed, new)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.settle(breaker(self.claimed & !BREAKER | HALF_OPEN)) {
            self.stats.changed();
        }
    }
}

impl EndpointState {
    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.fitness.standing()
    }

    /// How it would stand if nobody checked its health.
    pub fn breaker(&self) -> Standing {
        self.fitness.breaker()
    }

    /// Whether it fails its health checks, or has not passed its first one.
    pub fn is_unhealthy(&self) -> bool {
        self.fitness.is_unhealthy()
    }

    /// The right to probe a half-open endpoint: one caller in the process gets it.
    pub fn claim_probe(self: &Arc<Self>, stats: &Arc<ClusterStats>) -> Option<Probe> {
        let claimed = self.fitness.claim()?;
        stats.changed();
        stats.probes.fetch_add(1, Ordering::Relaxed);
        let (endpoint, stats) = (Arc::clone(self), Arc::clone(stats));
        Some(Probe { endpoint, stats, claimed, is_settled: std::cell::Cell::new(false) })
    }
}

#[cfg(test)]
mod tests;
