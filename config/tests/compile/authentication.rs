//! PeerAuthentication, RequestAuthentication, and who the peers of clusters have to be.

use crate::render::{self, endpoints_of};
use crate::support::*;
use leno_config::compile::{compile as compile_for, scope};
use leno_config::ir::{Discovery, HttpManager, ListenerProtocol, MtlsMode, Resources, UpstreamTls};
use leno_config::mesh::Mesh;
use leno_config::node::Node;
use proptest::prelude::*;

const APP: &str = "
kind: Sidecar
metadata: {name: reviews}
spec:
  workloadSelector: {labels: {app: reviews}}
  ingress:
  - {port: {number: 9080, protocol: HTTP, name: http}, defaultEndpoint: '127.0.0.1:8080'}
  - {port: {number: 9090, protocol: TCP, name: tcp}, defaultEndpoint: '127.0.0.1:8090'}
";

fn workload() -> Node {
    node("default", &[("app", "reviews"), ("version", "v1")])
}

fn peer(name: &str, created: u8, spec: &str) -> String {
    let stamp = format!("creationTimestamp: '2024-01-01T00:00:0{created}Z', ");
    document("PeerAuthentication", name, spec).replace("metadata: {", &format!("metadata: {{{stamp}"))
}

/// The modes of the ports 9080 and 9090.
fn modes(text: &str) -> (MtlsMode, MtlsMode) {
    let resources = compile(&format!("{APP}{text}"), &workload());
    let mode = |port: u16| resources.listeners[&format!("inbound_10.9.9.9_{port}")].mtls;
    (mode(9080), mode(9090))
}

/// The key that nobody can sign with.
const NOBODY: &str = concat!(
    r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"nobody","#,
    r#""x":"2hZV5QYVbkB-vNLic8VNCmKbjMV33Ucm2fkDnyqM3JU","#,
    r#""y":"QRjhabHdyNKbC-c7Zbq8oPjHrvESrnEno0S8TO5hdN0"}]}"#,
);

#[test]
fn the_narrowest_rule_that_says_something_decides_how_callers_come_in() {
    use MtlsMode::{Disable, Permissive, Strict};
    let mode = |mode: &str| format!("{{mtls: {{mode: {mode}}}}}");
    let selecting = |more: &str| format!("{{selector: {{matchLabels: {{app: reviews}}}}, {more}}}");
    let both = |mode| (mode, mode);
    for (what, text, expected) in [
        ("nothing", String::new(), both(Permissive)),
        ("the mesh", peer("istio-system/a", 1, &mode("STRICT")), both(Strict)),
        (
            "the namespace goes before the mesh",
            peer("istio-system/a", 1, &mode("STRICT")) + &peer("b", 2, &mode("DISABLE")),
            both(Disable),
        ),
        (
            "a namespace that says nothing leaves it to the mesh",
            peer("istio-system/a", 1, &mode("STRICT"))
                + &peer("b", 2, &mode("UNSET"))
                + &peer("c", 3, &mode("DISABLE")),
            both(Strict),
        ),
        (
            "the workload goes before the namespace",
            peer("a", 1, &mode("STRICT")) + &peer("b", 2, &selecting("mtls: {mode: PERMISSIVE}")),
            both(Permissive),
        ),
        (
            "of two the oldest, whatever its name",
            peer("z", 1, &mode("STRICT")) + &peer("a", 2, &mode("DISABLE")),
            both(Strict),
        ),
        (
            "as old as each other, the first by name",
            peer("z", 1, &mode("STRICT")) + &peer("a", 1, &mode("DISABLE")),
            both(Disable),
        ),
        (
            "a port of the workload, by the number that it listens on",
            peer(
                "a",
                1,
                &selecting("mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: DISABLE}, 8080: {mode: DISABLE}}"),
            ),
            (Strict, Disable),
        ),
        (
            "a port that says nothing is as the rest",
            peer("b", 1, &mode("STRICT")) + &peer("a", 1, &selecting("portLevelMtls: {9090: {mode: UNSET}}")),
            both(Strict),
        ),
        (
            "a selector in the root namespace is for nobody",
            peer("istio-system/a", 1, &selecting("mtls: {mode: STRICT}")),
            both(Permissive),
        ),
        (
            "another workload's",
            peer("a", 1, "{selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}}"),
            both(Permissive),
        ),
        ("another namespace's", peer("other/a", 1, &mode("STRICT")), both(Permissive)),
    ] {
        assert_eq!(modes(&text), expected, "{what}");
    }
    let outbound = compile(&peer("istio-system/a", 1, &mode("STRICT")), &client());
    assert!(
        outbound.listeners.values().all(|listener| listener.mtls == MtlsMode::Disable),
        "the own app has no certificate"
    );
}

fn manager<'a>(resources: &'a Resources, listener: &str) -> &'a HttpManager {
    resources.listeners[listener].protocol.http().unwrap_or_else(|| panic!("{listener} is TCP"))
}

fn tokens(specs: &[(&str, &str)]) -> Vec<String> {
    let rules: String = specs.iter().map(|(name, spec)| document("RequestAuthentication", name, spec)).collect();
    let resources = compile(&format!("{APP}{rules}"), &workload());
    render::tokens(&manager(&resources, "inbound_10.9.9.9_9080").jwt)
}

#[test]
fn token_rules_become_providers_and_what_a_request_needs() {
    let no_keys = format!("keys {NOBODY}");
    let keys = r#"'{"keys":[{"kty":"EC"}]}'"#;
    assert_eq!(tokens(&[]), Vec::<String>::new());
    assert_eq!(
        tokens(&[(
            "a",
            &format!(
                "{{jwtRules: [{{issuer: i, audiences: [x, y], jwks: {keys}, forwardOriginalToken: true, \
            fromHeaders: [{{name: X-Token, prefix: 'T '}}], fromParams: [t], fromCookies: [c], outputPayloadToHeader: x-payload, \
            outputClaimToHeaders: [{{header: x-sub, claim: sub}}]}}]}}"
            )
        )]),
        [
            r#"origins-0: i for x|y, keys {"keys":[{"kty":"EC"}]}, in x-token after "T ", in ?t, in cookie c, forwarded, payload to x-payload, sub to x-sub"#,
            "any(origins-0, missing)",
        ]
    );
    assert_eq!(
        tokens(&[("z", "{jwtRules: [{issuer: b}]}"), ("istio-system/m", "{jwtRules: [{issuer: c}]}"), ("a", "{jwtRules: [{issuer: a}]}"),
            ("x", "{selector: {matchLabels: {app: other}}, jwtRules: [{issuer: d}]}"), ("y", "{targetRef: {kind: Gateway, name: g}, jwtRules: [{issuer: e}]}")]),
        [
            format!("origins-0: a, {no_keys}"),
            format!("origins-1: b, {no_keys}"),
            format!("origins-2: c, {no_keys}"),
            "any(origins-0, origins-1, origins-2, all(any(origins-0, missing), any(origins-1, missing), any(origins-2, missing)))".to_owned(),
        ],
        "all rules for the workload, by issuer"
    );
    assert_eq!(tokens(&[("a", "{jwtRules: [{issuer: i, presence: REQUIRED}]}")])[1], "origins-0");
    assert_eq!(
        tokens(&[("a", "{jwtRules: [{issuer: i, presence: REQUIRED}, {issuer: j}]}")])[2],
        "any(all(origins-0, any(origins-1, missing)), origins-0)"
    );
    let many: Vec<String> = (0..12).map(|index| format!("{{issuer: i{index:02}}}")).collect();
    let many = tokens(&[("a", &format!("{{jwtRules: [{}]}}", many.join(", ")))]);
    assert_eq!((many.len(), many[2].starts_with("origins-10: i10")), (13, true), "in the order of the names: {many:?}");
    let resources =
        compile(&format!("{APP}{}", document("RequestAuthentication", "a", "{jwtRules: [{issuer: i}]}")), &workload());
    assert!(matches!(resources.listeners["inbound_10.9.9.9_9090"].protocol, ListenerProtocol::Tcp(_)));
}

#[test]
fn keys_are_fetched_through_a_cluster_that_is_there() {
    let rule = |uri: &str| {
        document("RequestAuthentication", "a", &format!("{{jwtRules: [{{issuer: i, jwksUri: '{uri}', timeout: 2s}}]}}"))
    };
    let compiled = |text: &str, uri: &str| {
        let resources = compile(&format!("{APP}{text}{}", rule(uri)), &workload());
        let lines = render::tokens(&manager(&resources, "inbound_10.9.9.9_9080").jwt);
        (resources, lines[0].clone())
    };
    let (resources, line) = compiled("", "https://issuer.example/jwks.json");
    assert_eq!(
        line,
        "origins-0: i, keys of https://issuer.example/jwks.json by outbound|443||issuer.example within 2s every 1200s"
    );
    let cluster = &resources.clusters["outbound|443||issuer.example"];
    let Discovery::Dns(members) = &cluster.discovery else { panic!("{:?}", cluster.discovery) };
    assert_eq!(render::endpoints(members), ["issuer.example:443"]);
    let UpstreamTls::External(tls) = &cluster.tls else { panic!("{:?}", cluster.tls) };
    assert_eq!(
        (tls.sni.as_deref(), tls.subject_alt_names.as_slice()),
        (Some("issuer.example"), &["issuer.example".to_owned()][..])
    );
    assert!(!tls.skip_verify);

    let (resources, line) = compiled("", "http://10.0.0.1:8080/keys");
    assert!(line.contains("by outbound|8080||10.0.0.1 "), "{line}");
    assert_eq!(resources.clusters["outbound|8080||10.0.0.1"].tls, UpstreamTls::Plain);

    let known = document(
        "ServiceEntry",
        "issuer",
        "{hosts: [issuer.example], ports: [{number: 443, name: https, protocol: HTTPS}], resolution: STATIC, endpoints: [{address: 10.0.0.7}]}",
    );
    let (resources, _) = compiled(&known, "https://issuer.example/jwks.json");
    assert_eq!(
        endpoints_of(&resources, "outbound|443||issuer.example"),
        ["10.0.0.7:443"],
        "a service that is known is used"
    );
    let (resources, line) = compiled(&known, "https://issuer.example:8443/");
    assert!(
        line.contains("by outbound|8443||issuer.example ")
            && resources.clusters.contains_key("outbound|8443||issuer.example")
    );
}

#[test]
fn routes_go_by_claims_of_tokens_that_the_workload_itself_would_take() {
    let rule = reviews(
        "[{match: [{headers: {'@request.auth.claims.group': {exact: x}, '@request.auth.claims[a.b][c]': {prefix: y}}}], route: [{destination: {host: reviews, subset: v1}}]},
          {match: [{withoutHeaders: {'@request.auth.claims.group': {regex: '[a-c]'}}}], route: [{destination: {host: reviews, subset: v2}}]},
          {match: [{headers: {'@request.auth.claims.group': {}}}], route: [{destination: {host: reviews, subset: v3}}]}]",
    );
    let routes = |resources: &Resources| render::routes(resources, "reviews.default.svc.cluster.local:9080");
    let without = compile(&format!("{SERVICES}{rule}"), &client());
    assert_eq!(
        routes(&without),
        [
            r#"/*, claim group = "x", claim a.b/c = "y"* => reviews.default:9080/v1"#,
            "/*, not claim group ~ /[a-c]/ => reviews.default:9080/v2",
            "/*, claim group ~ /(?s).+/ => reviews.default:9080/v3",
        ]
    );
    assert!(manager(&without, "127.0.0.1_15001").jwt.is_empty());
    let own = document(
        "RequestAuthentication",
        "productpage",
        "{selector: {matchLabels: {app: productpage}}, jwtRules: [{issuer: i, jwksUri: 'https://i.example/', outputPayloadToHeader: x-p}, {issuer: j}]}",
    );
    let with = compile(&format!("{SERVICES}{rule}{own}"), &client());
    assert_eq!(
        render::tokens(&manager(&with, "127.0.0.1_15001").jwt),
        [
            "origins-0: i, keys of https://i.example/ by outbound|443||i.example within 5s every 1200s, forwarded",
            &format!("origins-1: j, keys {NOBODY}, forwarded"),
            "any(origins-0, origins-1, whatever)",
        ],
        "nothing is refused on the way out, and the request stays as it is"
    );
    assert!(with.clusters.contains_key("outbound|443||i.example"));
    let no_claims = compile(&format!("{SERVICES}{own}"), &client());
    assert!(manager(&no_claims, "127.0.0.1_15001").jwt.is_empty(), "no route asks for a claim");
}

const SPEAKS: &str = "security.istio.io/tlsMode: istio";

#[test]
fn whoever_speaks_the_meshs_tls_has_an_expected_identity() {
    let service = |more: &str, endpoint: &str| {
        document(
            "ServiceEntry",
            "a",
            &format!(
                "{{hosts: [a.example], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC{more}, endpoints: [{{address: 10.0.0.1{endpoint}}}]}}"
            ),
        )
    };
    let inside = ", location: MESH_INTERNAL";
    let sans = ", location: MESH_INTERNAL, subjectAltNames: ['spiffe://cluster.local/ns/x/sa/y']";
    let label = format!(", labels: {{{SPEAKS}}}");
    let named = format!("{label}, serviceAccount: b");
    let rule =
        |tls: &str| document("DestinationRule", "a", &format!("{{host: a.example, trafficPolicy: {{tls: {tls}}}}}"));
    let other = "spiffe://cluster.local/ns/p/sa/q";
    let mutual = rule(&format!("{{mode: ISTIO_MUTUAL, subjectAltNames: ['{other}'], sni: s.example}}"));
    let id = |account: &str| format!("spiffe://cluster.local/ns/default/sa/{account}");
    for (what, text, endpoint, tls) in [
        ("no label", service(inside, ""), "10.0.0.1:80".to_owned(), "plain".to_owned()),
        (
            "no label, but an account",
            service(inside, ", serviceAccount: b"),
            format!("10.0.0.1:80 as {}", id("b")),
            "plain".to_owned(),
        ),
        (
            "a label",
            service(inside, &label),
            format!("10.0.0.1:80 mTLS as {}", id("default")),
            format!("auto {}", id("default")),
        ),
        (
            "a label and an account",
            service(inside, &named),
            format!("10.0.0.1:80 mTLS as {}", id("b")),
            format!("auto {}", id("b")),
        ),
        ("outside of the mesh", service("", &named), format!("10.0.0.1:80 as {}", id("b")), "plain".to_owned()),
        (
            "outside of the mesh, on the rule's word",
            service("", &named) + &rule("{mode: ISTIO_MUTUAL}"),
            format!("10.0.0.1:80 as {}", id("b")),
            format!("mesh {}", id("b")),
        ),
        (
            "names of the service stand for an account that nobody wrote",
            service(sans, &label),
            "10.0.0.1:80 mTLS".to_owned(),
            "auto spiffe://cluster.local/ns/x/sa/y".to_owned(),
        ),
        (
            "names of the service stand beside an account",
            service(sans, &named),
            format!("10.0.0.1:80 mTLS as {}", id("b")),
            format!("auto {} spiffe://cluster.local/ns/x/sa/y", id("b")),
        ),
        (
            "names of the rule replace all others",
            service(sans, &named) + &mutual,
            "10.0.0.1:80 mTLS".to_owned(),
            format!("mesh {other}"),
        ),
        (
            "the rule says no",
            service(inside, &named) + &rule("{mode: DISABLE}"),
            format!("10.0.0.1:80 mTLS as {}", id("b")),
            "plain".to_owned(),
        ),
    ] {
        let resources = compile(&text, &client());
        assert_eq!(endpoints_of(&resources, "outbound|80||a.example"), [endpoint], "{what}");
        let found = match &resources.clusters["outbound|80||a.example"].tls {
            UpstreamTls::Plain => "plain".to_owned(),
            UpstreamTls::Auto(mesh) => format!("auto {}", mesh.identities.join(" ")),
            UpstreamTls::Mesh(mesh) => format!("mesh {}", mesh.identities.join(" ")),
            UpstreamTls::External(_) => "external".to_owned(),
        };
        assert_eq!(found, tls, "{what}");
    }
}

#[test]
fn an_endpoint_that_nobody_can_be_is_left_out() {
    let endpoints = format!(
        "{{address: 10.0.0.1, labels: {{{SPEAKS}}}, serviceAccount: a/b}}, {{address: 10.0.0.2, labels: {{{SPEAKS}}}, serviceAccount: b}}"
    );
    let service = document(
        "ServiceEntry",
        "a",
        &format!(
            "{{hosts: [a.example], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, location: MESH_INTERNAL, subjectAltNames: ['spiffe://cluster.local/ns/x/sa/y'], endpoints: [{endpoints}]}}"
        ),
    );
    let resources = compile(&service, &client());
    let only = "10.0.0.2:80 mTLS as spiffe://cluster.local/ns/default/sa/b";
    assert_eq!(
        endpoints_of(&resources, "outbound|80||a.example"),
        [only],
        "the service's names do not stand in for it"
    );
}

#[test]
fn tls_of_a_rule_is_that_of_its_port_then_of_its_subset_and_also_for_names() {
    let rule = "{host: a.example,
        trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, portLevelSettings: [{port: {number: 81}, tls: {mode: SIMPLE, credentialName: c, insecureSkipVerify: true}}, {port: {number: 82}}]},
        subsets: [{name: v1, trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /r, sni: ''}}},
                  {name: v2, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]}}]}";
    let kind = |resources: &Resources, cluster: &str| match &resources.clusters[cluster].tls {
        UpstreamTls::Plain => "plain".to_owned(),
        UpstreamTls::Auto(_) => "auto".to_owned(),
        UpstreamTls::Mesh(mesh) => format!("mesh {}", mesh.sni),
        UpstreamTls::External(tls) => format!(
            "external sni {:?} roots {:?} own {:?} {:?} secret {:?} unverified {}",
            tls.sni,
            tls.roots,
            tls.certificate,
            tls.key,
            tls.credential.as_ref().map(|credential| &credential.name),
            tls.skip_verify
        ),
    };
    for (resolution, endpoints) in [("STATIC", ", endpoints: [{address: 10.0.0.1}]"), ("DNS", ""), ("NONE", "")] {
        let ports = "[{number: 80, name: http, protocol: HTTP}, {number: 81, name: http-b, protocol: HTTP}, {number: 82, name: http-c, protocol: HTTP}]";
        let text = document(
            "ServiceEntry",
            "a",
            &format!("{{hosts: [a.example], ports: {ports}, resolution: {resolution}{endpoints}}}"),
        ) + &document("DestinationRule", "a", rule);
        let resources = compile(&text, &client());
        for (cluster, expected) in [
            ("outbound|80||a.example", "mesh outbound_.80_._.a.example"),
            ("outbound|81||a.example", "external sni None roots None own None None secret Some(\"c\") unverified true"),
            ("outbound|82||a.example", "plain"),
            (
                "outbound|80|v1|a.example",
                "external sni None roots Some(\"/r\") own Some(\"/c\") Some(\"/k\") secret None unverified false",
            ),
            ("outbound|80|v2|a.example", "plain"),
            (
                "outbound|81|v2|a.example",
                "external sni None roots None own None None secret Some(\"c\") unverified true",
            ),
        ] {
            assert_eq!(kind(&resources, cluster), expected, "{cluster} {resolution}");
        }
    }
}

fn label() -> impl Strategy<Value = (String, String)> {
    (prop::sample::select(vec!["app", "version", "tier"]), prop::sample::select(vec!["a", "b"]))
        .prop_map(|(key, value)| (key.to_owned(), value.to_owned()))
}

/// A rule of one of the kinds, in one of three namespaces, for some workloads.
fn protection() -> impl Strategy<Value = (String, String)> {
    let namespace = prop::sample::select(vec!["default", "web", "istio-system"]);
    let selector = prop::option::of(label()).prop_map(|label| match label {
        Some((key, value)) => format!("selector: {{matchLabels: {{{key}: {value}}}}}, "),
        None => String::new(),
    });
    let spec = prop::sample::select(vec![
        ("PeerAuthentication", "mtls: {mode: STRICT}"),
        ("PeerAuthentication", "mtls: {mode: DISABLE}"),
        ("AuthorizationPolicy", "action: DENY, rules: [{from: [{source: {namespaces: [x]}}]}]"),
        ("AuthorizationPolicy", "rules: [{to: [{operation: {methods: [GET]}}]}]"),
        ("RequestAuthentication", "jwtRules: [{issuer: i}]"),
    ]);
    (namespace, "[a-c]", selector, spec).prop_map(|(namespace, name, selector, (kind, spec))| {
        let name = format!("{namespace}/{name}");
        (format!("{kind} {name}"), document(kind, &name, &format!("{{{selector}{spec}}}")))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn proxies_of_one_scope_get_equal_resources(
        rules in prop::collection::hash_map("[a-z]{3}", protection(), 0..6),
        one in prop::collection::btree_map(prop::sample::select(vec!["app", "version", "tier", "x"]), prop::sample::select(vec!["a", "b"]), 0..4),
        other in prop::collection::btree_map(prop::sample::select(vec!["app", "version", "tier", "x"]), prop::sample::select(vec!["a", "b"]), 0..4),
        namespace in prop::sample::select(vec!["default", "web"]),
    ) {
        let sidecar = |namespace: &str| document("Sidecar", &format!("{namespace}/s"), "{ingress: [{port: {number: 9080, protocol: HTTP}, bind: 127.0.0.1, defaultEndpoint: '127.0.0.1:8080'}]}");
        let rules: std::collections::HashMap<_, _> = rules.into_values().collect();
        let text = rules.into_values().collect::<String>() + &sidecar("default") + &sidecar("web");
        let mesh = Mesh::new(&documents(&text));
        let proxy = |labels: &std::collections::BTreeMap<&str, &str>| {
            node(namespace, &labels.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>())
        };
        let (one, other) = (proxy(&one), proxy(&other));
        if scope(&mesh, &one) == scope(&mesh, &other) {
            prop_assert_eq!(compile_for(&mesh, &one), compile_for(&mesh, &other));
        }
    }
}
