//! What the watches have said, put together. Plain data: no client, no clock, no task.
//!
//! Two things come out of it, and they come apart, because they are handed on at different speeds. What is *written*
//! (Services and rules) becomes documents, which are validated and indexed as those of files are. What is *discovered*
//! (endpoints, with the labels, identity and place of the pods behind them) becomes a [`Discovered`], of which
//! [`Registry::settle`] says what has changed: mostly one service.
//!
//! An endpoint whose pod has not been heard of yet is held back. The two come by different watches, and for the moment in
//! between nobody could say as whom it answers or whether it speaks mTLS; a call in clear text would be refused by it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use leno_config::ir::Locality;
use leno_config::mesh::{Discovered, Key, ServiceEndpoint};
use leno_config::rules::{Parsed, Rule, schema};

use super::objects::{Namespace, PlacedPod, Slice, Subject, Written};
use super::watch::Event;

/// What one watch says.
pub(crate) enum News {
    Services(Event<Written>),
    Slices(Event<Slice>),
    Pods(Event<PlacedPod>),
    Nodes(Event<Locality>),
    Namespaces(Event<Namespace>),
    /// Of the kind of this name.
    Rules(&'static str, Event<Written>),
    /// The cluster does not know the kind.
    NotInstalled(&'static str),
}

/// What has changed since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Services whose endpoints are others.
    pub(crate) services: BTreeSet<Key>,
    /// Pods of which something is known that was not, or not any more.
    pub(crate) pods: BTreeSet<Key>,
    /// Services or rules say something else.
    pub(crate) written: bool,
    /// Something of rules has changed that their status speaks of.
    pub(crate) subjects: bool,
    /// Namespaces have changed.
    pub(crate) namespaces: bool,
    /// A pod with a sidecar of this mesh is new, or gone.
    pub(crate) sidecars: bool,
}

impl Changes {
    /// Whether endpoints have, or what is known of proxies.
    pub(crate) fn of_endpoints(&self) -> bool {
        !(self.services.is_empty() && self.pods.is_empty())
    }
}

/// Everything that is known.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Kinds that have not been listed yet.
    missing: BTreeSet<&'static str>,
    /// Kinds that are not installed.
    absent: BTreeSet<&'static str>,
    /// Services and rules, by kind.
    written: BTreeMap<&'static str, BTreeMap<Key, Written>>,
    slices: HashMap<Key, Slice>,
    slices_of: HashMap<Key, BTreeSet<Key>>,
    /// As the API has them, without a place.
    pods: HashMap<Key, PlacedPod>,
    pods_on: HashMap<String, BTreeSet<Key>>,
    /// Services with an endpoint that is, or should be, this pod.
    services_of: HashMap<Key, BTreeSet<Key>>,
    nodes: HashMap<String, Locality>,
    namespaces: Arc<BTreeMap<String, Namespace>>,
    discovered: Arc<Discovered>,
    changes: Changes,
    /// Services whose endpoints are to be put together again.
    dirty: BTreeSet<Key>,
}

/// Kinds that every cluster has.
pub(super) const SERVICE: &str = "Service";
pub(super) const SLICE: &str = "EndpointSlice";
pub(super) const POD: &str = "Pod";
pub(super) const NODE: &str = "Node";
pub(super) const NAMESPACE: &str = "Namespace";

impl Registry {
    /// Nothing has been listed yet.
    pub(crate) fn new() -> Self {
        let rules = schema::custom_kinds().map(|kind| kind.name);
        Self {
            missing: [SERVICE, SLICE, POD, NODE, NAMESPACE].into_iter().chain(rules).collect(),
            absent: BTreeSet::new(),
            written: BTreeMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            pods: HashMap::new(),
            pods_on: HashMap::new(),
            services_of: HashMap::new(),
            nodes: HashMap::new(),
            namespaces: Arc::default(),
            discovered: Arc::default(),
            changes: Changes::default(),
            dirty: BTreeSet::new(),
        }
    }

    /// Kinds without which nothing may be said of the cluster: before, it would seem that there are none of them.
    pub(crate) fn missing(&self) -> &BTreeSet<&'static str> {
        &self.missing
    }

    /// Kinds of rules that the cluster does not know.
    pub(crate) fn absent(&self) -> &BTreeSet<&'static str> {
        &self.absent
    }

    /// How many objects are known of each kind.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let known = [
            (SLICE, self.slices.len()),
            (POD, self.pods.len()),
            (NODE, self.nodes.len()),
            (NAMESPACE, self.namespaces.len()),
        ];
        self.written.iter().map(|(kind, all)| (*kind, all.len())).chain(known)
    }

    /// What is discovered, as [`Registry::settle`] left it.
    pub(crate) fn discovered(&self) -> Arc<Discovered> {
        Arc::clone(&self.discovered)
    }

    pub(crate) fn namespaces(&self) -> Arc<BTreeMap<String, Namespace>> {
        Arc::clone(&self.namespaces)
    }

    /// Namespaces in which a pod has a sidecar of this mesh.
    pub(crate) fn with_sidecars(&self) -> BTreeSet<String> {
        let ours = self.pods.iter().filter(|(_, pod)| pod.is_ours);
        ours.map(|(key, _)| key.namespace.clone()).collect()
    }

    /// Everything that is written, with what is wrong with it.
    pub(crate) fn parsed(&self) -> Parsed {
        let mut all = Parsed::default();
        all.absorb(self.written.values().flat_map(BTreeMap::values).map(|written| Parsed::clone(&written.parsed)));
        all
    }

    /// The rules that have a status.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        self.written.values().flat_map(BTreeMap::values).filter_map(|written| written.subject.clone()).collect()
    }

    /// Takes what a watch says.
    pub(crate) fn take(&mut self, news: News) {
        match news {
            News::Services(event) => self.take_written(SERVICE, event),
            News::Rules(kind, event) => self.take_written(kind, event),
            News::NotInstalled(kind) => {
                self.missing.remove(kind);
                self.absent.insert(kind);
                self.changes.written |= self.written.remove(kind).is_some_and(|rules| !rules.is_empty());
            }
            News::Slices(event) => self.take_slices(event),
            News::Pods(event) => self.take_pods(event),
            News::Nodes(event) => self.take_nodes(event),
            News::Namespaces(event) => self.take_namespaces(event),
        }
    }

    /// Puts together what has changed, and forgets that it has.
    pub(crate) fn settle(&mut self) -> Changes {
        for service in std::mem::take(&mut self.dirty) {
            let endpoints = self.endpoints_of(&service);
            let known = self.discovered.endpoints.get(&service).map(|known| &**known).unwrap_or_default();
            if known == endpoints {
                continue;
            }
            let all = &mut Arc::make_mut(&mut self.discovered).endpoints;
            match endpoints.is_empty() {
                true => drop(all.remove(&service)),
                false => drop(all.insert(Arc::new(service.clone()), endpoints.into())),
            }
            self.changes.services.insert(service);
        }
        std::mem::take(&mut self.changes)
    }

    fn take_written(&mut self, kind: &'static str, event: Event<Written>) {
        let all = self.written.entry(kind).or_default();
        let changes = &mut self.changes;
        let mut note = |old: Option<&Written>, new: Option<&Written>| {
            changes.written |= old.map(|it| &it.text) != new.map(|it| &it.text);
            changes.subjects |= old.and_then(|it| it.subject.as_ref()) != new.and_then(|it| it.subject.as_ref());
        };
        let mut touched = BTreeSet::new();
        match event {
            Event::All(listed) => {
                let listed = listed.into_iter().collect::<BTreeMap<_, _>>();
                for key in all.keys().chain(listed.keys()).collect::<BTreeSet<_>>() {
                    note(all.get(key), listed.get(key));
                    touched.insert(key.clone());
                }
                *all = listed;
                self.missing.remove(kind);
                self.absent.remove(kind);
            }
            Event::Put(key, written) => {
                note(all.get(&key), Some(&written));
                touched.insert(key.clone());
                all.insert(key, written);
            }
            Event::Gone(key) => {
                note(all.remove(&key).as_ref(), None);
                touched.insert(key);
            }
        }
        if kind == SERVICE {
            // Which of two addresses of a pod is meant, the service says.
            self.dirty.extend(touched);
        }
    }

    fn take_slices(&mut self, event: Event<Slice>) {
        match event {
            Event::All(listed) => {
                let listed = listed.into_iter().collect::<HashMap<_, _>>();
                let gone = self.slices.keys().filter(|key| !listed.contains_key(*key)).cloned().collect::<Vec<_>>();
                gone.iter().for_each(|key| self.put_slice(key, None));
                listed.into_iter().for_each(|(key, slice)| self.put_slice(&key, Some(slice)));
                self.missing.remove(SLICE);
            }
            Event::Put(key, slice) => self.put_slice(&key, Some(slice)),
            Event::Gone(key) => self.put_slice(&key, None),
        }
    }

    fn put_slice(&mut self, key: &Key, slice: Option<Slice>) {
        if self.slices.get(key) == slice.as_ref() {
            return;
        }
        if let Some(slice) = &slice {
            self.slices_of.entry(slice.service.clone()).or_default().insert(key.clone());
            self.dirty.insert(slice.service.clone());
            for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.clone()) {
                self.services_of.entry(pod).or_default().insert(slice.service.clone());
            }
        }
        let new_service = slice.as_ref().map(|slice| slice.service.clone());
        let old = match slice {
            Some(slice) => self.slices.insert(key.clone(), slice),
            None => self.slices.remove(key),
        };
        let Some(old) = old else { return };
        self.dirty.insert(old.service.clone());
        if new_service.as_ref() != Some(&old.service)
            && let Some(slices) = self.slices_of.get_mut(&old.service)
        {
            slices.remove(key);
            if slices.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
        self.forget_pods(&old);
    }

    /// Pods of a slice that is no more are of its service only where another slice says so.
    fn forget_pods(&mut self, old: &Slice) {
        let slices = self.slices_of.get(&old.service).into_iter().flatten();
        let slices = slices.filter_map(|key| self.slices.get(key)).flat_map(|slice| &slice.endpoints);
        let still = slices.filter_map(|endpoint| endpoint.pod.as_ref()).collect::<BTreeSet<_>>();
        for pod in old.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()).filter(|pod| !still.contains(pod))
        {
            if let Some(services) = self.services_of.get_mut(pod) {
                services.remove(&old.service);
                if services.is_empty() {
                    self.services_of.remove(pod);
                }
            }
        }
    }

    fn take_pods(&mut self, event: Event<PlacedPod>) {
        match event {
            Event::All(listed) => {
                let listed = listed.into_iter().collect::<HashMap<_, _>>();
                let gone = self.pods.keys().filter(|key| !listed.contains_key(*key)).cloned().collect::<Vec<_>>();
                gone.iter().for_each(|key| self.put_pod(key, None));
                listed.into_iter().for_each(|(key, pod)| self.put_pod(&key, Some(pod)));
                self.missing.remove(POD);
            }
            Event::Put(key, pod) => self.put_pod(&key, Some(pod)),
            Event::Gone(key) => self.put_pod(&key, None),
        }
    }

    fn put_pod(&mut self, key: &Key, pod: Option<PlacedPod>) {
        let old = self.pods.remove(key);
        let is_ours = |pod: &Option<PlacedPod>| pod.as_ref().is_some_and(|pod| pod.is_ours);
        self.changes.sidecars |= is_ours(&old) != is_ours(&pod);
        if let Some(node) = old.and_then(|old| old.node)
            && let Some(pods) = self.pods_on.get_mut(&node)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.pods_on.remove(&node);
            }
        }
        if let Some(pod) = pod {
            if let Some(node) = &pod.node {
                self.pods_on.entry(node.clone()).or_default().insert(key.clone());
            }
            self.pods.insert(key.clone(), pod);
        }
        self.place_pod(key);
    }

    /// Notes what is known of a pod now, with the place of its node.
    fn place_pod(&mut self, key: &Key) {
        let placed = self.pods.get(key).map(|PlacedPod { pod, node, .. }| {
            let mut pod = pod.clone();
            if pod.locality == Locality::default() {
                pod.locality = node.as_ref().and_then(|node| self.nodes.get(node)).cloned().unwrap_or_default();
            }
            pod
        });
        let known = self.discovered.pods.get(key);
        if known.map(|known| &**known) == placed.as_ref() {
            return;
        }
        let pods = &mut Arc::make_mut(&mut self.discovered).pods;
        match placed {
            Some(pod) => drop(pods.insert(Arc::new(key.clone()), Arc::new(pod))),
            None => drop(pods.remove(key)),
        }
        self.changes.pods.insert(key.clone());
        self.dirty.extend(self.services_of.get(key).into_iter().flatten().cloned());
    }

    fn take_nodes(&mut self, event: Event<Locality>) {
        let moved = match event {
            Event::All(listed) => {
                let listed = listed.into_iter().map(|(key, locality)| (key.name, locality)).collect::<HashMap<_, _>>();
                let names = self.nodes.keys().chain(listed.keys()).cloned().collect::<BTreeSet<_>>();
                let moved = names.into_iter().filter(|name| self.nodes.get(name) != listed.get(name)).collect();
                self.nodes = listed;
                self.missing.remove(NODE);
                moved
            }
            Event::Put(key, locality) => match self.nodes.insert(key.name.clone(), locality.clone()) {
                Some(old) if old == locality => Vec::new(),
                _ => vec![key.name],
            },
            Event::Gone(key) => self.nodes.remove(&key.name).map(|_| key.name).into_iter().collect(),
        };
        for name in moved {
            for pod in self.pods_on.get(&name).cloned().into_iter().flatten() {
                self.place_pod(&pod);
            }
        }
    }

    fn take_namespaces(&mut self, event: Event<Namespace>) {
        let mut newer = BTreeMap::clone(&self.namespaces);
        match event {
            Event::All(listed) => {
                newer = listed.into_iter().map(|(key, namespace)| (key.name, namespace)).collect();
                self.missing.remove(NAMESPACE);
            }
            Event::Put(key, namespace) => drop(newer.insert(key.name, namespace)),
            Event::Gone(key) => drop(newer.remove(&key.name)),
        }
        if *self.namespaces != newer {
            self.namespaces = Arc::new(newer);
            self.changes.namespaces = true;
        }
    }

    /// The endpoints of a service, in an order that does not depend on how its slices came.
    fn endpoints_of(&self, service: &Key) -> Vec<ServiceEndpoint> {
        let slices = self.slices_of.get(service).into_iter().flatten().filter_map(|key| self.slices.get(key));
        let endpoints = slices.flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)));
        let mut all: Vec<ServiceEndpoint> = endpoints
            .filter_map(|(slice, endpoint)| {
                let pod = match &endpoint.pod {
                    Some(key) => Some(self.discovered.pods.get(key)?),
                    None => None,
                };
                Some(ServiceEndpoint {
                    address: endpoint.address,
                    ports: Arc::clone(&slice.ports),
                    health: endpoint.health,
                    hostname: endpoint.hostname.clone(),
                    zone: endpoint.zone.clone(),
                    pod: pod.map(Arc::clone),
                })
            })
            .collect();
        let first_v6 = self.prefers_v6(service);
        all.sort_by_key(|endpoint| (endpoint.address.is_ipv6() != first_v6, endpoint.address));
        one_address_each(all)
    }

    /// Whether the first of the service's addresses is of IPv6.
    fn prefers_v6(&self, service: &Key) -> bool {
        let written = self.written.get(SERVICE).and_then(|services| services.get(service));
        let document = written.and_then(|written| written.parsed.documents.first());
        let Some(Rule::Service(service)) = document.map(|document| &document.rule) else { return false };
        let family = service.spec.ip_families.first().map(String::as_str);
        let address = service.spec.cluster_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
        family.map_or_else(|| address.is_some_and(|address| address.is_ipv6()), |family| family == "IPv6")
    }
}

/// A pod with addresses of both families stands in slices of both, and is one endpoint: that of the family that comes
/// first. One port may be in another slice than the next, though, when some pods name ports differently.
fn one_address_each(sorted: Vec<ServiceEndpoint>) -> Vec<ServiceEndpoint> {
    let mut address_of = HashMap::<Key, IpAddr>::new();
    let mut is_first = |endpoint: &ServiceEndpoint| match &endpoint.pod {
        Some(pod) => *address_of.entry(pod.key.clone()).or_insert(endpoint.address) == endpoint.address,
        None => true,
    };
    let mut kept: Vec<ServiceEndpoint> = Vec::new();
    for endpoint in sorted.into_iter().filter(|endpoint| is_first(endpoint)) {
        match kept.last_mut().filter(|last| last.address == endpoint.address) {
            Some(last) => {
                let ports = Arc::make_mut(&mut last.ports);
                ports.extend(endpoint.ports.iter().map(|(name, port)| (name.clone(), *port)));
            }
            None => kept.push(endpoint),
        }
    }
    kept
}

#[cfg(test)]
mod tests;
