//! Near before far.

use leno_config::ir::Locality;

use crate::render::endpoints_of;
use crate::support::*;

const SHOP: &str = "outbound|80||shop.example.com";

fn endpoints(policy: &str, locality: &str) -> Vec<String> {
    let text = document(
        "ServiceEntry",
        "shop",
        "{hosts: [shop.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [
            {address: 10.0.0.1, locality: r1/z1/s1, labels: {rack: a}}, {address: 10.0.0.2, locality: r1/z2}, {address: 10.0.0.3, locality: r2/z1},
            {address: 10.0.0.4, locality: r3, labels: {rack: a}}]}",
    ) + &document("DestinationRule", "shop", &format!("{{host: shop.example.com, trafficPolicy: {policy}}}"));
    let mut node = node("default", &[("rack", "a")]);
    node.locality = Locality::parse(locality);
    endpoints_of(&compile(&text, &node), SHOP)
}

#[test]
fn outlier_detection_turns_failover_on() {
    let same = ["10.0.0.1:80 in r1/z1/s1", "10.0.0.2:80 in r1/z2/", "10.0.0.3:80 in r2/z1/", "10.0.0.4:80 in r3//"];
    assert_eq!(endpoints("{}", "r1/z1/s1"), same, "nobody would notice that the near ones fail");
    assert_eq!(
        endpoints("{outlierDetection: {}}", "r1/z1/s1"),
        [
            "10.0.0.1:80 in r1/z1/s1",
            "10.0.0.2:80 in r1/z2/ at 1",
            "10.0.0.3:80 in r2/z1/ at 2",
            "10.0.0.4:80 in r3// at 2"
        ]
    );
    assert_eq!(endpoints("{outlierDetection: {}}", ""), same, "a proxy that does not know where it is");
    assert_eq!(
        endpoints("{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}", "r1/z1/s1"),
        same
    );
}

#[test]
fn a_region_fails_over_to_where_the_rule_says() {
    assert_eq!(
        endpoints(
            "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: r1, to: r3}]}}}",
            "r1/z1/s1"
        ),
        [
            "10.0.0.1:80 in r1/z1/s1",
            "10.0.0.2:80 in r1/z2/ at 1",
            "10.0.0.4:80 in r3// at 2",
            "10.0.0.3:80 in r2/z1/ at 3"
        ]
    );
}

#[test]
fn labels_make_an_endpoint_near() {
    let policy = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [rack, topology.kubernetes.io/region]}}}";
    assert_eq!(
        endpoints(policy, "r1/z1/s1"),
        [
            "10.0.0.1:80 in r1/z1/s1",
            "10.0.0.4:80 in r3// at 1",
            "10.0.0.2:80 in r1/z2/ at 2",
            "10.0.0.3:80 in r2/z1/ at 2"
        ]
    );
}

#[test]
fn traffic_is_distributed_by_shares() {
    let policy =
        "{loadBalancer: {localityLbSetting: {distribute: [{from: r1/z1/*, to: {'r1/*': 80, 'r2/z1/*': 20}}]}}}";
    assert_eq!(
        endpoints(policy, "r1/z1/s1"),
        [
            "10.0.0.1:80 in r1/z1/s1 share 40000",
            "10.0.0.2:80 in r1/z2/ share 40000",
            "10.0.0.3:80 in r2/z1/ share 20000"
        ]
    );
    assert_eq!(endpoints(policy, "r2/z1").len(), 4, "from elsewhere the rule says nothing");
}

#[test]
fn regions_decide_among_those_that_labels_make_equal() {
    let policy = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [rack], failover: [{from: r1, to: r3}]}}}";
    assert_eq!(
        endpoints(policy, "r1/z1/s1"),
        [
            "10.0.0.1:80 in r1/z1/s1",
            "10.0.0.4:80 in r3// at 1",
            "10.0.0.2:80 in r1/z2/ at 2",
            "10.0.0.3:80 in r2/z1/ at 3"
        ]
    );
}

fn with_mesh(setting: &str, policy: &str) -> Vec<String> {
    let text = document(
        "ServiceEntry",
        "shop",
        "{hosts: [shop.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [
            {address: 10.0.0.1, locality: r1/z1/s1}, {address: 10.0.0.3, locality: r2/z1}]}",
    ) + &document("DestinationRule", "shop", &format!("{{host: shop.example.com, trafficPolicy: {policy}}}"))
        + &document("MeshConfig", "mesh", &format!("{{localityLbSetting: {setting}}}"));
    let mut node = node("default", &[]);
    node.locality = Locality::parse("r1/z1/s1");
    endpoints_of(&compile(&text, &node), SHOP)
}

#[test]
fn the_mesh_says_what_no_rule_says() {
    let same = ["10.0.0.1:80 in r1/z1/s1", "10.0.0.3:80 in r2/z1/"];
    let near = ["10.0.0.1:80 in r1/z1/s1", "10.0.0.3:80 in r2/z1/ at 1"];
    let own = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: true}}}";
    assert_eq!(with_mesh("{enabled: false}", "{outlierDetection: {}}"), same);
    assert_eq!(with_mesh("{enabled: false}", own), near, "the rule goes before it");
    assert_eq!(
        with_mesh("{distribute: [{from: r1/*, to: {r1/*: 90, r2/*: 10}}]}", "{}"),
        ["10.0.0.1:80 in r1/z1/s1 share 90000", "10.0.0.3:80 in r2/z1/ share 10000"]
    );
}

#[test]
fn a_service_whose_clients_prefer_what_is_close_needs_no_outlier_detection() {
    let slice = |name: &str, address: &str, zone: &str| {
        format!(
            "\n---\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: cart}}}}\naddressType: IPv4\nports: [{{name: http, port: 80}}]\nendpoints: [{{addresses: [{address}], zone: {zone}}}]\n"
        )
    };
    let slices = slice("a", "10.0.0.1", "z1") + &slice("b", "10.0.0.2", "z2");
    let mut node = node("default", &[]);
    node.locality = Locality { zone: "z1".into(), ..Locality::default() };
    let near = ["10.0.0.1:80 in /z1/ Healthy", "10.0.0.2:80 in /z2/ at 1 Healthy"];
    for (annotation, field, expected) in [
        ("", "", ["10.0.0.1:80 in /z1/ Healthy", "10.0.0.2:80 in /z2/ Healthy"]),
        ("", ", trafficDistribution: PreferClose", near),
        ("", ", trafficDistribution: PreferSameZone", near),
        (", annotations: {networking.istio.io/traffic-distribution: PreferClose}", "", near),
    ] {
        let service = format!(
            "kind: Service\nmetadata: {{name: cart, namespace: default{annotation}}}\nspec: {{ports: [{{name: http, port: 80}}]{field}}}\n"
        );
        let found = endpoints_of(&compile(&(service + &slices), &node), "outbound|80||cart.default.svc.cluster.local");
        assert_eq!(found, expected, "{annotation} {field}");
    }
}
