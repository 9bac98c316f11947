//! Which requests of a listener become spans, and where these go.

use std::time::Duration;

use http::{HeaderName, Uri};
use serde::{Serialize, Serializer};

use super::{Fraction, Invalid};

/// How a listener traces (Envoy's `tracing` of the HttpConnectionManager).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tracing {
    /// Who gets the spans.
    pub provider: TracingProvider,
    /// Of requests that come without a decision of their caller.
    pub sampling: Fraction,
    /// Each attempt has a span of its own, a child of the request's (Envoy's `spawn_upstream_span`).
    pub attempts: bool,
    /// Longest path that a span tells of, in bytes; what is longer is cut there.
    pub longest_path: u32,
    /// Attributes of every span of a request, besides those of OpenTelemetry's conventions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<CustomTag>,
}

impl Tracing {
    /// Envoy's [`Self::longest_path`].
    pub const LONGEST_PATH: u32 = 256;
}

/// Who gets the spans.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TracingProvider {
    /// A collector that speaks OTLP.
    OpenTelemetry(Collector),
    /// One that Leno does not speak with, by its name or by what is not supported of it: nothing is traced.
    Foreign(String),
}

/// A collector that speaks OTLP.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Collector {
    /// The cluster by which it is reached.
    pub cluster: String,
    /// What it speaks.
    pub protocol: OtlpProtocol,
    /// How long one export may take.
    pub timeout: Duration,
    /// `service.name` of the spans (Istio: `APP.NAMESPACE`); empty: the proxy's own workload.
    pub service: String,
}

/// How spans travel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OtlpProtocol {
    /// gRPC, with this `:authority`; empty: the cluster's name.
    Grpc(String),
    /// Protobuf in a POST to this address, of which the path and the host are said; the cluster says where it goes.
    Http(#[serde(serialize_with = "uri")] Uri),
}

impl Collector {
    /// An absolute address: `http://HOST[:PORT]/PATH`.
    pub fn uri(text: &str) -> Result<Uri, Invalid> {
        let uri = text.parse::<Uri>().ok().filter(|uri| {
            let known = matches!(uri.scheme_str(), Some("http" | "https"));
            known && uri.host().is_some_and(|host| !host.is_empty())
        });
        uri.ok_or_else(|| Invalid(format!("`{text}` is not an address such as `http://HOST:4317`")))
    }
}

/// An attribute that somebody wants on every span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CustomTag {
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: TagValue,
}

/// Where the value of an attribute comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TagValue {
    /// Always this.
    Literal(String),
    /// A header of the request; without it the default, or no attribute where that is empty.
    Header {
        /// Its name.
        #[serde(serialize_with = "header")]
        name: HeaderName,
        /// Instead.
        default: String,
    },
}

fn uri<S: Serializer>(uri: &Uri, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(uri)
}

fn header<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}
