//! Limits: what is over them is answered at once (semantics.md 1.4, measured on Envoy).

use leno_tests::{Call, Mesh, PATIENCE, Protocol, eventually, free_port, mesh, metric, raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{App, app, begin, fact, next, policy};

async fn limited(app: &App, workers: usize, pool: &str) -> Mesh {
    let rules = policy(&format!("connectionPool: {{{pool}}}"));
    mesh().service("app", &[("v1", app.address())]).rules(&rules).workers(workers).without_control_plane().start().await
}

async fn reached(app: &App, count: usize) {
    eventually("the app has the requests", async || match app.count() {
        seen if seen >= count => Ok(()),
        seen => Err(format!("{seen} of {count}")),
    })
    .await;
}

/// Waits until so much is in use.
async fn in_use(mesh: &Mesh, what: &str, count: u32) {
    let name = format!("default_priority::{what}_active");
    eventually("it is in use", async || match fact(mesh, &name).await {
        now if now == count.to_string() => Ok(()),
        now => Err(format!("{now} {what}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_limit_is_refused_and_what_may_wait_waits() {
    // Envoy 1.40, one worker, four requests of which the first is under way before the others come.
    for (pool, refused) in [
        ("tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1}", 2),
        ("tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}", 2),
        ("tcp: {maxConnections: 1}", 0),
        ("http: {http2MaxRequests: 1}", 3),
        ("http: {http2MaxRequests: 3}", 1),
        ("tcp: {connectTimeout: 3s}", 0),
    ] {
        let app = app("app").await;
        let mesh = limited(&app, 1, pool).await;
        app.hold(true);
        let mut first = begin(&mesh, 1);
        reached(&app, 1).await;
        let mut others = begin(&mesh, 3);
        assert_eq!(next(&mut others, refused).await, vec!["503 UO overloaded"; refused], "{pool}");
        if refused < 3 && pool.contains("maxConnections") {
            in_use(&mesh, "pending_requests", 3 - u32::try_from(refused).unwrap()).await;
            in_use(&mesh, "connections", 1).await;
            assert_eq!(app.count(), 1, "{pool}: the others wait");
        }
        app.hold(false);
        assert_eq!(next(&mut first, 1).await, ["200"], "{pool}");
        assert_eq!(next(&mut others, 3 - refused).await, vec!["200"; 3 - refused], "{pool}");
        for what in ["pending_requests", "requests"] {
            in_use(&mesh, what, 0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_may_have_a_connection_and_nobody_starves() {
    let app = app("app").await;
    let mesh = limited(&app, 4, "tcp: {maxConnections: 1}").await;
    let mut requests = begin(&mesh, 100);
    assert_eq!(next(&mut requests, 100).await, vec!["200"; 100]);
    let open: u32 = fact(&mesh, "default_priority::connections_active").await.parse().unwrap();
    assert!((1..=4).contains(&open), "{open}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_count_for_the_process_and_are_told() {
    let app = app("app").await;
    let mesh = limited(&app, 4, "http: {http2MaxRequests: 5}").await;
    app.hold(true);
    let mut requests = begin(&mesh, 40);
    assert_eq!(next(&mut requests, 35).await, vec!["503 UO overloaded"; 35]);
    let metrics = mesh.client.metrics().await;
    let labels = ["limit=\"requests\"", "cluster=\"outbound|80||app.default.svc.cluster.local\""];
    assert_eq!(metric(&metrics, "leno_cluster_in_use", &labels), 5.0);
    assert_eq!(metric(&metrics, "leno_cluster_overflows_total", &labels), 35.0);
    app.hold(false);
    assert_eq!(next(&mut requests, 5).await, ["200"; 5]);
    assert_eq!(app.count(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_connection_does_not_wait_for_ever() {
    let app = app("app").await;
    let mesh = limited(&app, 1, "tcp: {maxConnections: 1, connectTimeout: 200ms}").await;
    app.hold(true);
    let mut first = begin(&mesh, 1);
    reached(&app, 1).await;
    assert_eq!(next(&mut begin(&mesh, 2), 2).await, ["503 UO overloaded"; 2]);
    app.hold(false);
    assert_eq!(next(&mut first, 1).await, ["200"]);
    assert_eq!(mesh.get("http://app/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_over_the_limit_of_a_connection_open_another() {
    let app = app("app").await;
    let rules = policy("connectionPool: {http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 2}}");
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(&rules).without_control_plane().start().await;
    app.hold(true);
    let mut requests = begin(&mesh, 6);
    reached(&app, 6).await;
    assert_eq!(fact(&mesh, "default_priority::connections_active").await, "3");
    app.hold(false);
    assert_eq!(next(&mut requests, 6).await, ["200"; 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_wait_where_no_other_connection_may_be_opened() {
    let app = app("app").await;
    let rules =
        policy("connectionPool: {tcp: {maxConnections: 1}, http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 2}}");
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(&rules).without_control_plane().start().await;
    app.hold(true);
    let mut requests = begin(&mesh, 5);
    reached(&app, 2).await;
    in_use(&mesh, "pending_requests", 3).await;
    assert_eq!((app.count(), fact(&mesh, "default_priority::connections_active").await.as_str()), (2, "1"));
    app.hold(false);
    assert_eq!(next(&mut requests, 5).await, ["200"; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_takes_no_new_request() {
    let app = app("app").await;
    let mesh = limited(&app, 1, "tcp: {maxConnectionDuration: 1ms}").await;
    let mut caller = leno_tests::Connection::open(mesh.outbound(), Protocol::Http1).await;
    for count in 1..=3 {
        assert_eq!(caller.send(Call::get("http://app/")).await.status, 200);
        assert_eq!(fact(&mesh, "cx_total").await, count.to_string());
        // The clock has to move by a millisecond.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_connections_over_the_limit_are_closed_and_others_take_their_place() {
    let (echo, port) = (raw::Server::echo().await, free_port());
    let rules = policy("connectionPool: {tcp: {maxConnections: 2}}");
    let _mesh = mesh()
        .service_on("app", (port, "tcp", "TCP"), &[("v1", echo.address())])
        .rules(&rules)
        .without_control_plane()
        .start()
        .await;
    let listener = ([127, 0, 0, 1], port).into();
    let open = async || {
        let mut stream = raw::connect(listener).await;
        let mut echoed = vec![0; 5];
        // Where it is closed, so does one of the two fail.
        let talk = async { stream.write_all(b"hello").await.is_ok() && stream.read_exact(&mut echoed).await.is_ok() };
        let answered = tokio::time::timeout(PATIENCE, talk).await.expect("it is neither answered nor closed");
        (stream, if answered { echoed } else { Vec::new() })
    };
    // The harness has knocked at the listener to see that it is open.
    let (first, _) = eventually("there is room for the first", async || match open().await {
        (stream, echoed) if echoed == b"hello" => Ok((stream, echoed)),
        _ => Err("it was closed".to_owned()),
    })
    .await;
    let (_second, _) = eventually("there is room for the second", async || match open().await {
        (stream, echoed) if echoed == b"hello" => Ok((stream, echoed)),
        _ => Err("it was closed".to_owned()),
    })
    .await;
    assert_eq!(open().await.1, b"", "a third is closed");
    drop(first);
    eventually("there is room again", async || match open().await.1.as_slice() {
        b"hello" => Ok(()),
        _ => Err("it was closed".to_owned()),
    })
    .await;
}
