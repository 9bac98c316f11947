//! DestinationRules (semantics 1.2): which one counts, how its blocks override each other, what they become.

use leno_config::ir::{Balance, Cluster, Discovery, Resources, UpstreamProtocol, UpstreamTls};

use crate::render::{endpoints_of, routes};
use crate::support::*;

const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";
const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";

/// Services without the DestinationRule of `SERVICES`.
fn services() -> String {
    SERVICES
        .split("\n---\n")
        .filter(|part| !part.starts_with("kind: DestinationRule"))
        .collect::<Vec<_>>()
        .join("\n---\n")
}

fn rule(name: &str, spec: &str) -> String {
    document("DestinationRule", name, spec)
}

/// A rule whose connection limit tells which one counts.
fn limited(name: &str, host: &str, more: &str, limit: u32) -> String {
    rule(
        name,
        &format!("{{host: '{host}', trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {limit}}}}}}}{more}}}"),
    )
}

fn with(rules: &str) -> Resources {
    compile(&(services() + rules), &client())
}

fn cluster(rules: &str, name: &str) -> Cluster {
    (*with(rules).clusters[name]).clone()
}

fn limit(rules: &[String]) -> Option<u32> {
    cluster(&rules.concat(), REVIEWS).limits.connections
}

#[test]
fn the_clients_namespace_is_asked_before_the_services_and_the_root() {
    let fqdn = "reviews.default.svc.cluster.local";
    let root = limited("istio-system/r", fqdn, "", 1);
    let wild = limited("istio-system/w", "*.local", "", 5);
    assert_eq!(limit(&[root.clone(), wild.clone()]), Some(1), "the most specific host");
    assert_eq!(limit(&[wild]), Some(5));
    let from = |namespace: &str, rules: &[String]| {
        let resources = compile(&(services() + &rules.concat()), &node(namespace, &[]));
        resources.clusters[REVIEWS].limits.connections
    };
    let own = limited("web/r", "*.cluster.local", "", 2);
    let service = limited("default/r", "reviews", "", 3);
    let rules = [root, own, service];
    assert_eq!(from("web", &rules), Some(2), "the client's, however general");
    assert_eq!(from("api", &rules), Some(3), "the service's");
    assert_eq!(from("default", &rules[..2]), Some(1), "the root's");
    let private = limited("default/r", "reviews", ", exportTo: [.]", 4);
    assert_eq!(from("api", std::slice::from_ref(&private)), None);
    assert_eq!(from("default", std::slice::from_ref(&private)), Some(4));
}

#[test]
fn the_first_hit_wins_entirely() {
    let own = rule("default/own", "{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}}");
    let root = limited("istio-system/r", "reviews.default.svc.cluster.local", "", 1);
    let found = cluster(&(own + &root), REVIEWS);
    assert_eq!((found.balance, found.limits.connections), (Balance::Random, None));
}

#[test]
fn rules_of_one_host_and_namespace_are_put_together() {
    let a = rule("a", "{host: reviews, subsets: [{name: v1, labels: {version: v1}}]}");
    let b = rule(
        "b",
        "{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v3}}, {name: v2, labels: {version: v2}}]}",
    );
    let c = limited("c", "reviews", "", 7);
    let resources = with(&(c + &b + &a));
    assert_eq!(endpoints_of(&resources, V1), ["10.0.0.1:9080"], "of two subsets with one name the older");
    assert_eq!(endpoints_of(&resources, &V1.replace("v1", "v2")), ["10.0.0.2:9080"]);
    let found = &resources.clusters[REVIEWS];
    assert_eq!((&found.balance, found.limits.connections), (&Balance::Random, None), "of two policies the older");
}

#[test]
fn a_rule_for_some_workloads_is_for_them_alone() {
    let some = limited("some", "reviews", ", workloadSelector: {matchLabels: {app: productpage}}", 1);
    let all = limited("all", "reviews", "", 2);
    assert_eq!(limit(&[some.clone(), all.clone()]), Some(1));
    let other =
        |rules: String| compile(&(services() + &rules), &node("default", &[])).clusters[REVIEWS].limits.connections;
    assert_eq!(other(some.clone() + &all), Some(2));
    assert_eq!(other(some), None);
}

#[test]
fn a_subset_overrides_block_by_block_and_a_port_overrides_all() {
    let spec = |port_level: &str, subset: &str| {
        format!(
            "{{host: reviews, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}, connectionPool: {{tcp: {{maxConnections: 1}}}}{port_level}}}, \
              subsets: [{{name: v1, labels: {{version: v1}}{subset}}}]}}"
        )
    };
    let seen = |spec: String, name: &str| {
        let found = cluster(&rule("r", &spec), name);
        (found.balance, found.limits.connections)
    };
    let least = Balance::LeastRequest { choices: 2 };
    let subset = ", trafficPolicy: {connectionPool: {tcp: {maxConnections: 2}}}";
    assert_eq!(seen(spec("", subset), V1), (Balance::Random, Some(2)));
    assert_eq!(seen(spec("", subset), REVIEWS), (Balance::Random, Some(1)));
    let port = ", portLevelSettings: [{port: {number: 9080}, connectionPool: {tcp: {maxConnections: 3}}}]";
    assert_eq!(seen(spec(port, ""), REVIEWS), (least.clone(), Some(3)), "what the port leaves out is at its default");
    assert_eq!(seen(spec(port, ""), V1), (least.clone(), Some(3)));
    assert_eq!(seen(spec(port, subset), V1), (least, Some(2)));
    let other_port = ", portLevelSettings: [{port: {number: 1}, connectionPool: {tcp: {maxConnections: 3}}}]";
    assert_eq!(seen(spec(other_port, ""), REVIEWS), (Balance::Random, Some(1)));
}

#[test]
fn the_meshs_default_fills_missing_pools_and_outlier_detection() {
    let mesh = document(
        "MeshConfig",
        "mesh",
        "{defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 9}}, outlierDetection: {consecutive5xxErrors: 3}}}",
    );
    let found = cluster(&mesh, REVIEWS);
    assert_eq!((found.limits.connections, found.outlier.unwrap().consecutive_5xx), (Some(9), Some(3)));
    let found = cluster(&(mesh + &limited("r", "reviews", "", 1)), REVIEWS);
    assert_eq!((found.limits.connections, found.outlier.unwrap().consecutive_5xx), (Some(1), Some(3)));
}

#[test]
fn connection_pools_have_istios_defaults_and_zero_is_not_set() {
    let plain = cluster("", REVIEWS);
    assert_eq!(plain.limits, leno_config::ir::Limits::default());
    assert_eq!((plain.connect_timeout.as_secs(), plain.idle_timeout.map(|idle| idle.as_secs())), (10, Some(3600)));
    let pool = |settings: &str| {
        cluster(&rule("r", &format!("{{host: reviews, trafficPolicy: {{connectionPool: {settings}}}}}")), REVIEWS)
    };
    let zero = pool(
        "{tcp: {maxConnections: 0, connectTimeout: 0s}, http: {http1MaxPendingRequests: 0, http2MaxRequests: 0, maxRetries: 0, maxRequestsPerConnection: 0}}",
    );
    assert_eq!(
        (zero.limits, zero.connect_timeout.as_secs(), zero.max_requests_per_connection),
        (plain.limits, 10, None)
    );
    let full = pool(
        "{tcp: {maxConnections: 1, connectTimeout: 2s, tcpKeepalive: {probes: 3, time: 4s, interval: 5s}}, \
          http: {http1MaxPendingRequests: 6, http2MaxRequests: 7, maxRetries: 8, maxRequestsPerConnection: 9, idleTimeout: 10s}}",
    );
    let limits = full.limits;
    assert_eq!(
        (limits.connections, limits.pending, limits.requests, limits.retries),
        (Some(1), Some(6), Some(7), Some(8))
    );
    assert_eq!((full.connect_timeout.as_secs(), full.max_requests_per_connection), (2, Some(9)));
    assert_eq!(full.idle_timeout.unwrap().as_secs(), 10);
    let keepalive = full.tcp_keepalive.unwrap();
    assert_eq!(
        (keepalive.probes, keepalive.time.unwrap().as_secs(), keepalive.interval.unwrap().as_secs()),
        (Some(3), 4, 5)
    );
    for (http, protocol) in [
        ("{}", UpstreamProtocol::Http1),
        ("{h2UpgradePolicy: UPGRADE}", UpstreamProtocol::Http2),
        ("{h2UpgradePolicy: DO_NOT_UPGRADE}", UpstreamProtocol::Http1),
        ("{useClientProtocol: true}", UpstreamProtocol::AsDownstream),
    ] {
        assert_eq!(pool(&format!("{{http: {http}}}")).protocol, protocol, "{http}");
    }
}

#[test]
fn outlier_detection_has_istios_defaults() {
    let outlier = |settings: &str| {
        cluster(&rule("r", &format!("{{host: reviews, trafficPolicy: {{outlierDetection: {settings}}}}}")), REVIEWS)
    };
    assert_eq!(cluster("", REVIEWS).outlier, None);
    let plain = outlier("{}");
    assert_eq!(plain.panic_threshold.millionths(), 0);
    let plain = plain.outlier.unwrap();
    assert_eq!(
        (plain.consecutive_5xx, plain.consecutive_gateway, plain.consecutive_local, plain.split_local),
        (Some(5), None, None, false)
    );
    assert_eq!((plain.interval.as_secs(), plain.base_ejection.as_secs(), plain.max_ejection.as_secs()), (10, 30, 300));
    assert_eq!(plain.max_ejection_share.millionths(), 100_000);
    let full = outlier(
        "{consecutive5xxErrors: 0, consecutiveGatewayErrors: 3, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 4, \
          interval: 1s, baseEjectionTime: 400s, maxEjectionPercent: 100, minHealthPercent: 50, outlierDetectionHttpErrorCodes: [502, 404]}",
    );
    assert_eq!(full.panic_threshold.millionths(), 500_000);
    let full = full.outlier.unwrap();
    assert_eq!(
        (full.consecutive_5xx, full.consecutive_gateway, full.consecutive_local, full.split_local),
        (None, Some(3), Some(4), true)
    );
    assert_eq!((full.interval.as_secs(), full.base_ejection.as_secs(), full.max_ejection.as_secs()), (1, 400, 400));
    assert_eq!((full.max_ejection_share.millionths(), full.status_codes), (1_000_000, vec![404, 502]));
}

#[test]
fn load_balancers_and_their_settings() {
    let balanced = |settings: &str| {
        cluster(&rule("r", &format!("{{host: reviews, trafficPolicy: {{loadBalancer: {settings}}}}}")), REVIEWS)
    };
    let least = Balance::LeastRequest { choices: 2 };
    let ring = |min| Balance::RingHash { min, max: 8 * 1024 * 1024 };
    for (settings, balance) in [
        ("{simple: UNSPECIFIED}", least.clone()),
        ("{simple: LEAST_CONN}", least.clone()),
        ("{simple: LEAST_REQUEST}", least),
        ("{simple: RANDOM}", Balance::Random),
        ("{simple: ROUND_ROBIN}", Balance::RoundRobin),
        ("{consistentHash: {useSourceIp: true}}", ring(1024)),
        ("{consistentHash: {useSourceIp: true, minimumRingSize: 10}}", ring(10)),
        ("{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 99999999}}}", ring(8 * 1024 * 1024)),
        ("{consistentHash: {useSourceIp: true, maglev: {}}}", Balance::Maglev { table: 65_537 }),
        ("{consistentHash: {useSourceIp: true, maglev: {tableSize: 13}}}", Balance::Maglev { table: 13 }),
        ("{consistentHash: {useSourceIp: true, maglev: {tableSize: 15}}}", Balance::Maglev { table: 65_537 }),
    ] {
        assert_eq!(balanced(settings).balance, balance, "{settings}");
    }
    let annotated = |word: &str, settings: &str| {
        let meta = format!("{{name: r, namespace: default, annotations: {{leno.mesh/load-balancer: {word}}}}}");
        let text = format!(
            "\n---\nkind: DestinationRule\nmetadata: {meta}\nspec: {{host: reviews, trafficPolicy: {{{settings}}}}}\n"
        );
        cluster(&text, REVIEWS).balance
    };
    assert_eq!(annotated("PEAK_EWMA", ""), Balance::PeakEwma);
    assert_eq!(annotated("PEAK_EWMA", "loadBalancer: {simple: RANDOM}"), Balance::PeakEwma);
    assert_eq!(annotated("PEAK_EWMA", "loadBalancer: {consistentHash: {useSourceIp: true}}"), ring(1024));
    assert_eq!(annotated("FASTEST", "loadBalancer: {simple: RANDOM}"), Balance::Random);
    assert_eq!(balanced("{simple: PASSTHROUGH}").discovery, Discovery::OriginalDestination);
    assert_eq!(balanced("{simple: RANDOM, warmup: {duration: 10s}}").slow_start, None);
    let slow = balanced("{simple: ROUND_ROBIN, warmup: {duration: 10s}}").slow_start.unwrap();
    assert_eq!((slow.window.as_secs(), slow.aggression, slow.min_share.millionths()), (10, 1.0, 100_000));
    assert_eq!(balanced("{warmupDurationSecs: 20s}").slow_start.unwrap().window.as_secs(), 20);
    let budget =
        cluster(&rule("r", "{host: reviews, trafficPolicy: {retryBudget: {}}}"), REVIEWS).limits.retry_budget.unwrap();
    assert_eq!((budget.share.millionths(), budget.min_concurrency), (200_000, 3));
}

#[test]
fn a_consistent_hash_becomes_a_policy_of_the_routes() {
    let hash = |settings: &str| {
        rule(
            "r",
            &format!(
                "{{host: reviews, trafficPolicy: {{loadBalancer: {{consistentHash: {settings}}}}}, subsets: [{{name: v1, labels: {{}}}}]}}"
            ),
        )
    };
    let rows = |rules: String| {
        routes(&compile(&(services() + &rules), &client()), "reviews.default.svc.cluster.local:9080").remove(0)
    };
    for (settings, policy) in [
        ("{httpHeaderName: x-user}", "Header(\"x-user\")"),
        ("{useSourceIp: true}", "SourceIp"),
        ("{httpQueryParameterName: user}", "QueryParameter(\"user\")"),
        (
            "{httpCookie: {name: user, ttl: 0s}}",
            "Cookie { name: \"user\", path: \"\", ttl: Some(0ns), attributes: [] }",
        ),
        ("{httpCookie: {name: user, path: /a}}", "Cookie { name: \"user\", path: \"/a\", ttl: None, attributes: [] }"),
    ] {
        let expected = format!("default: /* => reviews.default:9080; retries at the same endpoint; hash {policy}");
        assert_eq!(rows(hash(settings)), expected, "also without a VirtualService");
    }
    let by_user = hash("{httpHeaderName: x-user}");
    let one = reviews("[{route: [{destination: {host: reviews, subset: v1}}]}]");
    assert_eq!(
        rows(by_user.clone() + &one),
        "/* => reviews.default:9080/v1; retries at the same endpoint; hash Header(\"x-user\")"
    );
    let two = reviews(
        "[{route: [{destination: {host: reviews, subset: v1}, weight: 1}, {destination: {host: ratings}, weight: 1}]}]",
    );
    assert_eq!(
        rows(by_user + &two),
        "/* => 1 to reviews.default:9080/v1, 1 to ratings.default:9080; hash Header(\"x-user\")"
    );
}

#[test]
fn tls_is_the_rules_or_the_meshs_with_those_who_speak_it() {
    assert_eq!(cluster("", REVIEWS).tls, UpstreamTls::Plain, "nobody asked for any");
    let speaks = document(
        "WorkloadEntry",
        "reviews-m",
        "{address: 10.0.0.9, serviceAccount: reviews, labels: {app: reviews, version: v1, security.istio.io/tlsMode: istio}}",
    );
    let tls = |mode: &str, name: &str| {
        let policy = if mode.is_empty() { String::new() } else { format!(", trafficPolicy: {{tls: {mode}}}") };
        let rule = rule(
            "r",
            &format!(
                "{{host: reviews{policy}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}"
            ),
        );
        cluster(&(speaks.clone() + &rule), name).tls
    };
    let UpstreamTls::Auto(mesh) = tls("", V1) else { panic!() };
    assert_eq!(mesh.sni, "outbound_.9080_.v1_.reviews.default.svc.cluster.local");
    assert_eq!(mesh.identities, ["spiffe://cluster.local/ns/default/sa/reviews"]);
    assert_eq!(tls("", &V1.replace("v1", "v2")), UpstreamTls::Plain, "no endpoint of this subset does");
    assert_eq!(tls("{mode: DISABLE}", V1), UpstreamTls::Plain);
    assert!(matches!(tls("{mode: ISTIO_MUTUAL}", &V1.replace("v1", "v2")), UpstreamTls::Mesh(_)));
    let UpstreamTls::External(simple) =
        tls("{mode: SIMPLE, sni: a.example, caCertificates: /ca.pem, clientCertificate: /ignored.pem}", REVIEWS)
    else {
        panic!()
    };
    assert_eq!(
        (simple.sni.as_deref(), simple.roots.as_deref(), simple.certificate),
        (Some("a.example"), Some("/ca.pem"), None)
    );
    let UpstreamTls::External(mutual) =
        tls("{mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, subjectAltNames: [b.example]}", REVIEWS)
    else {
        panic!()
    };
    assert_eq!((mutual.certificate.as_deref(), mutual.key.as_deref()), (Some("/c.pem"), Some("/k.pem")));
    assert_eq!(
        (mutual.subject_alt_names, mutual.roots, mutual.skip_verify),
        (vec!["b.example".to_owned()], None, false)
    );
}
