//! The same format in a real Envoy and in Leno, with the same rules and the same requests: what both say agrees.
//!
//! Both get the log from `leno serve`, append to one file, and are told apart by the port that was called.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use leno_tests::scripted::{Fleet, Manner, RUN, SCRIPT};
use leno_tests::{Call, ControlPlane, Process, Protocol, Proxy, eventually, free_port, full};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::envoy_ads::over_ads;
use crate::real_envoy;

/// What has to agree, by key.
const FORMAT: [(&str, &str); 19] = [
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("short", "%REQ(:PATH):4%"),
    ("protocol", "%PROTOCOL%"),
    ("upstream_protocol", "%UPSTREAM_PROTOCOL%"),
    ("code", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("received", "%BYTES_RECEIVED%"),
    ("sent", "%BYTES_SENT%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("host", "%UPSTREAM_HOST%"),
    ("route", "%ROUTE_NAME%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("missing", "%REQ(x-nobody)% %RESP(x-nobody?content-type)%"),
    ("grpc", "%GRPC_STATUS%"),
    ("trailer", "%TRAILER(grpc-status)%"),
    ("rule", "%METADATA(ROUTE:leno.mesh)%"),
];

/// A request, and how the endpoint treats it.
struct Ask {
    name: &'static str,
    host: &'static str,
    path: &'static str,
    script: &'static str,
    body: usize,
    protocol: Protocol,
}

const fn ask(name: &'static str, host: &'static str, script: &'static str) -> Ask {
    Ask { name, host, path: "/a?b=c", script, body: 0, protocol: Protocol::Http1 }
}

const ASKS: [Ask; 16] = [
    ask("answered", "shop", "200"),
    Ask { body: 2000, ..ask("with a body", "shop", "200") },
    Ask { protocol: Protocol::Http2, ..ask("over HTTP/2", "shop", "200") },
    ask("not found by the app", "shop", "404"),
    Ask { body: 10, ..ask("closed before an answer", "shop", "close") },
    Ask { path: "/slow", ..ask("too slow", "shop", "silent") },
    Ask { path: "/again", ..ask("tried again in vain", "shop", "503") },
    Ask { path: "/again", ..ask("tried again with success", "shop", "503; 200") },
    Ask { path: "/words", ..ask("answered by a rule", "shop", "200") },
    Ask { path: "/old", ..ask("redirected", "shop", "200") },
    Ask { path: "/fault", ..ask("failed on purpose", "shop", "200") },
    Ask { path: "/else", ..ask("without a route", "there.example.com", "200") },
    ask("broken off in its body", "shop", "close-in-body"),
    ask("refused", "refused", "200"),
    ask("without an endpoint", "nobody", "200"),
    Ask { protocol: Protocol::Http2, body: 5, ..ask("gRPC", "grpc", "grpc-late=5") },
];

/// Where Leno is meant to differ, by request and key.
const DIFFERENCES: [(&str, &str); 5] = [
    // Envoy's `:path` is what it sends, Leno's what the caller wrote.
    ("tried again in vain", "short"),
    ("tried again with success", "short"),
    // Leno names the cluster that a request was sent to, Envoy the one that it would have been.
    ("failed on purpose", "cluster"),
    // Envoy counts an attempt for which there was no endpoint.
    ("without an endpoint", "attempts"),
    // Each has the system's words behind Envoy's.
    ("refused", "details"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leno_and_envoy_write_the_same_of_the_same_request() {
    let Some(envoy) = real_envoy::program("a real Envoy's access log") else { return };
    let directory = tempdir().unwrap();
    let (rules, log) = (directory.path().join("rules"), directory.path().join("access.log"));
    std::fs::create_dir_all(&rules).unwrap();
    let fleet = Fleet::new();
    let (obeys, refuses) = (fleet.server("v1", Manner::Obeys).await, fleet.server("v2", Manner::Refuses).await);
    let ports = [("leno", free_port()), ("envoy", free_port())];
    let services = [("shop", "HTTP", Some(obeys.address())), ("grpc", "GRPC", Some(obeys.address()))];
    let services = services.into_iter().chain([("refused", "HTTP", Some(refuses.address())), ("nobody", "HTTP", None)]);
    let mut text: String = ports.iter().map(|(name, port)| sidecar(name, *port)).collect();
    text.extend(services.map(|(name, protocol, endpoint)| service(name, protocol, endpoint.map(|at| at.port()))));
    std::fs::write(rules.join("rules.yaml"), text + ROUTES + &mesh_config(&log)).unwrap();
    let control_plane = ControlPlane::start(directory.path(), &rules, &[]).await;
    let way = json!({"address": format!("http://{}", control_plane.xds())});
    let _leno = Proxy::with(directory.path(), "leno", &[("control_plane", way)]);
    let _envoy = start(&envoy, directory.path(), &control_plane);
    for (name, port) in ports {
        let outbound = ([127, 0, 0, 1], port).into();
        eventually(&format!("{name} serves"), async || {
            std::net::TcpStream::connect(outbound).map_err(|error| error.to_string())?;
            let call = Call::get("http://shop/").header(RUN, "settles").header(SCRIPT, "200");
            let reply = call.try_send(outbound).await?;
            if reply.status == 200 { Ok(()) } else { Err(reply.status.to_string()) }
        })
        .await;
        for one in &ASKS {
            let call = Call::new(http::Method::POST, &format!("http://{}{}", one.host, one.path)).over(one.protocol);
            let call = call.header(RUN, &format!("{name} {}", one.name).replace(' ', "-")).header(SCRIPT, one.script);
            let call = if one.name == "gRPC" { call.header("content-type", "application/grpc") } else { call };
            // An answer that breaks off is an error here, and a line there.
            let _ = call.body(full(vec![b'x'; one.body])).try_send(outbound).await;
        }
    }
    let both = eventually("both have written all lines", async || {
        let both = ports.map(|(name, _)| written(&log, name));
        let have = both.iter().map(BTreeMap::len).collect::<Vec<_>>();
        if have == [ASKS.len(); 2] { Ok(both) } else { Err(format!("{have:?}")) }
    })
    .await;
    let [leno, envoy] = both;
    let mut found = Vec::new();
    for one in &ASKS {
        let run = one.name.replace(' ', "-");
        for (key, _) in FORMAT {
            let (ours, theirs) = (&leno[&run][key], &envoy[&run][key]);
            if ours != theirs && !DIFFERENCES.contains(&(one.name, key)) {
                found.push(format!("{}: {key}: Leno says {ours}, Envoy {theirs}", one.name));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The lines of one data plane, by request.
fn written(log: &Path, name: &str) -> BTreeMap<String, Value> {
    let lines = super::lines(log).into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let own = lines.filter_map(|line| {
        let run = line["run"].as_str()?.strip_prefix(name)?.strip_prefix('-')?.to_owned();
        Some((run, line))
    });
    own.collect()
}

fn mesh_config(log: &Path) -> String {
    let members = FORMAT.map(|(key, text)| format!("{key}: '{text}'")).join(", ");
    super::mesh_config(&format!(
        "{{custom: {{json: {{run: '%REQ({RUN})%', {members}}}}}, path: {}, sensitive: shown}}",
        log.display()
    ))
}

const ROUTES: &str = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop]
  http:
  - {name: words, match: [{uri: {prefix: /words}}], directResponse: {status: 418, body: {string: words}}}
  - {name: old, match: [{uri: {prefix: /old}}], redirect: {uri: /new}}
  - {name: fault, match: [{uri: {prefix: /fault}}], fault: {abort: {httpStatus: 555, percentage: {value: 100}}}, route: [{destination: {host: shop}}]}
  - {name: slow, match: [{uri: {prefix: /slow}}], timeout: 1.5s, retries: {attempts: 0}, route: [{destination: {host: shop}}]}
  - {name: again, match: [{uri: {prefix: /again}}], retries: {attempts: 2, retryOn: 5xx}, rewrite: {uri: /rewritten}, route: [{destination: {host: shop}}]}
  - {name: rest, retries: {attempts: 0}, route: [{destination: {host: shop}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: refused}
spec: {hosts: [refused], http: [{retries: {attempts: 0}, route: [{destination: {host: refused}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: there}
spec: {hosts: [there.example.com], http: [{match: [{uri: {prefix: /only}}], route: [{destination: {host: shop}}]}]}
";

fn service(name: &str, protocol: &str, port: Option<u16>) -> String {
    let endpoints = port.map(|port| format!("{{address: 127.0.0.1, ports: {{main: {port}}}}}")).unwrap_or_default();
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}]
  ports: [{{number: 80, name: main, protocol: {protocol}}}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{endpoints}]
"
    )
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

fn start(program: &Path, directory: &Path, control_plane: &ControlPlane) -> Process {
    let file = directory.join("envoy.yaml");
    let node = "
node:
  id: sidecar~127.0.0.1~envoy.default~default.svc.cluster.local
  cluster: envoy.default
  metadata: {INTERCEPTION_MODE: NONE, LABELS: {app: envoy}}
";
    std::fs::write(&file, node.to_owned() + &over_ads("DELTA_GRPC", control_plane.xds().port())).unwrap();
    let mut command = Command::new(program);
    command.arg("-c").arg(file).args(["-l", "error", "--use-dynamic-base-id", "--file-flush-interval-msec", "10"]);
    command.args(["--concurrency", "1"]);
    Process::start("envoy", &mut command, &directory.join("envoy.log"))
}
