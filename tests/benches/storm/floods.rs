//! How long a caller in good faith waits beside each flood of HTTP/2: the attacker comes again as often as it is closed.
//!
//! Attacker, caller and sidecar share a machine. What the same attack on another sidecar costs the caller is the price of that
//! sharing; the rest is what the flood does to its neighbours within one sidecar.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use leno_tests::frames::{
    self, CONTINUATION, DATA, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
};
use leno_tests::{Call, Connection, Protocol, metric, raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Bench;

const MEASURED: Duration = Duration::from_secs(5);
/// Between two requests of the caller: it does not load the sidecar itself.
const PAUSE: Duration = Duration::from_millis(2);

type Attack = (&'static str, Vec<u8>, fn(u32) -> Vec<u8>);

fn attacks() -> Vec<Attack> {
    let hello = || frames::hello(&[]);
    let begun = [hello(), frame(HEADERS, 0, 1, &frames::fields("GET"))].concat();
    let open = || [hello(), frames::post(1)].concat();
    vec![
        ("PING", hello(), |_| frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", hello(), |_| frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", hello(), |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", hello(), |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown frames", hello(), |_| frame(0xbe, 0, 0, b"whatever")),
        ("DATA of one byte", open(), |_| frame(DATA, 0, 1, b"x")),
        ("empty DATA", open(), |_| frame(DATA, 0, 1, b"")),
        ("CONTINUATION", begun, |_| frame(CONTINUATION, 0, 1, &[])),
        ("rapid reset", hello(), |turn| {
            [frames::get(turn * 2 + 1), frame(RST_STREAM, 0, turn * 2 + 1, &[0, 0, 0, 8])].concat()
        }),
        ("made to reset", hello(), |turn| {
            [frames::post(turn * 2 + 1), frame(WINDOW_UPDATE, 0, turn * 2 + 1, &[0; 4])].concat()
        }),
        ("HTTP/2 bomb", hello(), |turn| frames::bomb(turn * 2 + 1, turn == 0, 0, 1_500)),
    ]
}

pub(super) async fn run() {
    println!(
        "| flood | 99 of 100 within | beside nobody | beside it at another sidecar | ratio to that | closed after | closed by `http2_control` |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|");
    let (bench, another) = (Bench::start().await, Bench::start().await);
    let _ = measure(bench.address()).await;
    for attack in attacks() {
        let alone = measure(bench.address()).await;
        let (elsewhere, _) = beside(&bench, another.address(), &attack).await;
        let reached = async || {
            let metrics = bench.shop.proxy.metrics().await;
            metric(&metrics, "leno_downstream_limit_total", &["limit=\"http2_control\""])
        };
        let before = reached().await;
        let (here, lived) = beside(&bench, bench.address(), &attack).await;
        let (name, ratio) = (attack.0, here.as_secs_f64() / elsewhere.as_secs_f64());
        let closed = reached().await - before;
        println!("| {name} | {here:.1?} | {alone:.1?} | {elsewhere:.1?} | {ratio:.2} | {lived} | {closed} |");
    }
    println!();
}

/// How long a caller waits while `flooded` is attacked, and how long a connection of the attacker lives.
async fn beside(bench: &Bench, flooded: SocketAddr, (_, begins, repeats): &Attack) -> (Duration, String) {
    let (begins, repeats) = (begins.clone(), *repeats);
    let attacker = tokio::spawn(async move {
        let (mut longest, mut open) = (Duration::ZERO, None);
        let until = Instant::now() + MEASURED;
        while Instant::now() < until {
            match Box::pin(flood(flooded, &begins, repeats, until)).await {
                (lived, true) => longest = longest.max(lived),
                (lived, false) => open = Some(lived),
            }
        }
        (longest, open)
    });
    let waited = measure(bench.address()).await;
    let (longest, open) = attacker.await.expect("it ends");
    // The last one may have begun a moment before the end.
    let lived = match open.filter(|open| *open > longest) {
        Some(open) => format!("{longest:.1?}, one open after {open:.1?}"),
        None => format!("{longest:.1?}"),
    };
    (waited, lived)
}

/// How long a connection lives that floods, and whether the sidecar ended it.
async fn flood(to: SocketAddr, begins: &[u8], repeats: fn(u32) -> Vec<u8>, until: Instant) -> (Duration, bool) {
    let (mut read, mut write) = raw::connect(to).await.into_split();
    let began = Instant::now();
    let sending = async {
        let mut sent = write.write_all(begins).await;
        for turn in 0.. {
            if sent.is_err() || Instant::now() > until {
                return sent.is_err();
            }
            let many: Vec<u8> = (0..100).flat_map(|one| repeats(turn * 100 + one)).collect();
            sent = write.write_all(&many).await;
        }
        false
    };
    let closed = async {
        let mut heard = [0; 16 * 1024];
        while matches!(read.read(&mut heard).await, Ok(bytes) if bytes > 0) {}
    };
    let ended = tokio::select! {
        ended = sending => ended,
        () = closed => true,
    };
    (began.elapsed(), ended)
}

/// 99 of 100 requests of a caller are answered within so long.
async fn measure(to: SocketAddr) -> Duration {
    let mut connection = Connection::open(to, Protocol::Http2).await;
    let (mut took, until) = (Vec::new(), Instant::now() + MEASURED);
    while Instant::now() < until {
        let began = Instant::now();
        assert_eq!(connection.send(Call::get("http://shop/")).await.status, 200);
        took.push(began.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    took.sort();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}
