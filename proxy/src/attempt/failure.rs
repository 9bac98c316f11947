//! What went wrong with an attempt: for the policy and for the caller.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;

use http::StatusCode;

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

    /// An answer that means nothing, or two things.
    #[cold]
    pub(super) fn nonsense(cluster: String, address: SocketAddr, reason: &'static str) -> Self {
        let error = ProxyError::UpstreamProtocol { cluster, address, reason: reason.to_owned() };
        Self { failure: Some(Failure::Broken), error }
    }

    /// Sent, as far as that went.
    pub(super) fn send(cluster: String, address: SocketAddr, failure: &SendFailure) -> Self {
        let (failure, error) = match failure {
            SendFailure::Unsent(_) => {
                let reason = "it was closed before the request could be sent".to_owned();
                (Failure::NotSent, ProxyError::Closed { cluster, address, reason })
            }
            SendFailure::Closed(error) => {
                (Failure::Closed, ProxyError::Closed { cluster, address, reason: error.to_string() })
            }
            SendFailure::Unprocessed(error) => {
                (Failure::Refused, ProxyError::Refused { cluster, address, reason: error.to_string() })
            }
            SendFailure::Reset(error) => {
                (Failure::Broken, ProxyError::Reset { cluster, address, reason: error.to_string() })
            }
            SendFailure::Protocol(error) => {
                (Failure::Broken, ProxyError::UpstreamProtocol { cluster, address, reason: error.to_string() })
            }
            SendFailure::Body(error) => return Self::here(of_body(error)),
        };
        Self { failure: Some(failure), error }
    }
}

/// What the caller did to the body of its request: left in the middle, or sent something that is not HTTP.
fn of_body(error: &hyper::Error) -> ProxyError {
    let mut cause = error.source();
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)) {
            let reason = "the body of the request is not valid HTTP";
            return ProxyError::BadRequest { status: StatusCode::BAD_REQUEST, reason };
        }
        cause = error.source();
    }
    ProxyError::CallerLeft
}

fn is_timeout(error: &ConnectError) -> bool {
    match error {
        ConnectError::TimedOut(_) | ConnectError::Tls(HandshakeError::TimedOut) => true,
        ConnectError::Io(_)
        | ConnectError::Source(..)
        | ConnectError::Tls(HandshakeError::NoIdentity | HandshakeError::NotValidNow(_) | HandshakeError::Failed(_)) => {
            false
        }
    }
}
