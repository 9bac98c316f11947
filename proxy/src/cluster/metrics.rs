//! What is counted per cluster, for `/stats/prometheus`.

use std::sync::atomic::Ordering;

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};

use super::Cluster;

/// The figures of some clusters, read at each scrape. Only services of the mesh show how often they are called in clear
/// text: there it is mostly a label that is missing, and must not be silent.
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

impl super::ClusterStats {
    /// Connections opened without encryption.
    pub fn in_clear_text(&self) -> u64 {
        // Read in this order, or one that opens now could make it negative.
        let encrypted = self.encrypted.load(Ordering::Relaxed);
        self.connections.load(Ordering::Relaxed).saturating_sub(encrypted)
    }
}
