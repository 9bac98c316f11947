//! Floods of HTTP/2, by hand-made frames: whoever sends them is closed, and whoever is beside it notices nothing.

use std::net::SocketAddr;

use http::Response;
use leno_tests::frames::{
    self, CONTINUATION, DATA, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
};
use leno_tests::{
    Call, Connection, Origin, PATIENCE, Protocol, Sidecar, eventually, full, metric, origin, raw, sidecar,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

/// So many times each frame is sent.
const TIMES: usize = 20_000;

/// An attack: what comes first, what is repeated, and the limit of ours that ends it (`None`: h2 has one).
struct Attack {
    name: &'static str,
    begins: Vec<u8>,
    repeats: Box<dyn Fn(u32) -> Vec<u8> + Send>,
    limit: Option<&'static str>,
}

fn attack(
    name: &'static str,
    begins: Vec<u8>,
    limit: Option<&'static str>,
    repeats: impl Fn(u32) -> Vec<u8> + Send + 'static,
) -> Attack {
    Attack { name, begins, repeats: Box::new(repeats), limit }
}

fn attacks() -> Vec<Attack> {
    let hello = || frames::hello(&[]);
    let ours = Some("http2_control");
    let open = || [hello(), frames::post(1)].concat();
    let stream = |turn: u32| turn * 2 + 1;
    vec![
        attack("PING", hello(), ours, |_| frame(PING, 0, 0, &[0; 8])),
        attack("answers to PINGs that nobody sent", hello(), ours, |_| frame(PING, 1, 0, &[0; 8])),
        attack("SETTINGS", hello(), ours, |_| frame(SETTINGS, 0, 0, &[])),
        attack("PRIORITY", hello(), ours, |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        attack("WINDOW_UPDATE", hello(), ours, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        attack("frames of an unknown type", hello(), ours, |_| frame(0xbe, 0, 0, b"whatever")),
        attack("DATA of one byte", open(), ours, |_| frame(DATA, 0, 1, b"x")),
        attack("DATA of one byte, padded", open(), ours, |_| frame(DATA, 8, 1, &[3, b'x', 0, 0, 0])),
        attack("empty DATA", open(), None, |_| frame(DATA, 0, 1, b"")),
        attack("CONTINUATION", [hello(), frame(HEADERS, 0, 1, &frames::fields("GET"))].concat(), None, |_| {
            frame(CONTINUATION, 0, 1, &[])
        }),
        attack("rapid reset", hello(), None, move |turn| {
            [frames::get(stream(turn)), frame(RST_STREAM, 0, stream(turn), &[0, 0, 0, 8])].concat()
        }),
        // Each stream is reset by us, since a window of 0 more is an error (MadeYouReset).
        attack("resets that we are made to send", hello(), None, move |turn| {
            [frames::post(stream(turn)), frame(WINDOW_UPDATE, 0, stream(turn), &[0; 4])].concat()
        }),
    ]
}

/// Floods until the connection is closed.
async fn flood(to: SocketAddr, attack: &Attack) {
    let stream = raw::connect(to).await;
    let (mut read, mut write) = stream.into_split();
    let sending = async {
        let mut sent = write.write_all(&attack.begins).await;
        for turn in 0..TIMES as u32 / 100 {
            let many: Vec<u8> = (0..100).flat_map(|one| (attack.repeats)(turn * 100 + one)).collect();
            if sent.is_ok() {
                sent = write.write_all(&many).await;
            }
        }
        if sent.is_ok() {
            // All of it is sent: it was to be closed before.
            std::future::pending::<()>().await;
        }
    };
    let closed = async {
        let mut heard = [0; 4096];
        while matches!(read.read(&mut heard).await, Ok(bytes) if bytes > 0) {}
    };
    let over = async {
        tokio::select! {
            () = sending => {}
            () = closed => {}
        }
    };
    let over = tokio::time::timeout(PATIENCE, over).await;
    assert!(over.is_ok(), "{}: the connection is never closed", attack.name);
}

async fn reached(shop: &Sidecar, limit: &str) -> f64 {
    metric(&shop.proxy.metrics().await, "leno_downstream_limit_total", &[&format!("limit=\"{limit}\"")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flood_is_closed_and_a_caller_beside_it_is_served() {
    let app = origin("app").await;
    for workers in [1, 4] {
        let limits = json!({"connection_idle": "300s", "connections_per_caller": 10_000});
        let shop = sidecar(app.address(), "").workers(workers).bootstrap("limits", limits).start().await;
        let mut beside = Connection::open(shop.address(), Protocol::Http2).await;
        for attack in attacks() {
            let before = match attack.limit {
                Some(limit) => reached(&shop, limit).await,
                None => 0.0,
            };
            let calls = async {
                for _ in 0..20 {
                    assert_eq!(beside.send(Call::get("http://shop/")).await.status, 200, "beside {}", attack.name);
                }
            };
            tokio::join!(flood(shop.address(), &attack), calls);
            if let Some(limit) = attack.limit {
                assert_eq!(reached(&shop, limit).await, before + 1.0, "{}", attack.name);
            }
        }
    }
}

/// Who reads much sends much WINDOW_UPDATE, and who asks much may PING much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_uses_a_connection_much_may_send_as_many_control_frames_as_that_needs() {
    const LARGE: usize = 32 << 20;
    let app = Origin::answering(|_| Response::new(full(vec![0; LARGE]))).await;
    let limits = json!({"http2_control_burst": 100, "http2_control_per_second": 1});
    let shop = sidecar(app.address(), "").bootstrap("limits", limits).start().await;
    // Small windows, so that there are thousands of updates.
    let mut caller = Connection::with_windows(shop.address(), 16 * 1024, 16 * 1024).await;
    let reply = caller.send(Call::get("http://shop/")).await;
    assert_eq!((reply.status, reply.body.len()), (200, LARGE));
    assert_eq!(reached(&shop, "http2_control").await, 0.0);
}

/// The HTTP/2 bomb: a field that was sent once is repeated by a byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_has_only_so_many_fields_however_few_bytes_they_took() {
    let app = origin("app").await;
    let shop = sidecar(app.address(), "").start().await;
    let mut stream = raw::connect(shop.address()).await;
    let bomb = [frames::hello(&[]), frames::bomb(1, true, 0, 1_500)].concat();
    stream.write_all(&bomb).await.expect("it is read");
    leno_tests::eventually("it is counted", async || match reached(&shop, "header_fields").await {
        1.0 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    assert_eq!(app.count(), 0);
    // The same in words, and that others are served.
    let mut call = Call::get("http://shop/").over(Protocol::Http2);
    for number in 0..101 {
        call = call.header(&format!("x-{number}"), "");
    }
    assert_eq!(call.send(shop.address()).await.status, 431);
    assert_eq!(Call::get("http://shop/").over(Protocol::Http2).send(shop.address()).await.status, 200);
}

/// Each costs more to decode than to send: whoever goes on with them, and heeds no GOAWAY, is cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_heads_are_refused_again_and_again_ends() {
    let app = origin("app").await;
    let shop = sidecar(app.address(), "").start().await;
    let mut stream = raw::connect(shop.address()).await;
    let bombs = (0..65).flat_map(|turn| frames::bomb(turn * 2 + 1, turn == 0, 0, 1_500)).collect::<Vec<_>>();
    stream.write_all(&[frames::hello(&[]), bombs].concat()).await.expect("it is read");
    let mut heard = Vec::new();
    let ended = tokio::time::timeout(leno_tests::PATIENCE, stream.read_to_end(&mut heard)).await;
    assert!(ended.is_ok(), "it is never closed");
    eventually("they are counted", async || match reached(&shop, "header_fields").await {
        refused if refused >= 64.0 => Ok(()),
        refused => Err(refused.to_string()),
    })
    .await;
    assert_eq!(app.count(), 0);
    assert_eq!(Call::get("http://shop/").over(Protocol::Http2).send(shop.address()).await.text(), "app");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_heads_of_a_connection_together_are_bounded() {
    let (open, opened) = watch::channel(false);
    let app = Origin::scripted(move |_| {
        let mut opened = opened.clone();
        async move {
            let _ = opened.wait_for(|open| *open).await;
            Response::new(full("app"))
        }
    })
    .await;
    let shop = sidecar(app.address(), "").start().await;
    let mut stream = raw::connect(shop.address()).await;
    // Fifty times a kibibyte in each of forty: twice what is allowed.
    let heads = (0..40).flat_map(|turn| frames::bomb(turn * 2 + 1, turn == 0, 1_000, 50)).collect::<Vec<_>>();
    stream.write_all(&[frames::hello(&[]), heads].concat()).await.expect("it is read");
    leno_tests::eventually("some are refused", async || match reached(&shop, "header_bytes").await {
        refused if refused >= 15.0 => Ok(()),
        refused => Err(refused.to_string()),
    })
    .await;
    assert!(reached(&shop, "header_bytes").await <= 25.0, "the others are not");
    open.send_replace(true);
    assert_eq!(Call::get("http://shop/").over(Protocol::Http2).send(shop.address()).await.text(), "app");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_targets_of_http1_are_bounded_as_well() {
    let app = origin("app").await;
    let shop = sidecar(app.address(), "").bootstrap("limits", json!({"target_bytes": 100})).start().await;
    let path = "x".repeat(101);
    for protocol in Protocol::ALL {
        let reply = Call::get(&format!("http://shop/{path}")).over(protocol).send(shop.address()).await;
        assert_eq!(reply.status, 414);
    }
    assert_eq!(reached(&shop, "target_bytes").await, 2.0);
    let fields: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(70_000));
    for fields in [fields, large] {
        let request = format!("GET / HTTP/1.1\r\nhost: shop\r\n{fields}\r\n");
        let answer = raw::exchange(shop.address(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    eventually("both are counted", async || match reached(&shop, "header_bytes").await {
        2.0 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    assert_eq!(app.count(), 0);
}
