//! Sockets: without a Sidecar rule, with ingress, with egress.

use crate::render::{clusters, endpoints, listeners, outbound_clusters, virtual_host};
use crate::support::*;
use leno_config::compile::{compile as compile_for, scope};
use leno_config::ir::{Discovery, ListenerProtocol};
use leno_config::mesh::Mesh;

#[test]
fn without_a_sidecar_rule_there_is_one_http_socket_and_one_per_tcp_port() {
    let resources = compile(SERVICES, &client());
    assert_eq!(
        listeners(&resources),
        [
            "127.0.0.1_15001 Outbound 127.0.0.1:15001: http 15001",
            "127.0.0.1_27017 Outbound 127.0.0.1:27017: tcp mongo.default:27017",
        ]
    );
}

#[test]
fn ingress_listeners_lead_to_the_app() {
    let sidecar = document(
        "Sidecar",
        "reviews",
        "{workloadSelector: {labels: {app: reviews}}, inboundConnectionPool: {http: {http1MaxPendingRequests: 5}}, ingress: [
            {port: {number: 9080, protocol: HTTP, name: http}, bind: 127.0.0.2, defaultEndpoint: '127.0.0.1:8080'},
            {port: {number: 9081, protocol: GRPC}, defaultEndpoint: '0.0.0.0:8081', connectionPool: {http: {http1MaxPendingRequests: 6}}},
            {port: {number: 9082, protocol: TCP}},
            {port: {number: 9083, protocol: HTTP}, bind: 127.0.0.1},
            {port: {number: 9080, protocol: TCP}, bind: 0.0.0.0},
            {port: {number: 9084, protocol: HTTP}, defaultEndpoint: 'unix:///app'}, {port: {number: 0, protocol: HTTP}},
            {port: {number: 9086, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: reviews}},
            {port: {number: 9085, protocol: HTTP}, bind: nonsense}]}",
    );
    let resources = compile(&sidecar, &node("default", &[("app", "reviews")]));
    let retried = "2 retries on reset-before-request";
    assert_eq!(
        listeners(&resources)[1..],
        [
            "inbound_10.9.9.9_9081 Inbound 10.9.9.9:9081: http inbound|http|9081: default: /* => inbound|9081||; no retries".to_owned(),
            "inbound_10.9.9.9_9082 Inbound 10.9.9.9:9082: tcp inbound|9082||".to_owned(),
            format!("inbound_127.0.0.1_9083 Inbound 127.0.0.1:9083: http inbound|http|9083: default: /* => inbound|9083||; {retried}"),
            format!("inbound_127.0.0.2_9080 Inbound 127.0.0.2:9080: http inbound|http|9080: default: /* => inbound|9080||; {retried}"),
        ]
    );
    let app = |port: u16| {
        let cluster = &resources.clusters[format!("inbound|{port}||").as_str()];
        let Discovery::Static(members) = &cluster.discovery else { panic!() };
        (endpoints(members), cluster.limits.pending)
    };
    assert_eq!(app(9080), (vec!["127.0.0.1:8080".to_owned()], Some(5)));
    assert_eq!(app(9081), (vec!["10.9.9.9:8081".to_owned()], Some(6)), "0.0.0.0 is the node");
    assert_eq!(app(9082), (vec!["127.0.0.1:9082".to_owned()], Some(5)));
    assert_eq!(app(9083), (vec![], Some(5)), "the app cannot be where the listener is");
    let other = compile(&sidecar, &client());
    assert_eq!(listeners(&other), ["127.0.0.1_15001 Outbound 127.0.0.1:15001: http 15001"]);
}

#[test]
fn egress_listeners_with_ports_are_all_there_is() {
    let sidecar = document(
        "Sidecar",
        "default",
        "{egress: [{port: {number: 7000, protocol: HTTP, name: http}, hosts: ['*/*']},
                   {port: {number: 7000, protocol: HTTP, name: http}, bind: 127.0.0.3, hosts: ['./ratings.default.svc.cluster.local']},
                   {port: {number: 8080, protocol: HTTP, name: http}, hosts: ['./*']},
                   {port: {number: 7001, protocol: TCP, name: tcp}, hosts: ['./mongo.default.svc.cluster.local']}]}",
    );
    let resources = compile(&format!("{SERVICES}{sidecar}"), &client());
    assert_eq!(
        listeners(&resources),
        [
            "127.0.0.1_7000 Outbound 127.0.0.1:7000: http 7000",
            "127.0.0.1_7001 Outbound 127.0.0.1:7001: tcp mongo.default:27017",
            "127.0.0.1_8080 Outbound 127.0.0.1:8080: http 8080",
            "127.0.0.3_7000 Outbound 127.0.0.3:7000: http 127.0.0.3_7000",
        ]
    );
    let names =
        |table: &str| resources.routes[table].virtual_hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names("127.0.0.3_7000"), ["ratings.default.svc.cluster.local:9080", "allow_any"]);
    let bare = |table: &str, host: &str| {
        virtual_host(&resources, table, host).domains.iter().any(|domain| domain.to_string() == "shop")
    };
    assert!(bare("7000", "shop.default.svc.cluster.local:80"));
    assert!(
        bare("8080", "shop.default.svc.cluster.local:8080"),
        "on its own port a host without a port means that port"
    );
    assert!(!bare("8080", "shop.default.svc.cluster.local:80"));
}

#[test]
fn egress_hosts_choose_what_is_served() {
    let entry = |name: &str| {
        document(
            "ServiceEntry",
            name,
            &format!(
                "{{hosts: [{}.example.com], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC}}",
                name.replace('/', ".")
            ),
        )
    };
    let services = ["default/a", "default/b", "web/a"].map(entry).concat();
    for (hosts, expected) in [
        ("['*/*']", &["default.a", "default.b", "web.a"][..]),
        ("['./*']", &["default.a", "default.b"]),
        ("['web/*']", &["web.a"]),
        ("['*/default.a.example.com', 'web/*']", &["default.a", "web.a"]),
        ("['*/*.a.example.com']", &["default.a", "web.a"]),
        ("['./*.a.example.com']", &["default.a"]),
        ("['*/*.c.example.com']", &[]),
        ("['~/*']", &[]),
        ("['./web.a.example.com']", &[]),
        ("['nonsense']", &[]),
    ] {
        let sidecar = document("Sidecar", "default", &format!("{{egress: [{{hosts: {hosts}}}]}}"));
        let resources = compile(&(services.clone() + &sidecar), &client());
        let hosts_served =
            resources.routes["15001"].virtual_hosts.iter().filter_map(|host| host.name.strip_suffix(".example.com:80"));
        assert_eq!(hosts_served.collect::<Vec<_>>(), expected, "{hosts}");
        assert_eq!(outbound_clusters(&resources).len(), expected.len() + 1, "no clusters for others");
    }
}

#[test]
fn egress_hosts_choose_virtual_services_too() {
    let rule = document(
        "VirtualService",
        "web/reviews",
        "{hosts: [reviews.default.svc.cluster.local], http: [{route: [{destination: {host: ratings.default.svc.cluster.local}}]}]}",
    );
    for (hosts, ruled) in [
        ("['*/*']", true),
        ("['./*']", false),
        ("['./*', 'web/reviews.default.svc.cluster.local']", true),
        ("['./*', 'web/*']", true),
    ] {
        let sidecar = document("Sidecar", "default", &format!("{{egress: [{{hosts: {hosts}}}]}}"));
        let resources = compile(&format!("{SERVICES}{rule}{sidecar}"), &client());
        let rows = crate::render::routes(&resources, "reviews.default.svc.cluster.local:9080");
        assert_eq!(rows[0].contains("ratings"), ruled, "{hosts}");
    }
}

#[test]
fn the_sidecar_rule_is_the_selecting_then_the_namespaces_then_the_meshs() {
    let rule = |name: &str, selector: &str, port: u16| {
        document(
            "Sidecar",
            name,
            &format!("{{{selector}egress: [{{port: {{number: {port}, protocol: HTTP}}, hosts: ['*/*']}}]}}"),
        )
    };
    let selecting = rule("default/a", "workloadSelector: {labels: {app: productpage}}, ", 1);
    let general = rule("default/b", "", 2);
    let mesh = rule("istio-system/c", "", 3);
    let all = selecting + &general + &mesh;
    for (node, port) in [(client(), "1"), (node("default", &[]), "2"), (node("web", &[]), "3")] {
        assert_eq!(compile(&all, &node).routes.keys().collect::<Vec<_>>(), [port]);
    }
}

#[test]
fn tcp_rules_are_chosen_when_compiling() {
    let check = |tcp: &str, expected: &str| {
        let subsets = document(
            "DestinationRule",
            "mongo",
            "{host: mongo, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}",
        );
        let rule = virtual_service("mongo", &format!("{{hosts: [mongo], tcp: {tcp}}}"));
        let resources = compile(&format!("{SERVICES}{subsets}{rule}"), &client());
        let ListenerProtocol::Tcp(route) = &resources.listeners["127.0.0.1_27017"].protocol else { panic!() };
        assert_eq!(clusters(&route.clusters), expected, "{tcp}");
    };
    let to = |subset: &str| format!("route: [{{destination: {{host: mongo, subset: {subset}}}}}]");
    check("[]", "mongo.default:27017");
    check(&format!("[{{{}}}]", to("v1")), "mongo.default:27017/v1");
    check(
        "[{route: [{destination: {host: mongo, subset: v1}, weight: 30}, {destination: {host: mongo, subset: v2}, weight: 10}]}]",
        "30 to mongo.default:27017/v1, 10 to mongo.default:27017/v2",
    );
    for (block, holds) in [
        ("port: 27017", true),
        ("port: 1", false),
        ("sourceLabels: {app: productpage}", true),
        ("sourceLabels: {app: other}", false),
        ("sourceNamespace: default", true),
        ("sourceNamespace: other", false),
        ("gateways: [mesh]", true),
        ("gateways: [edge]", false),
        ("destinationSubnets: [127.0.0.0/8]", true),
        ("destinationSubnets: [10.0.0.0/8]", false),
    ] {
        let rules = format!("[{{match: [{{{block}}}], {}}}, {{{}}}]", to("v1"), to("v2"));
        check(&rules, if holds { "mongo.default:27017/v1" } else { "mongo.default:27017/v2" });
    }
}

#[test]
fn a_tcp_port_of_two_services_is_the_own_namespaces_then_the_oldests() {
    let entry = |name: &str, created: &str| {
        format!(
            "\n---\nkind: ServiceEntry\nmetadata: {{name: {}, namespace: {}, creationTimestamp: '{created}'}}\nspec: {{hosts: [{}.example.com], ports: [{{number: 5432, name: tcp, protocol: TCP}}], resolution: STATIC}}\n",
            name.split('/').nth(1).unwrap(),
            name.split('/').next().unwrap(),
            name.replace('/', ".")
        )
    };
    let all = entry("web/b", "2024-01-01T00:00:00Z")
        + &entry("web/a", "2025-01-01T00:00:00Z")
        + &entry("api/c", "2026-01-01T00:00:00Z");
    for (namespace, host) in [("default", "web.b"), ("web", "web.b"), ("api", "api.c")] {
        let resources = compile(&all, &node(namespace, &[]));
        let expected = format!("127.0.0.1_5432 Outbound 127.0.0.1:5432: tcp {host}.example.com:5432");
        assert!(listeners(&resources).contains(&expected), "{namespace}: {:?}", listeners(&resources));
    }
}

#[test]
fn proxies_of_one_scope_get_equal_resources() {
    let sidecar = document(
        "Sidecar",
        "default",
        "{ingress: [{port: {number: 9080, protocol: HTTP}, bind: 127.0.0.1, defaultEndpoint: '127.0.0.1:80'}]}",
    );
    let bound = document("Sidecar", "default", "{ingress: [{port: {number: 9080, protocol: HTTP}}]}");
    let rule = reviews("[{match: [{sourceLabels: {app: productpage}}], route: [{destination: {host: ratings}}]}]");
    let mut replica = node("default", &[("app", "productpage"), ("pod-template-hash", "x")]);
    replica.name = "client-2".into();
    replica.ip = "10.9.9.10".parse().unwrap();
    for (rules, same) in [(format!("{SERVICES}{rule}{sidecar}"), true), (format!("{SERVICES}{rule}{bound}"), false)] {
        let mesh = Mesh::new(&documents(&rules));
        assert_eq!(scope(&mesh, &client()) == scope(&mesh, &replica), same);
        assert_eq!(compile_for(&mesh, &client()) == compile_for(&mesh, &replica), same);
        assert_ne!(scope(&mesh, &client()), scope(&mesh, &node("default", &[])), "a label that a rule asks for");
        assert_ne!(scope(&mesh, &client()), scope(&mesh, &node("web", &[("app", "productpage")])));
    }
}

#[test]
fn telemetry_is_told_the_service_of_a_cluster_and_the_workload_of_an_endpoint() {
    const REVIEWS: &str = "reviews.default.svc.cluster.local";
    let sidecar = |selector: &str| {
        let ports = "{port: {number: 9080, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8080'}, {port: {number: 9081, protocol: HTTP}}";
        SERVICES.to_owned() + &document("Sidecar", "own", &format!("{{{selector}ingress: [{ports}]}}"))
    };
    let node = node("default", &[("app", "reviews")]);
    let resources = compile(&sidecar("workloadSelector: {labels: {app: reviews}}, "), &node);
    let service = |cluster: &str| resources.clusters[cluster].service.clone();
    for cluster in
        ["inbound|9080||".to_owned(), format!("outbound|9080||{REVIEWS}"), format!("outbound|9080|v1|{REVIEWS}")]
    {
        let told = service(&cluster).expect(&cluster);
        assert_eq!([&*told.host, &*told.name, &*told.namespace], [REVIEWS, "reviews", "default"], "{cluster}");
    }
    assert_eq!(service("inbound|9081||"), None, "no service is at that port");
    let everybody = compile(&sidecar(""), &node);
    assert_eq!(everybody.clusters["inbound|9080||"].service, None, "it could be any of several services");
    let members = &resources.endpoints[format!("outbound|9080|v2|{REVIEWS}").as_str()];
    let workloads: Vec<_> = members.iter().filter_map(|endpoint| endpoint.workload.clone()).collect();
    assert_eq!(workloads.iter().map(|it| [&*it.namespace, &*it.name]).collect::<Vec<_>>(), [["default", "reviews-v2"]]);
}
