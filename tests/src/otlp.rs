//! A small collector of spans: OTLP over gRPC and over HTTP, on one port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use prost::Message as _;
use tokio::sync::Notify;

use crate::client::{Body, full, stream};
use crate::origin::Origin;
use crate::wait::eventually;

/// A span as it came, with what the tests ask of it as text.
#[derive(Debug, Clone)]
pub struct SpanSeen {
    /// 32 digits.
    pub trace: String,
    /// 16 digits.
    pub id: String,
    /// 16 digits; empty: none.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// Which side of a request it stands for.
    pub kind: SpanKind,
    /// Whether it failed.
    pub is_error: bool,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// What it says, numbers as text.
    pub attributes: BTreeMap<String, String>,
    /// What its sender says of itself.
    pub resource: BTreeMap<String, String>,
    /// `application/grpc` or `application/x-protobuf`.
    pub over: String,
}

impl SpanSeen {
    /// An attribute; empty where it is not there.
    pub fn says(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// Whose span it is.
    pub fn service(&self) -> &str {
        self.resource.get("service.name").map_or("", String::as_str)
    }
}

/// The collector. It takes what comes until it is told otherwise.
pub struct Collector {
    origin: Origin,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    spans: Mutex<Vec<SpanSeen>>,
    holds: AtomicBool,
    released: Notify,
    status: Mutex<Option<StatusCode>>,
}

/// A collector with nothing in it.
pub async fn collector() -> Collector {
    let state = Arc::new(State::default());
    let own = Arc::clone(&state);
    let origin = Origin::scripted(move |request| export(request, Arc::clone(&own))).await;
    Collector { origin, state }
}

impl Collector {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.origin.address()
    }

    /// All that came.
    pub fn spans(&self) -> Vec<SpanSeen> {
        self.state.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans of one trace, once there are as many.
    pub async fn trace(&self, id: &str, count: usize) -> Vec<SpanSeen> {
        self.find(&format!("trace {id}"), count, |span| span.trace == id).await
    }

    /// The spans of which this holds, once there are as many.
    pub async fn find(&self, what: &str, count: usize, holds: impl Fn(&SpanSeen) -> bool) -> Vec<SpanSeen> {
        eventually(&format!("the collector has {count} spans of {what}"), async || {
            let found = self.spans().into_iter().filter(&holds).collect::<Vec<_>>();
            if found.len() >= count { Ok(found) } else { Err(format!("{found:#?}")) }
        })
        .await
    }

    /// From now on it answers nobody, until it is released.
    pub fn hold(&self) {
        self.state.holds.store(true, Ordering::SeqCst);
    }

    /// It answers again.
    pub fn release(&self) {
        self.state.holds.store(false, Ordering::SeqCst);
        self.state.released.notify_waiters();
    }

    /// From now on it takes nothing, and says so with this status; `None`: it takes what comes.
    pub fn refuse(&self, status: Option<StatusCode>) {
        *self.state.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

async fn export(request: Request<Incoming>, state: Arc<State>) -> Response<Body> {
    let released = state.released.notified();
    if state.holds.load(Ordering::SeqCst) {
        released.await;
    }
    if let Some(status) = *state.status.lock().unwrap_or_else(PoisonError::into_inner) {
        return empty(status);
    }
    let over = request.headers().get("content-type").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    let (path, is_grpc) = (request.uri().path().to_owned(), over == "application/grpc");
    let expected = if is_grpc { "/opentelemetry.proto.collector.trace.v1.TraceService/Export" } else { "/v1/traces" };
    if path != expected {
        return empty(StatusCode::NOT_FOUND);
    }
    let Ok(body) = request.into_body().collect().await else { return empty(StatusCode::BAD_REQUEST) };
    let body = body.to_bytes();
    let message = if is_grpc { body.slice(5.min(body.len())..) } else { body };
    let Ok(message) = ExportTraceServiceRequest::decode(message) else { return empty(StatusCode::BAD_REQUEST) };
    let read = read(message, &over);
    state.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(read);
    if is_grpc { grpc_answer() } else { Response::new(full(ExportTraceServiceResponse::default().encode_to_vec())) }
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(crate::client::empty());
    *response.status_mut() = status;
    response
}

/// A message, and the status in the trailers, as collectors have it.
fn grpc_answer() -> Response<Body> {
    let (sender, body) = stream();
    let message = ExportTraceServiceResponse::default().encode_to_vec();
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("a short message"));
    bytes.put_slice(&message);
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    tokio::spawn(async move {
        let _ = sender.send(Ok(Frame::data(Bytes::from(bytes)))).await;
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn read(message: ExportTraceServiceRequest, over: &str) -> Vec<SpanSeen> {
    let mut all = Vec::new();
    for from in message.resource_spans {
        let resource = texts(from.resource.map(|resource| resource.attributes).unwrap_or_default());
        let spans = from.scope_spans.into_iter().flat_map(|scope| scope.spans);
        all.extend(spans.map(|span| seen(span, &resource, over)));
    }
    all
}

fn seen(span: Span, resource: &BTreeMap<String, String>, over: &str) -> SpanSeen {
    SpanSeen {
        trace: digits(&span.trace_id),
        id: digits(&span.span_id),
        parent: digits(&span.parent_span_id),
        kind: span.kind(),
        is_error: span.status.as_ref().is_some_and(|status| status.code() == SpanStatus::Error),
        name: span.name,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        attributes: texts(span.attributes),
        resource: resource.clone(),
        over: over.to_owned(),
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |one: KeyValue| (one.key, one.value.and_then(|value| value.value).map(text).unwrap_or_default());
    attributes.into_iter().map(value).collect()
}
