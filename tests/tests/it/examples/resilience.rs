//! The examples of what happens when things break, or are broken on purpose.

use std::time::{Duration, Instant};

use leno_tests::{Call, eventually, free_port, full, metric, origin};

use super::{Copy, moved, port};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_injection_slows_and_fails_the_requests_of_testers_only() {
    let app = origin("shop").await;
    let mut replacements = moved("fault-injection", "/tmp/fault-injection");
    replacements.push(("http: 8081}", format!("http: {}}}", port(&app))));
    let copy = Copy::of("fault-injection", &replacements);
    let proxy = copy.proxy(copy.outbound.port()).await;
    let url = "http://shop.example.com/";
    assert_eq!(copy.curl(url, &[]).await.text(), "shop");
    let rows = [("slow", 200, "shop", "", true), ("down", 503, "fault filter abort", "FI", false)];
    let both = [("worst", 200, "fault filter abort", "DI,FI", true)];
    for (test, status, body, flag, is_slow) in rows.into_iter().chain(both) {
        let asked = Instant::now();
        let reply = copy.curl(url, &[("x-test", test)]).await;
        assert_eq!((reply.status, reply.text().as_str(), reply.flag()), (status, body, flag), "{test}");
        assert!(!is_slow || asked.elapsed() >= Duration::from_millis(700), "{test}: {:?}", asked.elapsed());
    }
    let mut failed = 0;
    for _ in 0..200 {
        failed += u32::from(copy.curl(url, &[("x-test", "flaky")]).await.status == 500);
    }
    // 20 % of 200, give or take four standard deviations.
    assert!((17..=63).contains(&failed), "{failed} of 200 requests failed");
    let metrics = proxy.metrics().await;
    assert_eq!(metric(&metrics, "leno_faults_total", &["kind=\"delay\""]), 2.0, "{metrics}");
    assert_eq!(metric(&metrics, "http_requests_total", &["response_flags=\"DI\""]), 1.0, "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirroring_shows_the_new_version_everything_but_orders() {
    let (old, new) = (origin("v1").await, origin("v2").await);
    let mut replacements = moved("mirroring", "/tmp/mirroring");
    replacements.extend([
        ("http: 8081}", format!("http: {}}}", port(&old))),
        ("http: 8082}", format!("http: {}}}", port(&new))),
    ]);
    let copy = Copy::of("mirroring", &replacements);
    let proxy = copy.proxy(copy.outbound.port()).await;
    for _ in 0..20 {
        assert_eq!(copy.curl("http://shop.example.com/books", &[]).await.text(), "v1");
    }
    let order = Call::new(http::Method::POST, "http://shop.example.com/orders").body(full("one book"));
    assert_eq!(order.send(copy.outbound).await.text(), "v1");
    eventually("the copies are answered", async || {
        let answered = metric(&proxy.metrics().await, "leno_mirrors_total", &["outcome=\"answered\""]);
        if answered == 20.0 { Ok(()) } else { Err(answered.to_string()) }
    })
    .await;
    assert_eq!((old.count(), new.count()), (21, 20));
    assert_eq!((new.last().path.as_str(), new.last().host.as_str()), ("/books", "shop.example.com-shadow"));
    drop(new);
    for _ in 0..20 {
        assert_eq!(copy.curl("http://shop.example.com/books", &[]).await.text(), "v1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limit_counts_searches_by_key_and_orders_together() {
    let app = origin("shop").await;
    let inbound = free_port();
    let mut replacements = moved("rate-limit", "/tmp/rate-limit");
    replacements
        .extend([("127.0.0.1:8081", app.address().to_string()), ("number: 9081", format!("number: {inbound}"))]);
    let copy = Copy::of("rate-limit", &replacements);
    // The example has a Sidecar of its own.
    std::fs::remove_file(copy.path("rules/test.yaml")).unwrap();
    let free =
        format!("  egress:\n  - port: {{number: {}, protocol: HTTP, name: http}}\n    bind: 127.0.0.1\n", free_port());
    copy.edit("rules/shop.yaml", "  egress:\n  - hosts", &(free + "    hosts"));
    let _proxy = copy.proxy(inbound).await;
    let through = ([127, 0, 0, 1], inbound).into();
    for key in ["anna", "jason"] {
        for asked in 0..20 {
            let reply = Call::get("http://shop/search?q=1").header("x-api-key", key).send(through).await;
            let left = 14_i32.saturating_sub(asked).max(0).to_string();
            let expected = if asked < 15 { (200, "") } else { (429, "RL") };
            assert_eq!((reply.status, reply.flag()), expected, "{key}: {asked}");
            assert_eq!((reply.header("x-ratelimit-limit"), reply.header("x-ratelimit-remaining")), ("15", &*left));
        }
    }
    let order = async || Call::new(http::Method::POST, "http://shop/orders").send(through).await;
    for status in [200, 200, 200, 429] {
        assert_eq!(order().await.status, status);
    }
    let other = Call::get("http://shop/orders").send(through).await;
    assert_eq!((other.status, other.header("x-ratelimit-limit")), (200, ""), "no limit is about it");
}
