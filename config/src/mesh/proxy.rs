//! Proxies by the names that people use for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::defaults;
use crate::ir::{Address, Endpoint, Locality, Port};
use crate::node::{Interception, Node};

use super::host::full_name;
use super::workload::Instance;
use super::{Mesh, Service, TargetPort};

impl Mesh {
    /// The proxy beside what somebody calls `name` in `namespace`: a WorkloadEntry of that name, else a workload with
    /// the label `app: name`, else a workload of the service `name`. Of several the first by name; where a service
    /// selects workloads and none is known, one with just the labels that it asks for.
    pub fn proxy_of(&self, namespace: &str, name: &str) -> Option<Node> {
        let here = || self.workloads.iter().filter(|(id, _)| id.namespace == namespace);
        let named = here().find(|(id, _)| id.name == name);
        let found = named.or_else(|| {
            here().find(|(_, instance)| instance.labels.get(defaults::APP_LABEL).is_some_and(|app| app == name))
        });
        if let Some((id, instance)) = found {
            return Some(node(namespace, &id.name, Some(instance), &instance.labels));
        }
        let service =
            self.service(&full_name(name, namespace), namespace).filter(|service| service.id.namespace == namespace)?;
        let instance = service.instances.first();
        let asked = service.selector.clone().unwrap_or_default();
        Some(node(namespace, name, instance, instance.map_or(&asked, |instance| &instance.labels)))
    }

    /// The proxy beside an endpoint of the service that `namespace` calls `host`.
    pub fn proxy_at(&self, host: &str, namespace: &str, endpoint: &Endpoint) -> Option<Node> {
        let service = self.service(host, namespace)?;
        let is_address = |written: &str| match &endpoint.address {
            Address::Socket(address) => written.parse() == Ok(address.ip()),
            Address::Name { host, .. } => written == host,
        };
        let is_it = |instance: &Instance| is_address(&instance.address) && instance.labels == endpoint.labels;
        let instance = service.instances.iter().find(|instance| is_it(instance))?;
        let own = &service.id.namespace;
        let entry = self.workloads.iter().find(|(id, instance)| id.namespace == *own && is_it(instance));
        let name = entry.map_or_else(|| short_name(service), |(id, _)| id.name.as_str());
        let selected = service.selector.as_ref().filter(|_| instance.labels.is_empty());
        Some(node(own, name, Some(instance), selected.unwrap_or(&instance.labels)))
    }

    /// A proxy as the service that `namespace` calls `host` selects them, and its port, where no endpoint is known. With a
    /// subset it has that one's labels too.
    pub fn proxy_behind(&self, host: &str, namespace: &str, port: Port, subset: &str) -> Option<(Node, Port)> {
        let service = self.service(host, namespace).filter(|service| !service.external)?;
        let mut labels = service.selector.clone()?;
        let client = super::Client { namespace, labels: &BTreeMap::new() };
        let rule = self.destination_rule(service, client);
        if let Some(subset) = rule.and_then(|rule| rule.subset(subset)) {
            labels.extend(subset.labels.clone());
        }
        let port = match &service.port(port)?.target {
            TargetPort::Number(number) => *number,
            TargetPort::Same | TargetPort::Name(_) => port,
        };
        Some((node(&service.id.namespace, short_name(service), None, &labels), port))
    }

    /// A proxy of which nothing is known but where it stands.
    pub fn anonymous_proxy(namespace: &str) -> Node {
        node(namespace, "anonymous", None, &BTreeMap::new())
    }

    /// What [`proxy_of`](Self::proxy_of) would find in `namespace`, for a hint.
    pub fn proxy_names(&self, namespace: &str) -> BTreeSet<String> {
        let workloads =
            self.workloads.iter().filter(|(id, _)| id.namespace == namespace).map(|(id, _)| id.name.clone());
        let in_namespace = |service: &&Service| service.id.namespace == namespace;
        let short = |service: &Service| super::in_cluster(&service.host).map(|(name, _)| name.to_owned());
        workloads.chain(self.services().filter(in_namespace).filter_map(short)).collect()
    }
}

/// `reviews` of `reviews.default.svc.cluster.local`; other hosts as they are.
fn short_name(service: &Service) -> &str {
    super::in_cluster(&service.host).map_or(service.host.as_str(), |(name, _)| name)
}

fn node(namespace: &str, name: &str, instance: Option<&Instance>, labels: &BTreeMap<String, String>) -> Node {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Node {
        name: name.to_owned(),
        ip: instance.and_then(|instance| instance.address.parse().ok()).unwrap_or(loopback),
        namespace: namespace.to_owned(),
        service_account: instance
            .and_then(|instance| instance.account.clone())
            .unwrap_or_else(|| defaults::SERVICE_ACCOUNT.to_owned()),
        workload: name.to_owned(),
        labels: labels.clone(),
        locality: instance.map_or_else(Locality::default, |instance| instance.locality.clone()),
        interception: Interception::None,
    }
}
