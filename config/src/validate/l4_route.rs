//! Rules for bytes and for TLS that is passed through.

use std::collections::BTreeMap;

use super::findings::Findings;
use super::http_route::check_weights;
use super::values::Wildcard;
use super::virtual_service::check_gateway;
use crate::diagnostic::codes;
use crate::rules::{Path, RouteDestination, TcpRoute, TlsRoute, is_dns_label};

pub(super) fn check_tcp(route: &TcpRoute, path: &Path, found: &mut Findings) {
    for (index, block) in route.r#match.iter().enumerate() {
        let path = path.key("match").index(index);
        let source = Source {
            subnets: &block.destination_subnets,
            port: block.port,
            labels: &block.source_labels,
            gateways: &block.gateways,
            namespace: block.source_namespace.as_deref(),
        };
        source.check(&path, found);
        if block.source_subnet.is_some() {
            let path = path.key("sourceSubnet");
            found.add(codes::NO_EFFECT, &path, "nobody looks at `sourceSubnet`").on_key().help("use `sourceLabels`");
        }
    }
    check_destinations(&route.route, path, found);
}

pub(super) fn check_tls(route: &TlsRoute, hosts: &[String], path: &Path, found: &mut Findings) {
    if route.r#match.is_empty() {
        let help = "add `match: [{sniHosts: […]}]`";
        found.add(codes::REQUIRED, path, "a rule for TLS needs a condition").help(help);
    }
    for (index, block) in route.r#match.iter().enumerate() {
        let path = path.key("match").index(index);
        let source = Source {
            subnets: &block.destination_subnets,
            port: block.port,
            labels: &block.source_labels,
            gateways: &block.gateways,
            namespace: block.source_namespace.as_deref(),
        };
        source.check(&path, found);
        if block.sni_hosts.is_empty() {
            found.add(codes::REQUIRED, &path, "the condition names no server").help("add `sniHosts`");
        }
        for (index, name) in block.sni_hosts.iter().enumerate() {
            let path = path.key("sniHosts").index(index);
            found.host(&path, name, Wildcard::Allowed);
            if !hosts.iter().any(|host| covers(host, name)) {
                let message = format!("`{name}` is not covered by the rule's hosts");
                found.add(codes::HOST, &path, message).help("add it to `spec.hosts`");
            }
        }
    }
    check_destinations(&route.route, path, found);
}

/// Whether every name that `inner` stands for is one of `outer`.
fn covers(outer: &str, inner: &str) -> bool {
    match outer.strip_prefix('*') {
        Some(end) => inner.trim_start_matches('*').ends_with(end),
        None => outer.eq_ignore_ascii_case(inner),
    }
}

fn check_destinations(destinations: &[RouteDestination], path: &Path, found: &mut Findings) {
    if destinations.is_empty() {
        found.add(codes::REQUIRED, path, "the rule has no destination").help("add `route`");
    }
    let path = path.key("route");
    for (index, destination) in destinations.iter().enumerate() {
        found.destination(&path.index(index).key("destination"), destination.destination.as_ref());
    }
    check_weights(destinations.iter().map(|destination| destination.weight), &path, found);
}

/// What conditions on bytes and on TLS share.
struct Source<'a> {
    subnets: &'a [String],
    port: Option<u32>,
    labels: &'a BTreeMap<String, String>,
    gateways: &'a [String],
    namespace: Option<&'a str>,
}

impl Source<'_> {
    fn check(&self, path: &Path, found: &mut Findings) {
        found.subnets(&path.key("destinationSubnets"), self.subnets);
        found.optional_port(&path.key("port"), self.port);
        found.labels(&path.key("sourceLabels"), self.labels);
        for (index, gateway) in self.gateways.iter().enumerate() {
            check_gateway(gateway, &path.key("gateways").index(index), found);
        }
        if let Some(namespace) = self.namespace.filter(|name| !name.is_empty() && !is_dns_label(name)) {
            let message = format!("`{namespace}` is not a namespace");
            found.add(codes::EXPORT_TO, &path.key("sourceNamespace"), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_wildcard_covers_what_ends_like_it() {
        for (outer, inner, expected) in [
            ("*", "a.b", true),
            ("*.b", "a.b", true),
            ("*.b", "*.a.b", true),
            ("*.b", "*.b", true),
            ("*.b", "b", false),
            ("a.b", "A.b", true),
            ("a.b", "*.b", false),
        ] {
            assert_eq!(covers(outer, inner), expected, "{outer} {inner}");
        }
    }
}
