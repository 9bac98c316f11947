//! Circuit breaking, in both meanings: limits of a cluster, and endpoints that are left out; and who is asked instead.

use leno_tests::scripted::Manner;

use crate::judge::case::{Case, case, get, grpc};

pub(super) fn cases() -> Vec<Case> {
    [limits(), outliers(), priorities()].concat()
}

/// Endpoints that are asked only when those before them are out.
fn priorities() -> Vec<Case> {
    let ejects =
        "outlierDetection: {consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}";
    let first = |label: &str| {
        let locality = format!("localityLbSetting: {{enabled: true, failoverPriority: ['{label}']}}");
        format!("{ejects}, loadBalancer: {{{locality}}}")
    };
    let two = [("v1", Manner::Obeys), ("v2", Manner::Obeys)];
    vec![
        case("priority-first")
            .endpoints(&two)
            .rule("retries: {attempts: 0}")
            .policy(&first("version=v1"))
            .ask(get("200").together(4), "4× 200 - v1")
            .ask(get("500"), "500 - v1")
            .until(get("200"), "200 - v2")
            .ask(get("200").together(4), "4× 200 - v2"),
        case("priority-other")
            .endpoints(&two)
            .rule("retries: {attempts: 0}")
            .policy(&first("version=v2"))
            .ask(get("200").together(4), "4× 200 - v2"),
        case("health-check")
            .endpoints(&[("v1", Manner::Obeys), ("v1", Manner::Obeys), ("v2", Manner::Refuses)])
            .rule("retries: {attempts: 0}")
            .document(
                "{apiVersion: leno.mesh/v1alpha1, kind: HealthCheck, metadata: {name: HOST, namespace: default}, \
                 spec: {host: HOST, http: {path: /}, interval: 60s, timeout: 5s}}",
            )
            .ask(get("200").together(9), "9× 200 - v1"),
    ]
}

fn limits() -> Vec<Case> {
    vec![
        case("limit-requests")
            .http2()
            .policy("connectionPool: {http: {http2MaxRequests: 2}}")
            .rule("retries: {attempts: 0}")
            .ask(get("200 after=2500").together(4), "2× 200 - v1 | 2× 503 UO -")
            .ask(get("200"), "200 - v1"),
        case("limit-requests-grpc")
            .http2()
            .policy("connectionPool: {http: {http2MaxRequests: 1}}")
            .rule("retries: {attempts: 0}")
            .ask(grpc("grpc=0 after=2500").together(2), "200 - v1 | 200 UO -"),
        case("limit-connections-queue")
            .policy("connectionPool: {tcp: {maxConnections: 1}}")
            .ask(get("200 after=200").together(3), "3× 200 - v1"),
        case("limit-retries")
            .policy("connectionPool: {http: {maxRetries: 1}}")
            .rule("retries: {attempts: 1, retryOn: 5xx, backoff: 1ms}")
            .ask(get("503 after=300; 200 after=2500").together(2), "200 - v1,v1 | 503 UO v1")
            .ask(get("503; 200"), "200 - v1,v1"),
        case("limit-requests-per-connection")
            .policy("connectionPool: {http: {maxRequestsPerConnection: 1}}")
            .ask(get("200 then=reset-at-next"), "200 - v1")
            .ask(get("200"), "200 - v1"),
    ]
}

fn outliers() -> Vec<Case> {
    let detect = |what: &str| {
        format!("outlierDetection: {{{what}, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}}")
    };
    let none = "retries: {attempts: 0}";
    vec![
        case("outlier-5xx")
            .rule(none)
            .policy(&detect("consecutive5xxErrors: 3"))
            .ask(get("500"), "500 - v1")
            .ask(get("500"), "500 - v1")
            .ask(get("200"), "200 - v1")
            .ask(get("500"), "500 - v1")
            .ask(get("503"), "503 - v1")
            .ask(get("500"), "500 - v1")
            .until(get("200"), "503 UH -"),
        case("outlier-gateway")
            .rule(none)
            .policy(&detect("consecutive5xxErrors: 0, consecutiveGatewayErrors: 2"))
            .ask(get("500"), "500 - v1")
            .ask(get("500"), "500 - v1")
            .ask(get("500"), "500 - v1")
            .ask(get("503"), "503 - v1")
            .ask(get("502"), "502 - v1")
            .until(get("200"), "503 UH -"),
        case("outlier-connect")
            .endpoints(&[("v1", Manner::Refuses)])
            .rule(none)
            .policy(&detect("consecutive5xxErrors: 2"))
            .ask(get("200"), "503 UF -")
            .ask(get("200"), "503 UF -")
            .until(get("200"), "503 UH -"),
        case("outlier-reset")
            .rule(none)
            .policy(&detect("consecutive5xxErrors: 2"))
            .ask(get("reset"), "503 UC v1")
            .ask(get("reset"), "503 UC v1")
            .until(get("200"), "503 UH -"),
        case("outlier-timeout")
            .rule("timeout: 1s, retries: {attempts: 0}")
            .policy(&detect("consecutive5xxErrors: 2"))
            .ask(get("silent"), "504 UT v1")
            .ask(get("silent"), "504 UT v1")
            .until(get("200"), "503 UH -"),
        // 10 % of one endpoint is none, and Envoy ejects one all the same only where it is told to.
        case("outlier-percent")
            .rule(none)
            .policy("outlierDetection: {consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 60s}")
            .ask(get("500"), "500 - v1")
            .ask(get("200"), "200 - v1"),
        case("outlier-other-endpoint")
            .any_order()
            .endpoints(&[("v1", Manner::Refuses), ("v2", Manner::Obeys)])
            .policy(&detect("consecutive5xxErrors: 1"))
            .ask(get("200"), "200 - v2")
            .ask(get("200"), "200 - v2")
            .ask(get("200"), "200 - v2"),
    ]
}
