//! Route tables.

use super::*;

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
        (condition(|it| it.dynamic_metadata.push(Default::default())), "dynamic_metadata[0].filter"),
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
        (retry(|it| it.retriable_headers.push(Default::default())), "retry_policy.retriable_headers[0].name"),
        (
            retry(|it| it.rate_limited_retry_back_off = Some(Default::default())),
            "retry_policy.rate_limited_retry_back_off.reset_headers",
        ),
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
    use super::core::data_source::Specifier;
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
        (
            route(|it| {
                let on = pack(&rds::FilterConfig::default());
                it.typed_per_filter_config.insert("rbac".to_owned(), on);
            }),
            "virtual_hosts[0].routes[0]",
            "typed_per_filter_config[rbac]",
        ),
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
