//! What a new certificate, a new root and a revocation do to traffic that is under way.
//!
//! ```text
//! callers ──▶ sidecar of `shop` ──mTLS──▶ sidecar of `reviews` ──▶ origin
//! ```
//!
//! * [`identity`]: files of another workload.
//! * [`load`]: certificates and roots change under numbered requests: none is lost and none arrives twice.
//! * [`live`]: connections outlive the certificates they were opened with, but neither a revocation nor a policy.

mod identity;
mod live;
mod load;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use leno_tests::pki::{Authority, Leaf};
use leno_tests::{Proxy, eventually, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::mtls::{document, mode};

/// Two sidecars with files for an identity, and the rules that both read.
struct Pair {
    shop: Side,
    reviews: Side,
    /// Where the sidecar of `shop` takes requests for any host.
    outbound: SocketAddr,
    // Last: the processes write into it until they end.
    _directory: TempDir,
}

/// A sidecar whose identity is the test's to change.
struct Side {
    proxy: Proxy,
    /// Its files: `own.pem`, `own.key`, `roots.pem` and `revoked.pem`.
    files: PathBuf,
    id: String,
}

impl Pair {
    /// In front of an app that speaks `protocol` (`HTTP`, `HTTP2` or `TCP`), with certificates of `root`.
    async fn start(app: SocketAddr, protocol: &str, root: &Authority) -> Self {
        let directory = TempDir::with_prefix("leno-test-").unwrap();
        let mesh = Mesh::write(directory.path(), app, protocol);
        let side = |name: &str| {
            let files = directory.path().join(format!("{name}-identity"));
            std::fs::create_dir_all(&files).unwrap();
            let id = format!("spiffe://cluster.local/ns/default/sa/{name}");
            let (certificate, key) = root.issue(&Leaf::of(&id)).write(&files, "own");
            let file = |name: &str, text: &str| {
                let path = files.join(name);
                std::fs::write(&path, text).unwrap();
                path
            };
            let (roots, revoked) = (file("roots.pem", &root.pem()), file("revoked.pem", &root.revoke(&[])));
            let identity = json!({"certificate": certificate, "key": key, "roots": roots, "revoked": revoked});
            let keys = [("rules", json!([mesh.rules])), ("identity", identity)];
            Side { proxy: Proxy::with(directory.path(), name, &keys), files, id }
        };
        let (shop, reviews) = (side("shop"), side("reviews"));
        shop.proxy.ready(mesh.outbound).await;
        reviews.proxy.ready(mesh.inbound).await;
        Self { shop, reviews, outbound: local(mesh.outbound), _directory: directory }
    }

    fn sides(&self) -> [&Side; 2] {
        [&self.shop, &self.reviews]
    }
}

impl Side {
    /// Gives it another certificate, and waits until it is in force.
    async fn is_given(&self, root: &Authority, serial: u64) {
        root.issue(&Leaf { serial, ..Leaf::of(&self.id) }).write(&self.files, "own");
        eventually("the new certificate is in force", async || {
            let certs = self.proxy.certs().await?;
            let shown = certs["certificate"]["serial"].as_str().and_then(|hex| u64::from_str_radix(hex, 16).ok());
            if shown == Some(serial) { Ok(()) } else { Err(certs.to_string()) }
        })
        .await;
    }

    /// Lets it believe these roots and no other, and waits until it does.
    async fn believes(&self, roots: &[&Authority]) {
        let text: String = roots.iter().map(|root| root.pem()).collect();
        let scratch = self.files.join(".roots.new");
        std::fs::write(&scratch, text).unwrap();
        std::fs::rename(scratch, self.files.join("roots.pem")).unwrap();
        believes(&self.proxy, roots.len()).await;
    }
}

/// Waits until the bundle of the own trust domain has so many roots.
async fn believes(proxy: &Proxy, roots: usize) {
    eventually("the bundle is in force", async || {
        let certs = proxy.certs().await?;
        let found = certs["trust_domains"][0]["roots"].as_array().map(Vec::len);
        if found == Some(roots) { Ok(()) } else { Err(certs.to_string()) }
    })
    .await;
}

/// The rules of a mesh with `shop`, which calls, and `reviews`, which is called with mTLS and nothing else.
struct Mesh {
    rules: PathBuf,
    outbound: u16,
    inbound: u16,
}

impl Mesh {
    fn write(directory: &Path, app: SocketAddr, protocol: &str) -> Self {
        let (rules, outbound, inbound) = (directory.join("rules"), free_port(), free_port());
        // A TCP service is called at the port it declares.
        let (egress_protocol, port) = if protocol == "TCP" { ("TCP", outbound) } else { ("HTTP", 80) };
        let egress = |port: u16, hosts: &str| {
            json!([{
                "port": {"number": port, "protocol": egress_protocol, "name": egress_protocol.to_lowercase()},
                "bind": "127.0.0.1",
                "captureMode": "NONE",
                "hosts": [hosts],
            }])
        };
        let ingress = json!([{
            "port": {"number": inbound, "protocol": protocol, "name": protocol.to_lowercase()},
            "bind": "127.0.0.1",
            "defaultEndpoint": app.to_string(),
        }]);
        let selects = |app: &str| json!({"labels": {"app": app}});
        let host = "reviews.default.svc.cluster.local";
        let documents = [
            document(
                "Sidecar",
                "shop",
                json!({"workloadSelector": selects("shop"), "egress": egress(outbound, "*/*")}),
            ),
            document(
                "Sidecar",
                "reviews",
                json!({
                    "workloadSelector": selects("reviews"),
                    "ingress": ingress,
                    "egress": egress(free_port(), "./*"),
                }),
            ),
            service(host, (port, protocol), inbound),
            // So that there are handshakes all the time.
            document(
                "DestinationRule",
                "reviews",
                json!({
                    "host": host,
                    "trafficPolicy": {"connectionPool": {"http": {"maxRequestsPerConnection": 25}}},
                }),
            ),
        ];
        let text: Vec<String> = documents.iter().map(|document| format!("{document:#}\n")).collect();
        std::fs::create_dir_all(&rules).unwrap();
        std::fs::write(rules.join("mesh.yaml"), format!("{}---\n{}", text.join("---\n"), mode("STRICT"))).unwrap();
        Self { rules, outbound, inbound }
    }
}

fn service(host: &str, (declared, protocol): (u16, &str), port: u16) -> Value {
    let name = protocol.to_lowercase();
    document(
        "ServiceEntry",
        "reviews",
        json!({
            "hosts": [host],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": declared, "name": name, "protocol": protocol}],
            "endpoints": [{
                "address": "127.0.0.1", "ports": {name.as_str(): port}, "serviceAccount": "reviews",
                "labels": {"security.istio.io/tlsMode": "istio"},
            }],
        }),
    )
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}
