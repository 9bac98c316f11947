//! Endpoints: ClusterLoadAssignment.

use std::collections::BTreeMap;

use super::base;
use super::pb;
use super::refusal::{Problem, Result, Within, each, nonempty, required, unsupported};
use super::scalar::wrap_u32;
use crate::identity::SpiffeId;
use crate::ir::{Address, ClusterName, Endpoint, Endpoints, Health, Locality, LocalityEndpoints, WorkloadName};
use pb::endpoint::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, cluster_load_assignment, lb_endpoint};
use pb::protobuf::{Struct, value::Kind as ValueKind};

/// Leno's metadata: who an endpoint has to be.
const IDENTITY: &str = "identity";
/// Istio's metadata: which workload an endpoint is an instance of.
const WORKLOAD: &str = "workload";
/// Envoy's metadata by which a transport socket is chosen.
const TRANSPORT: &str = "envoy.transport_socket_match";
/// Envoy's metadata by which subsets are chosen; the labels stand there.
const LABELS: &str = "envoy.lb";
/// Envoy: the largest priority.
const LARGEST_PRIORITY: u32 = 128;

pub(super) fn to_xds(endpoints: &Endpoints) -> ClusterLoadAssignment {
    let Endpoints { cluster, localities, overprovisioning } = endpoints;
    let policy =
        cluster_load_assignment::Policy { overprovisioning_factor: wrap_u32(*overprovisioning), ..Default::default() };
    ClusterLoadAssignment {
        cluster_name: cluster.to_string(),
        endpoints: localities.iter().map(locality_to_xds).collect(),
        policy: (*overprovisioning != Endpoints::OVERPROVISIONING).then_some(policy),
        ..Default::default()
    }
}

pub(super) fn from_xds(assignment: ClusterLoadAssignment) -> Result<Endpoints> {
    let ClusterLoadAssignment {
        cluster_name,
        endpoints,
        policy,
        // Only those that an endpoint names matter, and such an endpoint is refused.
        named_endpoints: _,
    } = assignment;
    let overprovisioning = match policy {
        None => Endpoints::OVERPROVISIONING,
        Some(policy) => policy_from_xds(policy).within("policy")?,
    };
    Ok(Endpoints {
        cluster: ClusterName::new(nonempty("cluster_name", cluster_name)?),
        localities: each("endpoints", endpoints, group_from_xds)?,
        overprovisioning,
    })
}

fn policy_from_xds(policy: cluster_load_assignment::Policy) -> Result<u32> {
    let cluster_load_assignment::Policy {
        drop_overloads,
        overprovisioning_factor,
        endpoint_stale_after,
        weighted_priority_health,
    } = policy;
    unsupported(&[
        ("drop_overloads", &drop_overloads),
        ("endpoint_stale_after", &endpoint_stale_after),
        ("weighted_priority_health", &weighted_priority_health),
    ])?;
    match overprovisioning_factor {
        None => Ok(Endpoints::OVERPROVISIONING),
        Some(factor) if factor.value > 0 => Ok(factor.value),
        Some(_) => Err(Problem::new("overprovisioning_factor", "is at least 1")),
    }
}

fn locality_to_xds(group: &LocalityEndpoints) -> LocalityLbEndpoints {
    let LocalityEndpoints { locality, priority, weight, endpoints } = group;
    LocalityLbEndpoints {
        locality: Some(place_to_xds(locality)),
        priority: *priority,
        load_balancing_weight: weight.and_then(wrap_u32),
        lb_endpoints: endpoints.iter().map(endpoint_to_xds).collect(),
        ..Default::default()
    }
}

fn group_from_xds(group: LocalityLbEndpoints) -> Result<LocalityEndpoints> {
    let LocalityLbEndpoints {
        locality,
        lb_endpoints,
        load_balancing_weight,
        priority,
        lb_config,
        // Told to nobody, and Envoy does not use the distance either.
        metadata: _,
        proximity: _,
    } = group;
    unsupported(&[("leds_cluster_locality_config", &lb_config)])?;
    if priority > LARGEST_PRIORITY {
        return Err(Problem::new("priority", format!("is at most {LARGEST_PRIORITY}, this is {priority}")));
    }
    let endpoints = each("lb_endpoints", lb_endpoints, endpoint_from_xds)?;
    let total: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    if total > u64::from(u32::MAX) {
        return Err(Problem::new("lb_endpoints", format!("the weights add up to {total}, more than {}", u32::MAX)));
    }
    Ok(LocalityEndpoints {
        locality: locality.map(place_from_xds).unwrap_or_default(),
        priority,
        weight: load_balancing_weight.map(weight_from_xds).transpose()?,
        endpoints,
    })
}

fn weight_from_xds(weight: pb::protobuf::UInt32Value) -> Result<u32> {
    match weight.value {
        0 => Err(Problem::new("load_balancing_weight", "is at least 1")),
        weight => Ok(weight),
    }
}

/// Region, zone and subzone.
pub(super) fn place_to_xds(locality: &Locality) -> pb::core::Locality {
    let Locality { region, zone, subzone } = locality;
    pb::core::Locality { region: region.clone(), zone: zone.clone(), sub_zone: subzone.clone() }
}

pub(super) fn place_from_xds(locality: pb::core::Locality) -> Locality {
    let pb::core::Locality { region, zone, sub_zone } = locality;
    Locality { region, zone, subzone: sub_zone }
}

fn endpoint_to_xds(endpoint: &Endpoint) -> LbEndpoint {
    let Endpoint { address, weight, health, mesh_tls, identity, labels, workload } = endpoint;
    let address = match address {
        Address::Socket(socket) => base::address_to_xds(&socket.ip().to_string(), socket.port()),
        Address::Name { host, port } => base::address_to_xds(host, port.get()),
    };
    LbEndpoint {
        health_status: health_to_xds(*health).into(),
        metadata: base::metadata([
            (base::NAMESPACE, base::texts(identity.iter().map(|identity| (IDENTITY, identity.as_str())))),
            (TRANSPORT, base::texts(mesh_tls.then_some(("tlsMode", "istio")))),
            (LABELS, base::texts(labels)),
            (base::ISTIO, base::texts(workload.iter().map(|workload| (WORKLOAD, workload_to_xds(workload))))),
        ]),
        load_balancing_weight: wrap_u32(*weight),
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(pb::endpoint::Endpoint {
            address: Some(address),
            ..Default::default()
        })),
    }
}

fn endpoint_from_xds(endpoint: LbEndpoint) -> Result<Endpoint> {
    let LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = endpoint;
    let address = match required("endpoint", host_identifier)? {
        lb_endpoint::HostIdentifier::Endpoint(endpoint) => address_from_xds(endpoint).within("endpoint")?,
        lb_endpoint::HostIdentifier::EndpointName(_) => return Err(Problem::unsupported("endpoint_name")),
    };
    let part = |namespace| metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(namespace));
    let text = |namespace, key| part(namespace).and_then(|fields: &Struct| base::text_of(fields, key));
    let identity = part(base::NAMESPACE).map(identity_from_xds).transpose().within("metadata");
    Ok(Endpoint {
        address,
        weight: load_balancing_weight.map_or(Ok(1), weight_from_xds)?,
        health: health_from_xds(health_status)?,
        mesh_tls: text(TRANSPORT, "tlsMode") == Some("istio"),
        identity: identity?.flatten(),
        labels: part(LABELS).map(labels_from_xds).unwrap_or_default(),
        workload: text(base::ISTIO, WORKLOAD).and_then(workload_from_xds),
    })
}

/// `NAME;NAMESPACE`, of which Istio writes more: canonical name and revision, which labels say, and cluster.
fn workload_to_xds(WorkloadName { name, namespace }: &WorkloadName) -> String {
    format!("{name};{namespace}")
}

fn workload_from_xds(text: &str) -> Option<WorkloadName> {
    let mut parts = text.split(';').map(str::to_owned);
    let (name, namespace) = (parts.next()?, parts.next()?);
    (!name.is_empty()).then_some(WorkloadName { name, namespace })
}

/// Who the endpoint has to be. What cannot be read must not be taken for "nobody said": anybody on the cluster's list
/// would do then.
fn identity_from_xds(fields: &Struct) -> Result<Option<SpiffeId>> {
    let path = || format!("filter_metadata[{}].{IDENTITY}", base::NAMESPACE);
    let Some(value) = fields.fields.get(IDENTITY) else { return Ok(None) };
    let Some(ValueKind::StringValue(text)) = &value.kind else {
        return Err(Problem::new(&path(), "is a text, the SPIFFE ID that the endpoint has to show"));
    };
    let refusal = |reason| Problem::new(&path(), format!("`{}` is not a SPIFFE ID: {reason}", text.escape_default()));
    SpiffeId::parse(text).map(Some).map_err(refusal)
}

fn address_from_xds(endpoint: pb::endpoint::Endpoint) -> Result<Address> {
    let pb::endpoint::Endpoint {
        address,
        // Of active health checks and of automatic host rewrites, which are refused where they are asked for.
        health_check_config: _,
        hostname: _,
        // The same endpoint by another address family: the first one does.
        additional_addresses: _,
        // Statistics.
        observability_name: _,
    } = endpoint;
    let (host, port) = base::address_from_xds(required("address", address)?).within("address")?;
    Address::new(&host, port).within("address.socket_address")
}

/// The texts among the values; labels are nothing else.
fn labels_from_xds(fields: &Struct) -> BTreeMap<String, String> {
    fields
        .fields
        .iter()
        .filter_map(|(key, value)| match &value.kind {
            Some(ValueKind::StringValue(text)) => Some((key.clone(), text.clone())),
            _ => None,
        })
        .collect()
}

fn health_to_xds(health: Health) -> pb::core::HealthStatus {
    match health {
        Health::Unknown => pb::core::HealthStatus::Unknown,
        Health::Healthy => pb::core::HealthStatus::Healthy,
        Health::Unhealthy => pb::core::HealthStatus::Unhealthy,
        Health::Draining => pb::core::HealthStatus::Draining,
        Health::Timeout => pb::core::HealthStatus::Timeout,
        Health::Degraded => pb::core::HealthStatus::Degraded,
    }
}

fn health_from_xds(status: i32) -> Result<Health> {
    Ok(match pb::core::HealthStatus::try_from(status) {
        Ok(pb::core::HealthStatus::Unknown) => Health::Unknown,
        Ok(pb::core::HealthStatus::Healthy) => Health::Healthy,
        Ok(pb::core::HealthStatus::Unhealthy) => Health::Unhealthy,
        Ok(pb::core::HealthStatus::Draining) => Health::Draining,
        Ok(pb::core::HealthStatus::Timeout) => Health::Timeout,
        Ok(pb::core::HealthStatus::Degraded) => Health::Degraded,
        Err(_) => return Err(Problem::new("health_status", format!("Leno does not know health status {status}"))),
    })
}
