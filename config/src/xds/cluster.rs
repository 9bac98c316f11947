//! Clusters.

use std::time::Duration;

use super::node::Flavour;
use super::pb;
use super::refusal::{Problem, Result, Within, each, nonempty, required, unsupported};
use super::scalar::{duration_from_xds, duration_to_xds, percent_from_xds, percent_to_xds};
use super::{any, balance, base, bind, endpoint, filter, health_check, limits, tls, upstream_http};
use crate::ir::{
    Address, Balance, Cluster, ClusterName, Discovery, Endpoints, Fraction, ServiceName, TcpKeepalive, UpstreamProtocol,
};
use pb::cluster::cluster::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig};
use pb::cluster::cluster::{
    ClusterDiscoveryType, CommonLbConfig, CustomClusterType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use pb::forward_proxy_cluster::{ClusterConfig, cluster_config::ClusterImplementationSpecifier};
use pb::protobuf::{ListValue, Struct, Value, value::Kind as ValueKind};

/// Istio's network filter that only measures.
const METADATA_EXCHANGE: &str = "envoy.tcp.metadataexchange.config.MetadataExchange";

/// Metadata of Istio: the services of a cluster.
const SERVICES: &str = "services";
/// Metadata of Leno: bytes are spoken.
const TCP: (&str, &str) = ("protocol", "tcp");
/// Metadata of Leno: what stands for least request here is peak EWMA.
const PEAK_EWMA: (&str, &str) = ("balance", "peak_ewma");
/// Metadata of Leno: it is a service of the mesh, and clear text to it is worth a count.
const MESH_INTERNAL: (&str, &str) = ("location", "mesh_internal");

pub(super) fn to_xds(cluster: &Cluster, flavour: &Flavour) -> pb::cluster::Cluster {
    let Cluster {
        name,
        service,
        discovery,
        balance,
        protocol,
        connect_timeout,
        idle_timeout: _,                // In the HTTP options.
        max_requests_per_connection: _, // In the HTTP options.
        max_connection_duration: _,     // In the HTTP options.
        max_concurrent_streams: _,      // In the HTTP options.
        limits,
        outlier,
        health_check,
        tcp_keepalive,
        source_addresses,
        tls,
        mesh_internal,
        panic_threshold,
        slow_start,
        locality_weighted,
    } = cluster;
    let (lb_policy, lb_config) = match discovery {
        Discovery::OriginalDestination | Discovery::RequestHost => (LbPolicy::ClusterProvided, None),
        Discovery::Eds { .. } | Discovery::Static(_) | Discovery::Dns(_) => {
            balance::to_xds(balance, slow_start.as_ref())
        }
    };
    let sockets = tls::to_xds(tls, *protocol, flavour);
    let mut message = pb::cluster::Cluster {
        name: name.to_string(),
        connect_timeout: Some(duration_to_xds(*connect_timeout)),
        lb_policy: lb_policy.into(),
        lb_config,
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(percent_to_xds(*panic_threshold)),
            locality_config_specifier: locality_weighted
                .then_some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})),
            ..Default::default()
        }),
        circuit_breakers: Some(limits::breakers_to_xds(limits)),
        outlier_detection: outlier.as_ref().map(limits::outlier_to_xds),
        health_checks: health_check.iter().map(health_check::to_xds).collect(),
        upstream_connection_options: tcp_keepalive.as_ref().map(|keepalive| pb::cluster::UpstreamConnectionOptions {
            tcp_keepalive: Some(limits::keepalive_to_xds(keepalive)),
            ..Default::default()
        }),
        upstream_bind_config: bind::to_xds(source_addresses),
        transport_socket: sockets.socket,
        transport_socket_matches: sockets.matches,
        typed_extension_protocol_options: upstream_http::to_xds(cluster),
        metadata: base::metadata([
            (
                base::NAMESPACE,
                base::texts(
                    [
                        (*protocol == UpstreamProtocol::Tcp, TCP),
                        (*balance == Balance::PeakEwma, PEAK_EWMA),
                        (*mesh_internal, MESH_INTERNAL),
                    ]
                    .into_iter()
                    .filter_map(|(holds, field)| holds.then_some(field)),
                ),
            ),
            (base::ISTIO, service.as_ref().map(service_to_xds).unwrap_or_default()),
        ]),
        ..Default::default()
    };
    discovery_to_xds(&mut message, discovery);
    message
}

/// Istio's form: a list, of which the first is the one.
fn service_to_xds(ServiceName { host, name, namespace }: &ServiceName) -> Struct {
    let service = base::texts([("host", host), ("name", name), ("namespace", namespace)]);
    let value = |kind| Value { kind: Some(kind) };
    let list = ListValue { values: vec![value(ValueKind::StructValue(service))] };
    Struct { fields: [(SERVICES.to_owned(), value(ValueKind::ListValue(list)))].into() }
}

/// It is only told to the operator: what is not whole is left aside.
fn service_from_xds(fields: &Struct) -> Option<ServiceName> {
    let Some(ValueKind::ListValue(list)) = &fields.fields.get(SERVICES)?.kind else { return None };
    let Some(ValueKind::StructValue(service)) = &list.values.first()?.kind else { return None };
    let text = |key| base::text_of(service, key).filter(|text| !text.is_empty()).map(str::to_owned);
    Some(ServiceName { host: text("host")?, name: text("name")?, namespace: text("namespace")? })
}

fn discovery_to_xds(message: &mut pb::cluster::Cluster, discovery: &Discovery) {
    let kind = match discovery {
        Discovery::Eds { service } => {
            message.eds_cluster_config = Some(EdsClusterConfig {
                eds_config: Some(base::ads()),
                service_name: service.clone().unwrap_or_default(),
            });
            ClusterDiscoveryType::Type(DiscoveryType::Eds.into())
        }
        Discovery::Static(endpoints) => {
            message.load_assignment = Some(endpoint::to_xds(endpoints));
            ClusterDiscoveryType::Type(DiscoveryType::Static.into())
        }
        Discovery::Dns(endpoints) => {
            message.load_assignment = Some(endpoint::to_xds(endpoints));
            ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into())
        }
        Discovery::OriginalDestination => ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()),
        Discovery::RequestHost => {
            let specifier = ClusterImplementationSpecifier::DnsCacheConfig(filter::dns_cache());
            ClusterDiscoveryType::ClusterType(CustomClusterType {
                name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
                typed_config: Some(any::pack(&ClusterConfig {
                    // Clear text is what the app asked for; Envoy wants that said.
                    allow_insecure_cluster_options: true,
                    cluster_implementation_specifier: Some(specifier),
                    ..Default::default()
                })),
            })
        }
    };
    message.cluster_discovery_type = Some(kind);
}

pub(super) fn from_xds(cluster: pb::cluster::Cluster) -> Result<Cluster> {
    #[allow(deprecated)]
    let pb::cluster::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        eds_cluster_config,
        connect_timeout,
        lb_policy,
        load_assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        outlier_detection,
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        filters,
        load_balancing_policy,
        upstream_config,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
        // Statistics and load reports.
        alt_stat_name: _,
        stats_matcher: _,
        lrs_server: _,
        lrs_report_endpoint_metrics: _,
        track_timeout_budgets: _,
        track_cluster_stats: _,
        // Limits and tuning; Leno has its own.
        per_connection_buffer_limit_bytes: _,
        per_connection_buffer_high_watermark_timeout: _,
        cleanup_interval: _,
        preconnect_policy: _,
        wait_for_warm_on_init: _,
        // Leno resolves as often as the answer's TTL says, and takes addresses of either family.
        dns_refresh_rate: _,
        dns_jitter: _,
        dns_failure_refresh_rate: _,
        respect_dns_ttl: _,
        dns_lookup_family: _,
        // An endpoint that is gone from discovery gets nothing new, whatever a health check would say.
        ignore_health_on_host_removal: _,
    } = cluster;
    unsupported(&[
        ("transport_socket_matcher", &transport_socket_matcher),
        ("dns_resolvers", &dns_resolvers),
        ("use_tcp_for_dns_lookups", &use_tcp_for_dns_lookups),
        ("dns_resolution_config", &dns_resolution_config),
        ("typed_dns_resolver_config", &typed_dns_resolver_config),
        ("lb_subset_config", &lb_subset_config),
        ("close_connections_on_host_health_failure", &close_connections_on_host_health_failure),
        ("upstream_config", &upstream_config),
        ("connection_pool_per_downstream_connection", &connection_pool_per_downstream_connection),
        ("queuing_policies", &queuing_policies),
    ])?;
    each("filters", filters, network_filter_from_xds)?;
    let discovery = discovery_from_xds(cluster_discovery_type, eds_cluster_config, load_assignment)?;
    let provided = matches!(discovery, Discovery::OriginalDestination | Discovery::RequestHost);
    let choice = match load_balancing_policy {
        Some(list) if !provided => balance::list_from_xds(list).within("load_balancing_policy")?,
        Some(_) | None => balance::from_xds(lb_policy, lb_config, provided)?,
    };
    let (panic_threshold, locality_weighted) =
        common_from_xds(common_lb_config.unwrap_or_default()).within("common_lb_config")?;
    let older = || {
        upstream_http::older(
            common_http_protocol_options,
            max_requests_per_connection,
            upstream_http_protocol_options,
            http_protocol_options,
            http2_protocol_options,
            protocol_selection,
        )
    };
    let options = upstream_http::from_xds(typed_extension_protocol_options, older)?;
    let own = metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(base::NAMESPACE));
    let service = metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(base::ISTIO));
    let says = |(key, value)| own.is_some_and(|fields| base::text_of(fields, key) == Some(value));
    let (is_tcp, mesh_internal) = (says(TCP), says(MESH_INTERNAL));
    let chooses_by_load = matches!(choice.balance, Balance::LeastRequest { .. });
    let by_latency = says(PEAK_EWMA) && chooses_by_load && choice.slow_start.is_none();
    let endpoint = only_dns_name(&discovery);
    let naming = tls::Naming { by_request: options.auto_sni, endpoint: endpoint.as_deref() };
    let sockets = tls::Sockets { matches: transport_socket_matches, socket: transport_socket };
    Ok(Cluster {
        name: ClusterName::new(nonempty("name", name)?),
        service: service.and_then(service_from_xds),
        discovery,
        balance: if by_latency { Balance::PeakEwma } else { choice.balance },
        protocol: if is_tcp { UpstreamProtocol::Tcp } else { options.protocol },
        connect_timeout: connect_timeout_from_xds(connect_timeout)?,
        idle_timeout: options.idle_timeout,
        max_requests_per_connection: options.max_requests_per_connection,
        max_connection_duration: options.max_connection_duration,
        max_concurrent_streams: options.max_concurrent_streams,
        limits: limits::breakers_from_xds(circuit_breakers).within("circuit_breakers")?,
        outlier: outlier_detection
            .map(|outlier| limits::outlier_from_xds(outlier, options.status_codes))
            .transpose()
            .within("outlier_detection")?,
        health_check: health_check::all_from_xds(health_checks)?,
        tcp_keepalive: upstream_connection_options.and_then(connection_from_xds),
        source_addresses: upstream_bind_config.map_or(Ok(Vec::new()), bind::from_xds).within("upstream_bind_config")?,
        tls: tls::from_xds(sockets, &naming)?,
        mesh_internal,
        panic_threshold,
        slow_start: choice.slow_start,
        locality_weighted: choice.locality_weighted.unwrap_or(locality_weighted),
    })
}

/// The name under which all endpoints of a cluster are found.
fn only_dns_name(discovery: &Discovery) -> Option<String> {
    let Discovery::Dns(endpoints) = discovery else { return None };
    let mut names = endpoints.iter().map(|endpoint| match &endpoint.address {
        Address::Name { host, port: _ } => Some(host),
        Address::Socket(_) => None,
    });
    let first = names.next()??;
    names.all(|name| name == Some(first)).then(|| first.clone())
}

fn network_filter_from_xds(filter: pb::cluster::Filter) -> Result<()> {
    let pb::cluster::Filter { name, typed_config, config_discovery } = filter;
    unsupported(&[("config_discovery", &config_discovery)])?;
    match typed_config {
        Some(config) if any::type_name(&config) == METADATA_EXCHANGE => Ok(()),
        Some(_) | None => Err(Problem::new("", format!("Leno has no upstream network filter `{name}`"))),
    }
}

/// Envoy: 5 s where nobody says anything.
fn connect_timeout_from_xds(timeout: Option<pb::protobuf::Duration>) -> Result<Duration> {
    let Some(timeout) = timeout else { return Ok(Duration::from_secs(5)) };
    let timeout = duration_from_xds(timeout).within("connect_timeout")?;
    if timeout.is_zero() {
        return Err(Problem::new("connect_timeout", "is greater than 0"));
    }
    Ok(timeout)
}

fn connection_from_xds(options: pb::cluster::UpstreamConnectionOptions) -> Option<TcpKeepalive> {
    let pb::cluster::UpstreamConnectionOptions {
        tcp_keepalive,
        // Statistics, and the order in which address families are tried.
        set_local_interface_name_on_upstream_connections: _,
        happy_eyeballs_config: _,
    } = options;
    tcp_keepalive.map(limits::keepalive_from_xds)
}

fn discovery_from_xds(
    kind: Option<ClusterDiscoveryType>,
    eds: Option<EdsClusterConfig>,
    assignment: Option<pb::endpoint::ClusterLoadAssignment>,
) -> Result<Discovery> {
    let endpoints = || -> Result<Endpoints> {
        required("load_assignment", assignment).and_then(|it| endpoint::from_xds(it).within("load_assignment"))
    };
    let kind = match kind {
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return custom_from_xds(custom, endpoints).within("cluster_type");
        }
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind)
            .map_err(|_| Problem::new("type", format!("Leno does not know discovery type {kind}")))?,
        // Envoy: an enumeration that nobody writes is its first value.
        None => DiscoveryType::Static,
    };
    match kind {
        DiscoveryType::Static => endpoints().map(Discovery::Static),
        // LOGICAL_DNS stays with one address of the name at a time; Leno uses all of them.
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => endpoints().map(Discovery::Dns),
        DiscoveryType::OriginalDst => Ok(Discovery::OriginalDestination),
        DiscoveryType::Eds => {
            let EdsClusterConfig { eds_config, service_name } = required("eds_cluster_config", eds)?;
            base::require_ads(eds_config).within("eds_cluster_config.eds_config")?;
            Ok(Discovery::Eds { service: Some(service_name).filter(|name| !name.is_empty()) })
        }
    }
}

fn custom_from_xds(custom: CustomClusterType, endpoints: impl FnOnce() -> Result<Endpoints>) -> Result<Discovery> {
    let CustomClusterType { name, typed_config } = custom;
    let config = required("typed_config", typed_config)?;
    if let Some(config) = any::unpack_if::<ClusterConfig>(&config).within("typed_config")? {
        let ClusterConfig {
            allow_coalesced_connections,
            cluster_implementation_specifier,
            // A guard of Envoy against its own configuration.
            allow_insecure_cluster_options: _,
        } = config;
        unsupported(&[("typed_config.allow_coalesced_connections", &allow_coalesced_connections)])?;
        return match cluster_implementation_specifier {
            // How Envoy caches what it resolves; Leno keeps to the answer's TTL.
            None | Some(ClusterImplementationSpecifier::DnsCacheConfig(_)) => Ok(Discovery::RequestHost),
            Some(ClusterImplementationSpecifier::SubClustersConfig(_)) => {
                Err(Problem::unsupported("typed_config.sub_clusters_config"))
            }
        };
    }
    if let Some(config) = any::unpack_if::<pb::dns_cluster::DnsCluster>(&config).within("typed_config")? {
        unsupported(&[("typed_config.typed_dns_resolver_config", &config.typed_dns_resolver_config)])?;
        return endpoints().map(Discovery::Dns);
    }
    Err(Problem::new("", format!("Leno has no cluster type `{name}` (`{}`)", any::type_name(&config))))
}

/// Panic threshold and whether localities have weights.
fn common_from_xds(common: CommonLbConfig) -> Result<(Fraction, bool)> {
    let CommonLbConfig {
        healthy_panic_threshold,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        locality_config_specifier,
        // When changes are taken over, and which endpoints a session may stay with: nothing for Leno.
        update_merge_window: _,
        override_host_status: _,
        // Of percentages while endpoints wait for their first check.
        ignore_new_hosts_until_first_hc: _,
    } = common;
    unsupported(&[
        ("close_connections_on_host_set_change", &close_connections_on_host_set_change),
        ("consistent_hashing_lb_config", &consistent_hashing_lb_config),
    ])?;
    // Envoy: 50 % where nobody says anything.
    let threshold = match healthy_panic_threshold {
        None => Fraction::from_percent(50.0)?,
        Some(percent) => percent_from_xds(percent).within("healthy_panic_threshold")?,
    };
    match locality_config_specifier {
        None => Ok((threshold, false)),
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})) => Ok((threshold, true)),
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => Err(Problem::unsupported("zone_aware_lb_config")),
    }
}
