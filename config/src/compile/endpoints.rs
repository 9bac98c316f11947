//! Who the members of a cluster are, by where they run.

use std::collections::BTreeMap;

use crate::identity::SpiffeId;
use crate::ir::{Address, ClusterName, Endpoint, Endpoints, Health, Locality, LocalityEndpoints};
use crate::mesh::{Instance, Resolution, Service, ServicePort, TargetPort, selects};

use super::destination_rule::Policy;
use super::locality;
use super::scope::View;

/// The members of one port of a service: those with all of a subset's `labels`, grouped and ordered by locality.
pub(super) fn members(
    view: &View<'_>,
    service: &Service,
    port: &ServicePort,
    labels: Option<&BTreeMap<String, String>>,
    cluster: ClusterName,
    policy: &Policy<'_>,
) -> Endpoints {
    let selected =
        service.instances.iter().filter(|instance| labels.is_none_or(|want| selects(want, &instance.labels)));
    let mut members: Vec<(Locality, Endpoint)> = selected
        .filter_map(|instance| Some((instance.locality.clone(), endpoint(service, port, instance, policy)?)))
        .collect();
    if members.is_empty() && service.resolution == Resolution::Dns && service.instances.is_empty() {
        members.extend(by_own_name(service, port));
    }
    // One address is one endpoint, whoever wrote it twice; which of the two is the same in every process.
    members.sort_by(|one, other| order(one).cmp(&order(other)));
    members.dedup_by(|later, first| later.1.address == first.1.address);
    let mut groups = BTreeMap::<Locality, Vec<Endpoint>>::new();
    for (locality, endpoint) in members {
        groups.entry(locality).or_default().push(endpoint);
    }
    let groups: Vec<_> = groups
        .into_iter()
        .map(|(locality, endpoints)| LocalityEndpoints { locality, priority: 0, weight: None, endpoints })
        .collect();
    let mut localities = locality::prioritise(view.node, service, policy, groups);
    bound_weights(&mut localities);
    Endpoints { cluster, localities, overprovisioning: Endpoints::OVERPROVISIONING }
}

fn order((locality, endpoint): &(Locality, Endpoint)) -> (&Address, &Locality, u32, &BTreeMap<String, String>) {
    (&endpoint.address, locality, endpoint.weight, &endpoint.labels)
}

/// The peer's inbound listener for the port; `None`: it has none, or an address that only DNS could tell.
fn endpoint(service: &Service, port: &ServicePort, instance: &Instance, policy: &Policy<'_>) -> Option<Endpoint> {
    let address = Address::new(&instance.address, instance.port(port)?.get()).ok()?;
    if service.resolution == Resolution::Static && matches!(address, Address::Name { .. }) {
        return None;
    }
    Some(Endpoint {
        address,
        weight: instance.weight,
        health: instance.health,
        // Outside of the mesh a label says nothing (Istio).
        mesh_tls: instance.mesh_tls() && !service.external,
        identity: identity(service, instance, policy),
        labels: instance.labels.clone(),
        workload: instance.workload.clone(),
    })
}

/// Who the peer has to be. Identities that a DestinationRule names replace it, and those that a service names replace
/// the service account that nobody wrote: then the cluster's list decides.
fn identity(service: &Service, instance: &Instance, policy: &Policy<'_>) -> Option<SpiffeId> {
    let named_by_rule = policy.tls.is_some_and(|tls| !tls.subject_alt_names.is_empty());
    let named_by_service = instance.account.is_none() && !service.subject_alt_names.is_empty();
    let own = instance.identity.as_ref().filter(|_| !named_by_rule && !named_by_service);
    own.cloned()
}

/// A service found by name, of which no instance is written down, is found by its own name.
fn by_own_name(service: &Service, port: &ServicePort) -> Option<(Locality, Endpoint)> {
    if service.dns_name.contains('*') {
        return None;
    }
    let number = match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Same | TargetPort::Name(_) => port.number,
    };
    let endpoint = Endpoint {
        address: Address::new(&service.dns_name, number.get()).ok()?,
        weight: 1,
        health: Health::Unknown,
        mesh_tls: false,
        identity: None,
        labels: BTreeMap::new(),
        workload: None,
    };
    Some((Locality::default(), endpoint))
}

/// The weights of a locality add up to less than 2³², as Envoy demands: larger ones are scaled down alike.
fn bound_weights(localities: &mut [LocalityEndpoints]) {
    for locality in localities {
        let total: u64 = locality.endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        let divisor = total.div_ceil(u64::from(u32::MAX / 2)).max(1);
        if total > u64::from(u32::MAX) {
            for endpoint in &mut locality.endpoints {
                let scaled = u64::from(endpoint.weight).checked_div(divisor).unwrap_or_default();
                endpoint.weight = u32::try_from(scaled).unwrap_or(u32::MAX).max(1);
            }
        }
    }
}
