//! The documents of a test's mesh, as YAML (JSON is YAML).

use std::net::SocketAddr;

use serde_json::{Value, json};

/// A declared service.
#[derive(Debug, Clone)]
pub(super) struct Service {
    /// Its short name.
    pub(super) name: String,
    /// The port it declares.
    pub(super) port: u16,
    /// Name of that port; its prefix says the protocol.
    pub(super) port_name: String,
    /// `HTTP`, `HTTP2`, `GRPC` or `TCP`
    pub(super) protocol: String,
    /// Its instances.
    pub(super) instances: Vec<Instance>,
}

/// An instance of a service.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    /// Its label `version`.
    pub(super) version: String,
    /// Where its app listens.
    pub(super) app: SocketAddr,
    /// Where its sidecar listens for peers, if it has one.
    pub(super) inbound: Option<u16>,
    /// Whether its sidecar has a certificate.
    pub(super) encrypted: bool,
}

impl Service {
    /// `NAME.default.svc.cluster.local`
    pub(super) fn host(&self) -> String {
        format!("{}.default.svc.cluster.local", self.name)
    }

    /// Whether it is carried as bytes.
    pub(super) fn is_tcp(&self) -> bool {
        self.protocol == "TCP"
    }

    /// The service with its instances, and a subset for each version.
    pub(super) fn documents(&self) -> Vec<Value> {
        let endpoints: Vec<Value> = self
            .instances
            .iter()
            .map(|instance| {
                let port = instance.inbound.unwrap_or(instance.app.port());
                let mut endpoint = json!({
                    "address": "127.0.0.1",
                    "ports": {self.port_name.as_str(): port},
                    "labels": {"app": self.name, "version": instance.version},
                });
                if instance.encrypted {
                    endpoint["labels"]["security.istio.io/tlsMode"] = json!("istio");
                    endpoint["serviceAccount"] = json!(self.name);
                }
                endpoint
            })
            .collect();
        let entry = document(
            "ServiceEntry",
            &self.name,
            json!({
                "hosts": [self.host()],
                "location": "MESH_INTERNAL",
                "resolution": "STATIC",
                "ports": [{"number": self.port, "name": self.port_name, "protocol": self.protocol}],
                "endpoints": endpoints,
            }),
        );
        let mut versions: Vec<&str> = self.instances.iter().map(|instance| instance.version.as_str()).collect();
        versions.dedup();
        let subsets: Vec<Value> =
            versions.iter().map(|version| json!({"name": version, "labels": {"version": version}})).collect();
        let subsets = document("DestinationRule", &self.name, json!({"host": self.host(), "subsets": subsets}));
        vec![entry, subsets]
    }
}

/// The listeners of the caller's sidecar: one for HTTP, and one for each TCP service at the port it declares.
pub(super) fn client_sidecar(outbound: u16, services: &[Service]) -> Value {
    let listener = |port: u16, protocol: &str, name: &str| {
        json!({
            "port": {"number": port, "protocol": protocol, "name": name},
            "bind": "127.0.0.1",
            "captureMode": "NONE",
            "hosts": ["*/*"],
        })
    };
    let mut egress = vec![listener(outbound, "HTTP", "http")];
    egress.extend(services.iter().filter(|service| service.is_tcp()).map(|tcp| listener(tcp.port, "TCP", "tcp")));
    document("Sidecar", "client", json!({"workloadSelector": {"labels": {"app": "client"}}, "egress": egress}))
}

/// The listeners of an instance's sidecar. Its outbound one is there because every sidecar has one; nobody calls it.
pub(super) fn instance_sidecar(service: &Service, instance: &Instance, inbound: u16, outbound: u16) -> Value {
    document(
        "Sidecar",
        &format!("{}-{}-{inbound}", service.name, instance.version),
        json!({
            "workloadSelector": {"labels": {"app": service.name, "version": instance.version}},
            "ingress": [{
                "port": {"number": inbound, "protocol": service.protocol, "name": service.port_name},
                "bind": "127.0.0.1",
                "defaultEndpoint": instance.app.to_string(),
            }],
            "egress": [{
                "port": {"number": outbound, "protocol": "HTTP", "name": "http"},
                "bind": "127.0.0.1",
                "captureMode": "NONE",
                "hosts": ["./*"],
            }],
        }),
    )
}

/// A document of `networking.istio.io` in namespace `default`.
fn document(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    })
}

/// Several documents as one file.
pub(super) fn stream(documents: &[Value]) -> String {
    documents.iter().map(|document| format!("{document:#}\n")).collect::<Vec<_>>().join("---\n")
}
