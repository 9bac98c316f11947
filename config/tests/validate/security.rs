//! The three kinds of `security.istio.io`.

use super::*;

/// Code, path and marked text.
type Found<'a> = (&'a str, &'a str, &'a str);

/// One document, in which all that is found stands below `prefix`.
fn run_below(prefix: &str, others: &str, kind: &str, spec: &str, expected: &[Found<'_>]) {
    let expected: Vec<(&str, String, &str)> =
        expected.iter().map(|(code, path, text)| (*code, format!("{prefix}{path}"), *text)).collect();
    let expected: Vec<Found<'_>> = expected.iter().map(|(code, path, text)| (*code, path.as_str(), *text)).collect();
    run_beside(others, kind, &[(spec, &expected)]);
}

const VERIFIED: &str = "jwtRules: [{issuer: i, jwksUri: 'https://i.example/'}]";

#[test]
fn peer_authentications_are_checked() {
    run(
        "PeerAuthentication",
        &[
            ("{}", &[]),
            ("selector: {matchLabels: {app: a}}\nmtls: {mode: STRICT}\nportLevelMtls: {8080: {mode: DISABLE}}", &[]),
            ("mtls: {mode: BLAH}", &[("L0007", "spec.mtls.mode", "BLAH")]),
            ("mtls: {mod: STRICT}", &[("L0005", "spec.mtls.mod", "mod")]),
            ("selector: {}", &[("L0122", "spec.selector", "selector")]),
            ("selector: {matchLabels: {app: '*'}}", &[("L0114", "spec.selector.matchLabels.app", "'*'")]),
            ("portLevelMtls: {80: {mode: STRICT}}", &[("L0125", "spec.portLevelMtls", "portLevelMtls")]),
            (
                "selector: {matchLabels: {app: a}}\nportLevelMtls: {}",
                &[("L0101", "spec.portLevelMtls", "portLevelMtls")],
            ),
            (
                "selector: {matchLabels: {app: a}}\nportLevelMtls: {'0': {}, acd: {}, '65536': {}, '65535': {}}",
                &[
                    ("L0104", "spec.portLevelMtls.0", "'0'"),
                    ("L0104", "spec.portLevelMtls.acd", "acd"),
                    ("L0104", "spec.portLevelMtls.65536", "'65536'"),
                ],
            ),
        ],
    );
}

#[test]
fn policies_are_checked() {
    run(
        "AuthorizationPolicy",
        &[
            ("{}", &[]),
            ("rules: [{}]", &[]),
            ("action: DENY\nrules: [{}]", &[]),
            ("action: DENY", &[("L0125", "spec.action", "DENY")]),
            ("action: AUDIT", &[("L0122", "spec.action", "AUDIT")]),
            ("action: PASS", &[("L0007", "spec.action", "PASS")]),
            ("action: CUSTOM\nrules: [{}]", &[("L0101", "spec", "spec"), ("L0303", "spec.action", "CUSTOM")]),
            ("action: CUSTOM\nprovider: {name: x}", &[("L0125", "spec.action", "CUSTOM")]),
            (
                "action: CUSTOM\nprovider: {name: x}\nrules: [{from: [{source: {namespaces: [a]}}], when: [{key: source.principal, values: [td/ns/a/sa/b]}]}]",
                &[
                    ("L0303", "spec.action", "CUSTOM"),
                    ("L0125", "spec.rules[0].from[0].source.namespaces", "namespaces"),
                    ("L0125", "spec.rules[0].when[0].key", "source.principal"),
                ],
            ),
            ("provider: {name: x}\nrules: [{}]", &[("L0102", "spec.provider", "provider")]),
            ("selector: {}\nrules: [{}]", &[("L0122", "spec.selector", "selector")]),
            (
                "rules: [{from: [], to: []}]",
                &[("L0125", "spec.rules[0].from", "from"), ("L0125", "spec.rules[0].to", "to")],
            ),
            (
                "rules: [{from: [{}], to: [{}]}]",
                &[("L0101", "spec.rules[0].from[0]", "{"), ("L0101", "spec.rules[0].to[0]", "{")],
            ),
            (
                "rules: [{from: [{source: {}}], to: [{operation: {}}]}]",
                &[
                    ("L0125", "spec.rules[0].from[0].source", "source"),
                    ("L0125", "spec.rules[0].to[0].operation", "operation"),
                ],
            ),
            ("rules: [{frm: []}]", &[("L0005", "spec.rules[0].frm", "frm")]),
        ],
    );
}

#[test]
fn policies_for_gateways_and_waypoints_are_told_that_no_sidecar_follows_them() {
    run(
        "AuthorizationPolicy",
        &[
            (
                "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: g}]",
                &[("L0122", "spec.targetRefs", "targetRefs")],
            ),
            ("targetRef: {kind: Service, group: '', name: s}", &[("L0122", "spec.targetRef", "targetRef")]),
            (
                "selector: {matchLabels: {a: b}}\ntargetRef: {kind: Service, name: s}",
                &[("L0102", "spec.targetRef", "targetRef")],
            ),
            (
                "targetRef: {kind: Service, name: s}\ntargetRefs: [{kind: Service, name: s}]",
                &[("L0102", "spec.targetRefs", "targetRefs")],
            ),
            (
                "targetRefs: [{}, {kind: a_b, group: __, name: s, namespace: x}]",
                &[
                    ("L0122", "spec.targetRefs", "targetRefs"),
                    ("L0101", "spec.targetRefs[0]", "{"),
                    ("L0101", "spec.targetRefs[0]", "{"),
                    ("L0125", "spec.targetRefs[1].kind", "a_b"),
                    ("L0125", "spec.targetRefs[1].group", "__"),
                    ("L0125", "spec.targetRefs[1].namespace", "x"),
                ],
            ),
        ],
    );
}

#[test]
fn sources_are_checked() {
    let rows: &[Row<'_>] = &[
        ("principals: [td/ns/a/sa/b, 'td/*', '*/sa/b', '*']", &[]),
        ("principals: ['spiffe://td/ns/a/sa/b']", &[("L0125", "principals[0]", "'spiffe://td/ns/a/sa/b'")]),
        ("principals: [sleep]", &[("L0128", "principals[0]", "sleep")]),
        (
            "principals: ['a*b', '**', '']",
            &[
                ("L0125", "principals[0]", "'a*b'"),
                ("L0125", "principals[1]", "'**'"),
                ("L0125", "principals[2]", "''"),
            ],
        ),
        ("notPrincipals: ['*a*']", &[("L0125", "notPrincipals[0]", "'*a*'")]),
        ("namespaces: [a, 'b*']\n    notNamespaces: ['']", &[("L0125", "notNamespaces[0]", "''")]),
        (
            "serviceAccounts: [a, b/c, 'd*', a/b/c, /x]",
            &[
                ("L0125", "serviceAccounts[2]", "'d*'"),
                ("L0125", "serviceAccounts[3]", "a/b/c"),
                ("L0125", "serviceAccounts[4]", "/x"),
            ],
        ),
        ("serviceAccounts: [a]\n    namespaces: [b]", &[("L0102", "serviceAccounts", "serviceAccounts")]),
        ("notServiceAccounts: [a]\n    principals: ['*']", &[("L0102", "notServiceAccounts", "notServiceAccounts")]),
        ("trustDomains: [td]\n    notTrustDomains: ['a*b']", &[("L0125", "notTrustDomains[0]", "'a*b'")]),
        (
            "ipBlocks: [10.0.0.1, 10.0.0.0/8, '::1', 10.0.0.0/33]\n    notIpBlocks: [x]",
            &[("L0115", "ipBlocks[3]", "10.0.0.0/33"), ("L0115", "notIpBlocks[0]", "x")],
        ),
        (
            "remoteIpBlocks: ['']\n    notRemoteIpBlocks: [10.0.0.256]",
            &[("L0115", "remoteIpBlocks[0]", "''"), ("L0115", "notRemoteIpBlocks[0]", "10.0.0.256")],
        ),
        (
            "requestPrincipals: ['*', a/b]\n    notRequestPrincipals: ['a*b']",
            &[("L0125", "notRequestPrincipals[0]", "'a*b'")],
        ),
    ];
    let verified = document("RequestAuthentication", "jwt", VERIFIED);
    for (source, expected) in rows {
        let spec = format!("rules:\n- from:\n  - source:\n      {}", source.replace("\n    ", "\n      "));
        run_below("spec.rules[0].from[0].source.", &verified, "AuthorizationPolicy", &spec, expected);
    }
}

#[test]
fn operations_are_checked() {
    let rows: &[(&str, &str, &[Found<'_>])] = &[
        ("ALLOW", "hosts: [a.example, '*.b', 'c:*']", &[]),
        ("ALLOW", "hosts: ['http://a']", &[("L0122", "hosts[0]", "'http://a'")]),
        ("ALLOW", "hosts: ['a*b']", &[("L0125", "hosts[0]", "'a*b'")]),
        ("DENY", "hosts: [admin.example, 'b:80', '*.c']", &[("L0127", "hosts[0]", "admin.example")]),
        ("DENY", "hosts: [admin.example, 'Admin.example:*']", &[]),
        ("ALLOW", "notHosts: [admin.example]", &[("L0127", "notHosts[0]", "admin.example")]),
        ("AUDIT", "hosts: [admin.example]", &[]),
        (
            "ALLOW",
            "ports: ['80', '0', '65536', http]",
            &[("L0104", "ports[1]", "'0'"), ("L0104", "ports[2]", "'65536'"), ("L0104", "ports[3]", "http")],
        ),
        ("ALLOW", "ports: [80]", &[("L0006", "ports[0]", "80")]),
        ("ALLOW", "notPorts: ['']", &[("L0104", "notPorts[0]", "''")]),
        ("ALLOW", "methods: [GET, get]", &[("L0122", "methods[1]", "get")]),
        ("ALLOW", "notMethods: ['']", &[("L0125", "notMethods[0]", "''")]),
        ("ALLOW", "paths: [/a, '/b*', '*/c', '*', '/d/{*}/e', '/f/{**}']", &[]),
        ("ALLOW", "paths: [a, '/b?c']", &[("L0122", "paths[0]", "a"), ("L0122", "paths[1]", "'/b?c'")]),
        (
            "ALLOW",
            "paths: ['/{**}/{*}', '/{*}/{x}', '/a{*}', '/{*}/*', 'a/{*}']",
            &[
                ("L0112", "paths[0]", "'/{**}/{*}'"),
                ("L0112", "paths[1]", "'/{*}/{x}'"),
                ("L0112", "paths[2]", "'/a{*}'"),
                ("L0112", "paths[3]", "'/{*}/*'"),
                ("L0112", "paths[4]", "'a/{*}'"),
            ],
        ),
        ("ALLOW", "notPaths: ['/a/*/b']", &[("L0125", "notPaths[0]", "'/a/*/b'")]),
    ];
    for (action, operation, expected) in rows {
        let spec = format!("action: {action}\nrules:\n- to:\n  - operation:\n      {operation}");
        run_below("spec.rules[0].to[0].operation.", "", "AuthorizationPolicy", &spec, expected);
    }
}

#[test]
fn conditions_of_policies_are_checked() {
    let verified = document("RequestAuthentication", "jwt", VERIFIED);
    let rows: &[Row<'_>] = &[
        ("{key: 'request.headers[x]', values: ['*']}", &[]),
        ("{key: 'request.auth.claims[a][b]', notValues: [x]}", &[]),
        ("{key: destination.port, values: ['80']}", &[]),
        ("{values: [a]}", &[("L0101", "", "{")]),
        ("{key: source.ip}", &[("L0101", "", "{")]),
        ("{key: source.ip, values: [x]}", &[("L0115", ".values[0]", "x")]),
        ("{key: destination.port, notValues: ['0']}", &[("L0104", ".notValues[0]", "'0'")]),
        (
            "{key: source.principal, values: ['spiffe://x/ns/a/sa/b']}",
            &[("L0125", ".values[0]", "'spiffe://x/ns/a/sa/b'")],
        ),
        (
            "{key: connection.sni, values: ['a*b', '']}",
            &[("L0125", ".values[0]", "'a*b'"), ("L0125", ".values[1]", "''")],
        ),
        ("{key: source.namespce, values: [a]}", &[("L0125", ".key", "source.namespce")]),
        ("{key: 'request.headers', values: [a]}", &[("L0125", ".key", "'request.headers'")]),
        ("{key: 'request.auth.claims[]', values: [a]}", &[("L0125", ".key", "'request.auth.claims[]'")]),
        (
            "{key: 'experimental.envoy.filters.a[b]', values: [a]}",
            &[("L0125", ".key", "'experimental.envoy.filters.a[b]'")],
        ),
        ("{key: 'destination.labels[app]', values: [a]}", &[("L0125", ".key", "'destination.labels[app]'")]),
    ];
    for (condition, expected) in rows {
        let spec = format!("rules: [{{when: [{condition}]}}]");
        run_below("spec.rules[0].when[0]", &verified, "AuthorizationPolicy", &spec, expected);
    }
    let help =
        findings(&document("AuthorizationPolicy", "p", "rules: [{when: [{key: source.namespce, values: [a]}]}]"));
    assert_eq!(help[0].help.as_deref(), Some("did you mean `source.namespace`?"));
}

#[test]
fn a_dry_run_is_true_or_false() {
    for (value, expected) in [("'true'", None), ("'false'", None), ("'maybe'", Some("L0122"))] {
        let text = document("AuthorizationPolicy", "p", "rules: [{}]")
            .replace("namespace: shop}", &format!("namespace: shop, annotations: {{istio.io/dry-run: {value}}}}}"));
        assert_eq!(findings(&text).first().map(|finding| finding.code), expected, "{value}");
    }
}

#[test]
fn token_rules_are_checked() {
    let uri = "issuer: i, jwksUri: 'https://i.example/keys'";
    let rows: Vec<(String, Vec<Found<'_>>)> = vec![
        (
            format!(
                "{{{uri}, timeout: 5s, fromHeaders: [{{name: x, prefix: 'T '}}], fromParams: [a], fromCookies: [b], presence: REQUIRED}}"
            ),
            vec![],
        ),
        ("{jwksUri: 'https://i.example/'}".into(), vec![("L0127", "", "{")]),
        ("{issuer: i}".into(), vec![("L0303", "", "{")]),
        ("{}".into(), vec![("L0101", "", "{"), ("L0303", "", "{")]),
        (format!("{{{uri}, jwks: '{{\"keys\":[{{\"kty\":\"RSA\"}}]}}'}}"), vec![("L0102", ".jwks", "jwks")]),
        ("{issuer: i, jwksUri: 'ftp://x'}".into(), vec![("L0115", ".jwksUri", "'ftp://x'")]),
        ("{issuer: i, jwksUri: 'https://user@x/'}".into(), vec![("L0115", ".jwksUri", "'https://user@x/'")]),
        ("{issuer: i, jwks: x}".into(), vec![("L0126", ".jwks", "x")]),
        ("{issuer: i, jwks: '{}'}".into(), vec![("L0126", ".jwks", "'{}'")]),
        ("{issuer: i, jwks: '{\"keys\":[]}'}".into(), vec![("L0126", ".jwks", "'{\"keys\":[]}'")]),
        ("{issuer: i, jwks: '{\"keys\":[{}]}'}".into(), vec![("L0126", ".jwks", "'{\"keys\":[{}]}'")]),
        (
            "{issuer: i, jwks: '{\"keys\":[{\"kty\":\"oct\"}]}'}".into(),
            vec![("L0126", ".jwks", "'{\"keys\":[{\"kty\":\"oct\"}]}'")],
        ),
        (
            "{issuer: i, jwks: '{\"keys\":[{\"kty\":\"EC\",\"d\":\"x\"}]}'}".into(),
            vec![("L0126", ".jwks", "'{\"keys\":[{\"kty\":\"EC\",\"d\":\"x\"}]}'")],
        ),
        (format!("{{{uri}, audiences: ['']}}"), vec![("L0126", ".audiences[0]", "''")]),
        (
            format!("{{{uri}, fromHeaders: [{{prefix: a}}, {{name: ''}}, {{name: 'a b'}}]}}"),
            vec![
                ("L0101", ".fromHeaders[0]", "{"),
                ("L0101", ".fromHeaders[1]", "{"),
                ("L0109", ".fromHeaders[2].name", "'a b'"),
            ],
        ),
        (
            format!("{{{uri}, fromParams: [''], fromCookies: ['']}}"),
            vec![("L0126", ".fromParams[0]", "''"), ("L0126", ".fromCookies[0]", "''")],
        ),
        (format!("{{{uri}, outputPayloadToHeader: 'x:'}}"), vec![("L0109", ".outputPayloadToHeader", "'x:'")]),
        (
            format!(
                "{{{uri}, outputClaimToHeaders: [{{claim: a, header: ':authority'}}, {{header: x}}, {{claim: a}}]}}"
            ),
            vec![
                ("L0109", ".outputClaimToHeaders[0].header", "':authority'"),
                ("L0101", ".outputClaimToHeaders[1]", "{"),
                ("L0101", ".outputClaimToHeaders[2]", "{"),
            ],
        ),
        (format!("{{{uri}, timeout: apple}}"), vec![("L0105", ".timeout", "apple")]),
        (format!("{{{uri}, timeout: 0s}}"), vec![("L0105", ".timeout", "0s")]),
        (format!("{{{uri}, spaceDelimitedClaims: ['']}}"), vec![("L0126", ".spaceDelimitedClaims[0]", "''")]),
        (format!("{{{uri}, presence: MANDATORY}}"), vec![("L0007", ".presence", "MANDATORY")]),
    ];
    for (rule, expected) in &rows {
        let spec = format!("jwtRules:\n- {rule}");
        run_below("spec.jwtRules[0]", "", "RequestAuthentication", &spec, expected);
    }
    run("RequestAuthentication", &[("{}", &[("L0122", "spec", "spec")])]);
}

/// Code, name of the document, path and a part of the message of each finding.
fn all(text: &str) -> Vec<(String, String, String, String)> {
    let found = findings(text).into_iter().filter(|finding| finding.code != "L0301").map(|finding| {
        let name = finding.resource.map(|id| id.name).unwrap_or_default();
        (finding.code.to_owned(), name, finding.path, finding.message)
    });
    found.collect()
}

#[test]
fn conditions_on_requests_are_told_what_becomes_of_them_where_bytes_are_carried() {
    let sidecar = |labels: &str, protocol: &str| {
        document(
            "Sidecar",
            "s",
            &format!(
                "workloadSelector: {{labels: {labels}}}\ningress: [{{port: {{number: 9000, protocol: {protocol}}}}}]\negress: [{{hosts: ['*/*']}}]"
            ),
        )
    };
    let policy = |action: &str, rule: &str| {
        document(
            "AuthorizationPolicy",
            "p",
            &format!("selector: {{matchLabels: {{app: a}}}}\naction: {action}\nrules: [{rule}]"),
        )
    };
    let get = "{to: [{operation: {methods: [GET]}}]}";
    let methods = "spec.rules[0].to[0].operation.methods";
    for (action, rule, labels, protocol, expected) in [
        ("ALLOW", get, "{app: a}", "TCP", Some((methods, "the rule matches nothing there"))),
        ("DENY", get, "{app: a}", "TCP", Some((methods, "denies more than it says"))),
        ("AUDIT", get, "{app: a}", "TCP", Some((methods, "logs more than it says"))),
        ("DENY", get, "{tier: b}", "MONGO", Some((methods, "denies more"))),
        ("DENY", get, "{app: b}", "TCP", None),
        ("DENY", get, "{app: a}", "HTTP", None),
        ("DENY", "{to: [{operation: {methods: [GET], ports: ['80']}}]}", "{app: a}", "TCP", None),
        ("DENY", "{to: [{operation: {methods: [GET], notPorts: ['9000']}}]}", "{app: a}", "TCP", None),
        (
            "DENY",
            "{to: [{operation: {methods: [GET], ports: ['9000']}}]}",
            "{app: a}",
            "TCP",
            Some((methods, "denies more")),
        ),
        ("DENY", "{to: [{operation: {ports: ['9000']}}]}", "{app: a}", "TCP", None),
        (
            "DENY",
            "{when: [{key: 'request.headers[x]', values: [a]}]}",
            "{app: a}",
            "TCP",
            Some(("spec.rules[0].when[0].key", "denies more")),
        ),
        (
            "DENY",
            "{to: [{operation: {ports: ['80']}}], when: [{key: 'request.headers[x]', values: [a]}]}",
            "{app: a}",
            "TCP",
            None,
        ),
        ("DENY", "{from: [{source: {namespaces: [x]}}]}", "{app: a}", "TCP", None),
    ] {
        let found = all(&(sidecar(labels, protocol) + &policy(action, rule)));
        let found: Vec<_> = found.iter().filter(|finding| finding.0 == "L0211").collect();
        match expected {
            None => assert!(found.is_empty(), "{action} {rule} {labels} {protocol}: {found:?}"),
            Some((path, words)) => {
                assert_eq!(found.len(), 1, "{action} {rule}: {found:?}");
                assert!(found[0].2 == path && found[0].3.contains(words), "{action} {rule}: {found:?}");
            }
        }
    }
}

#[test]
fn a_rule_for_the_whole_mesh_selects_nobody_and_of_two_for_the_same_the_older_counts() {
    let peer = |name: &str, spec: &str| document("PeerAuthentication", name, spec);
    let in_root = |text: String| text.replace("namespace: shop", "namespace: istio-system");
    let found =
        |text: String| all(&text).into_iter().map(|(code, name, path, _)| (code, name, path)).collect::<Vec<_>>();
    let expected = |rows: &[(&str, &str, &str)]| {
        rows.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned())).collect::<Vec<_>>()
    };
    let strict = "mtls: {mode: STRICT}";
    let selecting = "selector: {matchLabels: {app: a}}\nmtls: {mode: STRICT}";
    assert_eq!(found(in_root(peer("a", selecting))), expected(&[("L0122", "a", "spec.selector")]));
    let mesh = document("MeshConfig", "mesh", "rootNamespace: shop");
    assert_eq!(found(mesh + &peer("a", selecting)), expected(&[("L0122", "a", "spec.selector")]));
    assert_eq!(found(peer("b", strict) + &peer("a", strict)), expected(&[("L0206", "b", "metadata.name")]));
    assert_eq!(found(peer("b", selecting) + &peer("a", selecting)), expected(&[("L0206", "b", "metadata.name")]));
    assert_eq!(found(peer("b", strict) + &peer("a", selecting) + &in_root(peer("c", strict))), expected(&[]));
}

#[test]
fn a_condition_on_tokens_needs_somebody_who_verifies_them() {
    let policy = document("AuthorizationPolicy", "p", "rules: [{from: [{source: {requestPrincipals: ['*']}}]}]");
    let claim = document("AuthorizationPolicy", "p", "rules: [{when: [{key: 'request.auth.claims[a]', values: [b]}]}]");
    let route = document(
        "VirtualService",
        "v",
        "hosts: [b]\nhttp:\n- match: [{headers: {'@request.auth.claims.group': {exact: a}}}]\n  route: [{destination: {host: b}}]\n- route: [{destination: {host: b}}]",
    );
    let verified = document("RequestAuthentication", "jwt", VERIFIED);
    let elsewhere = verified.replace("namespace: shop", "namespace: other");
    let everywhere = verified.replace("namespace: shop", "namespace: istio-system");
    let count = |text: String| all(&(surroundings() + &text)).iter().filter(|finding| finding.0 == "L0212").count();
    for text in [&policy, &claim, &route] {
        assert_eq!(count(text.clone()), 1, "{text}");
        assert_eq!(count(text.clone() + &verified), 0);
        assert_eq!(count(text.clone() + &everywhere), 0);
    }
    assert_eq!(count(policy + &elsewhere), 1);
    let wrong = route.replace("claims.group", "audiences");
    assert!(all(&(surroundings() + &wrong)).iter().any(|finding| finding.0 == "L0109"));
}

#[test]
fn identities_that_nobody_has_and_labels_outside_of_the_mesh_are_told() {
    run(
        "DestinationRule",
        &[
            ("host: b\ntrafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://td/ns/a/sa/b']}}", &[]),
            (
                "host: b\ntrafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: [b.example]}}",
                &[("L0128", "spec.trafficPolicy.tls.subjectAltNames[0]", "b.example")],
            ),
            ("host: b\ntrafficPolicy: {tls: {mode: SIMPLE, subjectAltNames: [b.example]}}", &[]),
        ],
    );
    run(
        "WorkloadEntry",
        &[(
            "address: 10.0.0.1\nserviceAccount: a/b\nlabels: {security.istio.io/tlsMode: istio}",
            &[("L0128", "spec.serviceAccount", "a/b")],
        )],
    );
    run(
        "ServiceEntry",
        &[(
            "hosts: [x.y]\nports: [{number: 80, name: http}]\nresolution: STATIC\nendpoints: [{address: 10.0.0.1, labels: {security.istio.io/tlsMode: istio}}]",
            &[("L0213", "spec.endpoints[0].labels[\"security.istio.io/tlsMode\"]", "security.istio.io/tlsMode")],
        )],
    );
    run("MeshConfig", &[("trustDomainAliases: [old.td, A]", &[("L0103", "spec.trustDomainAliases[1]", "A")])]);
}
