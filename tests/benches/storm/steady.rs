//! A million requests and 100 000 connections: whether memory grows with what has passed.

use std::time::Instant;

use leno_tests::{Call, Connection, Protocol};
use tokio::task::JoinSet;

use super::{Bench, SETTLES};

const REQUESTS: usize = 1_000_000;
const CONNECTIONS: usize = 100_000;
const CALLERS: usize = 32;

pub(super) async fn run() {
    println!("| steady | number | MiB warm | half way | after | CPU ms |");
    println!("|---|--:|--:|--:|--:|--:|");
    let bench = Bench::start().await;
    for (name, number, renews) in [("requests", REQUESTS, false), ("connections", CONNECTIONS, true)] {
        let cpu = bench.cpu();
        // A tenth warms it.
        let mut memory = Vec::new();
        let began = Instant::now();
        for part in [number / 10, number / 2, number / 2] {
            pass(&bench, part, renews).await;
            tokio::time::sleep(SETTLES).await;
            memory.push(format!("{:.1}", bench.memory() as f64 / f64::from(1 << 20)));
        }
        println!("| {name} | {number} | {} | {} |", memory.join(" | "), bench.cpu() - cpu);
        eprintln!("({:?})", began.elapsed());
    }
    println!();
}

/// So many requests, each on a connection of its own if that is wanted.
async fn pass(bench: &Bench, number: usize, renews: bool) {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let to = bench.address();
        callers.spawn(async move {
            let mut connection = Connection::open(to, Protocol::Http1).await;
            for _ in 0..number / CALLERS {
                if renews {
                    connection = Connection::open(to, Protocol::Http1).await;
                }
                assert_eq!(connection.send(Call::get("http://shop/")).await.status, 200);
            }
        });
    }
    callers.join_all().await;
}
