//! SIGTERM: what is under way ends well, nothing new is kept waiting.

use std::collections::HashSet;

use leno_tests::{Call, Connection, Protocol, eventually, mesh, slow_app};
use tokio::sync::{mpsc, watch};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_requests_end_and_exits_with_0() {
    for (workers, protocol) in [(1, Protocol::Http1), (1, Protocol::Http2), (4, Protocol::Http1), (4, Protocol::Http2)]
    {
        let (finish, done) = watch::channel(false);
        let (app, mut starts) = slow_app(done).await;
        let patient = mesh().workers(workers).drain("10m");
        let mut mesh = patient.service("app", &[("v1", app.address())]).start().await;
        let through = mesh.outbound();
        let mut idle = Connection::open(through, protocol).await;
        assert_eq!(idle.send(Call::get("http://app/")).await.status, 200);
        let slow = tokio::spawn(async move { Call::get("http://app/slow").over(protocol).try_send(through).await });
        starts.recv().await.expect("the slow request reaches the app");

        mesh.client.process.terminate();
        eventually("the proxy says that it is not ready", async || match mesh.client.readiness().await {
            Ok(503) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        eventually("the idle connection is ended", async || {
            // An HTTP/1.1 connection ends with its next answer, or at once.
            if idle.is_open() && protocol == Protocol::Http1 {
                let _ = idle.try_send(Call::get("http://app/")).await;
            }
            if idle.is_open() { Err("it is open".to_owned()) } else { Ok(()) }
        })
        .await;
        mesh.client.process.must_be_running();
        finish.send(true).expect("the app is there");
        let reply = slow.await.expect("the caller does not panic").expect("the slow request ends");
        assert_eq!((reply.status, reply.text().as_str()), (200, "begin end"), "{workers} workers, {protocol:?}");
        let (status, _) = mesh.client.process.ended().await;
        assert!(status.success(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_no_longer_than_it_was_told() {
    let (_never, done) = watch::channel(false);
    let (app, mut starts) = slow_app(done).await;
    let mut mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    let through = mesh.outbound();
    let slow = tokio::spawn(async move { Call::get("http://app/slow").try_send(through).await });
    starts.recv().await.expect("the slow request reaches the app");
    mesh.client.process.terminate();
    let (status, took) = mesh.client.process.ended().await;
    assert!(status.success(), "{status}");
    // The harness says `drain: 5s`; how much longer it takes is a matter of the machine.
    assert!(took.as_secs() >= 4, "it took {took:?}");
    assert!(mesh.client.process.log().contains("the drain time is over"), "{}", mesh.client.process.log());
    assert!(slow.await.expect("the caller does not panic").is_err(), "an answer that never ended is not a whole one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_proxy_has_nothing_to_wait_for() {
    let app = leno_tests::origin("app").await;
    let mut mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    assert_eq!(mesh.get("http://app/").await.status, 200);
    mesh.client.process.terminate();
    let (status, _) = mesh.client.process.ended().await;
    assert!(status.success(), "{status}");
    assert!(!mesh.client.process.log().contains("the drain time is over"), "{}", mesh.client.process.log());
}

const CALLERS: usize = 16;

/// An HTTP/1.1 connection that is closed between two requests loses the one that has just been sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_keeps_asking_hears_of_a_drain_and_loses_nothing() {
    let app = leno_tests::origin("app").await;
    for workers in [1, 4] {
        let mut mesh = mesh().service("app", &[("v1", app.address())]).workers(workers).start().await;
        let through = mesh.outbound();
        let (asked, mut asks) = mpsc::channel(CALLERS);
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| {
                let asked = asked.clone();
                tokio::spawn(async move {
                    let mut connection = Connection::open(through, Protocol::Http1).await;
                    loop {
                        let reply = connection.send(Call::get("http://app/")).await;
                        assert_eq!(reply.status, 200);
                        // More than can be counted need not be.
                        let _ = asked.try_send(number);
                        if reply.header("connection") == "close" {
                            return;
                        }
                    }
                })
            })
            .collect();
        let mut answered = HashSet::new();
        while answered.len() < CALLERS {
            answered.insert(asks.recv().await.expect("the callers are there"));
        }
        mesh.client.process.terminate();
        for caller in callers {
            caller.await.expect("each request is answered");
        }
        let (status, _) = mesh.client.process.ended().await;
        assert!(status.success(), "{status}");
    }
}
