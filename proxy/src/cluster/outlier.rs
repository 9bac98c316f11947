//! Outlier detection: endpoints that answer badly are left out for a while.
//!
//! The rules are Envoy's. Errors in a row eject at once, where they are reported, on whichever worker that is. Rates are
//! looked at once an interval, in one place of the process ([`look`]), and there ejections end. An ejection lasts
//! `base × n`, at most `max`; `n` grows with each ejection and shrinks with each interval that the endpoint is in.
//! Never more than a share of the cluster is out.
//!
//! What Envoy does not have is the probe: an endpoint whose time is over gets one request, and its full share only when
//! that succeeds ([`standing`](super::standing)). While it waits for that it counts as out.
//!
//! Time is an argument, so that tests need no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use leno_config::ir::{FailurePercentage, OutlierDetection, SuccessRate};

use super::outcome::Outcome;
use super::standing::{Moment, Probe, Reason};
use super::{Cluster, ClusterStats, EndpointState};

/// What is remembered of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Record {
    errors_in_a_row: AtomicU32,
    gateway_errors_in_a_row: AtomicU32,
    local_errors_in_a_row: AtomicU32,
    /// Of this interval; only where rates are looked at.
    external: Window,
    local: Window,
    /// The `n` of the next ejection's `base × n`, less one.
    multiplier: AtomicU32,
    /// Ejections so far.
    pub(super) ejections: AtomicU64,
}

/// Requests of one interval.
#[derive(Debug, Default)]
struct Window {
    total: AtomicU32,
    successes: AtomicU32,
}

/// What a cluster counts of ejections.
#[derive(Debug, Default)]
pub struct Ejections {
    /// Endpoints that are out: ejected, half-open or probed.
    active: AtomicU32,
    /// Ejections so far, by [`Reason::index`].
    by_reason: [AtomicU64; Reason::ALL.len()],
    /// Ejections that did not happen because too many endpoints were out (Envoy's `ejections_overflow`).
    pub overflow: AtomicU64,
}

impl Ejections {
    /// Endpoints that are out.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Ejections so far for one reason.
    pub fn by_reason(&self, reason: Reason) -> u64 {
        self.by_reason.get(reason.index()).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn count(&self, reason: Reason) {
        if let Some(count) = self.by_reason.get(reason.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes room for one more that is out, if `size` endpoints allow it.
    fn reserve(&self, config: &OutlierDetection, size: usize) -> bool {
        let fits = |active: u32| {
            let may_be_first = active == 0 && config.always_eject_one;
            // (active + 1) of size is at most the share.
            let share = config.max_ejection_share;
            let allowed = u64::from(share.millionths()) * u64::try_from(size).unwrap_or(u64::MAX);
            may_be_first || (u64::from(active) + 1) * 1_000_000 <= allowed
        };
        let one_more = |active: u32| fits(active).then(|| active + 1);
        self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn give_back(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who belongs to a cluster, and by which rules they are judged.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// The rules.
    pub config: &'a OutlierDetection,
    /// Counts of the cluster.
    pub stats: &'a ClusterStats,
    /// How many endpoints it has.
    pub size: usize,
}

/// Which of the detectors an outcome speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    is_error: bool,
    is_gateway_error: bool,
    is_local: bool,
}

impl<'a> Judge<'a> {
    /// Of a cluster with outlier detection.
    pub(super) fn of(cluster: &'a Cluster) -> Option<Self> {
        let config = cluster.config.outlier.as_ref()?;
        Some(Self { config, stats: &cluster.stats, size: cluster.members.len() })
    }

    /// Takes note of what became of an attempt.
    pub(super) fn note(
        &self,
        endpoint: &EndpointState,
        probe: Option<&Probe>,
        outcome: Outcome,
        now: impl Fn() -> Moment,
    ) {
        let verdict = self.verdict(outcome);
        if let Some(probe) = probe.filter(|probe| !probe.is_settled()) {
            return self.settle(endpoint, probe, verdict, now());
        }
        self.note_rates(endpoint, verdict);
        if let Some(reason) = self.in_a_row(&endpoint.record, verdict) {
            self.eject(endpoint, reason, now());
        }
    }

    /// Envoy: where local errors are not told apart, a timeout is a 504 and any other a 503.
    fn verdict(&self, outcome: Outcome) -> Verdict {
        let local =
            |is_error| Verdict { is_error, is_gateway_error: is_error && !self.config.split_local, is_local: true };
        match outcome {
            Outcome::Answered(status) => {
                let codes = &self.config.status_codes;
                let is_error = if codes.is_empty() { (500..600).contains(&status) } else { codes.contains(&status) };
                let is_gateway_error = is_error && matches!(status, 502..=504);
                Verdict { is_error, is_gateway_error, is_local: false }
            }
            Outcome::Connected => local(false),
            Outcome::ConnectFailure | Outcome::TimedOut | Outcome::Reset => local(true),
        }
    }

    /// Counts errors in a row. A reason to eject, when there are as many as it takes; then counting starts anew.
    fn in_a_row(&self, record: &Record, verdict: Verdict) -> Option<Reason> {
        let Verdict { is_error, is_gateway_error, is_local } = verdict;
        let config = self.config;
        if config.split_local {
            // Whoever has answered was reached.
            let is_reached = !(is_local && is_error);
            let local = count(&record.local_errors_in_a_row, !is_reached, config.consecutive_local);
            if is_local {
                return local.then_some(Reason::ConsecutiveLocal);
            }
        }
        let gateway = count(&record.gateway_errors_in_a_row, is_gateway_error, config.consecutive_gateway);
        let any = count(&record.errors_in_a_row, is_error, config.consecutive_5xx);
        match (gateway, any) {
            (true, _) => Some(Reason::ConsecutiveGateway),
            (false, true) => Some(Reason::Consecutive5xx),
            (false, false) => None,
        }
    }

    fn note_rates(&self, endpoint: &EndpointState, verdict: Verdict) {
        if self.config.success_rate.is_none() && self.config.failure_percentage.is_none() {
            return;
        }
        let Record { external, local, .. } = &endpoint.record;
        let window = if verdict.is_local && self.config.split_local { local } else { external };
        window.total.fetch_add(1, Ordering::Relaxed);
        window.successes.fetch_add(u32::from(!verdict.is_error), Ordering::Relaxed);
    }

    /// Ejects an endpoint that is in, if the cluster can do without it.
    fn eject(&self, endpoint: &EndpointState, reason: Reason, now: Moment) {
        let ejections = &self.stats.ejections;
        if endpoint.fitness.is_out() {
            return;
        }
        if !ejections.reserve(self.config, self.size) {
            ejections.overflow.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if !endpoint.fitness.eject(self.until(&endpoint.record, now), reason) {
            return ejections.give_back();
        }
        self.ejected(endpoint, reason);
    }

    fn settle(&self, endpoint: &EndpointState, probe: &Probe, verdict: Verdict, now: Moment) {
        let failed = verdict.is_gateway_error && self.config.consecutive_gateway.is_some()
            || verdict.is_error && self.looks_at_errors();
        if failed {
            if probe.fail(self.until(&endpoint.record, now)) {
                self.ejected(endpoint, Reason::FailedProbe);
            }
        } else if probe.succeed() {
            self.readmitted(endpoint);
        }
    }

    /// Whether an error of any kind may lead to an ejection.
    fn looks_at_errors(&self) -> bool {
        let OutlierDetection { consecutive_5xx, consecutive_local, success_rate, failure_percentage, .. } = self.config;
        consecutive_5xx.is_some()
            || consecutive_local.is_some()
            || success_rate.is_some()
            || failure_percentage.is_some()
    }

    /// When an ejection that begins now ends: `base × n`, capped.
    fn until(&self, record: &Record, now: Moment) -> Moment {
        let times = record.multiplier.load(Ordering::Relaxed).saturating_add(1);
        now + self.config.base_ejection.saturating_mul(times).min(self.config.max_ejection)
    }

    fn ejected(&self, endpoint: &EndpointState, reason: Reason) {
        let Record { multiplier, ejections, .. } = &endpoint.record;
        // Envoy: no further than what reaches the longest ejection, or it would take as long to forget.
        let reached =
            self.config.base_ejection.saturating_mul(multiplier.load(Ordering::Relaxed)) >= self.config.max_ejection;
        if !reached {
            multiplier.fetch_add(1, Ordering::Relaxed);
        }
        ejections.fetch_add(1, Ordering::Relaxed);
        self.stats.ejections.count(reason);
        self.stats.changed();
    }

    fn readmitted(&self, endpoint: &EndpointState) {
        endpoint.record.forget_rows();
        self.stats.ejections.give_back();
        self.stats.changed();
    }

    /// What is done once an interval: ejections that are over become half-open, and rates are compared.
    pub fn look(&self, endpoints: &[&Arc<EndpointState>], now: Moment) {
        for endpoint in endpoints {
            if endpoint.fitness.half_open(now) {
                self.stats.changed();
            } else if !endpoint.fitness.is_out() {
                let one_less = |n: u32| n.checked_sub(1);
                // An error means that it was 0.
                let _ = endpoint.record.multiplier.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
            }
        }
        if self.config.success_rate.is_some() || self.config.failure_percentage.is_some() {
            self.compare(endpoints, |record| &record.external, [Reason::SuccessRate, Reason::FailurePercentage], now);
            let reasons = [Reason::LocalSuccessRate, Reason::LocalFailurePercentage];
            self.compare(endpoints, |record| &record.local, reasons, now);
        }
    }

    /// Ejects who stands out among `endpoints` by the rates of the interval that ends now.
    fn compare(
        &self,
        endpoints: &[&Arc<EndpointState>],
        window: fn(&Record) -> &Window,
        [by_rate, by_percentage]: [Reason; 2],
        now: Moment,
    ) {
        let is_local = by_rate == Reason::LocalSuccessRate;
        let mut rates: Vec<(usize, Rate)> = Vec::with_capacity(endpoints.len());
        for (at, endpoint) in endpoints.iter().enumerate() {
            let rate = window(&endpoint.record).end();
            if !endpoint.fitness.is_out() {
                rates.push((at, rate));
            }
        }
        let eject = |found: Vec<usize>, reason| {
            for endpoint in found.into_iter().filter_map(|at| endpoints.get(at)) {
                self.eject(endpoint, reason, now);
            }
        };
        if let Some(rule) = &self.config.success_rate
            && if is_local { rule.origins.local() } else { rule.origins.external() }
        {
            eject(below_the_others(&rates, rule), by_rate);
        }
        if let Some(rule) = &self.config.failure_percentage
            && if is_local { rule.origins.local() } else { rule.origins.external() }
        {
            eject(failing(&rates, rule), by_percentage);
        }
    }
}

/// Takes an endpoint back, whose health check has passed (Envoy) or whom nobody judges any longer.
pub(super) fn readmit(endpoint: &EndpointState, stats: &ClusterStats) {
    if endpoint.fitness.readmit() {
        endpoint.record.forget_rows();
        stats.ejections.give_back();
        stats.changed();
    }
}

/// An endpoint is no longer of this cluster.
pub(super) fn retire(endpoint: &EndpointState, stats: &ClusterStats) {
    if endpoint.fitness.retire() {
        stats.ejections.give_back();
    }
}

/// Counts an error, or forgets those before. Whether it is the last one it takes.
fn count(in_a_row: &AtomicU32, is_error: bool, enough: Option<u32>) -> bool {
    if !is_error {
        // Nearly always 0 already: then nothing is written.
        if in_a_row.load(Ordering::Relaxed) > 0 {
            in_a_row.store(0, Ordering::Relaxed);
        }
        return false;
    }
    let Some(enough) = enough else { return false };
    let is_enough = in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= enough;
    if is_enough {
        in_a_row.store(0, Ordering::Relaxed);
    }
    is_enough
}

impl Record {
    /// So that a few new errors do not lead to the next ejection.
    fn forget_rows(&self) {
        for row in [&self.errors_in_a_row, &self.gateway_errors_in_a_row, &self.local_errors_in_a_row] {
            row.store(0, Ordering::Relaxed);
        }
    }
}

/// How an endpoint did in an interval.
#[derive(Debug, Clone, Copy)]
struct Rate {
    requests: u32,
    /// Percent.
    successes: f64,
}

impl Window {
    /// The rate of the interval, and the beginning of the next.
    fn end(&self) -> Rate {
        let requests = self.total.swap(0, Ordering::Relaxed);
        let successes = self.successes.swap(0, Ordering::Relaxed).min(requests);
        Rate { requests, successes: 100.0 * f64::from(successes) / f64::from(requests.max(1)) }
    }
}

/// Whose success rate is below `mean - factor × standard deviation` of all that had enough requests.
fn below_the_others(rates: &[(usize, Rate)], rule: &SuccessRate) -> Vec<usize> {
    let compared: Vec<_> = rates.iter().filter(|(_, rate)| rate.requests >= rule.min_requests.max(1)).collect();
    if compared.is_empty() || compared.len() < usize::try_from(rule.min_hosts).unwrap_or(usize::MAX) {
        return Vec::new();
    }
    let count = f64::from(u32::try_from(compared.len()).unwrap_or(u32::MAX));
    let mean = compared.iter().map(|(_, rate)| rate.successes).sum::<f64>() / count;
    let variance = compared.iter().map(|(_, rate)| (rate.successes - mean).powi(2)).sum::<f64>() / count;
    let threshold = mean - f64::from(rule.factor) / 1000.0 * variance.sqrt();
    compared.into_iter().filter(|(_, rate)| rate.successes < threshold).map(|(at, _)| *at).collect()
}

/// Who failed at least `threshold` percent of enough requests.
fn failing(rates: &[(usize, Rate)], rule: &FailurePercentage) -> Vec<usize> {
    let judged: Vec<_> = rates.iter().filter(|(_, rate)| rate.requests >= rule.min_requests.max(1)).collect();
    if judged.len() < usize::try_from(rule.min_hosts).unwrap_or(usize::MAX) {
        return Vec::new();
    }
    let fails = |rate: &Rate| 100.0 - rate.successes >= f64::from(rule.threshold);
    judged.into_iter().filter(|(_, rate)| fails(rate)).map(|(at, _)| *at).collect()
}

/// The shortest time between two looks, whatever a control plane says.
pub(super) const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
