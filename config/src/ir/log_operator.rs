//! Operators of log lines: Envoy's names for what there is to say of a request or connection.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{HeaderKey, TimeFormat};
use crate::rules::{closest, listed};

/// A log format that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct FormatError {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl FormatError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// What stands between two percent signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// When the request came.
    StartTime(TimeFormat),
    /// When the line is written.
    EmitTime(TimeFormat),
    /// A header of the request, as the caller wrote it.
    RequestHeader(HeaderChoice),
    /// A header of the answer, as the caller got it.
    ResponseHeader(HeaderChoice),
    /// A trailer of the answer.
    ResponseTrailer(HeaderChoice),
    /// One of several addresses.
    Address(End, AddressPart),
    /// What the matched route's rule is: `{kind, namespace, name, index, file, line}` under `leno.mesh`, or one of them.
    RouteMetadata(Vec<String>),
    /// gRPC's status.
    GrpcStatus(GrpcStatusForm),
    /// What needs nothing said about it.
    Plain(Plain),
    /// One that a foreign control plane asked for and this proxy has nothing for; it stands as it was written and comes out
    /// as missing. Rules cannot hold one.
    Unknown(String),
}

/// A header, and another one in case it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderChoice {
    /// Which.
    pub name: HeaderKey,
    /// `?OTHER`
    pub alternative: Option<HeaderKey>,
}

/// How much of an address is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPart {
    /// `10.0.0.1:80`
    Whole,
    /// `10.0.0.1`
    WithoutPort,
    /// `80`
    Port,
}

/// How gRPC's status is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcStatusForm {
    /// `DeadlineExceeded`
    CamelCase,
    /// `DEADLINE_EXCEEDED`
    SnakeCase,
    /// `4`
    Number,
}

/// A closed set of words, each with what it stands for.
macro_rules! words {
    ($($(#[$meta:meta])* pub enum $name:ident { $($(#[$word_meta:meta])* $word:ident = $text:literal,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$word_meta])* $word,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$word,)+];

            /// Envoy's word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text,)+ }
            }
        }
    )+};
}

words! {
    /// One end of a connection.
    pub enum End {
        /// Who called.
        DownstreamRemote = "DOWNSTREAM_REMOTE",
        /// Who called; here it is always the connection that counts.
        DownstreamDirectRemote = "DOWNSTREAM_DIRECT_REMOTE",
        /// What was called.
        DownstreamLocal = "DOWNSTREAM_LOCAL",
        /// What was called.
        DownstreamDirectLocal = "DOWNSTREAM_DIRECT_LOCAL",
        /// The endpoint.
        UpstreamRemote = "UPSTREAM_REMOTE",
        /// Where the connection to the endpoint begins.
        UpstreamLocal = "UPSTREAM_LOCAL",
    }

    /// An operator without arguments.
    pub enum Plain {
        /// `HTTP/1.1`
        Protocol = "PROTOCOL",
        /// What was spoken with the endpoint.
        UpstreamProtocol = "UPSTREAM_PROTOCOL",
        /// 0: there was no answer.
        ResponseCode = "RESPONSE_CODE",
        /// Who made the answer, or why: `via_upstream`, `route_not_found`, …
        ResponseCodeDetails = "RESPONSE_CODE_DETAILS",
        /// Why a connection was ended here.
        ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS",
        /// `UF,URX`
        ResponseFlags = "RESPONSE_FLAGS",
        /// Bytes of the request's body.
        BytesReceived = "BYTES_RECEIVED",
        /// Bytes of the answer's body.
        BytesSent = "BYTES_SENT",
        /// Milliseconds to the last byte of the answer.
        Duration = "DURATION",
        /// Milliseconds to the last byte of the request.
        RequestDuration = "REQUEST_DURATION",
        /// Milliseconds to the first byte of the endpoint's answer.
        ResponseDuration = "RESPONSE_DURATION",
        /// Milliseconds from there to the last byte.
        ResponseTxDuration = "RESPONSE_TX_DURATION",
        /// The endpoint's address.
        UpstreamHost = "UPSTREAM_HOST",
        /// The cluster's name.
        UpstreamCluster = "UPSTREAM_CLUSTER",
        /// The same.
        UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW",
        /// Why TLS with the endpoint failed.
        UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON",
        /// How often it was sent.
        UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        /// What the caller's TLS handshake wanted to reach.
        RequestedServerName = "REQUESTED_SERVER_NAME",
        /// The route's name.
        RouteName = "ROUTE_NAME",
        /// SPIFFE ID of the caller.
        DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN",
        /// SPIFFE ID of this proxy, as the caller saw it.
        DownstreamLocalUriSan = "DOWNSTREAM_LOCAL_URI_SAN",
        /// SPIFFE ID of the endpoint.
        UpstreamPeerUriSan = "UPSTREAM_PEER_URI_SAN",
        /// SPIFFE ID of this proxy, as the endpoint saw it.
        UpstreamLocalUriSan = "UPSTREAM_LOCAL_URI_SAN",
        /// `TLSv1.3`
        DownstreamTlsVersion = "DOWNSTREAM_TLS_VERSION",
        /// The key exchange with the caller: `X25519MLKEM768`, …
        DownstreamTlsGroup = "DOWNSTREAM_TLS_GROUP",
        /// `TLSv1.3`
        UpstreamTlsVersion = "UPSTREAM_TLS_VERSION",
        /// The key exchange with the endpoint.
        UpstreamTlsGroup = "UPSTREAM_TLS_GROUP",
        /// Of the trace that the request belongs to.
        TraceId = "TRACE_ID",
        /// Of this proxy's span.
        SpanId = "SPAN_ID",
        /// Of the machine.
        Hostname = "HOSTNAME",
    }
}

/// Operators with arguments, and whether a `:LENGTH` may follow.
const WITH_ARGUMENTS: [(&str, bool); 14] = [
    ("START_TIME", false),
    ("EMIT_TIME", false),
    ("REQ", true),
    ("REQUEST_HEADER", true),
    ("RESP", true),
    ("RESPONSE_HEADER", true),
    ("TRAILER", true),
    ("RESPONSE_TRAILER", true),
    ("METADATA", true),
    ("GRPC_STATUS", false),
    ("GRPC_STATUS_NUMBER", false),
    ("REQUEST_TRAILER", true),
    ("ENVIRONMENT", true),
    ("DYNAMIC_METADATA", true),
];

impl Operator {
    /// From its word and what stands in parentheses.
    pub(super) fn parse(word: &str, argument: Option<&str>) -> Result<Self, FormatError> {
        let header = || HeaderChoice::parse(word, argument);
        match word {
            "START_TIME" => Ok(Self::StartTime(TimeFormat::parse(argument.unwrap_or_default())?)),
            "EMIT_TIME" => Ok(Self::EmitTime(TimeFormat::parse(argument.unwrap_or_default())?)),
            "REQ" | "REQUEST_HEADER" => Ok(Self::RequestHeader(header()?)),
            "RESP" | "RESPONSE_HEADER" => Ok(Self::ResponseHeader(header()?)),
            "TRAILER" | "RESPONSE_TRAILER" => Ok(Self::ResponseTrailer(header()?)),
            "METADATA" => metadata(argument.unwrap_or_default()),
            "GRPC_STATUS" => grpc_status(argument.unwrap_or("CAMEL_STRING")),
            "GRPC_STATUS_NUMBER" => Ok(Self::GrpcStatus(GrpcStatusForm::Number)),
            _ => Self::without_arguments(word, argument),
        }
    }

    /// Whether a `:LENGTH` may follow its word.
    pub(super) fn takes_length(word: &str) -> bool {
        WITH_ARGUMENTS.iter().any(|(known, length)| *known == word && *length)
    }

    fn without_arguments(word: &str, argument: Option<&str>) -> Result<Self, FormatError> {
        let address = [AddressPart::WithoutPort, AddressPart::Whole, AddressPart::Port].into_iter().find_map(|part| {
            let end = word.strip_suffix(part.suffix())?;
            End::ALL.iter().find(|known| known.as_str() == end).map(|end| Self::Address(*end, part))
        });
        let plain = || Plain::ALL.iter().find(|known| known.as_str() == word).map(|plain| Self::Plain(*plain));
        match (address.or_else(plain), argument) {
            (Some(found), None) => Ok(found),
            (Some(_), Some(_)) => Err(FormatError::new(format!("`%{word}%` takes nothing in parentheses"))),
            (None, _) => Err(unknown(word)),
        }
    }
}

fn unknown(word: &str) -> FormatError {
    let wrong = FormatError::new(format!("`{word}` is not an operator"));
    match word {
        "ENVIRONMENT" => {
            let help = "the environment holds secrets, and a log is read by many: write the value itself";
            return FormatError::new("`ENVIRONMENT` is not for logs").help(help);
        }
        "DYNAMIC_METADATA" | "FILTER_STATE" | "UPSTREAM_FILTER_STATE" | "CEL" | "REQUEST_TRAILER" => {
            return FormatError::new(format!("Leno has nothing that `{word}` could show")).help("leave it out");
        }
        _ => {}
    }
    let addresses = End::ALL.iter().flat_map(|end| {
        [AddressPart::Whole, AddressPart::WithoutPort, AddressPart::Port]
            .map(|part| format!("{}{}", end.as_str(), part.suffix()))
    });
    let all: Vec<String> = addresses
        .chain(Plain::ALL.iter().map(|plain| plain.as_str().to_owned()))
        .chain(WITH_ARGUMENTS.iter().map(|(word, _)| (*word).to_owned()))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    match closest(word, &all) {
        Some(meant) => wrong.help(format!("did you mean `%{meant}%`?")),
        None => wrong.help("the operators are those of Envoy's access logs: `%RESPONSE_CODE%`, `%REQ(user-agent)%`, …"),
    }
}

impl HeaderChoice {
    fn parse(word: &str, argument: Option<&str>) -> Result<Self, FormatError> {
        let help = format!("write `%{word}(user-agent)%`, or `%{word}(x-first?x-second):100%`");
        let Some(argument) = argument.filter(|argument| !argument.is_empty()) else {
            return Err(FormatError::new(format!("`%{word}%` needs the name of a header")).help(help));
        };
        let key = |name: &str| {
            HeaderKey::parse(&name.to_ascii_lowercase()).map_err(|wrong| FormatError::new(wrong.0).help(help.clone()))
        };
        let (name, alternative) = match argument.split_once('?') {
            Some((name, other)) => (name, Some(other)),
            None => (argument, None),
        };
        Ok(Self { name: key(name)?, alternative: alternative.map(key).transpose()? })
    }
}

fn metadata(argument: &str) -> Result<Operator, FormatError> {
    match argument.split_once(':') {
        Some(("ROUTE", path)) if !path.is_empty() => {
            Ok(Operator::RouteMetadata(path.split(':').map(str::to_owned).collect()))
        }
        _ => Err(FormatError::new(format!("`METADATA({argument})` is nothing that Leno knows"))
            .help("write `%METADATA(ROUTE:leno.mesh)%` or `%METADATA(ROUTE:leno.mesh:name)%`")),
    }
}

fn grpc_status(argument: &str) -> Result<Operator, FormatError> {
    [GrpcStatusForm::CamelCase, GrpcStatusForm::SnakeCase, GrpcStatusForm::Number]
        .into_iter()
        .find(|form| form.as_str() == argument)
        .map(Operator::GrpcStatus)
        .ok_or_else(|| {
            let known = ["CAMEL_STRING", "SNAKE_STRING", "NUMBER"];
            FormatError::new(format!("`GRPC_STATUS({argument})` is nothing")).help(format!("use {}", listed(&known)))
        })
}

impl AddressPart {
    fn suffix(self) -> &'static str {
        match self {
            Self::Whole => "_ADDRESS",
            Self::WithoutPort => "_ADDRESS_WITHOUT_PORT",
            Self::Port => "_PORT",
        }
    }
}

impl GrpcStatusForm {
    fn as_str(self) -> &'static str {
        match self {
            Self::CamelCase => "CAMEL_STRING",
            Self::SnakeCase => "SNAKE_STRING",
            Self::Number => "NUMBER",
        }
    }
}

impl fmt::Display for HeaderChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_str())?;
        match &self.alternative {
            Some(other) => write!(f, "?{}", other.as_str()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Operator {
    /// What stands between the percent signs, without a length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |f: &mut fmt::Formatter<'_>, word: &str, format: &TimeFormat| match format.as_str() {
            "" => f.write_str(word),
            format => write!(f, "{word}({format})"),
        };
        match self {
            Self::StartTime(format) => time(f, "START_TIME", format),
            Self::EmitTime(format) => time(f, "EMIT_TIME", format),
            Self::RequestHeader(header) => write!(f, "REQ({header})"),
            Self::ResponseHeader(header) => write!(f, "RESP({header})"),
            Self::ResponseTrailer(header) => write!(f, "TRAILER({header})"),
            Self::Address(end, part) => write!(f, "{}{}", end.as_str(), part.suffix()),
            Self::RouteMetadata(path) => write!(f, "METADATA(ROUTE:{})", path.join(":")),
            Self::GrpcStatus(form) => write!(f, "GRPC_STATUS({})", form.as_str()),
            Self::Plain(plain) => f.write_str(plain.as_str()),
            Self::Unknown(text) => f.write_str(text),
        }
    }
}

impl Serialize for Operator {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
