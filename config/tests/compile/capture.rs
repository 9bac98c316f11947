//! Captured connections: which listeners there are, and where they lead.

use std::net::IpAddr;

use crate::render::{clusters, listeners, outbound_clusters, virtual_host};
use crate::support::*;
use leno_config::compile::scope;
use leno_config::ir::{Discovery, ListenerProtocol, MtlsMode, Port, Resources, UpstreamProtocol, UpstreamTls};
use leno_config::mesh::Mesh;
use leno_config::node::{Interception, Node};

/// Services with addresses, as Kubernetes has them: two for requests, one for bytes, one that says nothing, a headless one.
const CLUSTER: &str = "
kind: Service
metadata: {name: reviews, namespace: default}
spec: {clusterIP: 10.96.0.1, selector: {app: reviews}, ports: [{name: http, port: 9080, targetPort: 8080}]}
---
kind: Service
metadata: {name: ratings, namespace: default}
spec: {clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2, 'fd00::2'], selector: {app: ratings}, ports: [{name: grpc, port: 9080}]}
---
kind: Service
metadata: {name: mysql, namespace: default}
spec: {clusterIP: 10.96.0.3, clusterIPs: [10.96.0.3, 'fd00::3'], selector: {app: mysql}, ports: [{name: tcp, port: 3306}, {name: tcp-admin, port: 9080}]}
---
kind: Service
metadata: {name: legacy, namespace: default}
spec: {clusterIP: 10.96.0.4, selector: {app: legacy}, ports: [{name: main, port: 7000}]}
---
kind: Service
metadata: {name: redis, namespace: default}
spec: {clusterIP: None, selector: {app: redis}, ports: [{name: tcp, port: 6379, targetPort: 6380}]}
---
kind: WorkloadEntry
metadata: {name: redis-0}
spec: {address: 10.0.5.1, labels: {app: redis, security.istio.io/tlsMode: istio}, serviceAccount: redis}
---
kind: WorkloadEntry
metadata: {name: redis-1}
spec: {address: 10.0.5.2, labels: {app: redis, security.istio.io/tlsMode: istio}, serviceAccount: redis}
";

fn captured(node: Node) -> Node {
    Node { interception: Interception::Redirect, ..node }
}

/// The sidecar of some other workload.
fn caller() -> Node {
    captured(client())
}

/// What is captured on its way out.
fn outbound(resources: &Resources) -> Vec<String> {
    let lines = listeners(resources);
    lines.split(|line| line.starts_with("virtualInbound ")).next().unwrap_or_default().to_vec()
}

/// What is captured on its way in.
fn inbound(resources: &Resources) -> Vec<String> {
    let lines = listeners(resources);
    let rest = lines.iter().skip_while(|line| !line.starts_with("virtualInbound "));
    rest.take_while(|line| !line.starts_with("virtualOutbound ")).cloned().collect()
}

fn entry(name: &str, spec: &str) -> String {
    document("ServiceEntry", name, &format!("{{hosts: [{name}.example.com], {spec}}}"))
}

const CATCH_ALL: [&str; 2] = [
    "virtualOutbound Outbound captures 0.0.0.0:15001 and [::]:15001: tcp PassthroughCluster",
    "  15001: tcp BlackHoleCluster",
];

fn catch_all(resources: &Resources) -> Vec<String> {
    listeners(resources).into_iter().skip_while(|line| !line.starts_with("virtualOutbound ")).collect()
}

#[test]
fn requests_share_a_port_and_bytes_have_the_addresses_of_their_services() {
    let resources = compile(CLUSTER, &caller());
    assert_eq!(
        outbound(&resources),
        [
            "0.0.0.0_9080 Outbound handed 0.0.0.0:9080 and [::]:9080: http 9080",
            "10.0.5.1_6380 Outbound handed 10.0.5.1:6380: tcp redis.default:6379",
            "10.0.5.2_6380 Outbound handed 10.0.5.2:6380: tcp redis.default:6379",
            "10.96.0.3_3306 Outbound handed 10.96.0.3:3306 and [fd00::3]:3306: tcp mysql.default:3306",
            "10.96.0.3_9080 Outbound handed 10.96.0.3:9080 and [fd00::3]:9080: tcp mysql.default:9080",
            "10.96.0.4_7000 Outbound handed 10.96.0.4:7000: http legacy.default.svc.cluster.local:7000, else tcp legacy.default:7000",
        ]
    );
    assert_eq!(catch_all(&resources), CATCH_ALL);
    let domains = |table: &str, host: &str| {
        virtual_host(&resources, table, host).domains.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        domains("9080", "ratings.default.svc.cluster.local:9080"),
        [
            "ratings.default.svc.cluster.local",
            "ratings.default.svc.cluster.local:9080",
            "ratings",
            "ratings:9080",
            "ratings.default",
            "ratings.default:9080",
            "ratings.default.svc",
            "ratings.default.svc:9080",
            "10.96.0.2",
            "10.96.0.2:9080",
            "[fd00::2]",
            "[fd00::2]:9080",
        ]
    );
    let hosts = |table: &str| resources.routes[table].virtual_hosts.iter().map(|host| &*host.name).collect::<Vec<_>>();
    let own = "legacy.default.svc.cluster.local:7000";
    assert_eq!(hosts("9080").len(), 3, "no host of another port, and one for all others: {:?}", hosts("9080"));
    assert_eq!(hosts(own), [own, "allow_any"]);
}

#[test]
fn what_belongs_to_nobody_goes_where_it_was_meant_to_or_nowhere() {
    let passed = compile(CLUSTER, &caller());
    let cluster = &passed.clusters["PassthroughCluster"];
    assert_eq!(cluster.discovery, Discovery::OriginalDestination);
    assert_eq!(cluster.protocol, UpstreamProtocol::AsDownstream);
    let closed = document("MeshConfig", "mesh", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}");
    let resources = compile(&format!("{CLUSTER}{closed}"), &caller());
    assert!(catch_all(&resources)[0].ends_with(": tcp BlackHoleCluster"), "{:?}", catch_all(&resources));
    let remainder = crate::render::route(&virtual_host(&resources, "9080", "block_all").routes[0]);
    assert_eq!(remainder, "block_all: /* => answer 502 \"\"");
    assert!(!outbound_clusters(&resources).contains(&"PassthroughCluster".to_owned()));
    let Discovery::Static(nobody) = &resources.clusters["BlackHoleCluster"].discovery else { panic!("endpoints") };
    assert_eq!(nobody.iter().count(), 0);
}

#[test]
fn a_port_that_several_share_is_told_by_each_connection() {
    let anywhere =
        |protocol: &str| format!("ports: [{{number: 9080, name: p, protocol: {protocol}}}], resolution: STATIC");
    let tls = "ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS";
    for (what, text, expected) in [
        (
            "bytes without an address beside requests",
            CLUSTER.to_owned() + &entry("db", &anywhere("TCP")),
            "0.0.0.0_9080 Outbound handed 0.0.0.0:9080 and [::]:9080: http 9080, else tcp db.example.com:9080",
        ),
        (
            "bytes without an address alone",
            entry("db", &anywhere("TCP")),
            "0.0.0.0_9080 Outbound handed 0.0.0.0:9080 and [::]:9080: tcp db.example.com:9080",
        ),
        (
            "TLS by server name",
            entry("b", tls) + &entry("a", tls),
            "0.0.0.0_443 Outbound handed 0.0.0.0:443 and [::]:443: for a.example.com tcp a.example.com:443, \
             for b.example.com tcp b.example.com:443, else tcp PassthroughCluster",
        ),
        (
            "a range of addresses",
            entry("db", &format!("addresses: [10.7.0.0/16], {}", anywhere("TCP"))),
            "0.0.0.0_9080 Outbound handed 0.0.0.0:9080 and [::]:9080: to 10.7.0.0/16 tcp db.example.com:9080, \
             else tcp PassthroughCluster",
        ),
        (
            "an address written as a range of one",
            entry("db", &format!("addresses: [10.7.0.1/32], {}", anywhere("TCP"))),
            "10.7.0.1_9080 Outbound handed 10.7.0.1:9080: tcp db.example.com:9080",
        ),
    ] {
        let lines = outbound(&compile(&text, &caller()));
        assert!(lines.contains(&expected.to_owned()), "{what}: {lines:#?}");
    }
}

#[test]
fn a_service_that_its_clients_find_themselves_is_called_where_they_meant() {
    let text = entry(
        "web",
        "ports: [{number: 80, name: http, protocol: HTTP}, {number: 5000, name: tcp, protocol: TCP}], resolution: NONE",
    );
    let resources = compile(&text, &caller());
    for port in [80, 5000] {
        let cluster = &resources.clusters[format!("outbound|{port}||web.example.com").as_str()];
        assert_eq!(cluster.discovery, Discovery::OriginalDestination, "{port}");
    }
    assert!(outbound(&resources)[0].starts_with("0.0.0.0_5000 "), "{:?}", outbound(&resources));
}

#[test]
fn the_endpoint_of_a_headless_service_that_the_app_has_chosen_is_called_with_mesh_tls_where_all_have_it() {
    let tls = |text: &str| {
        let resources = compile(text, &caller());
        let cluster = &resources.clusters["outbound|6379||redis.default.svc.cluster.local"];
        assert_eq!(cluster.discovery, Discovery::OriginalDestination);
        cluster.tls.clone()
    };
    let UpstreamTls::Mesh(mesh) = tls(CLUSTER) else { panic!("all of them have it") };
    assert_eq!(mesh.identities, ["spiffe://cluster.local/ns/default/sa/redis"]);
    let plain = document("WorkloadEntry", "redis-2", "{address: 10.0.5.3, labels: {app: redis}}");
    assert_eq!(tls(&format!("{CLUSTER}{plain}")), UpstreamTls::Plain);
}

#[test]
fn a_host_that_only_a_virtual_service_knows_is_served_on_port_80() {
    let rule = virtual_service(
        "v",
        "{hosts: [shop.example.com], http: [{route: [{destination: {host: reviews, port: {number: 9080}}}]}]}",
    );
    let resources = compile(&format!("{CLUSTER}{rule}"), &caller());
    assert!(resources.listeners.contains_key("0.0.0.0_80"));
    assert_eq!(resources.routes["80"].virtual_hosts.len(), 2);
    assert_eq!(resources.routes["9080"].virtual_hosts.len(), 3, "on other ports it is unknown");
    assert!(!compile(CLUSTER, &caller()).listeners.contains_key("0.0.0.0_80"));
}

#[test]
fn egress_listeners_narrow_what_is_known_and_open_sockets_only_where_nothing_is_captured() {
    let egress = |egress: &str| {
        let sidecar = document("Sidecar", "default", &format!("{{egress: [{egress}]}}"));
        outbound(&compile(&format!("{CLUSTER}{sidecar}"), &caller()))
    };
    assert_eq!(
        egress("{hosts: ['./reviews.default.svc.cluster.local']}"),
        ["0.0.0.0_9080 Outbound handed 0.0.0.0:9080 and [::]:9080: http 9080"]
    );
    assert_eq!(
        egress("{port: {number: 3306, protocol: TCP}, hosts: ['./*']}"),
        ["10.96.0.3_3306 Outbound handed 10.96.0.3:3306 and [fd00::3]:3306: tcp mysql.default:3306"],
        "no other port is known"
    );
    assert_eq!(
        egress("{port: {number: 9080, protocol: HTTP}, bind: 10.96.0.1, hosts: ['./*']}")[0],
        "10.96.0.1_9080 Outbound handed 10.96.0.1:9080: http 10.96.0.1_9080"
    );
    assert_eq!(
        egress("{port: {number: 8000, protocol: HTTP}, captureMode: NONE, hosts: ['./*']}"),
        ["127.0.0.1_8000 Outbound 127.0.0.1:8000: http 8000"]
    );
}

/// The sidecar of `reviews`.
fn reviews_node() -> Node {
    captured(node("default", &[("app", "reviews"), ("version", "v1")]))
}

#[test]
fn connections_to_the_app_are_served_by_the_ports_of_its_services() {
    let more = "\n---\nkind: Service\nmetadata: {name: reviews-raw, namespace: default}\nspec: {clusterIP: 10.96.1.1, selector: {app: reviews}, ports: [{name: tcp, port: 1, targetPort: 9000}, {name: x, port: 2, targetPort: 9001}, {name: http-health, port: 3, targetPort: 15021}]}\n";
    let resources = compile(&format!("{CLUSTER}{more}"), &reviews_node());
    let retried = "2 retries on reset-before-request";
    assert_eq!(
        inbound(&resources),
        [
            format!(
                "virtualInbound Inbound captures 0.0.0.0:15006 and [::]:15006: http InboundPassthroughCluster: default: /* => InboundPassthroughCluster; {retried}, else tcp InboundPassthroughCluster"
            ),
            format!("  8080: http inbound|http|8080: default: /* => inbound|8080||; {retried}"),
            "  9000: tcp inbound|9000||".to_owned(),
            format!(
                "  9001: http inbound|http|9001: default: /* => inbound|9001||; {retried}, else tcp inbound|9001||"
            ),
            "  15006: tcp BlackHoleCluster".to_owned(),
        ],
        "the proxy's own ports are never among them"
    );
    for name in ["inbound|8080||", "inbound|9000||", "inbound|9001||", "InboundPassthroughCluster"] {
        let cluster = &resources.clusters[name];
        assert_eq!(cluster.discovery, Discovery::OriginalDestination, "{name}");
        let sources: Vec<IpAddr> = vec!["127.0.0.6".parse().unwrap(), "::6".parse().unwrap()];
        assert_eq!(cluster.source_addresses, sources, "{name}");
    }
    assert_eq!(resources.clusters["inbound|8080||"].service.as_ref().unwrap().name, "reviews");
    let names: Vec<_> = resources.listeners["virtualInbound"].handed_ports().map(|it| it.name).collect();
    assert_eq!(names[0], "inbound_0.0.0.0_8080");
}

#[test]
fn a_port_of_the_workload_itself_is_found_by_its_name() {
    let service = "\n---\nkind: Service\nmetadata: {name: named, namespace: default}\nspec: {clusterIP: 10.96.2.1, selector: {app: named}, ports: [{name: http, port: 80, targetPort: web}]}\n";
    let workload = |ip: &str| {
        document("WorkloadEntry", "w", &format!("{{address: {ip}, labels: {{app: named}}, ports: {{web: 8888}}}}"))
    };
    let own = captured(node("default", &[("app", "named")]));
    for (text, what) in [
        (service.to_owned() + &workload("10.9.9.9"), "where it is listed"),
        (service.to_owned() + &workload("10.9.9.8"), "where one of its kind is"),
    ] {
        assert!(inbound(&compile(&text, &own))[1].starts_with("  8888: http"), "{what}");
    }
    assert_eq!(inbound(&compile(service, &own)).len(), 2, "nobody knows it yet");
}

#[test]
fn every_port_is_entered_as_its_policies_say_and_the_others_as_the_workloads_do() {
    let peers = document(
        "PeerAuthentication",
        "p",
        "{selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}, 7777: {mode: DISABLE}}}",
    );
    let policy = document(
        "AuthorizationPolicy",
        "a",
        "{action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}], from: [{source: {namespaces: [web]}}]}]}",
    );
    let resources = compile(&format!("{CLUSTER}{peers}{policy}"), &reviews_node());
    let listener = &resources.listeners["virtualInbound"];
    let port = |number: u16| &listener.ports[&Port::new(number).unwrap()];
    assert_eq!(listener.mtls, MtlsMode::Strict);
    assert_eq!(port(8080).mtls, MtlsMode::Permissive);
    assert_eq!(port(7777).mtls, MtlsMode::Disable);
    assert_eq!(listener.authorization, port(8080).authorization);
    let ListenerProtocol::Detect(detection) = &listener.protocol else { panic!("each connection tells") };
    let of = |authorization| crate::render::authorization(authorization);
    assert!(of(&listener.authorization)[0].contains(":method"), "{:?}", of(&listener.authorization));
    assert!(!of(&detection.authorization)[0].contains(":method"), "bytes have no method, so they are denied without");
}

#[test]
fn the_ingress_listeners_of_a_sidecar_rule_replace_the_ports_of_services() {
    let sidecar = document(
        "Sidecar",
        "reviews",
        "{workloadSelector: {labels: {app: reviews}}, ingress: [
            {port: {number: 9000, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8080'},
            {port: {number: 9001, protocol: TCP}},
            {port: {number: 9002, protocol: GRPC}, defaultEndpoint: '0.0.0.0:8082'},
            {port: {number: 9003, protocol: TCP}, defaultEndpoint: '0.0.0.0:9003'},
            {port: {number: 9004, protocol: HTTP}, defaultEndpoint: 'unix:///app'},
            {port: {number: 9005, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: reviews}},
            {port: {number: 9006, protocol: TCP}, captureMode: NONE, bind: 127.0.0.2}]}",
    );
    let resources = compile(&format!("{CLUSTER}{sidecar}"), &reviews_node());
    let lines = inbound(&resources);
    let ports: Vec<_> = lines[1..].iter().map(|line| line.split(": default").next().unwrap()).collect();
    assert_eq!(
        ports,
        [
            "  9000: http inbound|http|9000",
            "  9001: tcp inbound|9001||",
            "  9002: http inbound|http|9002",
            "  9003: tcp inbound|9003||",
            "  9004: tcp BlackHoleCluster",
            "  9005: tcp BlackHoleCluster",
            "  15006: tcp BlackHoleCluster",
        ]
    );
    assert!(listeners(&resources).iter().any(|line| line.starts_with("inbound_127.0.0.2_9006 Inbound 127.0.0.2:9006")));
    let app = |port: u16| match &resources.clusters[format!("inbound|{port}||").as_str()].discovery {
        Discovery::Static(members) => crate::render::endpoints(members),
        Discovery::OriginalDestination => vec!["where it was meant".to_owned()],
        other => panic!("{other:?}"),
    };
    assert_eq!(app(9000), ["127.0.0.1:8080"]);
    assert_eq!(app(9001), ["where it was meant"]);
    assert_eq!(app(9002), ["10.9.9.9:8082"]);
    assert_eq!(app(9003), ["where it was meant"]);
}

#[test]
fn replicas_of_a_workload_are_one_scope_and_workloads_of_other_services_are_not() {
    let mesh = Mesh::new(&documents(CLUSTER));
    let replica = Node { ip: "10.9.9.10".parse().unwrap(), name: "client-2".into(), ..reviews_node() };
    assert_eq!(scope(&mesh, &reviews_node()), scope(&mesh, &replica));
    let ratings = captured(node("default", &[("app", "ratings")]));
    assert_ne!(scope(&mesh, &reviews_node()), scope(&mesh, &ratings));
    assert_ne!(scope(&mesh, &reviews_node()), scope(&mesh, &node("default", &[("app", "reviews")])));
}

#[test]
fn without_capture_an_undeclared_port_is_bytes() {
    let lines = listeners(&compile(CLUSTER, &client()));
    assert!(
        lines.contains(&"127.0.0.1_7000 Outbound 127.0.0.1:7000: tcp legacy.default:7000".to_owned()),
        "{lines:#?}"
    );
}

#[test]
fn rules_for_bytes_see_the_address_that_was_called() {
    for (subnet, expected) in [("10.96.0.0/16", "mysql.default:3306/v1"), ("127.0.0.0/8", "mysql.default:3306")] {
        let subsets =
            document("DestinationRule", "mysql", "{host: mysql, subsets: [{name: v1, labels: {version: v1}}]}");
        let rule = virtual_service(
            "mysql",
            &format!(
                "{{hosts: [mysql], tcp: [{{match: [{{destinationSubnets: [{subnet}]}}], route: [{{destination: {{host: mysql, subset: v1}}}}]}}]}}"
            ),
        );
        let resources = compile(&format!("{CLUSTER}{subsets}{rule}"), &caller());
        let ListenerProtocol::Tcp(route) = &resources.listeners["10.96.0.3_3306"].protocol else { panic!("bytes") };
        assert_eq!(clusters(&route.clusters), expected, "{subnet}");
    }
}
