//! The example about bad endpoints and too many requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use http::Response;
use leno_tests::{Call, Origin, Proxy, Reply, eventually, full};

use super::{Copy, moved, port};

/// An app that answers `/healthz` and all else with the status in its second part.
async fn app(name: &'static str) -> (Origin, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let own = Arc::clone(&status);
    let answer = move |_: &_| Response::builder().status(own.load(Ordering::SeqCst)).body(full(name)).unwrap();
    (Origin::answering(answer).await, status)
}

async fn until_clusters_say(proxy: &Proxy, line: &str) {
    eventually("the state is shown", async || {
        let clusters = proxy.clusters().await;
        clusters.lines().any(|one| one == line).then_some(()).ok_or(clusters)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circuit_breaking_leaves_a_bad_endpoint_out_and_refuses_what_is_too_much() {
    let apps = [app("a").await, app("b").await, app("c").await];
    let mut replacements = moved("circuit-breaking", "/tmp/circuit-breaking");
    for ((origin, _), old) in apps.iter().zip(["http: 8081}", "http: 8082}", "http: 8083}"]) {
        replacements.push((old, format!("http: {}}}", port(origin))));
    }
    let copy = Copy::of("circuit-breaking", &replacements);
    let proxy = copy.proxy(copy.outbound.port()).await;
    let bad = apps[2].0.address();
    let shop = format!("outbound|80||shop.example.com::{bad}");
    let search = format!("outbound|80||search.example.com::{bad}");

    until_clusters_say(&proxy, &format!("{search}::health_flags::healthy")).await;
    apps[2].1.store(500, Ordering::SeqCst);
    until_clusters_say(&proxy, &format!("{search}::health_flags::/failed_active_hc")).await;
    for _ in 0..30 {
        assert_eq!(copy.curl("http://search.example.com/", &[]).await.status, 200);
    }

    eventually("three failures are enough", async || {
        let failed = copy.curl("http://shop.example.com/", &[]).await.status == 500;
        let is_out = proxy.clusters().await.contains(&format!("{shop}::ejections::1\n"));
        is_out.then_some(()).ok_or_else(|| format!("failed: {failed}"))
    })
    .await;
    apps[2].1.store(200, Ordering::SeqCst);
    eventually("it is back", async || {
        let text = copy.curl("http://shop.example.com/", &[]).await.text();
        (text == "c").then_some(()).ok_or(text)
    })
    .await;
    until_clusters_say(&proxy, &format!("{shop}::breaker::closed")).await;
    until_clusters_say(&proxy, &format!("{search}::health_flags::healthy")).await;
    refuses_what_is_too_much(&copy).await;
}

/// 21 requests whose bodies do not end: one is over the limit.
async fn refuses_what_is_too_much(copy: &Copy) {
    let mut bodies = Vec::new();
    let mut replies = tokio::task::JoinSet::new();
    for _ in 0..21 {
        let (sender, body) = leno_tests::stream();
        bodies.push(sender);
        let call = Call::new(http::Method::POST, "http://shop.example.com/").body(body);
        replies.spawn(call.send(copy.outbound));
    }
    let refused: Reply = replies.join_next().await.unwrap().unwrap();
    assert_eq!((refused.status, refused.flag(), refused.header("x-envoy-overloaded")), (503, "UO", "true"));
    drop(bodies);
    while let Some(reply) = replies.join_next().await {
        assert_eq!(reply.unwrap().status, 200);
    }
}
