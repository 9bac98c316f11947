//! The mesh's certificate authority: who somebody is, and the certificate that says so.
//!
//! ```text
//!  caller ──TLS 1.3──▶ tls ──▶ service (CSR) ─┐
//!   token or certificate  └──▶ ads (xDS) ─────┤──▶ attest: who is it? ──▶ Authority::sign ──▶ issuer
//!                                             │                                  │
//!                                             └─ a node may only be              └─ request: the key, nothing else
//!                                                what its credential says
//! ```
//!
//! Three things are kept apart. *Who a caller is* comes from a credential alone ([`attest`], [`token`]). *What is
//! issued* is the same for everybody: one SPIFFE ID, both ends of a connection, a bounded life ([`issuer`]); of a request
//! only the key counts ([`request`]). *Who vouches* is a set of roots that changes in steps that cut nobody off
//! ([`rotation`], on disk in [`store`]), and that reaches the proxies as a resource like any other ([`bundle`]).
//!
//! A private key of a workload never comes here. The authority's own are in `--state`, readable by their owner alone, or
//! where several control planes share them ([`kept`]), and in the memory of the TLS library ([`key`]).

pub(crate) mod attest;
pub(crate) mod bundle;
mod files;
pub(crate) mod issuer;
pub(crate) mod kept;
mod key;
mod ledger;
pub(crate) mod metrics;
mod pem;
mod request;
pub(crate) mod rotate;
pub(crate) mod rotation;
pub(crate) mod service;
pub(crate) mod status;
mod store;
pub(crate) mod tls;
pub(crate) mod token;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use leno_config::defaults;
use leno_config::identity::{SpiffeId, SpiffeIdError};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::{debug, error, warn};

use attest::Attested;
use bundle::{BundleError, Bundles, Domains, External};
use files::FileError;
use issuer::{IssueError, Issuer, IssuerError, ServerName, Subject};
use kept::{Kept, KeptError, Shared};
use key::KeyError;
use ledger::Ledger;
use metrics::CaMetrics;
use request::RequestError;
use rotation::{Owner, Phase, Roots};
use store::{Store, StoreError};
use token::{TokenKey, TokenKeyError};

/// Namespace and service account of the control plane itself.
const OWN_NAMESPACE: &str = "leno-system";
const OWN_ACCOUNT: &str = "leno";
/// What is on disk about issued certificates is exact to this part of their life, so that it is written that often.
const PARTS_OF_LIFE: u32 = 8;

/// How an authority is set up.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where roots and the key for tokens are kept; `None`: in memory.
    pub(crate) state: Option<PathBuf>,
    /// An operator's certificates and key in place of a root of our own.
    pub(crate) operator: Option<OperatorFiles>,
    /// How long leaves are good, and the longest that may be asked for. At least [`issuer::SHORTEST`].
    pub(crate) life: Duration,
    /// By what names proxies reach this control plane.
    pub(crate) names: Vec<ServerName>,
    /// Roots of other trust domains.
    pub(crate) external: Vec<External>,
}

/// `--ca-cert` and `--ca-key`.
#[derive(Debug, Clone)]
pub(crate) struct OperatorFiles {
    /// The issuing certificate, intermediates, the root, further roots; PEM.
    pub(crate) certificates: PathBuf,
    pub(crate) key: PathBuf,
}

/// The mesh's certificate authority. One per process, shared by all that serve.
pub(crate) struct Authority {
    settings: Settings,
    roots: Mutex<Roots>,
    keeping: Keeping,
    tokens: TokenKey,
    /// Said by the rules; `None` until they are read.
    domains: Mutex<Option<Domains>>,
    external: Mutex<BTreeMap<String, String>>,
    ledger: Mutex<Ledger>,
    /// Counts changes of roots, foreign bundles and trust domains.
    changes: watch::Sender<u64>,
    metrics: CaMetrics,
    started: Instant,
}

/// Where the roots outlive the process.
enum Keeping {
    /// Nowhere, or they are an operator's files.
    Nowhere,
    /// In the state directory.
    Disk(Store),
    /// Where other control planes read them too; and what stands there, as far as is known.
    Shared(Box<dyn Shared>, Mutex<Kept>),
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Its roots.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The operator's certificates.
    #[error("--ca-cert `{}`: {reason}", path.display())]
    Operator { path: PathBuf, reason: IssuerError },
    /// A root in memory.
    #[error("no root could be made: {0}")]
    Memory(IssuerError),
    /// The key for tokens.
    #[error(transparent)]
    Tokens(#[from] TokenKeyError),
    /// The key for tokens, in memory.
    #[error("no key for tokens could be made: {0}")]
    TokensInMemory(KeyError),
    /// Roots that are shared.
    #[error("the roots that control planes share cannot be used: {0}")]
    Kept(#[from] KeptError),
    /// Foreign roots.
    #[error("--bundle: {0}")]
    Bundle(#[from] BundleError),
}

/// Why there is no certificate for an attested caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// See [`attest::Refusal::NotReady`].
    #[error("the rules have not been read yet, so this mesh's trust domain is not known; try again")]
    NotReady,
    /// The trust domain of the rules, most likely.
    #[error("no identity can be made of trust domain, namespace and service account: {0}")]
    Identity(SpiffeIdError),
    /// What was asked for.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A duration below zero.
    #[error("the wanted duration is negative; ask for 0 to get the usual one")]
    Negative,
    /// The authority itself.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// The control plane's own certificate.
pub(crate) struct OwnCertificate {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) ends: SystemTime,
}

impl Authority {
    /// Takes the roots that there are, or makes one.
    pub(crate) fn open(settings: Settings, metrics: CaMetrics, now: SystemTime) -> Result<Arc<Self>, OpenError> {
        let store = settings.state.as_deref().map(Store::new).transpose()?;
        let (roots, keeping) = match (&settings.operator, store) {
            (Some(files), store) => {
                let roots = operators(files, now)?;
                if let Some(store) = store {
                    store.write_bundle(&pem::certificates(roots.bundle()))?;
                }
                (roots, Keeping::Nowhere)
            }
            (None, Some(store)) => {
                let roots = store.open(settings.life, now)?;
                store.write_bundle(&pem::certificates(roots.bundle()))?;
                (roots, Keeping::Disk(store))
            }
            (None, None) => {
                warn!(
                    "without --state, root and tokens of the mesh live in memory: when this process ends, every \
                     certificate becomes worthless"
                );
                let (issuer, _) = Issuer::create(now).map_err(OpenError::Memory)?;
                let issuing = Arc::new(issuer);
                let roots = Roots { issuing, phase: Phase::Steady, owner: Owner::Leno, issued_until: now };
                (roots, Keeping::Nowhere)
            }
        };
        Self::with(settings, roots, keeping, metrics)
    }

    /// One of several control planes with the same roots: those that are kept in `store`.
    pub(crate) fn join(
        settings: Settings,
        (store, kept): (Box<dyn Shared>, Kept),
        metrics: CaMetrics,
        now: SystemTime,
    ) -> Result<Arc<Self>, OpenError> {
        let roots = kept.roots(settings.life, now)?;
        Self::with(settings, roots, Keeping::Shared(store, Mutex::new(kept)), metrics)
    }

    fn with(settings: Settings, roots: Roots, keeping: Keeping, metrics: CaMetrics) -> Result<Arc<Self>, OpenError> {
        let tokens = match &settings.state {
            Some(state) => TokenKey::open(state)?,
            None => TokenKey::transient().map_err(OpenError::TokensInMemory)?,
        };
        let external = bundle::read(&settings.external)?;
        metrics.root_ends(roots.issuing.ends());
        Ok(Arc::new(Self {
            settings,
            roots: Mutex::new(roots),
            keeping,
            tokens,
            domains: Mutex::default(),
            external: Mutex::new(external),
            ledger: Mutex::default(),
            changes: watch::Sender::new(0),
            metrics,
            started: Instant::now(),
        }))
    }

    /// The shared roots are like this now. What cannot be used leaves the present ones in force.
    pub(crate) fn adopt(&self, newest: Kept, now: SystemTime) -> Result<(), KeptError> {
        let Keeping::Shared(_, kept) = &self.keeping else { return Ok(()) };
        if *lock(kept) == newest {
            return Ok(());
        }
        let roots = newest.roots(self.settings.life, now)?;
        self.metrics.root_ends(roots.issuing.ends());
        *lock(&self.roots) = roots;
        *lock(kept) = newest;
        self.changed();
        Ok(())
    }

    /// Where other control planes use the same roots: how long ago they last changed.
    pub(crate) fn shared_for(&self, now: SystemTime) -> Option<Duration> {
        let Keeping::Shared(_, kept) = &self.keeping else { return None };
        Some(now.duration_since(lock(kept).since()).unwrap_or_default())
    }

    /// The rules say what the trust domain is called.
    pub(crate) fn set_domains(&self, domains: Domains) {
        let before = lock(&self.domains).replace(domains.clone());
        if before.as_ref() == Some(&domains) {
            return;
        }
        for hidden in self.bundles().hidden(&domains) {
            error!("the bundle that --bundle gives for `{hidden}` is not used: this is a name of this mesh itself");
        }
        self.changed();
    }

    /// What the trust domain is called; `None` until the rules are read.
    pub(crate) fn domains(&self) -> Option<Domains> {
        lock(&self.domains).clone()
    }

    /// Whom the proxies are to believe.
    pub(crate) fn bundles(&self) -> Bundles {
        let own = pem::certificates(lock(&self.roots).bundle());
        Bundles::new(own, lock(&self.external).clone())
    }

    /// The mesh's own roots in PEM, the root of new leaves first.
    pub(crate) fn own_bundle(&self) -> String {
        bundle_of(&lock(&self.roots))
    }

    /// The mesh's own roots.
    pub(crate) fn own_roots(&self) -> Vec<CertificateDer<'static>> {
        lock(&self.roots).bundle().into_iter().cloned().collect()
    }

    /// Looks again at the files of foreign bundles. What cannot be read leaves the present ones in force.
    pub(crate) fn reread_external(&self) -> Result<(), BundleError> {
        let newest = bundle::read(&self.settings.external)?;
        let before = std::mem::replace(&mut *lock(&self.external), newest.clone());
        if before != newest {
            self.changed();
        }
        Ok(())
    }

    /// Word of every change of what [`Self::bundles`] says, of the issuing root and of the trust domain.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The key for tokens.
    pub(crate) fn tokens(&self) -> &TokenKey {
        &self.tokens
    }

    pub(crate) fn metrics(&self) -> &CaMetrics {
        &self.metrics
    }

    /// When the newest certificate ends that this process issued to a workload.
    pub(crate) fn certificate_ends(&self, namespace: &str, service_account: &str) -> Option<SystemTime> {
        let domains = self.domains()?;
        let id = SpiffeId::workload(&domains.own, namespace, service_account).ok()?;
        lock(&self.ledger).ends(&id)
    }

    /// A certificate for the key of a request. `wanted` is in seconds; 0: as long as usual. Writes to the disk now and
    /// then, so it is not for a thread that serves.
    ///
    /// In PEM: the leaf, the intermediates, and last all roots of the mesh in one text, the leaf's own first. Istio's
    /// agents take the last one for their trust bundle.
    pub(crate) fn sign(
        &self,
        caller: &Attested,
        request: &str,
        wanted: i64,
        now: SystemTime,
    ) -> Result<Vec<String>, SignError> {
        let domains = self.domains().ok_or(SignError::NotReady)?;
        let id = SpiffeId::workload(&domains.own, &caller.namespace, &caller.service_account);
        let id = id.map_err(SignError::Identity)?;
        let key = request::public_key(request)?;
        let life = self.life(wanted)?;
        let (issuer, bundle) = self.about_to_issue(life, now);
        let leaf = issuer.issue(Subject::Workload(&id), &key, life, now)?;
        lock(&self.ledger).note(&id, leaf.ends, now);
        self.metrics.issued();
        debug!(%id, by = ?caller.by, "issued a certificate");
        let path = std::iter::once(&leaf.certificate).chain(issuer.intermediates());
        Ok(path.map(|certificate| pem::certificate(certificate)).chain([bundle]).collect())
    }

    /// A new certificate for this control plane itself, with a new key.
    pub(crate) fn own_certificate(&self, now: SystemTime) -> Result<OwnCertificate, SignError> {
        // Before the rules are read nobody is served, and who connects by then looks at the host names.
        let domain = self.domains().map_or_else(|| defaults::TRUST_DOMAIN.to_owned(), |domains| domains.own);
        let id = SpiffeId::workload(&domain, OWN_NAMESPACE, OWN_ACCOUNT).map_err(SignError::Identity)?;
        let issuer = Arc::clone(&lock(&self.roots).issuing);
        let own = issuer.issue_own(Subject::ControlPlane(&id, &self.settings.names), self.settings.life, now)?;
        self.metrics.own_certificate_ends(own.ends);
        Ok(own)
    }

    /// How long this process has been there.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    fn life(&self, wanted: i64) -> Result<Duration, SignError> {
        let wanted = u64::try_from(wanted).map_err(|_| SignError::Negative)?;
        Ok(match wanted {
            0 => self.settings.life,
            wanted => Duration::from_secs(wanted).min(self.settings.life),
        })
    }

    /// The issuer, and the roots for the end of the chain. Before anything is issued it is noted until when, so that a
    /// change of roots that begins at this moment knows of it.
    fn about_to_issue(&self, life: Duration, now: SystemTime) -> (Arc<Issuer>, String) {
        let mut roots = lock(&self.roots);
        let until = coarse(now + life, self.settings.life / PARTS_OF_LIFE);
        if roots.issued_until < until {
            roots.issued_until = until;
            // What is shared counts with the longest life, see [`Kept::switched`].
            let Keeping::Disk(store) = &self.keeping else { return (Arc::clone(&roots.issuing), bundle_of(&roots)) };
            if let Err(error) = store.note_issued(until) {
                // A certificate that is not renewed stops a workload; this only matters if a restart and a change of
                // roots come before the next successful write.
                error!("until when certificates are good cannot be noted: {error}");
            }
        }
        (Arc::clone(&roots.issuing), bundle_of(&roots))
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// No secret is printed.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// For the end of a chain.
fn bundle_of(roots: &Roots) -> String {
    pem::certificates(roots.bundle())
}

fn operators(files: &OperatorFiles, now: SystemTime) -> Result<Roots, OpenError> {
    let certificates = files::read_present(&files.certificates)?;
    let key = zeroize::Zeroizing::new(files::read_present(&files.key)?);
    let (issuer, others) = Issuer::from_pem(&certificates, &key, now)
        .map_err(|reason| OpenError::Operator { path: files.certificates.clone(), reason })?;
    let owner = Owner::Operator(others);
    Ok(Roots { issuing: Arc::new(issuer), phase: Phase::Steady, owner, issued_until: now })
}

/// Rounded up to a multiple of `step` since 1970, in whole seconds.
fn coarse(time: SystemTime, step: Duration) -> SystemTime {
    let step = step.as_secs().max(1);
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() + 1;
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.div_ceil(step) * step)
}

/// What is behind these locks is whole between two statements, so that a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
