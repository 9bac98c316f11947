//! What a brown-out costs when every hop tries again: half of the answers of the last service are 503.
//!
//! ```text
//! callers ──▶ sidecar ──▶ sidecar ─ app ─ sidecar ──▶ sidecar ─ app ─ sidecar ──▶ scripted server
//!             of the callers        the first                   the second
//! ```

use std::net::SocketAddr;

use leno_tests::scripted::{Fleet, Manner, RUN, SCRIPT};
use leno_tests::{Call, Connection, Origin, Protocol, Random, Sidecar, free_port, full, metric, origin, sidecar};
use tokio::task::JoinSet;

const CALLERS: usize = 48;
const CALLS: usize = 20;
/// What a budget of 20 % lets through, and what the three that are always allowed add when few requests are left.
const MOST: f64 = 1.35;

/// A service `next` at this address, which every hop tries again.
fn rules(next: SocketAddr) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: next, namespace: default}}
spec:
  hosts: [next.default.svc.cluster.local]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: {}, ports: {{http: {}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: next, namespace: default}}
spec:
  hosts: [next.default.svc.cluster.local]
  http:
    - retries: {{attempts: 3, retryOn: 5xx, backoff: 1ms}}
      route: [{{destination: {{host: next.default.svc.cluster.local}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: budget, namespace: default}}
spec:
  host: next.default.svc.cluster.local
  trafficPolicy: {{retryBudget: {{percent: 20, minRetryConcurrency: 3}}}}
",
        next.ip(),
        next.port()
    )
}

/// One app with its sidecar.
struct Hop {
    app: Origin,
    sidecar: Sidecar,
}

impl Hop {
    /// An app that asks the next hop, and says what it heard.
    async fn toward(next: SocketAddr) -> Self {
        let outbound = free_port();
        let through = SocketAddr::from(([127, 0, 0, 1], outbound));
        let app = Origin::scripted(move |request| async move {
            let header = |name: &str| request.headers()[name].to_str().expect("it is text").to_owned();
            let call = Call::get("http://next/").header(RUN, &header(RUN)).header(SCRIPT, &header(SCRIPT));
            let reply = call.send(through).await;
            let told = reply.headers.contains_key("x-leno-gave-up");
            assert!(!told, "what sidecars tell each other is not for apps");
            http::Response::builder().status(reply.status).body(full(reply.body)).expect("it is a status")
        })
        .await;
        let sidecar = sidecar(app.address(), &rules(next)).outbound(outbound).start().await;
        Self { app, sidecar }
    }
}

/// Requests of many callers; each attempt at the last service fails with even chances, by a seed.
async fn call(through: SocketAddr) -> usize {
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
async fn three_hops_make_no_more_of_a_brown_out_than_one() {
    let fleet = Fleet::new();
    let last = fleet.server("v1", Manner::Obeys).await;
    let second = Hop::toward(last.address()).await;
    let first = Hop::toward(second.sidecar.address()).await;
    let unused = origin("unused").await;
    let callers = sidecar(unused.address(), &rules(first.sidecar.address())).start().await;
    let served = call(callers.outbound()).await;
    let asked = CALLERS * CALLS;
    let seen = [asked, first.app.count(), second.app.count(), fleet.all().len()];
    let hops: Vec<f64> = seen.windows(2).map(|pair| pair[1] as f64 / pair[0] as f64).collect();
    let whole = seen[3] as f64 / asked as f64;
    println!("half of the answers are 503: {served} of {asked} served; {hops:.2?} by hop, {whole:.2} in all");
    for hop in hops {
        assert!((1.0..=MOST).contains(&hop), "{hop}");
    }
    assert!(whole <= MOST, "{whole}");
    let heard = metric(
        &callers.proxy.metrics().await,
        "leno_cluster_retries_ended_total",
        &["outcome=\"given_up_further_on\""],
    );
    assert!(heard > 0.0, "the first hop has heard that it need not try again");
}
