//! What sidecars count, seen from outside: who talks to whom, in the demo and in small meshes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use leno_tests::{
    Call, Origin, Protocol, Proxy, eventually, eventually_within, free_port, full, get, leno, mesh, origin, raw,
    workspace,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// One line of Prometheus' text.
#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// All samples; names and values of this file hold neither quotes nor spaces.
fn samples(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty()).map(|pair| {
            let (label, value) = pair.split_once("=\"").unwrap();
            (label.to_owned(), value.trim_end_matches('"').to_owned())
        });
        Sample { name: name.to_owned(), labels: labels.collect(), value: value.parse().unwrap() }
    };
    lines.map(sample).collect()
}

impl Sample {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// All series of one metric.
fn of<'a>(samples: &'a [Sample], name: &str) -> Vec<&'a Sample> {
    samples.iter().filter(|sample| sample.name == name).collect()
}

/// The addresses that the sidecars of a demo in a directory answer operators on, by workload.
fn admins(directory: &Path) -> BTreeMap<String, SocketAddr> {
    let demos = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let states = demos.flat_map(|demo| std::fs::read_dir(demo.path()).into_iter().flatten().flatten());
    let admin = |state: std::fs::DirEntry| {
        let name = state.file_name().into_string().ok()?.strip_suffix("-sidecar")?.to_owned();
        let ports: Value = serde_json::from_slice(&std::fs::read(state.path().join("ports.json")).ok()?).ok()?;
        Some((name, ports["admin"].as_str()?.parse().ok()?))
    };
    states.filter_map(admin).collect()
}

/// Ends with the test.
struct Demo(std::process::Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_demo_everybody_is_known_and_versions_are_told_apart() {
    let (rules, directory) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let example = workspace().join("examples/bookinfo");
    std::fs::copy(example.join("services.yaml"), rules.path().join("services.yaml")).unwrap();
    let routes = std::fs::read_to_string(example.join("routes.yaml")).unwrap();
    let third = "      weight: 20\n    - destination: {host: reviews, subset: v3}\n      weight: 40\n";
    let routes = routes.replace("weight: 80", "weight: 40").replace("      weight: 20\n", third);
    std::fs::write(rules.path().join("routes.yaml"), routes).unwrap();
    let log = |name: &str| std::fs::File::create(rules.path().join(name)).unwrap();
    let child = Command::new(leno())
        .args(["demo", "-o", "json", "--rules"])
        .arg(rules.path())
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(log("stdout.log"))
        .stderr(log("stderr.log"))
        .spawn()
        .unwrap();
    let _demo = Demo(child);
    let all = eventually_within(Duration::from_secs(90), "all sidecars have counted", async || {
        let mut all = BTreeMap::new();
        for (name, admin) in admins(directory.path()) {
            let samples = samples(&get(admin, "http://admin/stats/prometheus").await.text());
            all.insert(name, samples);
        }
        let counted = |reporter: &str, label: &str| -> BTreeSet<String> {
            let series = all.values().flat_map(|samples| of(samples, "istio_requests_total"));
            let series = series.filter(|one| one.label("reporter") == reporter && one.label("response_code") == "200");
            series.map(|one| one.label(label).to_owned()).collect()
        };
        let called = counted("source", "destination_workload");
        let everybody = ["details-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3"];
        if everybody.iter().all(|name| called.contains(*name)) { Ok(all) } else { Err(format!("{called:?}")) }
    })
    .await;
    for (name, samples) in &all {
        for series in of(samples, "istio_requests_total") {
            if series.label("response_code") != "200" {
                continue;
            }
            let sides = series
                .labels
                .iter()
                .filter(|(label, _)| label.starts_with("source_") || label.starts_with("destination_"));
            for (label, value) in sides {
                assert!(value != "unknown" && !value.is_empty(), "{name}: {label}: {series:?}");
            }
            assert_eq!(series.label("connection_security_policy"), "mutual_tls", "{name}: {series:?}");
        }
    }
    let reviews = of(&all["productpage-v1"], "istio_requests_total");
    let reviews = reviews.iter().filter(|one| one.label("destination_app") == "reviews");
    let versions: BTreeSet<_> =
        reviews.map(|one| (one.label("destination_version"), one.label("destination_workload"))).collect();
    assert_eq!(versions, [("v1", "reviews-v1"), ("v2", "reviews-v2"), ("v3", "reviews-v3")].into());
    for (version, caller) in [("ratings-v1", ["reviews-v2", "reviews-v3"]), ("reviews-v1", ["productpage-v1"; 2])] {
        let callers = of(&all[version], "istio_requests_total");
        let callers: BTreeSet<&str> = callers.iter().map(|one| one.label("source_workload")).collect();
        assert_eq!(callers, caller.into(), "who calls {version}");
    }
    let service = of(&all["reviews-v1"], "istio_requests_total");
    let service = service.first().unwrap();
    assert!(service.label("destination_service").starts_with("reviews"), "{service:?}");
    assert_eq!(service.label("destination_service_namespace"), "default");
    assert!(service.label("source_principal").ends_with("/sa/productpage"), "{service:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_sends_is_counted_once_on_both_sides() {
    let app = origin("v1").await;
    for workers in [1, 4] {
        let mesh = mesh().service("shop", &[("v1", app.address())]).workers(workers).behind_sidecars().start().await;
        for number in 0..20 {
            // What an app says about itself counts for nothing.
            let call = Call::new(http::Method::POST, "http://shop/")
                .header("x-envoy-peer-metadata", "bWU=")
                .body(full("hello"));
            assert_eq!(mesh.send(call).await.status, 200, "request {number}");
        }
        // An address that no service has, where nobody listens.
        let outside = mesh.get(&format!("http://127.0.0.1:{}/", free_port())).await;
        assert_eq!(outside.status, 503, "{}", outside.text());
        let sides = [(&mesh.client, "source", "outbound"), (&mesh.peers[0], "destination", "inbound")];
        for (proxy, reporter, direction) in sides {
            let seen = eventually("all requests have ended", async || {
                let samples = samples(&proxy.metrics().await);
                let series = of(&samples, "istio_requests_total").into_iter();
                let sum: f64 = series.filter(|one| one.label("response_code") == "200").map(|one| one.value).sum();
                if sum >= 20.0 { Ok(samples) } else { Err(format!("{sum}")) }
            })
            .await;
            let series: Vec<_> = of(&seen, "istio_requests_total")
                .into_iter()
                .filter(|one| one.label("response_code") == "200")
                .collect();
            let [one] = series.as_slice() else { panic!("{series:?}") };
            assert_eq!((one.value, one.label("reporter"), one.label("request_protocol")), (20.0, reporter, "http"));
            assert_eq!(one.label("destination_service"), "shop.default.svc.cluster.local");
            assert_eq!(
                (one.label("destination_service_name"), one.label("destination_workload_namespace")),
                ("shop", "default")
            );
            let bytes = of(&seen, "istio_request_bytes_sum");
            assert_eq!(bytes.iter().map(|one| one.value).sum::<f64>(), 100.0, "{reporter}");
            let figures = get(proxy.admin().await, "http://admin/figures").await.text();
            let figures: Value = serde_json::from_str(&figures).unwrap();
            let row = |rows: &str| -> Value {
                let rows = figures[rows].as_array().unwrap();
                rows.iter().find(|row| row["code"] == 200).unwrap().clone()
            };
            let (request, route) = (row("requests"), row("routes"));
            assert_eq!((&request["requests"], &request["request_bytes"]), (&json!(20), &json!(100)), "{request}");
            assert_eq!((&route["requests"], &route["direction"]), (&json!(20), &json!(direction)), "{route}");
            assert!(route["cluster"].as_str().unwrap().starts_with(direction), "{route}");
        }
        let refused = samples(&mesh.client.metrics().await);
        let refused: Vec<_> = of(&refused, "istio_requests_total")
            .into_iter()
            .filter(|one| one.label("response_code") == "503")
            .collect();
        let [one] = refused.as_slice() else { panic!("{refused:?}") };
        assert_eq!((one.label("response_flags"), one.label("destination_workload")), (outside.flag(), "unknown"));
        assert_eq!(one.label("destination_service"), "127.0.0.1", "hosts outside the mesh are told apart");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_of_tcp_connections_are_counted_while_they_are_open() {
    let app = raw::Server::echo().await;
    let port = free_port();
    let mesh = mesh().service_on("db", (port, "tcp", "TCP"), &[("v1", app.address())]).behind_sidecars().start().await;
    let mut connection = raw::connect(([127, 0, 0, 1], port).into()).await;
    assert_eq!(raw::round_trip(&mut connection, b"hello").await, b"hello");
    let figures = async |names: [&str; 4]| {
        let samples = samples(&mesh.client.metrics().await);
        let sum = |name: &str| of(&samples, name).iter().map(|one| one.value).sum::<f64>();
        names.map(sum)
    };
    let names = [
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_received_bytes_total",
        "istio_tcp_sent_bytes_total",
    ];
    let wait = async |what: &str, expected: [f64; 4]| {
        eventually(what, async || {
            let now = figures(names).await;
            if now == expected { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    };
    wait("an open connection has bytes", [1.0, 0.0, 5.0, 5.0]).await;
    drop(connection);
    wait("it is closed", [1.0, 1.0, 5.0, 5.0]).await;
    let samples = samples(&mesh.client.metrics().await);
    let sent = of(&samples, "istio_tcp_sent_bytes_total");
    let [one] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!((one.label("request_protocol"), one.label("destination_workload")), ("tcp", "db"), "{one:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_opentelemetry_are_there_where_they_are_asked_for() {
    let (app, port, directory) = (origin("v1").await, free_port(), TempDir::new().unwrap());
    let sidecar = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {
            "workloadSelector": {"labels": {"app": "shop"}},
            "ingress": [{
                "port": {"number": port, "protocol": "HTTP", "name": "http"},
                "bind": "127.0.0.1",
                "defaultEndpoint": app.address().to_string(),
            }],
        },
    });
    let rules = directory.path().join("rules.yaml");
    std::fs::write(&rules, sidecar.to_string()).unwrap();
    let keys = [("rules", json!([rules])), ("metrics_dialect", json!("otel"))];
    let proxy = Proxy::with(directory.path(), "shop", &keys);
    proxy.ready(port).await;
    assert_eq!(get(([127, 0, 0, 1], port).into(), "http://shop/").await.status, 200);
    let samples = eventually("the request has ended", async || {
        let samples = samples(&proxy.metrics().await);
        let ended = !of(&samples, "http_server_request_duration_seconds_count").is_empty();
        if ended { Ok(samples) } else { Err("no http_server_request_duration_seconds".to_owned()) }
    })
    .await;
    let ended = of(&samples, "http_server_request_duration_seconds_count");
    let [one] = ended.as_slice() else { panic!("{ended:?}") };
    assert_eq!((one.label("http_request_method"), one.label("http_response_status_code")), ("GET", "200"));
    assert_eq!((one.label("network_protocol_version"), one.label("error_type")), ("1.1", ""));
    assert_eq!(one.label("server_port"), port.to_string());
    assert!(samples.iter().all(|sample| !sample.name.starts_with("istio_")), "only what was asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_the_status_of_grpc_are_counted_from_bodies_and_trailers() {
    // Sends the messages back, and says NOT_FOUND in its trailers.
    let app = Origin::answering(|request| {
        let body = Full::new(request.body.clone()).map_err(|never| match never {});
        let trailers =
            http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "5".parse().unwrap())]);
        http::Response::new(body.with_trailers(async move { Some(Ok(trailers)) }).boxed())
    })
    .await;
    let mesh =
        mesh().service_on("greeter", (80, "grpc", "GRPC"), &[("v1", app.address())]).behind_sidecars().start().await;
    let messages = b"\0\0\0\0\x05hello\0\0\0\0\0\x01\0\0\0\x01x".to_vec();
    let call = Call::new(http::Method::POST, "http://greeter/leno.Greeter/Say").over(Protocol::Http2);
    let reply = mesh.send(call.header("content-type", "application/grpc").body(full(messages))).await;
    assert_eq!(reply.status, 200, "{}", reply.header("x-leno-error"));
    for proxy in [&mesh.client, &mesh.peers[0]] {
        let seen = eventually("the call has ended", async || {
            let samples = samples(&proxy.metrics().await);
            if of(&samples, "istio_requests_total").is_empty() { Err("no series".to_owned()) } else { Ok(samples) }
        })
        .await;
        for name in ["istio_request_messages_total", "istio_response_messages_total"] {
            let series = of(&seen, name);
            let [one] = series.as_slice() else { panic!("{name}: {series:?}") };
            assert_eq!((one.value, one.label("grpc_response_status")), (3.0, "5"), "{name}");
            assert_eq!((one.label("request_protocol"), one.label("response_code")), ("grpc", "200"), "{name}");
        }
    }
}
