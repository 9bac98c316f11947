//! A request that is over as OTLP's spans, with the attributes of OpenTelemetry's semantic conventions for HTTP and gRPC.
//!
//! Names of spans are those of the conventions, of which there are few: `GET`, or `package.Service/Method`; which URL it
//! was is said by attributes. Of a query only that there was one is told, as it may hold secrets. What the conventions have
//! no name for is called `leno.…`.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, Method, Version};
use leno_config::ir::{AbortStatus, Direction, TagValue, Tracing};
use leno_config::node::Node;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use crate::attempt::Protocol;
use crate::cluster::outcome::Outcome;

use super::id::SpanId;
use super::spans::{Attempted, Finished};

/// Longest value that is taken from a header, in bytes.
const MOST_TEXT: usize = 256;
/// Bits of a span's flags that say whether its parent came over the wire: known, and it did.
const REMOTE_PARENT: u32 = 0x100 | 0x200;
const LOCAL_PARENT: u32 = 0x100;
/// Methods that the conventions know by name.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::CONNECT,
    Method::TRACE,
];

/// The spans of one proxy, as an export has them. `service`: what they are called after; empty: the proxy's workload.
pub(super) fn export(node: &Node, service: &str, spans: Vec<Span>) -> ResourceSpans {
    let scope = InstrumentationScope {
        name: "leno".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..Default::default() }];
    ResourceSpans { resource: Some(resource(node, service)), scope_spans, ..Default::default() }
}

fn resource(node: &Node, service: &str) -> Resource {
    let app = node.labels.get(leno_config::defaults::APP_LABEL).unwrap_or(&node.workload);
    let own = || format!("{app}.{}", node.namespace);
    let mut attributes = Attributes::default();
    attributes.text("service.name", if service.is_empty() { own() } else { service.to_owned() });
    if let Some(version) = node.labels.get("version") {
        attributes.text("service.version", version.clone());
    }
    attributes.text("service.instance.id", format!("{}.{}", node.name, node.namespace));
    attributes.text("k8s.namespace.name", node.namespace.clone());
    attributes.text("telemetry.sdk.name", "leno".to_owned());
    attributes.text("telemetry.sdk.language", "rust".to_owned());
    attributes.text("telemetry.sdk.version", env!("CARGO_PKG_VERSION").to_owned());
    Resource { attributes: attributes.0, ..Default::default() }
}

/// The request's span, then one of each attempt that has one.
pub(super) fn spans(finished: &Finished, tracing: &Tracing) -> Vec<Span> {
    let common = Common::of(finished, tracing);
    let attempts = finished.attempts.iter().enumerate();
    let attempts =
        attempts.filter_map(|(at, attempt)| Some(attempt_span(finished, &common, at, attempt, attempt.span?)));
    std::iter::once(request_span(finished, &common)).chain(attempts).collect()
}

/// What all spans of a request say.
struct Common {
    direction: Direction,
    name: String,
    trace_state: String,
    attributes: Attributes,
    grpc_status: Option<u32>,
}

impl Common {
    fn of(finished: &Finished, tracing: &Tracing) -> Self {
        let headers = &finished.request_headers;
        let path = cut(finished.target.path(), usize::try_from(tracing.longest_path).unwrap_or(usize::MAX));
        let method = Some(&finished.method).filter(|method| METHODS.contains(method));
        let mut attributes = Attributes::default();
        attributes.text("http.request.method", method.map_or("_OTHER", |method| method.as_str()).to_owned());
        if method.is_none() {
            attributes.text("http.request.method_original", cut(finished.method.as_str(), MOST_TEXT).to_owned());
        }
        attributes.text("url.scheme", scheme(finished).to_owned());
        attributes.text("url.path", path.to_owned());
        if finished.target.query().is_some() {
            attributes.text("url.query", "REDACTED".to_owned());
        }
        let (host, port) = host_and_port(finished);
        if !host.is_empty() {
            attributes.text("server.address", host);
            attributes.number("server.port", port.into());
        }
        let is_grpc = crate::headers::is_grpc(headers);
        if is_grpc {
            attributes.text("rpc.system.name", "grpc".to_owned());
            attributes.text("rpc.method", path.trim_start_matches('/').to_owned());
        }
        for tag in &tracing.tags {
            let value = match &tag.value {
                TagValue::Literal(text) => Some(text.clone()),
                TagValue::Header { name, default } => text_of(headers, name.as_str())
                    .or_else(|| Some(default.clone()).filter(|default| !default.is_empty())),
            };
            if let Some(value) = value {
                attributes.text(&tag.name, value);
            }
        }
        let name = match method {
            _ if is_grpc => path.trim_start_matches('/').to_owned(),
            Some(method) => method.as_str().to_owned(),
            None => "HTTP".to_owned(),
        };
        let status = finished.grpc_status.as_ref().and_then(|status| status.to_str().ok());
        Self {
            direction: finished.listener.config.direction,
            name,
            trace_state: text_of(headers, "tracestate").unwrap_or_default(),
            attributes,
            grpc_status: status.filter(|_| is_grpc).and_then(|status| status.parse().ok()),
        }
    }
}

fn request_span(finished: &Finished, common: &Common) -> Span {
    let context = &finished.trace.context;
    let mut attributes = Attributes(common.attributes.0.clone());
    let is_server = common.direction == Direction::Inbound;
    attributes.text("network.protocol.version", version(finished.version).to_owned());
    if is_server {
        attributes.text("client.address", finished.caller.ip().to_string());
    }
    attributes.peer(finished.caller);
    if let Some(agent) = text_of(&finished.request_headers, USER_AGENT.as_str()) {
        attributes.text("user_agent.original", agent);
    }
    if !is_server {
        attributes.text("url.full", url(finished, common));
    }
    attributes.number("http.request.body.size", count(finished.request_bytes));
    attributes.number("http.response.body.size", count(finished.response_bytes));
    let error = request_error(finished, common, is_server);
    if finished.code != 0 {
        attributes.number("http.response.status_code", finished.code.into());
    }
    attributes.answer(common.grpc_status, error.as_deref());
    leno(finished, &mut attributes);
    Span {
        trace_id: context.trace.bytes().to_vec(),
        span_id: context.span.bytes().to_vec(),
        parent_span_id: context.parent.map(|parent| parent.bytes().to_vec()).unwrap_or_default(),
        trace_state: common.trace_state.clone(),
        flags: 1 | REMOTE_PARENT,
        name: common.name.clone(),
        kind: if is_server { SpanKind::Server } else { SpanKind::Client }.into(),
        start_time_unix_nano: nanos(finished.began),
        end_time_unix_nano: nanos(finished.began + finished.duration),
        attributes: attributes.0,
        status: Some(status(error, finished.error.as_deref())),
        ..Default::default()
    }
}

/// What only a mesh knows.
fn leno(finished: &Finished, attributes: &mut Attributes) {
    let flags = finished.flags.to_string();
    if flags != "-" {
        attributes.text("leno.flags", flags);
    }
    if let Some(rule) = rule(finished) {
        attributes.text("leno.rule", rule);
    }
    if let Some(cluster) = &finished.cluster {
        attributes.text("leno.cluster", cluster.config.name.to_string());
    }
    if let Some(id) = finished.request_id.as_ref().and_then(|id| id.to_str().ok()) {
        attributes.text("leno.request_id", cut(id, MOST_TEXT).to_owned());
    }
    if let Some((id, workload)) = &finished.peer {
        attributes.text("leno.source.identity", id.to_string());
        if let Some(workload) = workload {
            attributes.text("leno.source.workload", format!("{}.{}", workload.workload, workload.namespace));
        }
    }
}

fn rule(finished: &Finished) -> Option<String> {
    let http = finished.listener.http()?;
    let (host, route) = finished.route?;
    http.table.route(host, route)?.origin.as_ref().map(ToString::to_string)
}

fn attempt_span(finished: &Finished, common: &Common, at: usize, attempt: &Attempted, span: SpanId) -> Span {
    let context = &finished.trace.context;
    let mut attributes = Attributes(common.attributes.0.clone());
    let endpoint = attempt.endpoint.address;
    attributes.text("url.full", url(finished, common));
    attributes.peer(endpoint);
    attributes.text(
        "network.protocol.version",
        match attempt.protocol {
            Protocol::Http1 => "1.1",
            Protocol::Http2 => "2",
        }
        .to_owned(),
    );
    if attempt.number > 1 {
        attributes.number("http.request.resend_count", i64::from(attempt.number) - 1);
    }
    attributes.number("leno.attempt", attempt.number.into());
    if let Some(cluster) = &finished.cluster {
        attributes.text("leno.cluster", cluster.config.name.to_string());
    }
    if let Some(identity) = attempt.identity.as_ref().or(attempt.endpoint.security.identity.as_ref()) {
        attributes.text("leno.destination.identity", identity.to_string());
    }
    let last = at + 1 == finished.attempts.len();
    let error = attempt_error(finished, attempt, last);
    if let Some(status) = attempt.status {
        attributes.number("http.response.status_code", status.as_u16().into());
    }
    let answered = matches!(attempt.outcome, Some(Outcome::Answered(_)));
    attributes.answer(common.grpc_status.filter(|_| last && answered), error.as_deref());
    let end = match finished.attempts.get(at + 1) {
        // The last one that was answered lasts as long as its answer.
        None if answered => finished.arrived + finished.duration,
        None => attempt.ended.unwrap_or(finished.arrived + finished.duration),
        Some(next) => attempt.ended.unwrap_or(next.began),
    };
    let since = |moment: tokio::time::Instant| moment.saturating_duration_since(finished.arrived);
    Span {
        trace_id: context.trace.bytes().to_vec(),
        span_id: span.bytes().to_vec(),
        parent_span_id: context.span.bytes().to_vec(),
        trace_state: common.trace_state.clone(),
        flags: 1 | LOCAL_PARENT,
        name: common.name.clone(),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: nanos(finished.began + since(attempt.began)),
        end_time_unix_nano: nanos(finished.began + since(end)),
        attributes: attributes.0,
        status: Some(status(error, None)),
        ..Default::default()
    }
}

/// What went wrong, as `error.type` has it: of a server what is its own fault, of a client everything from 400. A caller
/// who left is nobody's status, but the request did not do what it should.
fn request_error(finished: &Finished, common: &Common, is_server: bool) -> Option<String> {
    let least = if is_server { 500 } else { 400 };
    if finished.code >= least {
        return Some(finished.code.to_string());
    }
    let grpc = common.grpc_status.filter(|status| if is_server { is_servers_fault(*status) } else { *status != 0 });
    if let Some(status) = grpc {
        return Some(grpc_name(status));
    }
    let flags = finished.flags.to_string();
    let broken = finished.code == 0 || finished.flags.reason() != crate::error::Flag::None && finished.code < 400;
    broken.then_some(flags).filter(|flags| flags != "-")
}

fn attempt_error(finished: &Finished, attempt: &Attempted, last: bool) -> Option<String> {
    match (attempt.outcome, attempt.status) {
        (Some(Outcome::Answered(_)), Some(status)) if status.as_u16() >= 400 => Some(status.as_str().to_owned()),
        // A gRPC error without a message, by the HTTP status that it stands for.
        (Some(Outcome::Answered(status)), _) if status >= 400 => Some(status.to_string()),
        (Some(Outcome::Answered(_) | Outcome::Connected), _) => None,
        (Some(Outcome::ConnectFailure), _) => Some("connect_failure".to_owned()),
        (Some(Outcome::TimedOut), _) => Some("timeout".to_owned()),
        (Some(Outcome::Reset), _) => Some("reset".to_owned()),
        (None, _) if last => {
            Some(finished.flags.to_string()).filter(|flags| flags != "-").or(Some("given_up".to_owned()))
        }
        // Not a byte of it was looked at, or there was no room for it.
        (None, _) => Some("not_sent".to_owned()),
    }
}

fn status(error: Option<String>, sentence: Option<&str>) -> Status {
    match error {
        Some(_) => Status { code: StatusCode::Error.into(), message: sentence.unwrap_or_default().to_owned() },
        None => Status { code: StatusCode::Unset.into(), message: String::new() },
    }
}

/// The conventions' list for gRPC servers: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
fn is_servers_fault(status: u32) -> bool {
    matches!(status, 2 | 4 | 12 | 13 | 14 | 15)
}

fn grpc_name(status: u32) -> String {
    let name = usize::try_from(status).ok().and_then(|at| AbortStatus::GRPC.get(at));
    name.map_or_else(|| status.to_string(), |name| (*name).to_owned())
}

fn scheme(finished: &Finished) -> &'static str {
    if finished.peer.is_some() { "https" } else { "http" }
}

/// Whom the caller meant.
fn authority(finished: &Finished) -> &str {
    match finished.target.authority() {
        Some(authority) => authority.as_str(),
        None => finished.request_headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

fn host_and_port(finished: &Finished) -> (String, u16) {
    let usual = if finished.peer.is_some() { 443 } else { 80 };
    let authority = authority(finished);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(usual)),
        Some(_) | None => (authority, usual),
    };
    (cut(host.trim_matches(['[', ']']), MOST_TEXT).to_owned(), port)
}

fn url(finished: &Finished, common: &Common) -> String {
    let path = common.attributes.get("url.path").unwrap_or("/");
    let query = if finished.target.query().is_some() { "?REDACTED" } else { "" };
    format!("{}://{}{path}{query}", scheme(finished), cut(authority(finished), MOST_TEXT))
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        // What else comes was told apart long before.
        _ => "1.1",
    }
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned();
    let most = if name == "tracestate" { super::context::MOST_STATE } else { MOST_TEXT };
    Some(cut(&text, most).to_owned())
}

/// The first bytes of a text, as many as are whole letters.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Attributes in the making.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &str, value: String) {
        self.add(key, Value::StringValue(value));
    }

    fn number(&mut self, key: &str, value: i64) {
        self.add(key, Value::IntValue(value));
    }

    fn add(&mut self, key: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.to_owned(), value, ..Default::default() });
    }

    /// Who is at the other end of the connection.
    fn peer(&mut self, address: SocketAddr) {
        self.text("network.peer.address", address.ip().to_string());
        self.number("network.peer.port", address.port().into());
    }

    /// How it ended.
    fn answer(&mut self, grpc: Option<u32>, error: Option<&str>) {
        if let Some(status) = grpc {
            self.text("rpc.response.status_code", grpc_name(status));
        }
        if let Some(error) = error {
            self.text("error.type", error.to_owned());
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|one| one.key == key)?.value.as_ref()?.value.as_ref()?;
        if let Value::StringValue(text) = found { Some(text) } else { None }
    }
}
