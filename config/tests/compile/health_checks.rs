//! HealthChecks: which one counts for a cluster, and what it becomes.

use std::time::Duration;

use leno_config::ir::{GrpcProbe, HealthCheck, HealthProbe, HttpProbe, StatusRange, TcpProbe};

use crate::support::*;

const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";
const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
const V2: &str = "outbound|9080|v2|reviews.default.svc.cluster.local";

fn check(rules: &[String], cluster: &str) -> Option<HealthCheck> {
    let rules: String = std::iter::once(SERVICES.to_owned()).chain(rules.iter().cloned()).collect::<Vec<_>>().concat();
    compile(&rules, &client()).clusters[cluster].health_check.clone()
}

fn rule(name: &str, spec: &str) -> String {
    document("HealthCheck", name, spec)
}

#[test]
fn a_rule_becomes_what_is_asked() {
    let http = |path: &str, expected: Vec<StatusRange>| {
        let host = Some("reviews.default.svc.cluster.local".to_owned());
        HealthProbe::Http(HttpProbe { host, path: path.to_owned(), expected, retriable: Vec::new(), http2: false })
    };
    let ranges = vec![StatusRange { first: 200, last: 200 }, StatusRange { first: 204, last: 299 }];
    let tcp = TcpProbe { send: b"PING".to_vec(), receive: vec![b"PONG".to_vec()] };
    let authority = Some("reviews.default.svc.cluster.local".to_owned());
    for (spec, probe) in [
        ("{host: reviews, http: {path: /h?x, status: [200, 204-299]}}", http("/h?x", ranges)),
        ("{host: reviews, http: {}}", http("/", Vec::new())),
        ("{host: reviews, tcp: {send: PING, receive: PONG}}", HealthProbe::Tcp(tcp)),
        ("{host: reviews, tcp: {}}", HealthProbe::Tcp(TcpProbe::default())),
        (
            "{host: reviews, grpc: {service: a.B}}",
            HealthProbe::Grpc(GrpcProbe { service: "a.B".to_owned(), authority }),
        ),
    ] {
        assert_eq!(check(&[rule("r", spec)], REVIEWS).map(|check| check.probe), Some(probe), "{spec}");
    }
    let written = rule(
        "r",
        "{host: reviews, tcp: {}, interval: 5s, idleInterval: 7s, timeout: 2s, unhealthyThreshold: 4, healthyThreshold: 3}",
    );
    let written = check(&[written], REVIEWS).expect("a health check");
    let seconds = Duration::from_secs;
    assert_eq!((written.interval, written.idle_interval, written.timeout), (seconds(5), seconds(7), seconds(2)));
    assert_eq!((written.unhealthy_threshold, written.healthy_threshold), (4, 3));
    let default = check(&[rule("r", "{host: reviews, tcp: {}}")], REVIEWS).expect("a health check");
    assert_eq!((default.interval, default.idle_interval, default.timeout), (seconds(10), seconds(60), seconds(1)));
}

#[test]
fn the_rule_that_names_more_counts_and_the_clients_namespace_first() {
    let at = |name: &str, spec: &str, path: &str| rule(name, &format!("{{{spec}, http: {{path: {path}}}}}"));
    let path = |rules: &[String], cluster: &str| {
        check(rules, cluster).map(|check| match check.probe {
            HealthProbe::Http(http) => http.path,
            other => panic!("{other:?}"),
        })
    };
    let full = "host: reviews.default.svc.cluster.local";
    let rules = [
        at("all", "host: reviews", "/all"),
        at("port", "host: reviews, port: 9080", "/port"),
        at("v1", "host: reviews, subset: v1", "/v1"),
        at("other", "host: reviews, port: 9081", "/other"),
        at("istio-system/root", full, "/root"),
    ];
    assert_eq!(path(&rules, REVIEWS).as_deref(), Some("/port"));
    assert_eq!(path(&rules, V1).as_deref(), Some("/v1"));
    assert_eq!(path(&rules, V2).as_deref(), Some("/port"));
    assert_eq!(path(&rules[4..], V2).as_deref(), Some("/root"));
    assert_eq!(path(&[at("elsewhere/r", full, "/elsewhere")], V2), None, "a stranger's rule");
}
