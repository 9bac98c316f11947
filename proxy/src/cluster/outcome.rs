//! What became of one attempt at one endpoint: what ejection and latency-aware balancing learn from.
//!
//! Our own refusals (limits, policies, faults on purpose) are never an outcome: they say nothing about the endpoint.

use std::sync::atomic::Ordering;

use http::{HeaderMap, StatusCode};

use super::InFlight;
use super::outlier::Judge;
use super::standing::Moment;
use crate::headers::name;
use crate::tls::server::HandshakeError;
use crate::upstream::connect::ConnectError;
use crate::worker::WorkerCluster;

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The endpoint answered with this status; of a gRPC answer, the HTTP status that its `grpc-status` stands for.
    Answered(u16),
    /// It could be connected to; all that is seen of it where bytes are passed.
    Connected,
    /// It could not be connected to.
    ConnectFailure,
    /// It did not answer in time.
    TimedOut,
    /// It closed or reset the connection or stream before it answered, or spoke nonsense.
    Reset,
}

impl Outcome {
    /// Of an attempt that ended before there was a connection.
    pub fn of_connect(error: &ConnectError) -> Self {
        match error {
            ConnectError::TimedOut(_) | ConnectError::Tls(HandshakeError::TimedOut(_)) => Self::TimedOut,
            ConnectError::Io(_) | ConnectError::Source(..) | ConnectError::Tls(_) => Self::ConnectFailure,
        }
    }

    /// Of an answer. A gRPC error that comes without a message is in the head, and counts as the HTTP status that it
    /// stands for if the request was one of gRPC (Envoy).
    pub fn of_answer(status: StatusCode, headers: &HeaderMap, grpc: bool) -> Self {
        let grpc = if grpc { headers.get(name::GRPC_STATUS) } else { None };
        let grpc = grpc.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        Self::Answered(grpc.map_or(status.as_u16(), http_status_of_grpc))
    }

    /// Whether the endpoint did its work (Envoy's `rq_success`): an answer below 500.
    pub fn is_success(self) -> bool {
        match self {
            Self::Answered(status) => status < 500,
            Self::Connected => true,
            Self::ConnectFailure | Self::TimedOut | Self::Reset => false,
        }
    }
}

/// What a gRPC status is in HTTP (Envoy's `grpcToHttpStatus`).
pub fn http_status_of_grpc(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,          // Cancelled
        3 | 9 | 11 => 400, // InvalidArgument, FailedPrecondition, OutOfRange
        4 => 504,          // DeadlineExceeded
        5 => 404,          // NotFound
        6 | 10 => 409,     // AlreadyExists, Aborted
        7 => 403,          // PermissionDenied
        8 => 429,          // ResourceExhausted
        12 => 501,         // Unimplemented
        14 => 503,         // Unavailable
        16 => 401,         // Unauthenticated
        // Unknown, Internal, DataLoss, and what nobody has defined.
        _ => 500,
    }
}

impl WorkerCluster {
    /// Notes what became of an attempt at an endpoint of this cluster. Once for each attempt that came to an end.
    pub fn report(&self, attempt: &InFlight, outcome: Outcome) {
        let endpoint = attempt.endpoint();
        let count = if outcome.is_success() { &endpoint.successes } else { &endpoint.errors };
        count.fetch_add(1, Ordering::Relaxed);
        attempt.learn(!outcome.is_success());
        if let Some(judge) = Judge::of(&self.shared) {
            judge.note(endpoint, attempt.probe(), outcome, Moment::now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_error_in_the_head_counts_as_what_it_stands_for() {
        let of = |grpc: Option<&'static str>, asked| {
            let value = grpc.map(|grpc| ("grpc-status".parse().expect("a name"), grpc.parse().expect("a value")));
            Outcome::of_answer(StatusCode::OK, &value.into_iter().collect(), asked)
        };
        for (grpc, status) in
            [(None, 200), (Some("0"), 200), (Some("14"), 503), (Some("4"), 504), (Some("13"), 500), (Some("x"), 200)]
        {
            assert_eq!(of(grpc, true), Outcome::Answered(status), "{grpc:?}");
            assert_eq!(of(grpc, false), Outcome::Answered(200), "{grpc:?} where nobody asked for gRPC");
        }
    }
}
