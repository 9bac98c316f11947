//! Who this proxy is, and whom it believes.
//!
//! One [`Identity`] per process, shared by all threads: the own certificate ([`Svid`]) and the roots of every trust domain
//! ([`Trust`]). Both are replaced while connections live: a new connection uses what is in force when it begins, one
//! that is open goes on. Nobody but this module sees the private key, and nothing prints it.
//!
//! The own certificate comes from the control plane ([`keeper`]) or from files ([`files`]); [`start`] decides which. The
//! [`keyring`] brings the sides together.

pub mod authority;
mod certs;
pub mod clock;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod csr;
pub mod files;
pub mod issued;
pub mod keeper;
pub mod keyring;
mod metrics;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod pem;
pub mod schedule;
pub mod start;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod store;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod svid;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
mod trust;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use clock::TimeOfDay;

pub use certs::certs;
pub use files::IdentityFiles;
pub use issued::Issued;
pub use keyring::{Keyring, Origin};
pub use metrics::CertificateMetrics;
pub use svid::{Svid, SvidError, id_of, validity};
pub use trust::{Trust, TrustError};

/// The own certificate and the trusted roots, as they are now.
#[derive(Debug)]
pub struct Identity {
    now: RwLock<Now>,
    generation: AtomicU64,
    changes: watch::Sender<u64>,
    time: TimeOfDay,
}

/// What is in force. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Now {
    /// `None`: none yet, so nothing encrypted can be opened or accepted.
    pub svid: Option<Arc<Svid>>,
    /// Empty: nobody is believed.
    pub trust: Arc<Trust>,
    /// Grows with every change of either; connections are resumed only within one.
    pub generation: u64,
}

impl Default for Identity {
    fn default() -> Self {
        Self::at(TimeOfDay::default())
    }
}

impl Identity {
    /// Nothing yet. Whether something is still good is told by `time`.
    pub fn at(time: TimeOfDay) -> Self {
        Self { now: RwLock::default(), generation: AtomicU64::new(0), changes: watch::Sender::new(0), time }
    }

    /// By which certificates begin and end.
    pub fn time(&self) -> &TimeOfDay {
        &self.time
    }

    /// What is in force. Takes a lock, so it is for handshakes and not for requests.
    pub fn now(&self) -> Now {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new own certificate; the one before is used by open connections alone.
    pub fn set_svid(&self, svid: Svid) {
        self.change(|now| now.svid = Some(Arc::new(svid)));
    }

    /// New roots or revocations. The same ones again change nothing.
    pub fn set_trust(&self, trust: Trust) {
        if *self.now().trust != trust {
            self.change(|now| now.trust = Arc::new(trust));
        }
    }

    /// Of what is in force; grows with every change. Takes no lock.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Wakes on every change, with its generation.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Now)) {
        let generation = {
            let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
            change(&mut now);
            now.generation += 1;
            self.generation.store(now.generation, Ordering::Release);
            now.generation
        };
        self.changes.send_replace(generation);
    }
}
