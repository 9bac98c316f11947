//! The gRPC method `CreateCertificate`, Istio's own, so that agents made for Istio can ask here.
//!
//! Who the caller is, is decided before the first byte of its message is read. What it asks for is read within bounds,
//! and answered on a thread that may wait for a disk.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use leno_config::xds::ca::{IstioCertificateRequest, IstioCertificateResponse, METHOD, SERVICE};
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService};
use tonic::{Status, body::Body};
use tonic_prost::ProstCodec;
use tracing::error;

use super::attest::{Attested, Gate, Peer};
use super::issuer::IssueError;
use super::{Authority, SignError};

/// Largest message that is read; a request has a tenth of that.
const MAX_MESSAGE: usize = 64 << 10;
/// For a message to come in and its answer to be made.
const DEADLINE: Duration = Duration::from_secs(10);

/// Hands out certificates.
#[derive(Clone)]
pub(crate) struct Certificates {
    authority: Arc<Authority>,
    gate: Arc<Gate>,
}

impl Certificates {
    pub(crate) fn new(authority: Arc<Authority>, gate: Arc<Gate>) -> Self {
        Self { authority, gate }
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        if request.uri().path() != METHOD {
            return Status::unimplemented(format!("there is no method {}", request.uri().path())).into_http();
        }
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return Status::unauthenticated("certificates are issued on the encrypted port only").into_http();
        };
        let admitted = self.gate.admit(request.headers(), &peer, "a certificate", SystemTime::now()).await;
        let caller = match admitted {
            Ok(caller) => caller,
            Err(status) => return status.into_http(),
        };
        let create = tower::service_fn(|message: tonic::Request<IstioCertificateRequest>| {
            create(self.clone(), caller.clone(), peer.clone(), message.into_inner())
        });
        let codec = ProstCodec::<IstioCertificateResponse, IstioCertificateRequest>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE);
        let answer = tokio::time::timeout(DEADLINE, grpc.unary(create, request)).await;
        let late = |_| Status::deadline_exceeded("the certificate request did not come in time").into_http();
        answer.unwrap_or_else(late)
    }
}

async fn create(
    service: Certificates,
    caller: Attested,
    peer: Peer,
    message: IstioCertificateRequest,
) -> Result<tonic::Response<IstioCertificateResponse>, Status> {
    // Metadata are hints of Istio's agents about signers that there are none of here.
    let IstioCertificateRequest { csr, validity_duration, metadata: _ } = message;
    let authority = Arc::clone(&service.authority);
    let work = move || authority.sign(&caller, &csr, validity_duration, SystemTime::now());
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(cert_chain)) => Ok(tonic::Response::new(IstioCertificateResponse { cert_chain })),
        Ok(Err(refusal)) => {
            service.gate.refused("a certificate", peer.from, reason(&refusal), &refusal);
            Err(status(&refusal))
        }
        Err(panic) => {
            error!("issuing a certificate failed: {panic}");
            Err(Status::internal("issuing a certificate failed; this is a fault in leno, please report it"))
        }
    }
}

/// A word for the metric.
fn reason(refusal: &SignError) -> &'static str {
    match refusal {
        SignError::NotReady => "not_ready",
        SignError::Request(_) | SignError::Negative | SignError::Issue(IssueError::TooShort) => "request",
        SignError::Identity(_) | SignError::Issue(IssueError::Ending | IssueError::Random | IssueError::Make(_)) => {
            "authority"
        }
    }
}

fn status(refusal: &SignError) -> Status {
    let text = refusal.to_string();
    match refusal {
        SignError::NotReady => Status::unavailable(text),
        SignError::Request(_) | SignError::Negative | SignError::Issue(IssueError::TooShort) => {
            Status::invalid_argument(text)
        }
        SignError::Identity(_) | SignError::Issue(IssueError::Ending) => Status::failed_precondition(text),
        SignError::Issue(IssueError::Random | IssueError::Make(_)) => Status::internal(text),
    }
}

impl NamedService for Certificates {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for Certificates {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}
