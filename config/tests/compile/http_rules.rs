//! `spec.http` of a VirtualService (semantics 1.1), rule by rule.

use crate::render::routes;
use crate::support::*;

const HOST: &str = "reviews.default.svc.cluster.local:9080";

/// Cases: what is promised, `spec.http`, and the rows it becomes.
fn check(cases: &[(&str, &str, &[&str])]) {
    for (promise, http, expected) in cases {
        let resources = compile(&format!("{SERVICES}{}", reviews(http)), &client());
        assert_eq!(routes(&resources, HOST), *expected, "{promise}\n{http}");
    }
}

#[test]
fn rules_become_rows_in_order_and_end_with_the_first_that_takes_all() {
    check(&[
        (
            "each block of a rule is a row; conditions in a block hold together",
            "[{match: [{uri: {prefix: /a}, method: {exact: GET}}, {uri: {exact: /b}}], route: [{destination: {host: reviews, subset: v1}}]},
              {route: [{destination: {host: reviews, subset: v2}}]}]",
            &[
                "/a*, :method = \"GET\" => reviews.default:9080/v1",
                "/b => reviews.default:9080/v1",
                "/* => reviews.default:9080/v2",
            ],
        ),
        (
            "nothing stands behind a rule without conditions",
            "[{route: [{destination: {host: reviews, subset: v1}}]}, {route: [{destination: {host: reviews, subset: v2}}]}]",
            &["/* => reviews.default:9080/v1"],
        ),
        (
            "nor behind a prefix of / in the middle of a rule",
            "[{match: [{uri: {prefix: /}}, {uri: {prefix: /b}}], route: [{destination: {host: reviews}}]}, {route: [{destination: {host: ratings}}]}]",
            &["/* => reviews.default:9080"],
        ),
        (
            "nor behind the regular expression .*",
            "[{match: [{uri: {regex: '.*'}}], route: [{destination: {host: reviews}}]}, {route: [{destination: {host: ratings}}]}]",
            &["/.*/ => reviews.default:9080"],
        ),
        (
            "a prefix of / with a condition on a header takes not all",
            "[{match: [{uri: {prefix: /}, headers: {end-user: {exact: jason}}}], route: [{destination: {host: reviews, subset: v2}}]},
              {route: [{destination: {host: reviews, subset: v1}}]}]",
            &["/*, end-user = \"jason\" => reviews.default:9080/v2", "/* => reviews.default:9080/v1"],
        ),
        (
            "names of rule and block are joined with a dot",
            "[{name: canary, match: [{name: jason, uri: {prefix: /a}}, {uri: {prefix: /b}}], route: [{destination: {host: reviews}}]}]",
            &["canary.jason: /a* => reviews.default:9080", "canary: /b* => reviews.default:9080"],
        ),
    ]);
}

#[test]
fn paths_are_matched_exactly_by_raw_prefix_or_by_a_whole_regular_expression() {
    check(&[(
        "exact, prefix, regex; case is ignored for the first two only",
        "[{match: [{uri: {exact: /A}, ignoreUriCase: true}, {uri: {prefix: /B}, ignoreUriCase: true},
                   {uri: {regex: /c.*}, ignoreUriCase: true}, {uri: {prefix: /d}}, {uri: {}}],
           route: [{destination: {host: reviews}}]}]",
        &[
            "/A (any case) => reviews.default:9080",
            "/B* (any case) => reviews.default:9080",
            "//c.*/ => reviews.default:9080",
            "/d* => reviews.default:9080",
            "/* => reviews.default:9080",
        ],
    )]);
}

#[test]
fn headers_are_matched_by_value_presence_and_absence() {
    check(&[
        (
            "exact, prefix, regex, and two ways to say present; conditions in the order of names",
            "[{match: [{headers: {e: {exact: x}, d: {prefix: x}, c: {regex: 'x+'}, b: {}, a: {regex: '*'}}}], route: [{destination: {host: reviews}}]}]",
            &["/*, a present, b present, c ~ /x+/, d = \"x\"*, e = \"x\" => reviews.default:9080"],
        ),
        (
            "withoutHeaders: a missing header is not the value, and absence is what presence asks for",
            "[{match: [{withoutHeaders: {a: {exact: x}, b: {}, c: {regex: '*'}}}], route: [{destination: {host: reviews}}]}]",
            &["/*, not a = \"x\" or missing as empty, not b present, not c present => reviews.default:9080"],
        ),
        (
            "method, authority and scheme are conditions; under headers their names are ignored",
            "[{match: [{method: {exact: GET}, authority: {prefix: 'reviews:'}, scheme: {exact: http},
                        headers: {uri: {exact: x}, method: {exact: x}, scheme: {exact: x}, authority: {exact: x}}}],
               route: [{destination: {host: reviews}}]}]",
            &["/*, :method = \"GET\", :authority = \"reviews:\"*, :scheme = \"http\" => reviews.default:9080"],
        ),
    ]);
}

#[test]
fn query_parameters_are_matched_by_value_and_presence() {
    check(&[(
        "an exact empty text is ?key= and not presence",
        "[{match: [{queryParams: {a: {exact: ''}, b: {}, c: {regex: '*'}, d: {regex: '[0-9]+'}, e: {prefix: x}}}], route: [{destination: {host: reviews}}]}]",
        &["/*, ?a = \"\", ?b present, ?c present, ?d ~ /[0-9]+/, ?e = \"x\"* => reviews.default:9080"],
    )]);
}

#[test]
fn sources_gateways_and_ports_are_decided_for_each_proxy() {
    let rules = "[{match: [{sourceLabels: {app: productpage}, uri: {prefix: /labels}}, {sourceNamespace: default, uri: {prefix: /namespace}},
                           {gateways: [mesh], sourceNamespace: nowhere, uri: {prefix: /mesh}}, {gateways: [edge], uri: {prefix: /edge}},
                           {port: 9080, uri: {prefix: /port}}, {port: 81, uri: {prefix: /other-port}}],
                   route: [{destination: {host: reviews}}]}]";
    let rules = format!("{SERVICES}{}", reviews(rules));
    let paths = |node| -> Vec<String> {
        let rows = routes(&compile(&rules, &node), HOST);
        rows.iter().map(|row| row.split('*').next().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(client()), ["/labels", "/namespace", "/mesh", "/port"]);
    assert_eq!(paths(node("default", &[("app", "other")])), ["/namespace", "/mesh", "/port"]);
    assert_eq!(paths(node("other", &[])), ["/mesh", "/port"]);
}

#[test]
fn a_virtual_service_for_gateways_alone_is_not_for_sidecars() {
    for (gateways, destination) in [
        ("[edge]", "reviews.default:9080"),
        ("[edge, mesh]", "reviews.default:9080/v2"),
        ("[mesh]", "reviews.default:9080/v2"),
        ("[]", "reviews.default:9080/v2"),
    ] {
        let spec = format!(
            "{{hosts: [reviews], gateways: {gateways}, http: [{{route: [{{destination: {{host: reviews, subset: v2}}}}]}}]}}"
        );
        let rows = routes(&compile(&format!("{SERVICES}{}", virtual_service("reviews", &spec)), &client()), HOST);
        assert!(rows[0].ends_with(&format!("=> {destination}")), "{gateways}: {rows:?}");
    }
}

#[test]
fn weights_are_shares_of_their_sum() {
    check(&[
        (
            "a single destination gets everything, whatever its weight says",
            "[{route: [{destination: {host: reviews, subset: v1}, weight: 0}]}]",
            &["/* => reviews.default:9080/v1"],
        ),
        (
            "they need not add up to 100, and 0 is nobody's share",
            "[{route: [{destination: {host: reviews, subset: v1}, weight: 8}, {destination: {host: reviews, subset: v2}, weight: 2}, {destination: {host: reviews, subset: v3}, weight: 0}]}]",
            &["/* => 8 to reviews.default:9080/v1, 2 to reviews.default:9080/v2"],
        ),
        (
            "what cannot be made is left out alone: a total of 0, a negative weight, a bad expression, no destination",
            "[{match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}, weight: 0}, {destination: {host: ratings}}]},
              {match: [{uri: {prefix: /b}}], route: [{destination: {host: reviews}, weight: -1}]},
              {match: [{uri: {regex: '('}}, {uri: {prefix: /c}}], route: [{destination: {host: reviews}}]},
              {match: [{uri: {prefix: /d}}]}]",
            &["/c* => reviews.default:9080"],
        ),
    ]);
}

#[test]
fn destinations_are_named_in_the_rules_namespace_with_a_port() {
    check(&[
        (
            "the service's only port, where none is named",
            "[{route: [{destination: {host: ratings}}]}]",
            &["/* => ratings.default:9080"],
        ),
        (
            "the port that was called, where the service has several",
            "[{route: [{destination: {host: shop}}]}]",
            &["/* => shop.default:9080"],
        ),
        (
            "the named port",
            "[{route: [{destination: {host: shop.default.svc.cluster.local, port: {number: 8080}}}]}]",
            &["/* => shop.default:8080"],
        ),
        (
            "an unknown host or subset is named all the same: 503 NC",
            "[{match: [{uri: {prefix: /a}}], route: [{destination: {host: nowhere}}]}, {route: [{destination: {host: reviews, subset: v9}}]}]",
            &["/a* => nowhere.default:9080", "/* => reviews.default:9080/v9"],
        ),
    ]);
    let elsewhere = document(
        "VirtualService",
        "other/reviews",
        "{hosts: [reviews.default.svc.cluster.local], http: [{route: [{destination: {host: reviews}}]}]}",
    );
    let rows = routes(&compile(&format!("{SERVICES}{elsewhere}"), &client()), HOST);
    assert_eq!(rows, ["/* => reviews.other:9080"], "not the caller's namespace, the rule's");
}

#[test]
fn timeouts_are_off_unless_a_rule_says_otherwise() {
    check(&[
        (
            "a timeout",
            "[{timeout: 1.5s, route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080; timeout 1.5s"],
        ),
        ("0 is none", "[{timeout: 0s, route: [{destination: {host: reviews}}]}]", &["/* => reviews.default:9080"]),
    ]);
}

#[test]
fn retries_are_the_meshs_unless_a_rule_says_otherwise() {
    check(&[
        (
            "attempts 0: none",
            "[{retries: {attempts: 0}, route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080; no retries"],
        ),
        (
            "no attempts is 0 attempts",
            "[{retries: {retryOn: 5xx}, route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080; no retries"],
        ),
        (
            "attempts alone keep the default conditions",
            "[{retries: {attempts: 3}, route: [{destination: {host: reviews}}]}]",
            &[
                "/* => reviews.default:9080; 3 retries on connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable",
            ],
        ),
        (
            "numbers among the words are statuses",
            "[{retries: {attempts: 3, perTryTimeout: 2s, retryOn: 'gateway-error,503', backoff: 100ms, retryRemoteLocalities: true, retryIgnorePreviousHosts: false}, route: [{destination: {host: reviews}}]}]",
            &[
                "/* => reviews.default:9080; 3 retries on gateway-error,retriable-status-codes {503}; per try 2s; back-off 100ms to 1s; retries at the same endpoint; retries in other localities",
            ],
        ),
    ]);
    let resources = compile(SERVICES, &client());
    assert_eq!(routes(&resources, HOST), ["default: /* => reviews.default:9080"], "also without a VirtualService");
}

#[test]
fn faults_need_a_percentage() {
    check(&[
        (
            "delay and abort",
            "[{fault: {delay: {fixedDelay: 2s, percentage: {value: 10}}, abort: {httpStatus: 503, percentage: {value: 0.5}}}, route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080; delay 2s for 10%; abort Http(503) for 0.5%"],
        ),
        (
            "the old whole percent is read for delays",
            "[{fault: {delay: {fixedDelay: 2s, percent: 7}}, route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080; delay 2s for 7%"],
        ),
        (
            "without a percentage nothing happens",
            "[{fault: {delay: {fixedDelay: 2s}, abort: {httpStatus: 503}}, route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080"],
        ),
        (
            "statuses of gRPC by name or number",
            "[{match: [{uri: {prefix: /a}}], fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}, route: [{destination: {host: reviews}}]},
              {fault: {abort: {grpcStatus: '4', percentage: {value: 100}}}, route: [{destination: {host: reviews}}]}]",
            &["/a* => reviews.default:9080; abort Grpc(14) for 100%", "/* => reviews.default:9080; abort Grpc(4) for 100%"],
        ),
    ]);
}

#[test]
fn copies_go_for_all_requests_unless_a_percentage_says_otherwise() {
    check(&[
        (
            "no percentage is all, 0 is none, the old whole percent is read",
            "[{match: [{uri: {prefix: /a}}], mirror: {host: ratings}, route: [{destination: {host: reviews}}]},
              {match: [{uri: {prefix: /b}}], mirror: {host: ratings}, mirrorPercentage: {value: 0}, route: [{destination: {host: reviews}}]},
              {mirror: {host: reviews, subset: v2}, mirrorPercent: 5, route: [{destination: {host: reviews}}]}]",
            &[
                "/a* => reviews.default:9080; mirror 100% to outbound|9080||ratings.default.svc.cluster.local",
                "/b* => reviews.default:9080",
                "/* => reviews.default:9080; mirror 5% to outbound|9080|v2|reviews.default.svc.cluster.local",
            ],
        ),
        (
            "several copies",
            "[{mirrors: [{destination: {host: ratings}}, {destination: {host: reviews}, percentage: {value: 0.1}}, {destination: {host: shop}, percentage: {value: 0}}], route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080; mirror 100% to outbound|9080||ratings.default.svc.cluster.local; mirror 0.1% to outbound|9080||reviews.default.svc.cluster.local"],
        ),
    ]);
}

#[test]
fn redirects_and_answers_take_the_place_of_destinations() {
    check(&[
        ("301 is the default", "[{redirect: {uri: /new}}]", &["/* => redirect 301 path Full(\"/new\")"]),
        (
            "all parts",
            "[{redirect: {uri: /new, authority: example.com, scheme: https, port: 8443, redirectCode: 308}}]",
            &["/* => redirect 308 scheme https host example.com port 8443 path Full(\"/new\")"],
        ),
        (
            "a prefix",
            "[{match: [{uri: {prefix: /old}}], redirect: {prefixRewrite: /new}}]",
            &["/old* => redirect 301 path Prefix(\"/new\")"],
        ),
        (
            "443 goes without saying for https",
            "[{redirect: {scheme: https, port: 443}}]",
            &["/* => redirect 301 scheme https"],
        ),
        (
            "80 goes without saying",
            "[{redirect: {authority: example.com, port: 80}}]",
            &["/* => redirect 301 host example.com"],
        ),
        (
            "the port of the request",
            "[{redirect: {authority: example.com, derivePort: FROM_REQUEST_PORT}}]",
            &["/* => redirect 301 host example.com port 9080"],
        ),
        (
            "other codes are not redirects",
            "[{match: [{uri: {prefix: /a}}], redirect: {redirectCode: 305}}, {redirect: {redirectCode: 302}}]",
            &["/* => redirect 302"],
        ),
        ("an answer", "[{directResponse: {status: 503, body: {string: closed}}}]", &["/* => answer 503 \"closed\""]),
        (
            "an answer in base64, and one without a body",
            "[{match: [{uri: {prefix: /a}}], directResponse: {status: 200, body: {bytes: bGVubw==}}}, {directResponse: {status: 404}}]",
            &["/a* => answer 200 \"leno\"", "/* => answer 404 \"\""],
        ),
    ]);
}

#[test]
fn a_rewrite_replaces_the_matched_prefix_or_the_path() {
    check(&[
        (
            "prefix, exact, regex",
            "[{match: [{uri: {prefix: /a}}, {uri: {exact: /b}}, {uri: {regex: '/c.*'}}], rewrite: {uri: /new, authority: example.com}, route: [{destination: {host: reviews}}]}]",
            &[
                "/a* => reviews.default:9080; prefix to /new; host to example.com",
                "/b => reviews.default:9080; path to /new; host to example.com",
                "//c.*/ => reviews.default:9080; path to /new; host to example.com",
            ],
        ),
        (
            "by a regular expression",
            "[{rewrite: {uriRegexRewrite: {match: '^/a/(.*)', rewrite: '/b/\\1'}}, route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080; ^/a/(.*) to /b/\\1"],
        ),
    ]);
}

#[test]
fn header_operations_stay_with_their_share_or_follow_the_routes_and_the_host_is_an_authority() {
    check(&[
        (
            "set, add and remove at both levels",
            "[{headers: {request: {set: {x-a: '1'}, add: {x-b: '2'}, remove: [x-c]}, response: {set: {x-d: '3'}}},
               route: [{destination: {host: reviews, subset: v1}, weight: 90, headers: {request: {set: {x-e: '4'}}}}, {destination: {host: reviews, subset: v2}, weight: 10}]}]",
            &["/* => 90 to reviews.default:9080/v1 (request sets x-e=4), 10 to reviews.default:9080/v2; request removes x-c; request sets x-a=1; request adds x-b=2; response sets x-d=3"],
        ),
        (
            "Host in set goes before add; pseudo headers and removal of the host are ignored",
            "[{headers: {request: {set: {Host: a.example}, add: {':authority': b.example, ':path': /x}, remove: [host, ':method']}}, route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080; host to a.example"],
        ),
        (
            "of several destinations each keeps its own operations, whatever the route does to the same header",
            "[{headers: {request: {set: {x-a: route}}, response: {add: {x-b: route}}}, route: [
               {destination: {host: reviews, subset: v1}, weight: 90, headers: {request: {set: {x-a: v1}}, response: {set: {x-b: v1}}}},
               {destination: {host: reviews, subset: v2}, weight: 10}]}]",
            &["/* => 90 to reviews.default:9080/v1 (request sets x-a=v1; response sets x-b=v1), 10 to reviews.default:9080/v2; request sets x-a=route; response adds x-b=route"],
        ),
        (
            "those of a single destination come behind the route's, each kind by itself: Envoy sets all before it adds any",
            "[{headers: {request: {set: {x-a: route, x-b: route}, add: {x-c: route, x-d: route}, remove: [x-e]}},
               route: [{destination: {host: reviews}, headers: {request: {set: {x-a: last, x-c: last}, add: {x-b: last, x-d: last}, remove: [x-e, x-f]}}}]}]",
            &["/* => reviews.default:9080; request removes x-e; request removes x-e; request removes x-f; request sets x-a=route; request sets x-b=route; request sets x-a=last; request sets x-c=last; request adds x-c=route; request adds x-d=route; request adds x-b=last; request adds x-d=last"],
        ),
        (
            "so do those on its response",
            "[{headers: {response: {set: {x-a: route}, add: {x-b: route}, remove: [x-c]}},
               route: [{destination: {host: reviews}, headers: {response: {set: {x-b: last}, add: {x-a: last}}}}]}]",
            &["/* => reviews.default:9080; response removes x-c; response sets x-a=route; response sets x-b=last; response adds x-b=route; response adds x-a=last"],
        ),
        (
            "the host of several destinations is their own",
            "[{route: [{destination: {host: reviews, subset: v1}, weight: 1, headers: {request: {set: {':authority': c.example}}}}, {destination: {host: reviews, subset: v2}, weight: 1}]}]",
            &["/* => 1 to reviews.default:9080/v1 (host to c.example), 1 to reviews.default:9080/v2"],
        ),
        (
            "that of a single one is the route's",
            "[{route: [{destination: {host: reviews}, headers: {request: {set: {':authority': c.example}}}}]}]",
            &["/* => reviews.default:9080; host to c.example"],
        ),
        (
            "unless the route names one",
            "[{headers: {request: {set: {host: d.example}}}, route: [{destination: {host: reviews}, headers: {request: {set: {':authority': c.example}}}}]}]",
            &["/* => reviews.default:9080; host to d.example"],
        ),
        (
            "the rewrite's authority goes before the headers'",
            "[{rewrite: {authority: a.example}, headers: {request: {set: {host: b.example}}}, route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080; host to a.example"],
        ),
        (
            "a header that HTTP does not allow drops the rule",
            "[{match: [{uri: {prefix: /a}}], headers: {request: {set: {'x y': '1'}}}, route: [{destination: {host: reviews}}]}, {route: [{destination: {host: reviews}}]}]",
            &["/* => reviews.default:9080"],
        ),
    ]);
}

#[test]
fn cors_is_carried_and_unmatched_preflights_are_passed_on() {
    check(&[
        (
            "all of it",
            "[{corsPolicy: {allowOrigins: [{exact: https://a.example}, {regex: 'https://.*'}], allowMethods: [GET, POST], allowHeaders: [x-a], exposeHeaders: [x-b], maxAge: 1h, allowCredentials: true, unmatchedPreflights: IGNORE}, route: [{destination: {host: reviews}}]}]",
            &[
                "/* => reviews.default:9080; cors = \"https://a.example\" or ~ /https://.*/, methods \"GET,POST\", headers \"x-a\", expose \"x-b\", age Some(3600s), credentials true, forward false",
            ],
        ),
        (
            "the old list, and the defaults",
            "[{corsPolicy: {allowOrigin: ['*']}, route: [{destination: {host: reviews}}]}]",
            &[
                "/* => reviews.default:9080; cors = \"*\", methods \"\", headers \"\", expose \"\", age None, credentials false, forward true",
            ],
        ),
    ]);
}

#[test]
fn a_delegate_gets_the_requests_of_the_rule_that_names_it() {
    let delegate = |name: &str, spec: &str| document("VirtualService", name, spec);
    let root = reviews(
        "[{name: root, match: [{uri: {prefix: /api}, name: api}], delegate: {name: part, namespace: other}, timeout: 3s, headers: {request: {set: {x-root: '1'}}}},
          {match: [{uri: {prefix: /lost}}], delegate: {name: missing}},
          {match: [{uri: {prefix: /hidden}}], delegate: {name: hidden, namespace: other}},
          {route: [{destination: {host: reviews, subset: v1}}]}]",
    );
    let part = delegate(
        "other/part",
        "{http: [{name: leaf, match: [{uri: {prefix: /api/v2}, name: two}], route: [{destination: {host: reviews}}], timeout: 1s},
                 {match: [{uri: {prefix: /elsewhere}}], route: [{destination: {host: reviews}}]},
                 {match: [{uri: {prefix: /api/deep}}], delegate: {name: deeper}},
                 {route: [{destination: {host: reviews.default.svc.cluster.local, subset: v2}}]}]}",
    );
    let hidden = delegate("other/hidden", "{exportTo: [other], http: [{route: [{destination: {host: reviews}}]}]}");
    let resources = compile(&format!("{SERVICES}{root}{part}{hidden}"), &client());
    assert_eq!(
        routes(&resources, HOST),
        [
            "root-leaf.api-two: /api/v2* => reviews.other:9080; timeout 1s; request sets x-root=1",
            "root.api: /api* => reviews.default:9080/v2; timeout 3s; request sets x-root=1",
            "/* => reviews.default:9080/v1",
        ]
    );
    let host = crate::render::virtual_host(&resources, "15001", HOST);
    let origins: Vec<_> = host.routes.iter().map(|route| route.origin.as_ref().unwrap().to_string()).collect();
    assert_eq!(
        origins,
        ["VirtualService other/part[0]", "VirtualService other/part[3]", "VirtualService default/reviews[3]"],
        "a merged rule is where its destination is written"
    );
}
