//! Services: what can be called by a host name, from ServiceEntry and Kubernetes' Service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::ir::Port;
use crate::rules::{self, Location, Metadata, NumberOrText, Resolution as Written, Resource, ResourceId};

use super::host::full_name;
use super::visibility::{Age, Visibility};
use super::workload::Instance;

/// Something that can be called by a host name.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// The document it comes from.
    pub(crate) id: ResourceId,
    pub(crate) age: Age,
    /// Full name in lower case; may be `*.example.com`.
    pub(crate) host: String,
    /// What DNS is asked for, where endpoints are found by name and none is written down.
    pub(crate) dns_name: String,
    /// Unique numbers, in the order written.
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) resolution: Resolution,
    pub(crate) visibility: Visibility,
    /// Labels of its workloads; `None`: endpoints come from elsewhere.
    pub(crate) selector: Option<BTreeMap<String, String>>,
    /// Identities that its endpoints may have besides their own.
    pub(crate) subject_alt_names: Vec<String>,
    /// Whether it is outside of the mesh, where nobody speaks its TLS.
    pub(crate) external: bool,
    /// Its clients are to prefer what is close to them.
    pub(crate) prefers_close: bool,
    /// It has no address of its own: DNS answers with those of its endpoints (Kubernetes' `clusterIP: None`).
    pub(crate) headless: bool,
    /// The headless service that this is one endpoint of; rules are looked up by that one's host.
    pub(crate) of: Option<String>,
    /// Where it runs.
    pub(crate) instances: Vec<Instance>,
    /// How many of `instances`, from the first on, stand in documents; what Kubernetes has discovered follows them.
    pub(crate) written: usize,
}

/// What an endpoint shares with a client that is close to it, most important first (Istio).
pub(crate) const CLOSE: [&str; 4] = [
    "topology.istio.io/network",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

/// Where a service's addresses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// Instances are known.
    Static,
    /// Names of instances, or of the service itself, are resolved by the proxy.
    Dns,
    /// The client knows: the address it called, or the host of its request.
    None,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) number: Port,
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) target: TargetPort,
}

/// The port at the instances, where an instance does not say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Same,
    Number(Port),
    /// A name that instances map to a number.
    Name(String),
}

/// What is spoken on a port, as far as routing cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Http2,
    Grpc,
    /// TLS that is passed through; clusters toward it may still originate TLS.
    Tls,
    Tcp,
    Udp,
}

impl Protocol {
    /// Whether requests are routed, not connections.
    pub(crate) fn is_http(self) -> bool {
        match self {
            Self::Http | Self::Http2 | Self::Grpc => true,
            Self::Tls | Self::Tcp | Self::Udp => false,
        }
    }

    /// A protocol's name as ServiceEntry, Sidecar and `appProtocol` write it; `None`: not known.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "http" | "http_proxy" | "grpc-web" | "kubernetes.io/ws" => Self::Http,
            "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "https" | "tls" | "kubernetes.io/wss" => Self::Tls,
            "tcp" | "mongo" | "mysql" | "redis" | "postgres" | "thrift" => Self::Tcp,
            "udp" | "sctp" => Self::Udp,
            _ => return None,
        })
    }

    /// From a port's name: `http`, `http-web`, `grpc-web-ui`, …
    fn from_port_name(name: &str) -> Option<Self> {
        if name.starts_with("grpc-web") {
            return Some(Self::Http);
        }
        Self::parse(name.split('-').next().unwrap_or(name))
    }
}

impl Service {
    /// The port of this number.
    pub(crate) fn port(&self, number: Port) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The port that a host without a port means: 80 if it speaks HTTP, else the first that does.
    pub(crate) fn bare_http_port(&self) -> Option<&ServicePort> {
        let mut http = self.ports.iter().filter(|port| port.protocol.is_http());
        http.clone().find(|port| port.number.get() == 80).or_else(|| http.next())
    }

    /// One service per host of a ServiceEntry.
    pub(super) fn from_entry(id: &ResourceId, entry: &Resource<rules::ServiceEntry>) -> Vec<Self> {
        let spec = &entry.spec;
        let mut ports: Vec<ServicePort> = Vec::new();
        for port in spec.ports.iter().filter_map(entry_port) {
            if ports.iter().all(|other| other.number != port.number) {
                ports.push(port);
            }
        }
        let resolution = match spec.resolution.unwrap_or_default() {
            Written::Static => Resolution::Static,
            Written::Dns | Written::DnsRoundRobin => Resolution::Dns,
            Written::None | Written::DynamicDns => Resolution::None,
        };
        let service = |host: &String| Self {
            id: id.clone(),
            age: Age::new(id, &entry.metadata),
            host: full_name(host, &id.namespace),
            dns_name: host.clone(),
            ports: ports.clone(),
            addresses: spec.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
            resolution,
            visibility: Visibility::new(&spec.export_to, &id.namespace),
            selector: spec.workload_selector.as_ref().map(|selector| selector.labels.clone()),
            subject_alt_names: spec.subject_alt_names.clone(),
            external: spec.location.unwrap_or_default() == Location::MeshExternal,
            prefers_close: prefers_close(None, &entry.metadata),
            headless: false,
            of: None,
            instances: Vec::new(),
            written: 0,
        };
        spec.hosts.iter().filter(|host| !host.is_empty()).map(service).collect()
    }

    /// A service of Kubernetes.
    pub(super) fn from_kubernetes(id: &ResourceId, service: &Resource<rules::Service>) -> Self {
        let spec = &service.spec;
        let external = spec.external_name.clone().filter(|_| spec.r#type.as_deref() == Some("ExternalName"));
        let mut ports: Vec<ServicePort> = Vec::new();
        for port in spec.ports.iter().filter_map(kubernetes_port) {
            if ports.iter().all(|other| other.number != port.number) {
                ports.push(port);
            }
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in spec.cluster_ip.iter().chain(&spec.cluster_ips).filter_map(|address| address.parse().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let host = full_name(&id.name, &id.namespace);
        Self {
            id: id.clone(),
            age: Age::new(id, &service.metadata),
            dns_name: external.clone().unwrap_or_else(|| host.clone()),
            host,
            ports,
            addresses,
            resolution: if external.is_some() { Resolution::Dns } else { Resolution::Static },
            visibility: annotated_visibility(&service.metadata, &id.namespace),
            selector: (!spec.selector.is_empty() && external.is_none()).then(|| spec.selector.clone()),
            subject_alt_names: Vec::new(),
            external: external.is_some(),
            prefers_close: prefers_close(spec.traffic_distribution.as_deref(), &service.metadata),
            headless: spec.cluster_ip.as_deref() == Some("None"),
            of: None,
            instances: Vec::new(),
            written: 0,
        }
    }

    /// Takes over what an older entry of the same host and namespace lacks: its ports and its instances (Istio).
    pub(super) fn absorb(&mut self, younger: Self) {
        for port in younger.ports {
            if self.port(port.number).is_none() {
                self.ports.push(port);
            }
        }
        self.instances.extend(younger.instances);
        for name in younger.subject_alt_names {
            if !self.subject_alt_names.contains(&name) {
                self.subject_alt_names.push(name);
            }
        }
    }

    /// Services of Kubernetes are preferred to entries of the same host (Istio).
    pub(super) fn preference(&self) -> (bool, &Age) {
        (self.id.kind != "Service", &self.age)
    }
}

/// Kubernetes' Service has no `exportTo`; Istio reads it from an annotation.
fn annotated_visibility(metadata: &Metadata, own: &str) -> Visibility {
    let written = metadata.annotations.get("networking.istio.io/exportTo").map_or("", String::as_str);
    let namespaces: Vec<_> = written.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    Visibility::new(&namespaces.iter().map(|&text| text.to_owned()).collect::<Vec<_>>(), own)
}

/// Istio's annotation goes before Kubernetes' field. `PreferSameZone` is Kubernetes' newer word for `PreferClose`.
fn prefers_close(field: Option<&str>, metadata: &Metadata) -> bool {
    let annotated = metadata.annotations.get("networking.istio.io/traffic-distribution").map(String::as_str);
    annotated
        .or(field)
        .is_some_and(|word| ["PreferClose", "PreferSameZone"].iter().any(|it| word.eq_ignore_ascii_case(it)))
}

fn entry_port(port: &rules::ServicePort) -> Option<ServicePort> {
    let protocol = match &port.protocol {
        Some(protocol) => Protocol::parse(protocol),
        None => Protocol::from_port_name(&port.name),
    };
    Some(ServicePort {
        number: port_number(port.number)?,
        name: port.name.clone(),
        protocol: protocol.unwrap_or(Protocol::Tcp),
        target: port_number(port.target_port).map_or(TargetPort::Same, TargetPort::Number),
    })
}

fn kubernetes_port(port: &rules::KubernetesPort) -> Option<ServicePort> {
    let name = port.name.clone().unwrap_or_default();
    let transport = port.protocol.as_deref().and_then(Protocol::parse);
    let protocol = match (transport, &port.app_protocol) {
        (Some(Protocol::Udp), _) => Some(Protocol::Udp),
        (_, Some(protocol)) => Protocol::parse(protocol),
        (_, None) => Protocol::from_port_name(&name),
    };
    Some(ServicePort {
        number: port_number(port.port)?,
        name,
        protocol: protocol.unwrap_or(Protocol::Tcp),
        target: match &port.target_port {
            None => TargetPort::Same,
            Some(NumberOrText::Number(number)) => {
                u16::try_from(*number).ok().and_then(Port::new).map_or(TargetPort::Same, TargetPort::Number)
            }
            Some(NumberOrText::Text(text)) => match text.parse() {
                Ok(number) => TargetPort::Number(number),
                Err(_) => TargetPort::Name(text.clone()),
            },
        },
    })
}

/// A port from a rule; `None` where it is missing, 0 or too large.
pub(crate) fn port_number(number: Option<u32>) -> Option<Port> {
    number.and_then(|number| u16::try_from(number).ok()).and_then(Port::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_kubernetes_tells_its_protocol_by_app_protocol_then_by_name() {
        for (name, app_protocol, transport, protocol) in [
            ("http", None, None, Protocol::Http),
            ("http-web", None, Some("TCP"), Protocol::Http),
            ("http2", None, None, Protocol::Http2),
            ("grpc-api", None, None, Protocol::Grpc),
            ("grpc-web-ui", None, None, Protocol::Http),
            ("https", None, None, Protocol::Tls),
            ("mysql", None, None, Protocol::Tcp),
            ("web", None, None, Protocol::Tcp),
            ("httpx", None, None, Protocol::Tcp),
            ("tcp", Some("http"), None, Protocol::Http),
            ("http", Some("kubernetes.io/h2c"), None, Protocol::Http2),
            ("http", None, Some("UDP"), Protocol::Udp),
        ] {
            let port = rules::KubernetesPort {
                name: Some(name.into()),
                app_protocol: app_protocol.map(str::to_owned),
                protocol: transport.map(str::to_owned),
                port: Some(80),
                ..rules::KubernetesPort::default()
            };
            assert_eq!(kubernetes_port(&port).unwrap().protocol, protocol, "{name} {app_protocol:?} {transport:?}");
        }
    }

    #[test]
    fn a_port_of_an_entry_is_what_it_says_and_a_bad_number_is_no_port() {
        let port = |number, protocol: Option<&str>, name: &str| rules::ServicePort {
            number,
            protocol: protocol.map(str::to_owned),
            name: name.into(),
            target_port: None,
        };
        for (protocol, name, expected) in [
            (Some("HTTP"), "tcp", Protocol::Http),
            (Some("TCP"), "http", Protocol::Tcp),
            (Some("HTTPS"), "web", Protocol::Tls),
            (Some("MONGO"), "db", Protocol::Tcp),
            (None, "grpc", Protocol::Grpc),
        ] {
            assert_eq!(entry_port(&port(Some(80), protocol, name)).unwrap().protocol, expected, "{protocol:?} {name}");
        }
        for number in [None, Some(0), Some(65_536)] {
            assert_eq!(entry_port(&port(number, None, "http")), None);
        }
    }
}
