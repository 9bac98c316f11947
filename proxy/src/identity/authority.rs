//! Whoever signs: the control plane's certificate service, which is Istio's (`IstioCertificateService`).

use std::future::Future;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use leno_config::xds::ca::{IstioCertificateRequest, IstioCertificateResponse, METHOD};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use crate::control_plane::{Access, ConnectError, Credential, Link, Purpose, Refusal};

/// For an answer, once connected.
const DEADLINE: Duration = Duration::from_secs(10);
/// A chain of 16 certificates with large keys.
const LARGEST_ANSWER: usize = 256 << 10;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nothing to show.
    #[error("cannot say who this proxy is: {0}")]
    NoCredential(String),
    /// The control plane does not believe or does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another trouble of the control plane.
    #[error("the control plane did not issue a certificate: {code}: {message}")]
    Failed {
        /// gRPC's code in words.
        code: tonic::Code,
        /// The server's reason, or the transport's.
        message: String,
    },
    /// A silent server.
    #[error("the control plane did not issue a certificate within {} s", DEADLINE.as_secs())]
    Deadline,
}

/// Signs requests for certificates.
pub trait Authority {
    /// The chain for a request (PKCS#10, PEM): PEM, the leaf first.
    fn sign(&self, csr: &str, now: SystemTime) -> impl Future<Output = Result<Vec<String>, SignError>>;

    /// Roots that are known without an answer.
    fn roots(&self) -> Vec<CertificateDer<'static>>;
}

impl Authority for Access {
    /// With each credential in turn, until one is accepted.
    async fn sign(&self, csr: &str, now: SystemTime) -> Result<Vec<String>, SignError> {
        let mut first = None;
        for credential in self.credentials(Purpose::Certificate, now) {
            match ask(self, credential, csr).await {
                Ok(chain) => return Ok(chain),
                Err(error) if is_about_the_way(&error) => return Err(error),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        Err(first.unwrap_or_else(|| SignError::NoCredential(self.without_credentials())))
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        let pem = self.root_file().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect()
    }
}

/// Whether another credential would meet the same trouble.
fn is_about_the_way(error: &SignError) -> bool {
    match error {
        SignError::Connect(error) => match error {
            ConnectError::Tcp { .. }
            | ConnectError::Deadline
            | ConnectError::Root { .. }
            | ConnectError::Untrusted { .. } => true,
            ConnectError::Token { .. }
            | ConnectError::Certificate { .. }
            | ConnectError::Read { .. }
            | ConnectError::Handshake(_)
            | ConnectError::Http2(_) => false,
        },
        SignError::Deadline => true,
        SignError::NoCredential(_) | SignError::Refused(_) | SignError::Failed { .. } => false,
    }
}

async fn ask(access: &Access, credential: Credential, csr: &str) -> Result<Vec<String>, SignError> {
    let link = Link::open(access, credential).await?;
    let message = IstioCertificateRequest { csr: csr.to_owned(), validity_duration: 0, metadata: None };
    let request = link.request(message);
    let mut client = Grpc::new(link.channel.clone()).max_decoding_message_size(LARGEST_ANSWER);
    let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
    let call = async {
        client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        client.unary(request, PathAndQuery::from_static(METHOD), codec).await
    };
    let answered = timeout(DEADLINE, call).await.map_err(|_| SignError::Deadline)?;
    let answer = answered.map_err(|status| match link.refusal(&status) {
        Some(refusal) => SignError::Refused(refusal),
        None => SignError::Failed { code: status.code(), message: status.message().escape_default().to_string() },
    })?;
    Ok(answer.into_inner().cert_chain)
}
