//! What one proxy sees of the mesh: its Sidecar rule, the services and rules that are exported to it, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::ir::Locality;
use crate::mesh::{Client, DestinationRule, HostSet, Mesh, Service, Sidecar, VirtualService, full_name};
use crate::node::Node;
use crate::rules::{EgressListener, HealthCheck, ResourceId};

/// The distinct input that a snapshot is compiled for: two proxies of one scope get equal resources, so a thousand
/// replicas of a workload are compiled once.
///
/// Of a proxy's labels only those count that some rule asks for, and its own address only where a listener is bound
/// to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    namespace: String,
    labels: BTreeMap<String, String>,
    locality: Locality,
    sidecar: Option<ResourceId>,
    address: Option<IpAddr>,
    interception: &'static str,
}

/// The scope of a proxy. Meaningful within one mesh.
pub fn scope(mesh: &Mesh, node: &Node) -> Scope {
    let sidecar = mesh.sidecar(node);
    let asked = mesh.client_labels();
    let bound_to_node = |sidecar: &&Sidecar| {
        sidecar.spec.ingress.iter().any(|listener| {
            let app = listener.default_endpoint.as_deref().unwrap_or_default();
            listener.bind.as_deref().unwrap_or_default().is_empty() || super::listeners::is_on_node(app)
        })
    };
    Scope {
        namespace: node.namespace.clone(),
        labels: node.labels.iter().filter(|(key, _)| asked.contains(*key)).map(owned).collect(),
        locality: node.locality.clone(),
        sidecar: sidecar.map(|sidecar| sidecar.id.clone()),
        address: sidecar.filter(bound_to_node).map(|_| node.ip),
        interception: node.interception.as_metadata(),
    }
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// The mesh through the eyes of one proxy.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) node: &'a Node,
    pub(super) sidecar: Option<&'a Sidecar>,
}

impl<'a> View<'a> {
    pub(super) fn new(mesh: &'a Mesh, node: &'a Node) -> Self {
        Self { mesh, node, sidecar: mesh.sidecar(node) }
    }

    fn client(&self) -> Client<'a> {
        Client { namespace: &self.node.namespace, labels: &self.node.labels }
    }

    /// The DestinationRule that this proxy calls `service` by.
    pub(super) fn destination_rule(&self, service: &Service) -> Option<&'a DestinationRule> {
        self.mesh.destination_rule(service, self.client())
    }

    /// How this proxy asks the endpoints of a service whether they are well.
    pub(super) fn health_check(&self, service: &Service, subset: &str, port: u16) -> Option<&'a HealthCheck> {
        self.mesh.health_check(service, subset, port, &self.node.namespace)
    }

    /// The sockets toward other services, in the order written. Those without a port of their own are one.
    pub(super) fn egress(&self) -> Vec<Egress<'a>> {
        let written = self.sidecar.map(|sidecar| sidecar.spec.egress.as_slice()).unwrap_or_default();
        if written.is_empty() {
            return vec![Egress::new(self, None, Imports::Everything)];
        }
        let (own, shared): (Vec<_>, Vec<_>) = written.iter().partition(|listener| listener.port.is_some());
        let import = |listeners: &[&EgressListener]| {
            Imports::listed(listeners.iter().flat_map(|listener| &listener.hosts), &self.node.namespace)
        };
        let mut egress: Vec<_> =
            own.iter().map(|listener| Egress::new(self, Some(listener), import(&[listener]))).collect();
        if !shared.is_empty() {
            egress.push(Egress::new(self, None, import(&shared)));
        }
        egress
    }
}

/// A socket toward other services, and what can be reached through it.
pub(super) struct Egress<'a> {
    /// Its rule, where it has a port of its own.
    pub(super) written: Option<&'a EgressListener>,
    /// By host, one each.
    pub(super) services: Vec<&'a Service>,
    imports: Imports,
    namespace: &'a str,
}

impl<'a> Egress<'a> {
    fn new(view: &View<'a>, written: Option<&'a EgressListener>, imports: Imports) -> Self {
        let namespace = view.node.namespace.as_str();
        let mut services: Vec<&Service> = Vec::new();
        let imported = view.mesh.services().filter(|service| {
            service.visibility.allows(namespace) && imports.cover(&service.id.namespace, &service.host)
        });
        for service in imported {
            match services.last_mut() {
                // Sorted by host and preference; what stands in the proxy's own namespace goes before that.
                Some(last) if last.host == service.host => {
                    if last.id.namespace != namespace && service.id.namespace == namespace {
                        *last = service;
                    }
                }
                _ => services.push(service),
            }
        }
        Self { written, services, imports, namespace }
    }

    /// The service of this host.
    pub(super) fn service(&self, host: &str) -> Option<&'a Service> {
        let index = self.services.binary_search_by(|service| service.host.as_str().cmp(host)).ok()?;
        self.services.get(index).copied()
    }

    /// Whether a VirtualService holds here for a host that it names.
    pub(super) fn sees(&self, rule: &VirtualService, host: &str) -> bool {
        rule.visibility.allows(self.namespace) && self.imports.overlap(&rule.id.namespace, host)
    }
}

/// Which hosts of which namespaces a socket serves.
enum Imports {
    Everything,
    /// By namespace; `*` for all of them.
    Listed(HashMap<String, HostSet>),
}

impl Imports {
    /// Reads `namespace/host`: `.` is the proxy's namespace, `*` any, `~` none.
    fn listed<'b>(hosts: impl Iterator<Item = &'b String>, own: &str) -> Self {
        let mut listed = HashMap::<String, HostSet>::new();
        for (namespace, host) in hosts.filter_map(|text| text.split_once('/')) {
            let namespace = match namespace {
                "~" => continue,
                "." => own,
                other => other,
            };
            let short_stands_in = if namespace == "*" { own } else { namespace };
            listed.entry(namespace.to_owned()).or_default().insert(&full_name(host, short_stands_in));
        }
        Self::Listed(listed)
    }

    fn cover(&self, namespace: &str, host: &str) -> bool {
        self.any(namespace, |hosts| hosts.covers(host))
    }

    fn overlap(&self, namespace: &str, host: &str) -> bool {
        self.any(namespace, |hosts| hosts.overlaps(host))
    }

    fn any(&self, namespace: &str, test: impl Fn(&HostSet) -> bool) -> bool {
        match self {
            Self::Everything => true,
            Self::Listed(listed) => [namespace, "*"].iter().any(|key| listed.get(*key).is_some_and(&test)),
        }
    }
}
