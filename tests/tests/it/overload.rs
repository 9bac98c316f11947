//! What is more than the process takes on is told so at once, and what it has taken on goes on.

use std::time::Duration;

use http::Response;
use leno_tests::{Call, Origin, Protocol, Reply, Sidecar, eventually, full, metric, sidecar};
use serde_json::json;
use tokio::sync::watch;

/// An app that answers when it is told to.
async fn gated() -> (Origin, watch::Sender<bool>) {
    let (open, opened) = watch::channel(false);
    let app = Origin::scripted(move |_| {
        let mut opened = opened.clone();
        async move {
            let _ = opened.wait_for(|open| *open).await;
            Response::new(full("app"))
        }
    })
    .await;
    (app, open)
}

async fn shed(shop: &Sidecar, limit: &str) -> f64 {
    metric(&shop.proxy.metrics().await, "leno_shed_total", &[&format!("limit=\"{limit}\"")])
}

fn is_told(reply: &Reply) {
    assert_eq!((reply.status, reply.flag()), (503, "OM"), "{}", reply.text());
    assert_eq!((reply.header("retry-after"), reply.header("x-envoy-overloaded")), ("1", "true"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_above_the_limit_are_refused_while_the_others_wait() {
    for workers in [1, 4] {
        let (app, open) = gated().await;
        let shop =
            sidecar(app.address(), "").workers(workers).bootstrap("limits", json!({"requests": 5})).start().await;
        let through = shop.address();
        let waiting: Vec<_> =
            (0..5).map(|_| tokio::spawn(async move { Call::get("http://shop/").send(through).await })).collect();
        eventually(
            "five requests are under way",
            async || {
                if app.count() == 5 { Ok(()) } else { Err(app.count().to_string()) }
            },
        )
        .await;
        for protocol in Protocol::ALL {
            for _ in 0..10 {
                is_told(&Call::get("http://shop/").over(protocol).send(through).await);
            }
        }
        let grpc = Call::new(http::Method::POST, "http://shop/a.B/C").over(Protocol::Http2);
        let reply = grpc.header("content-type", "application/grpc").send(through).await;
        assert_eq!((reply.status, reply.header("grpc-status"), reply.flag()), (200, "14", "OM"));
        assert_eq!(shed(&shop, "requests").await, 21.0);
        open.send_replace(true);
        for call in waiting {
            assert_eq!(call.await.unwrap().text(), "app");
        }
        assert_eq!(Call::get("http://shop/").send(through).await.text(), "app", "there is room again");
        assert_eq!(app.count(), 6);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_above_the_limit_are_told_and_those_above_these_closed() {
    for workers in [1, 4] {
        let (app, open) = gated().await;
        open.send_replace(true);
        let limits = json!({"connections": 4});
        let shop = sidecar(app.address(), "").workers(workers).bootstrap("limits", limits).start().await;
        let through = shop.address();
        let mut kept = Vec::new();
        for _ in 0..4 {
            let mut connection = leno_tests::Connection::open(through, Protocol::Http1).await;
            assert_eq!(connection.send(Call::get("http://shop/")).await.text(), "app");
            kept.push(connection);
        }
        let reply = Call::get("http://shop/").send(through).await;
        is_told(&reply);
        assert_eq!(reply.header("connection"), "close");
        // Eight more may come to be told; the next ones find a closed door.
        let mut surplus = Vec::new();
        for _ in 0..20 {
            surplus.push(leno_tests::raw::connect(through).await);
        }
        eventually("some are closed without a word", async || {
            let mut closed = 0;
            for connection in &surplus {
                let mut byte = [0];
                closed += u32::from(matches!(connection.try_read(&mut byte), Ok(0)));
            }
            if closed >= 11 { Ok(()) } else { Err(closed.to_string()) }
        })
        .await;
        for connection in &mut kept {
            assert_eq!(connection.send(Call::get("http://shop/")).await.text(), "app", "who is in stays in");
        }
        drop((kept, surplus));
        eventually("there is room again", async || {
            let reply = Call::get("http://shop/").try_send(through).await?;
            if reply.status == 200 { Ok(()) } else { Err(reply.text()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_gets_no_more_at_once_than_it_was_seen_to_work_on() {
    let app = Origin::scripted(|request| {
        let is_slow = request.uri().path() == "/slow";
        async move {
            tokio::time::sleep(Duration::from_millis(if is_slow { 1000 } else { 5 })).await;
            Response::new(full("app"))
        }
    })
    .await;
    let limits = json!({"adaptive_concurrency": true});
    let shop = sidecar(app.address(), "").workers(2).bootstrap("limits", limits).start().await;
    let through = shop.address();
    // It learns with three at a time: of forty at once, most are refused.
    let calls: Vec<_> =
        (0..40).map(|_| tokio::spawn(async move { Call::get("http://shop/slow").send(through).await })).collect();
    let (mut answered, mut refused) = (0, 0);
    for call in calls {
        let reply = call.await.unwrap();
        match reply.status {
            200 => answered += 1,
            _ => {
                is_told(&reply);
                refused += 1;
            }
        }
    }
    assert!(answered >= 3 && refused >= 1, "{answered} answered, {refused} refused");
    assert_eq!(shed(&shop, "adaptive_concurrency").await, f64::from(refused));
    eventually("the limit grows when nobody waits", async || {
        for _ in 0..20 {
            Call::get("http://shop/").try_send(through).await?;
        }
        let limit = metric(&shop.proxy.metrics().await, "leno_concurrency_limit", &[]);
        if limit > 3.0 { Ok(()) } else { Err(limit.to_string()) }
    })
    .await;
}
