//! Which hosts there are, by which names, and which VirtualService counts for each.

use leno_config::ir::Resources;

use crate::render::{domains, endpoints_of, outbound_clusters, routes};
use crate::support::*;

fn hosts(resources: &Resources) -> Vec<&str> {
    resources.routes["15001"].virtual_hosts.iter().map(|host| host.name.as_str()).collect()
}

#[test]
fn a_service_answers_to_all_its_names_and_short_ones_in_its_namespace_alone() {
    let service = document(
        "Service",
        "web/shop",
        "{clusterIP: 10.1.2.3, clusterIPs: [10.1.2.3, 'fd00::1'], ports: [{name: http, port: 80}, {name: http-admin, port: 8080}, {name: metrics, port: 9}]}",
    );
    let own = compile(&service, &node("web", &[]));
    let bare_and_with_port = |names: &[&str], port: &str| -> Vec<String> {
        names.iter().flat_map(|name| [(*name).to_owned(), format!("{name}:{port}")]).collect()
    };
    let fqdn = "shop.web.svc.cluster.local";
    let own_names = [fqdn, "shop", "shop.web", "shop.web.svc", "10.1.2.3", "[fd00::1]"];
    assert_eq!(domains(&own, &format!("{fqdn}:80")), bare_and_with_port(&own_names, "80"));
    let with_port: Vec<_> = own_names.iter().map(|name| format!("{name}:8080")).collect();
    assert_eq!(domains(&own, &format!("{fqdn}:8080")), with_port, "a host without a port means 80");
    let other = compile(&service, &client());
    let other_names = [fqdn, "shop.web", "shop.web.svc", "10.1.2.3", "[fd00::1]"];
    assert_eq!(domains(&other, &format!("{fqdn}:80")), bare_and_with_port(&other_names, "80"));
}

#[test]
fn without_port_80_a_host_without_a_port_means_the_first_http_port() {
    let resources = compile(SERVICES, &client());
    assert!(domains(&resources, "reviews.default.svc.cluster.local:9080").contains(&"reviews".to_owned()));
}

#[test]
fn no_domain_stands_twice_and_full_names_go_first() {
    let entry = |name: &str, host: &str| {
        document(
            "ServiceEntry",
            name,
            &format!(
                "{{hosts: [{host}], addresses: [10.5.5.5], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC}}"
            ),
        )
    };
    let text = entry("a", "shop.web.svc.cluster.local") + &entry("b", "shop.web");
    let resources = compile(&text, &client());
    assert_eq!(
        domains(&resources, "shop.web:80"),
        ["shop.web", "shop.web:80", "10.5.5.5", "10.5.5.5:80"],
        "its own name, although the other would be called so too"
    );
    assert_eq!(
        domains(&resources, "shop.web.svc.cluster.local:80"),
        ["shop.web.svc.cluster.local", "shop.web.svc.cluster.local:80", "shop.web.svc", "shop.web.svc:80"]
    );
}

#[test]
fn unknown_hosts_are_passed_on_or_refused() {
    let last = |text: &str, node| {
        let resources = compile(text, &node);
        let host = resources.routes["15001"].virtual_hosts.last().unwrap().clone();
        format!("{} {}", host.name, crate::render::route(&host.routes[0]))
    };
    let mesh = document("MeshConfig", "mesh", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}");
    let sidecar = document("Sidecar", "default", "{outboundTrafficPolicy: {mode: ALLOW_ANY}}");
    let proxy = document(
        "Sidecar",
        "default",
        "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: shop, port: {number: 80}}}}",
    );
    assert_eq!(last(SERVICES, client()), "allow_any allow_any: /* => PassthroughCluster; no retries");
    assert_eq!(last(&mesh, client()), "block_all block_all: /* => answer 502 \"\"");
    assert_eq!(last(&(mesh + &sidecar), client()), "allow_any allow_any: /* => PassthroughCluster; no retries");
    assert_eq!(last(&format!("{SERVICES}{proxy}"), client()), "allow_any allow_any: /* => shop.default:80; no retries");
}

#[test]
fn the_oldest_virtual_service_of_the_most_specific_host_counts() {
    let rule = |name: &str, created: &str, host: &str, to: &str| {
        let created = if created.is_empty() { String::new() } else { format!(", creationTimestamp: '{created}'") };
        format!(
            "\n---\nkind: VirtualService\nmetadata: {{name: {name}{created}}}\nspec: {{hosts: ['{host}'], http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}\n"
        )
    };
    let winner = |rules: &[String]| {
        let rows = routes(
            &compile(&format!("{SERVICES}{}", rules.concat()), &client()),
            "reviews.default.svc.cluster.local:9080",
        );
        rows[0].rsplit(' ').next().unwrap().to_owned()
    };
    let (old, new) = ("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
    assert_eq!(winner(&[rule("a", new, "reviews", "ratings"), rule("b", old, "reviews", "shop")]), "shop.default:9080");
    assert_eq!(
        winner(&[rule("b", old, "reviews", "shop"), rule("a", old, "reviews", "ratings")]),
        "ratings.default:9080"
    );
    assert_eq!(
        winner(&[rule("b", "", "reviews", "shop"), rule("a", "", "reviews", "ratings")]),
        "ratings.default:9080"
    );
    assert_eq!(
        winner(&[
            rule("b", old, "*.svc.cluster.local", "shop"),
            rule("a", new, "*.default.svc.cluster.local", "ratings")
        ]),
        "ratings.default:9080",
        "the more specific wildcard"
    );
    assert_eq!(
        winner(&[rule("b", old, "*.default.svc.cluster.local", "shop"), rule("a", new, "reviews", "ratings")]),
        "ratings.default:9080",
        "a host before any wildcard"
    );
    assert_eq!(winner(&[rule("a", "", "*", "ratings")]), "reviews.default:9080", "`*` is for gateways");
}

#[test]
fn a_virtual_service_without_a_row_for_this_proxy_leaves_the_host_to_the_next_oldest() {
    let first = virtual_service(
        "a",
        "{hosts: [reviews], http: [{match: [{sourceLabels: {app: other}}], route: [{destination: {host: ratings}}]}]}",
    );
    let second = virtual_service("b", "{hosts: [reviews], http: [{route: [{destination: {host: shop}}]}]}");
    let host = "reviews.default.svc.cluster.local:9080";
    let rows = routes(&compile(&format!("{SERVICES}{first}"), &client()), host);
    assert_eq!(rows, ["default: /* => reviews.default:9080"]);
    let rows = routes(&compile(&format!("{SERVICES}{first}{second}"), &client()), host);
    assert_eq!(rows, ["/* => shop.default:9080"]);
}

#[test]
fn a_virtual_service_is_seen_where_it_is_exported_to() {
    for (export_to, seen) in
        [("[]", true), ("['*']", true), ("[.]", false), ("[default]", true), ("[elsewhere]", false), ("['~']", false)]
    {
        let rule = document(
            "VirtualService",
            "other/reviews",
            &format!(
                "{{hosts: [reviews.default.svc.cluster.local], exportTo: {export_to}, http: [{{route: [{{destination: {{host: ratings.default.svc.cluster.local}}}}]}}]}}"
            ),
        );
        let rows = routes(&compile(&format!("{SERVICES}{rule}"), &client()), "reviews.default.svc.cluster.local:9080");
        assert_eq!(rows[0].contains("ratings"), seen, "{export_to}");
    }
}

#[test]
fn a_service_is_seen_where_it_is_exported_to_and_the_own_namespace_goes_first() {
    let entry = |name: &str, export_to: &str, address: &str| {
        document(
            "ServiceEntry",
            name,
            &format!(
                "{{hosts: [api.example.com], exportTo: {export_to}, ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{{address: {address}}}]}}"
            ),
        )
    };
    let text =
        entry("a/api", "['*']", "10.0.0.1") + &entry("b/api", "['*']", "10.0.0.2") + &entry("c/api", "[.]", "10.0.0.3");
    let called = |namespace: &str| endpoints_of(&compile(&text, &node(namespace, &[])), "outbound|80||api.example.com");
    assert_eq!(called("default"), ["10.0.0.1:80"]);
    assert_eq!(called("b"), ["10.0.0.2:80"]);
    assert_eq!(called("c"), ["10.0.0.3:80"]);
    let hidden = entry("c/api", "[.]", "10.0.0.3");
    assert_eq!(hosts(&compile(&hidden, &client())), ["allow_any"]);
}

#[test]
fn hosts_of_a_virtual_service_without_a_service_are_served_as_on_port_80() {
    let rule = virtual_service(
        "shop",
        "{hosts: [shop.example.com, '*.shop.example.com', reviews], http: [{match: [{port: 80}], route: [{destination: {host: reviews}}]}, {match: [{port: 9080}], route: [{destination: {host: ratings}}]}]}",
    );
    let resources = compile(&format!("{SERVICES}{rule}"), &client());
    assert_eq!(domains(&resources, "shop.example.com:80"), ["shop.example.com", "shop.example.com:80"]);
    assert_eq!(domains(&resources, "*.shop.example.com:80"), ["*.shop.example.com", "*.shop.example.com:80"]);
    assert_eq!(routes(&resources, "*.shop.example.com:80"), ["/* => reviews.default:9080"]);
    assert_eq!(routes(&resources, "reviews.default.svc.cluster.local:9080"), ["/* => ratings.default:9080"]);
}

#[test]
fn a_wildcard_of_a_virtual_service_takes_services_and_is_then_no_host_of_its_own() {
    let rule = virtual_service(
        "all",
        "{hosts: ['*.default.svc.cluster.local'], http: [{timeout: 1s, route: [{destination: {host: reviews}}]}]}",
    );
    let resources = compile(&format!("{SERVICES}{rule}"), &client());
    for host in ["reviews", "ratings"] {
        let rows = routes(&resources, &format!("{host}.default.svc.cluster.local:9080"));
        assert_eq!(rows, ["/* => reviews.default:9080; timeout 1s"]);
    }
    assert!(!hosts(&resources).iter().any(|host| host.starts_with('*')));
}

#[test]
fn a_wildcard_service_without_addresses_is_called_by_the_requests_host() {
    let entry = document(
        "ServiceEntry",
        "any",
        "{hosts: ['*.example.com'], ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}], resolution: NONE}",
    );
    let resources = compile(&entry, &client());
    assert_eq!(domains(&resources, "*.example.com:80"), ["*.example.com", "*.example.com:80"]);
    let cluster = &resources.clusters["outbound|80||*.example.com"];
    assert_eq!(cluster.discovery, leno_config::ir::Discovery::RequestHost);
}

#[test]
fn a_service_found_by_dns_is_resolved_by_the_proxy() {
    let entry = document(
        "ServiceEntry",
        "api",
        "{hosts: [api.example.com], ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}], resolution: DNS}",
    );
    let with_endpoints = document(
        "ServiceEntry",
        "db",
        "{hosts: [db.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS, endpoints: [{address: a.example.com, ports: {http: 81}}, {address: 10.0.0.1}]}",
    );
    let external = document(
        "Service",
        "default/ext",
        "{type: ExternalName, externalName: far.example.com, ports: [{name: http, port: 80}]}",
    );
    let resources = compile(&(entry + &with_endpoints + &external), &client());
    let members = |cluster: &str| match &resources.clusters[cluster].discovery {
        leno_config::ir::Discovery::Dns(endpoints) => crate::render::endpoints(endpoints),
        other => panic!("{other:?}"),
    };
    assert_eq!(members("outbound|80||api.example.com"), ["api.example.com:8080"]);
    assert_eq!(members("outbound|80||db.example.com"), ["10.0.0.1:80", "a.example.com:81"]);
    assert_eq!(members("outbound|80||ext.default.svc.cluster.local"), ["far.example.com:80"]);
    assert!(resources.endpoints.is_empty());
}

#[test]
fn instances_come_from_entries_endpoints_and_slices() {
    let services = document(
        "Service",
        "default/shop",
        "{selector: {app: shop}, ports: [{name: http, port: 80, targetPort: web}]}",
    ) + &document(
        "WorkloadEntry",
        "default/shop-1",
        "{address: 10.0.0.1, ports: {web: 8080}, labels: {app: shop, security.istio.io/tlsMode: istio}, serviceAccount: shop, locality: r1/z1/s1, weight: 3}",
    ) + &document("WorkloadEntry", "default/shop-2", "{address: 10.0.0.2, labels: {app: shop}}")
        + &document("WorkloadEntry", "other/shop-3", "{address: 10.0.0.3, labels: {app: shop}}")
        + "\n---\nkind: EndpointSlice\nmetadata: {name: shop-x, labels: {kubernetes.io/service-name: shop}}\naddressType: IPv4\nports: [{name: http, port: 8081}]\nendpoints: [{addresses: [10.0.0.4], conditions: {ready: true}, zone: z2}, {addresses: [10.0.0.5], conditions: {ready: false}}, {addresses: [10.0.0.6], conditions: {ready: false, serving: true, terminating: true}}]\n";
    let resources = compile(&services, &client());
    assert_eq!(
        endpoints_of(&resources, "outbound|80||shop.default.svc.cluster.local"),
        [
            "10.0.0.2:80",
            "10.0.0.5:8081 Unhealthy",
            "10.0.0.6:8081 Draining",
            "10.0.0.4:8081 in /z2/ Healthy",
            "10.0.0.1:8080 x3 in r1/z1/s1 mTLS as spiffe://cluster.local/ns/default/sa/shop",
        ]
    );
}

#[test]
fn entries_of_one_host_and_namespace_are_one_service() {
    let entry = |name: &str, port: u16, address: &str| {
        document(
            "ServiceEntry",
            name,
            &format!(
                "{{hosts: [api.example.com], ports: [{{number: {port}, name: http-{port}, protocol: HTTP}}], resolution: STATIC, endpoints: [{{address: {address}}}]}}"
            ),
        )
    };
    let resources = compile(&(entry("b", 81, "10.0.0.2") + &entry("a", 80, "10.0.0.1")), &client());
    assert_eq!(outbound_clusters(&resources), ["PassthroughCluster", "api.example.com:80", "api.example.com:81"]);
    assert_eq!(endpoints_of(&resources, "outbound|80||api.example.com"), ["10.0.0.1:80", "10.0.0.2:80"]);
}

#[test]
fn clusters_are_there_for_what_can_be_reached_with_all_subsets() {
    let hidden = "\n---\nkind: ServiceEntry\nmetadata: {name: hidden, namespace: web}\nspec: {hosts: [hidden.example.com], ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}], resolution: STATIC}\n";
    let sidecar = document("Sidecar", "default", "{egress: [{hosts: ['./reviews.default.svc.cluster.local']}]}");
    let rule = reviews("[{route: [{destination: {host: hidden.example.com, port: {number: 443}}}]}]");
    let resources = compile(&format!("{SERVICES}{hidden}{sidecar}{rule}"), &client());
    assert_eq!(
        outbound_clusters(&resources),
        [
            "PassthroughCluster",
            "hidden.example.com:443",
            "reviews.default:9080/v1",
            "reviews.default:9080/v2",
            "reviews.default:9080/v3",
            "reviews.default:9080",
        ]
    );
    assert_eq!(hosts(&resources), ["reviews.default.svc.cluster.local:9080", "allow_any"]);
}
