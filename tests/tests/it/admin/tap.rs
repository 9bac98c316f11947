//! Live traffic: what is shown, what is not, and that nobody waits for who looks.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use leno_tests::{Call, Connection, PATIENCE, Protocol, Speaks, eventually, mesh, origin, raw, sidecar};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::get;

/// One tap, read line by line.
struct Tap {
    body: Incoming,
    read: BytesMut,
    // The connection lives as long as its handle.
    _connection: Connection,
}

impl Tap {
    async fn open(admin: SocketAddr, query: &str) -> Self {
        let mut connection = Connection::open(admin, Protocol::Http1).await;
        let call = Call::get(&format!("http://localhost/tap?{query}"));
        let response = connection.begin(call).await.expect("a tap answers");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self { body: response.into_body(), read: BytesMut::new(), _connection: connection }
    }

    /// The next line; `None`: it has ended.
    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                return Some(serde_json::from_slice(&line).expect("a line is JSON"));
            }
            let frame = self.body.frame().await?.expect("the body does not break off");
            self.read.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }

    /// The same; fails the test when nothing comes.
    async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(PATIENCE, self.line()).await.expect("a line or the end comes in time")
    }

    /// Sends requests that it shows until it does: workers hear of a tap a moment after its reader.
    async fn is_open(&mut self, through: SocketAddr, url: &str) -> Value {
        eventually("the tap shows a request", async || {
            let _ = Call::get(url).try_send(through).await?;
            let line = tokio::time::timeout(Duration::from_millis(200), self.line()).await;
            line.ok().flatten().ok_or_else(|| "nothing yet".to_owned())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_shows_what_was_asked_for_and_no_secrets() {
    let app = origin("app").await;
    for workers in [1, 4] {
        let mesh = mesh().service("app", &[("v1", app.address())]).workers(workers).start().await;
        let admin = mesh.client.admin().await;
        let mut tap = Tap::open(admin, "path=/seen&headers=1&direction=outbound&authority=app&max=1000").await;
        tap.is_open(mesh.outbound(), "http://app/seen/first").await;
        let call = |path: &str| {
            Call::get(&format!("http://app{path}"))
                .header("authorization", "Bearer secret")
                .header("cookie", "a=secret")
                .header("x-request-id", "this-one")
                .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        };
        mesh.send(call("/unseen")).await;
        mesh.send(call("/seen/second?token=secret")).await;
        let line = loop {
            let line = tap.next().await.expect("a line");
            assert!(!line.to_string().contains("secret"), "{line:#}");
            if line["path"] != "/seen/first" {
                break line;
            }
        };
        for (field, expected) in [
            ("path", json!("/seen/second?[redacted]")),
            ("kind", json!("request")),
            ("direction", json!("outbound")),
            ("method", json!("GET")),
            ("authority", json!("app")),
            ("protocol", json!("HTTP/1.1")),
            ("status", json!(200)),
            ("flags", json!("-")),
            ("attempts", json!(1)),
            ("request_id", json!("this-one")),
            ("trace_id", json!("0af7651916cd43dd8448eb211c80319c")),
        ] {
            assert_eq!(line[field], expected, "{field} of {line:#}");
        }
        assert_eq!(line["request_headers"]["authorization"], "[redacted]");
        assert_eq!(line["source"]["workload"], "client");
        assert_eq!(line["destination"]["address"], app.address().to_string());
        assert!(line["cluster"].as_str().is_some_and(|cluster| cluster.contains("app")), "{line:#}");
        assert!(line["duration_ms"].as_f64().is_some_and(|millis| millis > 0.0), "{line:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_in_the_words_of_the_answer() {
    let app = origin("app").await;
    let services = mesh().service("app", &[("v1", app.address())]).service("empty", &[]);
    let mesh = services.start().await;
    let mut tap = Tap::open(mesh.client.admin().await, "status=5xx&flag=UH").await;
    mesh.get("http://app/").await;
    let line = tap.is_open(mesh.outbound(), "http://empty/").await;
    let reply = mesh.get("http://empty/").await;
    let (flag, sentence) = reply.header("x-leno-error").split_once("; ").expect("a sentence");
    assert_eq!((&line["flags"], &line["error"]), (&flag.into(), &sentence.into()), "{line:#}");
    assert_eq!((&line["status"], &line["authority"]), (&503.into(), &"empty".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_say_who_the_other_is() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).encrypted().start().await;
    let peer = mesh.peers.first().expect("the app has a sidecar");
    let mut inbound = Tap::open(peer.admin().await, "direction=inbound").await;
    let mut outbound = Tap::open(mesh.client.admin().await, "direction=outbound").await;
    let there = inbound.is_open(mesh.outbound(), "http://app/").await;
    let here = outbound.is_open(mesh.outbound(), "http://app/").await;
    let ends_with = |value: &Value, end: &str| value.as_str().is_some_and(|text| text.ends_with(end));
    for line in [&there, &here] {
        assert!(ends_with(&line["source"]["identity"], "/sa/client"), "{line:#}");
        assert!(ends_with(&line["destination"]["identity"], "/sa/app"), "{line:#}");
        assert_eq!(line["source"]["workload"], "client", "{line:#}");
        assert_eq!(line["destination"]["namespace"], "default", "{line:#}");
    }
    assert_eq!(there["destination"]["version"], "v1", "{there:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_harms_no_request_and_hears_what_it_missed() {
    const REQUESTS: u64 = 3_000;
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    let mut tap = Tap::open(mesh.client.admin().await, "headers=1&rate=10000&duration=10m").await;
    tap.is_open(mesh.outbound(), "http://app/first").await;
    let mut caller = Connection::open(mesh.outbound(), Protocol::Http1).await;
    // More than all buffers between the proxy and this test hold.
    let large = "x".repeat(8_000);
    for _ in 0..REQUESTS {
        let reply = caller.send(Call::get("http://app/").header("x-large", &large)).await;
        assert_eq!(reply.status, 200);
    }
    let (mut told, mut dropped) = (0, 0);
    while told + dropped < REQUESTS {
        let line = tap.next().await.expect("it has not ended");
        match line["dropped"].as_u64() {
            Some(count) => dropped += count,
            None => told += u64::from(line["path"] == "/"),
        }
    }
    assert_eq!(told + dropped, REQUESTS, "each is told or counted, once");
    assert!(dropped > 0 && told > 0, "{told} told, {dropped} dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_too_fast_is_counted() {
    const REQUESTS: u64 = 20;
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    let mut tap = Tap::open(mesh.client.admin().await, "path=/fast&rate=1").await;
    tap.is_open(mesh.outbound(), "http://app/fast/first").await;
    for _ in 0..REQUESTS {
        assert_eq!(mesh.get("http://app/fast").await.status, 200);
    }
    eventually("all are told or counted, and some are counted", async || {
        let line = tap.next().await.ok_or("it has ended")?;
        line["dropped"].as_u64().map(|_| ()).ok_or_else(|| line.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_ends_in_time_and_few_are_open_at_once() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    let admin = mesh.client.admin().await;
    let mut one = Tap::open(admin, "max=1").await;
    one.is_open(mesh.outbound(), "http://app/").await;
    assert_eq!(one.next().await, None, "one was asked for");
    let mut short = Tap::open(admin, "duration=50ms&path=/never").await;
    assert_eq!(short.next().await, None, "its time is over");

    eventually("those before have made room for four", async || {
        let mut open = Vec::new();
        for _ in 0..4 {
            let mut connection = Connection::open(admin, Protocol::Http1).await;
            let response = connection.begin(Call::get("http://localhost/tap")).await?;
            if response.status() != 200 {
                return Err(format!("{}: those before are still there", response.status()));
            }
            // A tap ends with whichever is dropped first.
            open.push((connection, response));
        }
        let reply = get(admin, "/tap").await;
        assert_eq!(reply.status, 429, "{}", reply.text());
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_connections_are_shown_when_they_end() {
    let app = raw::Server::echo().await;
    let sidecar = sidecar(app.address(), "").speaks(Speaks::Tcp).start().await;
    let mut tap = Tap::open(sidecar.proxy.admin().await, "direction=inbound").await;
    let line = eventually("the tap shows a connection", async || {
        let mut stream = raw::connect(sidecar.address()).await;
        stream.write_all(b"hello").await.map_err(|error| error.to_string())?;
        stream.shutdown().await.map_err(|error| error.to_string())?;
        let mut echoed = Vec::new();
        stream.read_to_end(&mut echoed).await.map_err(|error| error.to_string())?;
        let line = tokio::time::timeout(Duration::from_millis(200), tap.line()).await;
        line.ok().flatten().ok_or_else(|| "nothing yet".to_owned())
    })
    .await;
    assert_eq!(
        (&line["kind"], &line["direction"], &line["flags"]),
        (&"connection".into(), &"inbound".into(), &"-".into())
    );
    assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&5.into(), &5.into()), "{line:#}");
    assert_eq!(line["destination"]["workload"], "shop");
    assert_eq!(line.get("method"), None);
}
