//! `/clusters`: how clusters and their endpoints stand, as lines in Envoy's form or as JSON (`?format=json`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use leno_config::ir;
use serde::{Deserialize, Serialize};

use crate::cluster::balance::Balancer;
use crate::cluster::limits::Limit;
use crate::cluster::membership::Group;
use crate::cluster::standing::{Moment, Standing};
use crate::cluster::{Cluster, Member, Members};
use crate::state::snapshot::Snapshot;

use super::Shared;
use super::answer::{self, Answer};
use super::query::{Query, QueryError};

/// How a cluster stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Share among those of its locality.
    pub weight: u32,
    /// 0 is used first.
    #[serde(default)]
    pub priority: usize,
    /// Where it runs, as `region/zone/subzone`; empty: nobody said.
    #[serde(default)]
    pub locality: String,
    /// What the control plane says of its health, where it says something: `healthy`, `unhealthy`, `draining`, `timeout`,
    /// `degraded`.
    #[serde(default)]
    pub advertised: Option<String>,
    /// Who it has to be, over mTLS; `None`: it is called in clear text, or its identity does not matter.
    #[serde(default)]
    pub identity: Option<String>,
    /// How soon it may be expected to answer, in milliseconds (peak EWMA); `None`: balancing does not go by that.
    #[serde(default)]
    pub ewma_ms: Option<f32>,
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
            Members::Balanced(balancer) => endpoints(balancer, config.health_check.is_some(), now),
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

fn endpoints(balancer: &Balancer, is_checked: bool, now: Moment) -> Vec<EndpointStatus> {
    let seen = Seen { now, is_checked, learns_latency: balancer.learns_latency() };
    let all = balancer.groups().flat_map(|(group, members)| members.iter().map(move |member| (member, group)));
    all.map(|(member, group)| EndpointStatus::of(member, group, &seen)).collect()
}

/// How the endpoints of a cluster are looked at.
#[derive(Debug, Clone, Copy)]
struct Seen {
    now: Moment,
    /// Somebody checks their health.
    is_checked: bool,
    learns_latency: bool,
}

/// `region/zone/subzone` as far as it is known.
fn place(locality: &ir::Locality) -> String {
    let parts = [&locality.region, &locality.zone, &locality.subzone].map(String::as_str);
    parts.join("/").trim_end_matches('/').to_owned()
}

fn advertised(health: ir::Health) -> Option<&'static str> {
    match health {
        ir::Health::Unknown => None,
        ir::Health::Healthy => Some("healthy"),
        ir::Health::Unhealthy => Some("unhealthy"),
        ir::Health::Draining => Some("draining"),
        ir::Health::Timeout => Some("timeout"),
        ir::Health::Degraded => Some("degraded"),
    }
}

impl EndpointStatus {
    fn of(member: &Member, group: &Group, seen: &Seen) -> Self {
        let (state, Seen { now, is_checked, learns_latency }) = (&*member.state, *seen);
        let (reason, open_for_ms) = match state.breaker() {
            Standing::Ejected { until, reason } => {
                let left = u64::try_from(now.until(until).as_millis()).unwrap_or(u64::MAX);
                (Some(reason.as_str().to_owned()), Some(left))
            }
            Standing::Available | Standing::HalfOpen | Standing::Probing | Standing::Unhealthy => (None, None),
        };
        Self {
            address: state.address,
            weight: member.weight,
            priority: group.priority,
            locality: place(&group.locality),
            advertised: advertised(member.health).map(str::to_owned),
            identity: state.security.identity.as_ref().map(ToString::to_string),
            ewma_ms: learns_latency.then(|| state.latency.expected_at(now)),
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
        fact("priority", &self.priority);
        fact("region", &self.locality_part(0));
        fact("zone", &self.locality_part(1));
        fact("sub_zone", &self.locality_part(2));
        if let Some(identity) = &self.identity {
            fact("identity", identity);
        }
        if let Some(ewma_ms) = self.ewma_ms {
            fact("ewma_ms", &format!("{ewma_ms:.1}"));
        }
        fact("rq_active", &self.active);
        fact("rq_total", &self.requests);
        fact("rq_success", &self.successes);
        fact("rq_error", &self.errors);
    }

    fn locality_part(&self, part: usize) -> &str {
        self.locality.split('/').nth(part).unwrap_or_default()
    }

    /// In Envoy's words. Who is half-open or probed does not have its share yet.
    fn health_flags(&self) -> String {
        let checked = if self.healthy == Some(false) { "/failed_active_hc" } else { "" };
        let judged = if self.breaker == Standing::Available.as_str() { "" } else { "/failed_outlier_check" };
        let said = match self.advertised.as_deref() {
            Some("unhealthy" | "draining" | "timeout") => "/failed_eds_health",
            Some("degraded") => "/degraded_eds_health",
            Some(_) | None => "",
        };
        match format!("{checked}{judged}{said}") {
            none if none.is_empty() => "healthy".to_owned(),
            flags => flags,
        }
    }
}
