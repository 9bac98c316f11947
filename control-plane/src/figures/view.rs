//! All of it added up by who talks to whom: what `GET /figures?window=60s` answers.

use std::collections::BTreeMap;
use std::time::Duration;

use leno_config::node::Node;
use serde::{Deserialize, Serialize};

use super::counters::{AtCluster, Between, Counters, Key, OnRoute};
use super::history::{History, SPAN_MS};

/// The window where nobody says another.
pub(crate) const USUAL: Duration = Duration::from_secs(60);
/// The shortest that makes sense.
const SHORTEST: Duration = Duration::from_secs(1);

/// What all connected proxies counted in a window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct View {
    /// As it was asked for, in seconds. What a proxy's numbers really cover is [`Seen::span_s`].
    pub(crate) window_s: f64,
    /// Upper bounds of [`Counters::durations`], in milliseconds; there is one more count than bounds.
    pub(crate) duration_bounds_ms: Vec<f64>,
    /// By node id.
    pub(crate) proxies: Vec<Seen>,
    /// Requests by who talks to whom.
    pub(crate) requests: Vec<Row<Between>>,
    /// TCP connections by who talks to whom.
    pub(crate) tcp: Vec<Row<Between>>,
    /// Requests by route.
    pub(crate) routes: Vec<Row<OnRoute>>,
    /// Retries by cluster, as requests.
    pub(crate) retries: Vec<Row<AtCluster>>,
    /// While it is being made.
    #[serde(skip)]
    sums: BTreeMap<Key, (Counters, Rates)>,
}

/// A proxy that was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Its node id.
    pub(crate) node: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) workload: String,
    /// What its numbers cover, in seconds; 0: it has been looked at only once.
    pub(crate) span_s: f64,
    /// Connections from callers that are open now.
    pub(crate) connections_active: u64,
    /// Requests under way now.
    pub(crate) requests_active: u64,
    /// Why its numbers are missing or old.
    pub(crate) problem: Option<String>,
}

/// Numbers under a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row<K> {
    /// Of what.
    #[serde(flatten)]
    pub(crate) of: K,
    /// In the window.
    pub(crate) counters: Counters,
    /// Per second.
    pub(crate) rates: Rates,
}

/// Per second. Added up from the rates of each proxy, since each has been watched for its own while.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rates {
    pub(crate) requests: f64,
    pub(crate) failures: f64,
    pub(crate) received: f64,
    pub(crate) sent: f64,
}

impl Rates {
    fn of(counters: &Counters, span_ms: u64) -> Self {
        // Counts far beyond 2^53 do not happen within ten minutes.
        #[allow(clippy::cast_precision_loss)]
        let per_second = |count: u64| if span_ms == 0 { 0.0 } else { count as f64 * 1000.0 / span_ms as f64 };
        Self {
            requests: per_second(counters.requests),
            failures: per_second(counters.failures),
            received: per_second(counters.received),
            sent: per_second(counters.sent),
        }
    }

    /// Adds those of another proxy or key.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { requests, failures, received, sent } = other;
        self.requests += requests;
        self.failures += failures;
        self.received += received;
        self.sent += sent;
    }
}

impl View {
    /// Of nobody yet.
    pub(crate) fn new(window: Duration, duration_bounds_ms: Vec<f64>) -> Self {
        Self { window_s: window.as_secs_f64(), duration_bounds_ms, ..Self::default() }
    }

    /// With one more proxy.
    pub(crate) fn add(&mut self, node: &Node, history: Option<&History>, problem: Option<&str>) {
        // A window has ten minutes at most.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let window = history.map(|history| history.window((self.window_s * 1000.0) as u64)).unwrap_or_default();
        #[allow(clippy::cast_precision_loss)]
        let span_s = window.span_ms as f64 / 1000.0;
        self.proxies.push(Seen {
            node: node.id(),
            name: node.name.clone(),
            namespace: node.namespace.clone(),
            workload: node.workload.clone(),
            span_s,
            connections_active: history.map_or(0, |history| history.connections_active),
            requests_active: history.map_or(0, |history| history.requests_active),
            problem: problem.map(str::to_owned),
        });
        for (key, counters) in window.added {
            let (sum, rates) = self.sums.entry((*key).clone()).or_default();
            sum.add(&counters);
            rates.add(&Rates::of(&counters, window.span_ms));
        }
    }

    /// All proxies have been added.
    pub(crate) fn finish(&mut self) {
        for (key, (counters, rates)) in std::mem::take(&mut self.sums) {
            match key {
                Key::Requests(of) => self.requests.push(Row { of, counters, rates }),
                Key::Tcp(of) => self.tcp.push(Row { of, counters, rates }),
                Key::Route(of) => self.routes.push(Row { of, counters, rates }),
                Key::Retries(of) => self.retries.push(Row { of, counters, rates }),
            }
        }
    }
}

/// A window as it is written: `90s`, `5m`, or seconds alone; one second to ten minutes.
pub(crate) fn parse_window(text: &str) -> Result<Duration, String> {
    let (number, unit) = match (text.strip_suffix('m'), text.strip_suffix('s')) {
        (Some(minutes), _) => (minutes, 60),
        (None, Some(seconds)) => (seconds, 1),
        (None, None) => (text, 1),
    };
    let window = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).map(Duration::from_secs);
    let range = SHORTEST..=Duration::from_millis(SPAN_MS);
    window.filter(|window| range.contains(window)).ok_or_else(|| {
        format!("`{}` is no window: write 1s to 600s, or 1m to 10m; further back nothing is kept", text.escape_debug())
    })
}

/// The duration, in milliseconds, that this share (0 to 1) of requests did not exceed, taken as evenly spread within its
/// bucket; `None`: there were none. What is above the last bound is taken for the last bound.
pub(crate) fn quantile(durations: &[u64], bounds: &[f64], share: f64) -> Option<f64> {
    let total = durations.iter().sum::<u64>();
    if total == 0 {
        return None;
    }
    #[allow(clippy::cast_precision_loss)]
    let rank = total as f64 * share.clamp(0.0, 1.0);
    let mut below = 0.0;
    for (at, count) in durations.iter().enumerate() {
        #[allow(clippy::cast_precision_loss)]
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            let lower = at.checked_sub(1).and_then(|at| bounds.get(at)).copied().unwrap_or_default();
            let Some(upper) = bounds.get(at) else { return Some(lower) };
            return Some(lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0));
        }
        below += count;
    }
    bounds.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_seconds_or_minutes_within_what_is_kept() {
        for (text, expected) in [
            ("60s", Some(60)),
            ("90", Some(90)),
            ("1m", Some(60)),
            ("10m", Some(600)),
            ("11m", None),
            ("0s", None),
            ("", None),
            ("m", None),
            ("-1s", None),
            ("1h", None),
            ("99999999999999999999m", None),
            ("18446744073709551615m", None),
        ] {
            assert_eq!(parse_window(text).ok(), expected.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn quantiles_are_spread_evenly_within_their_bucket() {
        let bounds = [1.0, 5.0, 10.0];
        for (durations, share, expected) in [
            (&[][..], 0.5, None),
            (&[0, 0], 0.5, None),
            (&[10], 0.5, Some(0.5)),
            (&[10], 1.0, Some(1.0)),
            (&[0, 10], 0.5, Some(3.0)),
            (&[5, 5], 0.5, Some(1.0)),
            (&[98, 0, 2], 0.99, Some(7.5)),
            (&[0, 0, 0, 3], 0.5, Some(10.0)),
            (&[1, 0, 0, 0, 0], 0.99, Some(0.99)),
        ] {
            assert_eq!(quantile(durations, &bounds, share), expected, "{durations:?} {share}");
        }
    }
}
