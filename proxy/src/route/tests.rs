//! The table against a naive reading of the rules, and each rule of rewriting in a row of a table.

use http::{HeaderMap, HeaderValue, Method};
use leno_config::ir::*;
use proptest::prelude::*;

use super::*;

fn route(matcher: RouteMatch) -> Route {
    Route {
        name: String::new(),
        origin: None,
        matcher,
        action: Action::Direct(DirectResponse { status: http::StatusCode::OK, body: Vec::new() }),
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        cors: None,
        fault: None,
        authorization: None,
        refused_in_path: Separators::NONE,
    }
}

fn table(hosts: &[(&str, Vec<Route>)]) -> RouteTable {
    let hosts = hosts
        .iter()
        .map(|(domain, routes)| VirtualHost {
            name: (*domain).to_owned(),
            domains: vec![Domain::parse(domain).expect("a domain")],
            routes: routes.clone(),
            attempt_count: Default::default(),
        })
        .collect();
    RouteTable::new(Arc::new(RouteConfig::new("test", hosts).expect("no domain twice")))
}

fn get<'a>(target: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    RequestView { method: &Method::GET, scheme: "http", authority: "reviews:9080", path, query, headers, claims: None }
}

#[test]
fn a_host_is_found_by_exact_name_then_longest_suffix_then_longest_prefix_then_any() {
    let domains = ["a.example.com", "*.example.com", "*.com", "*-x.example.com", "example.*", "a.example.*", "*"];
    let table = table(&domains.map(|domain| (domain, vec![])));
    let rows = [
        ("a.example.com", "a.example.com"),
        ("A.Example.COM", "a.example.com"),
        ("b.example.com", "*.example.com"),
        ("b-x.example.com", "*-x.example.com"),
        ("other.com", "*.com"),
        (".com", "*"),
        ("example.org", "example.*"),
        ("a.example.org", "a.example.*"),
        ("a.example.com:80", "a.example.*"),
        ("example.", "*"),
        ("localhost", "*"),
    ];
    for (authority, expected) in rows {
        let found = table.host(authority).map(|host| domains[host]);
        assert_eq!(found, Some(expected), "{authority}");
    }
    assert_eq!(table.host(&"x".repeat(400)), Some(6), "a host longer than any name");
}

#[test]
fn a_table_that_ignores_ports_takes_a_host_with_any_port_or_none() {
    let config = table(&[("reviews", vec![]), ("[::1]", vec![])]).config().as_ref().clone();
    let table = RouteTable::new(Arc::new(RouteConfig { ignore_port: true, ..config }));
    let rows =
        [("reviews", Some(0)), ("reviews:9080", Some(0)), ("[::1]:80", Some(1)), ("[::1]", Some(1)), ("x:1", None)];
    for (authority, expected) in rows {
        assert_eq!(table.host(authority), expected, "{authority}");
    }
}

#[test]
fn every_condition_has_its_reason_when_it_fails() {
    let header = |name: &str, value: Option<StringMatch>, invert, missing_is_empty| HeaderMatch {
        key: HeaderKey::parse(name).expect("a header"),
        value,
        invert,
        missing_is_empty,
    };
    let on = |header: HeaderMatch| RouteMatch { headers: vec![header], ..RouteMatch::any() };
    let path = |path: PathMatch| RouteMatch { path, ..RouteMatch::any() };
    let query = |name: &str, value| RouteMatch {
        query: vec![QueryMatch { name: name.to_owned(), value }],
        ..RouteMatch::any()
    };
    let exact = |text: &str| Some(StringMatch::exact(text));
    let regex = |text: &str| Regex::new(text).expect("an expression");
    let rows: Vec<(RouteMatch, Option<&str>)> = vec![
        (RouteMatch::any(), None),
        (path(PathMatch::Exact { value: "/api/v1".to_owned(), ignore_case: false }), None),
        (path(PathMatch::Exact { value: "/API/v1".to_owned(), ignore_case: true }), None),
        (path(PathMatch::Exact { value: "/api".to_owned(), ignore_case: false }), Some("is not `/api`")),
        (path(PathMatch::Prefix { value: "/ap".to_owned(), ignore_case: false }), None),
        (path(PathMatch::Prefix { value: "/AP".to_owned(), ignore_case: true }), None),
        (path(PathMatch::SegmentPrefix { value: "/api".to_owned(), ignore_case: false }), None),
        (path(PathMatch::SegmentPrefix { value: "/ap".to_owned(), ignore_case: false }), Some("is not below")),
        (path(PathMatch::Regex(regex("/api/v[0-9]+"))), None),
        (path(PathMatch::Regex(regex("/api"))), Some("does not match")),
        (on(header("end-user", exact("jason"), false, false)), None),
        (on(header("end-user", exact("jas"), false, false)), Some("`end-user` is `jason`, not `jas`")),
        (on(header("end-user", None, false, false)), None),
        (on(header("absent", None, false, false)), Some("missing")),
        (on(header("absent", exact("x"), false, false)), Some("missing")),
        (on(header("absent", None, true, false)), None),
        (on(header("end-user", None, true, false)), Some("excludes")),
        (on(header("end-user", exact("jason"), true, true)), Some("excludes")),
        (on(header("end-user", exact("anna"), true, true)), None),
        (on(header("absent", exact("x"), true, true)), None),
        (on(header("absent", exact("x"), true, false)), Some("missing")),
        (on(header("twice", exact("a,b"), false, false)), None),
        (on(header("twice", exact("a"), false, false)), Some("`a,b`")),
        (on(header(":method", exact("GET"), false, false)), None),
        (on(header(":method", exact("POST"), false, false)), Some("method is `GET`")),
        (on(header(":authority", Some(StringMatch::prefix("reviews")), false, false)), None),
        (on(header(":scheme", exact("https"), false, false)), Some("scheme")),
        (query("debug", None), None),
        (query("user", exact("1")), None),
        (query("user", exact("2")), Some("`user` is `1`")),
        (query("none", None), Some("`none` is missing")),
    ];
    let mut headers = HeaderMap::new();
    headers.insert("end-user", HeaderValue::from_static("jason"));
    headers.append("twice", HeaderValue::from_static("a"));
    headers.append("twice", HeaderValue::from_static("b"));
    let request = get("/api/v1?debug&user=1&user=2", &headers);
    for (matcher, expected) in rows {
        let found = why_not(&route(matcher.clone()), &request);
        match expected {
            None => assert_eq!(found, None, "{matcher:?}"),
            Some(part) => assert!(found.as_ref().is_some_and(|reason| reason.contains(part)), "{matcher:?}: {found:?}"),
        }
    }
}

#[test]
fn a_path_is_rewritten_and_its_query_stays() {
    let prefix = |value: &str| PathMatch::Prefix { value: value.to_owned(), ignore_case: false };
    let segment = |value: &str| PathMatch::SegmentPrefix { value: value.to_owned(), ignore_case: false };
    let replace = |pattern: &str, substitution: &str| PathRewrite::Regex {
        pattern: RewritePattern::new(pattern).expect("an expression"),
        substitution: substitution.to_owned(),
    };
    let rows = [
        (PathRewrite::Prefix("/new".to_owned()), prefix("/old"), "/old/x?q=1", "/new/x?q=1"),
        (PathRewrite::Prefix("/".to_owned()), prefix("/old/"), "/old/x", "/x"),
        (PathRewrite::Prefix("/".to_owned()), segment("/old"), "/old/x", "/x"),
        (PathRewrite::Prefix("/".to_owned()), segment("/old"), "/old", "/"),
        (
            PathRewrite::Prefix("/new".to_owned()),
            PathMatch::Exact { value: "/a".to_owned(), ignore_case: false },
            "/a?q",
            "/new?q",
        ),
        (PathRewrite::Full("/all".to_owned()), prefix("/"), "/x/y?q", "/all?q"),
        (PathRewrite::Full("all".to_owned()), prefix("/"), "/x", "/all"),
        (replace("/v([0-9])/", "/version-\\1/"), prefix("/"), "/v1/v2/", "/version-1/v2/"),
        (replace("a", "$1"), prefix("/"), "/a", "/$1"),
    ];
    for (rewrite, matched, target, expected) in rows {
        let headers = HeaderMap::new();
        let request = get(target, &headers);
        assert_eq!(rewrite_path(&rewrite, &matched, request.path, request.query), expected, "{rewrite:?} {target}");
    }
}

#[test]
fn a_redirect_says_where() {
    let redirect = |host: Option<&str>, scheme: Option<&str>, port, path: Option<&str>| Redirect {
        status: http::StatusCode::FOUND,
        host: host.map(str::to_owned),
        scheme: scheme.map(str::to_owned),
        port,
        path: path.map(|path| PathRewrite::Full(path.to_owned())),
    };
    let rows = [
        (redirect(None, None, None, Some("/new")), "http://reviews:9080/new?q=1"),
        (redirect(Some("other"), None, None, None), "http://other/old?q=1"),
        (redirect(Some("other"), Some("https"), None, None), "https://other/old?q=1"),
        (redirect(None, Some("https"), Some(443), None), "https://reviews/old?q=1"),
        (redirect(None, None, Some(80), None), "http://reviews/old?q=1"),
        (redirect(None, None, Some(8080), None), "http://reviews:8080/old?q=1"),
    ];
    for (redirect, expected) in rows {
        assert_eq!(location(&redirect, &PathMatch::any(), &get("/old?q=1", &HeaderMap::new())), expected);
    }
}

fn any_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab"), Just("A")], 0..4)
        .prop_map(|segments| format!("/{}", segments.join("/")))
}

fn any_matcher() -> impl Strategy<Value = RouteMatch> {
    let path = (any_path(), 0..4_u8, any::<bool>()).prop_map(|(value, kind, ignore_case)| match kind {
        0 => PathMatch::Exact { value, ignore_case },
        1 => PathMatch::SegmentPrefix { value: value.trim_end_matches('/').to_owned(), ignore_case },
        2 => PathMatch::Regex(Regex::new(&format!("{value}.*")).expect("an expression")),
        _ => PathMatch::Prefix { value, ignore_case },
    });
    let header = proptest::option::of(prop_oneof![Just("1"), Just("2")]).prop_map(|value| {
        value.map_or_else(Vec::new, |value| {
            vec![HeaderMatch {
                key: HeaderKey::parse("x").expect("a header"),
                value: Some(StringMatch::exact(value)),
                invert: false,
                missing_is_empty: false,
            }]
        })
    });
    (path, header).prop_map(|(path, headers)| RouteMatch { path, headers, query: Vec::new(), claims: Vec::new() })
}

proptest! {
    #[test]
    fn the_index_finds_what_trying_all_in_order_finds(
        matchers in proptest::collection::vec(any_matcher(), 0..40),
        path in any_path(),
        value in prop_oneof![Just("1"), Just("2"), Just("3")],
    ) {
        let routes: Vec<Route> = matchers.iter().cloned().map(route).collect();
        let mut headers = HeaderMap::new();
        headers.insert("x", HeaderValue::from_static(value));
        let request = get(&path, &headers);
        let naive = routes.iter().position(|route| why_not(route, &request).is_none());
        let table = table(&[("*", routes)]);
        prop_assert_eq!(table.find(0, &request), naive);
    }
}

#[test]
fn a_route_may_go_by_what_a_verified_token_says() {
    let claim =
        |value: &str, invert| ClaimMatch { path: vec!["groups".to_owned()], value: StringMatch::exact(value), invert };
    let claims = Claims::parse(br#"{"groups": ["dev", "ops"]}"#).expect("an object");
    let headers = HeaderMap::new();
    let rows = [
        (claim("ops", false), Some(&claims), None),
        (
            claim("hr", false),
            Some(&claims),
            Some("claim `groups` of the verified token is missing, or is one not `hr`"),
        ),
        (claim("ops", true), Some(&claims), Some("claim `groups` of the verified token is one that the rule excludes")),
        (claim("ops", false), None, Some("claim `groups` is missing: there is no verified token")),
        (claim("ops", true), None, None),
    ];
    for (condition, claims, expected) in rows {
        let matcher = RouteMatch { claims: vec![condition], ..RouteMatch::any() };
        let request = RequestView { claims, ..get("/", &headers) };
        assert_eq!(takes(&matcher, &request), expected.is_none(), "{matcher:?}");
        assert_eq!(why_not(&route(matcher), &request).as_deref(), expected);
    }
}
