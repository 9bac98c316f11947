//! The counters as values, for who cannot or does not want to read Prometheus' text: `GET /figures`, and through it
//! `leno stat`, `routes`, `edges` and `top`.
//!
//! All counters grow from the start of the process ([`Figures::started_ms`]): who wants rates takes the difference of two
//! answers with the same start. Rows are in a fixed order and unique in everything but their numbers. A row goes away
//! when nothing has happened in it for half an hour; what it counted is then gone from the sums as well.

use serde::{Deserialize, Serialize};

/// Upper bounds of [`Distribution::buckets`] for durations, in milliseconds: all bounds of all dialects, so that each
/// dialect's own buckets are sums of these.
pub const DURATION_BOUNDS_MS: [f64; 23] = [
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    25.0,
    50.0,
    75.0,
    100.0,
    250.0,
    500.0,
    750.0,
    1_000.0,
    2_500.0,
    5_000.0,
    7_500.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Everything a proxy has counted of requests and connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// When the process started, in milliseconds since 1970. Another start means other counters.
    pub started_ms: u64,
    /// When these were read, in milliseconds since 1970.
    pub taken_ms: u64,
    /// The workload beside the proxy: the destination of every inbound row and the source of every outbound one.
    pub own: Party,
    /// Upper bounds of the buckets of durations, in milliseconds; there is one more bucket than bounds.
    pub duration_bounds_ms: Vec<f64>,
    /// Connections from callers that are open now.
    pub connections_active: u64,
    /// Requests under way.
    pub requests_active: u64,
    /// Requests by who talks to whom.
    pub requests: Vec<RequestRow>,
    /// The same requests by route.
    pub routes: Vec<RouteRow>,
    /// TCP connections by who talks to whom.
    pub tcp: Vec<TcpRow>,
    /// Second attempts by cluster.
    pub retries: Vec<RetryRow>,
}

/// A workload. `unknown` where nobody said who it is, `other` where there were too many to tell apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Party {
    /// What it is an instance of (a deployment).
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// Its label `app`, else its canonical service.
    pub app: String,
    /// Its label `version`, else its canonical revision.
    pub version: String,
    /// Its service account.
    pub service_account: String,
    /// Its SPIFFE ID on this connection; `unknown`: in clear text.
    pub principal: String,
}

/// A service that is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its full name.
    pub host: String,
    /// Its short name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

/// Which way, seen from this proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the own app: Istio's reporter `destination`.
    #[default]
    Inbound,
    /// From the own app: Istio's reporter `source`.
    Outbound,
}

/// How many, and how they are spread.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Distribution {
    /// How many up to each bound and above the one before; the last is for the rest. Not cumulative.
    pub buckets: Vec<u64>,
    /// Of all, in the unit of the bounds.
    pub sum: f64,
}

/// Requests between two workloads that ended alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestRow {
    /// Which way.
    pub direction: Direction,
    /// Who called.
    pub source: Party,
    /// Who was called; `unknown` where nobody was reached.
    pub destination: Party,
    /// Which service was called.
    pub service: Service,
    /// `http` or `grpc`.
    pub protocol: String,
    /// `mutual_tls`, `tls` (to the outside), `none`, or `unknown` where nobody was reached.
    pub security: String,
    /// What the handshake agreed on: `X25519MLKEM768`, `X25519`, …; `-` in clear text.
    pub group: String,
    /// The status of the answer; 0: there was none.
    pub code: u16,
    /// Envoy's response flags; `-`: nothing to say.
    pub flags: String,
    /// The status of gRPC, where it is spoken.
    pub grpc_status: Option<u8>,
    /// How many.
    pub requests: u64,
    /// From the head of the request to the last byte of the answer, in milliseconds.
    pub duration: Distribution,
    /// Bytes of bodies that came.
    pub request_bytes: u64,
    /// Bytes of bodies that were answered.
    pub response_bytes: u64,
    /// Messages of gRPC that came.
    pub request_messages: u64,
    /// Messages of gRPC that were answered.
    pub response_messages: u64,
}

/// Requests of one route that ended alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteRow {
    /// Which way.
    pub direction: Direction,
    /// The rule, or the virtual host where no rule is behind it; `none`: no route was found.
    pub route: String,
    /// Where it led; empty: nowhere, or it was answered here.
    pub cluster: String,
    /// The service behind that.
    pub service: Service,
    /// The status of the answer; 0: there was none.
    pub code: u16,
    /// Envoy's response flags; `-`: nothing to say.
    pub flags: String,
    /// How many.
    pub requests: u64,
    /// From the head of the request to the last byte of the answer, in milliseconds.
    pub duration: Distribution,
}

/// TCP connections between two workloads. What is opened is counted under the flags `-` and what ends under those that it
/// ends with, so that only sums over flags can be compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpRow {
    /// Which way.
    pub direction: Direction,
    /// Who called.
    pub source: Party,
    /// Who was called; `unknown` where nobody was reached.
    pub destination: Party,
    /// Which service was called.
    pub service: Service,
    /// `mutual_tls`, `tls` (to the outside), `none`, or `unknown` where nobody was reached.
    pub security: String,
    /// What the handshake agreed on: `X25519MLKEM768`, `X25519`, …; `-` in clear text.
    pub group: String,
    /// Envoy's response flags; `-`: nothing to say.
    pub flags: String,
    /// Connections opened.
    pub opened: u64,
    /// Connections that have ended.
    pub closed: u64,
    /// Bytes that came from callers.
    pub received: u64,
    /// Bytes that went to callers.
    pub sent: u64,
}

/// Second and further attempts at the endpoints of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryRow {
    /// Which.
    pub cluster: String,
    /// Retries that were begun, those of requests that had provably not been sent included.
    pub begun: u64,
    /// Requests that a retry has saved.
    pub saved: u64,
}
