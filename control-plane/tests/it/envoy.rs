//! A real Envoy, driven by `leno serve` through a life of changes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::envoy_ads::over_ads;
use crate::ports::free_port;
use crate::process::{Place, SOON};

#[test]
fn a_real_envoy_follows_changes_a_restart_and_a_removal() {
    let Some(program) = crate::real_envoy::program("a real Envoy as proxy") else { return };
    let place = Place::new();
    let outbound = free_port();
    write_rules(&place, outbound, "v1", &["reviews"]);
    let xds = format!("127.0.0.1:{}", free_port());
    let mut serve = place.serve_at(&xds);
    serve.waits_for("rules in force");
    let envoy = Envoy::start(&program, &place, serve.xds, "");
    envoy.answers_with("v1", outbound, "reviews");

    write_rules(&place, outbound, "v2", &["reviews"]);
    envoy.answers_with("v2", outbound, "reviews");

    // While the control plane is away, a cluster comes and all others change.
    serve.is_told_to_stop();
    assert_eq!(serve.ends(), Some(0));
    envoy.answers_with("v2", outbound, "reviews");
    write_rules(&place, outbound, "v3", &["reviews", "ratings"]);
    let serve = place.serve_at(&xds);
    envoy.answers_with("v3", outbound, "ratings");
    envoy.answers_with("v3", outbound, "reviews");

    write_rules(&place, outbound, "v3", &["reviews"]);
    let gone = |clusters: String| !clusters.contains("ratings");
    soon(|| gone(envoy.get("/clusters")), || "the removed cluster goes".to_owned());
    let synced = || {
        let status = serve.status_json();
        let types = status["proxies"][0]["types"].as_object().cloned().unwrap_or_default();
        let ok = |kind: &serde_json::Value| kind["sent"] == kind["acked"] && kind["nack"].is_null();
        types.len() == 4 && types.values().all(ok)
    };
    soon(synced, || format!("everything is acknowledged: {}", serve.status_json()));
}

/// Services that answer by themselves, with a version in the body; the version also changes every cluster.
fn write_rules(place: &Place, outbound: u16, version: &str, services: &[&str]) {
    let requests = version.trim_start_matches('v');
    let mut rules = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: shop}}\nspec:\n  egress:\n  \
         - {{port: {{number: {outbound}, protocol: HTTP, name: http}}, bind: 127.0.0.1, hosts: ['*/*']}}\n"
    );
    for service in services {
        rules += &format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {service}}}
spec:
  hosts: [{service}.default.svc.cluster.local]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http: 9}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {service}}}
spec: {{host: {service}, trafficPolicy: {{connectionPool: {{http: {{maxRetries: {requests}}}}}}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}}}
spec:
  hosts: [{service}]
  http:
  - match: [{{uri: {{prefix: /through}}}}]
    route: [{{destination: {{host: {service}}}}}]
  - directResponse: {{status: 200, body: {{string: '{service} {version}'}}}}
"
        );
    }
    place.write("rules.yaml", &rules);
}

/// A running Envoy. Dropping it kills it.
pub(crate) struct Envoy {
    process: Child,
    admin: u16,
}

impl Envoy {
    /// `metadata`: more of its node's, as `, KEY: value`.
    pub(crate) fn start(program: &Path, place: &Place, xds: SocketAddr, metadata: &str) -> Self {
        let admin = free_port();
        let bootstrap = format!(
            "
node:
  id: sidecar~127.0.0.1~shop.default~default.svc.cluster.local
  cluster: shop.default
  metadata: {{INTERCEPTION_MODE: NONE{metadata}}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
{ads}",
            ads = over_ads("DELTA_GRPC", xds.port())
        );
        let file = place.file("envoy.yaml");
        std::fs::write(&file, bootstrap).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(file).args(["--concurrency", "1", "-l", "error", "--use-dynamic-base-id"]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { process, admin }
    }

    fn answers_with(&self, version: &str, port: u16, host: &str) {
        let expected = format!("{host} {version}");
        let body = || get(port, host, "/").unwrap_or_default();
        soon(|| body().ends_with(&expected), || format!("{expected} is answered, not {}", body()));
    }

    pub(crate) fn get(&self, path: &str) -> String {
        get(self.admin, "admin", path).unwrap_or_default()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks again and again: what is waited for happens in another process, which has no way to tell.
pub(crate) fn soon(mut holds: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {}", what());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn get(port: u16, host: &str, path: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(SOON))?;
    write!(socket, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}
