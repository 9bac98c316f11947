//! Keeps a certificate from the control plane fresh.
//!
//! ```text
//! start ─▶ svid.pem of the last run, if it is of any use ─▶ wait for half of its life ─▶ new key, CSR, answer ─┐
//!            └─ no ─▶ ask at once ◀── back-off, 1 s … 1 min, full jitter ── refused, unreachable, unusable ◀───┤
//!                                    wait for half of its life ◀── in force, then on disk ◀────────────────────┘
//! ```
//!
//! Each renewal makes a new key. The old certificate stays in use until the new one has passed all checks, and for open
//! connections until they end; once it has expired, the data path opens nothing with it. While renewals fail and half of
//! the life has passed, an alarm goes to the log every few minutes.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::authority::{Authority, SignError};
use super::clock::Clock;
use super::csr::{AnswerError, Request};
use super::issued::{Issued, ServiceAccount, rfc3339};
use super::keyring::{Keyring, Times, sentence};
use super::schedule::{Alarm, LOOK, Plan};
use super::store::{self, Stored};
use super::svid::Svid;
use super::trust::TrustError;
use crate::handover::Ownership;
use crate::xds::Backoff;

/// Longest delay before the first attempt after a failure …
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// … and before any later one.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Everything that renewing needs.
#[derive(Debug)]
pub struct Keeper<A, C> {
    /// Who signs.
    pub authority: A,
    /// What time it is.
    pub clock: C,
    /// A random number, for the jitter.
    pub random: fn() -> u64,
    /// Who the certificate has to be of.
    pub account: ServiceAccount,
    /// Where it survives a restart; `None`: it does not.
    pub state: Option<PathBuf>,
    /// Whether it is this process's to write there.
    pub ownership: Ownership,
}

impl<A: Authority, C: Clock> Keeper<A, C> {
    /// Renews until `stop` turns true or its sender is gone.
    pub async fn run(self, keyring: &Keyring, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.keep(keyring) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn keep(&self, keyring: &Keyring) {
        let mut plan = self.restore(keyring).await;
        let mut alarm = Alarm::default();
        loop {
            if let Some(plan) = &plan {
                self.wait(plan).await;
            }
            plan = Some(self.renew_until_it_works(keyring, plan, &mut alarm).await);
        }
    }

    /// The certificate of the last run.
    async fn restore(&self, keyring: &Keyring) -> Option<Plan> {
        let (directory, account, now) = (self.state.clone()?, self.account.clone(), self.clock.now());
        let loaded = spawn_blocking(move || store::load(&directory, &account, now)).await;
        let Stored { issued, svid, obtained } = match loaded {
            Ok(Ok(stored)) => stored?,
            Ok(Err(error)) => {
                tracing::warn!("{}", sentence(&error));
                return None;
            }
            Err(_) => {
                tracing::error!("the thread that reads the certificate of the last run panicked");
                return None;
            }
        };
        // A time to come is no time at which it was obtained; then it is as good as new.
        let obtained = obtained.min(now);
        let plan = Plan::new((svid.valid_from(), svid.valid_until()), obtained, (self.random)());
        let (id, until) = (svid.id().clone(), rfc3339(svid.valid_until()));
        match keyring.install(issued, svid, Times { obtained, due: Some(plan.due()), is_new: false }) {
            Ok(()) => tracing::info!(%id, until, "using the certificate of the last run"),
            Err(error) => tracing::warn!("the roots of the last run are not used: {error}"),
        }
        Some(plan)
    }

    /// Until it is due. Looks at the time of day every minute, since it may be set.
    async fn wait(&self, plan: &Plan) {
        let mut waited = self.clock.now().duration_since(plan.obtained()).unwrap_or_default();
        loop {
            let left = plan.left(self.clock.now(), waited);
            if left.is_zero() {
                return;
            }
            let nap = left.min(LOOK);
            self.clock.sleep(nap).await;
            waited += nap;
        }
    }

    async fn renew_until_it_works(&self, keyring: &Keyring, current: Option<Plan>, alarm: &mut Alarm) -> Plan {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            match self.renew(keyring).await {
                Ok(plan) => return plan,
                Err(error) => self.report(keyring, &sentence(&error), current.as_ref(), alarm),
            }
            self.clock.sleep(backoff.next((self.random)())).await;
        }
    }

    fn report(&self, keyring: &Keyring, reason: &str, current: Option<&Plan>, alarm: &mut Alarm) {
        let now = self.clock.now();
        let is_new = keyring.failed(reason.to_owned(), now);
        let svid = keyring.identity().now().svid;
        match (svid, current) {
            (Some(svid), _) if !svid.is_valid_at(now) => {
                if alarm.is_due(now) {
                    let until = rfc3339(svid.valid_until());
                    tracing::error!(
                        until,
                        "the certificate is not valid now, so no new connection is encrypted: {reason}"
                    );
                }
            }
            (Some(svid), Some(plan)) if plan.is_past_half(now) => {
                if alarm.is_due(now) {
                    let left = svid.valid_until().duration_since(now).unwrap_or_default().as_secs();
                    tracing::warn!(expires_in_seconds = left, "the certificate cannot be renewed: {reason}");
                }
            }
            (Some(_), _) if is_new => tracing::warn!("the certificate cannot be renewed, trying again: {reason}"),
            (None, _) if is_new => tracing::warn!("no certificate yet, trying again: {reason}"),
            (Some(_) | None, _) => tracing::debug!("no new certificate: {reason}"),
        }
    }

    async fn renew(&self, keyring: &Keyring) -> Result<Plan, RenewalError> {
        let request = Request::new().map_err(RenewalError::Key)?;
        let answer = self.authority.sign(request.csr(), self.clock.now()).await?;
        let now = self.clock.now();
        let (issued, svid) = request.accept(&answer, &self.authority.roots(), &self.account, now)?;
        let plan = Plan::new((svid.valid_from(), svid.valid_until()), now, (self.random)());
        let saved = self.saved(&issued, &svid, now);
        let (id, until) = (svid.id().clone(), rfc3339(svid.valid_until()));
        keyring.install(issued, svid, Times { obtained: now, due: Some(plan.due()), is_new: true })?;
        tracing::info!(%id, until, "a new certificate is in force");
        if let Some(save) = saved {
            self.save(save).await;
        }
        Ok(plan)
    }

    /// What goes to disk, once the certificate is in force.
    fn saved(&self, issued: &Issued, svid: &Svid, now: SystemTime) -> Option<store::Save> {
        let directory = self.state.as_ref().filter(|_| self.ownership.is_ours());
        directory.map(|directory| store::Save::new(directory, issued, svid, now))
    }

    async fn save(&self, save: store::Save) {
        match spawn_blocking(move || save.write()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("{}; a restart will need the control plane", sentence(&error)),
            Err(_) => tracing::error!("the thread that writes the certificate panicked"),
        }
    }
}
