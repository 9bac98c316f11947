//! Findings in VirtualServices.

use super::*;

#[test]
fn virtual_services_are_checked() {
    run(
        "VirtualService",
        &[
            ("hosts: [b]\nhttp: [{route: [{destination: {host: b}}]}]", &[]),
            ("hosts: [b]", &[("L0101", "spec", "spec")]),
            (
                "hosts: []\ngateways: [mesh]",
                &[("L0101", "spec", "spec"), ("L0101", "spec", "spec"), ("L0207", "spec.gateways", "gateways")],
            ),
            ("hosts: ['*']\nhttp: [{route: [{destination: {host: b}}]}]", &[("L0103", "spec.hosts[0]", "'*'")]),
            ("hosts: [b, b]\nhttp: [{route: [{destination: {host: b}}]}]", &[("L0118", "spec.hosts[1]", "b")]),
            ("hosts: [a b]\nhttp: [{route: [{destination: {host: b}}]}]", &[("L0103", "spec.hosts[0]", "a b")]),
            (
                "hosts: [b]\ngateways: [a/b/c]\nhttp: [{route: [{destination: {host: b}}]}]",
                &[("L0103", "spec.gateways[0]", "a/b/c")],
            ),
            (
                "hosts: [b]\nexportTo: ['*', x]\nhttp: [{route: [{destination: {host: b}}]}]",
                &[("L0119", "spec.exportTo[0]", "'*'")],
            ),
            (
                "hosts: [b]\nexportTo: [A]\nhttp: [{route: [{destination: {host: b}}]}]",
                &[("L0119", "spec.exportTo[0]", "A")],
            ),
            (
                "http:\n- delegate: {name: x}",
                &[("L0207", "spec.http[0].delegate", "delegate"), ("L0210", "spec.http[0].delegate.name", "x")],
            ),
            ("hosts: [b]\nhttp:\n- delegate: {name: rule}", &[("L0207", "spec.http[0].delegate.name", "rule")]),
        ],
    );
}

#[test]
fn a_rule_does_one_thing() {
    run_http(&[
        ("name: x", &[]),
        ("route: []", &[("L0101", "spec.http[0]", "route")]),
        ("redirect: {uri: /x}\nroute: [{destination: {host: b}}]", &[("L0102", "spec.http[0].redirect", "redirect")]),
        ("redirect: {uri: /x}\nrewrite: {uri: /y}", &[("L0102", "spec.http[0].rewrite", "rewrite")]),
        (
            "directResponse: {status: 200}\nfault: {abort: {httpStatus: 503, percentage: {value: 1}}}",
            &[("L0102", "spec.http[0].fault", "fault")],
        ),
        (
            "redirect: {uri: /x}\ndirectResponse: {status: 200}",
            &[("L0102", "spec.http[0].directResponse", "directResponse")],
        ),
        ("redirect: {}", &[("L0101", "spec.http[0].redirect", "redirect")]),
        ("redirect: {uri: /x, redirectCode: 200}", &[("L0110", "spec.http[0].redirect.redirectCode", "200")]),
        ("redirect: {scheme: ftp}", &[("L0112", "spec.http[0].redirect.scheme", "ftp")]),
        ("redirect: {port: 0}", &[("L0104", "spec.http[0].redirect.port", "0")]),
        (
            "redirect: {port: 80, derivePort: FROM_REQUEST_PORT}",
            &[("L0102", "spec.http[0].redirect.derivePort", "derivePort")],
        ),
        (
            "redirect: {uri: /x, prefixRewrite: /y}",
            &[("L0102", "spec.http[0].redirect.prefixRewrite", "prefixRewrite")],
        ),
        ("directResponse: {status: 99}", &[("L0110", "spec.http[0].directResponse.status", "99")]),
        ("directResponse: {}", &[("L0101", "spec.http[0].directResponse", "directResponse")]),
        (
            "directResponse: {status: 200, body: {bytes: '*'}}",
            &[("L0112", "spec.http[0].directResponse.body.bytes", "'*'")],
        ),
        (
            "directResponse: {status: 200, body: {bytes: '', string: ''}}",
            &[("L0102", "spec.http[0].directResponse.body", "body")],
        ),
        ("delegate: {}", &[("L0101", "spec.http[0].delegate", "delegate")]),
    ]);
}

#[test]
fn weights_are_shares() {
    run_http(&[
        ("route:\n- destination: {host: b}\n  weight: 0", &[]),
        ("route:\n- {destination: {host: b}, weight: 7}\n- {destination: {host: a}, weight: 5}", &[]),
        (
            "route:\n- {destination: {host: b}, weight: 0}\n- destination: {host: a}",
            &[("L0107", "spec.http[0].route", "route")],
        ),
        (
            "route:\n- {destination: {host: b}, weight: -1}\n- destination: {host: a}",
            &[("L0107", "spec.http[0].route[0].weight", "-1")],
        ),
        (
            "route:\n- {destination: {host: b}, weight: 2147483647}\n- {destination: {host: b}, weight: 2147483647}\n- {destination: {host: b}, weight: 9}",
            &[("L0107", "spec.http[0].route", "route")],
        ),
        ("route: [{weight: 1}]", &[("L0101", "spec.http[0].route[0].destination", "{")]),
    ]);
}

#[test]
fn conditions_are_checked() {
    run_http(&[
        ("match: [{uri: {prefix: ''}}]", &[]),
        ("match: [{uri: {regex: '/(a'}}]", &[("L0108", "spec.http[0].match[0].uri.regex", "'/(a'")]),
        ("match: [{uri: {regex: '(?=a)'}}]", &[("L0108", "spec.http[0].match[0].uri.regex", "'(?=a)'")]),
        (
            "match: [{uri: {regex: '*'}}]",
            &[("L0108", "spec.http[0].match[0].uri.regex", "'*'"), ("L0108", "spec.http[0].match[0].uri.regex", "'*'")]
                [..1],
        ),
        ("match: [{uri: {prefix: /a, exact: /b}}]", &[("L0102", "spec.http[0].match[0].uri", "uri")]),
        ("match: [{uri: {prefix: /a?b=c}}]", &[("L0122", "spec.http[0].match[0].uri.prefix", "/a?b=c")]),
        ("match: [{uri: {exact: a}}]", &[("L0122", "spec.http[0].match[0].uri.exact", "a")]),
        ("match: [{uri: {}}]", &[("L0122", "spec.http[0].match[0].uri", "uri")]),
        ("match: [{method: {prefix: ''}}]", &[("L0111", "spec.http[0].match[0].method.prefix", "''")]),
        ("match: [{uri: {regex: a.*}, ignoreUriCase: true}]", &[("L0122", "spec.http[0].match[0].uri.regex", "a.*")]),
        ("match: [{headers: {x-a: {}, x-b: {regex: '*'}}}]", &[]),
        ("match: [{headers: {'x y': {}}}]", &[("L0109", r#"spec.http[0].match[0].headers["x y"]"#, "'x y'")]),
        ("match: [{headers: {method: {exact: GET}}}]", &[("L0122", "spec.http[0].match[0].headers.method", "method")]),
        (
            "match: [{withoutHeaders: {x: {regex: '['}}}]",
            &[("L0108", "spec.http[0].match[0].withoutHeaders.x.regex", "'['")],
        ),
        ("match: [{queryParams: {x: {regex: '['}}}]", &[("L0108", "spec.http[0].match[0].queryParams.x.regex", "'['")]),
        ("match: [{port: 0}]", &[("L0104", "spec.http[0].match[0].port", "0")]),
        ("match: [{port: 70000}]", &[("L0104", "spec.http[0].match[0].port", "70000")]),
        ("match: [{sourceLabels: {app: '*'}}]", &[("L0114", "spec.http[0].match[0].sourceLabels.app", "'*'")]),
        ("match: [{sourceNamespace: A}]", &[("L0119", "spec.http[0].match[0].sourceNamespace", "A")]),
        (
            "match: [{gateways: [mesh], sourceLabels: {app: a}}]",
            &[("L0122", "spec.http[0].match[0].sourceLabels", "sourceLabels")],
        ),
    ]);
}

#[test]
fn what_is_done_to_a_request_is_checked() {
    run_http(&[
        ("timeout: 0s", &[]),
        ("timeout: 10", &[("L0006", "spec.http[0].timeout", "10")]),
        ("timeout: 10d", &[("L0105", "spec.http[0].timeout", "10d")]),
        ("timeout: -1s", &[("L0105", "spec.http[0].timeout", "-1s")]),
        ("timeout: 1us", &[("L0105", "spec.http[0].timeout", "1us")]),
        ("rewrite: {}", &[("L0101", "spec.http[0].rewrite", "rewrite")]),
        (
            "rewrite: {uriRegexRewrite: {match: '(', rewrite: x}}",
            &[("L0108", "spec.http[0].rewrite.uriRegexRewrite.match", "'('")],
        ),
        (
            r"rewrite: {uriRegexRewrite: {match: '(a)', rewrite: '\2'}}",
            &[("L0108", "spec.http[0].rewrite.uriRegexRewrite.rewrite", r"'\2'")],
        ),
        (
            "rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}",
            &[("L0102", "spec.http[0].rewrite.uriRegexRewrite", "uriRegexRewrite")],
        ),
        ("retries: {attempts: 3, retryOn: '5xx,connect-failure,503'}", &[]),
        (
            "retries: {attempts: 3, retryOn: conect-failure}",
            &[("L0113", "spec.http[0].retries.retryOn", "conect-failure")],
        ),
        ("retries: {attempts: 3, retryOn: '999'}", &[("L0110", "spec.http[0].retries.retryOn", "'999'")]),
        ("retries: {attempts: -1}", &[("L0116", "spec.http[0].retries.attempts", "-1")]),
        ("retries: {attempts: 0, retryOn: 5xx}", &[("L0122", "spec.http[0].retries.attempts", "0")]),
        ("fault: {}", &[("L0101", "spec.http[0].fault", "fault")]),
        ("fault: {delay: {fixedDelay: 1s}}", &[("L0122", "spec.http[0].fault.delay", "delay")]),
        (
            "fault: {delay: {percentage: {value: 101}, fixedDelay: 1s}}",
            &[("L0106", "spec.http[0].fault.delay.percentage.value", "101")],
        ),
        ("fault: {delay: {percent: 5, fixedDelay: 1s}}", &[("L0121", "spec.http[0].fault.delay.percent", "5")]),
        ("fault: {delay: {percentage: {value: 1}}}", &[("L0101", "spec.http[0].fault.delay", "delay")]),
        ("fault: {abort: {percentage: {value: 1}}}", &[("L0101", "spec.http[0].fault.abort", "abort")]),
        (
            "fault: {abort: {httpStatus: 99, percentage: {value: 1}}}",
            &[("L0110", "spec.http[0].fault.abort.httpStatus", "99")],
        ),
        (
            "fault: {abort: {grpcStatus: UNAVAILBLE, percentage: {value: 1}}}",
            &[("L0110", "spec.http[0].fault.abort.grpcStatus", "UNAVAILBLE")],
        ),
        ("mirror: {host: b}\nmirrors: [{destination: {host: b}}]", &[("L0102", "spec.http[0].mirrors", "mirrors")]),
        ("mirrorPercentage: {value: 5}", &[("L0122", "spec.http[0].mirrorPercentage", "mirrorPercentage")]),
        ("mirror: {host: b}\nmirrorPercentage: {value: -5}", &[("L0106", "spec.http[0].mirrorPercentage.value", "-5")]),
        ("corsPolicy: {allowOrigins: [{}]}", &[("L0111", "spec.http[0].corsPolicy.allowOrigins[0]", "{")]),
        (
            "corsPolicy: {allowOrigins: [{regex: '('}]}",
            &[("L0108", "spec.http[0].corsPolicy.allowOrigins[0].regex", "'('")],
        ),
        ("corsPolicy: {allowOrigin: [x]}", &[("L0121", "spec.http[0].corsPolicy.allowOrigin", "allowOrigin")]),
        ("corsPolicy: {maxAge: 1500ms}", &[("L0105", "spec.http[0].corsPolicy.maxAge", "1500ms")]),
        ("corsPolicy: {allowMethods: ['G T']}", &[("L0109", "spec.http[0].corsPolicy.allowMethods[0]", "'G T'")]),
        ("headers: {request: {set: {'a b': c}}}", &[("L0109", r#"spec.http[0].headers.request.set["a b"]"#, "c")]),
        ("headers: {request: {set: {a: \"b\\nc\"}}}", &[("L0109", "spec.http[0].headers.request.set.a", "\"b\\nc\"")]),
        (
            "headers: {request: {set: {':path': /}}}",
            &[("L0122", r#"spec.http[0].headers.request.set[":path"]"#, "':path'")],
        ),
        ("headers: {response: {remove: [Host]}}", &[("L0122", "spec.http[0].headers.response.remove[0]", "Host")]),
        ("websocketUpgrade: true", &[("L0122", "spec.http[0].websocketUpgrade", "true")]),
    ]);
}

#[test]
fn what_a_rule_names_has_to_be_there() {
    run_http(&[
        ("route: [{destination: {host: a, port: {number: 81}, subset: v1}}]", &[]),
        ("route: [{destination: {host: a.shop.svc.cluster.local}}]", &[]),
        (
            "route: [{destination: {host: x}}, {destination: {host: x}, weight: 1}]",
            &[("L0201", "spec.http[0].route[0].destination.host", "x")],
        ),
        ("route: [{destination: {host: a.shop}}]", &[("L0201", "spec.http[0].route[0].destination.host", "a.shop")]),
        (
            "route: [{destination: {host: a, subset: v2}}]",
            &[("L0202", "spec.http[0].route[0].destination.subset", "v2")],
        ),
        (
            "route: [{destination: {host: b, subset: v1}}]",
            &[("L0202", "spec.http[0].route[0].destination.subset", "v1")],
        ),
        (
            "route: [{destination: {host: a, port: {number: 8080}}}]",
            &[("L0203", "spec.http[0].route[0].destination.port.number", "8080")],
        ),
        (
            "route: [{destination: {host: a, port: {number: 0}}}]",
            &[("L0104", "spec.http[0].route[0].destination.port.number", "0")],
        ),
        (
            "route: [{destination: {host: a, port: {}}}]",
            &[("L0101", "spec.http[0].route[0].destination.port.number", "port")],
        ),
        (
            "route: [{destination: {host: '*.a'}}]",
            &[
                ("L0103", "spec.http[0].route[0].destination.host", "'*.a'"),
                ("L0201", "spec.http[0].route[0].destination.host", "'*.a'"),
            ],
        ),
        (
            "mirrors: [{destination: {host: a, subset: v3}}]",
            &[("L0202", "spec.http[0].mirrors[0].destination.subset", "v3")],
        ),
    ]);
}

#[test]
fn rules_that_nothing_reaches_are_pointed_out() {
    let rule = |blocks: &str| format!("- match: [{blocks}]\n  route: [{{destination: {{host: b}}}}]\n");
    let open = "- route: [{destination: {host: b}}]\n".to_owned();
    let unreachable = |index: usize| vec![("L0204".to_owned(), format!("spec.http[{index}]"))];
    let at = |code: &str, path: &str| vec![(code.to_owned(), path.to_owned())];
    for (rules, expected) in [
        (vec![rule("{uri: {prefix: /a}}"), open.clone()], vec![]),
        (vec![open.clone(), open.clone()], unreachable(1)),
        (vec![open.clone(), rule("{uri: {prefix: /a}}")], at("L0204", "spec.http[1].match[0]")),
        (vec![rule("{uri: {prefix: /}}"), open.clone()], unreachable(1)),
        (vec![rule("{uri: {regex: .*}}"), open.clone()], unreachable(1)),
        (vec![rule("{uri: {prefix: /}, port: 80}"), open.clone()], vec![]),
        (vec![rule("{uri: {prefix: /a}}"), rule("{uri: {exact: /ab}}")], at("L0204", "spec.http[1].match[0]")),
        (vec![rule("{uri: {prefix: /ab}}"), rule("{uri: {prefix: /a}}")], vec![]),
        (vec![rule("{uri: {prefix: /a}}"), rule("{uri: {prefix: /a}}")], at("L0205", "spec.http[1].match[0]")),
        (
            vec![rule("{uri: {prefix: /a}}"), rule("{uri: {prefix: /a}}, {uri: {prefix: /b}}")],
            at("L0205", "spec.http[1].match[0]"),
        ),
        (vec![rule("{uri: {prefix: /a}}"), rule("{uri: {prefix: /a}}, {uri: {prefix: /ab}}")], unreachable(1)),
        (vec![rule("{uri: {prefix: /a}}"), rule("{uri: {prefix: /A}}")], vec![]),
        (
            vec![rule("{uri: {prefix: /a}, ignoreUriCase: true}"), rule("{uri: {prefix: /A}}")],
            at("L0204", "spec.http[1].match[0]"),
        ),
        (vec![rule("{uri: {prefix: /a}}"), rule("{uri: {prefix: /a}, ignoreUriCase: true}")], vec![]),
        (vec![rule("{headers: {x: {}}}"), rule("{headers: {x: {exact: a}}}")], at("L0204", "spec.http[1].match[0]")),
        (vec![rule("{headers: {x: {exact: a}}}"), rule("{headers: {x: {}}}")], vec![]),
        (
            vec![rule("{headers: {x: {exact: a}}}"), rule("{headers: {x: {exact: a}, y: {}}}")],
            at("L0204", "spec.http[1].match[0]"),
        ),
        (vec![rule("{sourceLabels: {a: b}}"), open.clone()], vec![]),
        (vec![rule("{withoutHeaders: {x: {}}}"), open.clone()], vec![]),
        (
            vec![rule("{method: {exact: GET}}"), rule("{method: {exact: GET}, uri: {prefix: /a}}")],
            at("L0204", "spec.http[1].match[0]"),
        ),
        (vec![rule("{gateways: [x]}"), open.clone()], vec![]),
        (vec!["- delegate: {name: d}\n".to_owned(), open.clone()], at("L0210", "spec.http[0].delegate.name")),
    ] {
        let text =
            surroundings() + &document("VirtualService", "rule", &format!("hosts: [b]\nhttp:\n{}", rules.concat()));
        let found: Vec<(String, String)> = findings(&text)
            .into_iter()
            .filter(|finding| finding.code != "L0301")
            .map(|finding| (finding.code.to_owned(), finding.path))
            .collect();
        assert_eq!(found, expected, "{}", rules.concat());
    }
}

#[test]
fn of_two_rules_for_one_host_the_older_counts() {
    let rule = |name: &str, more: &str| {
        document(
            "VirtualService",
            name,
            &format!("hosts: [b]\n{more}\nhttp: [{{route: [{{destination: {{host: b}}}}]}}]"),
        )
    };
    let found = |text: String| -> Vec<String> {
        let found = findings(&(surroundings() + &text)).into_iter().filter(|finding| finding.code == "L0206");
        found.map(|finding| format!("{} {}", finding.resource.unwrap().name, finding.path)).collect()
    };
    assert_eq!(found(rule("y", "") + &rule("x", "")), ["y spec.hosts[0]"]);
    assert_eq!(found(rule("y", "exportTo: [p]") + &rule("x", "exportTo: [q]")), Vec::<String>::new());
    assert_eq!(found(rule("y", "gateways: [g]") + &rule("x", "")), Vec::<String>::new());
    let stamped = |name: &str, time: &str| {
        rule(name, "").replace("namespace: shop", &format!("namespace: shop, creationTimestamp: '{time}'"))
    };
    assert_eq!(
        found(stamped("y", "2024-01-01T00:00:00Z") + &stamped("x", "2025-01-01T00:00:00Z")),
        ["x spec.hosts[0]"]
    );
    let policy = |name: &str| {
        document(
            "DestinationRule",
            name,
            "host: b\ntrafficPolicy: {loadBalancer: {simple: RANDOM}}\nsubsets: [{name: s}]",
        )
    };
    assert_eq!(found(policy("y") + &policy("x")), ["y spec.trafficPolicy", "y spec.subsets[0].name"]);
    let mesh = |name: &str| document("MeshConfig", name, "trustDomain: a");
    assert_eq!(found(mesh("y") + &mesh("x")), ["y metadata.name"]);
}

#[test]
fn rules_for_bytes_and_tls_are_checked() {
    run(
        "VirtualService",
        &[
            ("hosts: [b]\ntcp: [{match: [{port: 80}], route: [{destination: {host: b}}]}]", &[]),
            (
                "hosts: [b]\ntcp: [{match: [{destinationSubnets: [10.0.0.0/33]}], route: [{destination: {host: b}}]}]",
                &[("L0115", "spec.tcp[0].match[0].destinationSubnets[0]", "10.0.0.0/33")],
            ),
            ("hosts: [b]\ntcp: [{}]", &[("L0101", "spec.tcp[0]", "{")]),
            (
                "hosts: [b]\ntcp:\n- route: [{destination: {host: b}}]\n- route: [{destination: {host: x}}]",
                &[("L0204", "spec.tcp[1]", "route"), ("L0201", "spec.tcp[1].route[0].destination.host", "x")],
            ),
            ("hosts: ['*.b']\ntls: [{match: [{sniHosts: [a.b]}], route: [{destination: {host: b}}]}]", &[]),
            (
                "hosts: ['*.b']\ntls: [{match: [{sniHosts: [a.c]}], route: [{destination: {host: b}}]}]",
                &[("L0103", "spec.tls[0].match[0].sniHosts[0]", "a.c")],
            ),
            ("hosts: ['*.b']\ntls: [{route: [{destination: {host: b}}]}]", &[("L0101", "spec.tls[0]", "{")]),
        ],
    );
}
