//! The ports on which a workload is called: what its proxy does with connections that were captured on their way to it.

use std::collections::BTreeMap;

use crate::defaults::POD_PORTS;
use crate::ir::{Port, ServiceName};
use crate::node::Node;

use super::service::Protocol;
use super::visibility::selects;
use super::{Mesh, Service, ServicePort};

/// A port of a workload, by the service that says what is spoken on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct OwnPort {
    /// Where the app listens.
    pub(crate) port: Port,
    pub(crate) protocol: Protocol,
    pub(crate) service: ServiceName,
}

impl Mesh {
    /// The ports of all services that the workload of `node` is an instance of, each once, by number. They are those of its
    /// namespace that select its labels or list its address. Where two say different things of one port, the older service
    /// is right (Istio), and Kubernetes' before others.
    pub(crate) fn own_ports(&self, node: &Node) -> Vec<OwnPort> {
        let mut services: Vec<&Service> = self
            .services_of(&node.namespace)
            .filter(|service| service.of.is_none() && is_instance(service, node))
            .collect();
        services.sort_by(|one, other| (one.preference(), &one.host).cmp(&(other.preference(), &other.host)));
        let mut ports = BTreeMap::new();
        for service in services {
            for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
                if let Some(number) = number(service, port, node).filter(|number| !POD_PORTS.contains(&number.get())) {
                    ports.entry(number).or_insert_with(|| OwnPort {
                        port: number,
                        protocol: port.protocol,
                        service: service.named(),
                    });
                }
            }
        }
        ports.into_values().collect()
    }
}

fn is_instance(service: &Service, node: &Node) -> bool {
    let by_labels = service.selector.as_ref().is_some_and(|labels| !labels.is_empty() && selects(labels, &node.labels));
    by_labels || is_listed(service, node)
}

fn is_listed(service: &Service, node: &Node) -> bool {
    service.instances.iter().any(|instance| instance.address.parse() == Ok(node.ip))
}

/// Where the app listens for a port of a service. A port that a workload names itself is looked up where the workload is
/// listed, and, as long as it is not, where others of its kind are.
fn number(service: &Service, port: &ServicePort, node: &Node) -> Option<Port> {
    let own = service.instances.iter().find(|instance| instance.address.parse() == Ok(node.ip));
    let others = || service.instances.iter().find_map(|instance| instance.port(port));
    own.and_then(|instance| instance.port(port)).or_else(|| port.fixed_target()).or_else(others)
}
