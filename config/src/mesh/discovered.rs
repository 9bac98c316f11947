//! What Kubernetes says at this moment of where services run: endpoints, and the pods behind them.
//!
//! Pods come and go all day while rules stay, so this is no document: nobody validates it, nobody keeps a last good
//! version of it, and [`Mesh::with_discovered`] puts a newer one under the same rules without indexing those again. Of a
//! service whose endpoints change that is all there is to do, as a rule; [`Change::beyond_clusters`] tells the cases in
//! which listeners or hosts follow from them as well.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::identity::SpiffeId;
use crate::ir::{Health, Locality, Port, WorkloadName};
use crate::node::Node;

use super::visibility::selects;
use super::workload::{Instance, Ports, TLS_MODE_LABEL, speaks_mesh_tls};
use super::{Mesh, Service};

/// Namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    /// The object `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// What Kubernetes says at this moment.
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    /// Endpoints by service.
    pub endpoints: HashMap<Arc<Key>, Arc<[ServiceEndpoint]>>,
    /// All pods that have an address or a place.
    pub pods: HashMap<Arc<Key>, Arc<Pod>>,
}

/// One endpoint of a service, as an EndpointSlice has it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceEndpoint {
    /// Where the pod listens.
    pub address: IpAddr,
    /// By the name of the service's port; a port without a name is "".
    pub ports: Arc<BTreeMap<String, Port>>,
    /// By its conditions.
    pub health: Health,
    /// Its own name below the service's, where it has one (a StatefulSet's pods).
    pub hostname: Option<String>,
    /// Zone by the slice, for endpoints that are no pods of ours.
    pub zone: Option<String>,
    /// `None`: no pod, or one that has not been heard of yet.
    pub pod: Option<Arc<Pod>>,
}

/// What is kept of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    /// Which.
    pub key: Key,
    /// `None`: not assigned yet.
    pub address: Option<IpAddr>,
    /// Its labels as they are now.
    pub labels: BTreeMap<String, String>,
    /// Whom it runs as.
    pub service_account: String,
    /// The deployment, job or set that it is of; its own name where it is of none.
    pub workload: String,
    /// Of its node.
    pub locality: Locality,
    /// It has a sidecar.
    pub injected: bool,
    /// By its conditions.
    pub health: Health,
}

/// What follows from a newer [`Discovered`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Hosts whose endpoints are others.
    pub hosts: BTreeSet<String>,
    /// More than clusters and endpoints follow: everything has to be compiled anew, though not at once.
    pub beyond_clusters: bool,
}

impl Mesh {
    /// The same rules over a newer state of the cluster, in which these `services` and `pods` have changed. What else has
    /// changed is seen when the mesh is made anew.
    pub fn with_discovered(
        &self,
        discovered: Arc<Discovered>,
        services: &BTreeSet<Key>,
        pods: &BTreeSet<Key>,
    ) -> (Self, Change) {
        let mut change = Change::default();
        let mut newer = Self { discovered: Arc::clone(&discovered), ..self.clone() };
        let namespaces = pods.iter().map(|pod| pod.namespace.as_str()).collect::<BTreeSet<_>>();
        for index in self.affected(services, &namespaces) {
            let Some(old) = self.services.get(index) else { continue };
            let mut service = Service::clone(old);
            service.discover(&discovered, self.trust_domain());
            if service.instances == old.instances {
                continue;
            }
            change.beyond_clusters |= self.reaches_further(old, &service);
            change.hosts.insert(service.host.clone());
            if let Some(place) = newer.services.get_mut(index) {
                *place = Arc::new(service);
            }
        }
        (newer, change)
    }

    /// The node with what the API server knows better than the proxy: its labels may have changed since it started, and
    /// nobody tells a pod where its node stands. A name that is used again is told by its address.
    pub fn seen(&self, node: &Node) -> Node {
        let pod = self.discovered.pods.get(&Key::new(node.namespace.as_str(), node.name.as_str()));
        let Some(pod) = pod.filter(|pod| pod.address.is_none_or(|address| address == node.ip)) else {
            return node.clone();
        };
        let locality = if pod.locality == Locality::default() { &node.locality } else { &pod.locality };
        Node {
            labels: pod.labels.clone(),
            service_account: pod.service_account.clone(),
            locality: locality.clone(),
            ..node.clone()
        }
    }

    /// Indices of the services whose endpoints may have changed.
    fn affected(&self, services: &BTreeSet<Key>, namespaces: &BTreeSet<&str>) -> Vec<usize> {
        let all = self.services.iter().enumerate();
        let is_affected = |service: &Service| match service.id.kind.as_str() {
            "Service" => services.contains(&Key::new(service.id.namespace.as_str(), service.id.name.as_str())),
            _ => service.selector.is_some() && namespaces.contains(service.id.namespace.as_str()),
        };
        all.filter(|(_, service)| is_affected(service)).map(|(index, _)| index).collect()
    }

    /// Whether more than the clusters of a service depends on what has changed of it: addresses of a headless service are
    /// listeners, and ports tell inbound listeners whose they are.
    fn reaches_further(&self, old: &Service, new: &Service) -> bool {
        let addresses =
            |service: &Service| service.instances.iter().map(|it| it.address.clone()).collect::<BTreeSet<_>>();
        let ports = |service: &Service| {
            let of = |instance: &Instance| service.ports.iter().map(|port| instance.port(port)).collect::<Vec<_>>();
            service.instances.iter().map(of).collect::<BTreeSet<_>>()
        };
        let labels = |service: &Service| service.instances.iter().map(|it| it.labels.clone()).collect::<BTreeSet<_>>();
        let by_labels = self.sidecars.iter().any(|sidecar| !sidecar.spec.ingress.is_empty());
        let several = self.by_host.get(&new.host).is_some_and(|same| same.len() > 1);
        several
            || (new.headless && addresses(old) != addresses(new))
            || ports(old) != ports(new)
            || (by_labels && labels(old) != labels(new))
    }
}

impl Service {
    /// Takes the instances that Kubernetes knows, in place of those that it knew before.
    pub(super) fn discover(&mut self, discovered: &Discovered, trust_domain: &str) {
        self.instances.truncate(self.written);
        if self.id.kind == "Service" {
            let key = Key::new(self.id.namespace.as_str(), self.id.name.as_str());
            let found = discovered.endpoints.get(&key).map(|found| &**found).unwrap_or_default();
            let own = found.iter().filter(|it| self.of.is_none() || self.is_named(it));
            let own = own.map(|endpoint| Instance::discovered(endpoint, trust_domain)).collect::<Vec<_>>();
            self.instances.extend(own);
        } else if let Some(selector) = &self.selector {
            // A ServiceEntry selects pods as it selects WorkloadEntries (Istio).
            let here = discovered.pods.values().filter(|pod| pod.key.namespace == self.id.namespace);
            let mut chosen: Vec<_> = here.filter(|pod| selects(selector, &pod.labels)).collect();
            chosen.sort_by(|one, other| one.key.cmp(&other.key));
            self.instances.extend(chosen.into_iter().filter_map(|pod| Instance::of_pod(pod, trust_domain)));
        }
    }

    /// A headless service's endpoints with a name of their own, each as a service: a client that calls
    /// `db-0.db.shop.svc.cluster.local` means this one and no other. Rules for the whole service hold for them.
    pub(super) fn individuals(&self, discovered: &Discovered, trust_domain: &str) -> Vec<Self> {
        if !self.headless || self.of.is_some() {
            return Vec::new();
        }
        let key = Key::new(self.id.namespace.as_str(), self.id.name.as_str());
        let found = discovered.endpoints.get(&key).map(|found| &**found).unwrap_or_default();
        let names = found.iter().filter_map(|endpoint| endpoint.hostname.as_deref()).collect::<BTreeSet<_>>();
        let individual = |name: &str| {
            let host = format!("{name}.{}", self.host).to_ascii_lowercase();
            let mut one = Self {
                of: Some(self.host.clone()),
                dns_name: host.clone(),
                host,
                selector: None,
                instances: Vec::new(),
                written: 0,
                ..self.clone()
            };
            one.discover(discovered, trust_domain);
            one.addresses = one.instances.iter().filter_map(|instance| instance.address.parse().ok()).collect();
            one
        };
        names.into_iter().map(individual).collect()
    }

    /// Whether this stands for the one endpoint of a headless service.
    fn is_named(&self, endpoint: &ServiceEndpoint) -> bool {
        let name = self.of.as_ref().and_then(|parent| self.host.strip_suffix(parent.as_str())?.strip_suffix('.'));
        endpoint.hostname.as_deref().is_some_and(|own| name.is_some_and(|name| own.eq_ignore_ascii_case(name)))
    }
}

impl Instance {
    fn discovered(endpoint: &ServiceEndpoint, trust_domain: &str) -> Self {
        let ports = Ports::Only(BTreeMap::clone(&endpoint.ports));
        let zone = endpoint.zone.clone().unwrap_or_default();
        let bare = Self {
            address: endpoint.address.to_string(),
            ports,
            labels: BTreeMap::new(),
            locality: Locality { zone, ..Locality::default() },
            weight: 1,
            account: None,
            identity: None,
            health: endpoint.health,
            workload: None,
        };
        match &endpoint.pod {
            Some(pod) => bare.in_pod(pod, trust_domain),
            None => bare,
        }
    }

    /// `None`: it has no address yet, or has come to its end.
    fn of_pod(pod: &Pod, trust_domain: &str) -> Option<Self> {
        let bare = Self {
            address: pod.address?.to_string(),
            ports: Ports::AndOthers(BTreeMap::new()),
            labels: BTreeMap::new(),
            locality: Locality::default(),
            weight: 1,
            account: None,
            identity: None,
            health: pod.health,
            workload: None,
        };
        Some(bare.in_pod(pod, trust_domain))
    }

    /// With what is known of its pod. Whether it speaks mesh mTLS is a matter of whether it has a sidecar, and not of what
    /// somebody wrote into its labels; a label may say that it does not all the same.
    fn in_pod(self, pod: &Pod, trust_domain: &str) -> Self {
        let mut labels = pod.labels.clone();
        match pod.injected {
            true => drop(labels.entry(TLS_MODE_LABEL.to_owned()).or_insert_with(|| "istio".to_owned())),
            false => drop(labels.remove(TLS_MODE_LABEL)),
        }
        let speaks = speaks_mesh_tls(&labels);
        let identity = SpiffeId::workload(trust_domain, &pod.key.namespace, &pod.service_account).ok();
        let locality = if pod.locality == Locality::default() { self.locality } else { pod.locality.clone() };
        Self {
            labels,
            locality,
            account: Some(pod.service_account.clone()),
            identity: identity.filter(|_| speaks),
            workload: Some(WorkloadName { name: pod.workload.clone(), namespace: pod.key.namespace.clone() }),
            ..self
        }
    }
}
