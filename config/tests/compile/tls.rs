//! TLS that a rule speaks of: passed on by the server name it asks for, or ended in front of the app.

use leno_config::ir::{
    Credential, ListenerProtocol, MtlsMode, Origin, OutsideCallers, Port, Resources, ServerTls, TlsVersion, UpstreamTls,
};
use leno_config::node::{Interception, Node};

use crate::render::listeners;
use crate::support::*;

/// Two services with TLS, one with an address and one without.
const SHOPS: &str = "
kind: Service
metadata: {name: shop, namespace: default}
spec: {clusterIP: 10.96.0.1, selector: {app: shop}, ports: [{name: https, port: 443}]}
---
kind: ServiceEntry
metadata: {name: far, namespace: default}
spec: {hosts: [far.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}
";

fn captured(node: Node) -> Node {
    Node { interception: Interception::Redirect, ..node }
}

/// What is said of port 443.
fn https(resources: &Resources) -> Vec<String> {
    let about = |line: &String| line.contains("_443 ");
    let what = |line: String| line.split_once(": ").map(|(_, what)| what.to_owned()).unwrap_or_default();
    listeners(resources).into_iter().filter(about).map(what).collect()
}

fn tls_rule(name: &str, hosts: &str, tls: &str) -> String {
    virtual_service(name, &format!("{{hosts: [{hosts}], tls: [{tls}]}}"))
}

fn to(host: &str) -> String {
    format!("route: [{{destination: {{host: {host}, port: {{number: 443}}}}}}]")
}

#[test]
fn handshakes_go_where_the_rule_for_their_server_name_says() {
    let far = "for far.example.com tcp far.example.com:443, else tcp PassthroughCluster";
    let (shop, other) = (to("shop"), to("far.example.com"));
    let own = |tls: &str| tls_rule("shop", "shop, '*.shop.example'", tls);
    for (what, rules, expected) in [
        ("no rule", String::new(), [far, "tcp shop.default:443"]),
        (
            "names apart, and nobody else comes in",
            own(&format!(
                "{{match: [{{sniHosts: [a.shop.example]}}], {shop}}}, {{match: [{{sniHosts: ['*.shop.example']}}], {other}}}"
            )),
            [
                far,
                "for a.shop.example tcp shop.default:443, for *.shop.example tcp far.example.com:443, \
                 else tcp BlackHoleCluster",
            ],
        ),
        (
            "of two rules for a name the first counts",
            own(&format!("{{match: [{{sniHosts: [shop]}}], {other}}}, {{match: [{{sniHosts: [shop]}}], {shop}}}")),
            [far, "for shop tcp far.example.com:443, else tcp BlackHoleCluster"],
        ),
        (
            "a rule for others is none",
            own(&format!("{{match: [{{sniHosts: [shop], sourceLabels: {{app: other}}}}], {other}}}")),
            [far, "tcp shop.default:443"],
        ),
        (
            "a rule for another port is none",
            own(&format!("{{match: [{{sniHosts: [shop], port: 8443}}], {other}}}")),
            [far, "tcp shop.default:443"],
        ),
        (
            "a network that the service is in",
            own(&format!("{{match: [{{sniHosts: [shop], port: 443, destinationSubnets: [10.96.0.0/16]}}], {other}}}")),
            [far, "for shop tcp far.example.com:443, else tcp BlackHoleCluster"],
        ),
        (
            "a service without an address",
            tls_rule(
                "far",
                "far.example.com, www.example.com",
                &format!("{{match: [{{sniHosts: [www.example.com]}}], {shop}}}"),
            ),
            ["for www.example.com tcp shop.default:443, else tcp PassthroughCluster", "tcp shop.default:443"],
        ),
        (
            "shares",
            own(
                "{match: [{sniHosts: [shop]}], route: [{destination: {host: shop}, weight: 9}, {destination: {host: far.example.com}, weight: 1}]}",
            ),
            [far, "for shop tcp 9 to shop.default:443, 1 to far.example.com:443, else tcp BlackHoleCluster"],
        ),
    ] {
        let found = https(&compile(&format!("{SHOPS}{rules}"), &captured(client())));
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn one_socket_serves_several_services_with_tls_by_their_names() {
    let sidecar = |hosts: &str| {
        let egress = format!("{{port: {{number: 443, protocol: TLS, name: tls}}, bind: 127.0.0.1, hosts: [{hosts}]}}");
        document("Sidecar", "own", &format!("{{egress: [{egress}]}}"))
    };
    for (hosts, expected) in [
        ("'*/far.example.com'", "tcp far.example.com:443"),
        (
            "'*/far.example.com', '*/near.example.com'",
            "for far.example.com tcp far.example.com:443, for near.example.com tcp near.example.com:443, \
             else tcp BlackHoleCluster",
        ),
    ] {
        let near = document(
            "ServiceEntry",
            "near",
            "{hosts: [near.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}",
        );
        let resources = compile(&format!("{SHOPS}{near}{}", sidecar(hosts)), &client());
        assert_eq!(https(&resources), [expected], "{hosts}");
    }
}

#[test]
fn the_rule_behind_a_way_is_found_in_the_list_it_stands_in() {
    let rule = virtual_service(
        "shop",
        &format!(
            "{{hosts: [shop],\n http: [{{route: [{{destination: {{host: shop}}}}]}}],\n tls: [{{match: [{{sniHosts: [shop]}}],\n {}}}],\n tcp: [{{{}}}]}}",
            to("shop"),
            to("shop")
        ),
    );
    let documents = documents(&format!("{SHOPS}{rule}"));
    let mesh = leno_config::mesh::Mesh::new(&documents);
    let resources = leno_config::compile::compile(&mesh, &captured(client()));
    let ListenerProtocol::Detect(detection) = &resources.listeners["10.96.0.1_443"].protocol else { panic!("by name") };
    let origin = detection.branches()[0].route.origin.as_ref().expect("a rule");
    let line = |index| mesh.place_of(&Origin { index, ..origin.clone() }).expect("a file").line;
    assert_eq!((origin.index, line(1), line(2)), (1, line(0) + 1, line(0) + 3), "`tls` has two lines");
}

#[test]
fn a_sidecars_ingress_ends_tls_where_the_meshs_own_is_off() {
    let tls = "mode: MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /r, caCrl: /l, \
               subjectAltNames: [a.example], minProtocolVersion: TLSV1_3";
    let with = |mode: &str, protocol: &str, capture: &str, tls: &str| {
        let sidecar = format!(
            "{{workloadSelector: {{labels: {{app: shop}}}}, ingress: [{{port: {{number: 8443, protocol: {protocol}}}, \
             bind: 127.0.0.2, captureMode: {capture}, defaultEndpoint: '127.0.0.1:80', tls: {{{tls}}}}}]}}"
        );
        let peer = format!("{{selector: {{matchLabels: {{app: shop}}}}, portLevelMtls: {{8443: {{mode: {mode}}}}}}}");
        let text = SHOPS.to_owned() + &document("Sidecar", "s", &sidecar) + &document("PeerAuthentication", "p", &peer);
        compile(&text, &captured(node("default", &[("app", "shop")])))
    };
    let callers = OutsideCallers {
        roots: Some("/r".to_owned()),
        revoked: Some("/l".to_owned()),
        subject_alt_names: vec!["a.example".to_owned()],
    };
    let full = ServerTls {
        certificate: Some("/c".to_owned()),
        key: Some("/k".to_owned()),
        credential: None,
        callers: Some(callers),
        min_version: TlsVersion::Tls13,
    };
    let secret = ServerTls { credential: Some("web".to_owned()), ..Default::default() };
    let is_http = |protocol: &ListenerProtocol| protocol.http().is_some();
    for (protocol, written, expected, http) in [
        ("HTTPS", tls, &full, true),
        ("TLS", tls, &full, false),
        ("HTTP", "mode: SIMPLE, credentialName: web", &secret, true),
        ("TCP", "mode: SIMPLE, credentialName: web", &secret, false),
    ] {
        let bound = with("DISABLE", protocol, "NONE", written);
        let listener = &bound.listeners["inbound_127.0.0.2_8443"];
        assert_eq!((listener.tls.as_deref(), listener.mtls), (Some(expected), MtlsMode::Disable), "{protocol}");
        assert_eq!(is_http(&listener.protocol), http, "{protocol}");
        let captured = with("DISABLE", protocol, "DEFAULT", written);
        let port = &captured.listeners["virtualInbound"].ports[&Port::new(8443).unwrap()];
        assert_eq!((port.tls.as_deref(), port.mtls), (Some(expected), MtlsMode::Disable), "{protocol}");
        assert_eq!(is_http(&port.protocol), http, "{protocol}");
    }
    for (mode, written) in [("STRICT", tls), ("PERMISSIVE", tls), ("DISABLE", "mode: ISTIO_MUTUAL")] {
        assert!(!with(mode, "HTTPS", "NONE", written).listeners.contains_key("inbound_127.0.0.2_8443"), "{mode}");
        let captured = with(mode, "HTTPS", "DEFAULT", written);
        let port = &captured.listeners["virtualInbound"].ports[&Port::new(8443).unwrap()];
        let ListenerProtocol::Tcp(route) = &port.protocol else { panic!("{mode}: nobody is let in") };
        assert_eq!(route.stat_prefix, "BlackHoleCluster", "{mode}");
    }
}

#[test]
fn what_a_client_shows_and_believes_may_come_from_a_secret() {
    for (mode, is_shown) in [("SIMPLE", false), ("MUTUAL", true)] {
        let rule = format!(
            "{{host: far.example.com, trafficPolicy: {{tls: {{mode: {mode}, credentialName: web, caCrl: /crl.pem}}}}}}"
        );
        let resources = compile(&format!("{SHOPS}{}", document("DestinationRule", "far", &rule)), &captured(client()));
        let UpstreamTls::External(tls) = &resources.clusters["outbound|443||far.example.com"].tls else {
            panic!("{mode}: to the outside")
        };
        assert_eq!(tls.credential, Some(Credential { name: "web".to_owned(), is_shown }));
        assert_eq!(tls.revoked.as_deref(), Some("/crl.pem"));
    }
}
