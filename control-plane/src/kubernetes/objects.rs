//! Objects of Kubernetes' API, read into what is kept of them.
//!
//! A pod has some 10 KiB of JSON, of which the mesh needs its labels, its address, its service account and where it runs;
//! a cluster has ten thousand of them. So the structs here name just those fields, and the rest is dropped while it is
//! read. What rules say is not looked into at all: it becomes the text of a document, and is read by the one reader there
//! is ([`leno_config::rules::parse_object`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use kube::ResourceExt as _;
use kube::api::{DynamicObject, ObjectMeta};
use kube::core::Object;
use leno_config::ir::{Health, Locality, Port};
use leno_config::mesh::{Key, Pod};
use leno_config::rules::{Parsed, SERVICE_NAME_LABEL, parse_object};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inject::names::STATUS;

/// What injectors note on the pods that they have given a sidecar.
const STATUS_ANNOTATIONS: [&str; 2] = [STATUS, "sidecar.istio.io/status"];
/// What sidecars are called, with whom mesh mTLS works.
const SIDECARS: [&str; 2] = ["leno-proxy", "istio-proxy"];
/// Where a node stands, the newer label first.
const REGION: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
const ZONE: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
const SUBZONE: [&str; 1] = ["topology.istio.io/subzone"];
/// Wins over the node's place: a pod may say where it stands (Istio).
const LOCALITY_LABEL: &str = "istio-locality";
/// Notes of `kubectl apply`: all of the object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Telemetry's name of a workload, where somebody gives it one.
const WORKLOAD_LABEL: &str = "service.istio.io/workload-name";
/// The part of a ReplicaSet's name that its Deployment's has not.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A pod on the wire.
pub(super) type RawPod = Object<PodSpec, PodStatus>;
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    node_name: Option<String>,
    service_account_name: Option<String>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Container {
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    conditions: Vec<PodCondition>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct PodCondition {
    r#type: String,
    status: String,
}

/// A pod, and the node that tells its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlacedPod {
    /// Without the node's locality.
    pub(crate) pod: Pod,
    pub(crate) node: Option<String>,
    /// Its sidecar is of this mesh.
    pub(crate) is_ours: bool,
}

/// One slice of a service's endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slice {
    /// The service.
    pub(crate) service: Key,
    pub(crate) ports: Arc<BTreeMap<String, Port>>,
    pub(crate) endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: IpAddr,
    pub(crate) health: Health,
    pub(crate) hostname: Option<String>,
    pub(crate) zone: Option<String>,
    /// The pod that it is.
    pub(crate) pod: Option<Key>,
}

/// A namespace, for who decides about it: injection, the root's ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// It is on its way out, and takes nothing new.
    pub(crate) terminating: bool,
}

/// A rule, or a Service.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// What it says, as it was when two are compared.
    pub(crate) text: String,
    pub(crate) parsed: Arc<Parsed>,
    /// What its status has to speak of; `None`: it gets none.
    pub(crate) subject: Option<Subject>,
}

/// What is known of a rule that has a status.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subject {
    /// `VirtualService`, …
    pub(crate) kind: String,
    /// `networking.istio.io/v1`, …
    pub(crate) api_version: String,
    pub(crate) key: Key,
    pub(crate) uid: String,
    /// Of what the rule says.
    pub(crate) generation: i64,
    /// Conditions that stand there, whoever wrote them.
    pub(crate) conditions: Vec<Value>,
}

/// Namespace and name.
pub(super) fn key_of(metadata: &ObjectMeta) -> Key {
    Key::new(metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

pub(super) fn pod(raw: RawPod) -> PlacedPod {
    let Object { metadata, spec, status, .. } = raw;
    let status = status.unwrap_or_default();
    let key = key_of(&metadata);
    let labels = metadata.labels.clone().unwrap_or_default();
    let is_ours = metadata.annotations.as_ref().is_some_and(|written| written.contains_key(STATUS));
    let written = labels.get(LOCALITY_LABEL).filter(|text| !text.is_empty());
    let pod = Pod {
        address: status.pod_ip,
        service_account: spec
            .service_account_name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        workload: workload(&metadata, &labels),
        // A label cannot hold a slash, so that Istio writes dots there.
        locality: written.map(|text| Locality::parse(&text.replace('.', "/"))).unwrap_or_default(),
        injected: is_injected(&metadata, spec.containers.iter().chain(&spec.init_containers)),
        health: pod_health(&metadata, status.phase.as_deref(), &status.conditions),
        labels,
        key,
    };
    PlacedPod { pod, node: spec.node_name.filter(|name| !name.is_empty()), is_ours }
}

fn is_injected<'a>(metadata: &ObjectMeta, mut containers: impl Iterator<Item = &'a Container>) -> bool {
    let annotations = metadata.annotations.as_ref();
    let noted = STATUS_ANNOTATIONS.iter().any(|it| annotations.is_some_and(|written| written.contains_key(*it)));
    noted || containers.any(|container| SIDECARS.contains(&container.name.as_str()))
}

/// Ready, or on its way out while it still serves, or neither.
fn pod_health(metadata: &ObjectMeta, phase: Option<&str>, conditions: &[PodCondition]) -> Health {
    let ready = conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True");
    match (metadata.deletion_timestamp.is_some(), ready) {
        _ if matches!(phase, Some("Succeeded" | "Failed")) => Health::Unhealthy,
        (false, true) => Health::Healthy,
        (true, true) => Health::Draining,
        (_, false) => Health::Unhealthy,
    }
}

/// What a pod is an instance of: by its label, else its Deployment, CronJob or other owner, else itself (Istio).
fn workload(metadata: &ObjectMeta, labels: &BTreeMap<String, String>) -> String {
    if let Some(named) = labels.get(WORKLOAD_LABEL).filter(|name| !name.is_empty()) {
        return named.clone();
    }
    let owners = metadata.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else {
        let generated = metadata.generate_name.as_deref().map(|name| name.trim_end_matches('-'));
        return generated.or(metadata.name.as_deref()).unwrap_or_default().to_owned();
    };
    let hash = labels.get(TEMPLATE_HASH).map(|hash| format!("-{hash}"));
    let of_deployment = hash.and_then(|hash| owner.name.strip_suffix(&hash)).filter(|_| owner.kind == "ReplicaSet");
    let of_cron_job = owner.name.rsplit_once('-').filter(|(_, minute)| {
        owner.kind == "Job" && minute.len() >= 8 && minute.bytes().all(|byte| byte.is_ascii_digit())
    });
    of_deployment.or(of_cron_job.map(|(name, _)| name)).unwrap_or(&owner.name).to_owned()
}

/// `None`: the slice is no service's.
pub(super) fn slice(raw: EndpointSlice) -> Option<Slice> {
    let namespace = raw.metadata.namespace.clone().unwrap_or_default();
    let service = raw.labels().get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?.clone();
    let ports = raw.ports.iter().flatten().filter_map(|port| {
        let number = Port::new(u16::try_from(port.port?).ok()?)?;
        Some((port.name.clone().unwrap_or_default(), number))
    });
    let endpoints = raw.endpoints.iter().filter_map(|endpoint| slice_endpoint(endpoint, &namespace));
    Some(Slice {
        ports: Arc::new(ports.collect()),
        endpoints: endpoints.collect(),
        service: Key::new(namespace, service),
    })
}

/// `None`: it has no address that is one; a slice of names is nothing that can be called by an address.
fn slice_endpoint(endpoint: &Endpoint, namespace: &str) -> Option<SliceEndpoint> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let pod = target.and_then(|target| {
        let of = target.namespace.clone().filter(|it| !it.is_empty()).unwrap_or_else(|| namespace.to_owned());
        Some(Key::new(of, target.name.clone()?))
    });
    Some(SliceEndpoint {
        address: endpoint.addresses.first()?.parse().ok()?,
        health: endpoint_health(endpoint.conditions.as_ref()),
        hostname: endpoint.hostname.clone().filter(|name| !name.is_empty()),
        zone: endpoint.zone.clone(),
        pod,
    })
}

/// `ready` decides, and where a Service publishes addresses that are not ready, Kubernetes has made it true. What is on its
/// way out and still serves is kept for who has nobody else; the rest is kept as unhealthy, so that people see it.
fn endpoint_health(conditions: Option<&EndpointConditions>) -> Health {
    let Some(EndpointConditions { ready, serving, terminating }) = conditions else { return Health::Healthy };
    match (ready, serving, terminating) {
        (Some(true) | None, _, _) => Health::Healthy,
        (Some(false), Some(true), Some(true)) => Health::Draining,
        (Some(false), _, _) => Health::Unhealthy,
    }
}

/// Where a node stands, by its labels.
pub(super) fn locality(node: &ObjectMeta) -> Locality {
    let labels = node.labels.as_ref();
    let first = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| labels.and_then(|labels| labels.get(*key)));
        found.cloned().unwrap_or_default()
    };
    Locality { region: first(&REGION), zone: first(&ZONE), subzone: first(&SUBZONE) }
}

pub(crate) fn namespace(metadata: ObjectMeta) -> Namespace {
    Namespace {
        terminating: metadata.deletion_timestamp.is_some(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
    }
}

/// A Service, of whose fields only those are taken that the mesh looks at: a newer Kubernetes may have more, and they are
/// no mistakes.
pub(crate) fn service(raw: &DynamicObject) -> Written {
    const FIELDS: &[&str] = &[
        "type",
        "selector",
        "clusterIP",
        "clusterIPs",
        "externalName",
        "ipFamilies",
        "publishNotReadyAddresses",
        "trafficDistribution",
    ];
    const PORT_FIELDS: &[&str] = &["name", "protocol", "appProtocol", "port", "targetPort"];
    let spec = raw.data.get("spec").unwrap_or(&Value::Null);
    let mut kept = only(spec, FIELDS);
    let ports = spec.get("ports").and_then(Value::as_array);
    let ports = ports.into_iter().flatten().map(|port| Value::Object(only(port, PORT_FIELDS)));
    kept.insert("ports".to_owned(), ports.collect());
    written("v1", "Service", &raw.metadata, &Value::Object(kept))
}

/// A rule, of whose fields all are taken: what Leno does not know is for a person to hear of.
pub(super) fn rule(raw: &DynamicObject, kind: &str, api_version: &str) -> Written {
    let spec = raw.data.get("spec").filter(|spec| !spec.is_null()).cloned().unwrap_or_else(|| json!({}));
    let conditions = raw.data.pointer("/status/conditions").and_then(Value::as_array);
    let subject = Subject {
        kind: kind.to_owned(),
        api_version: api_version.to_owned(),
        key: key_of(&raw.metadata),
        uid: raw.metadata.uid.clone().unwrap_or_default(),
        generation: raw.metadata.generation.unwrap_or_default(),
        conditions: conditions.cloned().unwrap_or_default(),
    };
    Written { subject: Some(subject), ..written(api_version, kind, &raw.metadata, &spec) }
}

fn only(from: &Value, keys: &[&str]) -> serde_json::Map<String, Value> {
    let kept = keys.iter().filter_map(|key| Some(((*key).to_owned(), from.get(key)?.clone())));
    kept.collect()
}

/// The document: who it is, and what it says. Versions, owners and status of the object are left out, so that a text that
/// is the same says that nothing has changed.
fn written(api_version: &str, kind: &str, metadata: &ObjectMeta, spec: &Value) -> Written {
    let key = key_of(metadata);
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    let document = json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "labels": metadata.labels.clone().unwrap_or_default(),
            "annotations": annotations,
            "creationTimestamp": metadata.creation_timestamp,
        },
        "spec": spec,
    });
    let text = document.to_string();
    let place = format!("{}/{kind}/{}", key.namespace, key.name);
    Written { parsed: Arc::new(parse_object(&place, &text)), text, subject: None }
}

#[cfg(test)]
mod tests;
