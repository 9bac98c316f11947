//! Active health checks: who fails them gets nothing.

use http::Response;
use leno_tests::{Mesh, Origin, eventually, full, get, mesh, raw};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::{app, fact};

/// A HealthCheck for `app` that does not wait long.
fn check(how: &str) -> String {
    format!(
        "apiVersion: leno.mesh/v1alpha1
kind: HealthCheck
metadata: {{name: app}}
spec:
  host: app
  {how}
  interval: 50ms
  idleInterval: 50ms
  timeout: 5s
"
    )
}

async fn until_flags_are(mesh: &Mesh, address: std::net::SocketAddr, flags: &str) {
    let name = format!("{address}::health_flags");
    eventually("its health is known", async || match fact(mesh, &name).await {
        now if now == flags => Ok(()),
        now => Err(now),
    })
    .await;
}

/// An app whose answers at `/health` have a status of their own.
async fn app_with_health(name: &'static str) -> (Origin, Arc<AtomicU16>) {
    let health = Arc::new(AtomicU16::new(200));
    let own = Arc::clone(&health);
    let origin = Origin::answering(move |request| {
        let status = if request.path.starts_with("/health") { own.load(Ordering::SeqCst) } else { 200 };
        Response::builder().status(status).body(full(name)).unwrap()
    })
    .await;
    (origin, health)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_its_checks_gets_nothing_until_it_passes_again() {
    for (how, workers) in [("http: {path: '/health?deep', status: [200-299]}", 1), ("http: {path: /health}", 4)] {
        let (good, _) = app_with_health("good").await;
        let (bad, health) = app_with_health("bad").await;
        let apps = [("v1", good.address()), ("v2", bad.address())];
        let mesh = mesh().service("app", &apps).rules(&check(how)).workers(workers).start().await;
        until_flags_are(&mesh, bad.address(), "healthy").await;
        health.store(500, Ordering::SeqCst);
        until_flags_are(&mesh, bad.address(), "/failed_active_hc").await;
        for _ in 0..40 {
            assert_eq!(get(mesh.outbound(), "http://app/").await.text(), "good", "{workers} workers");
        }
        health.store(200, Ordering::SeqCst);
        until_flags_are(&mesh, bad.address(), "healthy").await;
        eventually("it is called again", async || {
            let text = get(mesh.outbound(), "http://app/").await.text();
            (text == "bad").then_some(()).ok_or(text)
        })
        .await;
        let asked = bad.requests().into_iter().find(|request| request.path.starts_with("/health")).unwrap();
        assert_eq!((asked.header("user-agent"), asked.host.as_str()), ("Leno/HC", "app.default.svc.cluster.local"));

        // Without the rule nobody is asked, and nobody is kept out.
        health.store(500, Ordering::SeqCst);
        until_flags_are(&mesh, bad.address(), "/failed_active_hc").await;
        mesh.edit("");
        until_flags_are(&mesh, bad.address(), "healthy").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_healthy_is_nobody_at_all() {
    let bad = app("bad").await;
    bad.answers(404);
    let rules = check("http: {path: /health}");
    let mesh = mesh().service("app", &[("v1", bad.address())]).rules(&rules).without_control_plane().start().await;
    until_flags_are(&mesh, bad.address(), "/failed_active_hc").await;
    let reply = mesh.get("http://app/").await;
    assert_eq!((reply.status, reply.flag(), reply.text().as_str()), (503, "UH", "no healthy upstream"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_nobody_listens_on_is_unhealthy_and_bytes_are_compared() {
    let app = app("app").await;
    let greeting = raw::Server::greeting("+PONG and more").await;
    let closed = leno_tests::free_port();
    for (how, address, flags) in [
        ("tcp: {}", app.address(), "healthy"),
        ("tcp: {}", ([127, 0, 0, 1], closed).into(), "/failed_active_hc"),
        ("tcp: {send: PING, receive: PONG}", greeting.address(), "healthy"),
        ("tcp: {send: PING, receive: '-ERR'}", raw::Server::closing().await.address(), "/failed_active_hc"),
    ] {
        let rules = check(how);
        let mesh = mesh().service("app", &[("v1", address)]).rules(&rules).without_control_plane().start().await;
        until_flags_are(&mesh, address, flags).await;
    }
}
