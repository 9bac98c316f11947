//! What changes a process that goes on: its log, its readiness, its listeners.

use leno_tests::{Call, ControlPlane, eventually, mesh, raw, sidecar, slow_app};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{get, json, post};

/// What a proxy logs at `debug` of a caller that speaks no HTTP.
const DEBUG: &str = "the connection ended";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_logs_what_it_is_told_to() {
    let app = leno_tests::origin("app").await;
    let sidecar = sidecar(app.address(), "").start().await;
    let admin = sidecar.proxy.admin().await;
    let nonsense = async || raw::exchange(sidecar.address(), b"GET / HTTP/9.9\r\n\r\n").await;
    let lines = || sidecar.log().matches(DEBUG).count();
    let logged = async |count: usize| {
        eventually("the line is in the log", async || if lines() >= count { Ok(()) } else { Err(sidecar.log()) }).await;
        assert_eq!(lines(), count, "{}", sidecar.log());
    };
    nonsense().await;
    let reply = post(admin, "/logging?leno_proxy::downstream=debug").await;
    assert_eq!((reply.status, reply.text().contains("leno_proxy::downstream: debug")), (200, true), "{}", reply.text());
    nonsense().await;
    logged(1).await;

    // For all modules; what was said of one is forgotten.
    assert_eq!(post(admin, "/logging?level=warning").await.status, 200);
    nonsense().await;
    let shown = json(&get(admin, "/logging?format=json").await);
    assert_eq!((&shown["level"], shown["modules"].as_object().map(serde_json::Map::len)), (&"warn".into(), Some(0)));
    assert_eq!(post(admin, "/logging?leno_proxy=debug").await.status, 200);
    nonsense().await;
    logged(2).await;

    for bad in ["/logging?level=loud", "/logging?a%20b=debug", "/logging"] {
        let reply = post(admin, bad).await;
        assert_eq!(reply.status, 400, "{bad}: {}", reply.text());
    }
    assert_eq!(get(admin, "/logging?level=debug").await.status, 405, "only POST changes something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_logs_what_it_is_told_to() {
    let app = leno_tests::origin("app").await;
    let mut mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    let http = ControlPlane::http(mesh.control_plane());
    assert!(get(http, "/logging").await.text().contains("level: info"));
    let reply = post(http, "/logging?level=warn&leno=debug").await;
    assert_eq!(reply.text(), "active loggers:\n  level: warn\n  leno: debug\n");
    assert_eq!(get(http, "/logging").await.text(), reply.text());
    let page =
        Call::new(http::Method::POST, "http://localhost/logging?level=off").header("origin", "http://evil.example");
    assert_eq!(page.send(http).await.status, 403);
    assert_eq!(post(http, "/logging?level=loud").await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_fails_when_it_is_told_to_and_requests_are_served() {
    let app = leno_tests::origin("app").await;
    let sidecar = sidecar(app.address(), "").start().await;
    let admin = sidecar.proxy.admin().await;
    for (path, status, state) in [("/healthcheck/fail", 503, "DRAINING"), ("/healthcheck/ok", 200, "LIVE")] {
        assert_eq!(post(admin, path).await.status, 200);
        assert_eq!(sidecar.proxy.readiness().await, Ok(status), "{path}");
        assert_eq!(json(&get(admin, "/server_info").await)["state"], state, "{path}");
        assert_eq!(leno_tests::get(sidecar.address(), "http://shop/").await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_listeners_refuse_new_connections_and_finish_what_is_under_way() {
    for workers in [1, 4] {
        let (finish, done) = watch::channel(false);
        let (app, mut starts) = slow_app(done).await;
        let mut sidecar = sidecar(app.address(), "").workers(workers).start().await;
        let (admin, through) = (sidecar.proxy.admin().await, sidecar.address());
        let slow = tokio::spawn(async move { Call::get("http://shop/slow").try_send(through).await });
        starts.recv().await.expect("the slow request reaches the app");

        assert_eq!(post(admin, "/drain_listeners?inboundonly").await.status, 200);
        eventually("new connections are refused", async || match TcpStream::connect(through).await {
            Ok(_) => Err("it was accepted".to_owned()),
            Err(_) => Ok(()),
        })
        .await;
        assert_eq!(sidecar.proxy.readiness().await, Ok(503));
        let listeners = json(&get(admin, "/listeners?format=json").await);
        let states = |direction: &str| -> Vec<Value> {
            let all = listeners["listener_statuses"].as_array().cloned().unwrap_or_default();
            all.iter().filter(|one| one["direction"] == direction).map(|one| one["state"].clone()).collect()
        };
        assert_eq!(states("inbound"), ["closed"], "{listeners:#}");
        assert!(states("outbound").iter().all(|state| state == "listening"), "{listeners:#}");

        finish.send(true).expect("the app is there");
        let reply = slow.await.expect("the caller does not panic").expect("the slow request ends");
        assert_eq!((reply.status, reply.text().as_str()), (200, "begin end"), "{workers} workers");
        sidecar.proxy.process.must_be_running();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_drain_tells_callers_before_it_closes() {
    let app = leno_tests::origin("app").await;
    let patient = mesh().drain("20s").without_control_plane();
    let mesh = patient.service("app", &[("v1", app.address())]).start().await;
    let (admin, through) = (mesh.client.admin().await, mesh.outbound());
    assert_eq!(post(admin, "/drain_listeners?graceful").await.status, 200);
    let mut told = false;
    eventually("new connections are refused in the end", async || {
        if TcpStream::connect(through).await.is_err() {
            return Ok(());
        }
        // It may close between the two.
        let asked = tokio::spawn(async move { Call::get("http://app/").try_send(through).await });
        let reply = asked.await.map_err(|error| error.to_string())??;
        told |= reply.status == 200 && reply.header("connection") == "close";
        Err(format!("{} {:?}", reply.status, reply.header("connection")))
    })
    .await;
    assert!(told, "callers who came in the meantime were served and told");
    // What is drained stays so, whatever is configured.
    mesh.edit("# edited\n");
    eventually("the proxy knows that it listens nowhere", async || {
        let listeners = get(admin, "/listeners").await.text();
        if listeners.contains("(closed)") { Ok(()) } else { Err(listeners) }
    })
    .await;
    assert!(TcpStream::connect(through).await.is_err());
}
