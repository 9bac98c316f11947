//! The two kinds of Kubernetes, as far as the mesh looks at them.

use std::net::IpAddr;

use super::findings::{Findings, spec};
use super::values::Wildcard;
use crate::diagnostic::codes;
use crate::rules::{EndpointSlice, KubernetesPort, NumberOrText, Path, Resource, SERVICE_NAME_LABEL, Service};

pub(super) fn check_service(service: &Service, found: &mut Findings) {
    let spec = spec();
    const TYPES: &[&str] = &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    if let Some(kind) = service.r#type.as_deref().filter(|kind| !TYPES.contains(kind)) {
        let message = format!("`{kind}` is not a type of a Service");
        found
            .add(codes::UNKNOWN_WORD, &spec.key("type"), message)
            .help(format!("it is one of {}", crate::rules::listed(TYPES)));
    }
    if service.r#type.as_deref() == Some("ExternalName") {
        let name = service.external_name.as_deref().unwrap_or_default();
        found.host(&spec.key("externalName"), name, Wildcard::Refused);
    }
    let addresses = std::iter::once((spec.key("clusterIP"), service.cluster_ip.as_deref().unwrap_or_default()));
    let more = service.cluster_ips.iter().enumerate();
    let more = more.map(|(index, address)| (spec.key("clusterIPs").index(index), address.as_str()));
    for (path, address) in addresses.chain(more) {
        if !matches!(address, "" | "None") && address.parse::<IpAddr>().is_err() {
            found.add(codes::ADDRESS, &path, format!("`{address}` is not an address"));
        }
    }
    found.labels(&spec.key("selector"), &service.selector);
    check_ports(&service.ports, &spec.key("ports"), found);
}

fn check_ports(ports: &[KubernetesPort], path: &Path, found: &mut Findings) {
    let mut seen = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        found.port(&path.key("port"), port.port);
        match &port.target_port {
            Some(NumberOrText::Number(number)) => {
                let number = u32::try_from(*number).unwrap_or(u32::MAX);
                found.port(&path.key("targetPort"), Some(number));
            }
            Some(NumberOrText::Text(name)) if name.is_empty() => {
                found.add(codes::PORT, &path.key("targetPort"), "the name of the port is empty");
            }
            Some(NumberOrText::Text(_)) | None => {}
        }
        check_transport(port.protocol.as_deref(), &path, found);
        if ports.len() > 1 && port.name.as_deref().unwrap_or_default().is_empty() {
            found.add(codes::REQUIRED, &path, "of several ports each has a name").help("add `name`");
        }
        let key = (port.port, port.protocol.as_deref().unwrap_or("TCP"));
        if port.port.is_some() && seen.contains(&key) {
            let message = format!("port {} stands twice", port.port.unwrap_or_default());
            found.add(codes::DUPLICATE_NAME, &path.key("port"), message);
        }
        seen.push(key);
    }
    let names = ports.iter().enumerate();
    found.unique(names.map(|(index, port)| (path.index(index).key("name"), port.name.as_deref().unwrap_or_default())));
}

fn check_transport(protocol: Option<&str>, path: &Path, found: &mut Findings) {
    if let Some(protocol) = protocol.filter(|protocol| !matches!(*protocol, "" | "TCP" | "UDP" | "SCTP")) {
        let message = format!("`{protocol}` is not a transport");
        found
            .add(codes::PROTOCOL, &path.key("protocol"), message)
            .help("it is `TCP`, `UDP` or `SCTP`; what is spoken on it stands in `appProtocol`");
    }
}

pub(super) fn check_slice(slice: &Resource<EndpointSlice>, found: &mut Findings) {
    if !slice.metadata.labels.contains_key(SERVICE_NAME_LABEL) {
        found
            .add(codes::NO_EFFECT, &Path::root().key("metadata"), "the slice belongs to no service")
            .help(format!("add the label `{SERVICE_NAME_LABEL}`"));
    }
    let is_name = slice.spec.address_type.as_deref() == Some("FQDN");
    for (index, endpoint) in slice.spec.endpoints.iter().enumerate() {
        let path = Path::root().key("endpoints").index(index);
        if endpoint.addresses.is_empty() {
            found.add(codes::REQUIRED, &path, "the endpoint has no address").help("add `addresses`");
        }
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let path = path.key("addresses").index(index);
            if is_name {
                found.host(&path, address, Wildcard::Refused);
            } else if address.parse::<IpAddr>().is_err() {
                found.add(codes::ADDRESS, &path, format!("`{address}` is not an address"));
            }
        }
    }
    for (index, port) in slice.spec.ports.iter().enumerate() {
        let path = Path::root().key("ports").index(index);
        found.optional_port(&path.key("port"), port.port);
        check_transport(port.protocol.as_deref(), &path, found);
    }
}
