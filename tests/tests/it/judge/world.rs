//! One control plane, one fleet of upstreams, and data planes of both kinds.
//!
//! ```text
//!                    leno serve
//!           ┌────────────┼─────────── (tap) ─────────┐
//! test ──▶ leno-proxy, 1 and 4 workers    Envoy, 1 and 4 workers
//!           └──────── clear text, mTLS ──────────────┘
//!                          ▼
//!                    scripted upstreams
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use leno_tests::scripted::{Fleet, Upstream};
use leno_tests::{Call, ControlPlane, Process, Proxy, eventually, free_port};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::case::{Case, Securities, case, get};
use super::envoy::{Envoy, Wire, agent};

/// How many workers a data plane has.
pub(super) const WORKERS: [usize; 2] = [1, 4];

/// The service that says whether a data plane is there.
const SENTINEL: &str = "sentinel";

/// Running programs and servers. They end with the value.
pub(super) struct World {
    pub(super) fleet: Fleet,
    pub(super) planes: Vec<Plane>,
    control_plane: ControlPlane,
    _servers: Vec<Upstream>,
    _agent: Process,
    // Last: the processes write into it until they end.
    _directory: TempDir,
}

/// A data plane under judgement.
pub(super) struct Plane {
    pub(super) name: String,
    pub(super) workers: usize,
    /// Where it takes requests for any host.
    pub(super) outbound: SocketAddr,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Envoy(Envoy),
    Leno(Proxy),
}

/// The service of a case in one setting.
pub(super) fn host(case: &Case, mtls: bool) -> String {
    format!("{}-{}", case.name, if mtls { "mtls" } else { "clear" })
}

impl World {
    /// With the services and rules of these cases, each in clear text and with mTLS.
    pub(super) async fn start(envoy: &Path, cases: &[Case]) -> Self {
        let directory = TempDir::with_prefix("leno-judge-").unwrap();
        let rules = directory.path().join("rules");
        std::fs::create_dir_all(&rules).unwrap();
        let fleet = Fleet::new();
        let ports: Vec<(String, usize, u16)> = ["leno", "envoy"]
            .into_iter()
            .flat_map(|kind| WORKERS.map(|workers| (format!("{kind}{workers}"), workers, free_port())))
            .collect();
        let mut text: String = ports.iter().map(|(name, _, port)| sidecar(name, *port)).collect();
        let mut servers = Vec::new();
        for case in cases.iter().chain([&case(SENTINEL)]) {
            let mut numbers = Vec::new();
            for (version, manner) in &case.endpoints {
                let server = fleet.server(version, *manner).await;
                numbers.push(server.address().port());
                servers.push(server);
            }
            text += &case.documents(&host(case, false), false, &numbers);
            if case.security == Securities::Both {
                text += &case.documents(&host(case, true), true, &numbers);
            }
        }
        std::fs::write(rules.join("rules.yaml"), text).unwrap();
        let control_plane = ControlPlane::start(directory.path(), &rules, &[]).await;
        let home = directory.path().join("upstream");
        let upstream = agent(&home, &control_plane, "upstream").await;
        fleet.has(server_config(&home.join("agent/svid.pem"), &control_plane));
        let mut planes = Vec::new();
        for (name, workers, port) in ports {
            let kind = match name.starts_with("envoy") {
                true => {
                    // Both variants of xDS are judged on the way.
                    let wire = if workers == 1 { Wire::Delta } else { Wire::StateOfTheWorld };
                    let how = (name.as_str(), workers, wire);
                    Kind::Envoy(Envoy::start(envoy, directory.path(), &control_plane, how).await)
                }
                false => Kind::Leno(leno(directory.path(), &control_plane, &name, workers)),
            };
            planes.push(Plane { name, workers, outbound: ([127, 0, 0, 1], port).into(), kind });
        }
        let world = Self { fleet, planes, control_plane, _servers: servers, _agent: upstream, _directory: directory };
        world.settles().await;
        world
    }

    /// Waits until every data plane has all rules, and a certificate.
    async fn settles(&self) {
        eventually("all data planes have acknowledged what was sent", async || {
            let status = self.control_plane.status().await?;
            self.lacks(&status).map_or(Ok(()), Err)
        })
        .await;
        let sentinel = case(SENTINEL);
        for plane in &self.planes {
            for mtls in [false, true] {
                let host = host(&sentinel, mtls);
                eventually(&format!("{} serves {host}", plane.name), async || {
                    if std::net::TcpStream::connect(plane.outbound).is_err() {
                        return Err("it does not listen".to_owned());
                    }
                    let call: Call = get("200").call(&host, "sentinel");
                    let reply = call.try_send(plane.outbound).await?;
                    let said = format!("{} {} {}", reply.status, reply.text(), reply.header("x-leno-error"));
                    if reply.status == 200 { Ok(()) } else { Err(said) }
                })
                .await;
            }
        }
    }

    /// What is missing, in the words of the control plane.
    fn lacks(&self, status: &Value) -> Option<String> {
        let proxies = status["proxies"].as_array().map(Vec::as_slice).unwrap_or_default();
        for plane in &self.planes {
            let node =
                |proxy: &&Value| proxy["node"].as_str().is_some_and(|node| node.contains(&format!("~{}.", plane.name)));
            let Some(proxy) = proxies.iter().find(node) else {
                return Some(format!("{} is not connected", plane.name));
            };
            for (kind, state) in proxy["types"].as_object().into_iter().flatten() {
                if state["sent"].is_null() || state["sent"] != state["acked"] || !state["nack"].is_null() {
                    return Some(format!("{} {kind}: {state}", plane.name));
                }
            }
        }
        None
    }
}

impl Plane {
    /// How often which status and flags were counted for a service, where the plane only counts.
    pub(super) async fn counts(&self, host: &str) -> BTreeMap<(u16, String), u64> {
        let Kind::Leno(proxy) = &self.kind else { return BTreeMap::new() };
        let mut counts = BTreeMap::new();
        for line in proxy.metrics().await.lines().filter(|line| line.starts_with("http_requests_total{")) {
            let is_ours = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == host);
            let label = |name: &str| line.split(&format!("{name}=\"")).nth(1)?.split('"').next();
            let status = label("response_code").and_then(|code| code.parse().ok());
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
            if let (true, Some(status), Some(flags), Some(count)) = (is_ours, status, label("response_flags"), count) {
                *counts.entry((status, flags.to_owned())).or_default() += count;
            }
        }
        counts
    }
}

fn leno(directory: &Path, control_plane: &ControlPlane, name: &str, workers: usize) -> Proxy {
    let token = directory.join(format!("{name}.token"));
    control_plane.write_token(name, &token);
    let way = json!({
        "address": format!("https://{}", control_plane.tls()),
        "root": control_plane.state().join("root.pem"),
        "token": token,
    });
    Proxy::with(directory, name, &[("control_plane", way), ("workers", json!(workers))])
}

fn sidecar(name: &str, port: u16) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}, namespace: default}}
spec:
  workloadSelector: {{labels: {{app: {name}}}}}
  egress:
  - {{port: {{number: {port}, protocol: HTTP, name: http}}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*']}}
"
    )
}

/// Of the certificate that the agent keeps for its own restart. Callers have to show one as well.
fn server_config(svid: &Path, control_plane: &ControlPlane) -> Arc<ServerConfig> {
    let text = std::fs::read_to_string(svid).unwrap();
    let (chain, _) = text.split_once("-----BEGIN PRIVATE KEY-----").unwrap();
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(control_plane.state().join("root.pem")).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let callers = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    Arc::new(config.unwrap().with_client_cert_verifier(callers).with_single_cert(chain, key).unwrap())
}
