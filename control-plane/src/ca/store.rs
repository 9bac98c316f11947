//! The roots on disk, and how a step that was interrupted is completed.
//!
//! | file below `--state` | mode | what |
//! |---|---|---|
//! | `root.pem` | 0644 | the bundle that proxies are given as `control_plane.root`; follows every change |
//! | `ca/root.pem`, `ca/root.key` | 0644, 0600 | the root that issues |
//! | `ca/next.pem`, `ca/next.key` | 0644, 0600 | the next root, while it is distributed |
//! | `ca/previous.pem` | 0644 | the previous root, while leaves of it may be good; its key is gone |
//! | `ca/issued.json` | 0600 | until when leaves are good that were issued |
//!
//! Each file is replaced as a whole, but a step changes several. Their order makes every point between two of them
//! readable: which root issues is decided by the key in `ca/root.key`, and the certificate follows the key.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::files::{self, FileError, Readers};
use super::issuer::{Issuer, IssuerError};
use super::pem;
use super::rotation::{Owner, Phase, Roots};

/// Number of the form of `issued.json`.
const FORMAT: u32 = 1;

/// Why the roots cannot be used as they stand on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Certificate and key.
    #[error("`{}` cannot be used: {reason}", path.display())]
    Root { path: PathBuf, reason: IssuerError },
    /// One file of two.
    #[error("`{}` is missing although certificates were issued from it; restore it, or remove the whole directory `ca` \
             to begin with a new root, which all proxies then have to be given", .0.display())]
    Missing(PathBuf),
    /// The text of another program.
    #[error("`{}` was not written by this version of leno ({reason}); if no certificate is in use, remove it", path.display())]
    Journal { path: PathBuf, reason: String },
}

/// Where the roots are.
#[derive(Debug)]
pub(crate) struct Store {
    state: PathBuf,
}

/// What outlives the process besides certificates and keys. Times are seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    format: u32,
    /// No leaf of any root is good after this.
    issued_until: u64,
    /// No leaf of the previous root is good after this.
    previous_until: u64,
}

impl Store {
    /// Below this directory, which is made if it is missing.
    pub(crate) fn new(state: &Path) -> Result<Self, FileError> {
        files::private_directory(&state.join("ca"))?;
        Ok(Self { state: state.to_owned() })
    }

    /// The roots as they stand; at the first start, a new one. `life`: how long leaves are good now.
    pub(crate) fn open(&self, life: Duration, now: SystemTime) -> Result<Roots, StoreError> {
        let (certificate, key) = (files::read(&self.path("root.pem"))?, files::read(&self.path("root.key"))?);
        let journal = self.journal()?;
        let roots = match (certificate, key, journal) {
            (Some(certificate), Some(key), journal) => {
                // Without a journal, nobody knows what was issued; by us, nothing that lives longer.
                let until = now + life;
                let unknown = Journal { format: FORMAT, issued_until: seconds(until), previous_until: seconds(until) };
                self.existing(&certificate, &key, journal.unwrap_or(unknown), now)?
            }
            // The journal comes last, so without one nothing was ever issued: a first start that was interrupted.
            (_, _, None) => self.first(now)?,
            (None, _, Some(_)) => return Err(StoreError::Missing(self.path("root.pem"))),
            (Some(_), None, Some(_)) => return Err(StoreError::Missing(self.path("root.key"))),
        };
        for name in ["root.key", "next.key"] {
            if files::is_exposed(&self.path(name)) {
                let path = self.path(name);
                warn!("`{0}` can be read by others than its owner; run `chmod 600 {0}`", path.display());
            }
        }
        Ok(roots)
    }

    fn first(&self, now: SystemTime) -> Result<Roots, StoreError> {
        let (issuer, key) = self.create(now)?;
        files::write(&self.path("root.key"), key.as_bytes(), Readers::Owner)?;
        files::write(&self.path("root.pem"), pem::certificate(issuer.root()).as_bytes(), Readers::Everybody)?;
        self.note_issued(now)?;
        info!("made a root for the mesh in `{}`", self.state.join("ca").display());
        Ok(Roots { issuing: Arc::new(issuer), phase: Phase::Steady, owner: Owner::Leno, issued_until: now })
    }

    fn existing(&self, certificate: &[u8], key: &[u8], journal: Journal, now: SystemTime) -> Result<Roots, StoreError> {
        let next = files::read(&self.path("next.pem"))?;
        let issuing = match (Issuer::from_pem(certificate, key, now), &next) {
            (Ok((issuer, _)), _) => issuer,
            // Interrupted between the two halves of a switch: the certificate follows the key.
            (Err(IssuerError::OtherKey), Some(next)) => {
                let (issuer, _) = Issuer::from_pem(next, key, now).map_err(|reason| self.unusable(reason))?;
                files::rename(&self.path("next.pem"), &self.path("root.pem"))?;
                issuer
            }
            (Err(reason), _) => return Err(self.unusable(reason)),
        };
        let phase = self.phase(&issuing, time(journal.previous_until), now)?;
        let issued_until = time(journal.issued_until);
        Ok(Roots { issuing: Arc::new(issuing), phase, owner: Owner::Leno, issued_until })
    }

    /// Where the files say that a change stands.
    fn phase(&self, issuing: &Issuer, previous_until: SystemTime, now: SystemTime) -> Result<Phase, StoreError> {
        let next = (files::read(&self.path("next.pem"))?, files::read(&self.path("next.key"))?);
        if let (Some(certificate), Some(key)) = &next {
            let path = self.path("next.pem");
            let (next, _) =
                Issuer::from_pem(certificate, key, now).map_err(|reason| StoreError::Root { path, reason })?;
            return Ok(Phase::Distributing { next: Arc::new(next) });
        }
        // A key without certificate is a change that was interrupted before it began.
        files::remove(&self.path("next.key"))?;
        files::remove(&self.path("next.pem"))?;
        let previous = files::read(&self.path("previous.pem"))?;
        let previous = previous.and_then(|pem| pem::read_certificates(&pem)).and_then(|found| found.into_iter().next());
        Ok(match previous {
            Some(previous) if previous != *issuing.root() => Phase::Retiring { previous, until: previous_until },
            Some(_) | None => Phase::Steady,
        })
    }

    /// Makes the next root and keeps it beside the present one.
    pub(crate) fn announce(&self, now: SystemTime) -> Result<Issuer, StoreError> {
        let (next, key) = self.create(now)?;
        // What is left of a change before.
        files::remove(&self.path("previous.pem"))?;
        files::write(&self.path("next.key"), key.as_bytes(), Readers::Owner)?;
        files::write(&self.path("next.pem"), pem::certificate(next.root()).as_bytes(), Readers::Everybody)?;
        Ok(next)
    }

    /// The next root takes the place of `previous`, whose leaves are good until `until`.
    pub(crate) fn switch(&self, previous: &CertificateDer<'static>, until: SystemTime) -> Result<(), StoreError> {
        self.write_journal(Journal { format: FORMAT, issued_until: seconds(until), previous_until: seconds(until) })?;
        files::write(&self.path("previous.pem"), pem::certificate(previous).as_bytes(), Readers::Everybody)?;
        files::rename(&self.path("next.key"), &self.path("root.key"))?;
        Ok(files::rename(&self.path("next.pem"), &self.path("root.pem"))?)
    }

    /// Nobody needs the previous root any more.
    pub(crate) fn retire(&self) -> Result<(), StoreError> {
        Ok(files::remove(&self.path("previous.pem"))?)
    }

    /// From now on leaves may be good until then.
    pub(crate) fn note_issued(&self, until: SystemTime) -> Result<(), StoreError> {
        let journal = self.journal()?.unwrap_or(Journal { format: FORMAT, issued_until: 0, previous_until: 0 });
        self.write_journal(Journal { issued_until: seconds(until), ..journal })
    }

    /// Writes what proxies should trust.
    pub(crate) fn write_bundle(&self, bundle: &str) -> Result<(), FileError> {
        files::write(&self.state.join("root.pem"), bundle.as_bytes(), Readers::Everybody)
    }

    fn create(&self, now: SystemTime) -> Result<(Issuer, zeroize::Zeroizing<String>), StoreError> {
        Issuer::create(now).map_err(|reason| self.unusable(reason))
    }

    fn unusable(&self, reason: IssuerError) -> StoreError {
        StoreError::Root { path: self.path("root.pem"), reason }
    }

    fn journal(&self) -> Result<Option<Journal>, StoreError> {
        let path = self.path("issued.json");
        let Some(text) = files::read(&path)? else { return Ok(None) };
        match serde_json::from_slice::<Journal>(&text) {
            Ok(journal) if journal.format == FORMAT => Ok(Some(journal)),
            Ok(journal) => Err(StoreError::Journal { path, reason: format!("format {}", journal.format) }),
            Err(error) => Err(StoreError::Journal { path, reason: error.to_string() }),
        }
    }

    #[expect(clippy::expect_used, reason = "numbers alone")]
    fn write_journal(&self, journal: Journal) -> Result<(), StoreError> {
        let text = serde_json::to_vec(&journal).expect("invariant: numbers serialise");
        Ok(files::write(&self.path("issued.json"), &text, Readers::Owner)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state.join("ca").join(name)
    }
}

/// Rounded up, since what is noted here must not end too early.
pub(super) fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() + u64::from(since.subsec_nanos() > 0)
}

pub(super) fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
