//! A key of this process's own, the request that goes out for it, and what has to be true of the answer.
//!
//! The key is made here and never leaves: what travels is a signature made with it. The request asks for nothing, since
//! the authority decides by the caller's credential alone.

use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::issued::{Issued, IssuedError, ServiceAccount, check_time};
use super::svid::Svid;

/// More certificates than any chain has.
const LONGEST_CHAIN: usize = 16;

/// Why an answer is not used.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Not what was agreed on.
    #[error("the control plane's answer is not a chain of PEM certificates: {0}")]
    Form(String),
    /// A certificate that will not do.
    #[error("the certificate that the control plane issued cannot be used: {0}")]
    Unusable(#[from] IssuedError),
}

/// A key without a certificate.
pub struct Request {
    key: Zeroizing<KeyPair>,
    csr: String,
}

impl Request {
    /// Makes a key (ECDSA P-256) and the request for it.
    pub fn new() -> Result<Self, rcgen::Error> {
        let key = Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&*key)?.pem()?;
        Ok(Self { key, csr })
    }

    /// The request, PEM (PKCS#10).
    pub fn csr(&self) -> &str {
        &self.csr
    }

    /// Takes the answer: a certificate in each text or several, the leaf first and the root last, with further roots
    /// while the mesh changes its own. Where the last one is no root, `known_roots` are what it must lead to.
    pub fn accept(
        self,
        answer: &[String],
        known_roots: &[CertificateDer<'static>],
        account: &ServiceAccount,
        now: SystemTime,
    ) -> Result<(Issued, Svid), AnswerError> {
        let mut chain = read(answer)?;
        let intermediates =
            chain.iter().rposition(|certificate| !is_root(certificate)).map_or(0, |last| last.saturating_add(1));
        let mut roots = chain.split_off(intermediates);
        if roots.is_empty() {
            roots = known_roots.to_vec();
        }
        // The library has no other form of the key than a copy.
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let issued = Issued::new(chain, key.into(), roots);
        let svid = issued.svid(now)?;
        account.check(&svid)?;
        check_time(&svid, now)?;
        Ok((issued, svid))
    }
}

fn read(answer: &[String]) -> Result<Vec<CertificateDer<'static>>, AnswerError> {
    let mut chain = Vec::new();
    for text in answer {
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            chain.push(certificate.map_err(|error| AnswerError::Form(error.to_string()))?);
        }
    }
    match chain.len() {
        0 => Err(AnswerError::Form("it is empty".to_owned())),
        1..=LONGEST_CHAIN => Ok(chain),
        more => Err(AnswerError::Form(format!("it has {more} certificates"))),
    }
}

/// Issued by nobody but itself.
fn is_root(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.subject() == parsed.issuer())
}
