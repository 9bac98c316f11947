//! What `/stats/prometheus` shows of clusters: what is in use of what is limited, who is out and why.
//!
//! Counted where it happens, in [`ClusterStats`](crate::cluster::ClusterStats); read here when somebody asks. A cluster
//! without limits and without outlier detection has no series.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::cluster::limits::Limit;
use crate::cluster::standing::Reason;
use crate::state::snapshot::Snapshot;

use super::registry::{counter, family, gauge, to_f64};

const IN_USE: &str = "leno_cluster_in_use";
const OVERFLOWS: &str = "leno_cluster_overflows_total";
const EJECTED: &str = "leno_cluster_ejections_active";
const EJECTIONS: &str = "leno_cluster_ejections_total";
const EJECTIONS_OVERFLOW: &str = "leno_cluster_ejections_overflow_total";
const PROBES: &str = "leno_cluster_half_open_probes_total";
const UNHEALTHY: &str = "leno_cluster_unhealthy_endpoints";

/// The collector that a registry holds.
#[derive(Debug)]
pub struct ClusterMetrics {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    descriptions: Vec<Desc>,
}

impl ClusterMetrics {
    /// Over the clusters of the snapshot in force.
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Result<Self, prometheus::Error> {
        let descriptions = [IN_USE, OVERFLOWS, EJECTED, EJECTIONS, EJECTIONS_OVERFLOW, PROBES, UNHEALTHY]
            .into_iter()
            .map(|name| Desc::new(name.to_owned(), "leno".to_owned(), Vec::new(), HashMap::new()))
            .collect::<Result<_, _>>()?;
        Ok(Self { snapshots, descriptions })
    }
}

impl Collector for ClusterMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let clusters = snapshot.clusters.as_slice();
        let families = [limits(clusters), ejections(clusters)].into_iter().flatten().chain([unhealthy(clusters)]);
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

fn limits(clusters: &[Arc<Cluster>]) -> Vec<MetricFamily> {
    let mut in_use = family(IN_USE, "How much of what a cluster limits is in use.", MetricType::GAUGE);
    let mut overflows = family(OVERFLOWS, "What a cluster's limits refused.", MetricType::COUNTER);
    for cluster in clusters {
        for limit in Limit::ALL.into_iter().filter(|limit| limit.allowed(&cluster.config.limits).is_some()) {
            let labels = [("cluster", cluster.config.name.as_str()), ("limit", limit.as_str())];
            in_use.mut_metric().push(gauge(&labels, f64::from(cluster.stats.usage.get(limit))));
            overflows.mut_metric().push(counter(&labels, cluster.stats.overflows(limit).load(Ordering::Relaxed)));
        }
    }
    vec![in_use, overflows]
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

fn unhealthy(clusters: &[Arc<Cluster>]) -> MetricFamily {
    let mut unhealthy = family(UNHEALTHY, "Endpoints that fail their health checks.", MetricType::GAUGE);
    for cluster in clusters.iter().filter(|cluster| cluster.config.health_check.is_some()) {
        let count = cluster.members.states().filter(|state| state.is_unhealthy()).count();
        let labels = [("cluster", cluster.config.name.as_str())];
        unhealthy.mut_metric().push(gauge(&labels, to_f64(count as u64)));
    }
    unhealthy
}
