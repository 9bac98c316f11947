//! What is counted per cluster, for `/stats/prometheus`.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};

use super::{Cluster, ClusterStats};

/// The figures of some clusters, read at each scrape. Only services of the mesh show how often they are called in clear
/// text: there it is mostly a label that is missing, and must not be silent.
#[expect(clippy::expect_used, reason = "a constant name and label")]
pub fn collected<'c>(clusters: impl Iterator<Item = &'c Cluster>) -> Vec<MetricFamily> {
    let help = "Connections to services of the mesh that were opened in clear text.";
    let clear_text = IntCounterVec::new(Opts::new("leno_clear_text_connections_total", help), &["cluster"])
        .expect("invariant: the name and the label are valid");
    for cluster in clusters.filter(|cluster| cluster.config.mesh_internal) {
        let count = cluster.stats.in_clear_text();
        clear_text.with_label_values(&[&*cluster.config.name.to_string()]).inc_by(count);
    }
    clear_text.collect().into_iter().filter(|family| !family.get_metric().is_empty()).collect()
}

/// How many idle connections one worker has in a cluster, taken back when the worker is done with it.
#[derive(Debug)]
pub struct Idle {
    stats: Arc<ClusterStats>,
    seen: Cell<u32>,
}

impl Idle {
    /// None yet.
    pub fn new(stats: &Arc<ClusterStats>) -> Self {
        Self { stats: Arc::clone(stats), seen: Cell::new(0) }
    }

    /// So many now. Touches what workers share only when it is another number.
    pub fn set(&self, count: u32) {
        let before = self.seen.replace(count);
        if count != before {
            self.stats.idle.fetch_add(count, Ordering::Relaxed);
            self.stats.idle.fetch_sub(before, Ordering::Relaxed);
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl super::ClusterStats {
    /// Connections opened without encryption.
    pub fn in_clear_text(&self) -> u64 {
        // Read in this order, or one that opens now could make it negative.
        let encrypted = self.encrypted.load(Ordering::Relaxed);
        self.connections.load(Ordering::Relaxed).saturating_sub(encrypted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_of_all_workers_add_up_and_go_with_them() {
        let stats = Arc::new(ClusterStats::default());
        let (one, other) = (Idle::new(&stats), Idle::new(&stats));
        one.set(3);
        other.set(2);
        one.set(1);
        assert_eq!(stats.idle.load(Ordering::Relaxed), 3);
        drop(other);
        assert_eq!(stats.idle.load(Ordering::Relaxed), 1);
    }
}
