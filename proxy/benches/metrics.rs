//! What metrics cost a request: one key, one look-up, some additions. No lock, no allocation, no formatting.
//!
//! `cargo bench --workspace --bench metrics`. The first group prints the time of one counted request with few and with many
//! series in the worker's table, when there are too many, and for a host outside the mesh; the second what counting gRPC
//! messages adds to a frame of a body; the third what a scrape costs, which no request waits for.
#![allow(missing_docs)] // criterion's macros write public items.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use leno_config::ir::{Direction, Locality};
use leno_config::node::{Interception, Node};
use leno_proxy::error::Flags;
use leno_proxy::telemetry::grpc::Messages;
use leno_proxy::telemetry::names;
use leno_proxy::telemetry::party::Target;
use leno_proxy::telemetry::requests::{Request, RequestKey};
use leno_proxy::telemetry::{Dialect, Form, Meters, Spoken, Telemetry};
use prometheus::core::Collector as _;

const REQUEST: Request =
    Request { micros: 1_234, request_bytes: 0, response_bytes: 512, request_messages: 0, response_messages: 0 };

fn telemetry() -> Arc<Telemetry> {
    let node = Node {
        name: "web-1".to_owned(),
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        workload: "web".to_owned(),
        labels: BTreeMap::new(),
        locality: Locality::default(),
        interception: Interception::None,
    };
    Arc::new(Telemetry::new(&node, Dialect::Istio))
}

fn key(target: u32) -> RequestKey {
    RequestKey {
        direction: Direction::Outbound,
        link: names::UNKNOWN,
        target,
        route: names::UNKNOWN,
        code: 200,
        flags: Flags::default(),
        grpc: None,
        spoken: Spoken::Http,
        form: Form::default(),
    }
}

/// A worker that has counted requests for so many services.
fn busy(telemetry: &Telemetry, services: usize) -> (Meters, u32) {
    let meters = Meters::new(telemetry);
    let mut last = names::UNKNOWN;
    for number in 0..services {
        last = telemetry.labels().targets.intern(Target::of_host(&format!("s{number}.shop.svc.cluster.local"))).id();
        meters.request(key(last), &REQUEST);
    }
    (meters, last)
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a counted request");
    for services in [1, 100, 8_000] {
        let telemetry = telemetry();
        let (meters, last) = busy(&telemetry, services);
        group.bench_with_input(BenchmarkId::new("series", services), &last, |bencher, &last| {
            bencher.iter(|| meters.request(black_box(key(last)), black_box(&REQUEST)));
        });
    }
    let telemetry = telemetry();
    let meters = Meters::new(&telemetry);
    for code in 0..9_000 {
        meters.request(RequestKey { code, ..key(names::UNKNOWN) }, &REQUEST);
    }
    group.bench_function("too many series", |bencher| {
        bencher.iter(|| meters.request(black_box(RequestKey { code: 9_999, ..key(names::UNKNOWN) }), &REQUEST));
    });
    let cluster = telemetry.labels().targets.intern(Target::of_host("PassthroughCluster"));
    group.bench_function("a host outside the mesh", |bencher| {
        bencher.iter(|| black_box(meters.outside(&cluster, black_box("api.example.com"))));
    });
    group.finish();
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("messages of a frame");
    let message = [&[0, 0, 0, 0, 95][..], &[7; 95]].concat();
    for (name, frame) in [("one of 100 bytes", message.clone()), ("160 of 100 bytes", message.repeat(160))] {
        group.bench_function(name, |bencher| {
            let mut messages = Messages::default();
            bencher.iter(|| messages.passed(black_box(&frame)));
        });
    }
    group.finish();
}

fn scrapes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a scrape");
    group.sample_size(10);
    for services in [10, 1_000] {
        let telemetry = telemetry();
        let _meters = busy(&telemetry, services);
        let collector = telemetry.collector().unwrap();
        group.bench_function(BenchmarkId::from_parameter(services), |bencher| bencher.iter(|| collector.collect()));
    }
    group.finish();
}

criterion_group!(benches, requests, messages, scrapes);
criterion_main!(benches);
