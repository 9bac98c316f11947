//! An identity from the operator's files: of another authority, or for tests.
//!
//! Contents decide what a change is, as with rule files: the files are looked at again and again, and a new state is
//! taken once they are at rest, so that a certificate is not judged beside the key of the one before. A state that will
//! not do leaves everything as it was and says what is wrong.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;
use zeroize::Zeroizing;

use super::clock::Clock;
use super::issued::{Issued, IssuedError, check_time, rfc3339};
use super::keyring::{Keyring, Times, sentence};
use super::schedule::Alarm;
use super::svid::Svid;
use super::trust::{Trust, TrustError};
use crate::control_plane::KeyFiles;
use crate::file_events::{FileEvents, PATIENCE, POLL, QUIET};

/// Larger than any of them.
const LARGEST: u64 = 4 << 20;

/// Where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The own certificate and its key.
    pub own: KeyFiles,
    /// Roots of the own trust domain.
    pub roots: PathBuf,
    /// Revocation lists.
    pub revoked: Option<PathBuf>,
}

/// Why the files are not used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// One of them cannot be read.
    #[error("cannot read {path}", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// One of them has no certificate or key in it.
    #[error("{path} is not PEM: {reason}", path = .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate will not do.
    #[error("the certificate in {path} cannot be used", path = .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: IssuedError,
    },
    /// The roots or the revocations will not do.
    #[error("{path} cannot be used", path = .path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: TrustError,
    },
    /// The thread that reads them has failed.
    #[error("the thread that reads the identity's files panicked")]
    Panicked,
}

impl IdentityFiles {
    /// Keeps the files' identity in force until `stop` turns true or its sender is gone.
    pub async fn keep(self, keyring: &Keyring, clock: &impl Clock, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.follow(keyring, clock) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn follow(self, keyring: &Keyring, clock: &impl Clock) {
        let files = Arc::new(self);
        let mut events = FileEvents::watch(files.paths().map(Path::to_owned).collect());
        let mut seen = None;
        let mut alarm = Alarm::default();
        loop {
            let (fingerprint, contents) = files.at_rest(&mut events, seen).await;
            if seen != Some(fingerprint) {
                seen = Some(fingerprint);
                events.watch_again();
                match contents.and_then(|contents| files.take(contents, keyring, clock)) {
                    Ok(()) => {}
                    Err(error) => {
                        let reason = sentence(&error);
                        keyring.failed(reason.clone(), clock.now());
                        tracing::warn!("the identity's files are not used, what was in force stays: {reason}");
                    }
                }
            }
            warn_of_expiry(keyring, clock, &mut alarm);
            events.wait(Instant::now() + POLL).await;
        }
    }

    /// The files as they are once they no longer change, at the first look at once.
    async fn at_rest(self: &Arc<Self>, events: &mut FileEvents, seen: Option<u128>) -> Look {
        let mut newest = self.look().await;
        let latest = Instant::now() + PATIENCE;
        while seen.is_some_and(|seen| seen != newest.0) && Instant::now() < latest {
            let rest = latest.min(Instant::now() + QUIET);
            while Instant::now() < rest {
                events.wait(rest).await;
            }
            let next = self.look().await;
            if next.0 == newest.0 {
                break;
            }
            newest = next;
        }
        newest
    }

    async fn look(self: &Arc<Self>) -> Look {
        let files = Arc::clone(self);
        let read = spawn_blocking(move || files.read()).await.unwrap_or(Err(FilesError::Panicked));
        (fingerprint(&read), read)
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let Self { own: KeyFiles { certificate, key }, roots, revoked } = self;
        [certificate, key, roots].into_iter().chain(revoked).map(PathBuf::as_path)
    }

    fn read(&self) -> Result<Contents, FilesError> {
        let read = |path: &Path| read(path).map_err(|error| FilesError::Read(path.to_owned(), error));
        Ok(Contents {
            certificate: read(&self.own.certificate)?,
            key: read(&self.own.key)?,
            roots: read(&self.roots)?,
            revoked: self.revoked.as_deref().map(read).transpose()?,
        })
    }

    /// Puts contents in force, all of them or none.
    fn take(&self, contents: Contents, keyring: &Keyring, clock: &impl Clock) -> Result<(), FilesError> {
        let now = clock.now();
        let (issued, svid, trust) = self.parse(&contents, clock)?;
        let usable = check_time(&svid, now);
        let current = keyring.identity().now().svid;
        match (usable, current) {
            // What is in force is better than what is not valid now.
            (Err(source), Some(current)) if current.is_valid_at(now) => {
                return Err(FilesError::Certificate { path: self.own.certificate.clone(), source });
            }
            (Err(error), _) => {
                let path = self.own.certificate.display();
                tracing::warn!("the certificate in {path} encrypts nothing for now: {error}");
            }
            (Ok(()), _) => {}
        }
        let (id, until) = (svid.id().clone(), rfc3339(svid.valid_until()));
        let times = Times { obtained: now, due: None, is_new: true };
        keyring.set_file_trust(trust, now);
        let roots = |source| FilesError::Trust { path: self.roots.clone(), source };
        keyring.install(issued, svid, times).map_err(roots)?;
        tracing::info!(%id, until, "a certificate from files is in force");
        Ok(())
    }

    fn parse(&self, contents: &Contents, clock: &impl Clock) -> Result<(Issued, Svid, Trust), FilesError> {
        let pem = |path: &Path, reason: String| FilesError::Pem { path: path.to_owned(), reason };
        let certificates = |path: &Path, text: &[u8]| {
            let read = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
            read.map_err(|error| pem(path, error.to_string()))
        };
        let Self { own, roots, revoked } = self;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| pem(&own.key, error.to_string()))?;
        let chain = certificates(&own.certificate, &contents.certificate)?;
        let issued = Issued::new(chain, key, certificates(roots, &contents.roots)?);
        let wrong = |source| FilesError::Certificate { path: own.certificate.clone(), source };
        let svid = issued.svid(clock.now()).map_err(wrong)?;
        let mut trust = Trust::default();
        trust
            .add(svid.id().trust_domain(), &contents.roots)
            .map_err(|source| FilesError::Trust { path: roots.clone(), source })?;
        if let (Some(path), Some(text)) = (revoked, &contents.revoked) {
            trust.revoke(text).map_err(|source| FilesError::Trust { path: path.clone(), source })?;
        }
        Ok((issued, svid, trust))
    }
}

/// A look at the files, and what makes it differ from another.
type Look = (u128, Result<Contents, FilesError>);

/// The bytes of the files. They are erased when this is dropped.
struct Contents {
    certificate: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    roots: Zeroizing<Vec<u8>>,
    revoked: Option<Zeroizing<Vec<u8>>>,
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len().min(LARGEST);
    // Large enough from the start, so that no copy of a key is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1));
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn fingerprint(read: &Result<Contents, FilesError>) -> u128 {
    let mut hash = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&bytes.len().to_le_bytes());
        hash.update(bytes);
    };
    match read {
        Ok(Contents { certificate, key, roots, revoked }) => {
            [certificate, key, roots].into_iter().chain(revoked).for_each(|bytes| part(bytes));
        }
        Err(error) => {
            part(b"error");
            part(sentence(error).as_bytes());
        }
    }
    hash.digest128()
}

/// What replaces files does so after two thirds of their life (cert-manager), so that a quarter that is left is late.
fn warn_of_expiry(keyring: &Keyring, clock: &impl Clock, alarm: &mut Alarm) {
    let Some(svid) = keyring.identity().now().svid else { return };
    let now = clock.now();
    let life = svid.valid_until().duration_since(svid.valid_from()).unwrap_or_default();
    let left = svid.valid_until().duration_since(now).unwrap_or_default();
    if left <= life / 4 && alarm.is_due(now) {
        let left = left.as_secs();
        tracing::warn!(
            expires_in_seconds = left,
            "the certificate ends soon or has ended; replace the identity's files"
        );
    }
}
