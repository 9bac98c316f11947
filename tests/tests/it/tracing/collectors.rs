//! Collectors that are away, slow or full: no request notices, and what is lost is counted.

use std::time::Duration;

use http::StatusCode;
use leno_tests::otlp::collector;
use leno_tests::{Call, Connection, Mesh, Protocol, eventually, eventually_within, free_port, metric, origin};

use super::traced;

async fn dropped(mesh: &Mesh, reason: &str) -> f64 {
    let labels = format!("reason=\"{reason}\"");
    metric(&mesh.client.metrics().await, "leno_spans_dropped_total", &[&labels])
}

#[tokio::test]
async fn without_a_collector_requests_are_served_and_spans_counted_as_lost() {
    let app = origin("v1").await;
    let nobody = ([127, 0, 0, 1], free_port()).into();
    let mesh = traced(&app, nobody, "grpc", 100.0).await;
    for _ in 0..10 {
        assert_eq!(mesh.get("http://shop/").await.status, 200);
    }
    eventually("20 spans of 10 requests are lost", async || {
        let lost = dropped(&mesh, "export_failed").await;
        if lost >= 20.0 { Ok(()) } else { Err(format!("{lost}")) }
    })
    .await;
    assert_eq!(mesh.get("http://shop/").await.status, 200);
}

#[tokio::test]
async fn a_collector_that_does_not_want_them_is_not_asked_again_and_one_that_is_busy_is() {
    let (app, collector) = (origin("v1").await, collector().await);
    let mesh = traced(&app, collector.address(), "http", 100.0).await;
    collector.refuse(Some(StatusCode::BAD_REQUEST));
    mesh.answers("http://shop/refused", "v1").await;
    eventually("the spans are counted as rejected", async || {
        let lost = dropped(&mesh, "rejected").await;
        if lost >= 2.0 { Ok(()) } else { Err(format!("{lost}")) }
    })
    .await;
    collector.refuse(Some(StatusCode::SERVICE_UNAVAILABLE));
    mesh.answers("http://shop/busy", "v1").await;
    collector.refuse(None);
    collector.find("what came when it was busy", 2, |span| span.says("url.path") == "/busy").await;
    assert!(collector.spans().iter().all(|span| span.says("url.path") != "/refused"));
}

#[tokio::test]
async fn a_slow_collector_costs_spans_and_no_request() {
    let (app, collector) = (origin("v1").await, collector().await);
    let mesh = traced(&app, collector.address(), "grpc", 100.0).await;
    mesh.answers("http://shop/", "v1").await;
    collector.hold();
    let mut connection = Connection::open(mesh.outbound(), Protocol::Http1).await;
    // A queue of 2048 requests and a batch: then there is no room.
    eventually_within(Duration::from_secs(120), "the queue is full", async || {
        for _ in 0..250 {
            let reply = connection.send(Call::get("http://shop/")).await;
            assert_eq!(reply.status, 200);
        }
        let lost = dropped(&mesh, "queue_full").await;
        if lost > 0.0 { Ok(()) } else { Err("none is lost yet".to_owned()) }
    })
    .await;
    collector.release();
    assert_eq!(connection.send(Call::get("http://shop/after")).await.status, 200);
    eventually("what fitted the queue arrives", async || {
        let exported = metric(&mesh.client.metrics().await, "leno_spans_exported_total", &[]);
        if exported > 1000.0 { Ok(()) } else { Err(format!("{exported}")) }
    })
    .await;
}

#[tokio::test]
async fn the_last_spans_are_sent_before_a_proxy_leaves() {
    let (app, collector) = (origin("v1").await, collector().await);
    let mesh = traced(&app, collector.address(), "grpc", 100.0).await;
    mesh.answers("http://shop/last", "v1").await;
    mesh.client.process.terminate();
    collector.find("the last request", 2, |span| span.says("url.path") == "/last").await;
}
