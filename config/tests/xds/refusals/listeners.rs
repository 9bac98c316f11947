//! Listeners.

use super::*;

#[test]
fn what_listeners_cannot_do_is_refused() {
    check(vec![
        (listener(|it| it.name.clear()), "name"),
        (listener(|it| it.address = None), "address"),
        (listener(|it| (it.bind_to_port, it.use_original_dst) = (no(), yes())), "bind_to_port"),
        (listener(|it| it.transparent = yes()), "transparent"),
        (listener(|it| it.additional_addresses.push(Default::default())), "additional_addresses[0].address"),
        (listener(|it| it.api_listener = Some(Default::default())), "api_listener"),
        (listener(|it| it.udp_listener_config = Some(Default::default())), "udp_listener_config"),
        (listener(|it| it.traffic_direction = 9), "traffic_direction"),
        (listener(|it| it.listener_filters.push(Default::default())), "listener_filters[0]"),
        (listener(|it| it.filter_chains.clear()), "filter_chains"),
        (listener(|it| it.filter_chains.push(Default::default())), "filter_chains[1].filters"),
        (listener(|it| it.filter_chains.push(it.filter_chains[0].clone())), "filter_chains"),
        (listener(|it| it.default_filter_chain = Some(Default::default())), "default_filter_chain.filters"),
        (listener(|it| it.default_filter_chain = Some(it.filter_chains[0].clone())), "filter_chains"),
        (listener(|it| it.filter_chains.push(messages::tcp_listener().filter_chains.remove(0))), "filter_chains[1]"),
        (
            listener(|it| {
                it.filter_chains[0].filter_chain_match =
                    Some(lds::FilterChainMatch { server_names: vec!["a".to_owned()], ..Default::default() });
            }),
            "filter_chains[0].filter_chain_match",
        ),
        (
            listener(|it| {
                it.filter_chains[0].transport_socket =
                    Some(core::TransportSocket { name: "envoy.transport_sockets.tls".to_owned(), config_type: None });
            }),
            "filter_chains[0].transport_socket.typed_config",
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
                    Some(core::HttpProtocolOptions { headers_with_underscores_action: 3, ..Default::default() });
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
        (
            tcp_proxy(|it| it.hash_policy.push(Default::default())),
            "filter_chains[0].filters[0].hash_policy[1].policy_specifier",
        ),
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
