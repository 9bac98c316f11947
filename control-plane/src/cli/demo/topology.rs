//! What the demo starts: the bookshop's processes, their ports, and the documents that tell the mesh of them.
//!
//! The rules a person edits hold services and routes only. Where the processes are is written here, as WorkloadEntry
//! and Sidecar documents, into a directory of the demo's own that the control plane reads as well: an endpoint is the
//! inbound listener of a workload's sidecar, and `defaultEndpoint` the app behind it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use leno_config::ir::Locality;
use leno_config::node::{Interception, Node};
use serde_json::json;

/// The port that all services of the example declare.
pub(super) const SERVICE_PORT: u16 = 9080;
/// The namespace of everything in it.
pub(super) const NAMESPACE: &str = "default";

/// One process of the bookshop and what it calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workload {
    /// Name of its service.
    pub(super) service: &'static str,
    /// Its label `version`.
    pub(super) version: &'static str,
    /// What it calls for every request: service and path.
    pub(super) calls: &'static [(&'static str, &'static str)],
}

/// What productpage calls: here the split is seen.
pub(super) const OBSERVED_CALLS: &[(&str, &str)] = &[("details", "/details/0"), ("reviews", "/reviews/0")];
const RATINGS: &[(&str, &str)] = &[("ratings", "/ratings/0")];

/// What the customers call.
pub(super) const PAGE: &[(&str, &str)] = &[("productpage", "/productpage")];

/// The bookshop, the caller first and its customers last.
pub(super) const WORKLOADS: [Workload; 7] = [
    Workload { service: "productpage", version: "v1", calls: OBSERVED_CALLS },
    Workload { service: "details", version: "v1", calls: &[] },
    Workload { service: "reviews", version: "v1", calls: &[] },
    Workload { service: "reviews", version: "v2", calls: RATINGS },
    Workload { service: "reviews", version: "v3", calls: RATINGS },
    Workload { service: "ratings", version: "v1", calls: &[] },
    Workload { service: "customers", version: "v1", calls: PAGE },
];

impl Workload {
    /// `reviews-v1`
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.service, self.version)
    }

    /// Its labels.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("app".into(), self.service.into()), ("version".into(), self.version.into())])
    }

    /// Its sidecar, as the control plane sees it.
    pub(super) fn node(&self) -> Node {
        Node {
            name: self.name(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            namespace: NAMESPACE.to_owned(),
            service_account: self.service.to_owned(),
            workload: self.name(),
            labels: self.labels(),
            locality: Locality::default(),
            interception: Interception::None,
        }
    }

    /// The URLs of its calls.
    pub(super) fn urls(&self) -> impl Iterator<Item = String> {
        self.calls.iter().map(|(service, path)| format!("http://{service}:{SERVICE_PORT}{path}"))
    }
}

/// Where a workload's sidecar listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct SidecarPorts {
    /// For its peers.
    pub(super) inbound: u16,
    /// For its app.
    pub(super) outbound: u16,
}

/// The WorkloadEntry and the Sidecar of a workload whose app listens on `app`. JSON is YAML.
pub(super) fn documents(workload: &Workload, ports: SidecarPorts, app: u16) -> String {
    let metadata = json!({"name": workload.name(), "namespace": NAMESPACE});
    let mut labels = workload.labels();
    // A sidecar answers there: its callers speak mTLS with it.
    labels.insert("security.istio.io/tlsMode".to_owned(), "istio".to_owned());
    let entry = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": metadata,
        "spec": {
            "address": "127.0.0.1",
            "ports": {"http": ports.inbound},
            "labels": labels,
            "serviceAccount": workload.service,
        },
    });
    let sidecar = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": metadata,
        "spec": {
            "workloadSelector": {"labels": workload.labels()},
            "ingress": [{
                "port": {"number": ports.inbound, "protocol": "HTTP", "name": "http"},
                "bind": "127.0.0.1",
                "defaultEndpoint": format!("127.0.0.1:{app}"),
            }],
            "egress": [{
                "port": {"number": ports.outbound, "protocol": "HTTP", "name": "http"},
                "bind": "127.0.0.1",
                "captureMode": "NONE",
                "hosts": ["*/*"],
            }],
        },
    });
    format!("{entry:#}\n---\n{sidecar:#}\n")
}

/// How a sidecar reaches the control plane, and how it says who it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credentials<'a> {
    /// The control plane's encrypted port.
    pub(super) address: SocketAddr,
    /// The roots that vouch for the control plane.
    pub(super) root: &'a Path,
    /// The workload's token.
    pub(super) token: &'a Path,
}

/// The bootstrap of a workload's sidecar.
pub(super) fn bootstrap(workload: &Workload, control_plane: Credentials<'_>, state: &Path) -> String {
    let Credentials { address, root, token } = control_plane;
    let bootstrap = json!({
        "node": {
            "name": workload.name(),
            "ip": "127.0.0.1",
            "namespace": NAMESPACE,
            "service_account": workload.service,
            "workload": workload.name(),
            "labels": workload.labels(),
        },
        "interception": "none",
        "control_plane": {"address": format!("https://{address}"), "root": root, "token": token},
        "state": state,
        "admin": "127.0.0.1:0",
        "workers": 1,
    });
    format!("{bootstrap:#}\n")
}

/// `count` ports of 127.0.0.1 that nobody listens on.
///
/// Documents name ports before the sidecars bind them, so a port that the kernel hands out (port 0) could be handed
/// out again in between. These lie below the range that the kernel hands out of its own accord; `seed` keeps two
/// demos that start at once apart.
pub(super) fn free_ports(count: usize, seed: u32) -> anyhow::Result<Vec<u16>> {
    const FIRST: u16 = 24_000;
    const RANGE: u16 = 6_000;
    let start = u16::try_from(seed.wrapping_mul(61) % u32::from(RANGE)).unwrap_or_default();
    let candidates = (0..RANGE).map(|step| FIRST + (start + step) % RANGE);
    let free: Vec<u16> =
        candidates.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).take(count).collect();
    anyhow::ensure!(free.len() == count, "fewer than {count} free ports between {FIRST} and {}", FIRST + RANGE);
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_of_a_workload_name_its_sidecar_and_its_app() {
        let text = documents(&WORKLOADS[3], SidecarPorts { inbound: 10_001, outbound: 10_002 }, 4000);
        let documents: Vec<serde_json::Value> =
            text.split("\n---\n").map(|document| serde_json::from_str(document).unwrap()).collect();
        assert_eq!(documents[0]["spec"]["ports"]["http"], 10_001);
        assert_eq!(documents[0]["spec"]["labels"]["version"], "v2");
        assert_eq!(documents[0]["spec"]["labels"]["security.istio.io/tlsMode"], "istio");
        assert_eq!(documents[1]["spec"]["ingress"][0]["defaultEndpoint"], "127.0.0.1:4000");
        assert_eq!(documents[1]["spec"]["egress"][0]["port"]["number"], 10_002);
    }

    #[test]
    fn free_ports_differ_and_can_be_bound() {
        let ports = free_ports(12, std::process::id()).unwrap();
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), 12);
        assert!(ports.iter().all(|port| (10_000..30_000).contains(port)));
    }
}
