//! What is counted under one key, and the keys.

use leno_proxy::telemetry::figures::{Direction, Party, RequestRow, RetryRow, RouteRow, Service, TcpRow};
use serde::{Deserialize, Serialize};

/// Statuses of gRPC that are the server's fault, by OpenTelemetry's conventions for RPC: UNKNOWN, DEADLINE_EXCEEDED,
/// UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS.
const GRPC_FAILURES: [u8; 6] = [2, 4, 12, 13, 14, 15];
/// Envoy's flag for a caller that went away.
const CALLER_LEFT: &str = "DC";

/// What belongs together when figures of several proxies, statuses and moments are added up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Key {
    /// Requests between two workloads.
    Requests(Between),
    /// Connections between two workloads.
    Tcp(Between),
    /// Requests of one route.
    Route(OnRoute),
    /// Retries at one cluster.
    Retries(AtCluster),
}

/// Who talks to whom, and how.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Between {
    /// Who says so: the side of the caller (outbound) or of the called.
    pub(crate) direction: Direction,
    pub(crate) source: Party,
    pub(crate) destination: Party,
    pub(crate) service: Service,
    /// `http`, `grpc` or `tcp`.
    pub(crate) protocol: String,
    /// `mutual_tls`, `tls`, `none` or `unknown`.
    pub(crate) security: String,
    /// `X25519MLKEM768`, …; `-` in clear text.
    pub(crate) group: String,
}

/// A route of a workload's proxies and one of the clusters that it leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct OnRoute {
    pub(crate) direction: Direction,
    /// Whose proxies.
    pub(crate) of: Party,
    /// The rule.
    pub(crate) route: String,
    pub(crate) cluster: String,
    pub(crate) service: Service,
}

/// A cluster of a workload's proxies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct AtCluster {
    /// Whose proxies.
    pub(crate) of: Party,
    pub(crate) cluster: String,
}

/// Sums of counters; those that a key does not have are 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Or, at a cluster, retries.
    pub(crate) requests: u64,
    /// Of those: failed for the caller, by the fault of whoever answers.
    pub(crate) failures: u64,
    /// Requests by duration: how many up to each bound and above the one before. Zeros at the end are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) durations: Vec<u64>,
    /// Bytes that came from the caller.
    pub(crate) received: u64,
    /// Bytes that went to the caller.
    pub(crate) sent: u64,
    /// Connections.
    pub(crate) opened: u64,
    /// Connections.
    pub(crate) closed: u64,
}

impl Counters {
    /// Adds what another counted.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { requests, failures, durations, received, sent, opened, closed } = other;
        self.requests = self.requests.saturating_add(*requests);
        self.failures = self.failures.saturating_add(*failures);
        self.received = self.received.saturating_add(*received);
        self.sent = self.sent.saturating_add(*sent);
        self.opened = self.opened.saturating_add(*opened);
        self.closed = self.closed.saturating_add(*closed);
        if self.durations.len() < durations.len() {
            self.durations.resize(durations.len(), 0);
        }
        for (own, other) in self.durations.iter_mut().zip(durations) {
            *own = own.saturating_add(*other);
        }
    }

    /// What came to `before` to make this; `None`: they have been counted anew since, and this is all of it.
    pub(super) fn since(&self, before: &Self) -> Option<Self> {
        let Self { requests, failures, durations, received, sent, opened, closed } = before;
        // Zeros at the end are left out, so the last of them was not 0.
        if self.durations.len() < durations.len() {
            return None;
        }
        let step = |at: usize, now: u64| now.checked_sub(durations.get(at).copied().unwrap_or_default());
        let durations_since =
            self.durations.iter().enumerate().map(|(at, now)| step(at, *now)).collect::<Option<_>>()?;
        Some(Self {
            requests: self.requests.checked_sub(*requests)?,
            failures: self.failures.checked_sub(*failures)?,
            durations: trimmed(durations_since),
            received: self.received.checked_sub(*received)?,
            sent: self.sent.checked_sub(*sent)?,
            opened: self.opened.checked_sub(*opened)?,
            closed: self.closed.checked_sub(*closed)?,
        })
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.requests == 0 && self.opened == 0 && self.closed == 0 && self.received == 0 && self.sent == 0
    }
}

fn trimmed(mut durations: Vec<u64>) -> Vec<u64> {
    let end = durations.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    durations.truncate(end);
    durations.shrink_to_fit();
    durations
}

/// A row of a proxy's figures.
pub(super) trait Row {
    /// Under what it is added up.
    fn key(&self, own: &Party) -> Key;
    /// What tells it from all other rows of the same proxy, beyond the key: how its requests ended.
    fn end(&self) -> (u16, &str, Option<u8>);
    /// Its numbers.
    fn counters(&self) -> Counters;
}

impl Row for RequestRow {
    fn key(&self, _: &Party) -> Key {
        Key::Requests(Between {
            direction: self.direction,
            source: self.source.clone(),
            destination: self.destination.clone(),
            service: self.service.clone(),
            protocol: self.protocol.clone(),
            security: self.security.clone(),
            group: self.group.clone(),
        })
    }

    fn end(&self) -> (u16, &str, Option<u8>) {
        (self.code, &self.flags, self.grpc_status)
    }

    fn counters(&self) -> Counters {
        Counters {
            requests: self.requests,
            failures: if is_failure(self.code, &self.flags, self.grpc_status) { self.requests } else { 0 },
            durations: trimmed(self.duration.buckets.clone()),
            received: self.request_bytes,
            sent: self.response_bytes,
            ..Counters::default()
        }
    }
}

impl Row for RouteRow {
    fn key(&self, own: &Party) -> Key {
        Key::Route(OnRoute {
            direction: self.direction,
            of: own.clone(),
            route: self.route.clone(),
            cluster: self.cluster.clone(),
            service: self.service.clone(),
        })
    }

    fn end(&self) -> (u16, &str, Option<u8>) {
        (self.code, &self.flags, None)
    }

    fn counters(&self) -> Counters {
        Counters {
            requests: self.requests,
            failures: if is_failure(self.code, &self.flags, None) { self.requests } else { 0 },
            durations: trimmed(self.duration.buckets.clone()),
            ..Counters::default()
        }
    }
}

impl Row for TcpRow {
    fn key(&self, _: &Party) -> Key {
        Key::Tcp(Between {
            direction: self.direction,
            source: self.source.clone(),
            destination: self.destination.clone(),
            service: self.service.clone(),
            protocol: "tcp".to_owned(),
            security: self.security.clone(),
            group: self.group.clone(),
        })
    }

    fn end(&self) -> (u16, &str, Option<u8>) {
        (0, &self.flags, None)
    }

    fn counters(&self) -> Counters {
        let Self { opened, closed, received, sent, .. } = self;
        Counters { opened: *opened, closed: *closed, received: *received, sent: *sent, ..Counters::default() }
    }
}

impl Row for RetryRow {
    fn key(&self, own: &Party) -> Key {
        Key::Retries(AtCluster { of: own.clone(), cluster: self.cluster.clone() })
    }

    fn end(&self) -> (u16, &str, Option<u8>) {
        (0, "", None)
    }

    fn counters(&self) -> Counters {
        Counters { requests: self.begun, ..Counters::default() }
    }
}

/// A server error, or no answer at all, unless it was the caller who left.
fn is_failure(code: u16, flags: &str, grpc_status: Option<u8>) -> bool {
    match (code, grpc_status) {
        (0, _) => !flags.split(',').any(|flag| flag == CALLER_LEFT),
        (500.., _) => true,
        (_, Some(status)) => GRPC_FAILURES.contains(&status),
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_fails_by_the_fault_of_whoever_answers() {
        for (code, flags, grpc, expected) in [
            (200, "-", None, false),
            (404, "NR", None, false),
            (500, "-", None, true),
            (503, "UF,URX", None, true),
            (0, "DC", None, false),
            (0, "UR", None, true),
            (200, "-", Some(0), false),
            (200, "-", Some(5), false),
            (200, "-", Some(14), true),
            (503, "UH", Some(0), true),
        ] {
            assert_eq!(is_failure(code, flags, grpc), expected, "{code} {flags} {grpc:?}");
        }
    }

    #[test]
    fn what_came_since_is_the_difference_unless_it_was_counted_anew() {
        let counters =
            |requests, durations: &[u64]| Counters { requests, durations: durations.to_vec(), ..Counters::default() };
        let before = counters(5, &[2, 3]);
        assert_eq!(counters(9, &[2, 6, 1]).since(&before), Some(counters(4, &[0, 3, 1])));
        assert_eq!(counters(5, &[2, 3]).since(&before), Some(Counters::default()));
        assert_eq!(counters(4, &[1, 3]).since(&before), None, "fewer than before");
        assert_eq!(counters(6, &[6]).since(&before), None, "a bucket has fewer");
    }
}
