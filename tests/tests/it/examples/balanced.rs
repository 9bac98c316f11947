//! The examples about who gets a request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Response;
use leno_tests::{Call, Origin, Proxy, eventually, full};

use super::{Copy, moved, port};

const URL: &str = "http://shop.example.com/";

/// An endpoint that answers with its name until it fails.
struct Endpoint {
    origin: Origin,
    fails: Arc<AtomicBool>,
}

impl Endpoint {
    async fn new(name: &'static str) -> Self {
        let fails = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&fails);
        let origin = Origin::answering(move |_| {
            let status = if flag.load(Ordering::Relaxed) { 503 } else { 200 };
            Response::builder().status(status).body(full(name)).unwrap()
        });
        Self { origin: origin.await, fails }
    }

    fn fail(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }
}

/// A copy of an example with three endpoints, which answer with their names.
async fn three(example: &str, [one, two, three]: [&'static str; 3]) -> (Copy, [Endpoint; 3], Proxy) {
    let endpoints = [Endpoint::new(one).await, Endpoint::new(two).await, Endpoint::new(three).await];
    let mut replacements = moved(example, &format!("/tmp/{example}"));
    for (endpoint, old) in endpoints.iter().zip(["http: 8081}", "http: 8082}", "http: 8083}"]) {
        replacements.push((old, format!("http: {}}}", port(&endpoint.origin))));
    }
    let copy = Copy::of(example, &replacements);
    let proxy = copy.proxy(copy.outbound.port()).await;
    (copy, endpoints, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sticky_sessions_keep_a_caller_at_its_endpoint() {
    let (copy, _endpoints, _proxy) = three("sticky-sessions", ["a", "b", "c"]).await;
    let mut reached = BTreeMap::new();
    for _ in 0..20 {
        let first = copy.curl("http://cart.example.com/", &[]).await;
        let cookie = first.header("set-cookie").to_owned();
        assert!(cookie.ends_with("; Max-Age=3600; Path=/; SameSite=Lax; HttpOnly"), "{cookie}");
        let pair = cookie.split(';').next().unwrap_or_default().to_owned();
        for _ in 0..3 {
            let again = copy.curl("http://cart.example.com/", &[("cookie", &pair)]).await;
            assert_eq!((again.text(), again.header("set-cookie")), (first.text(), ""), "{pair}");
        }
        *reached.entry(first.text()).or_insert(0) += 1;
    }
    assert!(reached.len() > 1, "each connection is a caller of its own: {reached:?}");
    let mut tenants = BTreeMap::new();
    for round in 0..3 {
        for tenant in 0..40 {
            let tenant = tenant.to_string();
            let answer = copy.curl("http://search.example.com/", &[("x-tenant", &tenant)]).await.text();
            let before = tenants.entry(tenant.clone()).or_insert_with(|| answer.clone());
            assert_eq!(*before, answer, "tenant {tenant} in round {round}");
        }
    }
    assert_eq!(tenants.values().collect::<std::collections::BTreeSet<_>>().len(), 3, "{tenants:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locality_calls_the_nearest_that_is_well_and_shares_as_written() {
    let (copy, endpoints, _proxy) = three("locality", ["east-1", "east-2", "west-1"]).await;
    for _ in 0..20 {
        assert_eq!(copy.curl(URL, &[]).await.text(), "east-1");
    }
    let mut counts = BTreeMap::new();
    for _ in 0..300 {
        *counts.entry(copy.curl("http://search.example.com/", &[]).await.text()).or_insert(0) += 1;
    }
    // 120, 120 and 60 of 300; five standard deviations are 43 and 35.
    let of = |name: &str| counts.get(name).copied().unwrap_or_default();
    assert!((77..=163).contains(&of("east-1")) && (77..=163).contains(&of("east-2")), "{counts:?}");
    assert!((25..=95).contains(&of("west-1")), "{counts:?}");
    for (failing, next) in endpoints.iter().zip(["east-2", "west-1"]) {
        failing.fail();
        eventually("the next nearest answers", async || {
            let reply = Call::get(URL).try_send(copy.outbound).await?;
            if reply.text() == next { Ok(()) } else { Err(format!("{} {}", reply.status, reply.text())) }
        })
        .await;
    }
}
