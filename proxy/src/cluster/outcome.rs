//! What became of one attempt at one endpoint: what ejection and latency-aware balancing learn from.
//!
//! Our own refusals (limits, policies, faults on purpose) are never an outcome: they say nothing about the endpoint.

use std::sync::atomic::Ordering;

use super::InFlight;
use crate::worker::WorkerCluster;

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The endpoint answered with this status; of a gRPC answer, the HTTP status that its `grpc-status` stands for.
    Answered(u16),
    /// It could not be connected to.
    ConnectFailure,
    /// It did not answer in time.
    TimedOut,
    /// It closed or reset the connection or stream before it answered, or spoke nonsense.
    Reset,
}

impl Outcome {
    /// Whether the endpoint did its work (Envoy's `rq_success`): an answer below 500.
    pub fn is_success(self) -> bool {
        match self {
            Self::Answered(status) => status < 500,
            Self::ConnectFailure | Self::TimedOut | Self::Reset => false,
        }
    }
}

impl WorkerCluster {
    /// Notes what became of an attempt at an endpoint of this cluster. Once for each attempt that came to an end.
    pub fn report(&self, attempt: &InFlight, outcome: Outcome) {
        let endpoint = attempt.endpoint();
        let count = if outcome.is_success() { &endpoint.successes } else { &endpoint.errors };
        count.fetch_add(1, Ordering::Relaxed);
        attempt.learn(!outcome.is_success());
    }
}
