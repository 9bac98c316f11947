//! MeshConfig `profile`: what `safe` sets where no rule says otherwise, and that `istio` sets nothing.

use std::time::Duration;

use leno_config::ir::{Action, Cluster, Resources, RetryPolicy, RouteSource};

use crate::support::*;

const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";

fn with(profile: &str, rules: &str) -> Resources {
    compile(
        &format!("{SERVICES}\n---\n{}{rules}", document("MeshConfig", "mesh", &format!("{{profile: {profile}}}"))),
        &client(),
    )
}

fn rule(policy: &str) -> String {
    document("DestinationRule", "more", &format!("{{host: ratings, trafficPolicy: {policy}}}"))
}

fn cluster(resources: &Resources, name: &str) -> Cluster {
    (*resources.clusters[name]).clone()
}

fn policies(resources: &Resources) -> Vec<RetryPolicy> {
    let inline = resources.listeners.values().filter_map(|listener| match &listener.protocol.http()?.routes {
        RouteSource::Inline(table) => Some(table),
        RouteSource::Named(_) => None,
    });
    let tables = resources.routes.values().chain(inline);
    let routes = tables.flat_map(|table| &table.virtual_hosts).flat_map(|host| &host.routes);
    routes
        .filter_map(|route| match &route.action {
            Action::Forward(forward) => forward.retry.clone(),
            Action::Redirect(_) | Action::Direct(_) => None,
        })
        .collect()
}

#[test]
fn istio_limits_nothing_that_no_rule_limits() {
    for resources in [with("istio", ""), compile(SERVICES, &client())] {
        let cluster = cluster(&resources, REVIEWS);
        assert_eq!(cluster.limits, Default::default());
        assert_eq!(cluster.connect_timeout, Duration::from_secs(10));
        assert!(policies(&resources).iter().all(|policy| policy.request_headers.is_empty()));
    }
}

#[test]
fn safe_limits_every_cluster_and_gives_its_retries_a_budget() {
    let resources = with("safe", "");
    let cluster = cluster(&resources, REVIEWS);
    let limits = &cluster.limits;
    assert_eq!((limits.connections, limits.pending, limits.requests), (Some(1024), Some(1024), Some(1024)));
    let budget = limits.retry_budget.as_ref().unwrap();
    assert_eq!((budget.share.millionths(), budget.min_concurrency), (200_000, 3));
    assert_eq!(cluster.connect_timeout, Duration::from_secs(1));
}

#[test]
fn safe_repeats_only_what_may_be_repeated() {
    let resources = with("safe", "");
    let policies = policies(&resources);
    assert!(!policies.is_empty());
    for policy in policies {
        let conditions: Vec<_> = policy.request_headers.iter().map(|condition| condition.key.as_str()).collect();
        assert_eq!(conditions, [":method", "idempotency-key"]);
        let methods = policy.request_headers[0].value.as_ref().unwrap();
        assert!(methods.is_match("GET") && methods.is_match("DELETE"));
        assert!(!methods.is_match("POST") && !methods.is_match("PATCH") && !methods.is_match("FORGET"));
    }
}

#[test]
fn what_a_rule_says_stays_in_the_safe_profile() {
    let ratings = "outbound|9080||ratings.default.svc.cluster.local";
    let pool = "{tcp: {maxConnections: 7, connectTimeout: 10s}, http: {http2MaxRequests: 5000, maxRetries: 9}}";
    let cluster = cluster(&with("safe", &rule(&format!("{{connectionPool: {pool}}}"))), ratings);
    assert_eq!((cluster.limits.connections, cluster.limits.requests), (Some(7), Some(5000)));
    assert_eq!((cluster.limits.retries, &cluster.limits.retry_budget), (Some(9), &None));
    assert_eq!(cluster.connect_timeout, Duration::from_secs(10));
    let budget = with("safe", &rule("{retryBudget: {percent: 50, minRetryConcurrency: 1}}"));
    let budget = budget.clusters[ratings].limits.retry_budget.clone().unwrap();
    assert_eq!((budget.share.millionths(), budget.min_concurrency), (500_000, 1));
}

/// What the paths of all routes must not hold, by the names of routes.
fn refused(resources: &Resources) -> Vec<(String, String)> {
    let routes = resources.routes.values().flat_map(|table| &table.virtual_hosts).flat_map(|host| &host.routes);
    routes.map(|route| (route.name.clone(), route.refused_in_path.to_string())).collect()
}

#[test]
fn safe_refuses_in_a_path_what_no_rule_allows() {
    let rules = document(
        "VirtualService",
        "ratings",
        "{hosts: [ratings], http: [{name: files, match: [{uri: {prefix: /files/}}], route: [{destination: {host: ratings}}]}, \
         {name: rest, route: [{destination: {host: ratings}}]}]}",
    )
    .replacen("metadata: {", "metadata: {annotations: {leno.mesh/allow-in-path: \"; files=%2f\"}, ", 1);
    let of = |profile: &str, name: &str| {
        let all = refused(&with(profile, &rules)).into_iter().filter(|(route, _)| route == name);
        all.map(|(_, refused)| refused).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(of("safe", "files"), ["%5c"]);
    assert_eq!(of("safe", "rest"), ["%2f %5c"]);
    assert!(of("safe", "default").iter().all(|refused| refused == "%2f %5c ;"));
    assert!(refused(&with("istio", &rules)).iter().all(|(_, refused)| refused.is_empty()));
}
