//! `HealthCheck` (`leno.mesh/v1alpha1`): how the endpoints of a service are asked whether they are well. Istio has no
//! rule for it; names and meaning follow Envoy's health checks and Kubernetes's probes.

use super::common::message;
use super::{DurationText, NumberOrText};

message! {
    /// How the endpoints of a service are asked whether they are well. One of `http`, `tcp` and `grpc`.
    pub struct HealthCheck {
        /// Of a service; a short name stands in the namespace of the rule.
        pub host: String,
        /// A subset of a DestinationRule; absent: all of them, and the service as a whole.
        pub subset: Option<String>,
        /// Of the service; absent: all.
        pub port: Option<u32>,
        /// A request.
        pub http: Option<HttpHealthCheck>,
        /// A connection.
        pub tcp: Option<TcpHealthCheck>,
        /// The standard health service of gRPC.
        pub grpc: Option<GrpcHealthCheck>,
        /// Between two checks of an endpoint; 10 s by default.
        pub interval: Option<DurationText>,
        /// The same while the service has never been called; 60 s by default.
        pub idle_interval: Option<DurationText>,
        /// For one check; 1 s by default.
        pub timeout: Option<DurationText>,
        /// So many failures in a row make an endpoint unhealthy; 2 by default. A status that is not expected does so at
        /// once, if it is not `retriable` (Envoy).
        pub unhealthy_threshold: Option<u32>,
        /// So many successes in a row make it healthy again; 1 by default. The first check decides at once.
        pub healthy_threshold: Option<u32>,
    }

    /// A `GET`.
    pub struct HttpHealthCheck {
        /// Path and query; `/` by default.
        pub path: Option<String>,
        /// Host of the request; absent: the service's.
        pub host: Option<String>,
        /// Statuses of a healthy endpoint, as `200` or `200-299`; absent: 200.
        pub status: Vec<NumberOrText>,
        /// Statuses that count as one failure.
        pub retriable: Vec<NumberOrText>,
    }

    /// A connection, and maybe bytes.
    pub struct TcpHealthCheck {
        /// Sent first.
        pub send: Option<String>,
        /// Awaited.
        pub receive: Option<String>,
    }

    /// `grpc.health.v1.Health/Check`.
    pub struct GrpcHealthCheck {
        /// Which service is asked about; absent: the whole server.
        pub service: Option<String>,
    }
}
