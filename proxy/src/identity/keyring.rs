//! Where certificates and roots from several sides come together, and how it stands with them.
//!
//! Roots of a trust domain may be known from three sides. For each domain the first of these that has it decides alone,
//! since bundles that are mixed would believe what none of them says:
//!
//! 1. the control plane's secret `ROOTCA`: it is what a rotation of the root changes;
//! 2. the files of the bootstrap's `identity`;
//! 3. what came with the own certificate, so that a proxy can talk before the first secret arrives.
//!
//! Revocations are added up instead: one side's word is enough to distrust.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use leno_config::defaults::TRUST_DOMAIN;
use leno_config::ir;
use tokio::sync::watch;

use super::issued::Issued;
use super::{Identity, Svid, Trust, TrustError};

/// The identity of this process, with everything that leads to it.
#[derive(Debug)]
pub struct Keyring {
    identity: Arc<Identity>,
    origin: Origin,
    state: Mutex<State>,
    /// For `leno agent`, which hands the key on; a proxy keeps no copy of it.
    copies: Option<watch::Sender<Option<Arc<Issued>>>>,
}

/// Where the own certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nowhere: this proxy has none.
    None,
    /// The control plane issues it.
    ControlPlane,
    /// Files of the operator.
    Files,
}

#[derive(Debug, Default)]
struct State {
    report: Report,
    issued: Option<Trust>,
    files: Option<Trust>,
    /// As the control plane sent it last.
    secret: Option<Arc<ir::Secret>>,
    /// What the last usable secret said.
    sent: Option<Trust>,
}

/// How it stands with the own certificate and the roots.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Certificates that were obtained since the start.
    pub renewed: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// When the one in use was obtained.
    pub obtained: Option<SystemTime>,
    /// When the next one is asked for.
    pub due: Option<SystemTime>,
    /// Why the last attempt failed; gone after one that did not.
    pub error: Option<Trouble>,
    /// Why roots that came are not in force; gone with the next good ones.
    pub trust_error: Option<Trouble>,
}

/// What went wrong, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// A sentence.
    pub text: String,
    /// When it last happened.
    pub at: SystemTime,
}

impl Keyring {
    /// Without anything yet.
    pub fn new(origin: Origin) -> Self {
        Self { identity: Arc::default(), origin, state: Mutex::default(), copies: None }
    }

    /// As [`new`](Self::new); and every certificate with its key for somebody who hands it on.
    pub fn with_copies(origin: Origin) -> (Self, watch::Receiver<Option<Arc<Issued>>>) {
        let (copies, receiver) = watch::channel(None);
        (Self { copies: Some(copies), ..Self::new(origin) }, receiver)
    }

    /// What the data path uses.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Where the own certificate comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// How it stands.
    pub fn report(&self) -> Report {
        self.state().report.clone()
    }

    /// Why this proxy cannot work yet: it is to have a certificate, and never had one. `None`: it can.
    pub fn why_not_ready(&self) -> Option<String> {
        if self.origin == Origin::None || self.identity.now().svid.is_some() {
            return None;
        }
        let reason =
            self.state().report.error.as_ref().map_or("it is being asked for".to_owned(), |it| it.text.clone());
        Some(format!("no certificate yet: {reason}"))
    }

    /// A new own certificate, obtained at `obtained`, to be renewed at `due`. Its roots come into force before it does.
    pub fn install(&self, issued: Issued, svid: Svid, times: Times) -> Result<(), TrustError> {
        let domain = svid.id().trust_domain().to_owned();
        let mut roots = Trust::default();
        roots.add(&domain, issued.roots_pem().as_bytes())?;
        {
            let mut state = self.state();
            state.issued = Some(roots);
            let Report { renewed, obtained, due, error, .. } = &mut state.report;
            *renewed += u64::from(times.is_new);
            (*obtained, *due, *error) = (Some(times.obtained), times.due, None);
        }
        self.merge(&domain, times.obtained);
        self.identity.set_svid(svid);
        if let Some(copies) = &self.copies {
            copies.send_replace(Some(Arc::new(issued)));
        }
        Ok(())
    }

    /// No new certificate. Says whether this is another trouble than the last.
    pub fn failed(&self, reason: String, at: SystemTime) -> bool {
        let report = &mut self.state().report;
        report.failed += 1;
        let last = report.error.replace(Trouble { text: reason.clone(), at });
        last.is_none_or(|last| last.text != reason)
    }

    /// What the control plane's secret says of roots now; `None`: there is none.
    pub fn set_secret(&self, secret: Option<Arc<ir::Secret>>, now: SystemTime) {
        {
            let mut state = self.state();
            if state.secret == secret {
                return;
            }
            // A secret that goes away takes nothing back: without roots nobody could be believed.
            if secret.is_some() {
                state.secret = secret;
            }
        }
        self.merge_again(now);
    }

    /// Roots and revocations from files.
    pub fn set_file_trust(&self, trust: Trust, now: SystemTime) {
        self.state().files = Some(trust);
        self.merge_again(now);
    }

    fn merge_again(&self, now: SystemTime) {
        let svid = self.identity.now().svid;
        self.merge(svid.as_ref().map_or(TRUST_DOMAIN, |svid| svid.id().trust_domain()), now);
    }

    /// Puts in force what all sides say. `own` is the domain of the own certificate.
    fn merge(&self, own: &str, now: SystemTime) {
        let mut state = self.state();
        match state.secret.as_ref().map(|secret| checked(secret, own)) {
            Some(Ok(trust)) => {
                state.sent = Some(trust);
                state.report.trust_error = None;
            }
            Some(Err(error)) => {
                let text =
                    format!("the roots that the control plane sent are not used, the last good ones stay: {error}");
                if state.report.trust_error.as_ref().is_none_or(|last| last.text != text) {
                    tracing::error!("{text}");
                }
                state.report.trust_error = Some(Trouble { text, at: now });
            }
            None => {}
        }
        let sides = [state.sent.clone(), state.files.clone(), state.issued.clone()];
        drop(state);
        self.identity.set_trust(sides.into_iter().flatten().fold(Trust::default(), |trust, side| trust.or(&side)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a certificate came and when the next is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// When it was obtained.
    pub obtained: SystemTime,
    /// When the next one is asked for; `None`: whenever files change.
    pub due: Option<SystemTime>,
    /// Whether it was obtained by this process and not by the one before it.
    pub is_new: bool,
}

fn checked(secret: &ir::Secret, own: &str) -> Result<Trust, TrustError> {
    match secret.bundles.is_empty() {
        true => Err(TrustError::Empty(own.to_owned())),
        false => Trust::from_secret(secret, own),
    }
}

/// An error and all its causes, in one sentence.
pub fn sentence(error: &dyn Error) -> String {
    crate::xds::chain(error)
}
