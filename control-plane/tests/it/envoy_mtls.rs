//! A real Envoy as a peer of the mesh, its own and Leno's: its certificate from `leno agent`, everything else from
//! `leno serve`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::envoy::{Envoy, get, soon};
use crate::ports::free_port;
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
    let _agent = agent(&place, &serve);
    let metadata = format!(", LENO_SDS_DIRECTORY: {}, LABELS: {{app: shop}}", place.file("sds").display());
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

/// Each calls the other over HTTP/1.1 and HTTP/2: neither takes a protocol for chosen that it cannot speak.
#[test]
fn a_real_envoy_and_a_leno_proxy_understand_each_other() {
    let Some(program) = crate::real_envoy::program("a real Envoy and a Leno proxy") else { return };
    let place = Place::new();
    let envoys = Ports { outbound: free_port(), inbound: free_port(), app: app() };
    let lenos = Ports { outbound: free_port(), inbound: free_port(), app: app() };
    let services = [
        ("shop", "HTTP", envoys.inbound, "shop"),
        ("shop2", "HTTP2", envoys.inbound, "shop"),
        ("cart", "HTTP", lenos.inbound, "cart"),
        ("cart2", "HTTP2", lenos.inbound, "cart"),
    ];
    let mut rules = format!("{}{}", sidecar("shop", &envoys), sidecar("cart", &lenos));
    for (name, protocol, port, account) in services {
        rules += &service(name, protocol, port, account);
    }
    rules += "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\n\
              spec: {mtls: {mode: STRICT}}\n";
    place.write("rules.yaml", &rules);
    let mut serve = place.serve();
    serve.waits_for("rules in force");
    let _agent = agent(&place, &serve);
    let metadata = format!(", LENO_SDS_DIRECTORY: {}, LABELS: {{app: shop}}", place.file("sds").display());
    let envoy = Envoy::start(&program, &place, serve.xds, &metadata);
    let _proxy = proxy(&place, &serve);

    let calls = [
        ("Leno, HTTP/1.1", lenos.outbound, "shop", "cart"),
        ("Leno, HTTP/2", lenos.outbound, "shop2", "cart"),
        ("Envoy, HTTP/1.1", envoys.outbound, "cart", "shop"),
        ("Envoy, HTTP/2", envoys.outbound, "cart2", "shop"),
    ];
    for (what, port, host, caller) in calls {
        let answer = || get(port, host, "/").unwrap_or_default();
        let told = format!("URI=spiffe://cluster.local/ns/default/sa/{caller}");
        let arrives = || answer().contains(" 200 OK") && answer().contains(&told);
        soon(arrives, || format!("{what}: it arrives, not {}\n{}", answer(), envoy.get("/clusters")));
    }
}

struct Ports {
    outbound: u16,
    inbound: u16,
    app: u16,
}

/// `allowed`: the service account that may call.
fn write_rules(place: &Place, ports: &Ports, allowed: &str) {
    let rules = format!(
        "{sidecar}{service}---
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
",
        sidecar = sidecar("shop", ports),
        service = service("reviews", "HTTP", ports.inbound, "shop"),
    );
    place.write("rules.yaml", &rules);
}

/// The listeners of the workload with the label `app: NAME`.
fn sidecar(name: &str, ports: &Ports) -> String {
    let Ports { outbound, inbound, app } = ports;
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}}}
spec:
  workloadSelector: {{labels: {{app: {name}}}}}
  ingress:
  - {{port: {{number: {inbound}, protocol: HTTP, name: http}}, bind: 127.0.0.1, defaultEndpoint: '127.0.0.1:{app}'}}
  egress:
  - {{port: {{number: {outbound}, protocol: HTTP, name: http}}, bind: 127.0.0.1, hosts: ['*/*']}}
"
    )
}

/// A service of the mesh with one endpoint.
fn service(name: &str, protocol: &str, port: u16, account: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.default.svc.cluster.local]
  location: MESH_INTERNAL
  ports: [{{number: 80, name: http, protocol: {protocol}}}]
  resolution: STATIC
  endpoints:
  - address: 127.0.0.1
    ports: {{http: {port}}}
    serviceAccount: {account}
    labels: {{security.istio.io/tlsMode: istio}}
"
    )
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

/// A process of this program. Dropping it kills it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `leno agent` for the Envoy, which is `shop`. Returns when the certificate is there.
fn agent(place: &Place, serve: &Serve) -> Running {
    let sds = place.file("sds");
    let mut command = leno();
    command.arg("agent").arg("--config").arg(bootstrap(place, serve, "shop", "")).arg("--sds").arg(&sds);
    let running = start(command);
    let file = sds.join("default.yaml");
    soon(|| file.exists(), || format!("the agent has a certificate within {SOON:?}"));
    running
}

/// A Leno proxy, which is `cart`.
fn proxy(place: &Place, serve: &Serve) -> Running {
    let ports = "admin: 127.0.0.1:0\nmetrics: 127.0.0.1:0\nready: 127.0.0.1:0\n";
    let mut command = leno();
    command.args(["proxy", "run", "--config"]).arg(bootstrap(place, serve, "cart", ports));
    start(command)
}

fn start(mut command: Command) -> Running {
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// The bootstrap of a workload with a token of its own.
fn bootstrap(place: &Place, serve: &Serve, name: &str, more: &str) -> PathBuf {
    let (token, config) = (place.file(&format!("{name}.token")), place.file(&format!("{name}.yaml")));
    let mut make = leno();
    make.args(["token", "create", "--namespace", "default", "--service-account", name]);
    let made = make.arg("--state").arg(place.state()).arg("--output").arg(&token).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let text = format!(
        "
node: {{name: {name}, ip: 127.0.0.1, namespace: default, service_account: {name}, workload: {name}, labels: {{app: {name}}}}}
control_plane: {{address: 'https://{tls}', root: {root}, token: {token}}}
state: {state}
{more}",
        tls = serve.tls,
        root = place.state().join("root.pem").display(),
        token = token.display(),
        state = place.file(name).display()
    );
    std::fs::write(&config, text).unwrap();
    config
}
