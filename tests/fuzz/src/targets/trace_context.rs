//! The trace that a request says it belongs to: lines are header fields, `NAME: VALUE`.

use http::{HeaderMap, HeaderName, HeaderValue};
use leno_proxy::telemetry::trace::context::{Context, Formats, Parent, extract};
use leno_proxy::telemetry::trace::id::SpanId;

use crate::Target;
use crate::input::Input;

const NAMES: [(Formats, &[&str]); 4] = [
    (Formats::W3C, &["traceparent"]),
    (Formats::B3, &["b3"]),
    (Formats::B3_MULTI, &["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"]),
    (Formats::UBER, &["uber-trace-id"]),
];

pub(crate) const TARGET: Target = Target {
    name: "trace_context",
    property: "whatever came, each format that goes out tells of the same trace, the same span and the same decision",
    check,
    words: &[
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
        "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1\n",
        "b3: d\n",
        "x-b3-traceid: 463ac35c9f6413ad\n",
        "x-b3-spanid: a2fb4a1d1a96d312\n",
        "x-b3-sampled: 1\n",
        "x-b3-flags: 1\n",
        "uber-trace-id: 1:2:0:3\n",
        "%3a",
        "-",
        "0",
    ],
};

fn check(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in Input(data).lines() {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let arrived = extract(&headers);
    assert!(arrived.formats.has(arrived.source));
    let Some(parent) = arrived.parent else { return };
    let span = SpanId::new(0x1234_5678_9abc_def0).expect("not zero");
    let sampled = arrived.forced || arrived.sampled.unwrap_or(true);
    let context = Context {
        trace: parent.trace,
        span,
        parent: Some(parent.span),
        sampled,
        ordered: arrived.forced,
        random: parent.random,
    };
    context.write_all(&mut headers, arrived.formats);
    for (format, names) in NAMES {
        if format != Formats::W3C && !arrived.formats.has(format) {
            continue;
        }
        let mut alone = HeaderMap::new();
        for name in names {
            for value in headers.get_all(*name) {
                alone.append(*name, value.clone());
            }
        }
        let told = extract(&alone);
        assert_eq!(told.parent.map(same), Some(same(Parent { trace: parent.trace, span, random: false })), "{alone:?}");
        if alone.contains_key("x-b3-sampled") || format != Formats::B3_MULTI {
            assert_eq!(told.sampled, Some(sampled), "{alone:?}");
        }
    }
}

/// Only W3C's form tells whether an id is random.
fn same(parent: Parent) -> ([u8; 16], [u8; 8]) {
    (parent.trace.bytes(), parent.span.bytes())
}
