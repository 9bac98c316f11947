//! Rules from text, and proxies to compile them for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use leno_config::diagnostic::Place;
use leno_config::ir::{Locality, Resources};
use leno_config::mesh::Mesh;
use leno_config::node::{Interception, Node};
use leno_config::rules::{Document, Resource, ResourceId, Rule};
use serde::Deserialize;

/// Services that most cases share: `reviews` in three versions, `ratings`, `shop` with two HTTP ports, `mongo`.
pub const SERVICES: &str = "
kind: ServiceEntry
metadata: {name: reviews}
spec:
  hosts: [reviews.default.svc.cluster.local]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: reviews}}
---
kind: WorkloadEntry
metadata: {name: reviews-v1}
spec: {address: 10.0.0.1, labels: {app: reviews, version: v1}}
---
kind: WorkloadEntry
metadata: {name: reviews-v2}
spec: {address: 10.0.0.2, labels: {app: reviews, version: v2}}
---
kind: WorkloadEntry
metadata: {name: reviews-v3}
spec: {address: 10.0.0.3, labels: {app: reviews, version: v3}}
---
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]
---
kind: ServiceEntry
metadata: {name: ratings}
spec:
  hosts: [ratings.default.svc.cluster.local]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.1.1}]
---
kind: ServiceEntry
metadata: {name: shop}
spec:
  hosts: [shop.default.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 8080, name: http-admin, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.2.1}]
---
kind: ServiceEntry
metadata: {name: mongo}
spec:
  hosts: [mongo.default.svc.cluster.local]
  ports: [{number: 27017, name: mongo, protocol: MONGO}]
  resolution: STATIC
  endpoints: [{address: 10.0.3.1, labels: {version: v1}}, {address: 10.0.3.2, labels: {version: v2}}]
";

/// A VirtualService `reviews` in `default` for the host `reviews`, whose `spec.http` is `http`.
pub fn reviews(http: &str) -> String {
    virtual_service("reviews", &format!("{{hosts: [reviews], http: {http}}}"))
}

/// A VirtualService in `default`.
pub fn virtual_service(name: &str, spec: &str) -> String {
    document("VirtualService", name, spec)
}

/// A document in `default`, or in the namespace before the slash of `name`.
pub fn document(kind: &str, name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!("\n---\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n")
}

/// All documents of a text. Kind and metadata are enough of an envelope here.
pub fn documents(text: &str) -> Vec<Document> {
    let parts = text.split("\n---\n").enumerate().filter(|(_, part)| !part.trim().is_empty());
    parts.map(|(index, part)| one_document(index, part)).collect()
}

fn one_document(index: usize, text: &str) -> Document {
    #[derive(Deserialize)]
    struct Envelope {
        kind: String,
    }
    let kind = serde_yaml::from_str::<Envelope>(text).unwrap_or_else(|error| panic!("{error}:\n{text}")).kind;
    let text = format!("apiVersion: test/v1\n{}", text.trim_start());
    let rule = match kind.as_str() {
        "VirtualService" => Rule::VirtualService(resource(&text)),
        "DestinationRule" => Rule::DestinationRule(resource(&text)),
        "ServiceEntry" => Rule::ServiceEntry(resource(&text)),
        "WorkloadEntry" => Rule::WorkloadEntry(resource(&text)),
        "Sidecar" => Rule::Sidecar(resource(&text)),
        "MeshConfig" => Rule::MeshConfig(resource(&text)),
        "Service" => Rule::Service(resource(&text)),
        "EndpointSlice" => Rule::EndpointSlice(resource(&text)),
        other => panic!("no such kind here: {other}"),
    };
    let metadata = rule.metadata();
    let namespace = if metadata.namespace.is_empty() { "default" } else { metadata.namespace.as_str() };
    Document {
        id: ResourceId { kind, namespace: namespace.to_owned(), name: metadata.name.clone() },
        place: Place { file: Arc::from("rules.yaml"), line: u32::try_from(index).unwrap() + 1, column: 1 },
        text: Arc::from(text.as_str()),
        rule,
    }
}

fn resource<T: serde::de::DeserializeOwned>(text: &str) -> Resource<T> {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// The sidecar of a workload `app` in `default`.
pub fn client() -> Node {
    node("default", &[("app", "productpage")])
}

/// A sidecar in a namespace, with labels.
pub fn node(namespace: &str, labels: &[(&str, &str)]) -> Node {
    Node {
        name: "client-1".into(),
        ip: IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)),
        namespace: namespace.into(),
        service_account: "client".into(),
        workload: "client".into(),
        labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>(),
        locality: Locality::default(),
        interception: Interception::None,
    }
}

/// Compiles a text for a proxy, and looks whether the outcome holds together.
pub fn compile(text: &str, node: &Node) -> Resources {
    let resources = leno_config::compile::compile(&Mesh::new(&documents(text)), node);
    crate::properties::assert_consistent(&resources);
    resources
}
