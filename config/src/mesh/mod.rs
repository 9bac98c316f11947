//! Everything that is known, indexed and immutable: services and where they run, and the rules by what they are looked
//! up by.
//!
//! A [`Mesh`] is made once per change and shared; [`crate::compile`] reads it for one proxy after the other. Names are
//! resolved here, once, in the namespace of the rule that writes them. Nothing depends on the order of the documents:
//! where two claim the same thing, age decides, and among rules without a timestamp the namespace and the name.
//!
//! What is wrong in the documents was said by [`crate::validate`]; here it has no voice and does no harm: a port 0 is
//! no port, an endpoint without an address is no endpoint.

mod delegate;
mod destination_rule;
mod discovered;
mod health_check;
mod host;
mod places;
mod ports;
mod proxy;
mod security;
mod service;
mod virtual_service;
mod visibility;
mod workload;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::defaults;
use crate::diagnostic::Place;
use crate::ir::{FilePlace, Origin};
use crate::node::Node;
use crate::rules::{self, Document, EndpointSlice, Resource, ResourceId, Rule, SERVICE_NAME_LABEL, WorkloadEntry};

pub(crate) use destination_rule::{Client, DestinationRule};
pub use discovered::{Change, Discovered, Key, Pod, ServiceEndpoint};
pub use host::full_name;
pub(crate) use host::{HostMap, HostSet, in_cluster};
pub(crate) use ports::OwnPort;
pub use security::PeerMode;
pub(crate) use security::{Scoped, parse_dry_run};
pub(crate) use service::{CLOSE, Protocol, Resolution, Service, ServicePort, TargetPort, port_number};
pub(crate) use virtual_service::{HttpRule, MESH_GATEWAY, TcpRule, VirtualService};
pub(crate) use visibility::{Age, Visibility, selects};
pub(crate) use workload::{Instance, TLS_MODE_LABEL, speaks_mesh_tls};

use destination_rule::DestinationRules;
use health_check::HealthChecks;
use places::Places;
use security::Protections;
use virtual_service::VirtualServices;
use workload::Workloads;

/// Everything that is known. A copy costs as much as there are services, and shares all that they are.
#[derive(Debug, Clone)]
pub struct Mesh {
    settings: Arc<rules::MeshConfig>,
    /// By host; of one host, the preferred first.
    services: Vec<Arc<Service>>,
    by_host: Arc<HashMap<String, Vec<usize>>>,
    by_namespace: Arc<HashMap<String, Vec<usize>>>,
    workloads: Arc<Workloads>,
    virtual_services: Arc<VirtualServices>,
    destination_rules: Arc<DestinationRules>,
    health_checks: Arc<HealthChecks>,
    protections: Arc<Protections>,
    /// The oldest first.
    sidecars: Arc<[Sidecar]>,
    documents: Arc<HashMap<ResourceId, Document>>,
    places: Arc<Places>,
    /// Keys of labels that any rule asks a proxy for.
    client_labels: Arc<BTreeSet<String>>,
    discovered: Arc<Discovered>,
}

/// A Sidecar rule.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) id: ResourceId,
    /// `None`: all workloads of the namespace.
    pub(crate) selector: Option<BTreeMap<String, String>>,
    pub(crate) spec: rules::Sidecar,
}

impl Mesh {
    /// What it was made of, in no order.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.values()
    }

    /// Indexes `documents`, whatever their order. Of two documents for one resource, the first by file and line counts.
    pub fn new(documents: &[Document]) -> Self {
        Self::over(documents, Arc::default())
    }

    /// The same over what Kubernetes says of where services run.
    pub fn over(documents: &[Document], discovered: Arc<Discovered>) -> Self {
        let sorted = Sorted::new(documents);
        let settings = sorted.mesh_config();
        let trust_domain = settings.trust_domain.as_deref().unwrap_or(defaults::TRUST_DOMAIN);
        let mut workloads = Workloads::default();
        for (id, entry) in &sorted.workload_entries {
            if let Some(instance) = Instance::from_entry(&entry.spec, &id.namespace, trust_domain) {
                workloads.insert(id, instance.named(id));
            }
        }
        let services = sorted.services(&workloads, &discovered, trust_domain);
        let mut by_host = HashMap::<String, Vec<usize>>::new();
        let mut by_namespace = HashMap::<String, Vec<usize>>::new();
        for (index, service) in services.iter().enumerate() {
            by_host.entry(service.host.clone()).or_default().push(index);
            by_namespace.entry(service.id.namespace.clone()).or_default().push(index);
        }
        let protections = Protections::new(
            &sorted.peer_authentications,
            &sorted.authorization_policies,
            &sorted.request_authentications,
            &sorted.rate_limits,
        );
        let mut client_labels = sorted.client_labels();
        client_labels.extend(protections.labels().cloned());
        if settings.tracing.is_some() {
            // It names the spans of a proxy.
            client_labels.insert(defaults::APP_LABEL.to_owned());
        }
        if services.iter().any(|service| service.prefers_close) {
            client_labels.extend(CLOSE.map(str::to_owned));
        }
        Self {
            client_labels: client_labels.into(),
            protections: protections.into(),
            sidecars: sorted.sidecars().into(),
            virtual_services: VirtualServices::new(&sorted.virtual_services).into(),
            destination_rules: DestinationRules::new(&sorted.destination_rules).into(),
            health_checks: HealthChecks::new(&sorted.health_checks).into(),
            documents: Arc::new(sorted.by_id()),
            places: Arc::default(),
            workloads: workloads.into(),
            settings: settings.into(),
            services: services.into_iter().map(Arc::new).collect(),
            by_host: by_host.into(),
            by_namespace: by_namespace.into(),
            discovered,
        }
    }

    /// Where the rule behind something in the IR stands: the entry of its list, where there is one. `None`: no such
    /// document is known, or it stands in no file. Reads the document's text anew, so this is for people, not for every request.
    pub fn place_of(&self, origin: &Origin) -> Option<Place> {
        let document = self.document_of(origin).filter(|document| !document.is_object())?;
        let list = places::list_of(document, origin.index as usize);
        Some(match list.name {
            "" => document.place.clone(),
            name => document.place_of(&format!("spec.{name}[{}]", list.index)),
        })
    }

    /// The same for routes, of which there are many: each document is read anew only once.
    pub(crate) fn known_place_of(&self, origin: &Origin) -> FilePlace {
        FilePlace(self.document_of(origin).and_then(|document| self.places.of(document, origin)))
    }

    fn document_of(&self, origin: &Origin) -> Option<&Document> {
        let Origin { kind, namespace, name, index: _, place: _ } = origin.clone();
        self.documents.get(&ResourceId { kind, namespace, name })
    }

    /// The rule behind a route, as it is in force, delegation included: a delegate's rule is there once for each
    /// VirtualService that delegates to it.
    pub fn http_rules(&self, origin: &Origin) -> impl Iterator<Item = &rules::HttpRoute> {
        let all = self.virtual_services.iter().flat_map(|service| &service.http);
        all.filter(move |rule| rule.origin == *origin).map(|rule| &rule.rule)
    }

    /// First part of every identity.
    pub fn trust_domain(&self) -> &str {
        self.settings.trust_domain.as_deref().unwrap_or(defaults::TRUST_DOMAIN)
    }

    /// Where rules for the whole mesh stand.
    pub fn root_namespace(&self) -> &str {
        self.settings.root_namespace.as_deref().unwrap_or(defaults::ROOT_NAMESPACE)
    }

    pub(crate) fn settings(&self) -> &rules::MeshConfig {
        &self.settings
    }

    pub(crate) fn client_labels(&self) -> &BTreeSet<String> {
        &self.client_labels
    }

    /// Services of the mesh that are called in clear text, by host: how many of their endpoints lack the label
    /// `security.istio.io/tlsMode: istio`, and how many there are. A label that is missing must not be silent.
    pub fn in_clear_text(&self) -> BTreeMap<String, (usize, usize)> {
        let of_mesh = self.services.iter().filter(|service| !service.external && !service.instances.is_empty());
        of_mesh
            .map(|service| {
                let clear = service.instances.iter().filter(|instance| !instance.mesh_tls()).count();
                (service.host.clone(), (clear, service.instances.len()))
            })
            .filter(|(_, (clear, _))| *clear > 0)
            .collect()
    }

    /// All services, by host.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().map(|service| &**service)
    }

    /// The services of a namespace, by host.
    pub(crate) fn services_of(&self, namespace: &str) -> impl Iterator<Item = &Service> {
        let indices = self.by_namespace.get(namespace).map(Vec::as_slice).unwrap_or_default();
        indices.iter().filter_map(|&index| self.services.get(index).map(|service| &**service))
    }

    /// The service that `namespace` means by `host`: its own, else the preferred one that it sees.
    pub(crate) fn service(&self, host: &str, namespace: &str) -> Option<&Service> {
        let named =
            self.by_host.get(host)?.iter().filter_map(|&index| self.services.get(index).map(|service| &**service));
        let mut seen = named.filter(|service| service.visibility.allows(namespace));
        let first = seen.next()?;
        if first.id.namespace == namespace {
            return Some(first);
        }
        Some(seen.find(|service| service.id.namespace == namespace).unwrap_or(first))
    }

    pub(crate) fn virtual_services(&self) -> &VirtualServices {
        &self.virtual_services
    }

    /// The DestinationRule for a service, as a client sees it.
    pub(crate) fn destination_rule(&self, service: &Service, client: Client<'_>) -> Option<&DestinationRule> {
        let host = service.of.as_ref().unwrap_or(&service.host);
        self.destination_rules.find(host, &service.id.namespace, self.root_namespace(), client)
    }

    /// The HealthCheck for a subset of a service (empty: the whole) at a port, as a client sees it.
    pub(crate) fn health_check(
        &self,
        service: &Service,
        subset: &str,
        port: u16,
        client: &str,
    ) -> Option<&rules::HealthCheck> {
        let namespaces = [client, service.id.namespace.as_str(), self.root_namespace()];
        let host = service.of.as_ref().unwrap_or(&service.host);
        self.health_checks.find(host, subset, port, namespaces)
    }

    /// The Sidecar rule for a proxy: one that selects it, else the one for its whole namespace, else the one for the
    /// whole mesh; of several, the oldest.
    pub(crate) fn sidecar(&self, node: &Node) -> Option<&Sidecar> {
        let of = |namespace: &str| {
            let namespace = namespace.to_owned();
            self.sidecars.iter().filter(move |sidecar| sidecar.id.namespace == namespace)
        };
        let selecting =
            |sidecar: &&Sidecar| sidecar.selector.as_ref().is_some_and(|selector| selects(selector, &node.labels));
        let general = |sidecar: &&Sidecar| sidecar.selector.is_none();
        of(&node.namespace)
            .find(selecting)
            .or_else(|| of(&node.namespace).find(general))
            .or_else(|| of(self.root_namespace()).find(general))
    }
}

/// The documents by kind, in an order that does not depend on how they came.
struct Sorted<'a> {
    documents: Vec<&'a Document>,
    mesh_configs: Vec<(&'a ResourceId, &'a Resource<rules::MeshConfig>)>,
    virtual_services: Vec<(&'a ResourceId, &'a Resource<rules::VirtualService>)>,
    destination_rules: Vec<(&'a ResourceId, &'a Resource<rules::DestinationRule>)>,
    health_checks: Vec<(&'a ResourceId, &'a Resource<rules::HealthCheck>)>,
    service_entries: Vec<(&'a ResourceId, &'a Resource<rules::ServiceEntry>)>,
    kubernetes_services: Vec<(&'a ResourceId, &'a Resource<rules::Service>)>,
    workload_entries: Vec<(&'a ResourceId, &'a Resource<WorkloadEntry>)>,
    slices: Vec<(&'a ResourceId, &'a Resource<EndpointSlice>)>,
    sidecars: Vec<(&'a ResourceId, &'a Resource<rules::Sidecar>)>,
    peer_authentications: Vec<(&'a ResourceId, &'a Resource<rules::PeerAuthentication>)>,
    authorization_policies: Vec<(&'a ResourceId, &'a Resource<rules::AuthorizationPolicy>)>,
    request_authentications: Vec<(&'a ResourceId, &'a Resource<rules::RequestAuthentication>)>,
    rate_limits: Vec<(&'a ResourceId, &'a Resource<rules::RateLimit>)>,
}

impl<'a> Sorted<'a> {
    fn new(documents: &'a [Document]) -> Self {
        let mut ordered: Vec<&Document> = documents.iter().collect();
        ordered.sort_by(|one, other| (&one.id, &one.place).cmp(&(&other.id, &other.place)));
        ordered.dedup_by(|later, first| later.id == first.id);
        let mut sorted = Self {
            documents: Vec::new(),
            mesh_configs: Vec::new(),
            virtual_services: Vec::new(),
            destination_rules: Vec::new(),
            health_checks: Vec::new(),
            service_entries: Vec::new(),
            kubernetes_services: Vec::new(),
            workload_entries: Vec::new(),
            slices: Vec::new(),
            sidecars: Vec::new(),
            peer_authentications: Vec::new(),
            authorization_policies: Vec::new(),
            request_authentications: Vec::new(),
            rate_limits: Vec::new(),
        };
        for document in &ordered {
            match &document.rule {
                Rule::VirtualService(rule) => sorted.virtual_services.push((&document.id, rule)),
                Rule::DestinationRule(rule) => sorted.destination_rules.push((&document.id, rule)),
                Rule::ServiceEntry(rule) => sorted.service_entries.push((&document.id, rule)),
                Rule::WorkloadEntry(rule) => sorted.workload_entries.push((&document.id, rule)),
                Rule::Sidecar(rule) => sorted.sidecars.push((&document.id, rule)),
                Rule::PeerAuthentication(rule) => sorted.peer_authentications.push((&document.id, rule)),
                Rule::AuthorizationPolicy(rule) => sorted.authorization_policies.push((&document.id, rule)),
                Rule::RequestAuthentication(rule) => sorted.request_authentications.push((&document.id, rule)),
                Rule::RateLimit(rule) => sorted.rate_limits.push((&document.id, rule)),
                Rule::MeshConfig(rule) => sorted.mesh_configs.push((&document.id, rule)),
                Rule::HealthCheck(rule) => sorted.health_checks.push((&document.id, rule)),
                Rule::Service(rule) => sorted.kubernetes_services.push((&document.id, rule)),
                Rule::EndpointSlice(rule) => sorted.slices.push((&document.id, rule)),
            }
        }
        sorted.documents = ordered;
        sorted
    }

    fn by_id(&self) -> HashMap<ResourceId, Document> {
        self.documents.iter().map(|&document| (document.id.clone(), document.clone())).collect()
    }

    fn mesh_config(&self) -> rules::MeshConfig {
        let oldest = self.mesh_configs.iter().min_by_key(|(id, rule)| Age::new(id, &rule.metadata));
        oldest.map(|(_, rule)| rule.spec.clone()).unwrap_or_default()
    }

    fn sidecars(&self) -> Vec<Sidecar> {
        let mut sidecars = self.sidecars.clone();
        sidecars.sort_by_key(|(id, rule)| Age::new(id, &rule.metadata));
        let sidecar = |(id, rule): (&ResourceId, &Resource<rules::Sidecar>)| {
            let selector = rule.spec.workload_selector.as_ref().map(|selector| selector.labels.clone());
            let selector = selector.filter(|labels| !labels.is_empty());
            Sidecar { id: id.clone(), selector, spec: rule.spec.clone() }
        };
        sidecars.into_iter().map(sidecar).collect()
    }

    /// Services with their instances, by host and preference.
    fn services(&self, workloads: &Workloads, discovered: &Discovered, trust_domain: &str) -> Vec<Service> {
        let mut services: Vec<Service> = Vec::new();
        for (id, entry) in &self.service_entries {
            let inline: Vec<_> = entry
                .spec
                .endpoints
                .iter()
                .filter_map(|endpoint| Instance::from_entry(endpoint, &id.namespace, trust_domain))
                .map(|instance| instance.within(&id.namespace))
                .collect();
            services.extend(Service::from_entry(id, entry).into_iter().map(|mut service| {
                service.instances.clone_from(&inline);
                service
            }));
        }
        let slices = self.slices_by_service();
        for (id, service) in &self.kubernetes_services {
            let mut service = Service::from_kubernetes(id, service);
            let own = slices.get(&(id.namespace.as_str(), id.name.as_str()));
            service.instances.extend(own.into_iter().flatten().flat_map(|slice| Instance::from_slice(slice)));
            services.push(service);
        }
        for service in &mut services {
            if let Some(selector) = &service.selector {
                service.instances.extend(workloads.select(&service.id.namespace, selector).cloned());
            }
        }
        let by_preference = |services: &mut Vec<Service>| {
            services.sort_by(|one, other| {
                (&one.host, one.preference(), &one.id).cmp(&(&other.host, other.preference(), &other.id))
            });
        };
        by_preference(&mut services);
        let mut services = absorb_same(services);
        for service in &mut services {
            service.written = service.instances.len();
            service.discover(discovered, trust_domain);
        }
        let individuals = services.iter().flat_map(|service| service.individuals(discovered, trust_domain));
        let individuals = individuals.collect::<Vec<_>>();
        if !individuals.is_empty() {
            services.extend(individuals);
            by_preference(&mut services);
        }
        services
    }

    fn slices_by_service(&self) -> HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>> {
        let mut slices = HashMap::<_, Vec<_>>::new();
        for &(id, slice) in &self.slices {
            if let Some(service) = slice.metadata.labels.get(SERVICE_NAME_LABEL) {
                slices.entry((id.namespace.as_str(), service.as_str())).or_default().push(&slice.spec);
            }
        }
        slices
    }

    /// Keys of labels that some rule asks a proxy for; no other label makes two proxies differ.
    fn client_labels(&self) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        for (_, rule) in &self.virtual_services {
            let http = rule.spec.http.iter().flat_map(|http| &http.r#match).map(|block| &block.source_labels);
            let tcp = rule.spec.tcp.iter().flat_map(|tcp| &tcp.r#match).map(|block| &block.source_labels);
            let tls = rule.spec.tls.iter().flat_map(|tls| &tls.r#match).map(|block| &block.source_labels);
            keys.extend(http.chain(tcp).chain(tls).flat_map(BTreeMap::keys).cloned());
        }
        for (_, rule) in &self.destination_rules {
            keys.extend(rule.spec.workload_selector.iter().flat_map(|clients| clients.match_labels.keys()).cloned());
            let own = rule.spec.traffic_policy.iter();
            for policy in own.chain(rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref())) {
                let ports = policy.port_level_settings.iter().filter_map(|port| port.load_balancer.as_ref());
                let balancers = policy.load_balancer.iter().chain(ports);
                let localities = balancers.filter_map(|balancer| balancer.locality_lb_setting.as_ref());
                let labels = localities.flat_map(|locality| &locality.failover_priority);
                keys.extend(labels.map(|label| label_key(label)));
            }
        }
        let mesh = self.mesh_configs.iter().filter_map(|(_, rule)| rule.spec.locality_lb_setting.as_deref());
        keys.extend(mesh.flat_map(|setting| &setting.failover_priority).map(|label| label_key(label)));
        for (_, rule) in &self.sidecars {
            keys.extend(rule.spec.workload_selector.iter().flat_map(|clients| clients.labels.keys()).cloned());
        }
        keys
    }
}

/// `KEY` or `KEY=VALUE`.
fn label_key(label: &str) -> String {
    label.split('=').next().unwrap_or(label).to_owned()
}

/// Entries of one host and namespace are one service (Istio); `services` are sorted by host and preference.
fn absorb_same(services: Vec<Service>) -> Vec<Service> {
    let mut merged: Vec<Service> = Vec::with_capacity(services.len());
    for service in services {
        let same_host = merged.iter_mut().rev().take_while(|older| older.host == service.host);
        let mut same =
            same_host.filter(|older| older.id.namespace == service.id.namespace && older.id.kind == service.id.kind);
        match same.next() {
            Some(older) => older.absorb(service),
            None => merged.push(service),
        }
    }
    merged
}
