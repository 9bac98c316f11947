//! Encryption between sidecars: who is let in, who is believed, and what a rotation costs.
//!
//! A proxy with an identity from files stands between the test and an app of the test. The test is its caller with
//! whatever certificate, or its endpoint.

mod before;
mod external;
mod inbound;
mod modes;
mod named;
mod outbound;
mod outside;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use leno_tests::pki::{Authority, Identity, Leaf};
use leno_tests::{Proxy, free_port, tls};
use rustls::SupportedProtocolVersion;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The identity of the proxy under test.
pub(crate) const OWN: &str = "spiffe://cluster.local/ns/default/sa/shop";
/// The identity of a peer that is welcome.
pub(crate) const PEER: &str = "spiffe://cluster.local/ns/default/sa/reviews";

/// A proxy with files for an identity, and the authority behind it.
pub(crate) struct Stage {
    pub(crate) proxy: Proxy,
    pub(crate) root: Authority,
    pub(crate) inbound: SocketAddr,
    outbound: SocketAddr,
    pub(crate) directory: TempDir,
}

/// What the stage is made of.
pub(crate) struct Scene<'a> {
    /// Behind the inbound listener.
    pub(crate) app: SocketAddr,
    /// `HTTP` or `TCP`.
    pub(crate) protocol: &'a str,
    /// More rules, YAML.
    pub(crate) rules: &'a str,
    /// Endpoints of the service `reviews`.
    pub(crate) peers: &'a [SocketAddr],
    /// What the endpoints are said to be.
    pub(crate) account: &'a str,
    /// Serial numbers that are revoked.
    pub(crate) revoked: &'a [u64],
    /// `tls` of the inbound listener.
    pub(crate) tls: Option<Value>,
    /// A port toward services with TLS.
    pub(crate) tls_port: Option<u16>,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(app: SocketAddr, rules: &'a str) -> Self {
        Self { app, protocol: "HTTP", rules, peers: &[], account: "reviews", revoked: &[], tls: None, tls_port: None }
    }

    pub(crate) async fn start(self) -> Stage {
        let root = Authority::new("root");
        let directory = TempDir::with_prefix("leno-test-").expect("cannot create a directory");
        let file = |name: &str, text: &str| -> PathBuf {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("cannot write a file");
            path
        };
        let (inbound, outbound) = (free_port(), free_port());
        let (certificate, key) = root.issue(&Leaf::of(OWN)).write(directory.path(), "own");
        let (rules, state) = (directory.path().join("rules"), directory.path().join("state"));
        std::fs::create_dir_all(&rules).expect("cannot create a directory");
        file("rules/rules.yaml", self.rules);
        let (sidecar, service) = (self.sidecar(inbound, outbound), self.service());
        file("rules/mesh.yaml", &format!("{sidecar:#}\n---\n{service:#}\n"));
        let bootstrap = json!({
            "node": {
                "name": "shop-1", "namespace": "default", "service_account": "shop", "workload": "shop",
                "labels": {"app": "shop"},
            },
            "rules": [rules],
            "identity": {
                "certificate": certificate, "key": key,
                "roots": file("roots.pem", &root.pem()),
                "revoked": file("revoked.pem", &root.revoke(self.revoked)),
            },
            "state": state,
            "credentials": directory.path().join("credentials"),
            "admin": "127.0.0.1:0",
            "workers": 1,
            "drain": "1s",
        });
        let config = file("bootstrap.yaml", &format!("{bootstrap:#}\n"));
        let proxy = Proxy::from_file("shop", &config, &state, directory.path());
        proxy.ready(inbound).await;
        let [inbound, outbound] = [inbound, outbound].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Stage { proxy, root, inbound, outbound, directory }
    }

    fn sidecar(&self, inbound: u16, outbound: u16) -> Value {
        let egress = |number: u16, protocol: &str| {
            json!({
                "port": {"number": number, "protocol": protocol, "name": protocol.to_lowercase()},
                "bind": "127.0.0.1",
                "captureMode": "NONE",
                "hosts": ["*/*"],
            })
        };
        let tls = self.tls_port.map(|port| egress(port, "TLS"));
        document(
            "Sidecar",
            "shop",
            json!({
                "workloadSelector": {"labels": {"app": "shop"}},
                "ingress": [{
                    "port": {"number": inbound, "protocol": self.protocol, "name": self.protocol.to_lowercase()},
                    "bind": "127.0.0.1",
                    "defaultEndpoint": self.app.to_string(),
                    "tls": self.tls,
                }],
                "egress": Vec::from_iter([egress(outbound, "HTTP")].into_iter().chain(tls)),
            }),
        )
    }

    fn service(&self) -> Value {
        let endpoint = |peer: &SocketAddr| {
            json!({
                "address": peer.ip(), "ports": {"http": peer.port()}, "serviceAccount": self.account,
                "labels": {"security.istio.io/tlsMode": "istio"},
            })
        };
        document(
            "ServiceEntry",
            "reviews",
            json!({
                "hosts": ["reviews.default.svc.cluster.local"],
                "location": "MESH_INTERNAL",
                "resolution": "STATIC",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "endpoints": self.peers.iter().map(endpoint).collect::<Vec<_>>(),
            }),
        )
    }
}

pub(crate) fn document(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    })
}

/// A PeerAuthentication for the whole namespace.
pub(crate) fn mode(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: mode, namespace: default}}\n\
         spec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

/// A caller with TLS.
#[derive(Clone)]
pub(crate) struct Caller<'a> {
    identity: Option<&'a Identity>,
    version: &'static SupportedProtocolVersion,
    alpn: &'a [&'a [u8]],
}

impl<'a> Caller<'a> {
    pub(crate) fn with(identity: &'a Identity) -> Self {
        Self { identity: Some(identity), version: &rustls::version::TLS13, alpn: &[b"http/1.1"] }
    }

    /// Connects and asks once; the answer's bytes, or why there is none.
    pub(crate) async fn asks(&self, to: SocketAddr) -> Result<String, String> {
        let mut stream = self.connect(to).await?;
        let ask = b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
        let words = |error: std::io::Error| error.to_string();
        stream.write_all(ask).await.map_err(words)?;
        let mut answer = Vec::new();
        // A peer that refuses a certificate says so with an alert, which is an error of the first read.
        stream.read_to_end(&mut answer).await.map_err(words)?;
        match answer.is_empty() {
            false => Ok(String::from_utf8_lossy(&answer).into_owned()),
            true => Err("closed without a word".to_owned()),
        }
    }

    pub(crate) async fn connect(&self, to: SocketAddr) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls::caller(self.identity, self.version, self.alpn)));
        let name = ServerName::try_from("shop.default").expect("a name");
        connector.connect(name, stream).await.map_err(|error| error.to_string())
    }
}
