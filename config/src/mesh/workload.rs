//! Instances of services: WorkloadEntries, endpoints of a ServiceEntry, and Kubernetes' EndpointSlices.

use std::collections::{BTreeMap, HashMap};

use crate::defaults;
use crate::identity::SpiffeId;
use crate::ir::{Health, Locality, Port, WorkloadName};
use crate::rules::{self, EndpointSlice, ResourceId};

use super::service::{ServicePort, TargetPort, port_number};
use super::visibility::selects;

/// Says that an instance speaks mesh mTLS, when its value is `istio`.
pub(crate) const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// Labels that name a workload, the better one first.
const WORKLOAD_LABELS: [&str; 2] = ["service.istio.io/workload-name", "app"];

/// One place where a service runs: the address of the sidecar's inbound listeners there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Instance {
    /// An IP address, or a name for services that are resolved by DNS.
    pub(crate) address: String,
    pub(super) ports: Ports,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) locality: Locality,
    /// At least 1.
    pub(crate) weight: u32,
    /// Its service account, where one is written.
    pub(crate) account: Option<String>,
    /// Its SPIFFE ID, by its service account or, where it speaks mesh mTLS, by `default`.
    pub(crate) identity: Option<SpiffeId>,
    pub(crate) health: Health,
    /// The workload that it is, where it has a name of its own.
    pub(crate) workload: Option<WorkloadName>,
}

/// Its ports by name.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ports {
    /// These, and others as the service says (WorkloadEntry).
    AndOthers(BTreeMap<String, Port>),
    /// No others (EndpointSlice).
    Only(BTreeMap<String, Port>),
}

impl Instance {
    /// From a WorkloadEntry or an endpoint of a ServiceEntry in `namespace`. `None`: it has no address, or a Unix
    /// socket, which the proxy does not call, or a service account that nobody can have: then nobody may answer for it.
    pub(super) fn from_entry(entry: &rules::WorkloadEntry, namespace: &str, trust_domain: &str) -> Option<Self> {
        let address = entry.address.clone().filter(|text| !text.is_empty() && !text.starts_with("unix:"))?;
        let ports = entry.ports.iter().filter_map(|(name, &port)| Some((name.clone(), port_number(Some(port))?)));
        let account = entry.service_account.as_deref().filter(|account| !account.is_empty());
        let assumed = account.or_else(|| speaks_mesh_tls(&entry.labels).then_some(defaults::SERVICE_ACCOUNT));
        let identity = match assumed {
            Some(account) => Some(SpiffeId::workload(trust_domain, namespace, account).ok()?),
            None => None,
        };
        Some(Self {
            address,
            ports: Ports::AndOthers(ports.collect()),
            labels: entry.labels.clone(),
            locality: entry.locality.as_deref().map(Locality::parse).unwrap_or_default(),
            weight: entry.weight.unwrap_or(1).max(1),
            account: account.map(str::to_owned),
            identity,
            health: Health::Unknown,
            workload: None,
        })
    }

    /// Of a workload with a name.
    pub(super) fn named(self, id: &ResourceId) -> Self {
        let ResourceId { name, namespace, .. } = id;
        Self { workload: Some(WorkloadName { name: name.clone(), namespace: namespace.clone() }), ..self }
    }

    /// Without a name of its own, but of a service in `namespace`: it is called after its label (Istio's
    /// `service.istio.io/workload-name`, else `app`).
    pub(super) fn within(self, namespace: &str) -> Self {
        let name = WORKLOAD_LABELS.iter().find_map(|label| self.labels.get(*label)).filter(|name| !name.is_empty());
        let workload = name.map(|name| WorkloadName { name: name.clone(), namespace: namespace.to_owned() });
        Self { workload, ..self }
    }

    /// The instances of a slice. What is not ready is kept and marked, so that it is seen in `/clusters`.
    pub(super) fn from_slice(slice: &EndpointSlice) -> impl Iterator<Item = Self> {
        let ports: BTreeMap<_, _> = slice
            .ports
            .iter()
            .filter_map(|port| Some((port.name.clone().unwrap_or_default(), port_number(port.port)?)))
            .collect();
        slice.endpoints.iter().filter_map(move |endpoint| {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let health = match (conditions.ready, conditions.serving, conditions.terminating) {
                (Some(true) | None, _, _) => Health::Healthy,
                (Some(false), Some(true), Some(true)) => Health::Draining,
                (Some(false), _, _) => Health::Unhealthy,
            };
            Some(Self {
                address: endpoint.addresses.first()?.clone(),
                ports: Ports::Only(ports.clone()),
                labels: BTreeMap::new(),
                locality: Locality { zone: endpoint.zone.clone().unwrap_or_default(), ..Locality::default() },
                weight: 1,
                account: None,
                identity: None,
                health,
                workload: None,
            })
        })
    }

    /// Where `port` of a service is here; `None`: not at all.
    pub(crate) fn port(&self, port: &ServicePort) -> Option<Port> {
        match &self.ports {
            Ports::Only(ports) => ports.get(&port.name).copied(),
            Ports::AndOthers(ports) => Some(ports.get(&port.name).copied().unwrap_or_else(|| match &port.target {
                TargetPort::Same => port.number,
                TargetPort::Number(number) => *number,
                TargetPort::Name(name) => ports.get(name).copied().unwrap_or(port.number),
            })),
        }
    }

    /// Whether it speaks mesh mTLS.
    pub(crate) fn mesh_tls(&self) -> bool {
        speaks_mesh_tls(&self.labels)
    }
}

/// Whether an endpoint with these labels speaks mesh mTLS.
pub(crate) fn speaks_mesh_tls(labels: &BTreeMap<String, String>) -> bool {
    labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio")
}

/// WorkloadEntries, to be found by namespace and labels without looking at all of them.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    entries: Vec<(ResourceId, Instance)>,
    by_namespace: HashMap<String, Vec<usize>>,
    by_label: HashMap<(String, String, String), Vec<usize>>,
}

impl Workloads {
    pub(super) fn insert(&mut self, id: &ResourceId, instance: Instance) {
        let index = self.entries.len();
        self.by_namespace.entry(id.namespace.clone()).or_default().push(index);
        for (key, value) in &instance.labels {
            let label = (id.namespace.clone(), key.clone(), value.clone());
            self.by_label.entry(label).or_default().push(index);
        }
        self.entries.push((id.clone(), instance));
    }

    /// Those of `namespace` that `selector` selects, in the order of their names.
    pub(super) fn select<'a>(
        &'a self,
        namespace: &str,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Instance> {
        let label = |(key, value): (&String, &String)| (namespace.to_owned(), key.clone(), value.clone());
        let rarest = selector
            .iter()
            .map(|pair| self.by_label.get(&label(pair)).map_or(&[][..], Vec::as_slice))
            .min_by_key(|indices| indices.len());
        let candidates = rarest.or_else(|| self.by_namespace.get(namespace).map(Vec::as_slice)).unwrap_or_default();
        candidates
            .iter()
            .filter_map(|&index| self.entries.get(index))
            .map(|(_, instance)| instance)
            .filter(|instance| selects(selector, &instance.labels))
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(ResourceId, Instance)> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::service::Protocol;

    #[test]
    fn the_port_of_an_instance_is_its_own_then_the_target_port_then_the_port() {
        let entry = rules::WorkloadEntry {
            address: Some("10.0.0.1".into()),
            ports: BTreeMap::from([("http".into(), 9000), ("web".into(), 9001)]),
            ..rules::WorkloadEntry::default()
        };
        let instance = Instance::from_entry(&entry, "default", "cluster.local").unwrap();
        let port = |number| Port::new(number).unwrap();
        for (name, target, expected) in [
            ("http", TargetPort::Number(port(81)), 9000),
            ("other", TargetPort::Number(port(81)), 81),
            ("other", TargetPort::Name("web".into()), 9001),
            ("other", TargetPort::Name("nowhere".into()), 80),
            ("other", TargetPort::Same, 80),
        ] {
            let service = ServicePort { number: port(80), name: name.into(), protocol: Protocol::Http, target };
            assert_eq!(instance.port(&service).unwrap().get(), expected, "{name} {:?}", service.target);
        }
    }

    #[test]
    fn an_instance_without_an_address_is_none() {
        for address in [None, Some(""), Some("unix:///tmp/socket")] {
            let entry = rules::WorkloadEntry { address: address.map(str::to_owned), ..rules::WorkloadEntry::default() };
            assert_eq!(Instance::from_entry(&entry, "default", "cluster.local"), None);
        }
    }
}
