//! Which rule takes a request and what it makes of it (semantics: VirtualService, 1 to 14).

use http::Method;
use leno_tests::scripted::Manner;

use crate::judge::case::{Case, case, get, grpc};

const TWO: [(&str, Manner); 2] = [("v1", Manner::Obeys), ("v2", Manner::Obeys)];

pub(super) fn cases() -> Vec<Case> {
    [matches(), changes(), answers()].concat()
}

/// To `v2` where the match holds, else to `v1`.
fn when(name: &str, matches: &str) -> Case {
    case(name).endpoints(&TWO).http(&format!(
        "[{{match: [{matches}], route: [{{destination: {{host: HOST, subset: v2}}}}]}}, \
         {{route: [{{destination: {{host: HOST, subset: v1}}}}]}}]"
    ))
}

fn matches() -> Vec<Case> {
    vec![
        when("match-prefix", "{uri: {prefix: /foo}}")
            .ask(get("200").path("/foo"), "200 - v2")
            .ask(get("200").path("/foobar?x=/foo"), "200 - v2")
            .ask(get("200").path("/Foo"), "200 - v1")
            .ask(get("200").path("/a/../foo"), "200 - v2")
            .ask(get("200").path("//foo"), "200 - v1"),
        when("match-regex", "{uri: {regex: '/a.*z'}}")
            .ask(get("200").path("/abcz"), "200 - v2")
            .ask(get("200").path("/abcz?q=1"), "200 - v2")
            .ask(get("200").path("/abczz/"), "200 - v1"),
        when("match-ignore-case", "{uri: {exact: /Foo}, ignoreUriCase: true}")
            .ask(get("200").path("/fOO"), "200 - v2")
            .ask(get("200").path("/fOOo"), "200 - v1"),
        when("match-header", "{headers: {x-user: {exact: jason}}}")
            .ask(get("200").header("x-user", "jason"), "200 - v2")
            .ask(get("200").header("x-user", "jason2"), "200 - v1")
            .ask(get("200"), "200 - v1"),
        when("match-header-present", "{headers: {x-user: {}}}")
            .ask(get("200").header("x-user", ""), "200 - v2")
            .ask(get("200"), "200 - v1"),
        when("match-header-regex", "{headers: {x-user: {regex: 'j.*n'}}}")
            .ask(get("200").header("x-user", "jason"), "200 - v2")
            .ask(get("200").header("x-user", "jasons"), "200 - v1"),
        when("match-without", "{withoutHeaders: {x-user: {exact: jason}}}")
            .ask(get("200"), "200 - v2")
            .ask(get("200").header("x-user", "jason"), "200 - v1")
            .ask(get("200").header("x-user", "else"), "200 - v2"),
        when("match-query", "{queryParams: {a: {exact: ''}, b: {regex: '[0-9]+'}}}")
            .ask(get("200").path("/?a=&b=12"), "200 - v2")
            .ask(get("200").path("/?a&b=12"), "200 - v2")
            .ask(get("200").path("/?a=1&b=12"), "200 - v1")
            .ask(get("200").path("/?b=12"), "200 - v1"),
        when("match-method", "{method: {exact: DELETE}}")
            .ask(get("200").method(Method::DELETE), "200 - v2")
            .ask(get("200"), "200 - v1"),
        when("match-or-and", "{uri: {prefix: /a}, headers: {x: {prefix: y}}}, {uri: {exact: /b}}")
            .ask(get("200").path("/a").header("x", "yes"), "200 - v2")
            .ask(get("200").path("/a").header("x", "no"), "200 - v1")
            .ask(get("200").path("/b"), "200 - v2"),
    ]
}

fn changes() -> Vec<Case> {
    let sets = "headers: {request: {set: {x-set: new}, add: {x-add: more}, remove: [x-gone]}, \
                response: {set: {x-out: set}, remove: [x-secret]}}";
    vec![
        case("rewrite-prefix")
            .http("[{match: [{uri: {prefix: /old}}], rewrite: {uri: /new}, route: [{destination: {host: HOST}}]}]")
            .ask(get("200").path("/old/thing?q=1"), "200 - v1")
            .ask(get("200").path("/older"), "200 - v1"),
        case("rewrite-exact")
            .http("[{match: [{uri: {exact: /old}}], rewrite: {uri: /new/}, route: [{destination: {host: HOST}}]}]")
            .ask(get("200").path("/old?q=1"), "200 - v1"),
        case("rewrite-regex")
            .rule("rewrite: {uriRegexRewrite: {match: '/(a)/(b)', rewrite: '/\\2/\\1'}}")
            .ask(get("200").path("/x/a/b/y?q=/a/b"), "200 - v1"),
        case("rewrite-authority").rule("rewrite: {authority: other.example}").ask(get("200"), "200 - v1"),
        case("headers")
            .rule(sets)
            .ask(
                get("200 x-secret:s x-out:theirs")
                    .header("x-set", "old")
                    .header("x-add", "one")
                    .header("x-gone", "yes"),
                "200 - v1",
            )
            .ask(get("503 x-secret:s"), "503 - v1"),
        case("headers-on-local-reply")
            .endpoints(&[("v1", Manner::Refuses)])
            .rule(&format!("{sets}, retries: {{attempts: 0}}"))
            .ask(get("200"), "503 UF -"),
        case("hop-by-hop").ask(
            get("200 connection:x-mine x-mine:1 keep-alive:timeout=5 proxy-connection:x")
                .header("x-kept", "1")
                .header("te", "trailers")
                .header("via", "1.1 somebody"),
            "200 - v1",
        ),
    ]
}

fn answers() -> Vec<Case> {
    let cors = "corsPolicy: {allowOrigins: [{exact: 'https://shop.example'}], allowMethods: [GET, PUT], \
                allowHeaders: [x-a], exposeHeaders: [x-b], maxAge: 60s, allowCredentials: true}";
    let preflight = |origin: &str| {
        get("200").method(Method::OPTIONS).header("origin", origin).header("access-control-request-method", "PUT")
    };
    vec![
        case("redirect")
            .http("[{redirect: {uri: /there, authority: other.example, redirectCode: 308}}]")
            .ask(get("200").path("/here?q=1"), "308 - -"),
        case("redirect-prefix")
            .http("[{match: [{uri: {prefix: /here}}], redirect: {uri: '%PREFIX()%/there'}}]")
            .try_out(get("200").path("/here/and?q=1")),
        case("redirect-scheme").http("[{redirect: {scheme: https}}]").ask(get("200").path("/a?b"), "301 - -"),
        case("redirect-port").http("[{redirect: {port: 8443}}]").ask(get("200").path("/a"), "301 - -"),
        case("direct").http("[{directResponse: {status: 418, body: {string: teapot}}}]").ask(get("200"), "418 - -"),
        case("redirect-grpc").http("[{redirect: {uri: /there}}]").ask(grpc("grpc=0"), "200 - -"),
        case("direct-grpc")
            .http("[{directResponse: {status: 503, body: {string: 'not 100 %'}}}]")
            .ask(grpc("grpc=0"), "200 - -"),
        case("cors")
            .rule(cors)
            .ask(preflight("https://shop.example"), "200 - -")
            .ask(preflight("https://evil.example"), "200 - v1")
            .ask(get("200").header("origin", "https://shop.example"), "200 - v1")
            .ask(get("200").header("origin", "https://evil.example"), "200 - v1"),
    ]
}
