//! The figures of a cluster say what is so while it is so, and take it back when it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use leno_tests::scripted::{Fleet, Manner, SCRIPT};
use leno_tests::{Call, Mesh, Origin, empty, eventually, mesh};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{app, begin, next, policy};

const CLUSTER: (&str, &str) = ("cluster", "outbound|80||app.default.svc.cluster.local");

async fn of(address: std::net::SocketAddr, rules: &str) -> Mesh {
    mesh().service("app", &[("v1", address)]).rules(rules).without_control_plane().start().await
}

async fn shows(mesh: &Mesh, name: &str, labels: &[(&str, &str)], value: f64) {
    mesh.client.shows(name, &[&[CLUSTER], labels].concat(), value).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_is_open_while_all_that_it_allows_is_in_use() {
    let app = app("app").await;
    let mesh = of(app.address(), &policy("connectionPool: {http: {http2MaxRequests: 2}}")).await;
    let requests = ("limit", "requests");
    let figures = async |under_way: f64, is_open: f64| {
        shows(&mesh, "leno_cluster_in_use", &[requests], under_way).await;
        shows(&mesh, "leno_cluster_breaker_open", &[requests], is_open).await;
        // Each request has a connection of its own to the proxy.
        mesh.client.shows("active_requests", &[], under_way).await;
        mesh.client.shows("active_connections", &[], under_way).await;
    };
    figures(0.0, 0.0).await;
    app.hold(true);
    let mut calls = begin(&mesh, 1);
    figures(1.0, 0.0).await;
    calls.spawn(leno_tests::get(mesh.outbound(), "http://app/"));
    figures(2.0, 1.0).await;
    assert_eq!(next(&mut begin(&mesh, 1), 1).await, ["503 UO overloaded"]);
    shows(&mesh, "leno_cluster_overflows_total", &[requests], 1.0).await;
    app.hold(false);
    assert_eq!(next(&mut calls, 2).await, ["200"; 2]);
    figures(0.0, 0.0).await;
    shows(&mesh, "leno_cluster_overflows_total", &[requests], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_pool_are_open_and_idle_as_they_are() {
    let fleet = Fleet::new();
    let mut server = fleet.server("app", Manner::Obeys).await;
    let mesh = of(server.address(), "").await;
    let pool = async |open: f64, idle: f64| {
        shows(&mesh, "leno_cluster_pool_connections", &[("state", "open")], open).await;
        shows(&mesh, "leno_cluster_pool_connections", &[("state", "idle")], idle).await;
    };
    let mut waits = JoinSet::new();
    for _ in 0..3 {
        let call = Call::get("http://app/").header(SCRIPT, "silent");
        waits.spawn(call.try_send(mesh.outbound()));
    }
    pool(3.0, 0.0).await;
    // A connection whose answer nobody waits for is of no use any more.
    waits.shutdown().await;
    pool(0.0, 0.0).await;
    assert_eq!(mesh.get("http://app/").await.status, 200);
    pool(1.0, 1.0).await;
    server.kill();
    pool(0.0, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_retries_that_are_left_become_fewer_with_each_that_is_under_way() {
    // Every first attempt fails, and every second one waits until the test lets go.
    let (attempts, (hold, held)) = (Arc::new(AtomicUsize::new(0)), watch::channel(true));
    let count = Arc::clone(&attempts);
    let app = Origin::scripted(move |_| {
        let (number, mut held) = (count.fetch_add(1, Ordering::SeqCst), held.clone());
        async move {
            if number % 2 == 1 {
                // An error means that the test is over.
                let _ = held.wait_for(|held| !held).await;
            }
            Response::builder().status(if number % 2 == 1 { 200 } else { 503 }).body(empty()).unwrap()
        }
    })
    .await;
    let retries = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http: [{retries: {attempts: 1, retryOn: 5xx, backoff: 1ms}, route: [{destination: {host: app}}]}]
";
    let rules = policy("connectionPool: {http: {maxRetries: 3}}") + retries;
    let mesh = of(app.address(), &rules).await;
    let left = "leno_cluster_retry_budget_left";
    shows(&mesh, left, &[], 3.0).await;
    let mut calls = JoinSet::new();
    for number in 1..=3 {
        calls.spawn(leno_tests::get(mesh.outbound(), "http://app/"));
        // Both of its attempts, before those of the next: they are told apart by their number.
        eventually("a retry is under way", async || match attempts.load(Ordering::SeqCst) {
            seen if seen == 2 * number => Ok(()),
            seen => Err(format!("{seen} attempts")),
        })
        .await;
        shows(&mesh, left, &[], 3.0 - f64::from(u32::try_from(number).unwrap())).await;
    }
    shows(&mesh, "leno_cluster_breaker_open", &[("limit", "retries")], 1.0).await;
    shows(&mesh, "leno_cluster_retries_total", &[], 3.0).await;
    hold.send_replace(false);
    assert_eq!(next(&mut calls, 3).await, ["200"; 3]);
    shows(&mesh, left, &[], 3.0).await;
    shows(&mesh, "leno_cluster_breaker_open", &[("limit", "retries")], 0.0).await;
    shows(&mesh, "leno_cluster_retries_ended_total", &[("outcome", "success")], 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ejection_is_counted_until_a_probe_has_succeeded() {
    let app = app("app").await;
    let rules = policy(
        "outlierDetection: {consecutive5xxErrors: 2, interval: 100ms, baseEjectionTime: 100ms, maxEjectionPercent: 100}",
    );
    let mesh = of(app.address(), &rules).await;
    let active = "leno_cluster_ejections_active";
    shows(&mesh, active, &[], 0.0).await;
    app.answers(500);
    for _ in 0..2 {
        assert_eq!(mesh.get("http://app/").await.status, 500);
    }
    // Half-open or not: nobody has shown yet that it is well.
    shows(&mesh, active, &[], 1.0).await;
    shows(&mesh, "leno_cluster_ejections_total", &[("reason", "consecutive_5xx")], 1.0).await;
    app.answers(200);
    eventually("a probe succeeds", async || match mesh.get("http://app/").await.status {
        200 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    shows(&mesh, active, &[], 0.0).await;
    shows(&mesh, "leno_cluster_half_open_probes_total", &[], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_unhealthy_until_it_passes_its_checks() {
    let app = app("app").await;
    let check = "apiVersion: leno.mesh/v1alpha1
kind: HealthCheck
metadata: {name: app}
spec: {host: app, http: {path: /}, interval: 50ms, idleInterval: 50ms, timeout: 5s}
";
    let mesh = of(app.address(), check).await;
    for (status, unhealthy) in [(200, 0.0), (500, 1.0), (200, 0.0)] {
        app.answers(status);
        shows(&mesh, "leno_cluster_unhealthy_endpoints", &[], unhealthy).await;
    }
}
