//! Whether a peer is who it says it is.
//!
//! A peer of the mesh is known by exactly one SPIFFE ID, which names its trust domain, whose roots alone may vouch for it.
//! No name of the subject counts and no prefix is enough. Peers outside the mesh are known by DNS or URI names.

use std::sync::Arc;
use std::time::SystemTime;

use leno_config::identity::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::identity::{SvidError, Trust, id_of, validity};

/// Why a peer's certificate is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It has no identity of the mesh.
    #[error("it is no identity of a mesh: {0}")]
    Identity(#[from] SvidError),
    /// Nobody here vouches for its trust domain.
    #[error("`{0}` is of a trust domain for which there is no bundle")]
    TrustDomain(SpiffeId),
    /// The chain is broken.
    #[error("{}", chain_in_words(.0))]
    Chain(webpki::Error),
    /// Somebody else.
    #[error("it is `{found}`, and {}", expected_in_words(.expected))]
    Unexpected {
        /// Who it is.
        found: SpiffeId,
        /// Who it should have been.
        expected: Vec<SpiffeId>,
    },
    /// This proxy is somebody else by now.
    #[error("this proxy was `{was}` when the connection began, and is `{is}` now")]
    OwnIdentity {
        /// Whom the peer was shown.
        was: SpiffeId,
        /// Who it would be shown.
        is: SpiffeId,
    },
    /// None of the wanted names, outside the mesh.
    #[error("it carries none of the names {0}")]
    Names(String),
}

fn expected_in_words(expected: &[SpiffeId]) -> String {
    match expected {
        [] => "nothing says who is expected: give the endpoint a serviceAccount, or the service subjectAltNames".into(),
        some => format!("{} is expected", some.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(" or ")),
    }
}

fn chain_in_words(error: &webpki::Error) -> String {
    match error {
        webpki::Error::CertExpired { .. } => "it has expired".to_owned(),
        webpki::Error::CertNotValidYet { .. } => "it is not valid yet".to_owned(),
        webpki::Error::CertRevoked => "it has been revoked".to_owned(),
        webpki::Error::UnknownIssuer => "its chain does not end in a root of its trust domain".to_owned(),
        webpki::Error::UnknownRevocationStatus => {
            "nobody says whether it was revoked: `caCrl` needs a list of each authority of its chain".to_owned()
        }
        webpki::Error::CrlExpired { .. } => "the list of the revoked (`caCrl`) is out of date".to_owned(),
        webpki::Error::CaUsedAsEndEntity => "it is a certificate authority, not a workload".to_owned(),
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            "its extended key usage does not allow this side of TLS".to_owned()
        }
        other => format!("its chain is not valid: {other}"),
    }
}

/// The roots and revocations of one moment, ready for use.
#[derive(Debug)]
pub struct Roots {
    domains: Vec<(String, Vec<TrustAnchor<'static>>)>,
    revoked: Vec<CertRevocationList<'static>>,
}

impl Roots {
    /// Leaves out what is not a certificate or a revocation list, each with a warning: the rest still protects.
    pub fn new(trust: &Trust) -> Self {
        let anchor = |root: &CertificateDer<'static>| match webpki::anchor_from_trusted_cert(root) {
            Ok(anchor) => Some(anchor.to_owned()),
            Err(error) => {
                tracing::warn!(%error, "a root of a trust bundle cannot be used");
                None
            }
        };
        let domains = trust
            .domains()
            .map(|domain| (domain.to_owned(), trust.roots(domain).iter().filter_map(anchor).collect()))
            .collect();
        let list = |der: &rustls_pki_types::CertificateRevocationListDer<'static>| {
            match OwnedCertRevocationList::from_der(der) {
                Ok(list) => Some(CertRevocationList::from(list)),
                Err(error) => {
                    tracing::warn!(%error, "a revocation list cannot be used");
                    None
                }
            }
        };
        Self { domains, revoked: trust.revocations().iter().filter_map(list).collect() }
    }

    /// Verifies a peer's chain (leaf first) for one side of TLS and says who it is.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<SpiffeId, PeerError> {
        let id = id_of(leaf)?;
        let anchors = self.domains.iter().find(|(domain, _)| domain == id.trust_domain());
        let Some((_, anchors)) = anchors.filter(|(_, anchors)| !anchors.is_empty()) else {
            return Err(PeerError::TrustDomain(id));
        };
        self.chain(leaf, intermediates, anchors, now, usage)?;
        Ok(id)
    }

    /// Whether a peer that was accepted once still would be, its age aside: an open connection outlives its
    /// certificates, but not its root or a revocation.
    pub fn still_accept(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
        usage: KeyUsage,
    ) -> Result<(), PeerError> {
        let [leaf, intermediates @ ..] = chain else { return Ok(()) };
        let (from, until) = validity(leaf)?;
        let moment = now.clamp(from, until.max(from));
        self.verify(leaf, intermediates, unix_time(moment), usage).map(|_| ())
    }

    fn chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        anchors: &[TrustAnchor<'static>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), PeerError> {
        let leaf = EndEntityCert::try_from(leaf).map_err(PeerError::Chain)?;
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        // An old list still says who is revoked; that a list is missing for some issuer says nothing.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        leaf.verify_for_usage(algorithms().all, anchors, intermediates, now, usage, revocation, None)
            .map(|_| ())
            .map_err(PeerError::Chain)
    }
}

/// Whom to believe outside the mesh.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    /// `None`: nobody asks.
    pub(super) revoked: Option<Vec<CertRevocationList<'static>>>,
}

impl Outside {
    /// The leaf, if somebody vouches for it. Where there are lists of the revoked, each authority of the chain has to have
    /// one, and none may be out of date (Envoy, OpenSSL).
    fn verify<'c>(
        &self,
        leaf: &'c CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<EndEntityCert<'c>, PeerError> {
        let parsed = EndEntityCert::try_from(leaf).map_err(PeerError::Chain)?;
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().flatten().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        parsed
            .verify_for_usage(algorithms().all, &self.anchors, intermediates, now, usage, revocation, None)
            .map_err(PeerError::Chain)?;
        Ok(parsed)
    }
}

/// What a TLS library is told: the alert that fits, else "certificate unknown" with our sentence.
impl From<PeerError> for rustls::Error {
    fn from(error: PeerError) -> Self {
        Self::InvalidCertificate(match &error {
            PeerError::Chain(webpki::Error::CertExpired { .. }) => CertificateError::Expired,
            PeerError::Chain(webpki::Error::CertNotValidYet { .. }) => CertificateError::NotValidYet,
            PeerError::Chain(webpki::Error::CertRevoked) => CertificateError::Revoked,
            PeerError::Chain(webpki::Error::UnknownIssuer) | PeerError::TrustDomain(_) => {
                CertificateError::UnknownIssuer
            }
            PeerError::Chain(webpki::Error::RequiredEkuNotFoundContext(_)) => CertificateError::InvalidPurpose,
            PeerError::Identity(_)
            | PeerError::Chain(_)
            | PeerError::Unexpected { .. }
            | PeerError::OwnIdentity { .. }
            | PeerError::Names(_) => CertificateError::Other(OtherError(Arc::new(error))),
        })
    }
}

/// The sentence behind a failed handshake.
pub fn in_words(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) => {
            let why = match why {
                CertificateError::Expired => chain_in_words(&webpki::Error::CertExpired {
                    time: UnixTime::since_unix_epoch(Default::default()),
                    not_after: UnixTime::since_unix_epoch(Default::default()),
                }),
                CertificateError::NotValidYet => "it is not valid yet".to_owned(),
                CertificateError::Revoked => chain_in_words(&webpki::Error::CertRevoked),
                CertificateError::UnknownIssuer => chain_in_words(&webpki::Error::UnknownIssuer),
                CertificateError::InvalidPurpose => "its extended key usage does not allow this side of TLS".to_owned(),
                CertificateError::Other(OtherError(ours)) => ours.to_string(),
                other => other.to_string(),
            };
            format!("the peer's certificate is not accepted: {why}")
        }
        Some(rustls::Error::NoCertificatesPresented) => "the peer shows no certificate".to_owned(),
        Some(rustls::Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired | PeerIncompatible::Tls12NotOfferedOrEnabled,
        )) => "the peer does not speak TLS 1.3".to_owned(),
        Some(rustls::Error::AlertReceived(alert)) => format!("the peer ended the handshake ({alert:?})"),
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    super::provider().signature_verification_algorithms
}

/// As certificates count; what was before 1970 is 1970.
pub(super) fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Callers of an inbound listener.
#[derive(Debug)]
pub(super) struct Callers(pub(super) Arc<Roots>);

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.verify(end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Whom an endpoint's certificate has to show.
#[derive(Debug)]
pub(super) enum Expected {
    /// A workload of the mesh: one of these.
    Mesh(Arc<Roots>, Vec<SpiffeId>),
    /// Somebody outside: one of these names, or the server's name where there are none.
    Names(Outside, Vec<String>),
    /// Anybody (`insecureSkipVerify`).
    Anybody,
}

impl Expected {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), PeerError> {
        match self {
            Self::Mesh(roots, expected) => {
                let found = roots.verify(leaf, intermediates, now, KeyUsage::server_auth())?;
                match expected.contains(&found) {
                    true => Ok(()),
                    false => Err(PeerError::Unexpected { found, expected: expected.clone() }),
                }
            }
            Self::Names(outside, names) => {
                let parsed = outside.verify(leaf, intermediates, now, KeyUsage::server_auth())?;
                carries(&parsed, names, server)
            }
            Self::Anybody => Ok(()),
        }
    }
}

fn carries(leaf: &EndEntityCert<'_>, names: &[String], server: &ServerName<'_>) -> Result<(), PeerError> {
    match names.is_empty() {
        true => leaf.verify_is_valid_for_subject_name(server).map_err(PeerError::Chain),
        false => carries_one(leaf, names),
    }
}

/// DNS and URI names.
fn carries_one(leaf: &EndEntityCert<'_>, names: &[String]) -> Result<(), PeerError> {
    let is_there = |name: &String| match name.contains("://") {
        true => leaf.valid_uri_names().any(|found| found == name),
        false => {
            ServerName::try_from(name.as_str()).is_ok_and(|name| leaf.verify_is_valid_for_subject_name(&name).is_ok())
        }
    };
    match names.iter().any(is_there) {
        true => Ok(()),
        false => Err(PeerError::Names(names.join(", "))),
    }
}

/// Callers who are not of the mesh, by their names; without names, whom a root vouches for.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) outside: Outside,
    pub(super) names: Vec<String>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let leaf = self.outside.verify(end_entity, intermediates, now, KeyUsage::client_auth())?;
        if !self.names.is_empty() {
            carries_one(&leaf, &self.names)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
