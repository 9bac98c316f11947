//! What is done to a request besides sending it on.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Fraction, Invalid, StringMatch};

/// Operations on headers, in Envoy's order: remove, then set, then add, each in the order written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderOps {
    /// Names to remove.
    #[serde(default, with = "names", skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<HeaderName>,
    /// Overwrites.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderField>,
    /// Appends one more value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderField>,
}

impl HeaderOps {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// A header with its value, both valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenField")]
pub struct HeaderField {
    #[serde(serialize_with = "name::serialize")]
    name: HeaderName,
    #[serde(serialize_with = "value")]
    value: HeaderValue,
}

/// A header before anybody has looked at it.
#[derive(Deserialize)]
struct WrittenField {
    name: String,
    value: String,
}

impl TryFrom<WrittenField> for HeaderField {
    type Error = Invalid;

    fn try_from(written: WrittenField) -> Result<Self, Invalid> {
        Self::new(&written.name, &written.value)
    }
}

impl HeaderField {
    /// Refuses names and values that RFC 9110 §5.1 and §5.5 do not allow.
    pub fn new(name: &str, value: &str) -> Result<Self, Invalid> {
        Ok(Self {
            name: name.parse().map_err(|_| Invalid(format!("`{name}` is not a header name (RFC 9110 §5.1)")))?,
            value: HeaderValue::from_str(value)
                .or_else(|_| HeaderValue::from_bytes(value.as_bytes()))
                .map_err(|_| Invalid(format!("{value:?} is not a header value (RFC 9110 §5.5)")))?,
        })
    }

    /// The name, lower case.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// The value.
    pub fn value(&self) -> &HeaderValue {
        &self.value
    }
}

/// The name of a header as text.
mod name {
    use super::{Deserialize, Deserializer, HeaderName, Serializer, de};

    pub(super) fn serialize<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HeaderName, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Names of headers as texts.
mod names {
    use super::{Deserialize, Deserializer, HeaderName, Serializer, de};

    pub(super) fn serialize<S: Serializer>(names: &[HeaderName], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(names.iter().map(HeaderName::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeaderName>, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names.iter().map(|name| name.parse().map_err(de::Error::custom)).collect()
    }
}

fn value<S: Serializer>(value: &HeaderValue, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&String::from_utf8_lossy(value.as_bytes()))
}

/// Cross-origin resource sharing (Envoy's CORS filter).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// Origins that may ask.
    pub allow_origins: Vec<StringMatch>,
    /// `access-control-allow-methods`, joined with a comma; empty: not sent.
    pub allow_methods: String,
    /// `access-control-allow-headers`.
    pub allow_headers: String,
    /// `access-control-expose-headers`.
    pub expose_headers: String,
    /// `access-control-max-age`; `None`: not sent.
    pub max_age: Option<Duration>,
    /// `access-control-allow-credentials`.
    pub allow_credentials: bool,
    /// A preflight from a foreign origin is passed on to the app (Istio's default) instead of being answered here.
    pub forward_unmatched_preflights: bool,
}

/// Faults on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Wait first.
    pub delay: Option<FaultDelay>,
    /// Then fail.
    pub abort: Option<FaultAbort>,
}

/// A wait before the request goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultDelay {
    /// How long.
    pub duration: Duration,
    /// Which share of requests.
    pub share: Fraction,
}

/// A failure instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultAbort {
    /// With what.
    pub with: AbortStatus,
    /// Which share of requests.
    pub share: Fraction,
}

/// How a fault fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortStatus {
    /// An HTTP status, 200 to 599.
    Http(#[serde(with = "status")] StatusCode),
    /// A gRPC status, 0 to 16.
    Grpc(u32),
}

impl AbortStatus {
    /// gRPC's status codes, each at its number.
    pub const GRPC: [&'static str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];

    /// A gRPC status by its name, in whatever case, or by its number.
    pub fn grpc(written: &str) -> Result<Self, Invalid> {
        let code = match written.parse::<usize>() {
            Ok(number) => Some(number).filter(|number| *number < Self::GRPC.len()),
            Err(_) => Self::GRPC.iter().position(|name| name.eq_ignore_ascii_case(written)),
        };
        code.and_then(|code| u32::try_from(code).ok())
            .map(Self::Grpc)
            .ok_or_else(|| Invalid(format!("`{written}` is not a status of gRPC")))
    }
}

/// A status as its number.
mod status {
    use super::{Deserialize, Deserializer, Serializer, StatusCode, de};

    pub(super) fn serialize<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(status.as_u16())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StatusCode, D::Error> {
        StatusCode::from_u16(u16::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// What consistent hashing looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashPolicy {
    /// A header.
    Header(#[serde(with = "name")] HeaderName),
    /// A cookie; with a `ttl` it is made where it is missing (0: for the session).
    Cookie {
        /// Its name.
        name: String,
        /// Its path attribute.
        path: String,
        /// Its life; `None`: never made by us.
        ttl: Option<Duration>,
        /// Further attributes of one that is made, in this order.
        attributes: Vec<CookieAttribute>,
    },
    /// The address of the caller.
    SourceIp,
    /// A query parameter.
    QueryParameter(String),
}

/// An attribute of a cookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieAttribute {
    /// Its name.
    pub name: String,
    /// May be empty: then the name stands alone.
    pub value: String,
}
