//! Copies of requests: what they say, how many there are, and that nothing of them ever shows.

use std::net::SocketAddr;

use http::Method;
use leno_tests::{Call, Mesh, Origin, Protocol, eventually, free_port, full, mesh, metric, origin, raw};
use tokio::io::AsyncReadExt as _;

/// All requests for `app` go there, with these mirrors, and their path changes on the way.
fn rules(mirrors: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app}}
spec:
  hosts: [app]
  http:
  - match: [{{uri: {{prefix: /old}}}}]
    rewrite: {{uri: /new}}
    headers: {{request: {{set: {{x-rule: applied}}}}}}
    route: [{{destination: {{host: app}}}}]
    {mirrors}
"
    )
}

async fn outcome(mesh: &Mesh, outcome: &str) -> f64 {
    metric(&mesh.client.metrics().await, "leno_mirrors_total", &[&format!("outcome=\"{outcome}\"")])
}

async fn comes_to(mesh: &Mesh, what: &str, count: f64) {
    eventually(&format!("{count} copies are {what}"), async || {
        let found = outcome(mesh, what).await;
        if found == count { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_what_the_endpoint_gets_with_another_host() {
    for workers in [1, 4] {
        let (app, first, second) = (origin("app").await, origin("first").await, origin("second").await);
        let mesh = mesh()
            .workers(workers)
            .service("app", &[("v1", app.address())])
            .service("first", &[("v1", first.address())])
            .service("second", &[("v1", second.address())])
            .rules(&rules("mirrors: [{destination: {host: first}}, {destination: {host: second}}]"))
            .start()
            .await;
        let mut sent = 0.0;
        for protocol in Protocol::ALL {
            for length in [0, 5, 100_000] {
                let body = "b".repeat(length);
                let call = Call::new(Method::PUT, "http://app/old/x?q=1").header("x-own", "1").over(protocol);
                let reply = mesh.send(call.body(full(body.clone()))).await;
                assert_eq!((reply.status, reply.text().as_str()), (200, "app"), "{protocol:?}");
                sent += 2.0;
                comes_to(&mesh, "answered", sent).await;
                let real = app.last();
                for copy in [first.last(), second.last()] {
                    let seen = (copy.path.as_str(), copy.host.as_str(), copy.header("x-rule"), copy.header("x-own"));
                    assert_eq!(seen, ("/new/x?q=1", "app-shadow", "applied", "1"), "{protocol:?}");
                    assert_eq!((copy.version, &copy.method), (real.version, &Method::PUT));
                    assert!(copy.body == body, "{} of {length} bytes", copy.body.len());
                }
                assert_eq!(real.host, "app");
            }
        }
        assert_eq!((app.count(), first.count(), second.count()), (6, 6, 6));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_the_requests_is_copied() {
    // Share in per cent; copies of 400 requests, within four standard deviations.
    for (share, expected) in [("percentage: {value: 0}", 0..=0), ("percentage: {value: 25}", 66..=134)] {
        let (app, copy) = (origin("app").await, origin("copy").await);
        let mesh = mesh()
            .service("app", &[("v1", app.address())])
            .service("copy", &[("v1", copy.address())])
            .rules(&rules(&format!("mirrors: [{{destination: {{host: copy}}, {share}}}]")))
            .start()
            .await;
        for _ in 0..400 {
            assert_eq!(mesh.get("http://app/old").await.text(), "app");
        }
        eventually("every copy has come to an end", async || {
            let answered = outcome(&mesh, "answered").await;
            if answered == copy.count() as f64 { Ok(()) } else { Err(answered.to_string()) }
        })
        .await;
        assert!(expected.contains(&copy.count()), "{} of 400 requests, {share}", copy.count());
    }
}

/// Accepts, reads a little and then nothing more.
async fn stalled() -> raw::Server {
    raw::Server::start(|mut stream| async move {
        let mut some = [0; 1024];
        let _ = stream.read(&mut some).await;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_hangs_or_is_down_or_stalls_or_closes_changes_nothing() {
    for workers in [1, 4] {
        let app = origin("app").await;
        let (silent, closing, stalled) = (raw::Server::silent().await, raw::Server::closing().await, stalled().await);
        let down: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let mesh = mesh()
            .workers(workers)
            .service("app", &[("v1", app.address())])
            .service("silent", &[("v1", silent.address())])
            .service("closing", &[("v1", closing.address())])
            .service("stalled", &[("v1", stalled.address())])
            .service("down", &[("v1", down)])
            .service("nobody", &[])
            .rules(&rules(
                "mirrors: [{destination: {host: silent}}, {destination: {host: closing}}, \
                 {destination: {host: stalled}}, {destination: {host: down}}, {destination: {host: nobody}}]",
            ))
            .start()
            .await;
        for protocol in Protocol::ALL {
            for length in [0, 1000, 16 << 20] {
                let call = Call::new(Method::POST, "http://app/old").over(protocol);
                let reply = mesh.send(call.body(full("b".repeat(length)))).await;
                assert_eq!((reply.status, reply.text().as_str(), reply.flag()), (200, "app", ""), "{length}");
                assert_eq!(app.last().body.len(), length, "{protocol:?}");
            }
        }
        // Down, closing and nobody fail; of those that hang, the ones that do not read lag behind 16 MiB.
        eventually("what cannot be sent has failed or is given up", async || {
            let (failed, given_up) = (outcome(&mesh, "failed").await, outcome(&mesh, "given_up").await);
            if failed + given_up >= 19.0 && given_up >= 1.0 { Ok(()) } else { Err(format!("{failed} {given_up}")) }
        })
        .await;
        assert_eq!(outcome(&mesh, "answered").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_stay_within_the_limits_of_their_cluster() {
    let app = origin("app").await;
    let silent = Origin::scripted(|_| std::future::pending()).await;
    let limit = "
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: limit}
spec:
  host: silent
  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 3}}}
";
    let mesh = mesh()
        .service("app", &[("v1", app.address())])
        .service("silent", &[("v1", silent.address())])
        .rules(&(rules("mirrors: [{destination: {host: silent}}]") + limit))
        .start()
        .await;
    for _ in 0..20 {
        assert_eq!(mesh.get("http://app/old").await.text(), "app");
    }
    // Three hang; the others are refused at once.
    comes_to(&mesh, "failed", 17.0).await;
    eventually("the silent one has three", async || match silent.count() {
        3 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
}
