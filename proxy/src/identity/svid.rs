//! The own X.509 identity document: a chain, its key, and what the leaf says.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use leno_config::identity::{SpiffeId, SpiffeIdError};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

/// Why a certificate cannot be the own one.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// Not PEM, or not all of it there.
    #[error("the {what} is not PEM: {reason}")]
    Pem {
        /// `certificate` or `key`.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The certificate cannot be read.
    #[error("the certificate is not valid X.509: {0}")]
    Certificate(String),
    /// The key does not fit.
    #[error("the key does not belong to the certificate, or is of a kind that TLS cannot use: {0}")]
    Key(String),
    /// Not exactly one URI name.
    #[error("the certificate has {0} URI names; an identity is exactly one")]
    Names(usize),
    /// The name is not a SPIFFE ID.
    #[error("the certificate's name `{name}` is not a SPIFFE ID: {reason}")]
    Name {
        /// What stands there.
        name: String,
        /// What is wrong.
        reason: SpiffeIdError,
    },
}

/// An X.509 identity document with its key. The key is never printed and never leaves the process.
pub struct Svid {
    id: SpiffeId,
    key: Arc<CertifiedKey>,
    valid_from: SystemTime,
    valid_until: SystemTime,
}

impl Svid {
    /// A chain (leaf first) and the leaf's key, both PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, SvidError> {
        let pem = |what| move |error: rustls_pki_types::pem::Error| SvidError::Pem { what, reason: error.to_string() };
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(pem("certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(pem("key"))?;
        Self::new(chain, key)
    }

    /// A chain (leaf first) and the leaf's key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, SvidError> {
        let leaf = chain.first().ok_or(SvidError::Pem { what: "certificate", reason: "there is none".to_owned() })?;
        let id = id_of(leaf)?;
        let (valid_from, valid_until) = validity(leaf)?;
        // The signer has its own copy, in memory that it erases itself.
        let key = Zeroizing::new(key);
        let signer = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| SvidError::Key(error.to_string()))?;
        let key = CertifiedKey::new(chain, signer);
        key.keys_match().map_err(|error| SvidError::Key(error.to_string()))?;
        Ok(Self { id, key: Arc::new(key), valid_from, valid_until })
    }

    /// Who it says this proxy is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The chain with its signer, for TLS.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// The first moment at which it is good.
    pub fn valid_from(&self) -> SystemTime {
        self.valid_from
    }

    /// The last moment at which it is good.
    pub fn valid_until(&self) -> SystemTime {
        self.valid_until
    }

    /// Whether it is good now.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.valid_from <= now && now <= self.valid_until
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).field("valid_until", &self.valid_until).finish_non_exhaustive()
    }
}

/// The one SPIFFE ID of a certificate: exactly one URI name, and nothing of the subject counts. A name that cannot be
/// read is a name all the same: such a certificate has no identity.
pub fn id_of(certificate: &CertificateDer<'_>) -> Result<SpiffeId, SvidError> {
    let parsed = parse(certificate)?;
    let names = parsed.subject_alternative_name().map_err(|error| SvidError::Certificate(error.to_string()))?;
    let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(SvidError::Certificate("one of its names cannot be read".to_owned()));
    }
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [name] => {
            SpiffeId::parse(name).map_err(|reason| SvidError::Name { name: name.escape_default().to_string(), reason })
        }
        other => Err(SvidError::Names(other.len())),
    }
}

/// From when until when a certificate is good (RFC 5280 §4.1.2.5).
pub fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), SvidError> {
    let parsed = parse(certificate)?;
    let validity = parsed.validity();
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
        let moment = if time.timestamp() < 0 { None } else { SystemTime::UNIX_EPOCH.checked_add(seconds) };
        moment.unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let (from, until) = (at(validity.not_before), at(validity.not_after));
    match from <= until {
        true => Ok((from, until)),
        false => Err(SvidError::Certificate("it ends before it begins".to_owned())),
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, SvidError> {
    let (rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| SvidError::Certificate(error.to_string()))?;
    match rest.is_empty() {
        true => Ok(parsed),
        false => Err(SvidError::Certificate("there are bytes after its end".to_owned())),
    }
}
