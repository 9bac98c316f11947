//! A certificate authority's certificate with its key, and what it issues.
//!
//! Two kinds of leaf exist. A workload's has its SPIFFE ID as the only name, no subject, and serves both ends of a
//! connection. The control plane's own has host names beside its SPIFFE ID, because proxies reach it by address, before
//! they are part of the mesh.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use leno_config::identity::SpiffeId;
use leno_proxy::identity::validity;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::key::{Key, KeyError};
use super::{OwnCertificate, pem};

/// How long a root is good that Leno makes.
pub(crate) const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Shortest life of a leaf: below, a proxy would do little else than renew.
pub(crate) const SHORTEST: Duration = Duration::from_secs(60);
/// How far a certificate reaches back, for peers whose clocks are late.
const BACK: Duration = Duration::from_secs(5 * 60);
/// Of a short life, this part: otherwise a certificate of a minute would be five minutes old when it is made.
const BACK_PART: u32 = 6;
/// Most certificates in an operator's file: a chain and the roots of a change.
const MAX_CERTIFICATES: usize = 16;

/// An authority that issues certificates.
#[derive(Debug)]
pub(crate) struct Issuer {
    /// The certificate that signs, what leads from it to the root, and the root. Of a root alone: one.
    chain: Vec<CertificateDer<'static>>,
    signer: rcgen::Issuer<'static, Key>,
    /// When the first of the chain ends.
    ends: SystemTime,
}

/// A certificate that was issued.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    /// The last moment at which it is good.
    pub(crate) ends: SystemTime,
}

/// Whom a leaf is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// A workload of the mesh.
    Workload(&'a SpiffeId),
    /// This control plane, reached by these names.
    ControlPlane(&'a SpiffeId, &'a [ServerName]),
    /// A server outside the mesh's identities, reached by these names.
    Server(&'a [ServerName]),
}

/// A name by which proxies reach the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerName {
    /// A host name, in ASCII.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

/// Why an operator's certificates and key do not make an authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    /// Not PEM, or empty.
    #[error("the authority's certificates are not PEM, or there is none")]
    Pem,
    /// More than anyone needs.
    #[error("there are more than {MAX_CERTIFICATES} certificates in the authority's file")]
    TooMany,
    /// Not X.509.
    #[error("certificate {0} of the authority's file is not valid X.509")]
    Certificate(usize),
    /// The key cannot be used.
    #[error("the authority's key: {0}")]
    Key(#[from] KeyError),
    /// A leaf, for example.
    #[error(
        "the first certificate of the authority's file must not sign others (it is no CA, or its key usage lacks keyCertSign)"
    )]
    NotAnAuthority,
    /// The chain has no end.
    #[error("the authority's file does not lead to a root: append the self-signed root after the intermediates")]
    NoRoot,
    /// The certificate is not for this key.
    #[error("the authority's key does not belong to the first certificate of its file")]
    OtherKey,
    /// It is over.
    #[error("a certificate of the authority's chain has expired, or will within a minute")]
    Expired,
    /// Whatever the reason, peers would refuse.
    #[error(
        "what this authority issues would be refused by its own root: {0}; put the chain in order, the issuing certificate first"
    )]
    Broken(webpki::Error),
    /// The library gave up.
    #[error("no certificate could be made: {0}")]
    Make(rcgen::Error),
}

/// Why there is no leaf.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// A certificate would end before it is of use.
    #[error("the authority's own certificate ends within a minute, so it issues nothing any more; give it a new one")]
    Ending,
    /// Below [`SHORTEST`].
    #[error("a certificate is good for at least 60 s; ask for that, or for 0 to get the usual life")]
    TooShort,
    /// The source of random numbers failed.
    #[error("there are no random numbers for a serial number")]
    Random,
    /// The library gave up.
    #[error("no certificate could be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl Issuer {
    /// A new self-signed root (ECDSA P-256, ten years), and its key for the disk.
    pub(crate) fn create(now: SystemTime) -> Result<(Self, Zeroizing<String>), IssuerError> {
        Self::create_for("root", ROOT_LIFE, now)
    }

    /// The same for another purpose, which its name says, and for as long as that wants.
    pub(crate) fn create_for(
        purpose: &str,
        life: Duration,
        now: SystemTime,
    ) -> Result<(Self, Zeroizing<String>), IssuerError> {
        let (key, key_pem) = Key::generate()?;
        let mut parameters = CertificateParams::default();
        let serial = serial().map_err(|_| KeyError::Random)?;
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Leno");
        // Every root has a name of its own, so that peers never look for a leaf's issuer under two keys.
        name.push(DnType::CommonName, format!("Leno {purpose} {}", hexadecimal(serial.get(..4).unwrap_or_default())));
        parameters.distinguished_name = name;
        parameters.serial_number = Some(SerialNumber::from_slice(&serial));
        parameters.not_before = (now - BACK).into();
        parameters.not_after = (now + life).into();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).map_err(IssuerError::Make)?;
        Ok((Self::new(vec![certificate.into()], key, now)?, key_pem))
    }

    /// An authority from its file (the issuing certificate, intermediates, the root; PEM) and its key. Further
    /// self-signed certificates of the file are other roots of the mesh, and are returned.
    pub(crate) fn from_pem(
        certificates: &[u8],
        key: &[u8],
        now: SystemTime,
    ) -> Result<(Self, Vec<CertificateDer<'static>>), IssuerError> {
        let mut chain = pem::read_certificates(certificates).ok_or(IssuerError::Pem)?;
        if chain.is_empty() {
            return Err(IssuerError::Pem);
        }
        if chain.len() > MAX_CERTIFICATES {
            return Err(IssuerError::TooMany);
        }
        let self_signed = chain.iter().enumerate().map(|(index, certificate)| {
            let parsed = parse(certificate).ok_or(IssuerError::Certificate(index + 1))?;
            Ok(parsed.subject().as_raw() == parsed.issuer().as_raw())
        });
        let self_signed = self_signed.collect::<Result<Vec<_>, IssuerError>>()?;
        let root = self_signed.iter().position(|is| *is).ok_or(IssuerError::NoRoot)?;
        let others = chain.split_off(root + 1);
        let others_are_roots = self_signed.iter().skip(root + 1).all(|is| *is);
        let issuer = Self::new(chain, Key::from_pem(key)?, now)?;
        if others_are_roots { Ok((issuer, others)) } else { Err(IssuerError::NoRoot) }
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: Key, now: SystemTime) -> Result<Self, IssuerError> {
        let first = chain.first().ok_or(IssuerError::Pem)?;
        let parsed = parse(first).ok_or(IssuerError::Certificate(1))?;
        let signs = parsed.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
        if !parsed.is_ca() || !signs {
            return Err(IssuerError::NotAnAuthority);
        }
        if parsed.public_key().raw != key.public().subject_public_key_info() {
            return Err(IssuerError::OtherKey);
        }
        let ends = chain.iter().enumerate().map(|(index, certificate)| match validity(certificate) {
            Ok((_, ends)) => Ok(ends),
            Err(_) => Err(IssuerError::Certificate(index + 1)),
        });
        let ends = ends.collect::<Result<Vec<_>, _>>()?.into_iter().min().ok_or(IssuerError::Pem)?;
        let signer = rcgen::Issuer::from_ca_cert_der(first, key).map_err(IssuerError::Make)?;
        let issuer = Self { chain, signer, ends };
        issuer.prove(now)?;
        Ok(issuer)
    }

    /// Issues a leaf for nobody and checks it as a peer would. What is wrong with a chain (order, names, constraints, an
    /// expired intermediate) is found at the start and not by the first proxy.
    fn prove(&self, now: SystemTime) -> Result<(), IssuerError> {
        let id = SpiffeId::parse("spiffe://leno.invalid/ns/none/sa/none").map_err(|_| IssuerError::Pem)?;
        let (key, _) = Key::generate()?;
        let leaf = self.issue(Subject::Workload(&id), key.public(), SHORTEST, now).map_err(|error| match error {
            IssueError::Make(error) => IssuerError::Make(error),
            IssueError::Random => IssuerError::Key(KeyError::Random),
            IssueError::Ending | IssueError::TooShort => IssuerError::Expired,
        })?;
        let anchor = anchor_from_trusted_cert(self.root()).map_err(IssuerError::Broken)?;
        let end_entity = EndEntityCert::try_from(&leaf.certificate).map_err(IssuerError::Broken)?;
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        end_entity
            .verify_for_usage(algorithms, &[anchor], self.intermediates(), now, KeyUsage::client_auth(), None, None)
            .map(drop)
            .map_err(IssuerError::Broken)
    }

    /// Issues a leaf for `key` that is good for `life`, or until the authority itself ends.
    pub(crate) fn issue(
        &self,
        subject: Subject<'_>,
        key: &SubjectPublicKeyInfo,
        life: Duration,
        now: SystemTime,
    ) -> Result<Leaf, IssueError> {
        let (begins, ends) = span(now, life, self.ends)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.serial_number = Some(SerialNumber::from_slice(&serial()?));
        parameters.not_before = begins.into();
        parameters.not_after = ends.into();
        parameters.subject_alt_names = names(subject)?;
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(key, &self.signer)?.into();
        Ok(Leaf { certificate, ends })
    }

    /// A leaf with a new key, for a server of this process.
    pub(crate) fn issue_own(
        &self,
        subject: Subject<'_>,
        life: Duration,
        now: SystemTime,
    ) -> Result<OwnCertificate, IssueError> {
        let (key, _) = Key::generate().map_err(|_| IssueError::Random)?;
        let leaf = self.issue(subject, key.public(), life, now)?;
        let chain = std::iter::once(leaf.certificate).chain(self.intermediates().iter().cloned()).collect();
        let key = CertifiedKey::new(chain, Arc::clone(key.signer()));
        Ok(OwnCertificate { key: Arc::new(key), ends: leaf.ends })
    }

    /// What a peer needs between a leaf and the root.
    pub(crate) fn intermediates(&self) -> &[CertificateDer<'static>] {
        self.chain.split_last().map_or(&[], |(_, rest)| rest)
    }

    /// The certificate that all others lead to.
    #[expect(clippy::expect_used, reason = "a chain is never empty")]
    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        self.chain.last().expect("invariant: a chain is never empty")
    }

    /// When the first of its certificates ends, and with it everything that it issued.
    pub(crate) fn ends(&self) -> SystemTime {
        self.ends
    }
}

/// From when until when a leaf is good.
fn span(now: SystemTime, life: Duration, authority_ends: SystemTime) -> Result<(SystemTime, SystemTime), IssueError> {
    if life < SHORTEST {
        return Err(IssueError::TooShort);
    }
    if authority_ends < now + SHORTEST {
        return Err(IssueError::Ending);
    }
    let back = BACK.min(life / BACK_PART);
    let ends = whole_seconds(now + life).min(authority_ends);
    Ok((whole_seconds(now - back), ends))
}

/// As a certificate can say it (RFC 5280 §4.1.2.5), rounded down.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn names(subject: Subject<'_>) -> Result<Vec<SanType>, rcgen::Error> {
    let (id, hosts) = match subject {
        Subject::Workload(id) => (Some(id), &[][..]),
        Subject::ControlPlane(id, hosts) => (Some(id), hosts),
        Subject::Server(hosts) => (None, hosts),
    };
    let mut names = Vec::with_capacity(1 + hosts.len());
    if let Some(id) = id {
        names.push(SanType::URI(Ia5String::try_from(id.as_str())?));
    }
    for host in hosts {
        names.push(match host {
            ServerName::Dns(name) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
            ServerName::Address(address) => SanType::IpAddress(*address),
        });
    }
    Ok(names)
}

/// 128 random bits; RFC 5280 §4.1.2.2 asks for up to 160, the CA/Browser Forum for at least 64.
fn serial() -> Result<[u8; 16], IssueError> {
    let mut serial = [0; 16];
    let random = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut serial).map_err(|_| IssueError::Random)?;
    Ok(serial)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate).ok().map(|(_, parsed)| parsed)
}

#[cfg(test)]
mod tests;
