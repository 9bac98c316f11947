//! How services are called: one cluster per port, and one more per subset.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::defaults;
use crate::ir::{
    Balance, Cluster, ClusterName, Credential, Discovery, Endpoints, ExternalTls, Fraction, Limits, MeshTls,
    OutlierDetection, Port, Resources, RetryBudget, SlowStart, TcpKeepalive, UpstreamProtocol, UpstreamTls,
};
use crate::mesh::{Protocol, Resolution, Service, ServicePort};
use crate::rules::{
    self, ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, DurationText, H2UpgradePolicy,
    LoadBalancerSettings, SimpleLb,
};

use super::destination_rule::Policy;
use super::scope::View;
use super::{endpoints, health_check, locality, profile};

/// Adds the clusters of one port of a service, and their endpoints.
pub(super) fn outbound(view: &View<'_>, service: &Service, port: Port, resources: &mut Resources) {
    let Some(port) = service.port(port).filter(|port| port.protocol != Protocol::Udp) else { return };
    let rule = view.destination_rule(service);
    let subsets = rule.map(|rule| rule.subsets.as_slice()).unwrap_or_default();
    let names = std::iter::once("").chain(subsets.iter().map(|subset| subset.name.as_str()));
    for subset in names {
        let policy = Policy::of(view.mesh, rule, port.number, subset);
        let labels = rule.and_then(|rule| rule.subset(subset)).map(|subset| &subset.labels);
        let name = ClusterName::outbound(port.number.get(), subset, &service.host);
        let members = endpoints::members(view, service, port, labels, name, &policy);
        let (mut cluster, endpoints) = cluster(view, service, port, subset, members, &policy);
        if has_endpoints(&cluster) {
            let rule = view.health_check(service, subset, port.number.get());
            cluster.health_check = rule.map(|rule| health_check::compile(rule, service, cluster.protocol));
        }
        if let Some(endpoints) = endpoints {
            resources.endpoints.insert(endpoints.cluster.clone(), endpoints.into());
        }
        resources.clusters.insert(cluster.name.clone(), cluster.into());
    }
}

/// Whether there is anybody to ask: endpoints that are known before a request comes.
fn has_endpoints(cluster: &Cluster) -> bool {
    match cluster.discovery {
        Discovery::Eds { .. } | Discovery::Static(_) | Discovery::Dns(_) => true,
        Discovery::OriginalDestination | Discovery::RequestHost => false,
    }
}

/// The cluster, and its endpoints where they are a resource of their own.
fn cluster(
    view: &View<'_>,
    service: &Service,
    port: &ServicePort,
    subset: &str,
    members: Endpoints,
    policy: &Policy<'_>,
) -> (Cluster, Option<Endpoints>) {
    let captured = view.node.interception.captures();
    let speaks_mesh_tls = members.iter().all(|endpoint| endpoint.mesh_tls);
    let tls = tls(service, port, subset, &members, policy.tls);
    let name = members.cluster.clone();
    let (discovery, apart) = match service.resolution {
        _ if is_passthrough(policy.load_balancer) => (Discovery::OriginalDestination, None),
        // The app has chosen the endpoint itself, and bytes belong to no other (Istio).
        Resolution::Static if captured && is_chosen_by_app(service, port) => (Discovery::OriginalDestination, None),
        Resolution::Static => (Discovery::Eds { service: None }, Some(members)),
        Resolution::Dns => (Discovery::Dns(members), None),
        Resolution::None if port.protocol.is_http() && !captured => (Discovery::RequestHost, None),
        Resolution::None => (Discovery::OriginalDestination, None),
    };
    let tls = match (&discovery, tls) {
        (Discovery::OriginalDestination, UpstreamTls::Auto(mesh)) => without_metadata(mesh, speaks_mesh_tls),
        (_, tls) => tls,
    };
    let protocol = match port.protocol {
        // TLS toward a port of TLS is originated by us, and then HTTP/1.1 is inside, as Istio has it.
        Protocol::Http | Protocol::Tls => UpstreamProtocol::Http1,
        Protocol::Http2 | Protocol::Grpc => UpstreamProtocol::Http2,
        Protocol::Undeclared if captured => UpstreamProtocol::AsDownstream,
        Protocol::Tcp | Protocol::Udp | Protocol::Undeclared => UpstreamProtocol::Tcp,
    };
    let mesh_internal = !service.external;
    let called = Some(service.named());
    let mut cluster = Cluster { protocol, tls, mesh_internal, service: called, ..Cluster::new(name, discovery) };
    profile::begin(view.mesh, &mut cluster);
    apply_balance(&mut cluster, policy);
    cluster.locality_weighted = locality::is_distributed(service, policy);
    if let Some(pool) = policy.connection_pool {
        apply_connection_pool(&mut cluster, pool);
    }
    if let Some(written) = policy.outlier_detection {
        cluster.outlier = Some(outlier(written));
        cluster.panic_threshold = percent(written.min_health_percent.map(f64::from)).unwrap_or(Fraction::NONE);
    }
    cluster.limits.retry_budget = policy.retry_budget.and_then(|budget| {
        Some(RetryBudget {
            share: percent(Some(budget.percent.unwrap_or(defaults::RETRY_BUDGET_PERCENT)))?,
            min_concurrency: budget.min_retry_concurrency.unwrap_or(defaults::RETRY_BUDGET_MIN),
        })
    });
    (cluster, apart)
}

/// Whether an app that has asked DNS for the service connects to an endpoint and to no other.
fn is_chosen_by_app(service: &Service, port: &ServicePort) -> bool {
    service.headless && service.of.is_none() && !port.protocol.is_http()
}

/// An address that the app has chosen comes without a word about whether it speaks mesh mTLS: it does where all of the
/// service's endpoints do.
fn without_metadata(mesh: MeshTls, all_speak_it: bool) -> UpstreamTls {
    if all_speak_it { UpstreamTls::Mesh(mesh) } else { UpstreamTls::Plain }
}

/// Limits, timeouts and protocol as a connection pool says them; a zero is a value that was not set.
pub(super) fn apply_connection_pool(cluster: &mut Cluster, pool: &ConnectionPoolSettings) {
    let limit = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok()).filter(|&value| value > 0);
    let is_tcp = cluster.protocol == UpstreamProtocol::Tcp;
    if let Some(tcp) = &pool.tcp {
        cluster.limits.connections = limit(tcp.max_connections);
        if let Some(timeout) = duration(tcp.connect_timeout.as_ref()).filter(|timeout| !timeout.is_zero()) {
            cluster.connect_timeout = timeout;
        }
        cluster.tcp_keepalive = tcp.tcp_keepalive.as_ref().map(|keepalive| TcpKeepalive {
            probes: keepalive.probes.filter(|&probes| probes > 0),
            time: duration(keepalive.time.as_ref()),
            interval: duration(keepalive.interval.as_ref()),
        });
        cluster.max_connection_duration =
            duration(tcp.max_connection_duration.as_ref()).filter(|longest| !longest.is_zero());
    }
    let Some(http) = &pool.http else { return };
    cluster.limits = Limits {
        pending: limit(http.http1_max_pending_requests),
        requests: limit(http.http2_max_requests),
        retries: limit(http.max_retries),
        ..std::mem::take(&mut cluster.limits)
    };
    cluster.max_requests_per_connection = limit(http.max_requests_per_connection);
    if let Some(idle) = duration(http.idle_timeout.as_ref()) {
        cluster.idle_timeout = Some(idle).filter(|idle| !idle.is_zero());
    }
    if !is_tcp && http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade) {
        cluster.protocol = UpstreamProtocol::Http2;
    }
    if !is_tcp && http.use_client_protocol.unwrap_or(false) {
        cluster.protocol = UpstreamProtocol::AsDownstream;
    }
    if matches!(cluster.protocol, UpstreamProtocol::Http2 | UpstreamProtocol::AsDownstream) {
        cluster.max_concurrent_streams = limit(http.max_concurrent_streams);
    }
}

fn is_passthrough(balancer: Option<&LoadBalancerSettings>) -> bool {
    balancer
        .is_some_and(|balancer| balancer.simple == Some(SimpleLb::Passthrough) && balancer.consistent_hash.is_none())
}

/// What chooses by latency replaces the simple policies; who hashes wants to stay with an endpoint, however slow it is.
fn apply_balance(cluster: &mut Cluster, policy: &Policy<'_>) {
    let none = LoadBalancerSettings::default();
    let written = policy.load_balancer.unwrap_or(&none);
    cluster.balance = match (&written.consistent_hash, written.simple.unwrap_or_default()) {
        (Some(hash), _) => hashed(hash),
        (None, SimpleLb::Passthrough) => Balance::LeastRequest { choices: 2 },
        (None, _) if policy.by_latency => Balance::PeakEwma,
        (None, SimpleLb::Random) => Balance::Random,
        (None, SimpleLb::RoundRobin) => Balance::RoundRobin,
        (None, SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest) => {
            Balance::LeastRequest { choices: 2 }
        }
    };
    if matches!(cluster.balance, Balance::LeastRequest { .. } | Balance::RoundRobin) {
        cluster.slow_start = slow_start(written);
    }
}

fn hashed(hash: &ConsistentHashLb) -> Balance {
    if let Some(maglev) = &hash.maglev {
        let table = maglev.table_size.filter(|&size| is_maglev_table(size)).unwrap_or(defaults::MAGLEV_TABLE);
        return Balance::Maglev { table };
    }
    let written = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size).or(hash.minimum_ring_size);
    let min = written.filter(|&size| size > 0).unwrap_or(defaults::RING_MIN).min(defaults::RING_MAX);
    Balance::RingHash { min, max: defaults::RING_MAX }
}

/// A prime below 5 000 011 (Envoy).
fn is_maglev_table(size: u64) -> bool {
    (2..5_000_011).contains(&size)
        && (2_u64..)
            .take_while(|factor| factor.saturating_mul(*factor) <= size)
            .all(|factor| !size.is_multiple_of(factor))
}

fn slow_start(written: &LoadBalancerSettings) -> Option<SlowStart> {
    let warmup = written.warmup.as_ref();
    let window = warmup.map_or(written.warmup_duration_secs.as_ref(), |warmup| warmup.duration.as_ref());
    let window = duration(window).filter(|window| !window.is_zero())?;
    let min = warmup.and_then(|warmup| warmup.minimum_percent).unwrap_or(defaults::WARMUP_MIN_PERCENT);
    let aggression = warmup.and_then(|warmup| warmup.aggression).filter(|&value| value.is_finite() && value >= 1.0);
    Some(SlowStart { window, aggression: aggression.unwrap_or(1.0), min_share: percent(Some(min))? })
}

/// What is not written is at Istio's default; success rates are never looked at.
fn outlier(written: &rules::OutlierDetection) -> OutlierDetection {
    let count = |value: Option<u32>| value.filter(|&count| count > 0);
    let split = written.split_external_local_origin_errors.unwrap_or(false);
    let positive = |text: &Option<DurationText>, default: Duration| {
        duration(text.as_ref()).filter(|value| !value.is_zero()).unwrap_or(default)
    };
    let base_ejection = positive(&written.base_ejection_time, defaults::OUTLIER_BASE_EJECTION);
    let share = written.max_ejection_percent.filter(|&share| share > 0).map(f64::from);
    OutlierDetection {
        consecutive_5xx: count(Some(written.consecutive_5xx_errors.unwrap_or(defaults::OUTLIER_CONSECUTIVE_5XX))),
        consecutive_gateway: count(written.consecutive_gateway_errors),
        consecutive_local: count(written.consecutive_local_origin_failures).filter(|_| split),
        split_local: split,
        interval: positive(&written.interval, defaults::OUTLIER_INTERVAL),
        base_ejection,
        max_ejection: defaults::OUTLIER_MAX_EJECTION.max(base_ejection),
        max_ejection_share: percent(Some(share.unwrap_or(defaults::OUTLIER_MAX_EJECTION_PERCENT)))
            .unwrap_or(Fraction::ALL),
        status_codes: written
            .outlier_detection_http_error_codes
            .iter()
            .filter_map(|&code| u16::try_from(code).ok().filter(|code| (100..600).contains(code)))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        success_rate: None,
        failure_percentage: None,
        always_eject_one: false,
        check_readmits: true,
    }
}

/// A rule's TLS, or the mesh's with those endpoints that speak it. Where none does and no rule asks, there is nothing of
/// TLS in the cluster.
fn tls(
    service: &Service,
    port: &ServicePort,
    subset: &str,
    members: &Endpoints,
    written: Option<&ClientTlsSettings>,
) -> UpstreamTls {
    let mesh_tls = || MeshTls {
        sni: written
            .and_then(|tls| tls.sni.clone().filter(|name| !name.is_empty()))
            .unwrap_or_else(|| format!("outbound_.{}_.{subset}_.{}", port.number, service.host)),
        identities: match written.map(|tls| tls.subject_alt_names.as_slice()) {
            Some(names) if !names.is_empty() => names.to_vec(),
            _ => identities(service, members),
        },
    };
    let Some(written) = written else {
        let any = members.iter().any(|endpoint| endpoint.mesh_tls);
        return if any { UpstreamTls::Auto(mesh_tls()) } else { UpstreamTls::Plain };
    };
    match written.mode.unwrap_or_default() {
        ClientTlsMode::Disable => UpstreamTls::Plain,
        ClientTlsMode::IstioMutual => UpstreamTls::Mesh(mesh_tls()),
        ClientTlsMode::Simple => UpstreamTls::External(external(service, written, None)),
        ClientTlsMode::Mutual => UpstreamTls::External(external(service, written, written.client_certificate.clone())),
    }
}

fn identities(service: &Service, members: &Endpoints) -> Vec<String> {
    let known = members.iter().filter_map(|endpoint| endpoint.identity.as_ref().map(ToString::to_string));
    known.chain(service.subject_alt_names.iter().cloned()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn external(service: &Service, written: &ClientTlsSettings, certificate: Option<String>) -> ExternalTls {
    let names =
        if written.subject_alt_names.is_empty() { &service.subject_alt_names } else { &written.subject_alt_names };
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let is_shown = written.mode == Some(ClientTlsMode::Mutual);
    ExternalTls {
        sni: text(&written.sni),
        subject_alt_names: names.clone(),
        roots: text(&written.ca_certificates),
        key: certificate.as_ref().and_then(|_| text(&written.private_key)),
        certificate,
        revoked: text(&written.ca_crl),
        credential: text(&written.credential_name).map(|name| Credential { name, is_shown }),
        skip_verify: written.insecure_skip_verify.unwrap_or(false),
        min_version: crate::ir::TlsVersion::Tls12,
    }
}

/// A duration that can be read.
pub(super) fn duration(text: Option<&DurationText>) -> Option<Duration> {
    text.and_then(|text| text.parse().ok())
}

fn percent(value: Option<f64>) -> Option<Fraction> {
    value.and_then(|value| Fraction::from_percent(value).ok())
}
