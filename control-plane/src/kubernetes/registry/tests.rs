use std::collections::BTreeMap;

use leno_config::ir::{Health, Port};
use leno_config::mesh::Pod;
use serde_json::json;

use super::super::objects::{self, SliceEndpoint};
use super::*;

fn key(name: &str) -> Key {
    Key::new("shop", name)
}

fn pod(name: &str, address: &str, injected: bool) -> PlacedPod {
    let pod = Pod {
        key: key(name),
        address: address.parse().ok(),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        service_account: "web".to_owned(),
        workload: "web".to_owned(),
        locality: Locality::default(),
        injected,
        health: Health::Healthy,
    };
    PlacedPod { pod, node: Some("n1".to_owned()), is_ours: injected }
}

fn endpoint(address: &str, pod: Option<&str>) -> SliceEndpoint {
    SliceEndpoint {
        address: address.parse().unwrap(),
        health: Health::Healthy,
        hostname: None,
        zone: None,
        pod: pod.map(key),
    }
}

fn slice(service: &str, endpoints: Vec<SliceEndpoint>) -> Slice {
    let ports = BTreeMap::from([("http".to_owned(), Port::new(8080).unwrap())]);
    Slice { service: key(service), ports: Arc::new(ports), endpoints }
}

fn service(name: &str, family: &str) -> Written {
    let value = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "ipFamilies": [family], "ports": [{ "name": "http", "port": 80 }] } });
    objects::service(&serde_json::from_value(value).unwrap())
}

/// Everything listed: one pod on one node, one service with one endpoint.
fn listed() -> Registry {
    let mut registry = Registry::new();
    registry.take(News::Services(Event::All(vec![(key("web"), service("web", "IPv4"))])));
    registry.take(News::Slices(Event::All(vec![(key("web-1"), slice("web", vec![endpoint("10.0.0.1", Some("a"))]))])));
    registry.take(News::Pods(Event::All(vec![(key("a"), pod("a", "10.0.0.1", true))])));
    registry.take(News::Nodes(Event::All(vec![(Key::new("", "n1"), Locality::parse("r1/z1"))])));
    registry.take(News::Namespaces(Event::All(Vec::new())));
    for kind in schema::custom_kinds() {
        registry.take(News::NotInstalled(kind.name));
    }
    registry
}

fn endpoints(registry: &Registry, service: &str) -> Vec<String> {
    let found = registry.discovered.endpoints.get(&key(service)).cloned();
    found.iter().flat_map(|all| all.iter()).map(|endpoint| endpoint.address.to_string()).collect()
}

#[test]
fn nothing_is_complete_before_every_kind_was_listed_or_is_known_not_to_be_there() {
    let mut registry = Registry::new();
    registry.take(News::Services(Event::Put(key("web"), service("web", "IPv4"))));
    assert!(registry.missing().contains(SERVICE), "an event is no list");
    registry.take(News::Services(Event::All(Vec::new())));
    assert!(!registry.missing().contains(SERVICE));
    assert!(registry.missing().contains("VirtualService"));
    assert!(listed().missing().is_empty());
}

#[test]
fn an_endpoint_has_the_facts_of_its_pod_and_the_place_of_its_node() {
    let mut registry = listed();
    let changes = registry.settle();
    assert_eq!(changes.services, BTreeSet::from([key("web")]));
    let found = registry.discovered.endpoints.get(&key("web")).cloned().unwrap();
    let pod = found[0].pod.clone().unwrap();
    assert_eq!((pod.locality.clone(), pod.injected), (Locality::parse("r1/z1"), true));
    assert_eq!(registry.settle(), Changes::default(), "once");
}

#[test]
fn an_endpoint_waits_for_its_pod() {
    let mut registry = listed();
    registry.settle();
    let both = vec![endpoint("10.0.0.1", Some("a")), endpoint("10.0.0.2", Some("b"))];
    registry.take(News::Slices(Event::Put(key("web-1"), slice("web", both))));
    assert!(!registry.settle().of_endpoints());
    registry.take(News::Pods(Event::Put(key("b"), pod("b", "10.0.0.2", true))));
    assert_eq!(registry.settle().services, BTreeSet::from([key("web")]));
    assert_eq!(endpoints(&registry, "web"), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn what_says_the_same_again_changes_nothing() {
    let mut registry = listed();
    registry.settle();
    registry.take(News::Pods(Event::Put(key("a"), pod("a", "10.0.0.1", true))));
    registry.take(News::Nodes(Event::Put(Key::new("", "n1"), Locality::parse("r1/z1"))));
    let same = slice("web", vec![endpoint("10.0.0.1", Some("a"))]);
    registry.take(News::Slices(Event::All(vec![(key("web-1"), same)])));
    registry.take(News::Services(Event::Put(key("web"), service("web", "IPv4"))));
    assert_eq!(registry.settle(), Changes::default());
}

#[test]
fn a_list_that_is_repeated_takes_away_what_went_in_between() {
    let mut registry = listed();
    registry.settle();
    let other = slice("other", vec![endpoint("10.0.0.9", None)]);
    registry.take(News::Slices(Event::All(vec![(key("other-1"), other)])));
    assert_eq!(registry.settle().services, BTreeSet::from([key("other"), key("web")]));
    assert_eq!((endpoints(&registry, "web").len(), endpoints(&registry, "other").len()), (0, 1));
    assert!(registry.services_of.is_empty(), "pods of slices that are gone are forgotten");
    registry.take(News::Pods(Event::All(Vec::new())));
    assert_eq!(registry.settle().pods, BTreeSet::from([key("a")]));
    assert!(registry.pods_on.is_empty());
}

#[test]
fn a_node_that_learns_its_place_moves_its_pods() {
    let mut registry = listed();
    registry.settle();
    registry.take(News::Nodes(Event::Put(Key::new("", "n1"), Locality::parse("r2/z9"))));
    let changes = registry.settle();
    assert_eq!((changes.services.len(), changes.pods.len()), (1, 1));
    registry.take(News::Nodes(Event::Gone(Key::new("", "n1"))));
    assert!(registry.settle().of_endpoints());
}

#[test]
fn a_pod_of_two_families_is_one_endpoint_of_the_family_that_the_service_names_first() {
    for (family, expected) in [("IPv4", "10.0.0.1"), ("IPv6", "fd00::1")] {
        let mut registry = listed();
        registry.take(News::Services(Event::Put(key("web"), service("web", family))));
        let other = slice("web", vec![endpoint("fd00::1", Some("a"))]);
        registry.take(News::Slices(Event::Put(key("web-6"), other)));
        registry.settle();
        assert_eq!(endpoints(&registry, "web"), [expected]);
    }
}

#[test]
fn a_slice_may_go_over_to_another_service() {
    let mut registry = listed();
    registry.settle();
    registry.take(News::Slices(Event::Put(key("web-1"), slice("next", vec![endpoint("10.0.0.1", Some("a"))]))));
    assert_eq!(registry.settle().services, BTreeSet::from([key("next"), key("web")]));
    assert!(endpoints(&registry, "web").is_empty());
    assert_eq!(registry.services_of.get(&key("a")), Some(&BTreeSet::from([key("next")])));
}

#[test]
fn rules_and_services_are_written_and_a_status_is_no_change_of_them() {
    let mut registry = listed();
    registry.settle();
    let rule = |host: &str, version: i64| {
        let value = json!({ "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": { "name": "a", "namespace": "shop", "generation": version }, "spec": { "hosts": [host] } });
        objects::rule(&serde_json::from_value(value).unwrap(), "VirtualService", "networking.istio.io/v1")
    };
    let mut put = |written| {
        registry.take(News::Rules("VirtualService", Event::Put(key("a"), written)));
        let changes = registry.settle();
        (changes.written, changes.subjects)
    };
    assert_eq!(put(rule("a", 1)), (true, true));
    assert_eq!(put(rule("a", 1)), (false, false));
    assert_eq!(put(rule("a", 2)), (false, true));
    assert_eq!(put(rule("b", 3)), (true, true));
    assert_eq!(registry.parsed().documents.len(), 2);
    assert_eq!(registry.subjects().len(), 1);
    registry.take(News::NotInstalled("VirtualService"));
    assert!(registry.settle().written);
    assert!(registry.absent().contains("VirtualService"));
}
