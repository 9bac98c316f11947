//! `VirtualService` by itself.

use super::findings::{Findings, spec};
use super::values::Wildcard;
use super::{http_route, l4_route};
use crate::diagnostic::codes;
use crate::mesh::MESH_GATEWAY;
use crate::rules::{PATH_ANNOTATION, Path, Resource, VirtualService, allowed_in_path};

/// Whether the rules hold for sidecars.
pub(super) fn is_for_mesh(rule: &VirtualService) -> bool {
    let is_mesh = |gateway: &String| gateway == MESH_GATEWAY;
    let named = |gateways: &Vec<String>| gateways.iter().any(is_mesh);
    rule.gateways.is_empty()
        || named(&rule.gateways)
        || rule.http.iter().flat_map(|route| &route.r#match).any(|block| named(&block.gateways))
        || rule.tcp.iter().flat_map(|route| &route.r#match).any(|block| named(&block.gateways))
        || rule.tls.iter().flat_map(|route| &route.r#match).any(|block| named(&block.gateways))
}

pub(super) fn check(written: &Resource<VirtualService>, found: &mut Findings) {
    let rule = &written.spec;
    check_annotation(written, found);
    let spec = spec();
    if rule.hosts.is_empty() {
        check_delegate(rule, &spec, found);
    } else {
        check_hosts(rule, &spec.key("hosts"), found);
    }
    if rule.http.is_empty() && rule.tcp.is_empty() && rule.tls.is_empty() {
        found.add(codes::REQUIRED, &spec, "there is no rule").help("add `http`, `tcp` or `tls`");
    }
    for (index, gateway) in rule.gateways.iter().enumerate() {
        check_gateway(gateway, &spec.key("gateways").index(index), found);
    }
    for (index, route) in rule.http.iter().enumerate() {
        http_route::check(route, &spec.key("http").index(index), found);
    }
    for (index, route) in rule.tcp.iter().enumerate() {
        l4_route::check_tcp(route, &spec.key("tcp").index(index), found);
    }
    for (index, route) in rule.tls.iter().enumerate() {
        l4_route::check_tls(route, &rule.hosts, &spec.key("tls").index(index), found);
    }
    found.export_to(&spec.key("exportTo"), &rule.export_to);
}

/// The one annotation with a meaning. A word that is none allows nothing, and so does the name of no route.
fn check_annotation(written: &Resource<VirtualService>, found: &mut Findings) {
    let Some(text) = written.metadata.annotations.get(PATH_ANNOTATION) else { return };
    let path = Path::root().key("metadata").key("annotations").key(PATH_ANNOTATION);
    for word in allowed_in_path(text) {
        match word {
            Err(word) => {
                let message = format!("`{word}` is nothing that a path is refused for, so it allows nothing");
                let help = "write `%2f`, `%5c` or `;`, for one route behind its name: `ROUTE=%2f`";
                found.add(codes::NO_EFFECT, &path, message).help(help);
            }
            Ok((Some(route), _)) if !written.spec.http.iter().any(|http| http.name.as_deref() == Some(route)) => {
                let message = format!("no route of this rule is named `{route}`, so nothing is allowed");
                found.add(codes::NO_EFFECT, &path, message).help("give the route this `name`");
            }
            Ok(_) => {}
        }
    }
}

fn check_hosts(rule: &VirtualService, path: &Path, found: &mut Findings) {
    for (index, host) in rule.hosts.iter().enumerate() {
        let path = path.index(index);
        found.host(&path, host, Wildcard::Allowed);
        if host == "*" && is_for_mesh(rule) {
            found
                .add(codes::HOST, &path, "`*` cannot be a host of rules for all sidecars")
                .help("name the hosts, or a domain as in `*.example.com`");
        }
    }
    found.unique(rule.hosts.iter().enumerate().map(|(index, host)| (path.index(index), host.as_str())));
}

/// Without hosts it can only be a delegate, and that has HTTP rules and nothing else.
fn check_delegate(rule: &VirtualService, spec: &Path, found: &mut Findings) {
    let help = "a VirtualService without `hosts` is a delegate; give it hosts if it is none";
    if rule.http.is_empty() {
        found.add(codes::REQUIRED, spec, "there are no hosts").help("add `hosts`");
    }
    for (field, is_set) in
        [("gateways", !rule.gateways.is_empty()), ("tcp", !rule.tcp.is_empty()), ("tls", !rule.tls.is_empty())]
    {
        if is_set {
            found.add(codes::DELEGATE, &spec.key(field), format!("a delegate has no `{field}`")).help(help);
        }
    }
    for (index, route) in rule.http.iter().enumerate() {
        if route.delegate.is_some() {
            let path = spec.key("http").index(index).key("delegate");
            found.add(codes::DELEGATE, &path, "a delegate delegates again").help("delegation is one level deep");
        }
    }
}

pub(super) fn check_gateway(gateway: &str, path: &Path, found: &mut Findings) {
    let parts: Vec<&str> = gateway.split('/').collect();
    let is_name = match parts.as_slice() {
        [name] => super::values::is_host(name),
        [namespace, name] => {
            (*namespace == "." || crate::rules::is_dns_label(namespace)) && super::values::is_host(name)
        }
        _ => false,
    };
    if !is_name {
        let help = "write `name`, `namespace/name`, or `mesh` for all sidecars";
        found.add(codes::HOST, path, format!("`{gateway}` is not a gateway")).help(help);
    }
}
