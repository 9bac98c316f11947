//! AuthorizationPolicies as istiod gives them to Envoy.

use crate::render;
use crate::support::*;
use leno_config::ir::{Listener, Resources};

/// The app with an HTTP and a TCP port that the policies of most cases are for.
const APP: &str = "
kind: Sidecar
metadata: {name: reviews}
spec:
  workloadSelector: {labels: {app: reviews}}
  ingress:
  - {port: {number: 9080, protocol: HTTP, name: http}, defaultEndpoint: '127.0.0.1:8080'}
  - {port: {number: 9090, protocol: TCP, name: tcp}, defaultEndpoint: '127.0.0.1:8090'}
";

fn workload() -> leno_config::node::Node {
    node("default", &[("app", "reviews"), ("version", "v1")])
}

fn inbound(resources: &Resources, port: u16) -> &Listener {
    &resources.listeners[&format!("inbound_10.9.9.9_{port}")]
}

fn lines(policies: &str, port: u16) -> Vec<String> {
    let resources = compile(&format!("{APP}{policies}"), &workload());
    render::authorization(&inbound(&resources, port).authorization)
}

fn policy(spec: &str) -> String {
    document("AuthorizationPolicy", "p", spec)
}

/// Name, spec of the policy `default/p`, and lines without the name of the policy's first rules.
type Row<'a> = (&'a str, &'a str, &'a [&'a str]);

fn check(port: u16, rows: &[Row<'_>]) {
    for (what, spec, expected) in rows {
        let found: Vec<String> =
            lines(&policy(spec), port).into_iter().map(|line| line.replace("ns[default]-policy[p]-rule", "")).collect();
        assert_eq!(found, *expected, "{what}\n{spec}");
    }
}

#[test]
fn actions_and_rules_become_filters_and_policies() {
    check(
        9080,
        &[
            ("nothing matches, so nothing passes", "{}", &["ALLOW [0]: !any by !any"]),
            ("everything passes", "{rules: [{}]}", &["ALLOW [0]: (any) by (any)"]),
            ("everything is denied", "{action: DENY, rules: [{}]}", &["DENY [0]: (any) by (any)"]),
            ("everything is logged", "{action: AUDIT, rules: [{}]}", &["LOG [0]: (any) by (any)"]),
            (
                "nobody outside is asked",
                "{action: CUSTOM, provider: {name: x}, rules: [{}]}",
                &["CUSTOM [0]: (any) by (any)"],
            ),
            (
                "one policy per rule, in the order of their names",
                "{rules: [{to: [{operation: {ports: ['1']}}]}, {to: [{operation: {ports: ['2']}}]}]}",
                &["ALLOW [0]: ((:1)) by (any)", "ALLOW [1]: ((:2)) by (any)"],
            ),
            (
                "one entry per `to` and `from`, and `when` holds for each",
                "{rules: [{from: [{source: {ipBlocks: [10.0.0.1]}}, {source: {ipBlocks: [10.0.0.2]}}],
                           to: [{operation: {ports: ['1']}}, {operation: {ports: ['2']}}],
                           when: [{key: source.ip, values: [10.1.0.0/16]}, {key: destination.port, values: ['3']}]}]}",
                &[
                    "ALLOW [0]: ((:1) & (:3)) | ((:2) & (:3)) by ((from 10.0.0.1/32) & (from 10.1.0.0/16)) | ((from 10.0.0.2/32) & (from 10.1.0.0/16))",
                ],
            ),
            ("for gateways and waypoints", "{targetRefs: [{kind: Gateway, name: x}], action: DENY, rules: [{}]}", &[]),
            ("for other workloads", "{selector: {matchLabels: {app: ratings}}, action: DENY, rules: [{}]}", &[]),
            (
                "for these",
                "{selector: {matchLabels: {version: v1}}, action: DENY, rules: [{}]}",
                &["DENY [0]: (any) by (any)"],
            ),
        ],
    );
}

#[test]
fn operations_become_permissions() {
    let row = |operation: &str| format!("{{rules: [{{to: [{{operation: {operation}}}]}}]}}");
    for (operation, expected) in [
        ("{hosts: [a.example]}", r#"(:authority = "a.example" (any case))"#),
        ("{hosts: ['*.a.example']}", r#"(:authority = *".a.example" (any case))"#),
        ("{hosts: ['a.example:*']}", r#"(:authority = "a.example:"* (any case))"#),
        ("{hosts: ['*']}", "(:authority present)"),
        ("{notHosts: [a, b]}", r#"!(:authority = "a" (any case) | :authority = "b" (any case))"#),
        (
            "{methods: [GET, 'P*', '*T', '*']}",
            r#"(:method = "GET" | :method = "P"* | :method = *"T" | :method present)"#,
        ),
        ("{notMethods: [GET]}", r#"!(:method = "GET")"#),
        ("{paths: [/a, '/b/*', '*/c', '*']}", r#"(path = "/a" | path = "/b/"* | path = *"/c" | path ~ /.+/)"#),
        ("{paths: ['/a/{*}', '/{**}/b']}", "(template /a/{*} | template /{**}/b)"),
        ("{notPaths: [/a, '/{**}/b']}", r#"!(path = "/a" | template /{**}/b)"#),
        ("{ports: ['80', '8080']}", "(:80 | :8080)"),
        ("{notPorts: ['80']}", "!(:80)"),
        (
            "{hosts: [h], notHosts: [i], methods: [M], notMethods: [N], paths: [/p], notPaths: [/q], ports: ['1'], notPorts: ['2']}",
            r#"(:authority = "h" (any case)) & !(:authority = "i" (any case)) & (:method = "M") & !(:method = "N") & (path = "/p") & !(path = "/q") & (:1) & !(:2)"#,
        ),
    ] {
        check(9080, &[(operation, &row(operation), &[&format!("ALLOW [0]: ({expected}) by (any)")])]);
    }
}

#[test]
fn sources_become_principals() {
    let row = |source: &str| format!("{{rules: [{{from: [{{source: {source}}}]}}]}}");
    for (source, expected) in [
        ("{principals: [cluster.local/ns/a/sa/b]}", r#"(id = "spiffe://cluster.local/ns/a/sa/b")"#),
        ("{principals: ['cluster.local/*']}", r#"(id = "spiffe://cluster.local/"*)"#),
        ("{principals: ['*/sa/b.c']}", r"(id ~ /spiffe://.*/sa/b\.c/)"),
        ("{principals: ['*']}", "(id ~ /.+/)"),
        ("{notPrincipals: ['td/ns/a/sa/b']}", r#"!(id = "spiffe://td/ns/a/sa/b")"#),
        (
            "{namespaces: [a, 'b*', '*c', '*']}",
            "(id ~ /.*/ns/a/.*/ | id ~ /.*/ns/b.*/.*/ | id ~ /.*/ns/.*c/.*/ | id ~ /.*/ns/.*/.*/)",
        ),
        ("{notNamespaces: [a]}", "!(id ~ /.*/ns/a/.*/)"),
        (
            "{serviceAccounts: [b, other/c]}",
            "(id ~ /spiffe://.+/ns/default/(.+/|)sa/b(/.+)?/ | id ~ /spiffe://.+/ns/other/(.+/|)sa/c(/.+)?/)",
        ),
        (
            "{trustDomains: [td, 'a*', '*b']}",
            r#"(id = "spiffe://td/"* | id = "spiffe://a"* | id ~ /spiffe://[^/]*b/.*/)"#,
        ),
        ("{notTrustDomains: [td]}", r#"!(id = "spiffe://td/"*)"#),
        ("{ipBlocks: [10.0.0.1, 10.1.0.0/16, '::1']}", "(from 10.0.0.1/32 | from 10.1.0.0/16 | from ::1/128)"),
        ("{notIpBlocks: [10.0.0.1]}", "!(from 10.0.0.1/32)"),
        ("{remoteIpBlocks: [10.0.0.7/8]}", "(for 10.0.0.0/8)"),
        ("{notRemoteIpBlocks: [10.0.0.1]}", "!(for 10.0.0.1/32)"),
        ("{requestPrincipals: ['https://i.example/s']}", r#"(claim iss = "https://i.example" & claim sub = "s")"#),
        ("{requestPrincipals: ['i/*']}", r#"(claim iss = "i" & claim sub ~ /.+/)"#),
        ("{requestPrincipals: ['i/s*']}", r#"(claim iss = "i" & claim sub = "s"*)"#),
        ("{requestPrincipals: ['*/s']}", r#"(claim iss ~ /.+/ & claim sub = "s")"#),
        ("{requestPrincipals: ['*i/s']}", r#"(claim iss = *"i" & claim sub = "s")"#),
        ("{requestPrincipals: ['i*']}", r#"(claim iss = "i"* & claim sub ~ /.+/)"#),
        ("{requestPrincipals: ['*s']}", r#"(claim iss ~ /.+/ & claim sub = *"s")"#),
        (
            "{requestPrincipals: ['*', a/b]}",
            r#"((claim iss ~ /.+/ & claim sub ~ /.+/) | (claim iss = "a" & claim sub = "b"))"#,
        ),
        ("{notRequestPrincipals: ['*']}", "!(claim iss ~ /.+/ & claim sub ~ /.+/)"),
    ] {
        check(9080, &[(source, &row(source), &[&format!("ALLOW [0]: (any) by ({expected})")])]);
    }
}

#[test]
fn conditions_stand_with_what_they_are_on() {
    let row = |condition: &str| format!("{{rules: [{{when: [{condition}]}}]}}");
    for (condition, what, who) in [
        ("{key: 'request.headers[X-A]', values: [a, 'b*', '*']}", "any", r#"(x-a = "a" | x-a = "b"* | x-a present)"#),
        ("{key: 'request.headers[x-a]', notValues: [a]}", "any", r#"!(x-a = "a")"#),
        ("{key: 'request.headers[:method]', values: [GET]}", "any", r#"(:method = "GET")"#),
        (
            "{key: source.ip, values: [10.0.0.0/8], notValues: [10.0.0.1]}",
            "any",
            "(from 10.0.0.0/8) & !(from 10.0.0.1/32)",
        ),
        ("{key: remote.ip, values: [10.0.0.1]}", "any", "(for 10.0.0.1/32)"),
        ("{key: source.namespace, values: [a]}", "any", "(id ~ /.*/ns/a/.*/)"),
        ("{key: source.principal, values: [td/ns/a/sa/b]}", "any", r#"(id = "spiffe://td/ns/a/sa/b")"#),
        ("{key: source.serviceAccount, values: [a/b]}", "any", "(id ~ /spiffe://.+/ns/a/(.+/|)sa/b(/.+)?/)"),
        ("{key: request.auth.principal, values: [i/s]}", "any", r#"(claim iss = "i" & claim sub = "s")"#),
        ("{key: request.auth.audiences, values: [a, b]}", "any", r#"(claim aud = "a" | claim aud = "b")"#),
        ("{key: request.auth.presenter, values: [a]}", "any", r#"claim azp = "a""#),
        ("{key: 'request.auth.claims[realm][roles]', values: ['a*']}", "any", r#"claim realm/roles = "a"*"#),
        ("{key: 'request.auth.claims[x]', values: ['*'], notValues: [a]}", "any", r#"claim x ~ /.+/ & !claim x = "a""#),
        ("{key: destination.ip, values: [10.0.0.1]}", "(to 10.0.0.1/32)", "any"),
        ("{key: destination.port, values: ['80'], notValues: ['81']}", "(:80) & !(:81)", "any"),
        ("{key: connection.sni, values: [a.example, '*']}", r#"(sni = "a.example" | sni ~ /.+/)"#, "any"),
    ] {
        check(9080, &[(condition, &row(condition), &[&format!("ALLOW [0]: ({what}) by ({who})")])]);
    }
}

#[test]
fn on_tcp_a_condition_on_requests_makes_less_pass_and_never_more() {
    let both = |action: &str, rule: &str| (format!("{{action: {action}, rules: [{rule}]}}"), action == "ALLOW");
    for (rule, narrowed) in [
        ("{to: [{operation: {methods: [GET]}}]}", "(any) by (any)"),
        ("{to: [{operation: {notMethods: [GET]}}]}", "(any) by (any)"),
        ("{to: [{operation: {paths: [/a], ports: ['80']}}]}", "((:80)) by (any)"),
        (
            "{to: [{operation: {hosts: [a], ports: ['80']}}, {operation: {ports: ['81']}}]}",
            "((:80)) | ((:81)) by (any)",
        ),
        ("{from: [{source: {requestPrincipals: [a/b]}}]}", "(any) by (any)"),
        ("{from: [{source: {namespaces: [a], notRequestPrincipals: ['*']}}]}", "(any) by ((id ~ /.*/ns/a/.*/))"),
        ("{when: [{key: 'request.headers[x]', values: [a]}]}", "(any) by (any)"),
        (
            "{when: [{key: request.auth.audiences, values: [a]}, {key: source.ip, values: [10.0.0.1]}]}",
            "(any) by ((from 10.0.0.1/32))",
        ),
    ] {
        for action in ["ALLOW", "DENY", "AUDIT"] {
            let (spec, allows) = both(action, rule);
            let name = if action == "AUDIT" { "LOG" } else { action };
            let expected = if allows { "ALLOW nothing".to_owned() } else { format!("{name} [0]: {narrowed}") };
            check(9090, &[(action, &spec, &[&expected])]);
        }
    }
    check(
        9090,
        &[(
            "a rule beside it that TCP knows still allows",
            "{rules: [{to: [{operation: {methods: [GET]}}]}, {from: [{source: {namespaces: [a]}}]}]}",
            &["ALLOW [1]: (any) by ((id ~ /.*/ns/a/.*/))"],
        )],
    );
}

#[test]
fn what_validation_would_refuse_shuts_and_does_not_open() {
    for rule in [
        "{from: [{source: {ipBlocks: [10.0.0.1, nonsense]}}]}",
        "{to: [{operation: {ports: ['80', x]}}]}",
        "{to: [{operation: {paths: ['/{x}/{*}']}}]}",
        "{from: [{source: {namespaces: ['a*b']}}]}",
        "{when: [{key: 'experimental.envoy.filters.a[b]', values: [c]}]}",
    ] {
        let spec = |action: &str| format!("{{action: {action}, rules: [{rule}]}}");
        check(9080, &[("ALLOW", &spec("ALLOW"), &["ALLOW nothing"])]);
        check(9080, &[("DENY", &spec("DENY"), &["DENY [0]: (any) by (any)"])]);
    }
}

#[test]
fn filters_are_passed_in_one_order_whoever_wrote_them() {
    let policies = [
        ("default/z", "{action: AUDIT, rules: [{}]}"),
        ("default/y", "{rules: [{}]}"),
        ("istio-system/everywhere", "{action: DENY, rules: [{}]}"),
        ("default/x", "{action: DENY, rules: [{}]}"),
        ("default/w", "{action: CUSTOM, provider: {name: a}, rules: [{}]}"),
        ("istio-system/labels", "{selector: {matchLabels: {app: reviews}}, rules: [{}]}"),
        ("istio-system/others", "{selector: {matchLabels: {app: other}}, rules: [{}]}"),
        ("other/a", "{action: DENY, rules: [{}]}"),
    ];
    let text: String = policies.iter().map(|(name, spec)| document("AuthorizationPolicy", name, spec)).collect();
    let names: Vec<String> =
        lines(&text, 9080).iter().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(
        names,
        [
            "LOG ns[default]-policy[z]-rule[0]",
            "CUSTOM ns[default]-policy[w]-rule[0]",
            "DENY ns[default]-policy[x]-rule[0]",
            "DENY ns[istio-system]-policy[everywhere]-rule[0]",
            "ALLOW ns[default]-policy[y]-rule[0]",
            "ALLOW ns[istio-system]-policy[labels]-rule[0]",
        ]
    );
}

#[test]
fn a_dry_run_is_tried_and_not_enforced() {
    let tried = |name: &str, dry_run: &str, spec: &str| {
        document("AuthorizationPolicy", name, spec).replace(
            "namespace: default}",
            &format!("namespace: default, annotations: {{istio.io/dry-run: '{dry_run}'}}}}"),
        )
    };
    let both = tried("a", "true", "{action: DENY, rules: [{}]}") + &tried("b", "false", "{action: DENY, rules: [{}]}");
    assert_eq!(
        lines(&both, 9080),
        [
            "DENY ns[default]-policy[b]-rule[0]: (any) by (any)",
            "TRY DENY ns[default]-policy[a]-rule[0]: (any) by (any)"
        ]
    );
    let resources = compile(&format!("{APP}{}", tried("a", "1", "{}")), &workload());
    let filters = &inbound(&resources, 9080).authorization.0;
    assert!(!filters[0].enforced && filters[0].policies.is_empty(), "an ALLOW that is only tried refuses nothing");
    assert_eq!(
        render::authorization(&inbound(&resources, 9080).authorization),
        ["TRY ALLOW ns[default]-policy[a]-rule[0]: !any by !any"]
    );
    assert_eq!(
        lines(&tried("a", "yes", "{action: DENY, rules: [{}]}"), 9080).len(),
        1,
        "what is no truth value is enforced"
    );
}

#[test]
fn a_principal_of_the_mesh_is_one_in_all_names_of_the_mesh() {
    let mesh = document("MeshConfig", "mesh", "{trustDomain: new-td, trustDomainAliases: [old-td, other.example]}");
    let who = |principal: &str| {
        let text =
            mesh.clone() + &policy(&format!("{{rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]}}"));
        lines(&text, 9080)[0].split(" by ").nth(1).unwrap().to_owned()
    };
    let all = r#"((id = "spiffe://new-td/ns/a/sa/b" | id = "spiffe://old-td/ns/a/sa/b" | id = "spiffe://other.example/ns/a/sa/b"))"#;
    for principal in ["new-td/ns/a/sa/b", "old-td/ns/a/sa/b", "cluster.local/ns/a/sa/b"] {
        assert_eq!(who(principal), all, "{principal}");
    }
    assert_eq!(who("foreign/ns/a/sa/b"), r#"((id = "spiffe://foreign/ns/a/sa/b"))"#);
    assert_eq!(who("*/ns/a/sa/b"), "((id ~ /spiffe://.*/ns/a/sa/b/))");
    assert_eq!(
        who("*-td/ns/a/sa/b"),
        r#"((id ~ /spiffe://.*-td/ns/a/sa/b/ | id = "spiffe://other.example/ns/a/sa/b"))"#,
        "the pattern stands for the names that it matches"
    );
    let domains = mesh + &policy("{rules: [{from: [{source: {trustDomains: [old-td, bad]}}]}]}");
    assert_eq!(
        lines(&domains, 9080)[0].split(" by ").nth(1).unwrap(),
        r#"((id = "spiffe://new-td/"* | id = "spiffe://old-td/"* | id = "spiffe://other.example/"* | id = "spiffe://bad/"*))"#
    );
}

#[test]
fn claims_that_a_rule_calls_lists_of_words_match_by_word() {
    let tokens =
        document("RequestAuthentication", "jwt", "{jwtRules: [{issuer: i, spaceDelimitedClaims: [custom, a.b]}]}");
    let claim = |key: &str, value: &str| {
        let rule = format!("{{rules: [{{when: [{{key: 'request.auth.claims{key}', values: ['{value}']}}]}}]}}");
        lines(&(tokens.clone() + &policy(&rule)), 9080)[0].split(" by ").nth(1).unwrap().to_owned()
    };
    assert_eq!(claim("[custom]", "x.y"), r"(claim custom ~ /(?s)(.*\s)?x\.y(\s.*)?/)");
    assert_eq!(claim("[a][b]", "x*"), r"(claim a/b ~ /(?s)(.*\s)?x\S*(\s.*)?/)");
    assert_eq!(claim("[other]", "x"), r#"(claim other = "x")"#);
}
