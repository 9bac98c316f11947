//! What `/stats/prometheus` shows of clusters: what is in use of what is limited, who is out and why, what was tried again.
//!
//! Counted where it happens, in [`ClusterStats`](crate::cluster::ClusterStats); read here when somebody asks. A cluster
//! without limits and without outlier detection has no series.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::cluster::limits::Limit;
use crate::cluster::standing::Reason;
use crate::state::snapshot::Snapshot;

use super::envoy;
use super::registry::Telemetry;
use super::text::{counter, family, gauge, to_f64};

const RETRIES: &str = "leno_cluster_retries_total";
const RETRIES_ENDED: &str = "leno_cluster_retries_ended_total";
const TIMEOUTS: &str = "leno_cluster_timeouts_total";
const BODIES_TOO_LARGE: &str = "leno_retry_body_too_large_total";
const IN_USE: &str = "leno_cluster_in_use";
const OVERFLOWS: &str = "leno_cluster_overflows_total";
const EJECTED: &str = "leno_cluster_ejections_active";
const EJECTIONS: &str = "leno_cluster_ejections_total";
const EJECTIONS_OVERFLOW: &str = "leno_cluster_ejections_overflow_total";
const PROBES: &str = "leno_cluster_half_open_probes_total";
const UNHEALTHY: &str = "leno_cluster_unhealthy_endpoints";
const BUDGET_LEFT: &str = "leno_cluster_retry_budget_left";
const BREAKER_OPEN: &str = "leno_cluster_breaker_open";
const POOL: &str = "leno_cluster_pool_connections";

/// The collector that a registry holds.
#[derive(Debug)]
pub struct ClusterMetrics {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    telemetry: Arc<Telemetry>,
    descriptions: Vec<Desc>,
}

impl ClusterMetrics {
    /// Over the clusters of the snapshot in force.
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, prometheus::Error> {
        let descriptions = [
            RETRIES,
            RETRIES_ENDED,
            TIMEOUTS,
            BODIES_TOO_LARGE,
            IN_USE,
            OVERFLOWS,
            EJECTED,
            EJECTIONS,
            EJECTIONS_OVERFLOW,
            PROBES,
            UNHEALTHY,
            BUDGET_LEFT,
            BREAKER_OPEN,
            POOL,
        ]
        .into_iter()
        .chain(envoy::NAMES)
        .map(|name| Desc::new(name.to_owned(), "leno".to_owned(), Vec::new(), HashMap::new()))
        .collect::<Result<_, _>>()?;
        Ok(Self { snapshots, telemetry, descriptions })
    }
}

impl Collector for ClusterMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let clusters = snapshot.clusters.as_slice();
        let families = [limits(clusters), ejections(clusters), retries(clusters)]
            .into_iter()
            .flatten()
            .chain([unhealthy(clusters), pools(clusters)])
            .chain(envoy::collected(clusters, &self.telemetry.requests().totals()));
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

fn limits(clusters: &[Arc<Cluster>]) -> Vec<MetricFamily> {
    let mut in_use = family(IN_USE, "How much of what a cluster limits is in use.", MetricType::GAUGE);
    let mut overflows = family(OVERFLOWS, "What a cluster's limits refused.", MetricType::COUNTER);
    let mut open = family(BREAKER_OPEN, "1 while all that a limit allows is in use.", MetricType::GAUGE);
    let mut left = family(BUDGET_LEFT, "Retries that the budget or limit would allow now.", MetricType::GAUGE);
    for cluster in clusters {
        let (of, usage) = (("cluster", cluster.config.name.as_str()), &cluster.stats.usage);
        for limit in Limit::ALL {
            let Some(allowed) = limit.allowed_now(&cluster.config.limits, usage) else { continue };
            let (labels, used) = ([of, ("limit", limit.as_str())], usage.get(limit));
            in_use.mut_metric().push(gauge(&labels, f64::from(used)));
            open.mut_metric().push(gauge(&labels, f64::from(u8::from(used >= allowed))));
            overflows.mut_metric().push(counter(&labels, cluster.stats.overflows(limit).load(Ordering::Relaxed)));
            if limit == Limit::Retries {
                left.mut_metric().push(gauge(&[of], f64::from(allowed.saturating_sub(used))));
            }
        }
    }
    vec![in_use, overflows, open, left]
}

fn ejections(clusters: &[Arc<Cluster>]) -> Vec<MetricFamily> {
    let mut active = family(EJECTED, "Endpoints that are ejected, half-open or probed.", MetricType::GAUGE);
    let mut total = family(EJECTIONS, "Ejections, by reason.", MetricType::COUNTER);
    let help = "Ejections that did not happen because too many endpoints were out.";
    let mut overflow = family(EJECTIONS_OVERFLOW, help, MetricType::COUNTER);
    let help = "Requests that were to show whether a half-open endpoint is well.";
    let mut probes = family(PROBES, help, MetricType::COUNTER);
    for cluster in clusters.iter().filter(|cluster| cluster.config.outlier.is_some()) {
        let of = ("cluster", cluster.config.name.as_str());
        let stats = &cluster.stats;
        active.mut_metric().push(gauge(&[of], f64::from(stats.ejections.active())));
        overflow.mut_metric().push(counter(&[of], stats.ejections.overflow.load(Ordering::Relaxed)));
        probes.mut_metric().push(counter(&[of], stats.probes.load(Ordering::Relaxed)));
        for reason in Reason::ALL {
            let count = stats.ejections.by_reason(reason);
            if count > 0 {
                total.mut_metric().push(counter(&[of, ("reason", reason.as_str())], count));
            }
        }
    }
    vec![active, total, overflow, probes]
}

fn retries(clusters: &[Arc<Cluster>]) -> Vec<MetricFamily> {
    let mut begun = family(RETRIES, "Retries, by their reason.", MetricType::COUNTER);
    let help = "Requests that a retry has saved, for which no retry was left, or that a hop further on had tried again already.";
    let mut ended = family(RETRIES_ENDED, help, MetricType::COUNTER);
    let mut timeouts = family(TIMEOUTS, "Requests and attempts that took too long.", MetricType::COUNTER);
    let help = "Requests that could not be tried again because their body was too large to be kept.";
    let mut too_large = family(BODIES_TOO_LARGE, help, MetricType::COUNTER);
    for cluster in clusters {
        let (of, stats) = (("cluster", cluster.config.name.as_str()), &cluster.stats.retries);
        for (reason, count) in stats.reasons() {
            begun.mut_metric().push(counter(&[of, ("reason", reason)], count));
        }
        add(&mut ended, &[of, ("outcome", "success")], &stats.succeeded);
        add(&mut ended, &[of, ("outcome", "limit_exceeded")], &stats.used_up);
        add(&mut ended, &[of, ("outcome", "given_up_further_on")], &stats.given_up);
        add(&mut timeouts, &[of, ("of", "request")], &stats.timeouts);
        add(&mut timeouts, &[of, ("of", "attempt")], &stats.try_timeouts);
        add(&mut too_large, &[of], &stats.body_too_large);
    }
    vec![begun, ended, timeouts, too_large]
}

/// Connections by what they do, of clusters that have any. What is idle is looked at once a second.
fn pools(clusters: &[Arc<Cluster>]) -> MetricFamily {
    let mut pools = family(POOL, "Connections to endpoints: all that are open, and idle ones.", MetricType::GAUGE);
    for cluster in clusters.iter().filter(|cluster| cluster.stats.connections.load(Ordering::Relaxed) > 0) {
        let open = cluster.stats.usage.get(Limit::Connections);
        for (state, count) in [("open", open), ("idle", cluster.stats.idle.load(Ordering::Relaxed))] {
            let labels = [("cluster", cluster.config.name.as_str()), ("state", state)];
            pools.mut_metric().push(gauge(&labels, f64::from(count)));
        }
    }
    pools
}

/// Adds a series, once there is something to count.
fn add(family: &mut MetricFamily, labels: &[(&str, &str)], count: &AtomicU64) {
    let count = count.load(Ordering::Relaxed);
    if count > 0 {
        family.mut_metric().push(counter(labels, count));
    }
}

fn unhealthy(clusters: &[Arc<Cluster>]) -> MetricFamily {
    let mut unhealthy = family(UNHEALTHY, "Endpoints that fail their health checks.", MetricType::GAUGE);
    for cluster in clusters.iter().filter(|cluster| cluster.config.health_check.is_some()) {
        let count = cluster.members.states().filter(|state| state.is_unhealthy()).count();
        let labels = [("cluster", cluster.config.name.as_str())];
        unhealthy.mut_metric().push(gauge(&labels, to_f64(count as u64)));
    }
    unhealthy
}
