//! The roots of every trust domain, never mixed.

use std::collections::BTreeMap;

use leno_config::ir;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{BorrowedCertRevocationList, anchor_from_trusted_cert};

use super::pem;

/// Why roots cannot be used; the ones before stay in force.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The text is not PEM.
    #[error("the roots of trust domain `{domain}` are not PEM: {reason}")]
    Pem {
        /// Whose roots.
        domain: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no certificate in it.
    #[error("the bundle of trust domain `{0}` has no certificate, so nobody of it could be believed")]
    Empty(String),
    /// A certificate in it cannot be a root.
    #[error("a certificate in the bundle of trust domain `{domain}` cannot be used as a root: {reason}")]
    Root {
        /// Whose roots.
        domain: String,
        /// What is wrong.
        reason: String,
    },
    /// The revocation list cannot be read.
    #[error("the revocation list cannot be read: {0}")]
    Revoked(String),
}

/// Roots by trust domain. A peer's chain must end in the bundle of the domain that its own ID names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    bundles: BTreeMap<ir::TrustDomain, Vec<CertificateDer<'static>>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Trust {
    /// Reads the secret that a control plane sends. `own` is the trust domain that a bundle without a name stands for.
    pub fn from_secret(secret: &ir::Secret, own: &str) -> Result<Self, TrustError> {
        let mut trust = Self::default();
        for (domain, bundle) in &secret.bundles {
            let domain = if domain.is_empty() { own } else { domain };
            trust.add(domain, bundle.roots.as_bytes())?;
        }
        if let Some(revoked) = &secret.revoked {
            trust.revoke(revoked.as_bytes())?;
        }
        Ok(trust)
    }

    /// Adds the roots of a trust domain, PEM.
    pub fn add(&mut self, domain: &str, pem: &[u8]) -> Result<(), TrustError> {
        let roots: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| TrustError::Pem { domain: domain.to_owned(), reason: error.to_string() })?;
        if roots.is_empty() {
            return Err(TrustError::Empty(domain.to_owned()));
        }
        for root in &roots {
            anchor_from_trusted_cert(root)
                .map_err(|error| TrustError::Root { domain: domain.to_owned(), reason: error.to_string() })?;
        }
        self.bundles.entry(domain.to_owned()).or_default().extend(roots);
        Ok(())
    }

    /// Adds revocation lists, PEM.
    pub fn revoke(&mut self, pem: &[u8]) -> Result<(), TrustError> {
        let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| TrustError::Revoked(error.to_string()))?;
        for list in &lists {
            BorrowedCertRevocationList::from_der(list).map_err(|error| TrustError::Revoked(error.to_string()))?;
        }
        self.revoked.extend(lists);
        Ok(())
    }

    /// With the bundles of another side for the domains that this one does not know, and the revocations of both.
    pub fn or(mut self, other: &Self) -> Self {
        for (domain, roots) in &other.bundles {
            self.bundles.entry(domain.clone()).or_insert_with(|| roots.clone());
        }
        self.revoked
            .extend(other.revoked.iter().filter(|list| !self.revoked.contains(list)).cloned().collect::<Vec<_>>());
        self
    }

    /// The roots of one trust domain; empty: it is not trusted.
    pub fn roots(&self, domain: &str) -> &[CertificateDer<'static>] {
        self.bundles.get(domain).map_or(&[], Vec::as_slice)
    }

    /// The roots of one trust domain, PEM.
    pub fn roots_pem(&self, domain: &str) -> String {
        pem::certificates(self.roots(domain))
    }

    /// Certificates that are no longer good, PEM.
    pub fn revocations_pem(&self) -> String {
        pem::revocations(&self.revoked)
    }

    /// The trust domains that are believed.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.bundles.keys().map(String::as_str)
    }

    /// Certificates that are no longer good.
    pub fn revocations(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.revoked
    }
}
