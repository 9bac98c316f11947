//! Files about TLS outside the mesh: roots, which may be the system's, and lists of the revoked.

use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

/// Where the system's roots are on Debian, Alpine and in most images; `SSL_CERT_FILE` says otherwise.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why a file has no roots to offer.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It cannot be read, or is not PEM.
    #[error("cannot use {path}: {reason}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: pem::Error,
    },
    /// There is nothing in it.
    #[error("{path} has no root certificate", path = .0.display())]
    Empty(PathBuf),
    /// There is no list in it, or one that is none.
    #[error("{path} has no list of revoked certificates that could be used", path = .0.display())]
    NoList(PathBuf),
}

/// The file with the system's roots.
pub fn of_system() -> PathBuf {
    std::env::var_os("SSL_CERT_FILE").map_or_else(|| SYSTEM_ROOTS.into(), PathBuf::from)
}

/// The roots in a file (PEM), without those that cannot be understood; at least one.
pub fn read(path: &Path) -> Result<Vec<TrustAnchor<'static>>, RootsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|reason| RootsError::Unreadable { path: path.to_owned(), reason })?;
    let anchor = |root| webpki::anchor_from_trusted_cert(root).ok().map(|anchor| anchor.to_owned());
    let anchors: Vec<_> = certificates.iter().filter_map(anchor).collect();
    match anchors.is_empty() {
        false => Ok(anchors),
        true => Err(RootsError::Empty(path.to_owned())),
    }
}

/// The lists of the revoked in a file (PEM); at least one, and no other than can be understood: what is left out would not be
/// revoked.
pub fn revoked(path: &Path) -> Result<Vec<CertRevocationList<'static>>, RootsError> {
    let lists = CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|reason| RootsError::Unreadable { path: path.to_owned(), reason })?;
    let lists: Result<Vec<_>, _> = lists.iter().map(|der| OwnedCertRevocationList::from_der(der)).collect();
    match lists {
        Ok(lists) if !lists.is_empty() => Ok(lists.into_iter().map(CertRevocationList::from).collect()),
        Ok(_) | Err(_) => Err(RootsError::NoList(path.to_owned())),
    }
}
