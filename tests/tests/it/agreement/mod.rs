//! Three who count the same requests agree: the caller, the metrics of the sidecars and their access logs.
//!
//! ```text
//! callers ──▶ sidecar ──mTLS──▶ sidecar ──▶ scripted app
//!   │         │      │          │     │
//!   count     log    metrics    log   metrics
//! ```
//!
//! 10 000 numbered requests, mixed by a seed: served, tried again, failed on purpose, denied, led nowhere, late, reset, and
//! given up by their callers in the middle of a body. Each stands exactly once in the log of the caller's sidecar, and in
//! that of the app's once for each attempt that got there, with the status and the flags that its kind has to have.

mod caller;
mod kinds;
mod log;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use leno_tests::exposition::samples;
use leno_tests::scripted::{Fleet, Manner};
use leno_tests::{Mesh, Proxy, Random, eventually, mesh};
use tempfile::TempDir;
use tokio::task::JoinSet;

use caller::{Caller, Heard};
use kinds::{KINDS, Order, There, orders};
use log::Log;

const SEED: u64 = 20;
const CALLERS: usize = 16;

const RULES: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: default}
spec:
  selector: {matchLabels: {app: shop}}
  action: DENY
  rules: [{to: [{operation: {paths: [/denied/*]}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: no-limits, namespace: default}
spec: {host: shop, trafficPolicy: {connectionPool: {http: {maxRetries: 10000}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop]
  http:
  - match: [{uri: {prefix: /abort/}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 418}}
    route: [{destination: {host: shop}}]
  - match: [{uri: {prefix: /delay/}}]
    fault: {delay: {percentage: {value: 100}, fixedDelay: 0.001s}}
    route: [{destination: {host: shop}}]
  - match: [{uri: {prefix: /moved/}}]
    redirect: {uri: /elsewhere}
  - match: [{uri: {prefix: /again/}}, {uri: {prefix: /in-vain/}}]
    retries: {attempts: 2, retryOn: '503', backoff: 1ms}
    route: [{destination: {host: shop}}]
  - match: [{uri: {prefix: /late/}}]
    timeout: 0.1s
    retries: {attempts: 0}
    route: [{destination: {host: shop}}]
  - match: [{uri: {prefix: /ok/}}, {uri: {prefix: /told/}}, {uri: {prefix: /missing/}}, {uri: {prefix: /denied/}},
            {uri: {prefix: /reset/}}, {uri: {prefix: /broken/}}, {uri: {prefix: /left-}}]
    retries: {attempts: 0}
    route: [{destination: {host: shop}}]
";

/// All sidecars log into one file.
fn logged(file: &Path) -> String {
    format!(
        "---\napiVersion: leno.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh, namespace: istio-system}}\n\
         spec: {{access_log: {{format: json, path: {}}}}}\n",
        file.display()
    )
}

/// How often something was said: status and flags.
type Counts = BTreeMap<(u16, String), usize>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_metrics_and_caller_agree_on_ten_thousand_requests() {
    let fleet = Fleet::new();
    let (shop, greeter) = (fleet.server("shop", Manner::Obeys).await, fleet.server("greeter", Manner::Obeys).await);
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("access.log");
    let mesh = mesh()
        .encrypted()
        .service("shop", &[("v1", shop.address())])
        .service_on("greeter", (80, "grpc", "GRPC"), &[("v1", greeter.address())])
        .rules(&(RULES.to_owned() + &logged(&file)))
        .start()
        .await;
    let mut random = Random::new(SEED);
    let orders = orders(&mut random);
    assert_eq!(orders.len(), 10_000);
    let started = Instant::now();
    let heard = make(&mesh, &fleet, &orders, &mut random).await;
    eprintln!("{} requests in {:?}", heard.len(), started.elapsed());
    mesh_is_at_rest(&mesh).await;

    let here = counted([&mesh.client], ("http_requests_total", "direction", "outbound")).await;
    assert_eq!(here, expected_here(), "http_requests_total of the caller's sidecar");
    let there = counted(&mesh.peers, ("http_requests_total", "direction", "inbound")).await;
    assert!(is_expected_there(&there), "http_requests_total of the app's sidecars: {there:?}");
    let client = std::slice::from_ref(&mesh.client);
    for (reporter, proxies, by_route) in [("source", client, &here), ("destination", &mesh.peers, &there)] {
        let counts = counted(proxies, ("istio_requests_total", "reporter", reporter)).await;
        assert_eq!(counts, *by_route, "istio_requests_total of the {reporter}");
    }
    callers_heard_what_they_were_to_hear(&orders, &heard);

    let lines = here.values().chain(there.values()).sum();
    let wrong = Log::read(&file, mesh.outbound(), lines).await.complaints(&orders);
    assert!(wrong.is_empty(), "the log tells {} requests otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

/// All requests, by several callers at once.
async fn make(mesh: &Mesh, fleet: &Fleet, orders: &[Order], random: &mut Random) -> Vec<Heard> {
    let mut callers = JoinSet::new();
    for share in orders.chunks(orders.len().div_ceil(CALLERS)) {
        let seed = u64::try_from(random.below(usize::MAX)).expect("usize fits u64");
        callers.spawn(Caller::new(mesh.outbound(), fleet, Random::new(seed)).makes(share.to_vec()));
    }
    let mut heard: Vec<Heard> = callers.join_all().await.into_iter().flatten().collect();
    heard.sort_by_key(|heard| heard.number);
    heard
}

/// A request that its caller gave up ends a moment later.
async fn mesh_is_at_rest(mesh: &Mesh) {
    for proxy in std::iter::once(&mesh.client).chain(&mesh.peers) {
        eventually("nothing is under way", async || {
            let active = leno_tests::metric(&proxy.metrics().await, "active_requests", &[]);
            if active == 0.0 { Ok(()) } else { Err(format!("{active} requests")) }
        })
        .await;
    }
}

fn callers_heard_what_they_were_to_hear(orders: &[Order], heard: &[Heard]) {
    let mut wrong = Vec::new();
    for (order, heard) in orders.iter().zip(heard) {
        let kind = order.kind;
        let said = (heard.number, heard.code, heard.grpc.as_str());
        if said != (order.number, kind.here.0, kind.grpc) || !kind.may_tell(&heard.flag) {
            wrong.push(format!("{}: {heard:?}", order.path()));
        }
    }
    assert!(wrong.is_empty(), "{} callers heard something else:\n{}", wrong.len(), wrong.join("\n"));
}

/// What the caller's sidecar has to have counted.
fn expected_here() -> Counts {
    let mut expected = Counts::new();
    for kind in KINDS {
        *expected.entry((kind.here.0, kind.here.1.to_owned())).or_default() += kind.count;
    }
    expected
}

/// Whether the apps' sidecars have counted what they had to, and at most what they could.
fn is_expected_there(counts: &Counts) -> bool {
    let (mut least, mut more) = (Counts::new(), Counts::new());
    for kind in KINDS {
        let (words, sums) = match kind.there {
            There::Each(words) => (words, &mut least),
            There::AtMost(ref word) => (std::slice::from_ref(word), &mut more),
        };
        for (code, flags) in words {
            *sums.entry((*code, (*flags).to_owned())).or_default() += kind.count;
        }
    }
    let words: BTreeSet<_> = counts.keys().chain(least.keys()).collect();
    let of = |sums: &Counts, word| sums.get(word).copied().unwrap_or_default();
    words.into_iter().all(|word| {
        let least = of(&least, word);
        (least..=least + of(&more, word)).contains(&of(counts, word))
    })
}

/// A counter of requests over some proxies where a label has a value, by status and flags.
async fn counted(proxies: impl IntoIterator<Item = &Proxy>, (metric, label, value): (&str, &str, &str)) -> Counts {
    let mut counts = Counts::new();
    for proxy in proxies {
        for sample in samples(&proxy.metrics().await) {
            if sample.metric == metric && sample.label(label) == value {
                let code = sample.label("response_code").parse().expect("a status is a number");
                *counts.entry((code, sample.label("response_flags").to_owned())).or_default() += sample.count();
            }
        }
    }
    counts
}
