//! Thousands of callers that begin a head and do not end it.

use std::time::Instant;

use tokio::io::AsyncWriteExt as _;

use super::{Bench, SETTLES, connect, kibibytes, of, scaled};

const CONNECTIONS: usize = 8_000;
const BEGUN: &[u8] = b"GET / HTTP/1.1\r\nhost: shop\r\nx: ";
const GOES_ON: &[u8] = b"slowly";
/// So often each goes on.
const TIMES: usize = 5;

pub(super) async fn run() {
    println!("| slow connections | number | KiB each | goal | MiB before | then | after | CPU ms |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    for (name, alpn, goal) in [("in clear text", None, 20), ("within TLS", Some(&b"http/1.1"[..]), 60)] {
        let bench = Bench::start().await;
        let connector = alpn.map(|alpn| bench.connector(&[alpn]));
        tokio::time::sleep(SETTLES).await;
        let (before, number, began) = (bench.memory(), scaled(CONNECTIONS), Instant::now());
        let mut held = Vec::with_capacity(number);
        for _ in 0..number {
            let mut stream = connect(bench.address(), connector.as_ref()).await;
            stream.write_all(BEGUN).await.expect("it is read");
            stream.flush().await.expect("it is read");
            held.push(stream);
        }
        for _ in 0..TIMES {
            for stream in &mut held {
                stream.write_all(GOES_ON).await.expect("it is read");
                stream.flush().await.expect("it is read");
            }
        }
        tokio::time::sleep(SETTLES).await;
        let then = bench.memory();
        drop(held);
        tokio::time::sleep(SETTLES).await;
        let each = kibibytes(then.saturating_sub(before)) as f64 / number as f64;
        let mebibytes = [before, then, bench.memory()].map(|bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20)));
        let [before, then, after] = mebibytes;
        let cpu = bench.cpu();
        println!("| {name} | {} | {each:.1} | {goal} | {before} | {then} | {after} | {cpu} |", of(number, CONNECTIONS));
        eprintln!("({:?})", began.elapsed());
    }
    println!();
}
