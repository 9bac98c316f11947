//! Three times as many requests as a service can take: how many are still served, and how soon the others are told.
//!
//!     cargo build --release --workspace --bins && cargo bench -p leno-tests --bench overload
//!
//! The service has so many hands and takes as long for each request. With limits in the rules, what is too much is refused
//! at the caller's sidecar at once (503, `UO`), and what is served is served as if nothing had happened: goodput stays at
//! 90 % of the best at least, and a refusal takes 10 ms at most. Without limits the same load is shown beside it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leno_tests::{Call, Connection, Mesh, Origin, Protocol, full, mesh};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Requests that the service works at.
const HANDS: usize = 8;
/// How long it works at one.
const WORK: Duration = Duration::from_millis(20);
/// How long each part is measured.
const MEASURED: Duration = Duration::from_secs(5);
/// Connections of the callers.
const CONNECTIONS: usize = 16;
/// A caller that has waited so long for an answer does not want it any more.
const PATIENCE: Duration = Duration::from_millis(500);

const LIMITS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: limits, namespace: default}
spec:
  host: shop.default.svc.cluster.local
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 8}, http: {http1MaxPendingRequests: 4}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop]
  http: [{retries: {attempts: 0}, route: [{destination: {host: shop}}]}]
";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let app = app().await;
        let limited = mesh().workers(1).service("shop", &[("v1", app.address())]).rules(LIMITS).start().await;
        let best = closed_loop(&limited).await;
        println!("best: {best:.0} served in a second, by {HANDS} callers who wait for each answer");
        let overload = best * 3.0;
        let measured = open_loop(&limited, overload).await;
        let share = measured.print("with limits", best);
        drop(limited);
        let free = mesh().workers(1).service("shop", &[("v1", app.address())]).start().await;
        open_loop(&free, overload).await.print("without limits", best);
        assert!(share >= 0.9, "goodput under overload is {:.0} % of the best", share * 100.0);
    });
}

/// A service with few hands; who comes meanwhile waits.
async fn app() -> Origin {
    let hands = Arc::new(Semaphore::new(HANDS));
    Origin::scripted(move |_| {
        let hands = Arc::clone(&hands);
        async move {
            let _hand = hands.acquire_owned().await;
            tokio::time::sleep(WORK).await;
            http::Response::new(full("served"))
        }
    })
    .await
}

/// Served in a second, when as many call as can be served.
async fn closed_loop(mesh: &Mesh) -> f64 {
    let until = Instant::now() + MEASURED;
    let mut callers = JoinSet::new();
    for _ in 0..HANDS {
        let through = mesh.outbound();
        callers.spawn(async move {
            let mut connection = Connection::open(through, Protocol::Http1).await;
            let mut served = 0;
            while Instant::now() < until {
                served += usize::from(connection.send(Call::get("http://shop/")).await.status == 200);
            }
            served
        });
    }
    let served: usize = callers.join_all().await.into_iter().sum();
    served as f64 / MEASURED.as_secs_f64()
}

/// Answers under a load that does not wait.
#[derive(Default)]
struct Measured {
    asked: usize,
    /// In time.
    served: Vec<Duration>,
    refused: Vec<Duration>,
    /// Too late for whoever asked, or not at all.
    in_vain: usize,
}

impl Measured {
    /// Prints it; what is served, as a share of `best`.
    fn print(mut self, what: &str, best: f64) -> f64 {
        self.served.sort();
        self.refused.sort();
        let goodput = self.served.len() as f64 / MEASURED.as_secs_f64();
        println!(
            "{what}: of {asked:.0} in a second {goodput:.0} served ({share:.0} % of the best; 99 of 100 within {served:?}), \
             {refused} refused (99 of 100 within {soon:?}), {vain} in vain",
            asked = self.asked as f64 / MEASURED.as_secs_f64(),
            share = goodput / best * 100.0,
            served = percentile(&self.served, 0.99),
            refused = self.refused.len(),
            soon = percentile(&self.refused, 0.99),
            vain = self.in_vain,
        );
        goodput / best
    }
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// So many requests in a second, whatever becomes of those before.
async fn open_loop(mesh: &Mesh, rate: f64) -> Measured {
    let mut connections = VecDeque::new();
    for _ in 0..CONNECTIONS {
        connections.push_back(Connection::open(mesh.outbound(), Protocol::Http2).await);
    }
    let mut measured = Measured::default();
    let (started, mut calls) = (Instant::now(), JoinSet::new());
    while started.elapsed() < MEASURED {
        let due = (started.elapsed().as_secs_f64() * rate) as usize;
        while measured.asked < due {
            measured.asked += 1;
            connections.rotate_left(1);
            let mut connection = connections.front().expect("there are connections").share();
            calls.spawn(async move {
                let begun = Instant::now();
                let reply = tokio::time::timeout(PATIENCE, connection.try_send(Call::get("http://shop/"))).await;
                (reply.ok().and_then(Result::ok).map(|reply| reply.status), begun.elapsed())
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for (status, took) in calls.join_all().await {
        match status {
            Some(200) => measured.served.push(took),
            Some(_) => measured.refused.push(took),
            None => measured.in_vain += 1,
        }
    }
    measured
}
