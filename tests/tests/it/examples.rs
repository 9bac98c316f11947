//! Every example does what its README says, on ports of the test's own.

mod balanced;
mod broken;
mod observed;
mod resilience;
mod secured;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use leno_tests::{
    Call, Origin, Process, Protocol, Proxy, Reply, eventually, free_port, leno, origin, raw, run_leno, workspace,
};
use serde_json::Value;
use tempfile::TempDir;

/// A copy of an example with its ports, paths and addresses replaced.
struct Copy {
    directory: TempDir,
    outbound: SocketAddr,
}

impl Copy {
    /// The outbound listener of the examples is the default one, 127.0.0.1:15001; a Sidecar document moves it.
    fn of(example: &str, replacements: &[(&str, String)]) -> Self {
        let directory = TempDir::with_prefix("leno-example-").unwrap();
        let port = free_port();
        copy(&workspace().join("examples").join(example), directory.path(), replacements);
        let sidecar = format!(
            "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: test}}
spec:
  egress:
  - port: {{number: {port}, protocol: HTTP, name: http}}
    bind: 127.0.0.1
    hosts: [\"*/*\"]
"
        );
        std::fs::write(directory.path().join("rules/test.yaml"), sidecar).unwrap();
        Self { directory, outbound: ([127, 0, 0, 1], port).into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts its sidecar in file mode or with a control plane, as its bootstrap says.
    async fn proxy(&self, listener: u16) -> Proxy {
        self.sidecar("proxy", "state", listener).await
    }

    /// The same for one of several: `NAME.yaml`, with its state where that says.
    async fn sidecar(&self, name: &str, state: &str, listener: u16) -> Proxy {
        let bootstrap = self.path(&format!("{name}.yaml"));
        let proxy = Proxy::from_file(name, &bootstrap, &self.path(state), self.directory.path());
        proxy.ready(listener).await;
        proxy
    }

    /// Starts its control plane, with xDS in clear text at `xds` and with TLS at `tls`.
    fn serve(&self, xds: u16, tls: u16) -> Process {
        let mut serve = Command::new(leno());
        serve.args(["serve", "--rules"]).arg(self.path("rules")).arg("--state").arg(self.path("control-plane"));
        for (flag, port) in [("--xds-address", xds), ("--tls-address", tls), ("--http-address", 0)] {
            serve.arg(flag).arg(format!("127.0.0.1:{port}"));
        }
        Process::start("control plane", &mut serve, &self.path("serve.log"))
    }

    /// Writes the token of a service account to `NAME.token`.
    fn token(&self, name: &str) {
        let (state, file) = (self.path("control-plane"), self.path(&format!("{name}.token")));
        let (state, file) = (state.display().to_string(), file.display().to_string());
        let account = ["--namespace", "default", "--service-account", name];
        let made = run_leno(&[&["token", "create", "--state", &state, "-o", &file], &account[..]].concat(), "");
        assert_eq!(made.code, 0, "{}", made.stderr);
    }

    /// Replaces words in one of its files, as editors do: a new file takes the name of the old one.
    fn edit(&self, name: &str, old: &str, new: &str) {
        let (file, scratch) = (self.path(name), self.path("edited"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{name} says nothing of `{old}`");
        std::fs::write(&scratch, text.replace(old, new)).unwrap();
        std::fs::rename(&scratch, &file).unwrap();
    }

    async fn curl(&self, url: &str, headers: &[(&str, &str)]) -> Reply {
        let call = headers.iter().fold(Call::get(url), |call, (name, value)| call.header(name, value));
        call.send(self.outbound).await
    }
}

fn copy(from: &Path, to: &Path, replacements: &[(&str, String)]) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target, replacements);
        } else {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            std::fs::write(target, replacements.iter().fold(text, |text, (old, new)| text.replace(old, new))).unwrap();
        }
    }
}

/// What every bootstrap of an example has replaced.
fn moved(example: &str, state: &str) -> Vec<(&'static str, String)> {
    // Leaked, for a handful of strings in a test.
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    vec![
        (leak(format!("state: {state}")), "state: state".to_owned()),
        (leak(format!("[examples/{example}/rules]")), "[rules]".to_owned()),
        ("admin: 127.0.0.1:15000", "admin: 127.0.0.1:0".to_owned()),
    ]
}

fn port(origin: &Origin) -> String {
    origin.address().port().to_string()
}

#[test]
fn every_example_is_valid_without_a_finding() {
    for rules in [
        "bookinfo",
        "canary/rules",
        "file-mode/rules",
        "tcp/rules",
        "mtls/rules",
        "authorization/rules",
        "jwt/rules",
        "sticky-sessions/rules",
        "circuit-breaking/rules",
        "locality/rules",
        "fault-injection/rules",
        "mirroring/rules",
        "rate-limit/rules",
        "access-log/rules",
        "tracing/rules",
    ] {
        let path = format!("examples/{rules}");
        let outcome = run_leno(&["validate", "-f", &path, "-o", "json", "--fail-on", "warning"], "");
        assert_eq!(outcome.code, 0, "{path}: {}{}", outcome.stdout, outcome.stderr);
        assert_eq!(serde_json::from_str::<Value>(&outcome.stdout).unwrap(), serde_json::json!([]), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canary_sends_testers_to_the_new_version_and_the_checkout_to_the_old_one() {
    let (stable, canary) = (origin("v1").await, origin("v2").await);
    let xds = free_port();
    let mut replacements = moved("canary", "/tmp/canary/client");
    replacements.extend([
        ("http: 8081}", format!("http: {}}}", port(&stable))),
        ("http: 8082}", format!("http: {}}}", port(&canary))),
        ("127.0.0.1:15010", format!("127.0.0.1:{xds}")),
    ]);
    let copy = Copy::of("canary", &replacements);
    let _serve = copy.serve(xds, 0);
    let _proxy = copy.proxy(copy.outbound.port()).await;
    for _ in 0..20 {
        for (url, headers, version) in [
            ("http://shop.example.com/", &[("x-canary", "true")][..], "v2"),
            ("http://shop.example.com/?canary=1", &[], "v2"),
            ("http://shop.example.com/checkout", &[], "v1"),
        ] {
            let reply = copy.curl(url, headers).await;
            assert_eq!((reply.status, reply.text().as_str()), (200, version), "{url} {headers:?}");
        }
    }
    let mut new = 0;
    for _ in 0..400 {
        new += u32::from(copy.curl("http://shop.example.com/", &[]).await.text() == "v2");
    }
    // 5 % of 400, give or take more than four standard deviations.
    assert!((1..=45).contains(&new), "{new} of 400 requests went to the canary");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_mode_serves_its_rules_without_a_control_plane() {
    let app = origin("api").await;
    let mut replacements = moved("file-mode", "/tmp/file-mode");
    replacements.push(("http: 8081}", format!("http: {}}}", port(&app))));
    let copy = Copy::of("file-mode", &replacements);
    let proxy = copy.proxy(copy.outbound.port()).await;
    assert_eq!(copy.curl("http://api.example.com/v1/books", &[]).await.text(), "api");
    let seen = app.last();
    assert_eq!((seen.path.as_str(), seen.header("x-api-version")), ("/books", "1"));
    let moved = copy.curl("http://api.example.com/docs", &[]).await;
    assert_eq!((moved.status, moved.header("location")), (308, "http://api.example.com/v1/docs"));
    assert_eq!(copy.curl("http://api.example.com/healthz", &[]).await.text(), "ok\n");
    assert!(!proxy.config_dump().await.versions("routes").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_carries_bytes_to_the_primary_and_grpc_by_its_authority() {
    let (primary, replica) = (raw::Server::echo().await, raw::Server::echo().await);
    let greeter = origin("greeter").await;
    let database = free_port();
    let mut replacements = moved("tcp", "/tmp/tcp");
    replacements.extend([
        ("number: 15432", format!("number: {database}")),
        ("tcp-sql: 5433}", format!("tcp-sql: {}}}", primary.address().port())),
        ("tcp-sql: 5434}", format!("tcp-sql: {}}}", replica.address().port())),
        ("grpc: 50051}", format!("grpc: {}}}", port(&greeter))),
    ]);
    let copy = Copy::of("tcp", &replacements);
    // The README's listeners are the default ones: that of HTTP stays at 15001 unless a document moves it.
    let sidecar = std::fs::read_to_string(copy.path("rules/test.yaml")).unwrap();
    let tcp = format!(
        "  - port: {{number: {database}, protocol: TCP, name: tcp}}\n    bind: 127.0.0.1\n    hosts: [\"*/*\"]\n"
    );
    std::fs::write(copy.path("rules/test.yaml"), sidecar + &tcp).unwrap();
    let _proxy = copy.proxy(database).await;
    for _ in 0..10 {
        let mut connection = raw::connect(([127, 0, 0, 1], database).into()).await;
        assert_eq!(raw::round_trip(&mut connection, b"select 1").await, b"select 1");
    }
    assert_eq!((primary.connections(), replica.connections()), (10, 0));
    let call = Call::get("http://greeter.example.com/").over(Protocol::Http2);
    assert_eq!(call.send(copy.outbound).await.text(), "greeter");
    assert_eq!(greeter.last().version, http::Version::HTTP_2, "a port named grpc is HTTP/2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_sidecar_document_the_default_listeners_serve() {
    // The only test that takes the default ports.
    let app = origin("api").await;
    let mut replacements = moved("file-mode", "/tmp/file-mode");
    replacements.push(("http: 8081}", format!("http: {}}}", port(&app))));
    let copy = Copy::of("file-mode", &replacements);
    std::fs::remove_file(copy.path("rules/test.yaml")).unwrap();
    let _proxy = copy.proxy(15001).await;
    eventually("the default listener answers", async || {
        let reply = Call::get("http://api.example.com/books").try_send(([127, 0, 0, 1], 15001).into()).await?;
        if reply.text() == "api" { Ok(()) } else { Err(reply.text()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_save_what_may_be_repeated_and_leave_the_rest_alone() {
    let stable = origin("stable").await;
    let flaky = Origin::answering({
        let count = AtomicUsize::new(0);
        move |_| {
            let status = if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { 503 } else { 200 };
            http::Response::builder().status(status).body(leno_tests::full("flaky")).unwrap()
        }
    })
    .await;
    let (copy, proxy) = retrying(&stable, flaky.address().port()).await;
    for number in 0..20 {
        assert_eq!(copy.curl(STOCK, &[]).await.status, 200, "GET {number}");
    }
    let counted = flaky.requests().iter().all(|request| !request.header("x-envoy-attempt-count").is_empty());
    assert!(flaky.count() > 0 && counted, "the app is told which attempt it sees");
    let mut failed = 0;
    for number in 0..20 {
        failed += usize::from(post("").send(copy.outbound).await.status == 503);
        assert_eq!(post("7").send(copy.outbound).await.status, 200, "POST {number} with a key");
    }
    assert!(failed > 0, "a POST without a key is sent once");
    let clusters = proxy.clusters().await;
    for fact in ["rq_retry::retriable-status-codes::", "rq_retry_success::"] {
        assert!(clusters.contains(fact), "no {fact} in\n{clusters}");
    }
    // Where the flaky one does not even take connections, nothing has been sent.
    let (copy, proxy) = retrying(&stable, free_port()).await;
    for number in 0..20 {
        assert_eq!(post("").send(copy.outbound).await.status, 200, "POST {number} with one instance gone");
    }
    assert!(proxy.clusters().await.contains("rq_retry::connect-failure::"));
}

const STOCK: &str = "http://stock.example.com/";

/// The example `retries` with these two instances.
async fn retrying(stable: &Origin, flaky: u16) -> (Copy, Proxy) {
    let mut replacements = moved("retries", "/tmp/retries");
    replacements
        .extend([("http: 8081}", format!("http: {}}}", port(stable))), ("http: 8082}", format!("http: {flaky}}}"))]);
    let copy = Copy::of("retries", &replacements);
    let proxy = copy.proxy(copy.outbound.port()).await;
    (copy, proxy)
}

fn post(key: &str) -> Call {
    let call = Call::new(http::Method::POST, STOCK).body(leno_tests::full("1"));
    if key.is_empty() { call } else { call.header("idempotency-key", key) }
}
