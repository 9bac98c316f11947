//! `ServiceEntry` by itself.

use std::net::IpAddr;

use ipnet::IpNet;

use super::findings::{Findings, spec};
use super::values::Wildcard;
use super::workload_entry::{self, AddressKind};
use crate::diagnostic::codes;
use crate::mesh::{TLS_MODE_LABEL, speaks_mesh_tls};
use crate::rules::{Location, Path, Resolution, ServiceEntry, ServicePort, closest, is_dns_label};

/// Protocols of Istio.
pub(super) const PROTOCOLS: &[&str] = &[
    "HTTP",
    "HTTPS",
    "GRPC",
    "GRPC-WEB",
    "HTTP2",
    "HTTP_PROXY",
    "MONGO",
    "MYSQL",
    "POSTGRES",
    "REDIS",
    "TCP",
    "TLS",
    "UDP",
    "HBONE",
];

pub(super) fn check(entry: &ServiceEntry, found: &mut Findings) {
    let spec = spec();
    check_hosts(entry, &spec, found);
    check_addresses(entry, &spec.key("addresses"), found);
    check_ports(&entry.ports, &spec.key("ports"), found);
    if entry.ports.is_empty() {
        found.add(codes::NO_EFFECT, &spec, "without ports nothing is routed to the service").help("add `ports`");
    }
    if entry.workload_selector.is_some() && !entry.endpoints.is_empty() {
        let message = "`workloadSelector` stands beside `endpoints`";
        found.add(codes::EXCLUSIVE, &spec.key("workloadSelector"), message).on_key().help("remove one of the two");
    }
    if let Some(selector) = &entry.workload_selector {
        found.labels(&spec.key("workloadSelector").key("labels"), &selector.labels);
    }
    let path = spec.key("endpoints");
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let path = path.index(index);
        workload_entry::check(endpoint, &path, found);
        for name in endpoint.ports.keys().filter(|name| entry.ports.iter().all(|port| port.name != **name)) {
            let message = format!("the service has no port named `{name}`");
            let names: Vec<&str> = entry.ports.iter().map(|port| port.name.as_str()).collect();
            found
                .add(codes::UNKNOWN_PORT, &path.key("ports").key(name), message)
                .on_key()
                .help(format!("its ports are {}", crate::rules::listed(&names)));
        }
    }
    check_outside(entry, &path, found);
    check_resolution(entry, &spec, found);
    found.export_to(&spec.key("exportTo"), &entry.export_to);
}

/// Nobody outside of the mesh speaks its TLS, whatever a label says (Istio).
fn check_outside(entry: &ServiceEntry, path: &Path, found: &mut Findings) {
    if entry.location.unwrap_or_default() == Location::MeshInternal {
        return;
    }
    if let Some(index) = entry.endpoints.iter().position(|endpoint| speaks_mesh_tls(&endpoint.labels)) {
        let path = path.index(index).key("labels").key(TLS_MODE_LABEL);
        let message = "the label is not looked at: the service is outside of the mesh and called in clear text";
        found.add(codes::OUTSIDE, &path, message).on_key().help("add `location: MESH_INTERNAL`");
    }
}

fn check_hosts(entry: &ServiceEntry, spec: &Path, found: &mut Findings) {
    if entry.hosts.is_empty() {
        found.add(codes::REQUIRED, spec, "there are no hosts").help("add `hosts`");
    }
    for (index, host) in entry.hosts.iter().enumerate() {
        let path = spec.key("hosts").index(index);
        found.host(&path, host, Wildcard::Allowed);
        if host == "*" {
            found
                .add(codes::HOST, &path, "a service cannot stand for all hosts")
                .help("name a domain: `*.example.com`");
        }
    }
    let path = spec.key("hosts");
    found.unique(entry.hosts.iter().enumerate().map(|(index, host)| (path.index(index), host.as_str())));
}

fn check_addresses(entry: &ServiceEntry, path: &Path, found: &mut Findings) {
    let takes_networks = match entry.resolution.unwrap_or_default() {
        Resolution::None | Resolution::Static => true,
        Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns => false,
    };
    for (index, address) in entry.addresses.iter().enumerate() {
        let path = path.index(index);
        if address.parse::<IpAddr>().is_ok() {
            continue;
        }
        if address.parse::<IpNet>().is_err() {
            let message = format!("`{address}` is not an address or a network");
            found.add(codes::ADDRESS, &path, message).help("write `10.0.0.1` or `10.0.0.0/8`");
        } else if !takes_networks {
            let message = "a network cannot be resolved by name";
            found.add(codes::RESOLUTION, &path, message).help("networks go with `NONE` and `STATIC`");
        }
    }
}

fn check_ports(ports: &[ServicePort], path: &Path, found: &mut Findings) {
    let mut seen = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        found.port(&path.key("number"), port.number);
        found.optional_port(&path.key("targetPort"), port.target_port);
        if port.name.is_empty() {
            found.add(codes::REQUIRED, &path, "the port has no name").help("add `name`, for example `http`");
        } else if !is_dns_label(&port.name.to_ascii_lowercase()) {
            let message = format!("`{}` is not a name of a port", port.name);
            found.add(codes::LABEL, &path.key("name"), message).help("use letters, digits and `-`");
        }
        if let Some(number) = port.number {
            if seen.contains(&number) {
                let message = format!("port {number} stands twice");
                found.add(codes::DUPLICATE_NAME, &path.key("number"), message);
            }
            seen.push(number);
        }
        check_protocol(port.protocol.as_deref(), &path.key("protocol"), found);
    }
    let names = ports.iter().enumerate();
    found.unique(names.map(|(index, port)| (path.index(index).key("name"), port.name.as_str())));
}

/// A protocol in Istio's words.
pub(super) fn check_protocol(protocol: Option<&str>, path: &Path, found: &mut Findings) {
    let Some(protocol) = protocol.filter(|protocol| !protocol.is_empty()) else { return };
    if PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(protocol)) {
        return;
    }
    let finding = found.add(codes::PROTOCOL, path, format!("`{protocol}` is not a protocol"));
    match closest(protocol, PROTOCOLS) {
        Some(meant) => finding.help(format!("did you mean `{meant}`?")),
        None => finding.help(format!("it is one of {}", crate::rules::listed(PROTOCOLS))),
    };
}

/// Endpoints that fit the way they are found.
fn check_resolution(entry: &ServiceEntry, spec: &Path, found: &mut Findings) {
    let path = spec.key("endpoints");
    match entry.resolution.unwrap_or_default() {
        Resolution::None | Resolution::DynamicDns if !entry.endpoints.is_empty() => {
            let word = entry.resolution.unwrap_or_default().as_str();
            let message = format!("with the resolution {word} there are no endpoints");
            found.add(codes::RESOLUTION, &path, message).help("set `resolution: STATIC`, or remove the endpoints");
        }
        Resolution::None | Resolution::DynamicDns => {}
        Resolution::Static => {
            for (index, endpoint) in entry.endpoints.iter().enumerate() {
                if AddressKind::of(endpoint.address.as_deref().unwrap_or_default()) == AddressKind::Name {
                    let message = "a name is not resolved with STATIC";
                    let path = path.index(index).key("address");
                    found.add(codes::RESOLUTION, &path, message).help("write an address, or set `resolution: DNS`");
                }
            }
        }
        Resolution::Dns | Resolution::DnsRoundRobin => check_dns(entry, spec, found),
    }
}

fn check_dns(entry: &ServiceEntry, spec: &Path, found: &mut Findings) {
    let path = spec.key("endpoints");
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        if AddressKind::of(endpoint.address.as_deref().unwrap_or_default()) == AddressKind::UnixSocket {
            let message = "a Unix socket is not found by DNS";
            let path = path.index(index).key("address");
            found.add(codes::RESOLUTION, &path, message).help("set `resolution: STATIC`");
        }
    }
    if entry.resolution == Some(Resolution::DnsRoundRobin) && entry.endpoints.len() > 1 {
        found.add(codes::RESOLUTION, &path, "DNS_ROUND_ROBIN has one endpoint").help("use `DNS` for several");
    }
    if entry.endpoints.is_empty() && entry.workload_selector.is_none() {
        for (index, host) in entry.hosts.iter().enumerate().filter(|(_, host)| host.contains('*')) {
            let message = format!("`{host}` cannot be looked up, and there are no endpoints");
            found
                .add(codes::RESOLUTION, &spec.key("hosts").index(index), message)
                .help("add `endpoints`, or set `resolution: NONE`");
        }
    }
}
