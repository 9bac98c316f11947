//! What a line of the access log costs the worker: text and JSON, in their default forms, of a request as a browser sends it.
//!
//! `cargo bench --workspace --bench access_log`
#![allow(missing_docs)] // criterion's macros write public items.
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::hint::black_box;
use std::time::{Duration, UNIX_EPOCH};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use leno_config::ir::{Direction, HeaderKey, LogFormat, Operator, Plain};
use leno_proxy::telemetry::log::facts::{Tells, Value};
use leno_proxy::telemetry::log::render;

/// A request that went well.
struct Typical {
    headers: HeaderMap,
}

impl Typical {
    fn new() -> Self {
        let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
        let id = "7f0d1c7e-52a1-4e0c-9d8a-1c2b3a4d5e6f";
        let fields = [("user-agent", agent), ("x-request-id", id), ("x-envoy-upstream-service-time", "3")];
        let named =
            |(name, value): (&'static str, &'static str)| (name.parse().unwrap(), HeaderValue::from_static(value));
        Self { headers: fields.into_iter().map(named).collect() }
    }
}

impl Tells for Typical {
    fn value<'s>(&'s self, operator: &'s Operator) -> Value<'s> {
        match operator {
            Operator::StartTime(format) => Value::Time(UNIX_EPOCH + Duration::from_millis(1_704_067_199_123), format),
            Operator::RequestHeader(header) | Operator::ResponseHeader(header) => match &header.name {
                HeaderKey::Name(name) if self.headers.contains_key(&name.0) => {
                    Value::Fields(self.headers.get_all(&name.0))
                }
                HeaderKey::Name(_) => Value::Missing,
                _ => Value::Text(Cow::Borrowed(b"/api/v1/products/0/reviews")),
            },
            Operator::Address(..) | Operator::Plain(Plain::UpstreamHost) => {
                Value::Socket(([10, 0, 3, 17], 9080).into())
            }
            Operator::Plain(Plain::ResponseCode | Plain::BytesSent | Plain::BytesReceived | Plain::Duration) => {
                Value::Number(200)
            }
            Operator::Plain(Plain::UpstreamCluster | Plain::RouteName | Plain::ResponseCodeDetails) => {
                Value::Word("outbound|9080|v1|reviews.default.svc.cluster.local")
            }
            _ => Value::Missing,
        }
    }
}

fn lines(criterion: &mut Criterion) {
    let typical = Typical::new();
    let mut group = criterion.benchmark_group("access log line");
    for (name, format) in [("text", LogFormat::default_text()), ("json", LogFormat::default_json(Direction::Outbound))]
    {
        let mut out = Vec::with_capacity(64 * 1024);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                render::line(&mut out, black_box(&format), &typical);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lines);
criterion_main!(benches);
