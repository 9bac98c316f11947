//! Poisoned resources from a control plane that is not ours: each is refused by name and field, and what was there stays.

use std::net::SocketAddr;

use leno_tests::numbered::{Book, Callers, NUMBER};
use leno_tests::{Origin, free_port, full, metric};
use serde_json::{Value, json};

use super::{RESOURCES, complaint, in_force};
use crate::foreign::{World, mesh};

/// In place of which value what is put, and how the NACK names the place; `null` takes the value away.
type Row = (&'static str, Value, &'static str);

fn clusters() -> Vec<Row> {
    let check = json!([{"timeout": "1s", "interval": "1s", "unhealthyThreshold": 1, "healthyThreshold": 1}]);
    vec![
        ("/connectTimeout", json!("0s"), "connect_timeout"),
        ("/type", json!("LOGICAL_DNS"), "load_assignment"),
        ("/type", json!("STATIC"), "load_assignment"),
        ("/lbPolicy", json!("CLUSTER_PROVIDED"), "lb_policy"),
        ("/lbPolicy", json!("LOAD_BALANCING_POLICY_CONFIG"), "load_balancing_policy"),
        ("/loadBalancingPolicy", json!({}), "load_balancing_policy.policies"),
        ("/lbSubsetConfig", json!({}), "lb_subset_config"),
        ("/healthChecks", check, "health_checks[0].health_checker"),
        ("/dnsResolvers", json!([{}]), "dns_resolvers"),
        ("/filters", json!([{}]), "filters[0]"),
        ("/edsClusterConfig", Value::Null, "eds_cluster_config"),
        ("/edsClusterConfig", json!({}), "eds_cluster_config.eds_config"),
        ("/upstreamBindConfig", json!({"freebind": true}), "upstream_bind_config.freebind"),
        ("/outlierDetection", json!({"enforcingSuccessRate": 50}), "outlier_detection.enforcing_success_rate"),
        (
            "/commonLbConfig",
            json!({"healthyPanicThreshold": {"value": 101}}),
            "common_lb_config.healthy_panic_threshold",
        ),
        ("/circuitBreakers", json!({"perHostThresholds": [{}]}), "circuit_breakers.per_host_thresholds"),
        (
            "/circuitBreakers",
            json!({"thresholds": [{"maxConnectionPools": 1}]}),
            "circuit_breakers.thresholds[0].max_connection_pools",
        ),
        ("/outlierDetection", json!({"enforcingConsecutive5xx": 50}), "outlier_detection.enforcing_consecutive_5xx"),
        ("/outlierDetection", json!({"maxEjectionPercent": 101}), "outlier_detection.max_ejection_percent"),
        ("/outlierDetection", json!({"interval": "0s"}), "outlier_detection.interval"),
    ]
}

fn endpoints() -> Vec<Row> {
    vec![
        ("/policy", json!({"dropOverloads": [{}]}), "policy.drop_overloads"),
        ("/policy", json!({"overprovisioningFactor": 0}), "policy.overprovisioning_factor"),
        ("/endpoints/0/priority", json!(129), "endpoints[0].priority"),
        ("/endpoints/0/loadBalancingWeight", json!(0), "endpoints[0].load_balancing_weight"),
        (
            "/endpoints/0/lbEndpoints/0/loadBalancingWeight",
            json!(0),
            "endpoints[0].lb_endpoints[0].load_balancing_weight",
        ),
        ("/endpoints/0/lbEndpoints/0/endpoint", Value::Null, "endpoints[0].lb_endpoints[0].endpoint"),
        ("/endpoints/0/lbEndpoints/0/endpoint", json!({}), "endpoints[0].lb_endpoints[0].endpoint"),
        ("/endpoints/0/lbEndpoints/0/endpoint/address/socketAddress/protocol", json!("UDP"), "socket_address.protocol"),
        (
            "/endpoints/0/lbEndpoints/0/endpoint/address/socketAddress/address",
            json!(""),
            "endpoint.address.socket_address",
        ),
        (
            "/endpoints/0/lbEndpoints/0/endpoint/address/socketAddress/portValue",
            json!(65_536),
            "socket_address.port_value",
        ),
        (
            "/endpoints/0/lbEndpoints/0/endpoint/address/socketAddress/portValue",
            json!(0),
            "endpoint.address.socket_address",
        ),
        (
            "/endpoints/0/lbEndpoints/0/endpoint/address/socketAddress/resolverName",
            json!("mine"),
            "socket_address.resolver_name",
        ),
    ]
}

fn routes() -> Vec<Row> {
    vec![
        ("/virtualHosts/0/domains", json!([]), "virtual_hosts"),
        ("/virtualHosts/0/domains/0", json!("a*b"), "virtual_hosts[0].domains[0]"),
        ("/virtualHosts/0/requireTls", json!("ALL"), "virtual_hosts[0].require_tls"),
        ("/virtualHosts/0/rateLimits", json!([{"actions": [{"remoteAddress": {}}]}]), "virtual_hosts[0].rate_limits"),
        ("/virtualHosts/0/hedgePolicy", json!({}), "virtual_hosts[0].hedge_policy"),
        ("/internalOnlyHeaders", json!(["x-internal"]), "internal_only_headers"),
        ("/ignorePathParametersInPathMatching", json!(true), "ignore_path_parameters_in_path_matching"),
        ("/requestHeadersToAdd", json!([{"header": {"key": "bad name"}}]), "request_headers_to_add[0].header"),
        ("/virtualHosts/0/routes/0/match", Value::Null, "virtual_hosts[0].routes[0].match"),
        ("/virtualHosts/0/routes/0/match", json!({}), "routes[0].match.path_specifier"),
        ("/virtualHosts/0/routes/0/match", json!({"safeRegex": {"regex": "a("}}), "match.safe_regex.regex"),
        ("/virtualHosts/0/routes/0/match", json!({"safeRegex": {"regex": "a(?=b)"}}), "match.safe_regex.regex"),
        ("/virtualHosts/0/routes/0/match", json!({"safeRegex": {"regex": "(a{500}){500}"}}), "match.safe_regex.regex"),
        ("/virtualHosts/0/routes/0/match", json!({"pathSeparatedPrefix": "/a/"}), "match.path_separated_prefix"),
        ("/virtualHosts/0/routes/0/match", json!({"connectMatcher": {}}), "match.connect_matcher"),
        ("/virtualHosts/0/routes/0/match/grpc", json!({}), "match.grpc"),
        ("/virtualHosts/0/routes/0/match/tlsContext", json!({}), "match.tls_context"),
        ("/virtualHosts/0/routes/0/match/headers", json!([{"name": "no spaces"}]), "match.headers[0].name"),
        (
            "/virtualHosts/0/routes/0/match/headers",
            json!([{"name": "a", "rangeMatch": {}}]),
            "match.headers[0].range_match",
        ),
        ("/virtualHosts/0/routes/0/match/runtimeFraction", json!({}), "match.runtime_fraction"),
        ("/virtualHosts/0/routes/0/route", Value::Null, "virtual_hosts[0].routes[0].action"),
        ("/virtualHosts/0/routes/0/route", json!({}), "route.cluster_specifier"),
        ("/virtualHosts/0/routes/0/route", json!({"clusterHeader": "x-to"}), "route.cluster_header"),
        ("/virtualHosts/0/routes/0/route/cluster", json!(""), "route.cluster"),
        ("/virtualHosts/0/routes/0/route/priority", json!("HIGH"), "route.priority"),
        ("/virtualHosts/0/routes/0/route/timeout", json!("-3s"), "route.timeout"),
        ("/virtualHosts/0/routes/0/route/autoHostRewrite", json!(true), "route.auto_host_rewrite"),
        ("/virtualHosts/0/routes/0/route/retryPolicy", json!({"retryOn": "5xx,sunshine"}), "retry_policy.retry_on"),
        ("/virtualHosts/0/routes/0/route", json!({"weightedClusters": {"clusters": []}}), "weighted_clusters"),
        ("/virtualHosts/0/routes/0/route/hashPolicy", json!([{}]), "hash_policy[0].policy_specifier"),
        (
            "/virtualHosts/0/routes/0",
            json!({"match": {"prefix": "/"}, "redirect": {"portRedirect": 70_000}}),
            "redirect.port_redirect",
        ),
        (
            "/virtualHosts/0/routes/0",
            json!({"match": {"prefix": "/"}, "directResponse": {"status": 99}}),
            "direct_response.status",
        ),
        (
            "/virtualHosts/0/routes/0/responseHeadersToAdd",
            json!([{"header": {"key": "x-a", "value": "%REQ(x-b)%"}}]),
            "response_headers_to_add[0].header.value",
        ),
        ("/virtualHosts/0/routes/0/requestHeadersToRemove", json!(["host"]), "request_headers_to_remove[0]"),
    ]
}

fn listeners() -> Vec<Row> {
    vec![
        ("/address", Value::Null, "address"),
        ("/transparent", json!(true), "transparent"),
        ("/additionalAddresses", json!([{}]), "additional_addresses[0].address"),
        ("/apiListener", json!({}), "api_listener"),
        ("/udpListenerConfig", json!({}), "udp_listener_config"),
        ("/listenerFilters", json!([{}]), "listener_filters[0]"),
        ("/filterChains", json!([]), "filter_chains"),
        ("/filterChains/0/filters", json!([]), "filter_chains[0].filters"),
        ("/filterChains/0/filters/0/typedConfig", Value::Null, "filter_chains[0].filters[0].typed_config"),
        ("/filterChains/0/filters/0/typedConfig/codecType", json!("HTTP3"), "filter_chains[0].filters[0].codec_type"),
        ("/filterChains/0/filters/0/typedConfig/via", json!("x"), "filter_chains[0].filters[0].via"),
        ("/filterChains/0/filters/0/typedConfig/localReplyConfig", json!({}), "local_reply_config"),
        ("/filterChains/0/filters/0/typedConfig/stripMatchingHostPort", json!(true), "strip_matching_host_port"),
        (
            "/filterChains/0/filters/0/typedConfig/httpProtocolOptions",
            json!({"acceptHttp10": true}),
            "http_protocol_options.accept_http_10",
        ),
        ("/filterChains/0/filters/0/typedConfig/httpFilters", json!([]), "http_filters"),
        (
            "/filterChains/0/filters/0/typedConfig/httpFilters/0/typedConfig",
            Value::Null,
            "http_filters[0].typed_config",
        ),
        ("/filterChains/0/filters/0/typedConfig/httpFilters/0/disabled", json!(true), "http_filters[0].disabled"),
        ("/filterChains/0/filters/0/typedConfig/rds", Value::Null, "route_specifier"),
        ("/filterChains/0/filters/0/typedConfig/rds", json!({}), "rds.config_source"),
        (
            "/filterChains/0/filters/0/typedConfig/upgradeConfigs",
            json!([{"upgradeType": "CONNECT"}]),
            "upgrade_configs[0].upgrade_type",
        ),
    ]
}

/// What `xds_server.py` does to the bytes of a good resource.
fn damages() -> Vec<Value> {
    vec![
        json!({"cut": 1}),
        json!({"append": "0a"}),
        json!({"append": "0aff"}),
        json!({"append": "07"}),
        json!({"append": "0b"}),
        json!({"append": "ffffffffffffffffffff7f"}),
        json!({"append": "0a02c328"}),
    ]
}

/// Sets what stands at the pointer, and adds it where nothing does.
fn set(value: &mut Value, pointer: &str, new: Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match (value.pointer_mut(parent).unwrap(), new) {
        (Value::Object(fields), Value::Null) => drop(fields.remove(name)),
        (Value::Object(fields), new) => drop(fields.insert(name.to_owned(), new)),
        (Value::Array(items), new) => items[name.parse::<usize>().unwrap()] = new,
        (other, _) => panic!("{other} has no {name}"),
    }
}

/// Kind and name of a resource, the resource, and the field by which it is refused.
type Poison = (&'static str, &'static str, Value, &'static str);

fn poisons(good: &Value) -> Vec<Poison> {
    let mut poisons = Vec::new();
    let tables = [
        ("clusters", "app", clusters()),
        ("endpoints", "app", endpoints()),
        ("routes", "table", routes()),
        ("listeners", "front", listeners()),
    ];
    for (kind, name, rows) in tables {
        for (pointer, new, field) in rows {
            let mut resource = good[kind][name].clone();
            set(&mut resource, pointer, new);
            poisons.push((kind, name, resource, field));
        }
        for damage in damages() {
            // What cannot be read has no field; the bytes themselves are at fault.
            poisons.push((kind, name, json!({"@damage": damage, "resource": good[kind][name]}), "resource"));
        }
    }
    poisons
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poisoned_resources_are_refused_by_name_and_field_and_change_nothing() {
    let (book, port) = (Book::default(), free_port());
    let served = book.clone();
    let app = Origin::answering(move |request| {
        if let Ok(number) = request.header(NUMBER).parse() {
            served.write(number);
        }
        http::Response::new(full("app"))
    })
    .await;
    let good = mesh(port, app.address());
    let Some(mut world) = World::start("poisoned resources", good.clone()).await else { return };
    world.answers(port, "/", 200, "app").await;
    let before = in_force(&[&world.proxy]).await;
    let through = SocketAddr::from(([127, 0, 0, 1], port));
    let callers = Callers::start(through, "http://any/", 2, |_| None);
    let poisons = poisons(&good);
    assert!(poisons.len() >= RESOURCES, "{} poisons", poisons.len());
    eprintln!("{} poisoned resources", poisons.len());
    let mut complaints = Vec::new();
    for (kind, name, resource, field) in &poisons {
        let heard = world.server.log().len();
        world.tell(&[(kind, name, resource.clone())]);
        let said = complaint(async || {
            let log = world.server.log().split_off(heard);
            let mut nacks = log.lines().filter(|line| line.starts_with(&format!("nack {kind} ")));
            let found = nacks.any(|line| line.contains(&format!("{name}: ")) && line.contains(field));
            if found { Ok(()) } else { Err(log) }
        });
        complaints.extend(said.await.map(|said| format!("{kind} {field}: {resource}: it is said `{said}`")));
        if in_force(&[&world.proxy]).await != before {
            complaints.push(format!("{kind} {field}: {resource}: something else is in force"));
        }
    }
    assert!(complaints.is_empty(), "{} of {}: {complaints:#?}", complaints.len(), poisons.len());
    callers.flow(10).await;
    callers.stop().await.must_be_flawless(&book);
    assert_eq!(metric(&world.proxy.metrics().await, "leno_panics_total", &[]), 0.0);
    let answer =
        json!([{"match": {"prefix": "/"}, "directResponse": {"status": 200, "body": {"inlineString": "well"}}}]);
    let table = json!({"name": "table", "virtualHosts": [{"name": "all", "domains": ["*"], "routes": answer}]});
    let restored: Vec<_> = [("clusters", "app"), ("endpoints", "app"), ("listeners", "front")]
        .map(|(kind, name)| (kind, name, good[kind][name].clone()))
        .into();
    world.tell(&restored);
    world.tell(&[("routes", "table", table)]);
    world.answers(port, "/", 200, "well").await;
}
