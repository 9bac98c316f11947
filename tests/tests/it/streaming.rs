//! Bodies of any size flow through a little memory, and a reader that stalls holds up nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use leno_tests::{Body, Call, Connection, Origin, Protocol, eventually, full, mesh, stream};

const GIB: u64 = 1 << 30;
const PIECE: usize = 64 << 10;

/// What the sidecar may hold more at its peak than before: windows, buffers and what the allocator keeps.
const ALLOWED_GROWTH: u64 = 32 << 20;

/// A body of so many zeros.
fn zeros(total: u64) -> Body {
    let (frames, body) = stream();
    tokio::spawn(async move {
        let piece = Bytes::from(vec![0; PIECE]);
        let mut left = total;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            if frames.send(Ok(Frame::data(piece.slice(..length)))).await.is_err() {
                return;
            }
            left -= length as u64;
        }
    });
    body
}

async fn length(mut body: Incoming) -> Result<u64, String> {
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame
            .map_err(|error| format!("after {total} bytes: {error}"))?
            .data_ref()
            .map_or(0, |data| data.len() as u64);
    }
    Ok(total)
}

/// `GET /N` is answered with N zeros, `POST` with the length of its body.
async fn app() -> Origin {
    Origin::scripted(|request: Request<Incoming>| async move {
        let body = match request.uri().path().trim_start_matches('/').parse() {
            Ok(total) => zeros(total),
            Err(_) => full(length(request.into_body()).await.map_or_else(|error| error, |total| total.to_string())),
        };
        http::Response::new(body)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_each_way_takes_a_few_mebibytes() {
    let app = app().await;
    let instances = [("v1", app.address())];
    for (workers, protocol, url) in [
        (1, Protocol::Http1, "http://one"),
        (1, Protocol::Http2, "http://two:81"),
        (4, Protocol::Http1, "http://two:81"),
        (4, Protocol::Http2, "http://one"),
    ] {
        let mesh = mesh()
            .workers(workers)
            .service_on("one", (80, "http", "HTTP"), &instances)
            .service_on("two", (81, "http2", "HTTP2"), &instances)
            .start()
            .await;
        let before = mesh.client.process.resident_memory();
        let mut connection = Connection::open(mesh.outbound(), protocol).await;
        let response = connection.begin(Call::get(&format!("{url}/{GIB}"))).await.expect("a response");
        assert_eq!(length(response.into_body()).await, Ok(GIB), "{protocol:?} down");
        let reply = connection.send(Call::new(Method::POST, &format!("{url}/count")).body(zeros(GIB))).await;
        assert_eq!(reply.text(), GIB.to_string(), "{protocol:?} up");
        let grown = mesh.client.process.peak_memory().saturating_sub(before);
        assert!(
            grown < ALLOWED_GROWTH,
            "{workers} workers, {protocol:?} to {url}: the sidecar grew by {} MiB",
            grown >> 20
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_stops_the_writer() {
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    let app = Origin::scripted(move |_| {
        let counter = Arc::clone(&counter);
        async move {
            let (frames, body) = stream();
            tokio::spawn(async move {
                let piece = Bytes::from(vec![0; PIECE]);
                while frames.send(Ok(Frame::data(piece.clone()))).await.is_ok() {
                    counter.fetch_add(PIECE as u64, Ordering::Relaxed);
                }
            });
            http::Response::new(body)
        }
    })
    .await;
    let mesh = mesh()
        .service_on("one", (80, "http", "HTTP"), &[("v1", app.address())])
        .service_on("two", (81, "http2", "HTTP2"), &[("v1", app.address())])
        .start()
        .await;
    for (protocol, url) in [(Protocol::Http1, "http://one/"), (Protocol::Http2, "http://two:81/")] {
        written.store(0, Ordering::Relaxed);
        let mut connection = Connection::open(mesh.outbound(), protocol).await;
        let response = connection.begin(Call::get(url)).await.expect("a response");
        let mut last = (0, Instant::now());
        eventually("the app can write no more", async || {
            let now = written.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            }
            // No time to wait for: that nothing moves can only be seen over a while.
            if now > 0 && last.1.elapsed() > Duration::from_millis(500) { Ok(()) } else { Err(format!("{now} bytes")) }
        })
        .await;
        let held = written.load(Ordering::Relaxed);
        // The kernel's socket buffers of both hops hold most of it.
        assert!(held < 32 << 20, "{protocol:?}: {} MiB were taken for a reader that reads nothing", held >> 20);
        drop(response);
    }
}

/// hyper kills a connection on which many small frames wait unread for one slow stream; with a connection window far
/// above the stream windows that does not happen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stalled_stream_and_ten_thousand_small_messages_share_a_connection() {
    let app = Origin::scripted(|request: Request<Incoming>| async move {
        let (frames, body) = stream();
        let stalled = request.uri().path() == "/stalled";
        tokio::spawn(async move {
            let message = Bytes::from(vec![b'm'; 50]);
            for _ in 0..if stalled { 40_000 } else { 100 } {
                if frames.send(Ok(Frame::data(message.clone()))).await.is_err() {
                    return;
                }
            }
        });
        http::Response::new(body)
    })
    .await;
    let instances = [("v1", app.address())];
    for behind in [false, true] {
        let builder = mesh().service_on("app", (80, "http2", "HTTP2"), &instances);
        let builder = if behind { builder.behind_sidecars() } else { builder };
        let mesh = builder.start().await;
        let mut connection = Connection::with_windows(mesh.outbound(), 64 << 10, 64 << 20).await;
        let stalled = connection.begin(Call::get("http://app/stalled")).await.expect("a response");
        for round in 0..10 {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..10 {
                let mut connection = connection.share();
                calls.spawn(async move { connection.try_send(Call::get("http://app/small")).await });
            }
            while let Some(reply) = calls.join_next().await {
                let reply =
                    reply.expect("a caller does not panic").unwrap_or_else(|why| panic!("round {round}: {why}"));
                assert_eq!((reply.status, reply.body.len()), (200, 5000), "round {round}");
            }
        }
        assert_eq!(length(stalled.into_body()).await, Ok(40_000 * 50), "the stalled stream goes on when it is read");
    }
}
