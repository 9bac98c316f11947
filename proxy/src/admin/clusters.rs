//! `/clusters`: how clusters and their endpoints stand, as lines in Envoy's form or as JSON (`?format=json`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::cluster::limits::Limit;
use crate::cluster::standing::{Moment, Standing};
use crate::cluster::{Cluster, EndpointState, Members};
use crate::state::snapshot::Snapshot;

use super::Shared;
use super::answer::{self, Answer};
use super::query::{Query, QueryError};

/// How a cluster stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// Counts since the process began.
    pub counts: BTreeMap<String, u64>,
    /// By what is limited: `connections`, `pending requests`, `requests`, `retries`.
    pub limits: BTreeMap<String, LimitStatus>,
    /// Endpoints that are ejected, half-open or probed; `None`: nobody judges them.
    pub ejected: Option<u32>,
    /// Those that are known beforehand.
    pub endpoints: Vec<EndpointStatus>,
    /// Where the endpoints come from, when they are not known beforehand.
    pub found_by: Option<String>,
}

/// How much of something limited is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// `None`: no limit.
    pub limit: Option<u32>,
    /// In use now.
    pub active: u32,
    /// Refused so far.
    pub overflows: u64,
}

/// How an endpoint stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Share among those of its cluster.
    pub weight: u32,
    /// `closed`, `open`, `half-open` or `probing`.
    pub breaker: String,
    /// Why it is open.
    pub reason: Option<String>,
    /// How long it stays open, in milliseconds; then it is half-open at the next interval.
    pub open_for_ms: Option<u64>,
    /// How often it was ejected.
    pub ejections: u64,
    /// Whether it passes its health checks; `None`: nobody checks.
    pub healthy: Option<bool>,
    /// Requests in flight.
    pub active: u32,
    /// Requests begun.
    pub requests: u64,
    /// Attempts that it answered below 500.
    pub successes: u64,
    /// The other attempts that came to an end.
    pub errors: u64,
}

/// How all clusters stand.
pub fn status(snapshot: &Snapshot) -> Vec<ClusterStatus> {
    let now = Moment::now();
    snapshot.clusters.iter().map(|cluster| ClusterStatus::of(cluster, now)).collect()
}

/// `/clusters`.
pub(super) fn answer(shared: &Shared, query: &Query) -> Result<Answer, QueryError> {
    let snapshot = shared.snapshot();
    Ok(match query.one_of("format", &["text", "json"])? {
        Some("json") => answer::json(&status(&snapshot)),
        Some(_) | None => answer::lines(text(&snapshot)),
    })
}

/// One line per fact, as Envoy writes it.
fn text(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for cluster in status(snapshot) {
        cluster.write(&mut out);
    }
    out
}

impl ClusterStatus {
    fn of(cluster: &Cluster, now: Moment) -> Self {
        let Cluster { config, members, told: _, stats } = cluster;
        let counts = [
            ("rq_total", &stats.requests),
            ("cx_total", &stats.connections),
            ("cx_tls", &stats.encrypted),
            ("cx_connect_fail", &stats.connect_failures),
            ("rq_unsent_retry", &stats.unsent_retries),
            ("half_open_probes", &stats.probes),
            ("ejections_overflow", &stats.ejections.overflow),
        ];
        let counts = counts.map(|(name, count)| (name, count.load(Ordering::Relaxed))).into_iter();
        let clear_text = config.mesh_internal.then(|| ("cx_clear_text", stats.in_clear_text()));
        let by_reason = stats.retries.reasons().map(|(reason, count)| (format!("rq_retry::{reason}"), count));
        let counts = counts.chain(clear_text).chain(stats.retries.facts());
        let counts = counts.map(|(name, count)| (name.to_owned(), count)).chain(by_reason).collect();
        let limits = Limit::ALL.map(|limit| {
            let overflows = stats.overflows(limit).load(Ordering::Relaxed);
            let status = LimitStatus {
                limit: limit.allowed_now(&config.limits, &stats.usage),
                active: stats.usage.get(limit),
                overflows,
            };
            (limit.as_str().to_owned(), status)
        });
        let endpoints = match members {
            Members::Balanced(balancer) => balancer
                .members()
                .iter()
                .map(|member| EndpointStatus::of(&member.state, member.weight, config.health_check.is_some(), now))
                .collect(),
            Members::RequestHost | Members::OriginalDestination => Vec::new(),
        };
        Self {
            name: config.name.to_string(),
            counts,
            limits: limits.into(),
            ejected: config.outlier.as_ref().map(|_| stats.ejections.active()),
            endpoints,
            found_by: match members {
                Members::Balanced(_) => None,
                Members::RequestHost => Some("by the host of each request".to_owned()),
                Members::OriginalDestination => Some("by the original destination".to_owned()),
            },
        }
    }

    fn write(&self, out: &mut String) {
        let Self { name, counts, limits, ejected, endpoints, found_by } = self;
        // Writing to a String does not fail.
        for (fact, count) in counts {
            let _ = writeln!(out, "{name}::{fact}::{count}");
        }
        for (what, LimitStatus { limit, active, overflows }) in limits {
            let what = what.replace(' ', "_");
            let limit = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
            let _ = writeln!(out, "{name}::default_priority::max_{what}::{limit}");
            let _ = writeln!(out, "{name}::default_priority::{what}_active::{active}");
            let _ = writeln!(out, "{name}::default_priority::{what}_overflow::{overflows}");
        }
        if let Some(ejected) = ejected {
            let _ = writeln!(out, "{name}::outlier::ejections_active::{ejected}");
        }
        for endpoint in endpoints {
            endpoint.write(name, out);
        }
        if let Some(found_by) = found_by {
            let _ = writeln!(out, "{name}::endpoints::{found_by}");
        }
    }
}

impl EndpointStatus {
    fn of(state: &EndpointState, weight: u32, is_checked: bool, now: Moment) -> Self {
        let (reason, open_for_ms) = match state.breaker() {
            Standing::Ejected { until, reason } => {
                let left = u64::try_from(now.until(until).as_millis()).unwrap_or(u64::MAX);
                (Some(reason.as_str().to_owned()), Some(left))
            }
            Standing::Available | Standing::HalfOpen | Standing::Probing | Standing::Unhealthy => (None, None),
        };
        Self {
            address: state.address,
            weight,
            breaker: state.breaker().as_str().to_owned(),
            reason,
            open_for_ms,
            ejections: state.ejections(),
            healthy: is_checked.then(|| !state.is_unhealthy()),
            active: state.active(),
            requests: state.requests.load(Ordering::Relaxed),
            successes: state.successes.load(Ordering::Relaxed),
            errors: state.errors.load(Ordering::Relaxed),
        }
    }

    fn write(&self, cluster: &str, out: &mut String) {
        let address = self.address;
        let mut fact = |fact: &str, value: &dyn std::fmt::Display| {
            // Writing to a String does not fail.
            let _ = writeln!(out, "{cluster}::{address}::{fact}::{value}");
        };
        fact("health_flags", &self.health_flags());
        fact("breaker", &self.breaker);
        if let (Some(reason), Some(open_for_ms)) = (&self.reason, self.open_for_ms) {
            fact("breaker_reason", reason);
            fact("breaker_open_for_ms", &open_for_ms);
        }
        fact("ejections", &self.ejections);
        fact("weight", &self.weight);
        fact("rq_active", &self.active);
        fact("rq_total", &self.requests);
        fact("rq_success", &self.successes);
        fact("rq_error", &self.errors);
    }

    /// In Envoy's words. Who is half-open or probed does not have its share yet.
    fn health_flags(&self) -> String {
        let checked = if self.healthy == Some(false) { "/failed_active_hc" } else { "" };
        let judged = if self.breaker == Standing::Available.as_str() { "" } else { "/failed_outlier_check" };
        match format!("{checked}{judged}") {
            none if none.is_empty() => "healthy".to_owned(),
            flags => flags,
        }
    }
}
