//! A certificate as its issuer gave it: chain, key and roots, as bytes. From here come the [`Svid`] that TLS uses and
//! the file that survives a restart.
//!
//! Whatever its way (an answer of the control plane, the file of the last run, files of an operator), it has to pass the
//! same checks before anything uses it.

use std::fmt;
use std::time::SystemTime;

use leno_config::identity::SpiffeId;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use zeroize::Zeroizing;

use super::pem;
use super::svid::{Svid, SvidError};

/// Why a certificate is not used.
#[derive(Debug, thiserror::Error)]
pub enum IssuedError {
    /// The leaf or the key.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// It does not lead to the roots.
    #[error("its chain does not lead to the roots given with it, as a certificate for TLS clients and servers: {0}")]
    Chain(webpki::Error),
    /// It is of another workload.
    #[error("it is the identity of {found}, and this proxy is service account `{account}` of namespace `{namespace}`")]
    Foreign {
        /// Whose it is.
        found: SpiffeId,
        /// The node's namespace.
        namespace: String,
        /// The node's service account.
        account: String,
    },
    /// Its time is over.
    #[error("it expired at {0}")]
    Expired(String),
    /// Its time has not come.
    #[error("it is not valid before {0}; is the clock of this machine right?")]
    NotYet(String),
}

/// The service account that the node says it runs under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A certificate, its key and the roots that it leads to. The key is never printed, and is erased when this is dropped.
pub struct Issued {
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<PrivateKeyDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
}

impl Issued {
    /// A chain (leaf first, without its root), the leaf's key, and roots.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self { chain, key: Zeroizing::new(key), roots }
    }

    /// Checks everything but whether its time has come: one identity, the key belongs to it, the chain leads to a root.
    pub fn svid(&self, now: SystemTime) -> Result<Svid, IssuedError> {
        let svid = Svid::new(self.chain.clone(), self.key.clone_key())?;
        self.verify(now.clamp(svid.valid_from(), svid.valid_until())).map_err(IssuedError::Chain)?;
        Ok(svid)
    }

    /// The chain, PEM.
    pub fn chain_pem(&self) -> String {
        pem::certificates(&self.chain)
    }

    /// The key, PEM.
    pub fn key_pem(&self) -> Zeroizing<String> {
        pem::key(&self.key)
    }

    /// The roots, PEM.
    pub fn roots_pem(&self) -> String {
        pem::certificates(&self.roots)
    }

    /// As a client's and as a server's certificate, for a sidecar is both.
    fn verify(&self, time: SystemTime) -> Result<(), webpki::Error> {
        let (leaf, intermediates) = self.chain.split_first().ok_or(webpki::Error::BadDer)?;
        let leaf = EndEntityCert::try_from(leaf)?;
        let anchors = self.roots.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>()?;
        let time = UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
            leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, intermediates, time, usage, None, None)?;
        }
        Ok(())
    }
}

impl ServiceAccount {
    /// Whether a certificate names this very account.
    pub fn check(&self, svid: &Svid) -> Result<(), IssuedError> {
        match svid.id().namespace_and_service_account() {
            Some((namespace, account)) if namespace == self.namespace && account == self.name => Ok(()),
            Some(_) | None => Err(IssuedError::Foreign {
                found: svid.id().clone(),
                namespace: self.namespace.clone(),
                account: self.name.clone(),
            }),
        }
    }
}

/// Whether its time has come and is not over.
pub fn check_time(svid: &Svid, now: SystemTime) -> Result<(), IssuedError> {
    if now < svid.valid_from() {
        Err(IssuedError::NotYet(rfc3339(svid.valid_from())))
    } else if now > svid.valid_until() {
        Err(IssuedError::Expired(rfc3339(svid.valid_until())))
    } else {
        Ok(())
    }
}

/// `2026-01-31T12:00:00Z`
pub fn rfc3339(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    let (date, month) = (time.date(), u8::from(time.month()));
    let (hour, minute, second) = time.to_hms();
    format!("{:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", date.year(), date.day())
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}
