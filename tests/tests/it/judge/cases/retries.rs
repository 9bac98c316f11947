//! When a request is tried again (semantics: VirtualService `retries`, Envoy's router).

use leno_tests::scripted::Manner;

use crate::judge::case::{Case, case, get, grpc, post};

pub(super) fn cases() -> Vec<Case> {
    [conditions(), grpc_conditions(), limits(), of_the_caller(), by_default(), races()].concat()
}

fn on(conditions: &str) -> String {
    format!("retries: {{attempts: 2, retryOn: '{conditions}', backoff: 1ms}}")
}

/// Every condition, with what is one and what is just not.
fn conditions() -> Vec<Case> {
    vec![
        case("on-5xx")
            .rule(&on("5xx"))
            .ask(get("503; 200"), "200 - v1,v1")
            .ask(get("500; 504; 200"), "200 - v1,v1,v1")
            .ask(get("503"), "503 URX v1,v1,v1")
            .ask(get("404"), "404 - v1")
            .ask(get("reset; 200"), "200 - v1,v1")
            .ask(get("close; close; close"), "503 URX,UC v1,v1,v1")
            .ask(post("503; 200", 2000), "200 - v1,v1"),
        case("on-gateway-error")
            .rule(&on("gateway-error"))
            .ask(get("502; 504; 200"), "200 - v1,v1,v1")
            .ask(get("500; 200"), "500 - v1"),
        case("on-reset")
            .rule(&on("reset"))
            .ask(get("reset; close; 200"), "200 - v1,v1,v1")
            .ask(get("503; 200"), "503 - v1")
            .ask(get("reset-in-body"), "200 UPE v1"),
        case("on-reset-before-request")
            .rule(&on("reset-before-request"))
            .ask(get("reset; 200"), "503 UC v1")
            .ask(get("200"), "200 - v1"),
        case("on-connect-failure")
            .any_order()
            .rule("retries: {attempts: 5, retryOn: connect-failure, backoff: 1ms}")
            .endpoints(&[("v1", Manner::Refuses), ("v2", Manner::Obeys)])
            .ask(get("200"), "200 - v2")
            .ask(get("200"), "200 - v2")
            .ask(post("200", 2000), "200 - v2")
            .ask(get("503"), "503 - v2"),
        case("on-4xx").rule(&on("retriable-4xx")).ask(get("409; 200"), "200 - v1,v1").ask(get("404; 200"), "404 - v1"),
        case("on-status").rule(&on("429,418")).ask(get("429; 418; 200"), "200 - v1,v1,v1").ask(get("503"), "503 - v1"),
        case("on-refused-stream")
            .http2()
            .rule(&on("refused-stream"))
            .ask(get("refused-stream; 200"), "200 - v1,v1")
            .ask(post("refused-stream; 200", 2000), "200 - v1,v1")
            .ask(get("reset-stream; 200"), "503 UR v1"),
        case("on-goaway")
            .http2()
            .only_in_clear_text()
            .rule(&on("refused-stream"))
            .ask(get("goaway; 200"), "200 - v1,v1")
            .ask(post("goaway; 200", 2000), "200 - v1,v1"),
        case("on-nothing")
            .rule("retries: {attempts: 0}")
            .ask(get("503; 200"), "503 - v1")
            .ask(get("reset"), "503 UC v1"),
        case("not-when-ratelimited").rule(&on("5xx")).ask(get("503 x-envoy-ratelimited:true; 200"), "503 - v1"),
    ]
}

fn grpc_conditions() -> Vec<Case> {
    let statuses =
        [("cancelled", 1), ("deadline-exceeded", 4), ("resource-exhausted", 8), ("internal", 13), ("unavailable", 14)];
    let mut cases: Vec<Case> = statuses
        .into_iter()
        .map(|(condition, status)| {
            case(&format!("on-grpc-{condition}"))
                .http2()
                .rule(&on(condition))
                .ask(grpc(&format!("grpc={status}; grpc=0")), "200 - v1,v1")
                .ask(grpc("grpc=2; grpc=0"), "200 - v1")
                // A status behind a message has been passed on already.
                .ask(grpc(&format!("grpc-late={status}; grpc=0")), "200 - v1")
        })
        .collect();
    cases.push(case("on-grpc-used-up").http2().rule(&on("unavailable")).ask(grpc("grpc=14"), "200 URX v1,v1,v1"));
    cases
}

/// What a retry costs and may not do.
fn limits() -> Vec<Case> {
    vec![
        case("per-try-timeout")
            .rule("retries: {attempts: 1, perTryTimeout: 1s, retryOn: 5xx, backoff: 1ms}")
            .ask(get("silent; 200"), "200 - v1,v1")
            .ask(get("silent"), "504 URX,UT v1,v1"),
        case("per-try-and-total")
            .rule("timeout: 1750ms, retries: {attempts: 1, perTryTimeout: 1s, retryOn: 5xx, backoff: 1ms}")
            .ask(get("silent"), "504 UT v1,v1"),
        case("per-try-beyond-total")
            .rule("timeout: 1s, retries: {attempts: 3, perTryTimeout: 1500ms, retryOn: 5xx, backoff: 1ms}")
            .ask(get("silent"), "504 UT v1"),
        case("large-body").rule(&on("5xx")).ask(post("503; 200", 2 << 20), "503 - v1").ask(get("200"), "200 - v1"),
        case("another-endpoint")
            .endpoints(&[("v1", Manner::Obeys), ("v2", Manner::Obeys)])
            .any_order()
            // In turn: drawn at random, Envoy's six choices can all be the endpoint that was tried.
            .policy("loadBalancer: {simple: ROUND_ROBIN}")
            .rule("retries: {attempts: 1, retryOn: 5xx, backoff: 1ms}")
            .ask(get("503; 200"), "200 - v1,v2")
            .ask(post("503; 200", 2000), "200 - v1,v2"),
        // A weighted cluster is drawn once for a request.
        case("same-subset")
            .endpoints(&[("v1", Manner::Obeys), ("v2", Manner::Obeys)])
            .http(
                "[{route: [{destination: {host: HOST, subset: v1}, weight: 0}, \
                 {destination: {host: HOST, subset: v2}, weight: 100}], \
                 retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}}]",
            )
            .ask(get("503; 503; 200"), "200 - v2,v2,v2"),
    ]
}

/// What a caller may say about retries: from inside only.
fn of_the_caller() -> Vec<Case> {
    let inside = |ask: crate::judge::case::Ask| ask.header("x-forwarded-for", "127.0.0.1");
    let asks = get("503; 200").header("x-envoy-retry-on", "5xx").header("x-envoy-max-retries", "1");
    vec![
        case("caller-inside").ask(inside(asks.clone()), "200 - v1,v1").ask(
            inside(get("503").header("x-envoy-retry-on", "5xx").header("x-envoy-max-retries", "4")),
            "503 URX v1,v1,v1,v1,v1",
        ),
        case("caller-outside").ask(asks.header("x-forwarded-for", "8.8.8.8"), "503 - v1"),
        case("caller-statuses").ask(
            inside(
                get("418; 200")
                    .header("x-envoy-retry-on", "retriable-status-codes")
                    .header("x-envoy-retriable-status-codes", "418"),
            ),
            "200 - v1,v1",
        ),
        case("caller-headers").ask(
            inside(
                get("200 x-again:yes; 200")
                    .header("x-envoy-retry-on", "retriable-headers")
                    .header("x-envoy-retriable-header-names", "x-again"),
            ),
            "200 - v1,v1",
        ),
        case("caller-grpc")
            .http2()
            .ask(inside(grpc("grpc=13; grpc=0").header("x-envoy-retry-grpc-on", "internal")), "200 - v1,v1"),
        case("caller-per-try")
            .rule("retries: {attempts: 1, retryOn: 5xx, backoff: 1ms}")
            .ask(inside(get("silent; 200").header("x-envoy-upstream-rq-per-try-timeout-ms", "1000")), "200 - v1,v1"),
    ]
}

/// Istio's policy where nothing is written.
fn by_default() -> Vec<Case> {
    vec![
        case("default-http")
            .ask(get("503"), "503 - v1")
            .ask(get("500"), "500 - v1")
            .ask(get("reset"), "503 UC v1")
            .ask(post("close", 10), "503 UC v1"),
        case("default-grpc")
            .http2()
            .ask(grpc("grpc=14; grpc=0"), "200 - v1,v1")
            .ask(grpc("grpc=1; grpc=14; grpc=0"), "200 - v1,v1,v1")
            .ask(grpc("grpc=14"), "200 URX v1,v1,v1")
            .ask(grpc("grpc=4; grpc=0"), "200 - v1")
            .ask(get("refused-stream; 200"), "200 - v1,v1"),
        case("default-connect")
            .any_order()
            .endpoints(&[("v1", Manner::Refuses), ("v2", Manner::Obeys)])
            .ask(get("200"), "200 - v2")
            .ask(post("200", 10), "200 - v2")
            .ask(get("200"), "200 - v2"),
    ]
}

/// A connection that ends just as the next request is sent on it.
fn races() -> Vec<Case> {
    let race = |name: &str, how: &str| {
        case(name)
            .rule("retries: {attempts: 0}")
            .ask(get(&format!("200 then={how}")), "200 - v1")
            .ask(get("200"), "503 UC v1")
            .ask(get(&format!("200 then={how}")), "200 - v1")
            .ask(post("200", 10), "503 UC v1")
            .ask(get("200"), "200 - v1")
    };
    vec![
        race("race-close", "close-at-next"),
        race("race-reset", "reset-at-next"),
        case("race-with-retry")
            .rule(&on("reset"))
            .ask(get("200 then=close-at-next"), "200 - v1")
            .ask(get("200"), "200 - v1,v1")
            .ask(get("200 then=reset-at-next"), "200 - v1")
            .ask(get("200"), "200 - v1,v1"),
    ]
}
