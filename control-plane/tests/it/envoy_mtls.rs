//! A real Envoy as a peer of the mesh: its certificate from `leno agent`, everything else from `leno serve`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::envoy::{Envoy, free_port, get, soon};
use crate::process::{Place, SOON, Serve, leno};

/// The Envoy is both ends: what its app sends to `reviews` goes out with mTLS and comes in again on its own listener.
#[test]
fn a_real_envoy_calls_and_is_called_with_mtls_and_obeys_policies() {
    let Some(program) = crate::real_envoy::program("a real Envoy with mTLS") else { return };
    let place = Place::new();
    let ports = Ports { outbound: free_port(), inbound: free_port(), app: app() };
    write_rules(&place, &ports, "shop");
    let mut serve = place.serve();
    serve.waits_for("rules in force");
    let _agent = Agent::start(&place, &serve);
    let metadata = format!(", LENO_SDS_DIRECTORY: {}", place.file("sds").display());
    let envoy = Envoy::start(&program, &place, serve.xds, &metadata);

    let answer = || get(ports.outbound, "reviews", "/").unwrap_or_default();
    let arrives = || answer().contains(" 200 OK");
    soon(arrives, || format!("it arrives, not {}\n{}", answer(), envoy.get("/clusters")));
    let told = answer();
    let id = "spiffe://cluster.local/ns/default/sa/shop";
    assert!(told.contains(&format!("URI={id}")), "the app is told who calls: {told}");
    let forged = get(ports.outbound, "reviews\r\nx-forwarded-client-cert: URI=spiffe://evil", "/").unwrap();
    assert!(!forged.contains("evil"), "and by nobody else: {forged}");

    // In clear text nobody gets in.
    let refused = get(ports.inbound, "reviews", "/").unwrap_or_default();
    assert_eq!(refused, "", "clear text is closed");

    write_rules(&place, &ports, "somebody-else");
    let denied = || answer().ends_with("RBAC: access denied");
    soon(denied, || format!("the policy holds, not {}", answer()));
    let types = serve.status_json()["proxies"][0]["types"].clone();
    assert_eq!(types["secrets"]["sent"], types["secrets"]["acked"], "{types}");
    for kind in ["clusters", "endpoints", "listeners", "secrets"] {
        assert!(types[kind]["nack"].is_null(), "{types}");
    }
}

struct Ports {
    outbound: u16,
    inbound: u16,
    app: u16,
}

/// `allowed`: the service account that may call.
fn write_rules(place: &Place, ports: &Ports, allowed: &str) {
    let Ports { outbound, inbound, app } = ports;
    let rules = format!(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: shop}}
spec:
  ingress:
  - {{port: {{number: {inbound}, protocol: HTTP, name: http}}, bind: 127.0.0.1, defaultEndpoint: '127.0.0.1:{app}'}}
  egress:
  - {{port: {{number: {outbound}, protocol: HTTP, name: http}}, bind: 127.0.0.1, hosts: ['*/*']}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: reviews}}
spec:
  hosts: [reviews.default.svc.cluster.local]
  location: MESH_INTERNAL
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints:
  - address: 127.0.0.1
    ports: {{http: {inbound}}}
    serviceAccount: shop
    labels: {{security.istio.io/tlsMode: istio}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: callers}}
spec:
  action: ALLOW
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/{allowed}]}}}}]
    to: [{{operation: {{methods: [GET], paths: ['/{{**}}']}}}}]
"
    );
    place.write("rules.yaml", &rules);
}

/// An app that answers with the head of every request.
fn app() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(|socket| drop(echo(socket))));
    port
}

fn echo(mut socket: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte)?;
        head.extend(byte);
    }
    write!(socket, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", head.len())?;
    socket.write_all(&head)
}

/// A running `leno agent`. Dropping it kills it.
struct Agent(Child);

impl Agent {
    /// Returns when the certificate is there.
    fn start(place: &Place, serve: &Serve) -> Self {
        let (sds, token, config) = (place.file("sds"), place.file("token"), place.file("agent.yaml"));
        let mut make = leno();
        make.args(["token", "create", "--namespace", "default", "--service-account", "shop"]);
        let made = make.arg("--state").arg(place.state()).arg("--output").arg(&token).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        std::fs::write(&config, bootstrap(serve.tls, &place.state(), &token, &place.file("agent"))).unwrap();
        let mut command = leno();
        command.arg("agent").arg("--config").arg(config).arg("--sds").arg(&sds);
        let agent = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let file = sds.join("default.yaml");
        soon(|| file.exists(), || format!("the agent has a certificate within {SOON:?}"));
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bootstrap(tls: SocketAddr, state: &Path, token: &Path, own: &Path) -> String {
    format!(
        "
node: {{name: shop, ip: 127.0.0.1, namespace: default, service_account: shop, workload: shop}}
control_plane: {{address: 'https://{tls}', root: {root}, token: {token}}}
state: {own}
",
        root = state.join("root.pem").display(),
        token = token.display(),
        own = own.display()
    )
}
