//! What the caller hears when nothing is said about retries: Envoy's local replies, and answers that break off.

use http::Method;
use leno_tests::scripted::Manner;

use crate::judge::case::{Case, case, get, grpc, post};

pub(super) fn cases() -> Vec<Case> {
    [local_replies(), broken_answers(), http2(), passing_on()].concat()
}

const NO_RETRIES: &str = "retries: {attempts: 0}";

fn local_replies() -> Vec<Case> {
    vec![
        case("plain").ask(get("200"), "200 - v1").ask(get("503"), "503 - v1").ask(get("404"), "404 - v1"),
        case("refused").endpoints(&[("v1", Manner::Refuses)]).rule(NO_RETRIES).ask(get("200"), "503 UF -"),
        case("refused-by-default").endpoints(&[("v1", Manner::Refuses)]).ask(get("200"), "503 URX,UF -"),
        case("no-endpoint").endpoints(&[]).ask(get("200"), "503 UH -").ask(grpc("200"), "200 UH -"),
        case("no-cluster")
            .http("[{route: [{destination: {host: nobody-has-declared-this}}]}]")
            .ask(get("200"), "503 NC -"),
        case("no-route")
            .http("[{match: [{uri: {exact: /only}}], route: [{destination: {host: HOST}}]}]")
            .ask(get("200"), "404 NR -")
            .ask(get("200").path("/only?a=b"), "200 - v1")
            .ask(grpc("200"), "200 NR -"),
        case("close").rule(NO_RETRIES).ask(get("close"), "503 UC v1").ask(post("close", 100), "503 UC v1"),
        case("reset").rule(NO_RETRIES).ask(get("reset"), "503 UC v1"),
        case("connect-timeout")
            .endpoints(&[("v1", Manner::Ignores)])
            .rule(NO_RETRIES)
            .policy("connectionPool: {tcp: {connectTimeout: 200ms}}")
            .ask(get("200"), "503 UF -"),
        case("timeout")
            .rule("timeout: 1500ms, retries: {attempts: 0}")
            .ask(get("silent"), "504 UT v1")
            .ask(get("200"), "200 - v1")
            .ask(grpc("silent"), "200 UT v1"),
        case("garbage").rule(NO_RETRIES).ask(get("garbage"), "502 UPE v1"),
    ]
}

fn broken_answers() -> Vec<Case> {
    vec![
        case("close-in-body").ask(get("close-in-body"), "200 UPE v1"),
        case("reset-in-body").ask(get("reset-in-body"), "200 UPE v1"),
        case("bad-trailer").ask(get("bad-trailer"), "200 UPE v1"),
        case("trickle").ask(get("trickle"), "200 - v1"),
        case("trickle-timeout").rule("timeout: 1500ms").ask(get("200 after=300"), "200 - v1"),
        case("hints").ask(get("hints"), "200 - v1"),
        case("endless-hints").rule("timeout: 1500ms, retries: {attempts: 0}").ask(get("endless-hints"), "504 UT v1"),
    ]
}

fn http2() -> Vec<Case> {
    vec![
        case("h2-plain").http2().ask(get("200"), "200 - v1").ask(grpc("grpc=0"), "200 - v1"),
        case("h2-reset-stream").http2().rule(NO_RETRIES).ask(get("reset-stream"), "503 UR v1"),
        case("h2-reset-in-body").http2().ask(get("reset-stream-in-body"), "200 UR v1"),
        case("h2-refused-stream").http2().rule(NO_RETRIES).ask(get("refused-stream"), "503 UR v1"),
        case("h2-close").http2().rule(NO_RETRIES).ask(get("close"), "503 UC v1"),
        case("h2-reset").http2().rule(NO_RETRIES).ask(get("reset"), "503 UC v1"),
        case("h2-hints").http2().ask(get("hints"), "200 - v1"),
        case("h2-late-status").http2().ask(grpc("grpc-late=14"), "200 - v1"),
    ]
}

/// What an answer may look like, and comes through as it is.
fn passing_on() -> Vec<Case> {
    vec![
        case("statuses")
            .ask(get("204"), "204 - v1")
            .ask(get("304"), "304 - v1")
            .ask(get("429 retry-after:1"), "429 - v1")
            .ask(get("500"), "500 - v1")
            .ask(get("200").method(Method::HEAD), "200 - v1")
            .ask(get("200").method(Method::DELETE), "200 - v1")
            .ask(post("200", 100_000), "200 - v1")
            .ask(get("200").over_http2(), "200 - v1"),
    ]
}
