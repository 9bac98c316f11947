//! What holds for any rules: the outcome is whole, and does not depend on the order of the documents.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use leno_config::compile::compile;
use leno_config::ir::{Action, Discovery, Forward, HttpManager, Resources, RouteSource};
use leno_config::mesh::Mesh;
use leno_config::node::{Interception, Node};
use leno_config::xds::{self, Decoded};
use proptest::prelude::*;

use crate::support::{client, document, documents, node};

/// Every name leads somewhere, and nothing is there that nobody names: tables, clusters of services that are known,
/// endpoints of EDS clusters.
pub fn assert_consistent(resources: &Resources) {
    let mut addresses = HashSet::new();
    let mut tables = HashSet::new();
    for (name, listener) in &resources.listeners {
        assert_eq!(name, &listener.name);
        assert!(addresses.insert(listener.address), "two listeners at {}", listener.address);
        if let Some(HttpManager { routes: RouteSource::Named(table), .. }) = listener.protocol.http() {
            assert!(resources.routes.contains_key(table), "no table {table}");
            tables.insert(table);
        }
        for cluster in listener.protocols().flat_map(|it| it.tcp_routes()).flat_map(|route| route.clusters.as_slice()) {
            let name = cluster.cluster.as_str();
            let is_own = service(name).is_none();
            assert!(!is_own || resources.clusters.contains_key(name), "no cluster {name}");
        }
    }
    assert_eq!(tables.len(), resources.routes.len(), "a table that no listener names");
    let known: HashSet<_> = resources.clusters.keys().filter_map(|name| service(name.as_str())).collect();
    for forward in forwards(resources) {
        for weighted in forward.clusters.as_slice() {
            let name = weighted.cluster.as_str();
            let unknown = service(name).is_some_and(|service| !known.contains(&service));
            assert!(
                unknown || resources.clusters.contains_key(name) || has_no_such_subset(resources, name),
                "no cluster {name}"
            );
        }
    }
    for (name, cluster) in &resources.clusters {
        let eds = matches!(cluster.discovery, Discovery::Eds { .. });
        assert_eq!(eds, resources.endpoints.contains_key(name), "endpoints of {name}");
    }
    for (name, endpoints) in &resources.endpoints {
        assert_eq!(name, &endpoints.cluster);
        assert!(resources.clusters.contains_key(name), "endpoints of nobody: {name}");
        let addresses: HashSet<_> = endpoints.iter().map(|endpoint| &endpoint.address).collect();
        assert_eq!(addresses.len(), endpoints.iter().count(), "an endpoint stands twice in {name}");
    }
}

/// What a proxy understands of the messages is what was compiled.
pub fn assert_survives_the_wire(resources: &Resources) {
    for (kind, encoded) in xds::encode(resources, &xds::Flavour::Sidecar) {
        for (name, resource) in encoded {
            let decoded = xds::decode(kind, &resource.any).unwrap_or_else(|refusal| panic!("{refusal}"));
            let same = match decoded {
                Decoded::Cluster(cluster) => *resources.clusters[name.as_str()] == cluster,
                Decoded::Endpoints(endpoints) => *resources.endpoints[name.as_str()] == endpoints,
                Decoded::Secret(secret) => *resources.secrets[&name] == secret,
                Decoded::Listener(listener) => *resources.listeners[&name] == listener,
                Decoded::Route(routes) => *resources.routes[&name] == routes,
            };
            assert!(same, "{name} comes back different");
        }
    }
}

fn forwards(resources: &Resources) -> impl Iterator<Item = &Forward> {
    let routes = resources.routes.values().flat_map(|table| &table.virtual_hosts).flat_map(|host| &host.routes);
    routes.filter_map(|route| match &route.action {
        Action::Forward(forward) => Some(forward),
        Action::Redirect(_) | Action::Direct(_) => None,
    })
}

/// Port and host of a cluster of a service.
fn service(name: &str) -> Option<(String, String)> {
    match name.split('|').collect::<Vec<_>>().as_slice() {
        ["outbound", port, _, host] => Some(((*port).to_owned(), (*host).to_owned())),
        _ => None,
    }
}

fn has_no_such_subset(resources: &Resources, name: &str) -> bool {
    let parts: Vec<_> = name.split('|').collect();
    parts.len() == 4
        && !parts[2].is_empty()
        && resources.clusters.contains_key(format!("outbound|{}||{}", parts[1], parts[3]).as_str())
}

/// A few hosts and namespaces, so that rules meet each other.
fn any_document() -> impl Strategy<Value = (String, String)> {
    let namespace = || prop::sample::select(vec!["default", "web", "istio-system"]);
    let host = || {
        prop::sample::select(vec![
            "a.default.svc.cluster.local",
            "b.web.svc.cluster.local",
            "'*.svc.cluster.local'",
            "a",
            "b",
            "c.example.com",
        ])
    };
    let subset = || prop::sample::select(vec!["", ", subset: v1", ", subset: v2", ", subset: v3"]);
    let path = || {
        prop::sample::select(vec![
            "",
            "match: [{uri: {prefix: /x}}], ",
            "match: [{sourceLabels: {app: productpage}}], ",
            "match: [{port: 80}], ",
        ])
    };
    let export = || prop::sample::select(vec!["", ", exportTo: [.]", ", exportTo: ['*']", ", exportTo: [default]"]);
    let name = || "[a-c]";
    let entry = (host(), export(), 0..3_u8, prop::sample::select(vec!["STATIC", "DNS", "NONE"])).prop_map(
        |(host, export, count, resolution)| {
            let endpoints = (0..count)
                .map(|index| format!("{{address: 10.0.0.{index}, labels: {{version: v{index}}}}}"))
                .collect::<Vec<_>>();
            let ports = "ports: [{number: 80, name: http, protocol: HTTP}, {number: 5432, name: tcp, protocol: TCP}, \
                         {number: 443, name: tls, protocol: TLS}, {number: 7000, name: main}]";
            let addresses = ["", "addresses: [10.96.0.1, 'fd00::1'], ", "addresses: [10.7.0.0/16], "];
            let addresses = addresses[usize::from(count)];
            (
                "ServiceEntry",
                format!(
                    "{{hosts: [{host}], {addresses}{ports}, resolution: {resolution}, endpoints: [{}]{export}}}",
                    endpoints.join(", ")
                ),
            )
        },
    );
    let route = (host(), subset(), path(), host(), 0..3_i32).prop_map(|(to, subset, path, also, weight)| {
        let to = to.trim_matches('\'').trim_start_matches("*.");
        let also = also.trim_matches('\'').trim_start_matches("*.");
        format!("{{{path}route: [{{destination: {{host: {to}{subset}}}, weight: {weight}}}, {{destination: {{host: {also}}}, weight: 1}}]}}")
    });
    let virtual_service = (host(), export(), prop::collection::vec(route, 1..3)).prop_map(|(host, export, routes)| {
        ("VirtualService", format!("{{hosts: [{host}]{export}, http: [{}]}}", routes.join(", ")))
    });
    let destination_rule = (host(), export(), "v[1-3]", 1..5_u8).prop_map(|(host, export, subset, limit)| {
        let policy = format!("trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {limit}}}}}}}");
        (
            "DestinationRule",
            format!("{{host: {host}{export}, {policy}, subsets: [{{name: {subset}, labels: {{version: {subset}}}}}]}}"),
        )
    });
    let sidecar = prop::sample::select(vec!["'*/*'", "./*", "'*/a.default.svc.cluster.local'", "web/*"])
        .prop_map(|hosts| ("Sidecar", format!("{{egress: [{{hosts: [{hosts}]}}]}}")));
    let spec = prop_oneof![4 => entry, 4 => virtual_service, 3 => destination_rule, 1 => sidecar];
    (namespace(), name(), spec).prop_map(|(namespace, name, (kind, spec))| {
        (format!("{kind} {namespace}/{name}"), document(kind, &format!("{namespace}/{name}"), &spec))
    })
}

/// Documents with different names, in two orders.
fn two_orders() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    prop::collection::vec(any_document(), 1..12).prop_flat_map(|documents| {
        let documents: Vec<_> = documents.into_iter().collect::<HashMap<_, _>>().into_values().collect();
        (Just(documents.clone()), Just(documents).prop_shuffle())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_order_of_documents_does_not_matter((one, other) in two_orders()) {
        let captured = |node: Node| Node { interception: Interception::Redirect, ..node };
        for node in [client(), node("web", &[]), captured(client()), captured(node("web", &[]))] {
            let first = compile(&Mesh::new(&documents(&one.concat())), &node);
            assert_consistent(&first);
            assert_survives_the_wire(&first);
            prop_assert_eq!(first, compile(&Mesh::new(&documents(&other.concat())), &node));
        }
    }

    #[test]
    fn weights_keep_their_proportions(weights in prop::collection::vec(0..1_000_i32, 2..6)) {
        let destination = |(index, weight): (usize, &i32)| format!("{{destination: {{host: h{index}}}, weight: {weight}}}");
        let route = weights.iter().enumerate().map(destination).collect::<Vec<_>>().join(", ");
        let text = document("VirtualService", "v", &format!("{{hosts: [x.example.com], http: [{{route: [{route}]}}]}}"));
        let resources = compile(&Mesh::new(&documents(&text)), &client());
        let found: HashMap<_, _> = forwards(&resources)
            .filter(|forward| forward.retry.is_some())
            .flat_map(|forward| forward.clusters.as_slice())
            .map(|weighted| (weighted.cluster.to_string(), weighted.weight))
            .collect();
        let expected: HashMap<_, _> = weights
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight > 0)
            .map(|(index, weight)| (format!("outbound|80||h{index}.default.svc.cluster.local"), u32::try_from(*weight).unwrap()))
            .collect();
        prop_assert_eq!(found, expected);
    }
}

/// How long it takes is printed, not asserted: the machine may be busy with something else.
#[test]
fn five_thousand_hosts_compile_to_five_thousand_hosts() {
    let text = |count: usize| -> String {
        let one = |index: usize| {
            document("Service", &format!("default/s{index}"), "{selector: {app: s}, ports: [{name: http, port: 80}]}")
                .replace("app: s}", &format!("app: s{index}}}"))
                + &document(
                    "WorkloadEntry",
                    &format!("default/w{index}"),
                    &format!(
                        "{{address: 10.{}.{}.{}, labels: {{app: s{index}}}}}",
                        index >> 16,
                        index >> 8 & 255,
                        index & 255
                    ),
                )
                + &document(
                    "VirtualService",
                    &format!("default/v{index}"),
                    &format!(
                        "{{hosts: [s{index}], http: [{{match: [{{headers: {{x: {{regex: 'a+'}}}}}}], route: [{{destination: {{host: s{index}}}}}]}}]}}"
                    ),
                )
        };
        (0..count).map(one).collect()
    };
    let documents = documents(&text(5_000));
    let start = Instant::now();
    let resources = compile(&Mesh::new(&documents), &client());
    println!("compiled 5 000 hosts in {:?}", start.elapsed());
    let hosts = resources.routes.values().map(|table| table.virtual_hosts.len()).max();
    assert_eq!(hosts, Some(5_001), "one per service, and the one for all other hosts");
    assert_eq!(resources.endpoints.len(), 5_000);
}
