//! Nothing is lost on the wire, and versions depend on nothing but the resource.

use std::process::Command;
use std::sync::Arc;

use leno_config::ir::{self, Resources, version};
use leno_config::xds::{
    Decoded, Encoded, Flavour, Kind, decode, encode, encode_cluster, encode_endpoints, encode_listener, encode_route,
    encode_secret, node_from_xds, node_to_xds,
};
use proptest::prelude::*;

use crate::messages;
use crate::strategies;

fn decoded(kind: Kind, encoded: &Encoded) -> Decoded {
    decode(kind, &encoded.any).unwrap_or_else(|refusal| panic!("{refusal}"))
}

proptest! {
    #[test]
    fn a_route_table_comes_back_as_it_was_sent(table in strategies::route_config()) {
        let encoded = encode_route(&table);
        prop_assert_eq!(&encoded.version, &version(&table));
        prop_assert_eq!(decoded(Kind::Route, &encoded), Decoded::Route(table));
    }

    #[test]
    fn a_listener_comes_back_as_it_was_sent(listener in strategies::listener()) {
        let encoded = encode_listener(&listener, &Flavour::Sidecar);
        prop_assert_eq!(&encoded.version, &version(&listener));
        prop_assert_eq!(decoded(Kind::Listener, &encoded), Decoded::Listener(listener));
    }

    #[test]
    fn a_cluster_comes_back_as_it_was_sent(cluster in strategies::cluster()) {
        let encoded = encode_cluster(&cluster, &Flavour::Sidecar);
        prop_assert_eq!(&encoded.version, &version(&cluster));
        prop_assert_eq!(decoded(Kind::Cluster, &encoded), Decoded::Cluster(cluster));
    }

    #[test]
    fn endpoints_come_back_as_they_were_sent(endpoints in strategies::endpoints()) {
        let encoded = encode_endpoints(&endpoints);
        prop_assert_eq!(&encoded.version, &version(&endpoints));
        prop_assert_eq!(decoded(Kind::Endpoints, &encoded), Decoded::Endpoints(endpoints));
    }

    #[test]
    fn a_secret_comes_back_as_it_was_sent(secret in strategies::secret()) {
        let encoded = encode_secret(&secret);
        prop_assert_eq!(&encoded.version, &version(&secret));
        prop_assert_eq!(decoded(Kind::Secret, &encoded), Decoded::Secret(secret));
    }

    #[test]
    fn a_node_comes_back_as_it_was_sent(node in strategies::node()) {
        prop_assert_eq!(node_from_xds(&node_to_xds(&node)), Ok(node));
    }

    /// What the proxy keeps of a resource has the version that the control plane gave it.
    #[test]
    fn a_resource_that_was_read_has_the_version_it_was_sent_with(table in strategies::route_config()) {
        let encoded = encode_route(&table);
        let Decoded::Route(read) = decoded(Kind::Route, &encoded) else { panic!("a route table") };
        prop_assert_eq!(encode_route(&read).version, encoded.version);
    }
}

fn resources() -> Resources {
    let mut resources = Resources::default();
    let listener = messages::ir_listener();
    resources.listeners.insert(listener.name.clone(), Arc::new(listener));
    let table = messages::ir_route_table();
    resources.routes.insert(table.name.clone(), Arc::new(table));
    for cluster in messages::ir_clusters() {
        resources.clusters.insert(cluster.name.clone(), Arc::new(cluster));
    }
    let endpoints = messages::ir_endpoints();
    resources.endpoints.insert(endpoints.cluster.clone(), Arc::new(endpoints));
    let secret = messages::ir_secret();
    resources.secrets.insert(secret.name.clone(), Arc::new(secret));
    resources
}

#[test]
fn a_whole_snapshot_is_encoded_under_the_names_that_are_asked_for() {
    let encoded = encode(&resources(), &Flavour::Sidecar);
    assert_eq!(encoded.keys().copied().collect::<Vec<_>>(), Kind::PUSH_ORDER);
    for (kind, encoded) in encoded {
        assert!(!encoded.is_empty(), "no {}", kind.label());
        for (name, encoded) in encoded {
            assert_eq!(encoded.any.type_url, kind.url());
            assert_eq!(decoded(kind, &encoded).name(), name);
        }
    }
}

#[test]
fn every_kind_is_found_by_its_type_and_no_other() {
    for kind in Kind::PUSH_ORDER {
        assert_eq!(Kind::from_url(kind.url()), Some(kind));
    }
    assert_eq!(Kind::from_url("type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"), None);
}

/// All versions of one snapshot, a line each.
fn versions() -> String {
    let encoded = encode(&resources(), &Flavour::Sidecar);
    let lines = encoded.iter().flat_map(|(kind, encoded)| {
        encoded.iter().map(move |(name, encoded)| format!("version {} {name} {}", kind.label(), encoded.version))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// For the test below, which runs it in other processes.
#[test]
fn versions_are_printed() {
    println!("{}", versions());
}

#[test]
fn versions_are_equal_in_all_processes() {
    let this = std::env::current_exe().unwrap();
    for _ in 0..3 {
        let output =
            Command::new(&this).args(["--exact", "round_trip::versions_are_printed", "--nocapture"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let printed: Vec<_> = text.lines().filter_map(|line| line.find("version ").map(|at| &line[at..])).collect();
        assert_eq!(printed.join("\n"), versions());
    }
}

#[test]
fn a_version_does_not_depend_on_the_order_in_which_labels_were_written() {
    let labels = [("app", "reviews"), ("version", "v1"), ("team", "books")];
    let with = |labels: &mut dyn Iterator<Item = &(&str, &str)>| {
        let mut endpoints = messages::ir_endpoints();
        endpoints.localities[0].endpoints[0].labels =
            labels.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        encode_endpoints(&endpoints).version
    };
    assert_eq!(with(&mut labels.iter()), with(&mut labels.iter().rev()));
    let other = ir::Endpoints { overprovisioning: 100, ..messages::ir_endpoints() };
    assert_ne!(encode_endpoints(&other).version, encode_endpoints(&messages::ir_endpoints()).version);
}

/// The size that `formats.md` and the control plane count on: ten thousand hosts are one message below 64 MiB.
#[test]
fn a_table_of_ten_thousand_hosts_fits_into_a_message_and_comes_back() {
    let one = messages::ir_route_table();
    let hosts = (0..10_000).map(|number| ir::VirtualHost {
        name: format!("service-{number}.default.svc.cluster.local:80"),
        domains: ["", ":80"]
            .iter()
            .map(|port| ir::Domain::parse(&format!("service-{number}.default.svc.cluster.local{port}")).unwrap())
            .collect(),
        routes: one.virtual_hosts[0].routes.clone(),
        attempt_count: ir::AttemptCount::default(),
    });
    let table = ir::RouteConfig::new("80", hosts.collect()).unwrap();
    let encoded = encode_route(&table);
    assert!(encoded.any.value.len() < 64 << 20, "{} bytes", encoded.any.value.len());
    assert_eq!(decoded(Kind::Route, &encoded), Decoded::Route(table));
}
