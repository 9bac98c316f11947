//! Who a caller has proven to be.
//!
//! What a caller shows ([`Shown`]) goes past the attestors in order; the first that knows this kind of credential
//! decides. There are two: a certificate of the mesh, which the TLS handshake has verified, and a token of
//! [`super::token`]. In Kubernetes there is a third between them ([`crate::kubernetes::token_review`]): it asks the API
//! server, which is why the answer is a future.
//!
//! A certificate goes first. It is the stronger proof, and a proxy that renews may still send the token it began with,
//! long expired.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use http::header::AUTHORIZATION;
use leno_config::identity::SpiffeId;
use leno_proxy::telemetry::Quiet;
use tonic::Status;
use tracing::warn;
use zeroize::Zeroizing;

use super::Authority;
use super::metrics::CaMetrics;
use super::token::{Audience, MAX_TOKEN, TokenError};
use crate::kubernetes::token_review::ReviewRefusal;

/// What a caller brings along.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// Of `authorization: Bearer`.
    pub(crate) bearer: Option<Bearer>,
    /// Verified by the handshake against the mesh's own roots.
    pub(crate) certificate: Option<PeerCertificate>,
}

/// What a connection knows of the other end. Travels with its requests as an extension.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// `None`: it showed none.
    pub(crate) certificate: Option<PeerCertificate>,
    /// For the log.
    pub(crate) from: SocketAddr,
}

/// A token. Not printed, wiped after use.
#[derive(Clone)]
pub(crate) struct Bearer(Zeroizing<String>);

/// A client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    pub(crate) id: SpiffeId,
    /// The last moment at which it is good.
    pub(crate) ends: SystemTime,
}

/// Who a caller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attested {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    /// The pod, where the proof is of one pod alone.
    pub(crate) pod: Option<String>,
    /// The proof is good until then.
    pub(crate) until: SystemTime,
    pub(crate) by: Means,
}

/// How a caller has proven it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// A token, of this control plane or of Kubernetes.
    Token,
    /// A certificate of the mesh.
    Certificate,
}

/// Why a caller is nobody.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No credential at all.
    #[error(
        "no credential was shown: send `authorization: Bearer TOKEN` (see `leno token create`), or a client certificate of the mesh"
    )]
    Nothing,
    /// An authorization header of another scheme.
    #[error("the authorization header is not of the form `Bearer TOKEN`")]
    NotBearer,
    /// A token that is not believed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A token that the API server does not vouch for.
    #[error(transparent)]
    Review(#[from] ReviewRefusal),
    /// A certificate that was good when the connection began.
    #[error(
        "the client certificate has expired since the connection began; connect again with a new one, or with a token"
    )]
    CertificateExpired,
    /// A certificate of our own roots for somebody else's domain.
    #[error("the client certificate is of trust domain `{0}`, which is not this mesh's")]
    TrustDomain(String),
    /// An ID without namespace and service account.
    #[error("the client certificate's identity `{0}` is not a workload's (/ns/NAMESPACE/sa/SERVICE-ACCOUNT)")]
    NotAWorkload(SpiffeId),
    /// The rules say which trust domain is ours, and are not there yet.
    #[error("the rules have not been read yet, so this mesh's trust domain is not known; try again")]
    NotReady,
}

impl Refusal {
    /// A word for the metric.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Nothing => "no_credential",
            Self::NotBearer | Self::Token(TokenError::Malformed | TokenError::Subject) => "malformed",
            Self::Token(TokenError::Algorithm(_) | TokenError::Critical) => "algorithm",
            Self::Token(TokenError::Signature) => "signature",
            Self::Token(TokenError::Issuer) => "issuer",
            Self::Token(TokenError::Audience(_)) | Self::Review(ReviewRefusal::Audience) => "audience",
            Self::Review(ReviewRefusal::NotAuthenticated(_)) => "token_review",
            Self::Review(ReviewRefusal::NotAServiceAccount(_)) => "not_a_workload",
            Self::Review(ReviewRefusal::Unanswered(_)) => "api_server",
            Self::Token(TokenError::Expired) | Self::CertificateExpired => "expired",
            Self::TrustDomain(_) => "trust_domain",
            Self::NotAWorkload(_) => "not_a_workload",
            Self::NotReady => "not_ready",
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::NotReady | Self::Review(ReviewRefusal::Unanswered(_)) => Status::unavailable(self.to_string()),
            Self::Nothing
            | Self::NotBearer
            | Self::Token(_)
            | Self::Review(
                ReviewRefusal::Audience | ReviewRefusal::NotAuthenticated(_) | ReviewRefusal::NotAServiceAccount(_),
            )
            | Self::CertificateExpired
            | Self::TrustDomain(_)
            | Self::NotAWorkload(_) => Status::unauthenticated(self.to_string()),
        }
    }
}

/// The answer of an [`Attestor`]. `None`: the caller shows nothing of the kind that it knows.
pub(crate) type Answer<'a> = Pin<Box<dyn Future<Output = Option<Result<Attested, Refusal>>> + Send + 'a>>;

/// Knows one kind of credential.
pub(crate) trait Attestor: Send + Sync {
    /// Who the caller is, as far as this kind of credential says. What is asked elsewhere has a deadline of its own.
    fn attest<'a>(&'a self, shown: &'a Shown, now: SystemTime) -> Answer<'a>;
}

/// Everything that is known of callers goes through here: attested, or refused, logged and counted.
pub(crate) struct Gate {
    attestors: Vec<Box<dyn Attestor>>,
    metrics: CaMetrics,
    /// Anybody can be refused, as often as they like: each is counted, and not each is worth a line.
    lines: Mutex<Quiet>,
}

impl Gate {
    /// The certificates and tokens of an authority, and what else is believed here.
    pub(crate) fn new(authority: &Arc<Authority>, further: impl IntoIterator<Item = Box<dyn Attestor>>) -> Self {
        let certificates = Certificates { authority: Arc::clone(authority) };
        let tokens = Tokens { authority: Arc::clone(authority) };
        let mut attestors: Vec<Box<dyn Attestor>> = vec![Box::new(certificates)];
        attestors.extend(further);
        attestors.push(Box::new(tokens));
        Self { attestors, metrics: authority.metrics().clone(), lines: Mutex::default() }
    }

    /// Who the caller is. `what` it asks for is for the log.
    pub(crate) async fn admit(
        &self,
        headers: &http::HeaderMap,
        peer: &Peer,
        what: &str,
        now: SystemTime,
    ) -> Result<Attested, Status> {
        let decided = match Bearer::of(headers) {
            Ok(bearer) => self.decide(&Shown { bearer, certificate: peer.certificate.clone() }, now).await,
            Err(refusal) => Err(refusal),
        };
        decided.map_err(|refusal| {
            self.refused(what, peer.from, refusal.reason(), &refusal);
            refusal.status()
        })
    }

    /// Counts a refusal, and logs it unless there were many in this second.
    pub(crate) fn refused(&self, what: &str, from: SocketAddr, reason: &'static str, why: &dyn std::fmt::Display) {
        self.metrics.refused(reason);
        if self.lines.lock().unwrap_or_else(PoisonError::into_inner).allows() {
            warn!(%from, reason, "{what} refused: {why}");
        }
    }

    async fn decide(&self, shown: &Shown, now: SystemTime) -> Result<Attested, Refusal> {
        for attestor in &self.attestors {
            if let Some(answer) = attestor.attest(shown, now).await {
                return answer;
            }
        }
        Err(Refusal::Nothing)
    }
}

impl Bearer {
    fn of(headers: &http::HeaderMap) -> Result<Option<Self>, Refusal> {
        headers.get(AUTHORIZATION).map(|value| Self::read(value).ok_or(Refusal::NotBearer)).transpose()
    }

    #[cfg(test)]
    pub(crate) fn from_token(token: &str) -> Self {
        Self(Zeroizing::new(token.to_owned()))
    }

    /// RFC 6750 §2.1; the scheme in any case (RFC 9110 §11.1).
    fn read(value: &http::HeaderValue) -> Option<Self> {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        let token = token.trim();
        let well_formed = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN;
        well_formed.then(|| Self(Zeroizing::new(token.to_owned())))
    }

    /// The token.
    pub(crate) fn token(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(…)")
    }
}

/// Certificates of the mesh.
struct Certificates {
    authority: Arc<Authority>,
}

impl Attestor for Certificates {
    fn attest<'a>(&'a self, shown: &'a Shown, now: SystemTime) -> Answer<'a> {
        Box::pin(async move {
            let certificate = shown.certificate.as_ref()?;
            Some(self.read(certificate, now))
        })
    }
}

impl Certificates {
    fn read(&self, certificate: &PeerCertificate, now: SystemTime) -> Result<Attested, Refusal> {
        let PeerCertificate { id, ends } = certificate;
        let domains = self.authority.domains().ok_or(Refusal::NotReady)?;
        if *ends < now {
            return Err(Refusal::CertificateExpired);
        }
        if !domains.include(id.trust_domain()) {
            return Err(Refusal::TrustDomain(id.trust_domain().to_owned()));
        }
        let parts = id.namespace_and_service_account();
        let (namespace, account) = parts.ok_or_else(|| Refusal::NotAWorkload(id.clone()))?;
        let (namespace, service_account) = (namespace.to_owned(), account.to_owned());
        Ok(Attested { namespace, service_account, pod: None, until: *ends, by: Means::Certificate })
    }
}

/// Tokens of this control plane.
struct Tokens {
    authority: Arc<Authority>,
}

impl Attestor for Tokens {
    fn attest<'a>(&'a self, shown: &'a Shown, now: SystemTime) -> Answer<'a> {
        Box::pin(async move {
            let bearer = shown.bearer.as_ref()?;
            let said = self.authority.tokens().verify(bearer.token(), Audience::Mesh, now);
            Some(said.map_err(Refusal::Token).map(|said| Attested {
                namespace: said.namespace,
                service_account: said.service_account,
                pod: None,
                until: said.expires,
                by: Means::Token,
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_bearer_token_is_read_as_rfc_6750_writes_it() {
        let rows = [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("BEARER  abc ", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic abc", None),
            ("abc", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let read = Bearer::read(&HeaderValue::from_str(text).unwrap());
            assert_eq!(read.as_ref().map(Bearer::token), expected, "{text}");
        }
        assert!(
            Bearer::read(&HeaderValue::from_str(&format!("Bearer {}", "x".repeat(MAX_TOKEN + 1))).unwrap()).is_none()
        );
    }

    #[test]
    fn a_token_is_not_printed() {
        let bearer = Bearer::read(&HeaderValue::from_static("Bearer secret")).unwrap();
        assert!(!format!("{:?}", Shown { bearer: Some(bearer), ..Shown::default() }).contains("secret"));
    }
}
