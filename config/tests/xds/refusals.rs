//! What Leno lacks is refused, and the refusal names the place: one row for each.

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3 as router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3 as kinds;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value, UInt64Value};
use leno_config::xds::{Kind, Refusal, decode};
use prost::{Message, Name};

use crate::messages::{self, change, filter_config, pack};

/// The field that is refused, and where it should be.
type Row = (Refusal, &'static str);

fn check(rows: Vec<Row>) {
    for (refusal, field) in rows {
        assert_eq!(refusal.field, field, "{refusal}");
        assert!(!refusal.reason.is_empty());
    }
}

fn refused<M: Message + Name>(kind: Kind, message: &M) -> Refusal {
    decode(kind, &pack(message)).expect_err("Leno lacks this, but it is not refused")
}

fn listener(edit: impl FnOnce(&mut lds::Listener)) -> Refusal {
    let mut listener = messages::listener();
    edit(&mut listener);
    refused(Kind::Listener, &listener)
}

fn manager(edit: impl FnOnce(&mut hcm::HttpConnectionManager)) -> Refusal {
    listener(|it| change(filter_config(it), edit))
}

fn tcp_proxy(edit: impl FnOnce(&mut tcp::TcpProxy)) -> Refusal {
    let mut listener = messages::tcp_listener();
    change(filter_config(&mut listener), edit);
    refused(Kind::Listener, &listener)
}

fn table(edit: impl FnOnce(&mut rds::RouteConfiguration)) -> Refusal {
    let mut table = messages::route_table();
    edit(&mut table);
    refused(Kind::Route, &table)
}

fn host(edit: impl FnOnce(&mut rds::VirtualHost)) -> Refusal {
    table(|it| edit(&mut it.virtual_hosts[0]))
}

fn route(edit: impl FnOnce(&mut rds::Route)) -> Refusal {
    host(|it| edit(&mut it.routes[0]))
}

fn condition(edit: impl FnOnce(&mut rds::RouteMatch)) -> Refusal {
    route(|it| edit(it.r#match.as_mut().unwrap()))
}

fn action(edit: impl FnOnce(&mut rds::RouteAction)) -> Refusal {
    route(|it| match &mut it.action {
        Some(rds::route::Action::Route(action)) => edit(action),
        _ => panic!("a route action"),
    })
}

fn retry(edit: impl FnOnce(&mut rds::RetryPolicy)) -> Refusal {
    action(|it| edit(it.retry_policy.as_mut().unwrap()))
}

fn shares(edit: impl FnOnce(&mut rds::WeightedCluster)) -> Refusal {
    action(|it| match &mut it.cluster_specifier {
        Some(rds::route_action::ClusterSpecifier::WeightedClusters(clusters)) => edit(clusters),
        _ => panic!("weighted clusters"),
    })
}

fn redirect(edit: impl FnOnce(&mut rds::RedirectAction)) -> Refusal {
    host(|it| match &mut it.routes[1].action {
        Some(rds::route::Action::Redirect(redirect)) => edit(redirect),
        _ => panic!("a redirect"),
    })
}

fn direct(edit: impl FnOnce(&mut rds::DirectResponseAction)) -> Refusal {
    table(|it| match &mut it.virtual_hosts[1].routes[0].action {
        Some(rds::route::Action::DirectResponse(direct)) => edit(direct),
        _ => panic!("a direct response"),
    })
}

fn per_route<M: Message + Name + Default>(filter: &str, edit: impl FnOnce(&mut M)) -> Refusal {
    route(|it| change(it.typed_per_filter_config.get_mut(filter).unwrap(), edit))
}

fn cluster(edit: impl FnOnce(&mut cds::Cluster)) -> Refusal {
    let mut cluster = messages::cluster();
    edit(&mut cluster);
    refused(Kind::Cluster, &cluster)
}

fn options(edit: impl FnOnce(&mut upstream::HttpProtocolOptions)) -> Refusal {
    cluster(|it| change(it.typed_extension_protocol_options.values_mut().next().unwrap(), edit))
}

fn outlier(edit: impl FnOnce(&mut cds::OutlierDetection)) -> Refusal {
    cluster(|it| edit(it.outlier_detection.as_mut().unwrap()))
}

fn context(edit: impl FnOnce(&mut tls::UpstreamTlsContext)) -> Refusal {
    let mut cluster = messages::tls_cluster();
    match &mut cluster.transport_socket.as_mut().unwrap().config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => change(any, edit),
        None => panic!("a typed config"),
    }
    refused(Kind::Cluster, &cluster)
}

fn common(edit: impl FnOnce(&mut tls::CommonTlsContext)) -> Refusal {
    context(|it| edit(it.common_tls_context.as_mut().unwrap()))
}

fn validation(edit: impl FnOnce(&mut tls::CertificateValidationContext)) -> Refusal {
    common(|it| match &mut it.validation_context_type {
        Some(tls::common_tls_context::ValidationContextType::ValidationContext(context)) => edit(context),
        _ => panic!("a validation context"),
    })
}

fn endpoints(edit: impl FnOnce(&mut eds::ClusterLoadAssignment)) -> Refusal {
    let mut endpoints = messages::endpoints();
    edit(&mut endpoints);
    refused(Kind::Endpoints, &endpoints)
}

fn endpoint(edit: impl FnOnce(&mut eds::LbEndpoint)) -> Refusal {
    endpoints(|it| edit(&mut it.endpoints[0].lb_endpoints[0]))
}

fn socket(edit: impl FnOnce(&mut core::SocketAddress)) -> Refusal {
    endpoint(|it| match &mut it.host_identifier {
        Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => {
            match &mut endpoint.address.as_mut().unwrap().address {
                Some(core::address::Address::SocketAddress(socket)) => edit(socket),
                _ => panic!("a socket address"),
            }
        }
        _ => panic!("an endpoint"),
    })
}

fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

fn no() -> Option<BoolValue> {
    Some(BoolValue { value: false })
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn unknown() -> Any {
    Any { type_url: "type.googleapis.com/example.Unknown".to_owned(), value: vec![1, 2, 3] }
}

fn http_filter(name: &str, any: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any)),
        is_optional: false,
        disabled: false,
    }
}

fn header(key: &str, value: &str, append_action: i32) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
        append_action,
        ..Default::default()
    }
}

#[test]
fn what_listeners_cannot_do_is_refused() {
    check(vec![
        (listener(|it| it.name.clear()), "name"),
        (listener(|it| it.address = None), "address"),
        (listener(|it| it.use_original_dst = yes()), "use_original_dst"),
        (listener(|it| it.bind_to_port = no()), "bind_to_port"),
        (listener(|it| it.transparent = yes()), "transparent"),
        (listener(|it| it.additional_addresses.push(Default::default())), "additional_addresses"),
        (listener(|it| it.api_listener = Some(Default::default())), "api_listener"),
        (listener(|it| it.udp_listener_config = Some(Default::default())), "udp_listener_config"),
        (listener(|it| it.traffic_direction = 9), "traffic_direction"),
        (listener(|it| it.listener_filters.push(Default::default())), "listener_filters[0]"),
        (listener(|it| it.filter_chains.clear()), "filter_chains"),
        (listener(|it| it.filter_chains.push(Default::default())), "filter_chains[1]"),
        (listener(|it| it.default_filter_chain = Some(Default::default())), "default_filter_chain"),
        (
            listener(|it| {
                it.filter_chains[0].filter_chain_match =
                    Some(lds::FilterChainMatch { server_names: vec!["a".to_owned()], ..Default::default() });
            }),
            "filter_chains[0].filter_chain_match.server_names",
        ),
        (
            listener(|it| {
                it.filter_chains[0].transport_socket =
                    Some(core::TransportSocket { name: "envoy.transport_sockets.tls".to_owned(), config_type: None });
            }),
            "filter_chains[0].transport_socket",
        ),
        (listener(|it| *filter_config(it) = unknown()), "filter_chains[0].filters[0]"),
        (listener(|it| it.filter_chains[0].filters[0].config_type = None), "filter_chains[0].filters[0].typed_config"),
        (
            listener(|it| {
                let last = it.filter_chains[0].filters[0].clone();
                *filter_config(it) = unknown();
                it.filter_chains[0].filters.push(last);
            }),
            "filter_chains[0].filters[0]",
        ),
        (listener(|it| filter_config(it).value = vec![0xff; 9]), "filter_chains[0].filters[0]"),
    ]);
}

#[test]
fn what_http_on_a_listener_cannot_do_is_refused() {
    use hcm::http_connection_manager::{RouteSpecifier, StripPortMode, UpgradeConfig};
    let upgrade = |kind: &str| UpgradeConfig { upgrade_type: kind.to_owned(), ..Default::default() };
    let rows: Vec<Row> = vec![
        (manager(|it| it.codec_type = 3), "codec_type"),
        (manager(|it| it.codec_type = 77), "codec_type"),
        (manager(|it| it.via = "x".to_owned()), "via"),
        (manager(|it| it.local_reply_config = Some(Default::default())), "local_reply_config"),
        (manager(|it| it.strip_matching_host_port = true), "strip_matching_host_port"),
        (manager(|it| it.strip_port_mode = Some(StripPortMode::StripAnyHostPort(true))), "strip_any_host_port"),
        (manager(|it| it.path_with_escaped_slashes_action = 2), "path_with_escaped_slashes_action"),
        (
            manager(|it| {
                it.common_http_protocol_options =
                    Some(core::HttpProtocolOptions { headers_with_underscores_action: 1, ..Default::default() });
            }),
            "common_http_protocol_options.headers_with_underscores_action",
        ),
        (
            manager(|it| {
                it.http_protocol_options =
                    Some(core::Http1ProtocolOptions { accept_http_10: true, ..Default::default() });
            }),
            "http_protocol_options.accept_http_10",
        ),
        (
            manager(|it| {
                it.http2_protocol_options =
                    Some(core::Http2ProtocolOptions { allow_metadata: true, ..Default::default() });
            }),
            "http2_protocol_options.allow_metadata",
        ),
        (manager(|it| it.upgrade_configs.push(upgrade("CONNECT"))), "upgrade_configs[1].upgrade_type"),
        (manager(|it| it.http_filters.clear()), "http_filters"),
        (manager(|it| drop(it.http_filters.pop())), "http_filters[2]"),
        (manager(|it| it.http_filters.insert(0, http_filter("jwt", unknown()))), "http_filters[0]"),
        (manager(|it| it.http_filters.rotate_left(1)), "http_filters[2]"),
        (manager(|it| it.http_filters[0].config_type = None), "http_filters[0].typed_config"),
        (manager(|it| it.http_filters[3].disabled = true), "http_filters[3].disabled"),
        (
            manager(|it| {
                let router = router::Router { respect_expected_rq_timeout: true, ..Default::default() };
                it.http_filters[3] = http_filter("router", pack(&router));
            }),
            "http_filters[3].typed_config.respect_expected_rq_timeout",
        ),
        (
            manager(|it| {
                let abort = fault::FaultAbort {
                    error_type: Some(fault::fault_abort::ErrorType::HttpStatus(500)),
                    ..Default::default()
                };
                let everywhere = fault::HttpFault { abort: Some(abort), ..Default::default() };
                it.http_filters[0] = http_filter("fault", pack(&everywhere));
            }),
            "http_filters[0].typed_config.abort",
        ),
        (manager(|it| it.route_specifier = None), "route_specifier"),
        (manager(|it| it.route_specifier = Some(RouteSpecifier::ScopedRoutes(Default::default()))), "scoped_routes"),
        (manager(|it| it.route_specifier = Some(RouteSpecifier::Rds(Default::default()))), "rds.config_source"),
        (
            manager(|it| match &mut it.route_specifier {
                Some(RouteSpecifier::Rds(rds)) => {
                    rds.config_source.as_mut().unwrap().config_source_specifier =
                        Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(Default::default()));
                }
                _ => panic!("RDS"),
            }),
            "rds.config_source.api_config_source",
        ),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("filter_chains[0].filters[0].{field}"), "{refusal}");
        assert_eq!(refusal.resource, "127.0.0.1_15001");
    }
}

#[test]
fn what_stands_in_the_routes_of_a_listener_is_named_from_the_listener() {
    let mut listener = messages::inline_listener();
    change(filter_config(&mut listener), |manager: &mut hcm::HttpConnectionManager| {
        match &mut manager.route_specifier {
            Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(table)) => {
                table.virtual_hosts[1].require_tls = 2;
            }
            _ => panic!("routes inside"),
        }
    });
    assert_eq!(
        refused(Kind::Listener, &listener).to_string(),
        "inbound_127.0.0.1_9080: filter_chains[0].filters[0].route_config.virtual_hosts[1].require_tls: Leno does not \
         support this field; leave it unset"
    );
}

#[test]
fn what_tcp_on_a_listener_cannot_do_is_refused() {
    check(vec![
        (tcp_proxy(|it| it.cluster_specifier = None), "filter_chains[0].filters[0].cluster_specifier"),
        (tcp_proxy(|it| it.hash_policy.push(Default::default())), "filter_chains[0].filters[0].hash_policy"),
        (
            tcp_proxy(|it| it.tunneling_config = Some(Default::default())),
            "filter_chains[0].filters[0].tunneling_config",
        ),
        (tcp_proxy(|it| it.idle_timeout = seconds(-1)), "filter_chains[0].filters[0].idle_timeout"),
        (tcp_proxy(|it| it.upstream_connect_mode = 1), "filter_chains[0].filters[0].upstream_connect_mode"),
        (
            tcp_proxy(|it| match &mut it.cluster_specifier {
                Some(tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(shares)) => shares.clusters[1].weight = 0,
                _ => panic!("weighted clusters"),
            }),
            "filter_chains[0].filters[0].weighted_clusters.clusters[1].weight",
        ),
    ]);
}

#[test]
fn what_route_tables_and_virtual_hosts_cannot_do_is_refused() {
    check(vec![
        (table(|it| it.name.clear()), "name"),
        (table(|it| it.vhds = Some(Default::default())), "vhds"),
        (table(|it| it.internal_only_headers.push("x-internal".to_owned())), "internal_only_headers"),
        (table(|it| it.ignore_path_parameters_in_path_matching = true), "ignore_path_parameters_in_path_matching"),
        (table(|it| it.request_headers_to_add.push(header("bad name", "", 0))), "request_headers_to_add[0].header"),
        (table(|it| it.virtual_hosts[1].name = it.virtual_hosts[0].name.clone()), "virtual_hosts"),
        (table(|it| it.virtual_hosts[1].domains = it.virtual_hosts[0].domains.clone()), "virtual_hosts"),
        (host(|it| it.domains.clear()), "virtual_hosts"),
        (host(|it| it.domains[1] = "a*b".to_owned()), "virtual_hosts[0].domains[1]"),
        (host(|it| it.require_tls = 1), "virtual_hosts[0].require_tls"),
        (host(|it| it.matcher = Some(Default::default())), "virtual_hosts[0].matcher"),
        (host(|it| it.rate_limits.push(Default::default())), "virtual_hosts[0].rate_limits"),
        (host(|it| it.hedge_policy = Some(Default::default())), "virtual_hosts[0].hedge_policy"),
        (
            host(|it| drop(it.typed_per_filter_config.insert("envoy.filters.http.jwt_authn".to_owned(), unknown()))),
            "virtual_hosts[0].typed_per_filter_config[envoy.filters.http.jwt_authn]",
        ),
    ]);
}

#[test]
fn what_routes_cannot_match_is_refused() {
    use rds::header_matcher::HeaderMatchSpecifier;
    use rds::route_match::PathSpecifier;
    let regex = |text: &str| matcher::RegexMatcher { regex: text.to_owned(), engine_type: None };
    let rows = vec![
        (condition(|it| it.path_specifier = None), "path_specifier"),
        (condition(|it| it.path_specifier = Some(PathSpecifier::SafeRegex(regex("a(")))), "safe_regex.regex"),
        (condition(|it| it.path_specifier = Some(PathSpecifier::SafeRegex(regex("a(?=b)")))), "safe_regex.regex"),
        (
            condition(|it| it.path_specifier = Some(PathSpecifier::PathSeparatedPrefix("/a/".to_owned()))),
            "path_separated_prefix",
        ),
        (
            condition(|it| it.path_specifier = Some(PathSpecifier::ConnectMatcher(Default::default()))),
            "connect_matcher",
        ),
        (condition(|it| it.grpc = Some(Default::default())), "grpc"),
        (condition(|it| it.tls_context = Some(Default::default())), "tls_context"),
        (condition(|it| it.cookies.push(Default::default())), "cookies"),
        (condition(|it| it.dynamic_metadata.push(Default::default())), "dynamic_metadata"),
        (condition(|it| it.filter_state.push(Default::default())), "filter_state"),
        (condition(|it| it.runtime_fraction = Some(Default::default())), "runtime_fraction"),
        (condition(|it| it.headers[0].name = "no spaces".to_owned()), "headers[0].name"),
        (
            condition(|it| {
                it.headers[0].header_match_specifier = Some(HeaderMatchSpecifier::RangeMatch(Default::default()));
            }),
            "headers[0].range_match",
        ),
        (
            condition(|it| {
                it.headers[0].header_match_specifier = Some(HeaderMatchSpecifier::StringMatch(Default::default()));
            }),
            "headers[0].string_match.match_pattern",
        ),
        (
            condition(|it| {
                it.query_parameters[0].query_parameter_match_specifier =
                    Some(rds::query_parameter_matcher::QueryParameterMatchSpecifier::PresentMatch(false));
            }),
            "query_parameters[0].present_match",
        ),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("virtual_hosts[0].routes[0].match.{field}"), "{refusal}");
    }
    check(vec![(route(|it| it.r#match = None), "virtual_hosts[0].routes[0].match")]);
}

#[test]
#[allow(deprecated)]
fn what_routes_cannot_do_is_refused() {
    use rds::route_action::{ClusterSpecifier, HostRewriteSpecifier};
    let rows = vec![
        (action(|it| it.cluster_specifier = None), "cluster_specifier"),
        (
            action(|it| it.cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x-to".to_owned()))),
            "cluster_header",
        ),
        (action(|it| it.cluster_specifier = Some(ClusterSpecifier::Cluster(String::new()))), "cluster"),
        (
            action(|it| it.cluster_specifier = Some(ClusterSpecifier::ClusterSpecifierPlugin("lua".to_owned()))),
            "cluster_specifier_plugin",
        ),
        (action(|it| it.cluster_not_found_response_code = 1), "cluster_not_found_response_code"),
        (action(|it| it.metadata_match = Some(Default::default())), "metadata_match"),
        (action(|it| it.priority = 1), "priority"),
        (action(|it| it.rate_limits.push(Default::default())), "rate_limits"),
        (action(|it| it.upgrade_configs.push(Default::default())), "upgrade_configs"),
        (action(|it| it.internal_redirect_policy = Some(Default::default())), "internal_redirect_policy"),
        (action(|it| it.append_x_forwarded_host = true), "append_x_forwarded_host"),
        (action(|it| it.path_rewrite = "/%REQ(a)%".to_owned()), "path_rewrite"),
        (action(|it| it.prefix_rewrite = "/a".to_owned()), "regex_rewrite"),
        (action(|it| it.regex_rewrite.as_mut().unwrap().pattern = None), "regex_rewrite.pattern"),
        (
            action(|it| {
                it.host_rewrite_specifier = Some(HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true }))
            }),
            "auto_host_rewrite",
        ),
        (
            action(|it| it.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteHeader("x".to_owned()))),
            "host_rewrite_header",
        ),
        (action(|it| it.timeout = seconds(-3)), "timeout"),
        (action(|it| it.timeout = seconds(i64::MAX)), "timeout"),
        (action(|it| it.timeout = Some(Duration { seconds: 1, nanos: -1 })), "timeout"),
        (action(|it| it.max_grpc_timeout = seconds(99)), "max_grpc_timeout"),
        (action(|it| it.hash_policy[0].terminal = true), "hash_policy[0].terminal"),
        (action(|it| it.hash_policy[1].policy_specifier = None), "hash_policy[1].policy_specifier"),
        (action(|it| it.request_mirror_policies[0].cluster.clear()), "request_mirror_policies[0].cluster"),
        (
            action(|it| it.request_mirror_policies[0].disable_shadow_host_suffix_append = true),
            "request_mirror_policies[0].disable_shadow_host_suffix_append",
        ),
        (shares(|it| it.clusters.clear()), "weighted_clusters.clusters"),
        (shares(|it| it.clusters.iter_mut().for_each(|share| share.weight = number(0))), "weighted_clusters.clusters"),
        (
            shares(|it| it.clusters.iter_mut().for_each(|share| share.weight = number(u32::MAX))),
            "weighted_clusters.clusters",
        ),
        (shares(|it| it.clusters[1].weight = None), "weighted_clusters.clusters[1].weight"),
        (shares(|it| it.clusters[1].name.clear()), "weighted_clusters.clusters[1].name"),
        (
            shares(|it| it.clusters[0].cluster_header = "x-to".to_owned()),
            "weighted_clusters.clusters[0].cluster_header",
        ),
        (
            shares(|it| {
                it.random_value_specifier =
                    Some(rds::weighted_cluster::RandomValueSpecifier::HeaderName("x".to_owned()));
            }),
            "weighted_clusters.header_name",
        ),
        (retry(|it| it.retry_on = "5xx,sunshine".to_owned()), "retry_policy.retry_on"),
        (retry(|it| it.retriable_status_codes.push(1_000)), "retry_policy.retriable_status_codes[2]"),
        (retry(|it| it.retriable_headers.push(Default::default())), "retry_policy.retriable_headers"),
        (retry(|it| it.per_try_idle_timeout = seconds(1)), "retry_policy.per_try_idle_timeout"),
        (
            retry(|it| it.retry_back_off.as_mut().unwrap().max_interval = Some(Duration { seconds: 0, nanos: 1 })),
            "retry_policy.retry_back_off.max_interval",
        ),
        (
            retry(|it| it.retry_back_off.as_mut().unwrap().base_interval = None),
            "retry_policy.retry_back_off.base_interval",
        ),
        (retry(|it| it.host_selection_retry_max_attempts = -1), "retry_policy.host_selection_retry_max_attempts"),
        (retry(|it| it.retry_host_predicate.push(Default::default())), "retry_policy.retry_host_predicate[1]"),
        (
            retry(|it| it.retry_priority.as_mut().unwrap().config_type = None),
            "retry_policy.retry_priority.typed_config",
        ),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("virtual_hosts[0].routes[0].route.{field}"), "{refusal}");
        assert_eq!(refusal.resource, "15001");
    }
}

#[test]
fn what_redirects_answers_and_filters_of_a_route_cannot_do_is_refused() {
    use core::data_source::Specifier;
    const CORS: &str = "envoy.filters.http.cors";
    const FAULT: &str = "envoy.filters.http.fault";
    let at_cors = "virtual_hosts[0].routes[0].typed_per_filter_config[envoy.filters.http.cors]";
    let at_fault = "virtual_hosts[0].routes[0].typed_per_filter_config[envoy.filters.http.fault]";
    let rows = vec![
        (per_route(CORS, |it: &mut cors::CorsPolicy| it.max_age = "soon".to_owned()), at_cors, "max_age"),
        (
            per_route(CORS, |it: &mut cors::CorsPolicy| it.allow_private_network_access = yes()),
            at_cors,
            "allow_private_network_access",
        ),
        (
            per_route(CORS, |it: &mut cors::CorsPolicy| {
                it.filter_enabled.as_mut().unwrap().default_value.as_mut().unwrap().numerator = 7;
            }),
            at_cors,
            "filter_enabled",
        ),
        (
            per_route(FAULT, |it: &mut fault::HttpFault| {
                it.abort.as_mut().unwrap().error_type = Some(fault::fault_abort::ErrorType::HttpStatus(42));
            }),
            at_fault,
            "abort.http_status",
        ),
        (
            per_route(FAULT, |it: &mut fault::HttpFault| {
                it.abort.as_mut().unwrap().error_type = Some(fault::fault_abort::ErrorType::GrpcStatus(17));
            }),
            at_fault,
            "abort.grpc_status",
        ),
        (
            per_route(FAULT, |it: &mut fault::HttpFault| {
                it.delay.as_mut().unwrap().percentage =
                    Some(kinds::FractionalPercent { numerator: 101, denominator: 0 });
            }),
            at_fault,
            "delay.percentage",
        ),
        (per_route(FAULT, |it: &mut fault::HttpFault| it.max_active_faults = number(1)), at_fault, "max_active_faults"),
        (redirect(|it| it.strip_query = true), "virtual_hosts[0].routes[1].redirect", "strip_query"),
        (redirect(|it| it.port_redirect = 70_000), "virtual_hosts[0].routes[1].redirect", "port_redirect"),
        (redirect(|it| it.response_code = 9), "virtual_hosts[0].routes[1].redirect", "response_code"),
        (direct(|it| it.status = 99), "virtual_hosts[1].routes[0].direct_response", "status"),
        (
            direct(|it| it.body.as_mut().unwrap().specifier = Some(Specifier::Filename("/etc/passwd".to_owned()))),
            "virtual_hosts[1].routes[0].direct_response",
            "body.filename",
        ),
        (
            direct(|it| it.body.as_mut().unwrap().specifier = Some(Specifier::InlineBytes(vec![0; (1 << 20) + 1]))),
            "virtual_hosts[1].routes[0].direct_response",
            "body",
        ),
        (
            route(|it| it.action = Some(rds::route::Action::FilterAction(Default::default()))),
            "virtual_hosts[0].routes[0]",
            "filter_action",
        ),
        (route(|it| it.action = None), "virtual_hosts[0].routes[0]", "action"),
    ];
    for (refusal, at, field) in rows {
        assert_eq!(refusal.field, format!("{at}.{field}"), "{refusal}");
    }
}

#[test]
fn header_operations_that_envoy_or_leno_lack_are_refused() {
    let at = |refusal: Refusal| {
        let prefix = "virtual_hosts[0].routes[0].";
        refusal.field.strip_prefix(prefix).unwrap_or_else(|| panic!("{refusal}")).to_owned()
    };
    let add = |option: core::HeaderValueOption| at(route(|it| it.response_headers_to_add = vec![option]));
    assert_eq!(add(header("x-a", "%REQ(x-b)%", 0)), "response_headers_to_add[0].header.value");
    assert_eq!(add(header("x-a", "50%", 0)), "response_headers_to_add[0].header.value");
    assert_eq!(add(header("x-a", "a\nb", 0)), "response_headers_to_add[0].header");
    assert_eq!(add(header(":path", "/", 0)), "response_headers_to_add[0].header.key");
    assert_eq!(add(header("Host", "a", 0)), "response_headers_to_add[0].header.key");
    assert_eq!(add(header("x-a", "1", 1)), "response_headers_to_add[0].append_action");
    assert_eq!(add(header("x-a", "1", 3)), "response_headers_to_add[0].append_action");
    assert_eq!(add(core::HeaderValueOption::default()), "response_headers_to_add[0].header");
    assert_eq!(at(route(|it| it.request_headers_to_remove.push("host".to_owned()))), "request_headers_to_remove[1]");
}

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
        (cluster(|it| it.health_checks.push(Default::default())), "health_checks"),
        (cluster(|it| it.upstream_bind_config = Some(Default::default())), "upstream_bind_config"),
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
        (outlier(|it| it.enforcing_success_rate = number(100)), "outlier_detection.enforcing_success_rate"),
        (outlier(|it| it.max_ejection_percent = number(101)), "outlier_detection.max_ejection_percent"),
        (outlier(|it| it.interval = seconds(0)), "outlier_detection.interval"),
        (outlier(|it| it.always_eject_one_host = yes()), "outlier_detection.always_eject_one_host"),
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
        (options(|it| it.retry_policy = Some(Default::default())), "retry_policy"),
        (
            options(|it| it.common_http_protocol_options.as_mut().unwrap().max_connection_duration = seconds(5)),
            "common_http_protocol_options.max_connection_duration",
        ),
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
        (common(|it| it.validation_context_type = None), "common_tls_context.validation_context"),
        (common(|it| it.key_log = Some(Default::default())), "common_tls_context.key_log"),
        (
            common(|it| {
                it.tls_params = Some(tls::TlsParameters { tls_minimum_protocol_version: 4, ..Default::default() });
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
fn a_node_without_istios_id_is_refused_with_the_form_it_should_have() {
    for id in ["", "envoy", "sidecar~127.0.0.1~a~b~c", "sidecar~localhost~a.b~c", "sidecar~127.0.0.1~a~c"] {
        let node = core::Node { id: id.to_owned(), ..Default::default() };
        let refusal = leno_config::xds::node_from_xds(&node).unwrap_err();
        assert_eq!(refusal.to_string(), format!("<node>: id: `{id}` is not `sidecar~IP~NAME.NAMESPACE~DOMAIN`"));
    }
}
