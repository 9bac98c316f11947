//! Clusters, endpoints and the node.

use super::*;

#[test]
#[allow(deprecated)]
fn what_clusters_cannot_do_is_refused() {
    use cds::cluster::{ClusterDiscoveryType, CustomClusterType, LbConfig, MaglevLbConfig, RingHashLbConfig};
    let wide = |value| Some(UInt64Value { value });
    let custom = CustomClusterType { name: "aggregate".to_owned(), typed_config: Some(unknown()) };
    let at_options = "typed_extension_protocol_options[envoy.extensions.upstreams.http.v3.HttpProtocolOptions]";
    check(vec![
        (cluster(|it| it.name.clear()), "name"),
        (cluster(|it| it.connect_timeout = seconds(0)), "connect_timeout"),
        (cluster(|it| it.health_checks.push(Default::default())), "health_checks[0].health_checker"),
        (cluster(|it| it.health_checks = vec![tcp_check(); 2]), "health_checks"),
        (
            cluster(|it| it.upstream_bind_config = Some(core::BindConfig { freebind: yes(), ..Default::default() })),
            "upstream_bind_config.freebind",
        ),
        (
            cluster(|it| {
                let address = core::SocketAddress { address: "here".to_owned(), ..Default::default() };
                it.upstream_bind_config =
                    Some(core::BindConfig { source_address: Some(address), ..Default::default() });
            }),
            "upstream_bind_config.source_address.socket_address.port_value",
        ),
        (cluster(|it| it.lb_subset_config = Some(Default::default())), "lb_subset_config"),
        (cluster(|it| it.dns_resolvers.push(Default::default())), "dns_resolvers"),
        (cluster(|it| it.filters.push(Default::default())), "filters[0]"),
        (cluster(|it| it.eds_cluster_config = None), "eds_cluster_config"),
        (cluster(|it| it.eds_cluster_config.as_mut().unwrap().eds_config = None), "eds_cluster_config.eds_config"),
        (cluster(|it| it.cluster_discovery_type = None), "load_assignment"),
        (cluster(|it| it.cluster_discovery_type = Some(ClusterDiscoveryType::Type(2))), "load_assignment"),
        (cluster(|it| it.cluster_discovery_type = Some(ClusterDiscoveryType::Type(99))), "type"),
        (cluster(|it| it.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(custom))), "cluster_type"),
        (cluster(|it| it.lb_policy = 6), "lb_policy"),
        (cluster(|it| it.lb_policy = 4), "lb_policy"),
        (cluster(|it| it.lb_policy = 7), "load_balancing_policy"),
        (cluster(|it| it.load_balancing_policy = Some(Default::default())), "load_balancing_policy.policies"),
        (
            cluster(|it| match &mut it.lb_config {
                Some(LbConfig::LeastRequestLbConfig(config)) => config.choice_count = number(1),
                _ => panic!("least request"),
            }),
            "least_request_lb_config.choice_count",
        ),
        (
            cluster(|it| {
                it.lb_policy = 2;
                it.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                    minimum_ring_size: wide(9),
                    maximum_ring_size: wide(8),
                    hash_function: 0,
                }));
            }),
            "ring_hash_lb_config.minimum_ring_size",
        ),
        (
            cluster(|it| {
                it.lb_policy = 5;
                it.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: wide(65_536) }));
            }),
            "maglev_lb_config.table_size",
        ),
        (
            cluster(|it| {
                it.common_lb_config.as_mut().unwrap().healthy_panic_threshold = Some(kinds::Percent { value: 101.0 });
            }),
            "common_lb_config.healthy_panic_threshold",
        ),
        (
            cluster(|it| it.circuit_breakers.as_mut().unwrap().per_host_thresholds.push(Default::default())),
            "circuit_breakers.per_host_thresholds",
        ),
        (
            cluster(|it| it.circuit_breakers.as_mut().unwrap().thresholds[0].max_connection_pools = number(1)),
            "circuit_breakers.thresholds[0].max_connection_pools",
        ),
        (outlier(|it| it.enforcing_consecutive_5xx = number(50)), "outlier_detection.enforcing_consecutive_5xx"),
        (outlier(|it| it.enforcing_success_rate = number(50)), "outlier_detection.enforcing_success_rate"),
        (outlier(|it| it.max_ejection_percent = number(101)), "outlier_detection.max_ejection_percent"),
        (outlier(|it| it.interval = seconds(0)), "outlier_detection.interval"),
        (
            cluster(|it| drop(it.typed_extension_protocol_options.insert("x".to_owned(), unknown()))),
            "typed_extension_protocol_options[x]",
        ),
    ]);
    let rows = vec![
        (options(|it| it.upstream_protocol_options = None), "upstream_protocol_options"),
        (
            options(|it| {
                it.upstream_protocol_options =
                    Some(upstream::http_protocol_options::UpstreamProtocolOptions::AutoConfig(Default::default()));
            }),
            "auto_config",
        ),
        (options(|it| it.http_filters.push(http_filter("mine", unknown()))), "http_filters[0]"),
        (options(|it| it.retry_policy = Some(Default::default())), "retry_policy"),
        (
            options(|it| it.outlier_detection.as_mut().unwrap().error_matcher = Some(Default::default())),
            "outlier_detection.error_matcher.rule",
        ),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("{at_options}.{field}"), "{refusal}");
    }
}

#[test]
#[allow(deprecated)]
fn encryption_that_leno_cannot_promise_is_refused() {
    let at = "transport_socket.typed_config";
    let names = |it: &mut tls::CertificateValidationContext, kind| {
        it.match_typed_subject_alt_names[0].san_type = kind;
    };
    let rows = vec![
        (context(|it| it.common_tls_context = None), "common_tls_context"),
        (context(|it| it.allow_renegotiation = true), "allow_renegotiation"),
        (
            common(|it| {
                it.tls_params = Some(tls::TlsParameters { tls_maximum_protocol_version: 3, ..Default::default() });
            }),
            "common_tls_context.tls_params.tls_maximum_protocol_version",
        ),
        (
            common(|it| {
                let cipher_suites = vec!["ECDHE-RSA-AES128-GCM-SHA256".to_owned()];
                it.tls_params = Some(tls::TlsParameters { cipher_suites, ..Default::default() });
            }),
            "common_tls_context.tls_params.cipher_suites",
        ),
        (common(|it| it.validation_context_type = None), "common_tls_context.validation_context"),
        (common(|it| it.key_log = Some(Default::default())), "common_tls_context.key_log"),
        (
            common(|it| {
                it.tls_params = Some(tls::TlsParameters { tls_minimum_protocol_version: 9, ..Default::default() });
            }),
            "common_tls_context.tls_params.tls_minimum_protocol_version",
        ),
        (
            common(|it| {
                let secret = tls::SdsSecretConfig { name: "mine".to_owned(), sds_config: None };
                it.tls_certificate_sds_secret_configs.push(secret);
            }),
            "common_tls_context.tls_certificate_sds_secret_configs[0].name",
        ),
        // Mesh mTLS with the certificate only.
        (
            common(|it| {
                let secret = tls::SdsSecretConfig { name: "default".to_owned(), sds_config: None };
                it.tls_certificate_sds_secret_configs.push(secret);
            }),
            "common_tls_context",
        ),
        (validation(|it| it.trusted_ca = None), "common_tls_context.validation_context.trusted_ca"),
        (validation(|it| it.crl = Some(Default::default())), "common_tls_context.validation_context.crl"),
        (
            validation(|it| it.verify_certificate_hash.push("ab".to_owned())),
            "common_tls_context.validation_context.verify_certificate_hash",
        ),
        (
            validation(|it| names(it, 4)),
            "common_tls_context.validation_context.match_typed_subject_alt_names[0].san_type",
        ),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("{at}.{field}"), "{refusal}");
    }
    check(vec![
        (
            cluster(|it| it.transport_socket_matches[0].r#match = Some(Default::default())),
            "transport_socket_matches[0]",
        ),
        (
            cluster(|it| {
                let socket = core::TransportSocket {
                    name: "envoy.transport_sockets.alts".to_owned(),
                    config_type: Some(core::transport_socket::ConfigType::TypedConfig(unknown())),
                };
                it.transport_socket = Some(socket);
            }),
            "transport_socket",
        ),
    ]);
}

#[test]
fn what_endpoints_cannot_be_is_refused() {
    let at = "endpoints[0].lb_endpoints[0]";
    check(vec![
        (endpoints(|it| it.cluster_name.clear()), "cluster_name"),
        (
            endpoints(|it| {
                it.policy = Some(eds::cluster_load_assignment::Policy {
                    drop_overloads: vec![Default::default()],
                    ..Default::default()
                });
            }),
            "policy.drop_overloads",
        ),
        (
            endpoints(|it| {
                it.policy = Some(eds::cluster_load_assignment::Policy {
                    overprovisioning_factor: number(0),
                    ..Default::default()
                });
            }),
            "policy.overprovisioning_factor",
        ),
        (endpoints(|it| it.endpoints[0].priority = 129), "endpoints[0].priority"),
        (endpoints(|it| it.endpoints[0].load_balancing_weight = number(0)), "endpoints[0].load_balancing_weight"),
        (
            endpoints(|it| {
                let mut heavy = it.endpoints[0].lb_endpoints[0].clone();
                heavy.load_balancing_weight = number(u32::MAX);
                it.endpoints[0].lb_endpoints.push(heavy);
            }),
            "endpoints[0].lb_endpoints",
        ),
    ]);
    let rows = vec![
        (endpoint(|it| it.load_balancing_weight = number(0)), "load_balancing_weight"),
        (endpoint(|it| it.health_status = 42), "health_status"),
        (endpoint(|it| it.host_identifier = None), "endpoint"),
        (
            endpoint(|it| {
                it.host_identifier = Some(eds::lb_endpoint::HostIdentifier::EndpointName("a".to_owned()));
            }),
            "endpoint_name",
        ),
        (socket(|it| it.protocol = 1), "endpoint.address.socket_address.protocol"),
        (socket(|it| it.address.clear()), "endpoint.address.socket_address"),
        (
            socket(|it| it.port_specifier = Some(core::socket_address::PortSpecifier::PortValue(65_536))),
            "endpoint.address.socket_address.port_value",
        ),
        (
            socket(|it| it.port_specifier = Some(core::socket_address::PortSpecifier::PortValue(0))),
            "endpoint.address.socket_address",
        ),
        (
            socket(|it| {
                it.port_specifier = Some(core::socket_address::PortSpecifier::NamedPort("http".to_owned()));
            }),
            "endpoint.address.socket_address.named_port",
        ),
        (socket(|it| it.resolver_name = "mine".to_owned()), "endpoint.address.socket_address.resolver_name"),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("{at}.{field}"), "{refusal}");
    }
}

#[test]
fn who_an_endpoint_has_to_be_is_a_spiffe_id_or_the_endpoint_is_refused() {
    use envoy_types::pb::google::protobuf::{Value, value::Kind as ValueKind};
    let good = "spiffe://cluster.local/ns/default/sa/reviews";
    let text = |text: &str| ValueKind::StringValue(text.to_owned());
    for (identity, reason) in [
        (text(""), "`spiffe://`"),
        (text("cluster.local/ns/default/sa/reviews"), "`spiffe://`"),
        (text(&good.to_uppercase()), "lower case"),
        (text(&good.replace("default", "..")), "path"),
        (text(&good.replace("default", "%64efault")), "path"),
        (text("spiffe:///ns/default/sa/reviews"), "trust domain"),
        (ValueKind::BoolValue(true), "is a text"),
        (ValueKind::NullValue(0), "is a text"),
    ] {
        let refusal = endpoint(|it| {
            let metadata = it.metadata.as_mut().expect("Leno's metadata");
            let fields = metadata.filter_metadata.get_mut("leno.mesh").expect("Leno's metadata");
            fields.fields.insert("identity".to_owned(), Value { kind: Some(identity.clone()) });
        });
        assert_eq!(refusal.resource, messages::endpoints().cluster_name, "{identity:?}");
        let at = "endpoints[0].lb_endpoints[0].metadata.filter_metadata[leno.mesh].identity";
        assert_eq!(refusal.field, at, "{identity:?}");
        assert!(refusal.reason.contains(reason), "{identity:?}: {refusal}");
    }
}

#[test]
fn a_node_without_istios_id_is_refused_with_the_form_it_should_have() {
    for id in ["", "envoy", "sidecar~127.0.0.1~a~b~c", "sidecar~localhost~a.b~c", "sidecar~127.0.0.1~a~c"] {
        let node = core::Node { id: id.to_owned(), ..Default::default() };
        let refusal = leno_config::xds::node_from_xds(&node).unwrap_err();
        assert_eq!(refusal.to_string(), format!("<node>: id: `{id}` is not `sidecar~IP~NAME.NAMESPACE~DOMAIN`"));
    }
}

fn tcp_check() -> core::HealthCheck {
    core::HealthCheck {
        timeout: seconds(1),
        interval: seconds(5),
        unhealthy_threshold: number(2),
        healthy_threshold: number(1),
        health_checker: Some(core::health_check::HealthChecker::TcpHealthCheck(Default::default())),
        ..Default::default()
    }
}
