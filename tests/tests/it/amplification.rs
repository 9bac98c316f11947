//! What a brown-out costs when every hop tries again: half of the answers of the last service are 503.
//!
//! ```text
//! callers ──▶ sidecar ──▶ app ──▶ sidecar ──▶ app ──▶ sidecar ──▶ scripted server
//! ```

use std::sync::Arc;

use leno_tests::scripted::{Fleet, Manner, RUN, SCRIPT};
use leno_tests::{Call, Connection, Mesh, Origin, Protocol, Random, full, mesh};
use tokio::task::JoinSet;

const CALLERS: usize = 48;
const CALLS: usize = 20;
/// What a budget of 20 % lets through at one hop, and what the three that are always allowed add when few are left.
const MOST: f64 = 1.25;

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: next, namespace: default}
spec:
  hosts: [next]
  http: [{retries: {attempts: 3, retryOn: 5xx, backoff: 1ms}, route: [{destination: {host: next}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: budget, namespace: default}
spec:
  host: next.default.svc.cluster.local
  trafficPolicy: {retryBudget: {percent: 20, minRetryConcurrency: 3}}
";

/// One sidecar whose service `next` is at this address.
async fn hop(next: std::net::SocketAddr) -> Mesh {
    mesh().without_control_plane().service("next", &[("v1", next)]).rules(RULES).start().await
}

/// An app that asks the next hop, and says what it heard.
async fn forwarder(through: std::net::SocketAddr) -> Origin {
    Origin::scripted(move |request| async move {
        let header = |name: &str| request.headers()[name].to_str().expect("it is text").to_owned();
        let call = Call::get("http://next/").header(RUN, &header(RUN)).header(SCRIPT, &header(SCRIPT));
        let reply = call.send(through).await;
        http::Response::builder().status(reply.status).body(full(reply.body)).expect("it is a status")
    })
    .await
}

/// Requests of many callers; each attempt at the last service fails with even chances, by a seed.
async fn call(through: std::net::SocketAddr) -> usize {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(async move {
            let mut random = Random::new(caller as u64);
            let mut connection = Connection::open(through, Protocol::Http1).await;
            let mut served = 0;
            for number in 0..CALLS {
                let steps: Vec<&str> = (0..30).map(|_| *random.pick(&["200 after=20", "503 after=20"])).collect();
                let run = format!("{caller}-{number}");
                let call = Call::get("http://next/").header(RUN, &run).header(SCRIPT, &steps.join(";"));
                served += usize::from(connection.send(call).await.status == 200);
            }
            served
        });
    }
    callers.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hop_makes_more_than_a_fifth_more_of_a_brown_out() {
    let fleet = Fleet::new();
    let last = fleet.server("v1", Manner::Obeys).await;
    let third = hop(last.address()).await;
    let second_app = Arc::new(forwarder(third.outbound()).await);
    let second = hop(second_app.address()).await;
    let first_app = Arc::new(forwarder(second.outbound()).await);
    let first = hop(first_app.address()).await;
    let served = call(first.outbound()).await;
    let asked = CALLERS * CALLS;
    let seen = [asked, first_app.count(), second_app.count(), fleet.all().len()];
    let hops: Vec<f64> = seen.windows(2).map(|pair| pair[1] as f64 / pair[0] as f64).collect();
    let whole = seen[3] as f64 / asked as f64;
    println!("half of the answers are 503: {served} of {asked} served; {hops:.2?} by hop, {whole:.2} in all");
    for hop in hops {
        assert!((1.0..=MOST).contains(&hop), "{hop}");
    }
}
