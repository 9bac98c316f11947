//! `/clusters` says of each endpoint what is so, in JSON and in Envoy's lines alike.

use std::net::SocketAddr;
use std::time::Duration;

use leno_tests::scripted::{Fleet, Manner, SCRIPT};
use leno_tests::{Call, Mesh, Origin, eventually, full, mesh};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{get, json};

const CLUSTER: &str = "outbound|80||app.default.svc.cluster.local";

/// The cluster of all of `app`.
async fn cluster(mesh: &Mesh) -> Value {
    let clusters = json(&get(mesh.client.admin().await, "/clusters?format=json").await);
    let found = clusters.as_array().unwrap().iter().find(|cluster| cluster["name"] == CLUSTER);
    found.unwrap_or_else(|| panic!("{clusters:#}")).clone()
}

/// One of its endpoints.
async fn endpoint(mesh: &Mesh, address: SocketAddr) -> Value {
    let cluster = cluster(mesh).await;
    let endpoints = cluster["endpoints"].as_array().unwrap();
    let found = endpoints.iter().find(|endpoint| endpoint["address"] == address.to_string());
    found.unwrap_or_else(|| panic!("{cluster:#}")).clone()
}

/// Waits until an endpoint is so in JSON, and then in the lines.
async fn is(mesh: &Mesh, address: SocketAddr, facts: &[(&str, Value, &str)]) {
    for (key, value, line) in facts {
        eventually(&format!("{key} is {value}"), async || {
            let now = endpoint(mesh, address).await;
            if now[*key] == *value { Ok(()) } else { Err(format!("{now:#}")) }
        })
        .await;
        let line = format!("{CLUSTER}::{address}::{line}");
        eventually(&line, async || {
            let text = get(mesh.client.admin().await, "/clusters").await.text();
            if text.lines().any(|one| one == line) { Ok(()) } else { Err(text) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_and_ejection_are_those_of_the_moment() {
    let fleet = Fleet::new();
    let server = fleet.server("app", Manner::Obeys).await;
    let address = server.address();
    let rules = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: policy}
spec:
  host: app
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 300s, maxEjectionPercent: 100}
";
    let mesh = mesh().service("app", &[("v1", address)]).rules(rules).without_control_plane().start().await;
    let ask = |script: &str| Call::get("http://app/").header(SCRIPT, script);
    is(&mesh, address, &[("breaker", "closed".into(), "health_flags::healthy"), ("active", 0.into(), "rq_active::0")])
        .await;

    let mut waits = JoinSet::new();
    for _ in 0..2 {
        waits.spawn(ask("silent").try_send(mesh.outbound()));
    }
    is(&mesh, address, &[("active", 2.into(), "rq_active::2"), ("requests", 2.into(), "rq_total::2")]).await;
    waits.shutdown().await;
    is(&mesh, address, &[("active", 0.into(), "rq_active::0")]).await;

    assert_eq!(ask("200").send(mesh.outbound()).await.status, 200);
    is(&mesh, address, &[("successes", 1.into(), "rq_success::1"), ("ejections", 0.into(), "ejections::0")]).await;
    for _ in 0..2 {
        assert_eq!(ask("500").send(mesh.outbound()).await.status, 500);
    }
    let ejected = "health_flags::/failed_outlier_check";
    is(&mesh, address, &[("breaker", "open".into(), ejected), ("ejections", 1.into(), "ejections::1")]).await;
    let now = endpoint(&mesh, address).await;
    assert_eq!((&now["reason"], &now["healthy"]), (&"consecutive_5xx".into(), &Value::Null), "{now:#}");
    assert!((1..=300_000).contains(&now["open_for_ms"].as_u64().unwrap()), "{now:#}");
    assert_eq!(cluster(&mesh).await["ejected"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_checked_is_healthy_or_not() {
    let fleet = Fleet::new();
    let mut server = fleet.server("app", Manner::Obeys).await;
    let address = server.address();
    let check = "apiVersion: leno.mesh/v1alpha1
kind: HealthCheck
metadata: {name: app}
spec: {host: app, tcp: {}, interval: 50ms, idleInterval: 50ms, timeout: 5s}
";
    let mesh = mesh().service("app", &[("v1", address)]).rules(check).without_control_plane().start().await;
    is(&mesh, address, &[("healthy", true.into(), "health_flags::healthy")]).await;
    server.kill();
    is(&mesh, address, &[("healthy", false.into(), "health_flags::/failed_active_hc")]).await;
    server.start().await;
    is(&mesh, address, &[("healthy", true.into(), "health_flags::healthy")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_endpoint_is_expected_to_answer_later_than_a_fast_one() {
    let fast = Origin::scripted(async |_| http::Response::new(full("fast"))).await;
    let slow = Origin::scripted(|_| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        http::Response::new(full("slow"))
    })
    .await;
    let rules = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: policy, annotations: {leno.mesh/load-balancer: PEAK_EWMA}}
spec: {host: app}
";
    let instances = [("v1", fast.address()), ("v2", slow.address())];
    let mesh = mesh().service("app", &instances).rules(rules).without_control_plane().start().await;
    eventually("the slow one has a longer average than the fast one", async || {
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            calls.spawn(leno_tests::get(mesh.outbound(), "http://app/"));
        }
        assert!(calls.join_all().await.iter().all(|reply| reply.status == 200));
        let mut expected = [0.0; 2];
        for (expected, app) in expected.iter_mut().zip([&fast, &slow]) {
            let endpoint = endpoint(&mesh, app.address()).await;
            *expected = endpoint["ewma_ms"].as_f64().ok_or_else(|| format!("{endpoint:#}"))?;
        }
        let [fast, slow] = expected;
        // It forgets a third in four seconds.
        if slow > fast && slow > 100.0 { Ok(()) } else { Err(format!("{fast} and {slow} ms")) }
    })
    .await;
    let text = get(mesh.client.admin().await, "/clusters").await.text();
    let shown = |app: &Origin| {
        let prefix = format!("{CLUSTER}::{}::ewma_ms::", app.address());
        text.lines()
            .find_map(|line| line.strip_prefix(&prefix)?.parse::<f64>().ok())
            .unwrap_or_else(|| panic!("{text}"))
    };
    assert!(shown(&slow) > 0.0 && shown(&fast) > 0.0);
}
