//! Rules from text, and proxies to compile them for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use leno_config::ir::{Locality, Resources};
use leno_config::mesh::Mesh;
use leno_config::node::{Interception, Node};
use leno_config::rules::{Document, SourceText, parse};

/// Services that most cases share: `reviews` in three versions, `ratings`, `shop` with two HTTP ports, `mongo`.
pub const SERVICES: &str = "
kind: ServiceEntry
metadata: {name: reviews}
spec:
  hosts: [reviews.default.svc.cluster.local]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  location: MESH_INTERNAL
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
  location: MESH_INTERNAL
  endpoints: [{address: 10.0.1.1}]
---
kind: ServiceEntry
metadata: {name: shop}
spec:
  hosts: [shop.default.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 8080, name: http-admin, protocol: HTTP}]
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints: [{address: 10.0.2.1}]
---
kind: ServiceEntry
metadata: {name: mongo}
spec:
  hosts: [mongo.default.svc.cluster.local]
  ports: [{number: 27017, name: mongo, protocol: MONGO}]
  resolution: STATIC
  location: MESH_INTERNAL
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

/// All documents of a text, which leaves out what a file would have to say: the version of each kind.
pub fn documents(text: &str) -> Vec<Document> {
    let parts = text.split("\n---\n").filter(|part| !part.trim().is_empty());
    let whole = parts.map(|part| format!("{}\n{}\n---\n", version(part), part.trim())).collect::<String>();
    let parsed = parse(&[SourceText { name: Arc::from("rules.yaml"), text: whole.into_bytes() }]);
    assert!(parsed.diagnostics.is_empty(), "{:#?}", parsed.diagnostics);
    parsed.documents
}

fn version(document: &str) -> &'static str {
    let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap_or_else(|| panic!("{document}"));
    match kind {
        "MeshConfig" | "HealthCheck" | "RateLimit" => "apiVersion: leno.mesh/v1alpha1",
        "Service" => "apiVersion: v1",
        "EndpointSlice" => "apiVersion: discovery.k8s.io/v1",
        "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => "apiVersion: security.istio.io/v1",
        _ => "apiVersion: networking.istio.io/v1",
    }
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
    crate::properties::assert_survives_the_wire(&resources);
    resources
}
