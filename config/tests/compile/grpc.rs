//! What a gRPC client without a proxy is told, and what it cannot be told.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{RouteAction, RouteConfiguration};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use leno_config::xds::Kind;
use leno_config::xds::grpc::{Encoding, Outcome, encode};
use prost::Message;

use crate::support::{SERVICES, client, compile, document, reviews};

const TABLE: &str = "reviews.default.svc.cluster.local:9080";
const CLUSTER: &str = "outbound|9080||reviews.default.svc.cluster.local";
const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";

fn told(rules: &str) -> Encoding {
    encode(&compile(&format!("{SERVICES}{rules}"), &client()))
}

fn message<M: Message + Default>(encoding: &Encoding, kind: Kind, name: &str) -> M {
    let encoded = encoding.resources[&kind].get(name).unwrap_or_else(|| panic!("no {name}: {:#?}", encoding.remarks));
    M::decode(&*encoded.any.value).unwrap()
}

fn table(rules: &str) -> RouteConfiguration {
    message(&told(rules), Kind::Route, TABLE)
}

/// The only route of the table.
fn action(rules: &str) -> RouteAction {
    let table = table(rules);
    let [route] = &table.virtual_hosts[0].routes[..] else { panic!("{table:#?}") };
    let Some(Action::Route(action)) = &route.action else { panic!("{route:#?}") };
    action.clone()
}

fn destination_rule(policy: &str) -> String {
    document(
        "DestinationRule",
        "another/reviews",
        &format!("{{host: reviews.default.svc.cluster.local, trafficPolicy: {policy}}}"),
    )
    .replace("another", "default")
    .replace("name: reviews,", "name: a-reviews,")
}

/// `outcome: reason` of a resource; empty: it is told in full.
fn remark(encoding: &Encoding, kind: Kind, name: &str) -> String {
    let remark = encoding.remarks.get(&(kind, name.to_owned()));
    let there = encoding.resources[&kind].contains_key(name);
    assert_eq!(there, remark.is_none_or(|remark| remark.outcome == Outcome::LeftOut), "{name}: {remark:?}");
    remark.map(|remark| format!("{}: {}", remark.outcome.label(), remark.reason)).unwrap_or_default()
}

#[test]
fn every_name_of_a_host_leads_to_its_table() {
    let encoding = told("");
    for name in ["reviews:9080", "reviews", "reviews.default:9080", TABLE, "reviews.default.svc.cluster.local"] {
        let listener = message::<Listener>(&encoding, Kind::Listener, name);
        assert_eq!(listener.name, name);
        assert!(listener.filter_chains.is_empty() && listener.address.is_none(), "nothing is listened on");
        let manager = listener.api_listener.unwrap().api_listener.unwrap();
        let manager = HttpConnectionManager::decode(&*manager.value).unwrap();
        let filters = manager.http_filters.iter().map(|filter| filter.name.as_str()).collect::<Vec<_>>();
        assert_eq!(filters, ["envoy.filters.http.fault", "envoy.filters.http.router"], "and the router last");
        assert!(format!("{manager:?}").contains(&format!("route_config_name: {TABLE:?}")), "{manager:?}");
    }
    assert!(!encoding.resources[&Kind::Listener].contains_key("mongo:27017"), "that is no HTTP");
    let table = message::<RouteConfiguration>(&encoding, Kind::Route, TABLE);
    assert_eq!(table.virtual_hosts[0].domains, ["*"], "who comes here has the host's name already");
    assert_eq!(remark(&encoding, Kind::Route, TABLE), "", "Istio's default retries are fine");
}

#[test]
fn what_grpc_would_skip_or_forget_is_refused_with_the_rule_that_says_it() {
    let to = "route: [{destination: {host: reviews}}]";
    let rows = [
        (format!("match: [{{queryParams: {{a: {{exact: b}}}}}}], {to}"), "match.queryParams: gRPC has no query"),
        (format!("match: [{{method: {{exact: GET}}}}], {to}"), "match.headers[:method]: gRPC matches metadata"),
        (
            format!("match: [{{headers: {{a-bin: {{exact: b}}}}}}], {to}"),
            "match.headers[a-bin]: gRPC never matches binary",
        ),
        (
            format!("match: [{{withoutHeaders: {{a: {{exact: b}}}}}}], {to}"),
            "match.headers[a]: gRPC has no condition that a missing header",
        ),
        (format!("match: [{{uri: {{regex: \"(?x)/a\"}}}}], {to}"), "match.uri: the expressions of gRPC (RE2)"),
        (
            format!("match: [{{headers: {{a: {{regex: \"[a-z&&b]\"}}}}}}], {to}"),
            "match.headers[a]: the expressions of gRPC (RE2)",
        ),
        ("redirect: {uri: /other}".to_owned(), "redirect: gRPC does not follow"),
        ("directResponse: {status: 503}".to_owned(), "directResponse: gRPC has no answers"),
        (format!("rewrite: {{uri: /other}}, {to}"), "rewrite: gRPC calls the method"),
        (format!("rewrite: {{authority: other}}, {to}"), "rewrite: gRPC calls the method"),
        (format!("mirrors: [{{destination: {{host: ratings}}}}], {to}"), "mirrors: gRPC sends no copies"),
        (format!("headers: {{request: {{set: {{a: b}}}}}}, {to}"), "headers: gRPC changes no headers"),
        (format!("headers: {{response: {{remove: [a]}}}}, {to}"), "headers: gRPC changes no headers"),
        (format!("retries: {{attempts: 2, perTryTimeout: 1s, retryOn: unavailable}}, {to}"), "retries: perTryTimeout:"),
        (format!("retries: {{attempts: 10, retryOn: unavailable}}, {to}"), "retries: attempts: gRPC tries again 4"),
        (format!("retries: {{attempts: 2, retryOn: \"5xx,reset\"}}, {to}"), "and never on 5xx,reset"),
        (format!("retries: {{attempts: 2, retryOn: \"503\"}}, {to}"), "and never on retriable-status-codes"),
    ];
    for (rule, expected) in rows {
        let found = remark(&told(&reviews(&format!("[{{{rule}}}]"))), Kind::Route, TABLE);
        assert!(found.starts_with("refused: VirtualService default/reviews[0]: "), "{rule}: {found}");
        assert!(found.contains(expected), "{rule}: {found}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let rules = reviews(
        "[{redirect: {uri: /a}, match: [{uri: {exact: /b}}]}, {mirrors: [{destination: {host: ratings}}], route: [{destination: {host: reviews}}]}]",
    );
    let found = remark(&told(&rules), Kind::Route, TABLE);
    assert_eq!(
        found,
        "refused: VirtualService default/reviews[0]: redirect: gRPC does not follow redirects, and would skip this \
         route; VirtualService default/reviews[1]: mirrors: gRPC sends no copies"
    );
}

#[test]
fn conditions_that_say_the_same_in_other_words_are_said_so() {
    let to = "route: [{destination: {host: reviews}}]";
    let route = |rule: &str| {
        let table = table(&reviews(&format!("[{{{rule}, {to}}}]")));
        table.virtual_hosts[0].routes[0].r#match.clone().unwrap()
    };
    let header = route("match: [{withoutHeaders: {a: {}}}]");
    assert!(header.headers[0].invert_match, "that it is not there");
    let exact = route("match: [{uri: {exact: /leno.Greeter/Unary}, ignoreUriCase: true}]");
    assert_eq!(exact.path_specifier, Some(PathSpecifier::Path("/leno.Greeter/Unary".to_owned())));
    assert!(!exact.case_sensitive.unwrap().value);
    let cors = route("corsPolicy: {allowOrigins: [{exact: https://a}]}");
    assert_eq!(cors.path_specifier, Some(PathSpecifier::Prefix("/".to_owned())), "no browser calls this way");
}

#[test]
fn a_timeout_bounds_the_call() {
    let timed = action(&reviews("[{timeout: 3s, route: [{destination: {host: reviews}}]}]"));
    assert_eq!(timed.max_stream_duration.unwrap().max_stream_duration.unwrap().seconds, 3);
    assert_eq!(timed.timeout, None);
    assert_eq!(action("").max_stream_duration, None, "there is none by itself");
}

#[test]
fn retries_are_those_that_grpc_knows() {
    let retries = |written: &str| {
        let rules = reviews(&format!("[{{retries: {written}, route: [{{destination: {{host: reviews}}}}]}}]"));
        (action(&rules).retry_policy, remark(&told(&rules), Kind::Route, TABLE))
    };
    let (policy, remark) = retries("{attempts: 3, retryOn: \"unavailable,connect-failure\"}");
    let policy = policy.unwrap();
    assert_eq!((policy.retry_on.as_str(), policy.num_retries.unwrap().value), ("unavailable", 3));
    assert!(policy.retry_host_predicate.is_empty() && policy.retry_priority.is_none());
    assert_eq!(remark, "");
    let (policy, remark) = retries("{attempts: 1, retryOn: \"5xx,cancelled\"}");
    assert_eq!(policy.unwrap().retry_on, "cancelled");
    assert!(remark.starts_with("left out: ") && remark.contains("never on 5xx"), "{remark}");
    // gRPC refuses a policy without attempts; what was not sent it tries again by itself.
    assert_eq!(retries("{attempts: 0}"), (None, String::new()));
    assert_eq!(retries("{attempts: 2, retryOn: \"connect-failure,refused-stream\"}"), (None, String::new()));
}

#[test]
fn balancers_are_those_that_every_grpc_takes() {
    let rows = [
        ("{simple: ROUND_ROBIN}", LbPolicy::RoundRobin, false),
        ("{simple: RANDOM}", LbPolicy::RoundRobin, false),
        ("{simple: LEAST_REQUEST}", LbPolicy::RoundRobin, true),
        ("{consistentHash: {httpHeaderName: user}}", LbPolicy::RingHash, false),
        ("{consistentHash: {httpHeaderName: user, maglev: {}}}", LbPolicy::RingHash, false),
    ];
    for (written, policy, listed) in rows {
        let encoding = told(&destination_rule(&format!("{{loadBalancer: {written}}}")));
        let cluster = message::<Cluster>(&encoding, Kind::Cluster, CLUSTER);
        assert_eq!(cluster.lb_policy(), policy, "{written}");
        assert_eq!(cluster.load_balancing_policy.is_some(), listed, "{written}");
        if let Some(LbConfig::RingHashLbConfig(ring)) = cluster.lb_config {
            assert_eq!(ring.minimum_ring_size.unwrap().value, 1024, "{written}");
        }
        assert_eq!(remark(&encoding, Kind::Cluster, CLUSTER), "", "{written}");
    }
    for other in ["httpCookie: {name: a, ttl: 0s}", "useSourceIp: true", "httpQueryParameterName: a"] {
        let encoding = told(&destination_rule(&format!("{{loadBalancer: {{consistentHash: {{{other}}}}}}}")));
        let found = remark(&encoding, Kind::Route, TABLE);
        assert!(found.contains("consistentHash: gRPC hashes headers"), "{other}: {found}");
    }
}

#[test]
fn protections_that_grpc_lacks_are_left_out_and_remarked() {
    let policy = "{connectionPool: {tcp: {maxConnections: 7}, http: {http2MaxRequests: 9, maxRetries: 3}}, \
                  outlierDetection: {consecutive5xxErrors: 5}}";
    let encoding = told(&destination_rule(policy));
    let found = remark(&encoding, Kind::Cluster, CLUSTER);
    assert!(found.starts_with("left out: "), "{found}");
    for field in ["tcp.maxConnections: ", "http.maxRetries: ", "outlierDetection.consecutive5xxErrors: "] {
        assert!(found.contains(field), "{found}");
    }
    let cluster = message::<Cluster>(&encoding, Kind::Cluster, CLUSTER);
    let limits = |cluster: &Cluster| cluster.circuit_breakers.as_ref().unwrap().thresholds[0];
    assert_eq!(limits(&cluster).max_requests.unwrap().value, 9);
    let unlimited = message::<Cluster>(&told(""), Kind::Cluster, V1);
    assert_eq!(limits(&unlimited).max_requests.unwrap().value, u32::MAX, "gRPC's own limit is 1024");
}

#[test]
fn encryption_that_a_rule_demands_is_not_left_out() {
    let auto = told("");
    assert_eq!(remark(&auto, Kind::Cluster, CLUSTER), "");
    for mode in ["ISTIO_MUTUAL", "SIMPLE"] {
        let found = remark(&told(&destination_rule(&format!("{{tls: {{mode: {mode}}}}}"))), Kind::Cluster, CLUSTER);
        assert!(found.starts_with("refused: tls.mode: "), "{mode}: {found}");
    }
}

fn entry(spec: &str) -> Encoding {
    let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
    told(&document("ServiceEntry", "outside", &format!("{{hosts: [outside.example.com], {ports}, {spec}}}")))
}

#[test]
fn a_service_without_endpoints_is_one_name_or_refused() {
    let name = "outbound|80||outside.example.com";
    let rows = [
        ("resolution: DNS", Some(DiscoveryType::LogicalDns), ""),
        ("resolution: DNS, endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2}]", Some(DiscoveryType::Eds), ""),
        ("resolution: DNS, endpoints: [{address: a.example.com}, {address: b.example.com}]", None, "one DNS name per"),
        ("resolution: NONE", None, "resolution: a service without endpoints"),
    ];
    for (spec, expected, reason) in rows {
        let encoding = entry(spec);
        let found = remark(&encoding, Kind::Cluster, name);
        assert!(found.contains(reason) && found.is_empty() == reason.is_empty(), "{spec}: {found}");
        if let Some(expected) = expected {
            let cluster = message::<Cluster>(&encoding, Kind::Cluster, name);
            assert_eq!(cluster.cluster_discovery_type, Some(ClusterDiscoveryType::Type(expected.into())), "{spec}");
            assert_eq!(
                encoding.resources[&Kind::Endpoints].contains_key(name),
                expected == DiscoveryType::Eds,
                "{spec}"
            );
        }
    }
}

#[test]
fn endpoints_have_no_gap_no_twin_and_a_weight_for_each_locality() {
    let locality = |name: &str| format!("locality: {name}");
    let encoding = entry(&format!(
        "resolution: STATIC, endpoints: [{{address: 10.0.0.1, weight: 3, {a}}}, {{address: 10.0.0.2, weight: 4, {a}}}, \
         {{address: 10.0.0.1, {b}}}, {{address: 10.0.0.3, {b}}}]",
        a = locality("r1/z1"),
        b = locality("r2/z1"),
    ));
    let assignment = message::<ClusterLoadAssignment>(&encoding, Kind::Endpoints, "outbound|80||outside.example.com");
    let shown = assignment.endpoints.iter().map(|group| {
        let weight = group.load_balancing_weight.map(|weight| weight.value);
        (group.priority, weight, group.lb_endpoints.len())
    });
    assert_eq!(shown.collect::<Vec<_>>(), [(0, Some(7), 2), (0, Some(1), 1)]);
}

#[test]
fn the_same_resource_has_another_version_in_other_words() {
    let resources = compile(SERVICES, &client());
    let usual = leno_config::xds::encode(&resources, &leno_config::xds::Flavour::Sidecar);
    let grpc = encode(&resources).resources;
    for kind in [Kind::Cluster, Kind::Endpoints] {
        for (name, encoded) in &grpc[&kind] {
            assert_ne!(usual[&kind][name].version, encoded.version, "{name}");
        }
    }
}
