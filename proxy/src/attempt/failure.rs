//! What went wrong with an attempt: for the policy and for the caller.

use std::net::SocketAddr;

use crate::error::ProxyError;
use crate::tls::server::HandshakeError;
use crate::upstream::connect::ConnectError;
use crate::upstream::send::SendFailure;

use super::conditions::Failure;

/// An attempt without an answer.
#[derive(Debug)]
pub(super) struct Failed {
    /// What happened to the endpoint; `None`: it was not the endpoint's doing, and there is no other attempt.
    pub(super) failure: Option<Failure>,
    /// What the caller hears if it was the last attempt.
    pub(super) error: ProxyError,
}

impl Failed {
    /// It ended here.
    pub(super) fn here(error: ProxyError) -> Self {
        Self { failure: None, error }
    }

    /// No connection.
    pub(super) fn connect(cluster: String, address: SocketAddr, error: &ConnectError) -> Self {
        let timed_out = is_timeout(error);
        let in_tls = matches!(error, ConnectError::Tls(_));
        let error = ProxyError::Connect { cluster, address, reason: error.to_string(), timed_out, in_tls };
        Self { failure: Some(Failure::NotConnected), error }
    }

    /// Sent, as far as that went.
    pub(super) fn send(cluster: String, address: SocketAddr, failure: &SendFailure) -> Self {
        let reason = match failure {
            SendFailure::Unsent(_) => "it was closed before the request could be sent".to_owned(),
            SendFailure::Closed(error)
            | SendFailure::Unprocessed(error)
            | SendFailure::Reset(error)
            | SendFailure::Protocol(error) => error.to_string(),
        };
        let (failure, error) = match failure {
            SendFailure::Unsent(_) => (Failure::NotSent, ProxyError::Closed { cluster, address, reason }),
            SendFailure::Closed(_) => (Failure::Closed, ProxyError::Closed { cluster, address, reason }),
            SendFailure::Unprocessed(_) => (Failure::Refused, ProxyError::Refused { cluster, address, reason }),
            SendFailure::Reset(_) => (Failure::Broken, ProxyError::Reset { cluster, address, reason }),
            SendFailure::Protocol(_) => (Failure::Broken, ProxyError::UpstreamProtocol { cluster, address, reason }),
        };
        Self { failure: Some(failure), error }
    }
}

fn is_timeout(error: &ConnectError) -> bool {
    match error {
        ConnectError::TimedOut(_) | ConnectError::Tls(HandshakeError::TimedOut) => true,
        ConnectError::Io(_)
        | ConnectError::Tls(HandshakeError::NoIdentity | HandshakeError::NotValidNow(_) | HandshakeError::Failed(_)) => {
            false
        }
    }
}
