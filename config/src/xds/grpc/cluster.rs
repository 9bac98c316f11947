//! Clusters.

use super::verdict::Verdict;
use crate::ir::{Address, Balance, Cluster, Discovery, Endpoints, Limits, OutlierDetection, UpstreamTls};
use crate::xds::scalar::{wrap_u32, wrap_u64};
use crate::xds::{any, base, endpoint, limits, pb};
use pb::balance as policies;
use pb::cluster::circuit_breakers::Thresholds;
use pb::cluster::cluster::ring_hash_lb_config::HashFunction;
use pb::cluster::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy, RingHashLbConfig,
};
use pb::cluster::load_balancing_policy::Policy;
use pb::cluster::{CircuitBreakers, LoadBalancingPolicy};

/// gRFC A42: the largest ring that a cluster may ask for.
const LARGEST_RING: u64 = 8 << 20;
/// Envoy's smallest ring, which Maglev's promise (few callers move when an endpoint goes) is kept with.
const USUAL_RING: u64 = 1024;

pub(super) fn to_xds(cluster: &Cluster, verdict: &mut Verdict) -> pb::cluster::Cluster {
    let Cluster {
        name,
        // Told by the cluster's name.
        service: _,
        discovery,
        balance,
        // gRPC speaks HTTP/2 and nothing else.
        protocol: _,
        // A channel has its own: one connection to each endpoint, with its own back-off and idleness.
        connect_timeout: _,
        idle_timeout: _,
        tcp_keepalive: _,
        source_addresses: _,
        max_requests_per_connection,
        max_connection_duration,
        // What the server says holds.
        max_concurrent_streams: _,
        limits,
        outlier,
        health_check,
        tls,
        // Connections of a channel are counted by nobody here.
        mesh_internal: _,
        // gRPC uses what is healthy and, where nothing is, everything it can connect to.
        panic_threshold: _,
        slow_start,
        // Localities of a priority are always used by their weights.
        locality_weighted: _,
    } = cluster;
    tls_verdict(tls, verdict);
    if max_requests_per_connection.is_some() {
        verdict.leave_out("connectionPool.http.maxRequestsPerConnection", "gRPC keeps its connections");
    }
    if max_connection_duration.is_some() {
        verdict.leave_out("connectionPool.tcp.maxConnectionDuration", "gRPC keeps its connections");
    }
    if health_check.is_some() {
        verdict.leave_out("HealthCheck", "a gRPC client goes by what it can connect to");
    }
    if slow_start.is_some() {
        verdict.leave_out("loadBalancer.warmup", "a new endpoint of gRPC gets its full share at once");
    }
    let (lb_policy, lb_config, load_balancing_policy) = balance_to_xds(balance);
    let mut message = pb::cluster::Cluster {
        name: name.to_string(),
        lb_policy: lb_policy.into(),
        lb_config,
        load_balancing_policy,
        circuit_breakers: Some(breakers_to_xds(limits, verdict)),
        outlier_detection: outlier.as_ref().map(|outlier| outlier_to_xds(outlier, verdict)),
        ..Default::default()
    };
    discovery_to_xds(&mut message, discovery, verdict);
    message
}

/// Endpoints that stand in the cluster, and that gRPC takes as a resource of their own.
pub(super) fn own_endpoints(cluster: &Cluster) -> Option<&Endpoints> {
    match &cluster.discovery {
        Discovery::Static(endpoints) => Some(endpoints),
        Discovery::Dns(endpoints) => Some(endpoints).filter(|endpoints| only_addresses(endpoints)),
        Discovery::Eds { .. } | Discovery::OriginalDestination | Discovery::RequestHost => None,
    }
}

fn only_addresses(endpoints: &Endpoints) -> bool {
    endpoints.iter().all(|endpoint| matches!(endpoint.address, Address::Socket(_)))
}

/// gRPC knows EDS and a name that it resolves to one address or several (`LOGICAL_DNS`).
fn discovery_to_xds(message: &mut pb::cluster::Cluster, discovery: &Discovery, verdict: &mut Verdict) {
    let mut eds = |service: Option<&String>| {
        message.eds_cluster_config = Some(EdsClusterConfig {
            eds_config: Some(base::ads()),
            service_name: service.cloned().unwrap_or_default(),
        });
        DiscoveryType::Eds
    };
    let kind = match discovery {
        Discovery::Eds { service } => eds(service.as_ref()),
        Discovery::Static(_) => eds(None),
        Discovery::Dns(endpoints) if only_addresses(endpoints) => eds(None),
        Discovery::Dns(endpoints) => {
            if endpoints.iter().count() != 1 {
                verdict.refuse("endpoints", "gRPC resolves one DNS name per cluster, and this has several endpoints");
            }
            message.load_assignment = Some(endpoint::to_xds(endpoints));
            DiscoveryType::LogicalDns
        }
        Discovery::OriginalDestination | Discovery::RequestHost => {
            let reason =
                "a service without endpoints of its own is reached by intercepting connections, which gRPC does not";
            verdict.refuse("resolution", reason);
            DiscoveryType::OriginalDst
        }
    };
    message.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
}

/// The older form says what every gRPC knows. The newer one is a list of which the first that the client knows counts, so
/// that one without least request takes turns instead of refusing the cluster.
fn balance_to_xds(balance: &Balance) -> (LbPolicy, Option<LbConfig>, Option<LoadBalancingPolicy>) {
    let ring = |min: u64, max: u64| {
        let config = RingHashLbConfig {
            minimum_ring_size: wrap_u64(min.min(LARGEST_RING)),
            maximum_ring_size: wrap_u64(max.min(LARGEST_RING)),
            hash_function: HashFunction::XxHash.into(),
        };
        (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config)), None)
    };
    let least = |choices: u32| {
        let requests =
            policies::least_request::v3::LeastRequest { choice_count: wrap_u32(choices.max(2)), ..Default::default() };
        let turns = policies::round_robin::v3::RoundRobin::default();
        let picking = list([policy("least_request", any::pack(&requests)), policy("round_robin", any::pack(&turns))]);
        let localities = policies::wrr_locality::v3::WrrLocality { endpoint_picking_policy: Some(picking) };
        let list = list([policy("wrr_locality", any::pack(&localities))]);
        (LbPolicy::RoundRobin, None, Some(list))
    };
    match balance {
        Balance::LeastRequest { choices } => least(*choices),
        // What a client that does not measure comes closest to it with.
        Balance::PeakEwma => least(2),
        // Both spread requests evenly and promise no more.
        Balance::RoundRobin | Balance::Random => (LbPolicy::RoundRobin, None, None),
        Balance::RingHash { min, max } => ring(*min, *max),
        Balance::Maglev { .. } => ring(USUAL_RING, LARGEST_RING),
    }
}

fn list<const N: usize>(policies: [Policy; N]) -> LoadBalancingPolicy {
    LoadBalancingPolicy { policies: policies.into() }
}

fn policy(name: &str, config: pb::protobuf::Any) -> Policy {
    let name = format!("envoy.load_balancing_policies.{name}");
    Policy { typed_extension_config: Some(pb::core::TypedExtensionConfig { name, typed_config: Some(config) }) }
}

/// gRFC A32: requests under way are counted, and 1024 are enough where nobody says anything.
fn breakers_to_xds(written: &Limits, verdict: &mut Verdict) -> CircuitBreakers {
    let Limits { connections, pending, requests, retries, retry_budget } = written;
    let left_out = [
        ("connectionPool.tcp.maxConnections", connections.is_some()),
        ("connectionPool.http.http1MaxPendingRequests", pending.is_some()),
        ("connectionPool.http.maxRetries", retries.is_some()),
        ("trafficPolicy.retryBudget", retry_budget.is_some()),
    ];
    for (field, _) in left_out.into_iter().filter(|(_, is_set)| *is_set) {
        verdict.leave_out(field, "gRPC limits requests under way (http2MaxRequests) and nothing else");
    }
    let thresholds = Thresholds { max_requests: wrap_u32(requests.unwrap_or(u32::MAX)), ..Default::default() };
    CircuitBreakers { thresholds: vec![thresholds], per_host_thresholds: Vec::new() }
}

/// gRFC A50. What gRPC does not know of Envoy's message it leaves aside.
fn outlier_to_xds(outlier: &OutlierDetection, verdict: &mut Verdict) -> pb::cluster::OutlierDetection {
    let consecutive = [
        ("outlierDetection.consecutive5xxErrors", outlier.consecutive_5xx),
        ("outlierDetection.consecutiveGatewayErrors", outlier.consecutive_gateway),
        ("outlierDetection.consecutiveLocalOriginFailures", outlier.consecutive_local),
    ];
    for (field, _) in consecutive.into_iter().filter(|(_, count)| count.is_some()) {
        verdict.leave_out(field, "gRPC ejects by success rate and failure percentage only");
    }
    limits::outlier_to_xds(outlier)
}

fn tls_verdict(tls: &UpstreamTls, verdict: &mut Verdict) {
    match tls {
        // The peer takes both; one that does not (PeerAuthentication STRICT) refuses by itself.
        UpstreamTls::Plain | UpstreamTls::Auto(_) => {}
        UpstreamTls::Mesh(_) => {
            verdict.refuse("tls.mode", "ISTIO_MUTUAL needs a certificate of the mesh, and gRPC clients have none here");
        }
        UpstreamTls::External(_) => {
            verdict.refuse("tls.mode", "SIMPLE and MUTUAL need credentials that are configured in the gRPC client");
        }
    }
}
