//! The page "from Istio": each line about a kind or a field is what `leno validate` says of such a rule.

use std::collections::BTreeSet;

use leno_tests::{run_leno, workspace};
use serde_json::Value;

const NETWORKING: &[&str] = &["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];
const SECURITY: &[&str] = &["security.istio.io/v1", "security.istio.io/v1beta1"];

/// A host that is known, so that nothing is said about it.
const HOST: &str = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: known}
spec: {hosts: [a.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
";
const ROUTE: &str = "{route: [{destination: {host: a.example.com}}]}";

/// Rules for a line of the page: API versions, kind, spec.
type Written = (&'static [&'static str], &'static str, String);

fn destination_rule(policy: &str) -> Written {
    (NETWORKING, "DestinationRule", format!("{{host: a.example.com, trafficPolicy: {policy}}}"))
}

fn virtual_service(rest: &str) -> Written {
    (NETWORKING, "VirtualService", format!("{{hosts: [a.example.com], {rest}}}"))
}

fn ingress(tls: &str) -> Written {
    let port = "{number: 9443, name: https, protocol: HTTPS}";
    (
        NETWORKING,
        "Sidecar",
        format!("{{ingress: [{{port: {port}, defaultEndpoint: '127.0.0.1:8080', tls: {{{tls}}}}}]}}"),
    )
}

fn unknown(version: &'static [&'static str], kind: &'static str) -> Written {
    (version, kind, "{}".to_owned())
}

/// The lines of the page's table, by their first cell, with rules as somebody would have written them.
fn lines() -> Vec<(&'static str, Vec<Written>)> {
    let authorization = |spec: &str| (SECURITY, "AuthorizationPolicy", spec.to_owned());
    vec![
        ("VirtualService, v1, v1beta1 or v1alpha3", vec![virtual_service(&format!("http: [{ROUTE}]"))]),
        (
            "DestinationRule, v1, v1beta1 or v1alpha3",
            vec![
                destination_rule(
                    "{loadBalancer: {simple: LEAST_REQUEST}, connectionPool: {tcp: {maxConnections: 10}}}",
                ),
                destination_rule("{outlierDetection: {consecutive5xxErrors: 5}, tls: {mode: SIMPLE}}"),
            ],
        ),
        (
            "ServiceEntry, v1, v1beta1 or v1alpha3",
            vec![(
                NETWORKING,
                "ServiceEntry",
                "{hosts: [b.example.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}"
                    .to_owned(),
            )],
        ),
        (
            "WorkloadEntry, v1, v1beta1 or v1alpha3",
            vec![(NETWORKING, "WorkloadEntry", "{address: 10.0.0.1, labels: {app: a}}".to_owned())],
        ),
        ("Sidecar, v1, v1beta1 or v1alpha3", vec![(NETWORKING, "Sidecar", "{egress: [{hosts: ['./*']}]}".to_owned())]),
        (
            "PeerAuthentication, v1 or v1beta1",
            vec![(SECURITY, "PeerAuthentication", "{mtls: {mode: STRICT}}".to_owned())],
        ),
        (
            "AuthorizationPolicy, v1 or v1beta1",
            ["ALLOW", "DENY", "AUDIT"]
                .map(|action| {
                    authorization(&format!(
                        "{{action: {action}, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}"
                    ))
                })
                .into(),
        ),
        (
            "RequestAuthentication, v1 or v1beta1",
            vec![(
                SECURITY,
                "RequestAuthentication",
                "{jwtRules: [{issuer: a, jwksUri: 'https://a.example.com/jwks'}]}".to_owned(),
            )],
        ),
        (
            "Service with named ports or `appProtocol`",
            vec![(
                &["v1"],
                "Service",
                "{ports: [{name: grpc-a, port: 80}, {name: b, port: 81, appProtocol: http2}]}".to_owned(),
            )],
        ),
        ("`loadBalancer.simple: PASSTHROUGH`", vec![destination_rule("{loadBalancer: {simple: PASSTHROUGH}}")]),
        (
            "`gateways` other than `mesh`",
            vec![virtual_service(&format!("gateways: [mesh, shop/front], http: [{ROUTE}]"))],
        ),
        (
            "VirtualService `tls` routes",
            vec![virtual_service(
                "tls: [{match: [{port: 80, sniHosts: [a.example.com]}], route: [{destination: {host: a.example.com}}]}]",
            )],
        ),
        (
            "`proxyProtocol`, `tunnel`",
            vec![
                destination_rule("{proxyProtocol: {version: V2}}"),
                destination_rule("{tunnel: {targetHost: b.example.com, targetPort: 80}}"),
            ],
        ),
        (
            "`tls.credentialName` of a DestinationRule",
            vec![
                destination_rule("{tls: {mode: SIMPLE, credentialName: a}}"),
                destination_rule("{portLevelSettings: [{port: {number: 80}, tls: {mode: MUTUAL, credentialName: a}}]}"),
            ],
        ),
        ("`tls.caCrl`", vec![destination_rule("{tls: {mode: SIMPLE, caCertificates: /a.pem, caCrl: /a.crl}}")]),
        (
            "`tls` of an `ingress` listener beside the mesh's own TLS",
            vec![ingress("mode: SIMPLE, serverCertificate: /a.pem, privateKey: /a.key")],
        ),
        ("the same, `mode: ISTIO_MUTUAL`", vec![ingress("mode: ISTIO_MUTUAL")]),
        (
            "AuthorizationPolicy `action: CUSTOM`",
            vec![authorization("{action: CUSTOM, provider: {name: a}, rules: [{}]}")],
        ),
        ("a misspelt field", vec![destination_rule("{loadBalancers: {simple: RANDOM}}")]),
        (
            "a negative weight",
            vec![virtual_service("http: [{route: [{destination: {host: a.example.com}, weight: -5}]}]")],
        ),
        (
            "Gateway, EnvoyFilter, ProxyConfig, WorkloadGroup",
            vec![
                unknown(NETWORKING, "Gateway"),
                unknown(&["networking.istio.io/v1alpha3"], "EnvoyFilter"),
                unknown(&["networking.istio.io/v1beta1"], "ProxyConfig"),
                unknown(NETWORKING, "WorkloadGroup"),
            ],
        ),
        (
            "Telemetry, WasmPlugin",
            vec![
                unknown(&["telemetry.istio.io/v1", "telemetry.istio.io/v1alpha1"], "Telemetry"),
                unknown(&["extensions.istio.io/v1alpha1"], "WasmPlugin"),
            ],
        ),
        (
            "HTTPRoute and the rest of the Gateway API",
            ["HTTPRoute", "GRPCRoute", "Gateway", "GatewayClass", "ReferenceGrant"]
                .map(|kind| unknown(&["gateway.networking.k8s.io/v1"], kind))
                .into(),
        ),
    ]
}

/// First and second cell of each line of the page's table.
fn page() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(workspace().join("docs/from-istio.md")).unwrap();
    let (_, section) = text.split_once("### What `leno validate` says\n").expect("the page has the table");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    cells.map(|cells| (cells[0].clone(), cells[1].clone())).collect()
}

/// `none`, `L0301` or `error L0302`: what is found in a rule, each once, as the page has it.
fn found(version: &str, kind: &str, spec: &str) -> (String, Value) {
    let rule = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n{HOST}");
    let outcome = run_leno(&["validate", "-f", "-", "-o", "json"], &rule);
    let findings: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let word = |finding: &Value| match finding["severity"].as_str() {
        Some("error") => format!("error {}", finding["code"].as_str().unwrap()),
        _ => finding["code"].as_str().unwrap().to_owned(),
    };
    let words: BTreeSet<String> = findings.as_array().unwrap().iter().map(word).collect();
    let words = if words.is_empty() { "none".to_owned() } else { words.into_iter().collect::<Vec<_>>().join(", ") };
    (words, findings)
}

#[test]
fn each_line_of_the_page_from_istio_is_what_validate_says() {
    let (page, lines) = (page(), lines());
    let names = |all: Vec<&str>| all.into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        names(page.iter().map(|(line, _)| line.as_str()).collect()),
        names(lines.iter().map(|(line, _)| *line).collect()),
        "the page and this test have the same lines"
    );
    for ((line, claim), (_, rules)) in page.iter().zip(&lines) {
        for (versions, kind, spec) in rules {
            for version in *versions {
                let (said, findings) = found(version, kind, spec);
                assert_eq!(&said, claim, "{line}: {version} {kind} {spec}: {findings}");
            }
        }
    }
}
