//! How long things may take.

use crate::judge::case::{Case, case, get, grpc, post};
use leno_tests::scripted::Manner;

pub(super) fn cases() -> Vec<Case> {
    let inside = |ask: crate::judge::case::Ask| ask.header("x-forwarded-for", "127.0.0.1");
    vec![
        // No limit by default, although Envoy alone has 15 s; the connection waits longer than any here.
        case("time-no-limit").ask(get("200 after=400"), "200 - v1"),
        case("time-whole-answer")
            .endpoints(&[("a-version-with-a-name-of-fifty-characters-in-it-ok", Manner::Obeys)])
            .rule("timeout: 800ms")
            .ask(get("trickle"), "200 UT a-version-with-a-name-of-fifty-characters-in-it-ok"),
        case("time-of-caller")
            .ask(inside(get("silent").header("x-envoy-upstream-rq-timeout-ms", "1000")), "504 UT v1")
            .ask(
                get("200 after=2000")
                    .header("x-forwarded-for", "8.8.8.8")
                    .header("x-envoy-upstream-rq-timeout-ms", "1000"),
                "200 - v1",
            ),
        case("time-grpc")
            .http2()
            .ask(grpc("silent").header("grpc-timeout", "1000m"), "200 UT v1")
            .ask(grpc("grpc=0").header("grpc-timeout", "20S"), "200 - v1"),
        case("time-grpc-less-than-route")
            .http2()
            .rule("timeout: 10s, retries: {attempts: 0}")
            .ask(grpc("silent").header("grpc-timeout", "1000m"), "200 UT v1"),
        case("time-grpc-more-than-route")
            .http2()
            .rule("timeout: 1s, retries: {attempts: 0}")
            .ask(grpc("silent").header("grpc-timeout", "20S"), "200 UT v1"),
        case("time-expected").rule("timeout: 5s").ask(get("200"), "200 - v1").ask(post("200", 10), "200 - v1"),
    ]
}
