//! Every kind of connection that stalls is closed, and counted by the limit that it has reached.

use std::net::SocketAddr;
use std::time::Duration;

use http::Response;
use leno_tests::frames::{self, DATA, PING, RST_STREAM, frame};
use leno_tests::pki::Authority;
use leno_tests::{Call, Origin, Sidecar, eventually, full, metric, raw, sidecar};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// More than the kernel keeps for a socket.
const LARGE: usize = 64 << 20;

/// An app that answers with as much as the method of the request wants.
async fn app() -> Origin {
    Origin::answering(|request| {
        let large = request.path == "/large";
        Response::new(full(if large { vec![0; LARGE] } else { b"app".to_vec() }))
    })
    .await
}

/// Limits that are reached within seconds.
fn short() -> Value {
    json!({
        "first_byte": "3s", "handshake": "1s", "preface": "1s", "head": "1s", "body_idle": "1s", "write_stall": "2s",
        "connection_idle": "2s",
    })
}

/// What a caller does before it stalls.
#[derive(Clone)]
struct Row {
    name: &'static str,
    /// The limit that it reaches.
    limit: &'static str,
    says: Vec<u8>,
    /// What it goes on saying, again and again, without asking anything.
    repeats: Vec<u8>,
}

fn row(name: &'static str, limit: &'static str, says: impl Into<Vec<u8>>) -> Row {
    Row { name, limit, says: says.into(), repeats: Vec::new() }
}

fn rows() -> Vec<Row> {
    let hello = || frames::hello(&[]);
    let head = frames::get(1);
    vec![
        row("silence", "first_byte", ""),
        row("a part of the preface", "preface", &frames::PREFACE[..10]),
        row("the preface without SETTINGS", "preface", frames::PREFACE),
        row("a part of a head", "head", "GET / HTTP/1.1\r\nhost: shop\r\n"),
        row("a part of a HEADERS frame", "head", [hello(), head[..head.len() - 3].to_vec()].concat()),
        row("a part of a head of a frame", "head", [hello(), head[..4].to_vec()].concat()),
        row("rest on HTTP/1.1", "connection_idle", "GET / HTTP/1.1\r\nhost: shop\r\n\r\n"),
        row("rest on HTTP/2", "connection_idle", [hello(), head.clone()].concat()),
        Row {
            repeats: frame(PING, 0, 0, &[0; 8]),
            ..row("rest on HTTP/2, with PINGs", "connection_idle", [hello(), head].concat())
        },
        row("a part of a body", "body_idle", "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 10\r\n\r\nabc"),
        row(
            "a part of a chunk",
            "body_idle",
            "POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\na\r\nabc",
        ),
        row(
            "a part of a body on HTTP/2",
            "body_idle",
            [hello(), frames::post(1), frame(DATA, 0, 1, b"abcdefg")].concat(),
        ),
        // 4 is the initial window of a stream (RFC 9113 §6.5.2).
        row("no window on HTTP/2", "write_stall", [frames::hello(&[(4, 0)]), frames::get(1)].concat()),
    ]
}

/// Does as the row says, until the connection is closed.
async fn stall(to: SocketAddr, row: Row) {
    let mut stream = raw::connect(to).await;
    stream.write_all(&row.says).await.expect("it is read so far");
    let (mut read, mut write) = stream.into_split();
    let repeated = row.repeats.clone();
    let repeating = tokio::spawn(async move {
        while !repeated.is_empty() && write.write_all(&repeated).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        // Not dropped before the other side ends: that would be an end of its own.
        std::future::pending::<()>().await;
        drop(write);
    });
    let mut answer = [0; 4096];
    while matches!(read.read(&mut answer).await, Ok(bytes) if bytes > 0) {}
    repeating.abort();
}

async fn reached(shop: &Sidecar, limit: &str) -> f64 {
    metric(&shop.proxy.metrics().await, "leno_downstream_limit_total", &[&format!("limit=\"{limit}\"")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_stalled_connection_is_closed_and_counted() {
    let app = app().await;
    for workers in [1, 4] {
        let shop = sidecar(app.address(), "").workers(workers).bootstrap("limits", short()).start().await;
        let mut stalled = JoinSet::new();
        for row in rows() {
            let to = shop.address();
            stalled.spawn(async move {
                let name = row.name;
                let closed = tokio::time::timeout(leno_tests::PATIENCE, stall(to, row)).await;
                assert!(closed.is_ok(), "{name} is never closed");
            });
        }
        stalled.join_all().await;
        for limit in ["first_byte", "preface", "head", "connection_idle", "body_idle", "write_stall"] {
            let expected = rows().iter().filter(|row| row.limit == limit).count();
            let counted = reached(&shop, limit).await;
            assert!(counted >= expected as f64, "{limit}: {counted} of {expected}");
        }
        assert_eq!(Call::get("http://shop/").send(shop.address()).await.text(), "app");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_reads_is_given_up() {
    let app = app().await;
    let shop = sidecar(app.address(), "").bootstrap("limits", short()).start().await;
    let http1 = b"GET /large HTTP/1.1\r\nhost: shop\r\n\r\n".to_vec();
    // The window of the stream is as large as can be, so that it is the socket that is full.
    let http2 = [frames::hello(&[(4, 0x7fff_ffff)]), frames::get_of("/large", 1)].concat();
    let room = frame(frames::WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
    for (turn, says) in [http1, [http2, room].concat()].into_iter().enumerate() {
        let mut stream = raw::connect(shop.address()).await;
        stream.write_all(&says).await.expect("it is read");
        eventually("nobody reads", async || match reached(&shop, "write_stall").await {
            reached if reached > turn as f64 => Ok(()),
            reached => Err(reached.to_string()),
        })
        .await;
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        assert!(heard.len() < LARGE, "it was not given up");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_not_finished_is_closed_and_counted() {
    let (app, authority) = (app().await, Authority::new("root"));
    let id = "spiffe://cluster.local/ns/default/sa/shop";
    let shop = sidecar(app.address(), "").identity(&authority, id).bootstrap("limits", short()).start().await;
    for says in [&[22][..], &[22, 3, 1, 0, 200, 1]] {
        let to = shop.address();
        let closed = tokio::time::timeout(leno_tests::PATIENCE, stall(to, row("a handshake", "handshake", says))).await;
        assert!(closed.is_ok(), "{says:?} is never closed");
    }
    eventually("both are counted", async || match reached(&shop, "handshake").await {
        2.0 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_grpc_may_rest_and_what_moves_is_never_ended() {
    let app = Origin::scripted(|request| async move {
        drop(http_body_util::BodyExt::collect(request.into_body()).await);
        Response::new(full("app"))
    })
    .await;
    let shop = sidecar(app.address(), "").bootstrap("limits", json!({"body_idle": "4s"})).start().await;
    // Both last longer than `body_idle`; only one moves meanwhile.
    for (content_type, pause, parts) in [("application/grpc", 7_000, 1), ("text/plain", 500, 12)] {
        let (body, sent) = leno_tests::stream();
        let call = Call::new(http::Method::POST, "http://shop/").header("content-type", content_type).body(sent);
        let answer = tokio::spawn(call.over(leno_tests::Protocol::Http2).send(shop.address()));
        for _ in 0..parts {
            let _ = body.send(Ok(hyper::body::Frame::data("part of it".into()))).await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        drop(body);
        assert_eq!(answer.await.expect("an answer").text(), "app", "{content_type}");
    }
    assert_eq!(reached(&shop, "body_idle").await, 0.0);
}

/// What a connection of HTTP/2 says: of each frame its kind, its stream and what it carries.
async fn heard(stream: &mut TcpStream) -> (u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    let [a, b, c, kind, _, id @ ..] = head;
    let mut carried = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut carried).await.expect("all of it");
    (kind, u32::from_be_bytes(id), carried)
}

/// Reads until both streams have ended: how the first was reset, and what the other was answered.
async fn ends(stream: &mut TcpStream, reset: u32, answered: u32) -> (u32, Vec<u8>) {
    let (mut code, mut body, mut over) = (None, Vec::new(), false);
    while code.is_none() || !over {
        match heard(stream).await {
            (RST_STREAM, id, why) if id == reset => {
                code = Some(u32::from_be_bytes(why.try_into().expect("four bytes")))
            }
            (RST_STREAM, id, why) => panic!("stream {id} was reset: {why:?}"),
            (DATA, id, data) if id == answered => {
                over |= data.is_empty() || data == b"app";
                body.extend(data);
            }
            _ => {}
        }
    }
    (code.expect("it was reset"), body)
}

/// Both requests come with one packet, so that one is looked at before the other waits for its body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stalls_ends_its_own_stream_and_no_other() {
    let app = Origin::scripted(|request| async move {
        if request.method() == http::Method::GET {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        drop(http_body_util::BodyExt::collect(request.into_body()).await);
        Response::new(full("app"))
    })
    .await;
    let shop = sidecar(app.address(), "").bootstrap("limits", json!({"body_idle": "1s"})).start().await;
    let mut stream = raw::connect(shop.address()).await;
    // Two connections to the app are idle then: what follows goes out at once.
    let both = |first: u32, second: u32| {
        [frames::post(first), frame(DATA, frames::END_STREAM, first, b"a"), frames::get(second)].concat()
    };
    stream.write_all(&[frames::hello(&[]), both(1, 3)].concat()).await.expect("it is read");
    let mut over = 0;
    while over < 2 {
        let (kind, _, data) = heard(&mut stream).await;
        over += usize::from(kind == DATA && data == b"app");
    }
    let stalls = [frames::post(5), frame(DATA, 0, 5, b"abc"), frames::get(7)].concat();
    stream.write_all(&stalls).await.expect("it is read");
    let (_, answer) = ends(&mut stream, 5, 7).await;
    assert_eq!(answer, b"app");
    assert_eq!(reached(&shop, "body_idle").await, 1.0);
}

/// Who is answered before it has sent all of its body hears so at once, and nobody else pays for it later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_nobody_wants_any_more_ends_with_its_answer() {
    // Over HTTP/2 it answers whole, and neither reads the rest nor says that it will not.
    let app = Origin::scripted(|request| async move {
        match request.method() == http::Method::GET {
            true => tokio::time::sleep(Duration::from_secs(5)).await,
            false => drop(tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(request);
            })),
        }
        Response::new(full("app"))
    })
    .await;
    let shop = sidecar(app.address(), "").bootstrap("limits", json!({"body_idle": "2s"})).start().await;
    let mut stream = raw::connect(shop.address()).await;
    let asks = [frames::hello(&[]), frames::post(1), frame(DATA, 0, 1, b"abc")].concat();
    stream.write_all(&asks).await.expect("it is read");
    let (code, _) = ends(&mut stream, 1, 1).await;
    assert_eq!(code, 0, "NO_ERROR: the rest is not wanted");
    stream.write_all(&frames::get(3)).await.expect("it is read");
    loop {
        match heard(&mut stream).await {
            (RST_STREAM, id, why) => panic!("stream {id} was reset: {why:?}"),
            (DATA, 3, data) if data == b"app" => break,
            _ => {}
        }
    }
    assert_eq!(reached(&shop, "body_idle").await, 0.0);
}

/// The buffers of a connection that rests are given back; the next request must not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_has_rested_serves_the_next_request() {
    let app = app().await;
    let shop = sidecar(app.address(), "").start().await;
    let mut stream = raw::connect(shop.address()).await;
    let mut talk = async |says: &str| {
        stream.write_all(says.as_bytes()).await.expect("it is read");
        let head = raw::read_head(&mut stream).await.expect("an answer");
        let mut body = [0; 3];
        stream.read_exact(&mut body).await.expect("a body");
        assert!(head.starts_with("HTTP/1.1 200") && &body == b"app", "{head}");
    };
    for _ in 0..2 {
        talk("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await;
        talk("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 3\r\n\r\nabc").await;
        eventually("it rests", async || match metric(&shop.proxy.metrics().await, "leno_connections_resting", &[]) {
            1.0 => Ok(()),
            other => Err(other.to_string()),
        })
        .await;
    }
    talk("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(app.count(), 5);
}
