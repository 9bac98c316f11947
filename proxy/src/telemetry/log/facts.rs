//! What there is to say of a request or connection that has ended, operator by operator.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use http::header::{GetAll, HeaderValue};
use http::{HeaderMap, Version};
use leno_config::ir::{
    self, AbortStatus, Action, AddressPart, End, GrpcStatusForm, HeaderChoice, HeaderKey, Operator, Origin, Plain,
    Route, Sensitive, TimeFormat,
};

use crate::cluster::outcome::Outcome;
use crate::downstream::Connection;
use crate::error::{Flag, Flags, details};
use crate::headers::name;
use crate::telemetry::detail::AttemptDetail;
use crate::telemetry::observe::{ConnectionEnded, Ended};
use crate::telemetry::redact::{self, Telling};
use crate::tls::peer::{Peer, Security};
use crate::worker::ListenerView;

use super::filter::Figures;

/// What a line is about.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A request.
    Request(&'a Ended),
    /// A TCP connection.
    Connection(&'a ConnectionEnded),
}

/// What an operator brings.
#[derive(Debug)]
pub enum Value<'a> {
    /// Nothing: `-`, or null.
    Missing,
    /// A number.
    Number(u64),
    /// A word of ours.
    Word(&'a str),
    /// Text from anywhere.
    Text(Cow<'a, [u8]>),
    /// The values of a header, joined with a comma.
    Fields(GetAll<'a, HeaderValue>),
    /// Text whose query is not told.
    BeforeQuery(&'a [u8]),
    /// Something that is not told.
    Redacted,
    /// An address.
    Socket(SocketAddr),
    /// An address.
    Ip(IpAddr),
    /// A moment.
    Time(SystemTime, &'a TimeFormat),
    /// Flags.
    Flags(Flags),
    /// A rule.
    Rule(&'a Origin),
}

/// What can fill a format.
pub trait Tells {
    /// What `operator` brings.
    fn value<'s>(&'s self, operator: &'s Operator) -> Value<'s>;
}

/// A subject, and how much of it may be told.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What the line is about.
    pub subject: Subject<'a>,
    /// What becomes of what should not be in a log.
    pub sensitive: Sensitive,
    /// Of the machine.
    pub hostname: &'a str,
}

impl Subject<'_> {
    /// What filters look at.
    pub fn figures(&self) -> Figures {
        match self {
            Self::Request(ended) => Figures { code: ended.code, millis: millis(ended.duration), flags: ended.flags },
            Self::Connection(ended) => Figures { code: 0, millis: millis(ended.duration), flags: ended.flags },
        }
    }
}

impl Tells for Facts<'_> {
    fn value<'s>(&'s self, operator: &'s Operator) -> Value<'s> {
        self.of(operator)
    }
}

impl<'a> Facts<'a> {
    fn of<'s>(&self, operator: &'s Operator) -> Value<'s>
    where
        'a: 's,
    {
        match operator {
            Operator::StartTime(format) => Value::Time(self.began(), format),
            Operator::EmitTime(format) => Value::Time(SystemTime::now(), format),
            Operator::RequestHeader(header) => either(header, |key| self.request_header(key)),
            Operator::ResponseHeader(header) => either(header, |key| self.response_header(key)),
            Operator::ResponseTrailer(header) => either(header, |key| match (self.subject, key) {
                (Subject::Request(ended), HeaderKey::Name(name)) => self.field(&ended.detail.trailers, &name.0),
                _ => Value::Missing,
            }),
            Operator::Address(end, part) => self.address(*end).map_or(Value::Missing, |address| match part {
                AddressPart::Whole => Value::Socket(address),
                AddressPart::WithoutPort => Value::Ip(address.ip()),
                AddressPart::Port => Value::Number(address.port().into()),
            }),
            Operator::RouteMetadata(path) => self.metadata(path),
            Operator::GrpcStatus(form) => self.grpc_status(*form),
            Operator::Plain(plain) => self.plain(*plain),
            Operator::Unknown(_) => Value::Missing,
        }
    }

    fn plain(&self, plain: Plain) -> Value<'a> {
        match plain {
            Plain::Protocol => self.request().map_or(Value::Missing, |ended| version(ended.detail.version)),
            Plain::UpstreamProtocol => match self.last() {
                Some(last) if last.local.is_some() => version(last.protocol.version()),
                // Nothing was spoken.
                Some(_) | None => Value::Missing,
            },
            Plain::ResponseCode => Value::Number(self.subject.figures().code.into()),
            Plain::ResponseCodeDetails => self.request().map_or(Value::Missing, code_details),
            Plain::ConnectionTerminationDetails => self.termination(),
            Plain::ResponseFlags => Value::Flags(self.subject.figures().flags),
            Plain::BytesReceived => Value::Number(self.bytes().0),
            Plain::BytesSent => Value::Number(self.bytes().1),
            Plain::Duration => Value::Number(self.subject.figures().millis),
            Plain::RequestDuration => time(self.request().and_then(|ended| ended.request_took)),
            Plain::ResponseDuration => time(self.request().and_then(head_after)),
            Plain::ResponseTxDuration => {
                time(self.request().and_then(|ended| Some(ended.duration.saturating_sub(head_after(ended)?))))
            }
            Plain::UpstreamHost => self.address(End::UpstreamRemote).map_or(Value::Missing, Value::Socket),
            Plain::UpstreamCluster | Plain::UpstreamClusterRaw => text(self.cluster()),
            Plain::UpstreamTransportFailureReason => self.transport_failure(),
            Plain::UpstreamRequestAttemptCount => {
                self.request().map_or(Value::Missing, |ended| Value::Number(ended.detail.attempts.len() as u64))
            }
            Plain::RequestedServerName => text(self.connection().server_name.as_deref()),
            Plain::RouteName => text(self.route().map(|route| route.name.as_str()).filter(|name| !name.is_empty())),
            Plain::DownstreamPeerUriSan => text(self.caller().map(|peer| peer.id.as_str())),
            Plain::DownstreamLocalUriSan => text(self.caller().map(|peer| peer.own.as_str())),
            Plain::UpstreamPeerUriSan => text(self.endpoint().map(|peer| peer.id.as_str())),
            Plain::UpstreamLocalUriSan => text(self.endpoint().map(|peer| peer.own.as_str())),
            Plain::DownstreamTlsVersion => word(self.caller().map(|peer| peer.security.version)),
            Plain::DownstreamTlsGroup => word(self.caller().map(|peer| peer.security.group)),
            Plain::UpstreamTlsVersion => word(self.upstream_security().map(|security| security.version)),
            Plain::UpstreamTlsGroup => word(self.upstream_security().map(|security| security.group)),
            Plain::TraceId => id(self.request().and_then(|ended| ended.detail.trace_id)),
            Plain::SpanId => id(self.request().and_then(|ended| ended.detail.span_id)),
            Plain::Hostname => text(Some(self.hostname).filter(|name| !name.is_empty())),
        }
    }

    fn request(&self) -> Option<&'a Ended> {
        match self.subject {
            Subject::Request(ended) => Some(ended),
            Subject::Connection(_) => None,
        }
    }

    fn began(&self) -> SystemTime {
        match self.subject {
            Subject::Request(ended) => ended.detail.began,
            Subject::Connection(ended) => ended.began,
        }
    }

    fn connection(&self) -> &'a Connection {
        match self.subject {
            Subject::Request(ended) => &ended.connection,
            Subject::Connection(ended) => &ended.connection,
        }
    }

    fn view(&self) -> &'a ListenerView {
        match self.subject {
            Subject::Request(ended) => &ended.detail.view,
            Subject::Connection(ended) => &ended.view,
        }
    }

    /// Received and sent.
    fn bytes(&self) -> (u64, u64) {
        match self.subject {
            Subject::Request(ended) => (ended.request_bytes, ended.response_bytes),
            Subject::Connection(ended) => (ended.received, ended.sent),
        }
    }

    fn caller(&self) -> Option<&'a Peer> {
        self.connection().peer.as_ref()
    }

    /// The last attempt.
    fn last(&self) -> Option<&'a AttemptDetail> {
        self.request()?.detail.attempts.last()
    }

    fn endpoint(&self) -> Option<&'a Peer> {
        match self.subject {
            Subject::Request(_) => self.last()?.peer.as_deref(),
            Subject::Connection(ended) => ended.upstream.peer.as_deref(),
        }
    }

    fn upstream_security(&self) -> Option<Security> {
        match self.subject {
            Subject::Request(_) => self.endpoint().map(|peer| peer.security),
            Subject::Connection(ended) => ended.upstream.security,
        }
    }

    fn cluster(&self) -> Option<&'a str> {
        let cluster = match self.subject {
            Subject::Request(ended) => ended.detail.cluster.as_ref(),
            Subject::Connection(ended) => ended.upstream.cluster.as_ref(),
        };
        cluster.map(|cluster| cluster.config.name.as_str())
    }

    fn address(&self, end: End) -> Option<SocketAddr> {
        match (end, self.subject) {
            (End::DownstreamRemote | End::DownstreamDirectRemote, _) => Some(self.connection().caller),
            (End::DownstreamLocal | End::DownstreamDirectLocal, _) => Some(self.connection().local),
            (End::UpstreamRemote, Subject::Request(_)) => self.last().map(|last| last.endpoint.address),
            (End::UpstreamRemote, Subject::Connection(ended)) => {
                ended.upstream.endpoint.as_ref().map(|endpoint| endpoint.address)
            }
            (End::UpstreamLocal, Subject::Request(_)) => self.last()?.local,
            (End::UpstreamLocal, Subject::Connection(ended)) => ended.upstream.local,
        }
    }

    fn request_header(&self, key: &'a HeaderKey) -> Value<'a> {
        let Some(Ended { detail, .. }) = self.request() else { return Value::Missing };
        match key {
            HeaderKey::Method => Value::Text(Cow::Borrowed(detail.method.as_str().as_bytes())),
            HeaderKey::Scheme => Value::Word("http"),
            HeaderKey::Authority => match detail.target.authority() {
                Some(authority) => Value::Text(Cow::Borrowed(authority.as_str().as_bytes())),
                None => self.field(&detail.request_headers, &http::header::HOST),
            },
            HeaderKey::Path => match detail.target.path_and_query() {
                Some(path) => self.address_of(path.as_str().as_bytes()),
                None => Value::Missing,
            },
            HeaderKey::Name(name) if name.0 == name::REQUEST_ID => match &detail.request_id {
                Some(id) => Value::Text(Cow::Borrowed(id.as_bytes())),
                None => self.field(&detail.request_headers, &name.0),
            },
            HeaderKey::Name(name) => self.field(&detail.request_headers, &name.0),
        }
    }

    /// Of a connection there is one thing that an answer would have said: what went wrong.
    fn response_header(&self, key: &'a HeaderKey) -> Value<'a> {
        let HeaderKey::Name(name) = key else { return Value::Missing };
        match self.subject {
            Subject::Request(ended) => self.field(&ended.detail.response_headers, &name.0),
            Subject::Connection(ended) if name.0 == name::ERROR => text(ended.error.as_deref()),
            Subject::Connection(_) => Value::Missing,
        }
    }

    fn field(&self, headers: &'a HeaderMap, name: &http::HeaderName) -> Value<'a> {
        let fields = headers.get_all(name);
        let Some(first) = fields.iter().next() else { return Value::Missing };
        match (self.sensitive, redact::telling(name)) {
            (Sensitive::Shown, _) | (Sensitive::Redacted, Telling::All) => Value::Fields(fields),
            (Sensitive::Redacted, Telling::WithoutQuery) => self.address_of(first.as_bytes()),
            (Sensitive::Redacted, Telling::Nothing) => Value::Redacted,
        }
    }

    fn address_of(&self, address: &'a [u8]) -> Value<'a> {
        match (self.sensitive, redact::split_query(address)) {
            (Sensitive::Redacted, (before, true)) => Value::BeforeQuery(before),
            (Sensitive::Redacted, (_, false)) | (Sensitive::Shown, _) => Value::Text(Cow::Borrowed(address)),
        }
    }

    fn route(&self) -> Option<&'a Route> {
        let http = self.view().listener.http()?;
        let (host, at) = self.request()?.detail.route?;
        http.table.route(host, at)
    }

    fn origin(&self) -> Option<&'a Origin> {
        match self.subject {
            Subject::Request(_) => self.route()?.origin.as_ref(),
            Subject::Connection(ended) => {
                let (_, route) = self.view().listener.bytes(ended.connection.way.get())?;
                route.origin.as_ref()
            }
        }
    }

    /// All that routes have in their metadata is where they come from.
    fn metadata(&self, path: &[String]) -> Value<'a> {
        let Some(origin) = self.origin() else { return Value::Missing };
        let place = origin.place.0.as_deref();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["leno.mesh"] => Value::Rule(origin),
            ["leno.mesh", "kind"] => text(Some(&origin.kind)),
            ["leno.mesh", "namespace"] => text(Some(&origin.namespace)),
            ["leno.mesh", "name"] => text(Some(&origin.name)),
            ["leno.mesh", "index"] => Value::Number(origin.index.into()),
            ["leno.mesh", "file"] => text(place.map(|place| &*place.file)),
            ["leno.mesh", "line"] => place.map_or(Value::Missing, |place| Value::Number(place.line.into())),
            _ => Value::Missing,
        }
    }

    fn grpc_status(&self, form: GrpcStatusForm) -> Value<'a> {
        let Some(Ended { detail, .. }) = self.request() else { return Value::Missing };
        let status = detail.trailers.get("grpc-status").or_else(|| detail.response_headers.get("grpc-status"));
        let Some(status) = status else { return Value::Missing };
        let number = status.to_str().ok().and_then(|text| text.parse::<usize>().ok());
        match (form, number.and_then(|number| Some((number, *AbortStatus::GRPC.get(number)?)))) {
            (_, None) => Value::Text(Cow::Borrowed(status.as_bytes())),
            (GrpcStatusForm::Number, Some((number, _))) => Value::Number(number as u64),
            (GrpcStatusForm::SnakeCase, Some((_, name))) => Value::Word(name),
            (GrpcStatusForm::CamelCase, Some((_, name))) => Value::Text(Cow::Owned(camel_case(name).into_bytes())),
        }
    }

    /// Of a connection that was ended here, why.
    fn termination(&self) -> Value<'a> {
        match self.subject {
            Subject::Connection(ended)
                if ended.flags.iter().any(|flag| matches!(flag, Flag::UAEX | Flag::DT | Flag::SI)) =>
            {
                text(ended.error.as_deref())
            }
            Subject::Connection(_) | Subject::Request(_) => Value::Missing,
        }
    }

    fn transport_failure(&self) -> Value<'a> {
        match self.subject {
            Subject::Request(ended) => text(ended.detail.transport_failure.as_deref()),
            Subject::Connection(ended) if ended.flags.iter().any(|flag| flag == Flag::UF) => {
                text(ended.error.as_deref())
            }
            Subject::Connection(_) => Value::Missing,
        }
    }
}

fn either<'a>(header: &'a HeaderChoice, value: impl Fn(&'a HeaderKey) -> Value<'a>) -> Value<'a> {
    match (value(&header.name), &header.alternative) {
        (Value::Missing, Some(other)) => value(other),
        (found, _) => found,
    }
}

fn text(text: Option<&str>) -> Value<'_> {
    text.map_or(Value::Missing, |text| Value::Text(Cow::Borrowed(text.as_bytes())))
}

/// Of a trace or a span: few requests have one.
fn id(id: Option<impl std::fmt::Display>) -> Value<'static> {
    id.map_or(Value::Missing, |id| Value::Text(Cow::Owned(id.to_string().into_bytes())))
}

fn word(word: Option<&'static str>) -> Value<'static> {
    word.map_or(Value::Missing, Value::Word)
}

fn time(time: Option<Duration>) -> Value<'static> {
    time.map_or(Value::Missing, |time| Value::Number(millis(time)))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn version(version: Version) -> Value<'static> {
    match version {
        Version::HTTP_10 => Value::Word("HTTP/1.0"),
        Version::HTTP_11 => Value::Word("HTTP/1.1"),
        Version::HTTP_2 => Value::Word("HTTP/2"),
        _ => Value::Missing,
    }
}

/// From the head of a request to the head of the endpoint's answer.
fn head_after(ended: &Ended) -> Option<Duration> {
    let last = ended.detail.attempts.last()?;
    matches!(last.outcome, Some(Outcome::Answered(_))).then_some(())?;
    Some(last.ended?.saturating_duration_since(ended.started))
}

fn code_details(ended: &Ended) -> Value<'_> {
    let detail = &*ended.detail;
    if let Some(known) = &detail.code_details {
        return text(Some(known));
    }
    if let Some(word) = ended.flags.iter().find_map(details::after_head) {
        return Value::Word(word);
    }
    if !detail.attempts.is_empty() {
        return Value::Word(details::VIA_UPSTREAM);
    }
    let Some(http) = detail.view.listener.http() else { return Value::Missing };
    let route = detail.route.and_then(|(host, at)| http.table.route(host, at));
    match route.map(|route| &route.action) {
        Some(Action::Redirect(_) | Action::Direct(_)) => Value::Word(details::DIRECT_RESPONSE),
        // Nothing else is answered here without an error.
        Some(Action::Forward(ir::Forward { .. })) => Value::Word(details::CORS_RESPONSE),
        None => Value::Missing,
    }
}

/// `DEADLINE_EXCEEDED` → `DeadlineExceeded`; `OK` stays (gRPC's own spelling).
fn camel_case(name: &str) -> String {
    if name == "OK" {
        return name.to_owned();
    }
    let capital = |part: &str| {
        let (first, rest) = part.split_at(part.len().min(1));
        format!("{first}{}", rest.to_ascii_lowercase())
    };
    name.split('_').map(capital).collect()
}
