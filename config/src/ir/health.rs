//! Active health checks of a cluster's endpoints.

use std::time::Duration;

use serde::Serialize;

/// How endpoints are asked whether they are well, and what is made of the answers (Envoy's health checks).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: HealthProbe,
    /// Between two checks of an endpoint.
    pub interval: Duration,
    /// The same while the cluster has never been called.
    pub idle_interval: Duration,
    /// For one check, connecting included.
    pub timeout: Duration,
    /// So many failures in a row make a healthy endpoint unhealthy; at least 1.
    pub unhealthy_threshold: u32,
    /// So many successes in a row make an unhealthy endpoint healthy; at least 1. The first check decides at once.
    pub healthy_threshold: u32,
    /// An interval is longer by up to so many percent.
    pub jitter_percent: u32,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthProbe {
    /// A request whose answer has one of the statuses.
    Http(HttpProbe),
    /// A connection, and maybe bytes.
    Tcp(TcpProbe),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcProbe),
}

/// A `GET`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpProbe {
    /// Host of the request; `None`: the cluster's name.
    pub host: Option<String>,
    /// Path and query.
    pub path: String,
    /// With these it is well; empty: 200.
    pub expected: Vec<StatusRange>,
    /// These count as one failure each; every other makes the endpoint unhealthy at once (Envoy).
    pub retriable: Vec<StatusRange>,
    /// Over HTTP/2 with prior knowledge.
    pub http2: bool,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TcpProbe {
    /// Sent first; empty: that it can be connected to is enough.
    pub send: Vec<u8>,
    /// Awaited, in this order, with anything between.
    pub receive: Vec<Vec<u8>>,
}

/// The standard health service of gRPC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GrpcProbe {
    /// Which service is asked about; empty: the whole server.
    pub service: String,
    /// `:authority`; `None`: the cluster's name.
    pub authority: Option<String>,
}

/// Statuses from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)]
pub struct StatusRange {
    pub first: u16,
    pub last: u16,
}

impl StatusRange {
    /// Whether a status is among them.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}
