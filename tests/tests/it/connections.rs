//! Apps that end their connections as they please: nobody who calls through the sidecar notices.
//!
//! The callers never retry. Each request has a number, and arrives at the app exactly once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use leno_tests::{full, mesh, raw};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::load::{Load, NUMBER, Totals};

/// Requests that an app answers on one connection.
const PER_CONNECTION: usize = 20;

/// Requests that each test sends at least.
const REQUESTS: usize = 1000;

/// How often each number has arrived.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<BTreeMap<usize, usize>>>);

impl Arrivals {
    fn note(&self, number: Option<usize>) {
        if let Some(number) = number {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default() += 1;
        }
    }

    fn must_be(&self, totals: &Totals) {
        let arrived = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let doubled: Vec<_> = arrived.iter().filter(|(_, times)| **times != 1).collect();
        assert!(doubled.is_empty(), "arrived more than once: {doubled:?}");
        assert_eq!(arrived.len(), totals.numbers.len(), "as many arrived as were answered");
    }
}

/// Sends requests through a sidecar to `server`, and expects that none fails.
async fn must_serve_flawlessly(server: &raw::Server, arrivals: &Arrivals, port: (u16, &str, &str), workers: usize) {
    let mesh = mesh().service_on("app", port, &[("v1", server.address())]).workers(workers).start().await;
    let before = server.connections();
    let load = Load::start(mesh.outbound(), "http://app/", 8);
    load.flows(REQUESTS).await;
    let totals = load.stop().await;
    totals.must_be_flawless();
    arrivals.must_be(&totals);
    let connections = server.connections() - before;
    assert!(connections > 10, "only {connections} connections: the app has hardly ended one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_app_that_drains_its_connections_fails_no_request() {
    for workers in [1, 4] {
        let arrivals = Arrivals::default();
        let noted = arrivals.clone();
        let server = raw::Server::start(move |stream| drain_after_some(stream, noted.clone())).await;
        must_serve_flawlessly(&server, &arrivals, (80, "http2", "HTTP2"), workers).await;
    }
}

/// Answers some requests and then sends GOAWAY, as an app does that is being replaced.
async fn drain_after_some(stream: TcpStream, arrivals: Arrivals) {
    let (enough, served) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let full_house = Arc::clone(&enough);
    let service = service_fn(move |request: Request<Incoming>| {
        let number = request.headers().get(NUMBER).and_then(|number| number.to_str().ok()?.parse().ok());
        arrivals.note(number);
        if served.fetch_add(1, Ordering::Relaxed) + 1 == PER_CONNECTION {
            full_house.notify_one();
        }
        async { Ok::<_, Infallible>(Response::new(full("ok"))) }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = enough.notified() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Harsher than a drain: what the app has not looked at when it leaves, it never will.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_app_that_leaves_streams_unprocessed_fails_no_request() {
    for workers in [1, 4] {
        let arrivals = Arrivals::default();
        let noted = arrivals.clone();
        let server = raw::Server::start(move |stream| leave_after_some(stream, noted.clone())).await;
        must_serve_flawlessly(&server, &arrivals, (80, "http2", "HTTP2"), workers).await;
    }
}

/// Answers requests one by one, and leaves with a GOAWAY that names the last one.
async fn leave_after_some(stream: TcpStream, arrivals: Arrivals) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    for _ in 0..PER_CONNECTION {
        let Some(Ok((request, mut respond))) = connection.accept().await else { return };
        let number = request.headers().get(NUMBER).and_then(|number| number.to_str().ok()?.parse().ok());
        arrivals.note(number);
        let Ok(mut body) = respond.send_response(Response::new(()), false) else { return };
        let _ = body.send_data("ok".into(), true);
    }
    connection.graceful_shutdown();
    // What comes after the GOAWAY is not looked at.
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
}

/// The keep-alive race: the request leaves while the app's FIN arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http1_app_that_closes_idle_connections_without_a_word_fails_no_request() {
    for workers in [1, 4] {
        for patience in [Duration::ZERO, Duration::from_millis(1)] {
            let arrivals = Arrivals::default();
            let noted = arrivals.clone();
            let server = raw::Server::start(move |stream| close_when_idle(stream, patience, noted.clone())).await;
            must_serve_flawlessly(&server, &arrivals, (80, "http", "HTTP"), workers).await;
        }
    }
}

/// Answers a few requests and closes as soon as the next one keeps it waiting.
async fn close_when_idle(mut stream: TcpStream, patience: Duration, arrivals: Arrivals) {
    for answered in 0..PER_CONNECTION {
        let mut first = [0];
        if answered > 2 && tokio::time::timeout(patience, stream.peek(&mut first)).await.is_err() {
            return;
        }
        let Ok(head) = raw::read_head(&mut stream).await else { return };
        let number = head.lines().find_map(|line| line.strip_prefix(NUMBER)?.strip_prefix(": ")?.parse().ok());
        arrivals.note(number);
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}
