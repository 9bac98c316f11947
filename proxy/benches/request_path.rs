//! What the request path pays for size: host look-up, route match and endpoint pick, small and large.
//!
//! `cargo bench --workspace --bench request_path`. Host look-up and pick are to cost the same at 10 and at 10 000; so is a route match whose
//! path decides. Ratios within one run are what counts.
#![allow(missing_docs)] // criterion's macros write public items.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use leno_config::ir::*;
use leno_proxy::cluster::balance::{Balancer, PickContext, Position};
use leno_proxy::cluster::{EndpointState, Member, Membership};
use leno_proxy::random::Random;
use leno_proxy::route::{RequestView, RouteTable};
use leno_proxy::telemetry::trace::{context, decide};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn route(path: PathMatch) -> Route {
    Route {
        name: String::new(),
        origin: None,
        matcher: RouteMatch { path, headers: Vec::new(), query: Vec::new(), claims: Vec::new() },
        action: Action::Direct(DirectResponse { status: StatusCode::OK, body: Vec::new() }),
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        cors: None,
        fault: None,
        authorization: None,
        refused_in_path: leno_config::ir::Separators::NONE,
    }
}

fn host(name: String, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { domains: vec![Domain::parse(&name).unwrap()], name, routes, attempt_count: Default::default() }
}

fn request<'a>(authority: &'a str, path: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView { method: &Method::GET, scheme: "http", authority, path, query: None, headers, claims: None }
}

fn hosts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("host look-up");
    for size in SIZES {
        let hosts = (0..size)
            .map(|at| host(format!("svc-{at}.default.svc.cluster.local:9080"), vec![route(PathMatch::any())]))
            .collect();
        let table = RouteTable::new(Arc::new(RouteConfig::new("hosts", hosts).unwrap()));
        let wanted = format!("svc-{}.default.svc.cluster.local:9080", size / 2);
        group.bench_with_input(BenchmarkId::from_parameter(size), &wanted, |bencher, wanted| {
            bencher.iter(|| table.host(black_box(wanted)));
        });
    }
    group.finish();
}

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route match");
    let headers = HeaderMap::new();
    for size in SIZES {
        let exact = |at| route(PathMatch::Exact { value: format!("/api/resource-{at}"), ignore_case: false });
        let mut all: Vec<Route> = (0..size - 1).map(exact).collect();
        all.push(route(PathMatch::any()));
        let table = RouteTable::new(Arc::new(RouteConfig::new("routes", vec![host("a".to_owned(), all)]).unwrap()));
        let path = format!("/api/resource-{}", size / 2);
        let first = request("a", &path, &headers);
        group.bench_function(BenchmarkId::new("in the middle", size), |bencher| {
            bencher.iter(|| table.find(0, black_box(&first)));
        });
        let last = request("a", "/elsewhere", &headers);
        group.bench_function(BenchmarkId::new("catch-all at the end", size), |bencher| {
            bencher.iter(|| table.find(0, black_box(&last)));
        });
    }
    group.finish();
}

fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("endpoint pick");
    let policies = [
        ("least request", Balance::LeastRequest { choices: 2 }),
        ("round robin", Balance::RoundRobin),
        ("random", Balance::Random),
        ("peak EWMA", Balance::PeakEwma),
        ("ring hash", Balance::RingHash { min: 1024, max: 8 << 20 }),
        ("Maglev", Balance::Maglev { table: 65_537 }),
    ];
    for (name, policy) in &policies {
        for (size, weighted) in [(10, false), (10_000, false), (10, true), (10_000, true)] {
            let members: Vec<Member> = (0..size)
                .map(|at: u16| {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, at + 1));
                    let weight = if weighted { u32::from(at % 7) + 1 } else { 1 };
                    Member::new(Arc::new(EndpointState::new(address)), weight)
                })
                .collect();
            let discovery = Discovery::Eds { service: None };
            let cluster = Cluster { balance: policy.clone(), ..Cluster::new(ClusterName::new("c"), discovery) };
            let balancer = Arc::new(Balancer::new(&cluster, Membership::flat(members), 0));
            let (position, random, stats) = (Position::default(), Random::seeded(1), Arc::default());
            let name = if weighted { format!("{name}, weighted") } else { (*name).to_owned() };
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    let context = PickContext::first(&random, Some(random.next()));
                    position.pick(&balancer, &stats, &context)
                });
            });
        }
    }
    group.finish();
}

/// What a trace costs a request: nothing came, the flag is clear, it is recorded.
fn traces(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("trace context");
    let random = Random::seeded(1);
    for (name, traceparent) in [
        ("none", None),
        ("not sampled", Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")),
        ("sampled", Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
    ] {
        let mut headers = HeaderMap::new();
        for name in ["host", "user-agent", "accept", "x-request-id", "x-forwarded-proto"] {
            headers.insert(name, HeaderValue::from_static("a value"));
        }
        headers
            .extend(traceparent.map(|text| (HeaderName::from_static("traceparent"), HeaderValue::from_static(text))));
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || headers.clone(),
                |headers| {
                    let arrived = context::extract(black_box(headers));
                    decide(arrived, false, Fraction::NONE, true, &random).write(headers);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, hosts, routes, picks, traces);
criterion_main!(benches);
