//! A real Envoy and a Leno proxy under the same rules: the same key finds the same endpoint.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use crate::envoy::{Envoy, get, soon};
use crate::ports::free_port;
use crate::process::{Place, Serve, leno};

const KEYS: usize = 100;

/// Services by host: how they are balanced, and the weights of their endpoints.
const SERVICES: [(&str, &str, [u32; 5]); 6] = [
    ("ring", "httpQueryParameterName: k", [1, 1, 1, 1, 1]),
    ("weighted", "httpQueryParameterName: k", [1, 2, 3, 5, 7]),
    ("small", "httpQueryParameterName: k, ringHash: {minimumRingSize: 7}", [1, 1, 1, 1, 1]),
    ("maglev", "httpQueryParameterName: k, maglev: {}", [1, 1, 1, 1, 1]),
    ("heavy", "httpHeaderName: x-k, maglev: {tableSize: 1009}", [1, 2, 3, 5, 7]),
    (
        "cookie",
        "httpCookie: {name: k, path: /p, ttl: 60s, attributes: [{name: SameSite, value: Lax}]}",
        [1, 1, 1, 1, 1],
    ),
];

#[test]
fn a_key_finds_the_same_endpoint_through_a_real_envoy_and_through_a_leno_proxy() {
    let Some(program) = crate::real_envoy::program("consistent hashing in a real Envoy") else { return };
    let place = Place::new();
    let (envoy_port, leno_port) = (free_port(), free_port());
    let apps = [(); 5].map(|()| app());
    place.write("rules.yaml", &rules(&apps, envoy_port, leno_port));
    let mut serve = place.serve();
    serve.waits_for("rules in force");
    let envoy = Envoy::start(&program, &place, serve.xds, ", LABELS: {app: envoy}");
    let _proxy = proxy(&place, &serve);
    for port in [envoy_port, leno_port] {
        for (host, ..) in SERVICES {
            let answer = || get(port, host, "/").unwrap_or_default();
            soon(
                || answer().contains(" 200 OK"),
                || format!("{host} answers: {}\n{}", answer(), envoy.get("/clusters")),
            );
        }
    }
    for (host, policy, _) in SERVICES {
        let mut reached = std::collections::BTreeSet::new();
        for key in 0..KEYS {
            let ask = |port| asked(port, host, key);
            let (through_envoy, through_leno) = (ask(envoy_port), ask(leno_port));
            assert_eq!(through_leno, through_envoy, "{host} ({policy}), key {key}");
            reached.insert(through_leno);
        }
        assert_eq!(reached.len(), apps.len(), "{host}: all of them get something");
    }
    let made = |port| {
        let answer = get(port, "cookie", "/").unwrap();
        let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie:")).unwrap().to_owned();
        let (name, value) = line.split_once("=\"").unwrap();
        let (value, attributes) = value.split_once('"').unwrap();
        (name.to_ascii_lowercase(), value.len(), attributes.trim_end().to_owned())
    };
    assert_eq!(made(leno_port), made(envoy_port), "a cookie looks the same");
}

/// The app that answers a request with this key, wherever the service looks for it.
fn asked(port: u16, host: &str, key: usize) -> String {
    let answer = get(
        port,
        &format!("{host}\r\nx-k: user {key}\r\ncookie: a=b; k=\"user {key}\""),
        &format!("/?x=1&k=user-{key}"),
    );
    let answer = answer.unwrap();
    assert!(answer.contains(" 200 OK"), "{host}: {answer}");
    answer.rsplit("\r\n").next().unwrap_or_default().to_owned()
}

fn rules(apps: &[u16; 5], envoy: u16, leno: u16) -> String {
    let mut rules = String::new();
    for (name, port) in [("envoy", envoy), ("leno", leno)] {
        rules += &format!(
            "---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}}}
spec:
  workloadSelector: {{labels: {{app: {name}}}}}
  egress:
  - {{port: {{number: {port}, protocol: HTTP, name: http}}, bind: 127.0.0.1, hosts: ['*/*']}}
"
        );
    }
    for (host, policy, weights) in SERVICES {
        let endpoints: String = apps
            .iter()
            .zip(weights)
            .map(|(app, weight)| format!("  - {{address: 127.0.0.1, ports: {{http: {app}}}, weight: {weight}}}\n"))
            .collect();
        rules += &format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {host}}}
spec:
  hosts: [{host}.default.svc.cluster.local]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints:
{endpoints}---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {host}}}
spec: {{host: {host}, trafficPolicy: {{loadBalancer: {{consistentHash: {{{policy}}}}}}}}}
"
        );
    }
    rules
}

/// An app that answers with its port.
fn app() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || serve(socket, port));
        }
    });
    port
}

/// One request after another, until the caller is gone.
fn serve(mut socket: TcpStream, port: u16) -> std::io::Result<()> {
    let body = port.to_string();
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte)?;
            head.extend(byte);
        }
        write!(socket, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    }
}

/// A running Leno proxy. Dropping it kills it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn proxy(place: &Place, serve: &Serve) -> Running {
    let config = place.file("leno.yaml");
    let text = format!(
        "
node: {{name: leno, ip: 127.0.0.1, namespace: default, service_account: leno, workload: leno, labels: {{app: leno}}}}
control_plane: {{address: 'http://{}'}}
state: {}
admin: 127.0.0.1:0
metrics: 127.0.0.1:0
ready: 127.0.0.1:0
",
        serve.xds,
        place.file("leno").display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = leno();
    command.args(["proxy", "run", "--config"]).arg(config);
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}
