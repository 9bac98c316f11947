//! Bytes: Envoy's TcpProxy.

use super::pb;
use super::refusal::{Problem, Result, Within, each, nonempty, required, unsupported};
use super::scalar::{limit_from_xds, limit_to_xds, positive_duration, u32_or};
use crate::defaults::TCP_IDLE_TIMEOUT;
use crate::ir::{ClusterName, Origin, TcpRoute, WeightedCluster, WeightedClusters};
use pb::kinds::HashPolicy;
use pb::kinds::hash_policy::{self, PolicySpecifier};
use pb::tcp_proxy::TcpProxy;
use pb::tcp_proxy::tcp_proxy::{self, ClusterSpecifier, weighted_cluster::ClusterWeight};

/// Where the route comes from does not travel here but as metadata of the filter chain.
pub(super) fn to_xds(route: &TcpRoute) -> TcpProxy {
    let TcpRoute { stat_prefix, origin: _, clusters, idle_timeout, hashes_source } = route;
    let specifier = match clusters.as_slice() {
        [only] => ClusterSpecifier::Cluster(only.cluster.to_string()),
        several => ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster {
            clusters: several
                .iter()
                .map(|share| ClusterWeight {
                    name: share.cluster.to_string(),
                    weight: share.weight,
                    metadata_match: None,
                })
                .collect(),
        }),
    };
    TcpProxy {
        stat_prefix: stat_prefix.clone(),
        cluster_specifier: Some(specifier),
        idle_timeout: limit_to_xds(*idle_timeout),
        hash_policy: hashes_source.then(source_hash).into_iter().collect(),
        ..Default::default()
    }
}

pub(super) fn from_xds(proxy: TcpProxy, origin: Option<Origin>) -> Result<TcpRoute> {
    #[allow(deprecated)]
    let TcpProxy {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        max_connect_attempts,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        proxy_protocol_tlvs,
        upstream_connect_mode,
        max_early_data_bytes,
        cluster_specifier,
        // Logs: those that are asked for were taken out before; how often one is flushed is Leno's own affair, and a line
        // is written when the connection ends.
        access_log: _,
        access_log_flush_interval: _,
        flush_access_log_on_connected: _,
        access_log_options: _,
        // Nothing without the fields that they refine, which are refused.
        backoff_options: _,
        max_downstream_connection_duration_jitter_percentage: _,
        proxy_protocol_tlv_merge_policy: _,
        // How a connection ends when the listener drains is Leno's own affair.
        check_drain_close: _,
    } = proxy;
    unsupported(&[
        ("on_demand", &on_demand),
        ("metadata_match", &metadata_match),
        ("downstream_idle_timeout", &downstream_idle_timeout),
        ("upstream_idle_timeout", &upstream_idle_timeout),
        ("max_connect_attempts", &(u32_or(max_connect_attempts, 1) > 1)),
        ("tunneling_config", &tunneling_config),
        (
            "max_downstream_connection_duration",
            &positive_duration("max_downstream_connection_duration", max_downstream_connection_duration)?,
        ),
        ("proxy_protocol_tlvs", &proxy_protocol_tlvs),
        ("upstream_connect_mode", &upstream_connect_mode),
        ("max_early_data_bytes", &max_early_data_bytes),
    ])?;
    let clusters = match required("cluster_specifier", cluster_specifier)? {
        ClusterSpecifier::Cluster(name) => WeightedClusters::single(ClusterName::new(nonempty("cluster", name)?)),
        ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster { clusters }) => {
            let clusters = each("weighted_clusters.clusters", clusters, share_from_xds)?;
            WeightedClusters::new(clusters).within("weighted_clusters.clusters")?
        }
    };
    let idle_timeout = limit_from_xds("idle_timeout", idle_timeout, TCP_IDLE_TIMEOUT)?;
    let hashes = each("hash_policy", hash_policy, hash_from_xds)?;
    Ok(TcpRoute { stat_prefix, origin, clusters, idle_timeout, hashes_source: !hashes.is_empty() })
}

/// The caller's address: all that bytes can be hashed by.
fn source_hash() -> HashPolicy {
    HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(hash_policy::SourceIp {})) }
}

fn hash_from_xds(policy: HashPolicy) -> Result<()> {
    let HashPolicy { policy_specifier } = policy;
    match required("policy_specifier", policy_specifier)? {
        PolicySpecifier::SourceIp(hash_policy::SourceIp {}) => Ok(()),
        PolicySpecifier::FilterState(_) => Err(Problem::unsupported("filter_state")),
    }
}

fn share_from_xds(share: ClusterWeight) -> Result<WeightedCluster> {
    let ClusterWeight { name, weight, metadata_match } = share;
    unsupported(&[("metadata_match", &metadata_match)])?;
    if weight == 0 {
        return Err(Problem::new("weight", "is at least 1"));
    }
    Ok(WeightedCluster::plain(ClusterName::new(nonempty("name", name)?), weight))
}
