//! The identity that survives a restart: `svid.pem` in the proxy's state directory.
//!
//! One file, so that certificate and key always belong together: the chain, the key, then the roots, with two lines of
//! text before them (which PEM allows). Its owner alone can read it; in Kubernetes the directory is in memory. What is
//! read passes the checks of a fresh answer, so a changed byte in certificate or key is found, and so is the file of
//! another workload.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::issued::{Issued, IssuedError, ServiceAccount, check_time};
use super::svid::Svid;
use crate::state::disk;

/// Name of the file in the state directory.
pub const FILE: &str = "svid.pem";

const LARGEST: u64 = 256 << 10;
const OBTAINED: &str = "obtained (seconds since 1970): ";
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";
const KEY_ENDS: &str = "-----END PRIVATE KEY-----";

/// Why the identity of the last run is not used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system says no.
    #[error("cannot read {path}; the proxy asks for a new certificate", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Not as it was written.
    #[error("{path} is damaged ({what}); it is not used and will be written anew", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Whole, and of no use.
    #[error("the certificate in {path} is not used", path = .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: IssuedError,
    },
    /// It could not be written. The proxy works on; a restart needs the control plane.
    #[error("cannot write {path}; check the directory's owner and free space", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// An identity of the last run.
#[derive(Debug)]
pub struct Stored {
    /// As it was issued.
    pub issued: Issued,
    /// What TLS needs.
    pub svid: Svid,
    /// When it was.
    pub obtained: SystemTime,
}

/// Reads the identity of a workload; `None` if there is none.
pub fn load(directory: &Path, account: &ServiceAccount, now: SystemTime) -> Result<Option<Stored>, StoreError> {
    let path = directory.join(FILE);
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::Read(path, error)),
    };
    let damaged = |what: String| StoreError::Damaged { path: path.clone(), what };
    let (issued, obtained) = parse(&text).map_err(damaged)?;
    let svid = issued.svid(now).map_err(|error| damaged(error.to_string()))?;
    let usable = account.check(&svid).and_then(|()| check_time(&svid, now));
    usable.map_err(|source| StoreError::Unusable { path, source })?;
    let obtained = obtained.unwrap_or(svid.valid_from());
    Ok(Some(Stored { issued, svid, obtained }))
}

/// The text of the file, ready to be written. It is erased when this is dropped.
pub struct Save {
    directory: PathBuf,
    text: Zeroizing<String>,
}

impl Save {
    /// For a state directory; obtained at `obtained`.
    pub fn new(directory: &Path, issued: &Issued, svid: &Svid, obtained: SystemTime) -> Self {
        let key = issued.key_pem();
        let (chain, roots) = (issued.chain_pem(), issued.roots_pem());
        let id = svid.id();
        let length = [id.as_str().len(), chain.len(), key.len(), roots.len(), 256].iter().sum();
        let mut text = Zeroizing::new(String::with_capacity(length));
        let seconds = obtained.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Writing into a string cannot fail.
        let _ = writeln!(text, "Identity {id} of leno-proxy, which replaces this file; it holds a private key");
        let _ = writeln!(text, "{OBTAINED}{seconds}");
        for part in [chain.as_str(), key.as_str(), roots.as_str()] {
            text.push_str(part);
        }
        Self { directory: directory.to_owned(), text }
    }

    /// Replaces the file. Blocks until it is safely on disk.
    pub fn write(&self) -> Result<(), StoreError> {
        let path = self.directory.join(FILE);
        disk::replace(&self.directory, &path, self.text.as_bytes()).map_err(|error| StoreError::Write(path, error))
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len().min(LARGEST);
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(length).unwrap_or_default().saturating_add(1)));
    file.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// The chain stands before the key, the roots after it.
fn parse(text: &str) -> Result<(Issued, Option<SystemTime>), String> {
    let (before, rest) = text.split_once(KEY_BEGINS).ok_or("there is no key in it")?;
    let (key, after) = rest.split_once(KEY_ENDS).ok_or("the key does not end")?;
    let key = Zeroizing::new([KEY_BEGINS, key, KEY_ENDS, "\n"].concat());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| error.to_string())?;
    let (chain, roots) = (certificates(before)?, certificates(after)?);
    let obtained = before.lines().find_map(|line| line.strip_prefix(OBTAINED)).and_then(|text| text.parse().ok());
    let obtained = obtained.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    Ok((Issued::new(chain, key, roots), obtained))
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|error| error.to_string())
}
