//! All documents by what other documents name: services by host, subsets, delegates, and who is older.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::defaults;
use crate::mesh::{Age, HostMap, Protocol, full_name, selects};
use crate::rules::{self, Document, Resource, Rule};

use super::virtual_service::is_for_mesh;

/// What is known of one host.
#[derive(Debug, Default)]
pub(super) struct KnownService {
    /// Full name; `*.example.com` as it is written.
    pub(super) host: String,
    /// Numbers, by which clients call it.
    pub(super) ports: BTreeSet<u32>,
    /// Labels of its endpoints, as far as documents say.
    pub(super) endpoints: Vec<BTreeMap<String, String>>,
}

/// Something that has a host, with what decides which of several counts.
pub(super) struct Claim<'a, T> {
    pub(super) document: &'a Document,
    pub(super) spec: &'a T,
}

/// A port of workloads that carries bytes.
pub(super) struct TcpPort<'a> {
    pub(super) document: &'a Document,
    pub(super) number: u32,
    /// Labels of the workloads; empty: all of the namespace.
    pub(super) selector: &'a BTreeMap<String, String>,
}

/// All documents by what others name.
#[derive(Default)]
pub(super) struct Index<'a> {
    services: HostMap<KnownService>,
    destination_rules: HostMap<Vec<Claim<'a, rules::DestinationRule>>>,
    /// By namespace and name.
    virtual_services: HashMap<(&'a str, &'a str), &'a rules::VirtualService>,
    /// Rules for sidecars, by each of their hosts.
    mesh_hosts: HostMap<Vec<Claim<'a, rules::VirtualService>>>,
    /// By namespace; only those without a selector.
    sidecars: HashMap<&'a str, Vec<&'a Document>>,
    mesh_configs: Vec<Claim<'a, rules::MeshConfig>>,
    tcp_ports: Vec<TcpPort<'a>>,
    /// By namespace.
    peer_authentications: HashMap<&'a str, Vec<Claim<'a, rules::PeerAuthentication>>>,
    request_authentications: Vec<Claim<'a, rules::RequestAuthentication>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(documents: impl Iterator<Item = &'a Document> + Clone) -> Self {
        let mut index = Self::default();
        let workloads: Vec<(&str, &rules::WorkloadEntry)> = documents
            .clone()
            .filter_map(|document| {
                let Rule::WorkloadEntry(entry) = &document.rule else { return None };
                Some((document.id.namespace.as_str(), &entry.spec))
            })
            .collect();
        for document in documents {
            index.add(document, &workloads);
        }
        index
    }

    fn add(&mut self, document: &'a Document, workloads: &[(&str, &rules::WorkloadEntry)]) {
        let (namespace, name) = (document.id.namespace.as_str(), document.id.name.as_str());
        match &document.rule {
            Rule::VirtualService(Resource { spec, .. }) => {
                self.virtual_services.insert((namespace, name), spec);
                if is_for_mesh(spec) {
                    for host in &spec.hosts {
                        let claims = self.mesh_hosts.entry(&full_name(host, namespace));
                        claims.push(Claim { document, spec });
                    }
                }
            }
            Rule::DestinationRule(Resource { spec, .. }) => {
                let claims = self.destination_rules.entry(&full_name(&spec.host, namespace));
                claims.push(Claim { document, spec });
            }
            Rule::ServiceEntry(Resource { spec, .. }) => self.add_entry(spec, namespace, workloads),
            Rule::Service(Resource { spec, .. }) => {
                let service = self.known(name, namespace);
                service.ports.extend(spec.ports.iter().filter_map(|port| port.port));
                if !spec.selector.is_empty() {
                    service.endpoints.extend(selected(&spec.selector, namespace, workloads));
                }
            }
            Rule::Sidecar(Resource { spec, .. }) => {
                self.add_ports(document, spec);
                if spec.workload_selector.as_ref().is_none_or(|selector| selector.labels.is_empty()) {
                    self.sidecars.entry(namespace).or_default().push(document);
                }
            }
            Rule::MeshConfig(Resource { spec, .. }) => self.mesh_configs.push(Claim { document, spec }),
            Rule::PeerAuthentication(Resource { spec, .. }) => {
                self.peer_authentications.entry(namespace).or_default().push(Claim { document, spec });
            }
            Rule::RequestAuthentication(Resource { spec, .. }) => {
                self.request_authentications.push(Claim { document, spec });
            }
            Rule::AuthorizationPolicy(_)
            | Rule::HealthCheck(_)
            | Rule::RateLimit(_)
            | Rule::WorkloadEntry(_)
            | Rule::EndpointSlice(_) => {}
        }
    }

    fn add_ports(&mut self, document: &'a Document, spec: &'a rules::Sidecar) {
        static EVERYTHING: BTreeMap<String, String> = BTreeMap::new();
        let selector = spec.workload_selector.as_ref().map_or(&EVERYTHING, |selector| &selector.labels);
        for port in spec.ingress.iter().filter_map(|listener| listener.port.as_ref()) {
            let protocol = port.protocol.as_deref().and_then(Protocol::parse).unwrap_or(Protocol::Tcp);
            if let Some(number) = port.number.filter(|_| matches!(protocol, Protocol::Tcp | Protocol::Tls)) {
                self.tcp_ports.push(TcpPort { document, number, selector });
            }
        }
    }

    fn add_entry(&mut self, spec: &rules::ServiceEntry, namespace: &str, workloads: &[(&str, &rules::WorkloadEntry)]) {
        for host in &spec.hosts {
            let service = self.known(host, namespace);
            service.ports.extend(spec.ports.iter().filter_map(|port| port.number));
            service.endpoints.extend(spec.endpoints.iter().map(|endpoint| endpoint.labels.clone()));
            if let Some(selector) = &spec.workload_selector {
                service.endpoints.extend(selected(&selector.labels, namespace, workloads));
            }
        }
    }

    /// The service of a host, made where it is missing.
    fn known(&mut self, host: &str, namespace: &str) -> &mut KnownService {
        let host = full_name(host, namespace);
        let service = self.services.entry(&host);
        service.host = host;
        service
    }

    /// The service behind a full name, its own or that of a wildcard around it.
    pub(super) fn service(&self, host: &str) -> Option<&KnownService> {
        self.services.covering(host).next()
    }

    /// Hosts of all services.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.services.values().map(|service| service.host.as_str())
    }

    /// DestinationRules that may hold for a full name.
    pub(super) fn destination_rules(&self, host: &str) -> impl Iterator<Item = &Claim<'a, rules::DestinationRule>> {
        self.destination_rules.covering(host).flatten()
    }

    /// DestinationRules that name exactly this host.
    pub(super) fn destination_rules_of(&self, host: &str) -> &[Claim<'a, rules::DestinationRule>] {
        self.destination_rules.get(host).map_or(&[], Vec::as_slice)
    }

    pub(super) fn virtual_service(&self, namespace: &str, name: &str) -> Option<&'a rules::VirtualService> {
        self.virtual_services.get(&(namespace, name)).copied()
    }

    /// Names of the delegates of a namespace.
    pub(super) fn delegates(&self, namespace: &str) -> Vec<&'a str> {
        let inside = self.virtual_services.iter().filter(|((of, _), spec)| *of == namespace && spec.hosts.is_empty());
        inside.map(|((_, name), _)| *name).collect()
    }

    /// VirtualServices for sidecars that name exactly this host.
    pub(super) fn virtual_services_of(&self, host: &str) -> &[Claim<'a, rules::VirtualService>] {
        self.mesh_hosts.get(host).map_or(&[], Vec::as_slice)
    }

    /// Sidecars of a namespace that select everything.
    pub(super) fn sidecars(&self, namespace: &str) -> &[&'a Document] {
        self.sidecars.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// Where rules for the whole mesh stand.
    pub(super) fn root_namespace(&self) -> &str {
        let configs = self.mesh_configs.iter();
        let oldest = configs.reduce(|one, other| if is_older(other.document, one.document) { other } else { one });
        let written = oldest.and_then(|claim| claim.spec.root_namespace.as_deref());
        written.unwrap_or(defaults::ROOT_NAMESPACE)
    }

    /// Ports of workloads that carry bytes, in one namespace or in all of them.
    pub(super) fn tcp_ports(&self, namespace: Option<&str>) -> impl Iterator<Item = &TcpPort<'a>> {
        let namespace = namespace.map(str::to_owned);
        self.tcp_ports
            .iter()
            .filter(move |port| namespace.as_ref().is_none_or(|namespace| *namespace == port.document.id.namespace))
    }

    /// PeerAuthentications of a namespace.
    pub(super) fn peer_authentications(&self, namespace: &str) -> &[Claim<'a, rules::PeerAuthentication>] {
        self.peer_authentications.get(namespace).map_or(&[], Vec::as_slice)
    }

    pub(super) fn request_authentications(&self) -> &[Claim<'a, rules::RequestAuthentication>] {
        &self.request_authentications
    }

    pub(super) fn mesh_configs(&self) -> Vec<&'a Document> {
        self.mesh_configs.iter().map(|claim| claim.document).collect()
    }
}

fn selected(
    selector: &BTreeMap<String, String>,
    namespace: &str,
    workloads: &[(&str, &rules::WorkloadEntry)],
) -> impl Iterator<Item = BTreeMap<String, String>> {
    let chosen = workloads.iter().filter(move |(of, entry)| *of == namespace && selects(selector, &entry.labels));
    chosen.map(|(_, entry)| entry.labels.clone()).collect::<Vec<_>>().into_iter()
}

/// Whether `one` was there before `other`.
pub(super) fn is_older(one: &Document, other: &Document) -> bool {
    let age = |document: &Document| Age::new(&document.id, document.rule.metadata());
    age(one) < age(other)
}
