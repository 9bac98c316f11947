//! Rate limits: exactly as many as the rule says, whoever serves them and whatever else is pushed.

use leno_tests::{Call, Protocol, Sidecar, eventually, metric, origin, sidecar};

/// 10 an hour and 5 at once, for all or by a header.
fn limit(by: &str) -> String {
    format!(
        "
apiVersion: leno.mesh/v1alpha1
kind: RateLimit
metadata: {{name: shop}}
spec: {{selector: {{matchLabels: {{app: shop}}}}, limits: [{{requests: 10, per: 1h, burst: 5{by}}}]}}
"
    )
}

/// How many of `count` requests, each on a connection of its own and all at once, are answered with which status.
async fn ask(shop: &Sidecar, count: usize, key: &str) -> (usize, usize) {
    let call = || Call::get("http://shop/").header("x-key", key).send(shop.address());
    let calls: Vec<_> = (0..count).map(|_| tokio::spawn(call())).collect();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.unwrap().status);
    }
    let with = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!(with(200) + with(429), count, "{statuses:?}");
    (with(200), with(429))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_workers_together_let_in_as_many_as_the_limit_says() {
    for workers in [1, 4] {
        let app = origin("shop").await;
        let shop = sidecar(app.address(), &limit("")).workers(workers).start().await;
        assert_eq!(ask(&shop, 100, "a").await, (15, 85), "{workers} workers");
        assert_eq!(app.count(), 15);
        let metrics = shop.proxy.metrics().await;
        assert_eq!(metric(&metrics, "leno_rate_limited_total", &[]), 85.0, "{metrics}");
        assert_eq!(metric(&metrics, "http_requests_total", &["response_flags=\"RL\""]), 85.0, "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_value_of_a_header_has_a_limit_of_its_own() {
    let app = origin("shop").await;
    let shop = sidecar(app.address(), &limit(", by: {header: x-key}")).workers(4).start().await;
    for key in ["anna", "jason", "mary"] {
        assert_eq!(ask(&shop, 40, key).await, (15, 25), "{key}");
    }
    for _ in 0..20 {
        assert_eq!(Call::get("http://shop/").send(shop.address()).await.status, 200, "without the header");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_when_to_come_back_in_the_callers_words() {
    let app = origin("shop").await;
    let shop = sidecar(app.address(), &limit("")).start().await;
    ask(&shop, 15, "a").await;
    for protocol in Protocol::ALL {
        let reply = Call::get("http://shop/").over(protocol).send(shop.address()).await;
        assert_eq!((reply.status, reply.text().as_str(), reply.flag()), (429, "local_rate_limited", "RL"));
        let left = (reply.header("x-ratelimit-limit"), reply.header("x-ratelimit-remaining"));
        assert_eq!(left, ("15", "0"), "{protocol:?}");
        let wait: u64 = reply.header("retry-after").parse().unwrap();
        assert!((1..=360).contains(&wait) && reply.header("x-ratelimit-reset") == wait.to_string(), "{wait}");
    }
    let call = Call::new(http::Method::POST, "http://shop/a.B/C").over(Protocol::Http2);
    let reply = call.header("content-type", "application/grpc").send(shop.address()).await;
    assert_eq!((reply.status, reply.header("grpc-status"), reply.flag()), (200, "8", "RL"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_survives_a_push_that_does_not_change_the_limit() {
    let app = origin("shop").await;
    let shop = sidecar(app.address(), &limit("")).workers(4).start().await;
    assert_eq!(ask(&shop, 20, "a").await, (15, 5));
    let policy = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/secret]}}]}]}
";
    shop.edit(&(limit("") + policy));
    eventually("the policy is in force", async || {
        let reply = Call::get("http://shop/secret").try_send(shop.address()).await?;
        if reply.status == 403 { Ok(()) } else { Err(reply.status.to_string()) }
    })
    .await;
    assert_eq!(ask(&shop, 5, "a").await, (0, 5), "nothing came back");
    shop.edit(&(limit("").replace("burst: 5", "burst: 6") + policy));
    eventually("a limit that says something else begins anew", async || {
        let reply = Call::get("http://shop/").try_send(shop.address()).await?;
        if reply.status == 200 { Ok(()) } else { Err(reply.status.to_string()) }
    })
    .await;
}
