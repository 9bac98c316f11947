//! Faults on purpose, copies, and endpoints chosen by what a request says.

use leno_tests::scripted::Manner;

use crate::judge::case::{Case, case, get, grpc};

pub(super) fn cases() -> Vec<Case> {
    [faults(), mirrors(), hashes()].concat()
}

fn faults() -> Vec<Case> {
    let abort =
        |status: &str, percent: u32| format!("fault: {{abort: {{{status}, percentage: {{value: {percent}}}}}}}");
    let delay = |percent: u32| format!("fault: {{delay: {{fixedDelay: 100ms, percentage: {{value: {percent}}}}}}}");
    vec![
        case("fault-abort")
            .rule(&abort("httpStatus: 418", 100))
            .ask(get("200"), "418 FI -")
            .ask(grpc("grpc=0"), "200 FI -"),
        case("fault-abort-5xx")
            .rule(&format!("{}, retries: {{attempts: 2, retryOn: 5xx}}", abort("httpStatus: 503", 100)))
            .ask(get("200"), "503 FI -"),
        case("fault-abort-grpc")
            .rule(&abort("grpcStatus: UNAVAILABLE", 100))
            .ask(grpc("grpc=0"), "200 FI -")
            .ask(get("200"), "200 FI -"),
        case("fault-abort-none").rule(&abort("httpStatus: 418", 0)).ask(get("200"), "200 - v1"),
        case("fault-abort-no-percentage").rule("fault: {abort: {httpStatus: 418}}").ask(get("200"), "200 - v1"),
        case("fault-delay").rule(&delay(100)).ask(get("200"), "200 DI v1").ask(get("503"), "503 DI v1"),
        case("fault-delay-none").rule(&delay(0)).ask(get("200"), "200 - v1"),
        case("fault-delay-and-timeout")
            .rule("timeout: 1s, fault: {delay: {fixedDelay: 1200ms, percentage: {value: 100}}}")
            .ask(get("200"), "200 DI v1"),
        case("fault-both")
            .rule(
                "fault: {delay: {fixedDelay: 50ms, percentage: {value: 100}}, \
                 abort: {httpStatus: 500, percentage: {value: 100}}}",
            )
            .ask(get("200"), "500 DI,FI -"),
    ]
}

fn mirrors() -> Vec<Case> {
    let with = |more: &str| format!("[{{route: [{{destination: {{host: HOST, subset: v1}}}}], {more}}}]");
    let two = [("v1", Manner::Obeys), ("v2", Manner::Obeys)];
    let mirror = "mirror: {host: HOST, subset: v2}";
    vec![
        case("mirror-all").endpoints(&two).any_order().http(&with(mirror)).ask(get("200").reaches(2), "200 - v1,v2"),
        case("mirror-none")
            .endpoints(&two)
            .http(&with(&format!("{mirror}, mirrorPercentage: {{value: 0}}")))
            .ask(get("200"), "200 - v1"),
        case("mirror-list")
            .endpoints(&[("v1", Manner::Obeys), ("v2", Manner::Obeys), ("v3", Manner::Obeys)])
            .any_order()
            .http(&with("mirrors: [{destination: {host: HOST, subset: v2}}, {destination: {host: HOST, subset: v3}}]"))
            .ask(get("200").reaches(3), "200 - v1,v2,v3"),
        case("mirror-dead")
            .endpoints(&[("v1", Manner::Obeys), ("v2", Manner::Refuses)])
            .http(&with(mirror))
            .ask(get("200"), "200 - v1")
            .ask(get("404"), "404 - v1"),
    ]
}

/// Envoy and Leno have to choose the same endpoint: a caller that moves from one to the other keeps its place.
fn hashes() -> Vec<Case> {
    let five: Vec<(String, Manner)> = (1..=5).map(|number| (format!("v{number}"), Manner::Obeys)).collect();
    let five: Vec<(&str, Manner)> = five.iter().map(|(name, manner)| (name.as_str(), *manner)).collect();
    let hashed = |name: &str, by: &str| {
        case(name).endpoints(&five).policy(&format!("loadBalancer: {{consistentHash: {{{by}}}}}"))
    };
    let users = || (0..12).map(|user| format!("user-{user}"));
    let header = |case: Case| users().fold(case, |case, user| case.try_out(get("200").header("x-user", &user)));
    vec![
        header(hashed("hash-ring-header", "httpHeaderName: x-user, ringHash: {minimumRingSize: 1024}")),
        header(hashed("hash-default-ring", "httpHeaderName: x-user")),
        header(hashed("hash-maglev-header", "httpHeaderName: x-user, maglev: {tableSize: 251}")),
        users().fold(hashed("hash-cookie", "httpCookie: {name: who, ttl: 0s}"), |case, user| {
            case.try_out(get("200").header("cookie", &format!("who={user}")))
        }),
        users().fold(hashed("hash-query", "httpQueryParameterName: who"), |case, user| {
            case.try_out(get("200").path(&format!("/?a=b&who={user}")))
        }),
        hashed("hash-source", "useSourceIp: true").try_out(get("200")).try_out(get("200")),
    ]
}
