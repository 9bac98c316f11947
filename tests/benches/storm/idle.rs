//! KiB for each connection that rests.

use leno_tests::frames;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::{Bench, Bytes, REQUEST, SETTLES, connect, kibibytes, of, scaled};

const CONNECTIONS: usize = 4_000;

pub(super) async fn run() {
    println!("| idle connections | number | KiB each | goal |");
    println!("|---|--:|--:|--:|");
    let http2 = [frames::hello(&[]), frames::get(1)].concat();
    for (name, says, alpn, goal) in [
        ("HTTP/1.1 in clear text", REQUEST, None, 8),
        ("HTTP/1.1 with mTLS", REQUEST, Some(&b"http/1.1"[..]), 20),
        ("HTTP/2 in clear text", &http2, None, 8),
        ("HTTP/2 with mTLS", &http2, Some(&b"h2"[..]), 20),
    ] {
        let bench = Bench::start().await;
        let connector = alpn.map(|alpn| bench.connector(&[alpn]));
        // What only the first connections need is not theirs.
        let mut held = open(&bench, connector.as_ref(), says, 200).await;
        tokio::time::sleep(SETTLES).await;
        let before = bench.memory();
        let number = scaled(CONNECTIONS);
        held.extend(open(&bench, connector.as_ref(), says, number).await);
        tokio::time::sleep(SETTLES).await;
        let each = kibibytes(bench.memory().saturating_sub(before)) as f64 / number as f64;
        println!("| {name} | {} | {each:.1} | {goal} |", of(number, CONNECTIONS));
        drop(held);
    }
    println!();
}

/// Connections that have asked once.
async fn open(bench: &Bench, tls: Option<&TlsConnector>, says: &[u8], number: usize) -> Vec<Box<dyn Bytes>> {
    let mut held = Vec::with_capacity(number);
    for _ in 0..number {
        let mut stream = connect(bench.address(), tls).await;
        stream.write_all(says).await.expect("it is read");
        stream.flush().await.expect("it is read");
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).await.expect("an answer");
        assert!(read > 0, "it was closed");
        held.push(stream);
    }
    held
}
