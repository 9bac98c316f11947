//! The webhooks' serving certificate, and when the root behind it changes.
//!
//! Every replica issues its own from the root in the Secret `leno-webhook` and takes it into use without a restart: when
//! the root changes, and at half of its life. What the leader does with the root is decided in [`due`]:
//!
//! ```text
//! Steady ── a third of its life is left ──▶ Distributing ── both roots have stood in the webhook
//!    ▲                                                      configurations for SETTLED ──▶ Retiring
//!    └───────────────────── no certificate of the old root is good any more ───────────────┘
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::codegen::tokio_stream::StreamExt as _;
use tracing::{error, info, warn};

use crate::ca::OwnCertificate;
use crate::ca::issuer::{IssueError, ServerName, Subject};
use crate::ca::kept::{Kept, KeptError};
use crate::ca::rotation::{Owner, Phase, Roots, Step};
use crate::kubernetes::secrets::{RootSecret, WEBHOOK};

/// How long a serving certificate is good.
pub(crate) const LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// API servers follow the webhook configurations within moments; so long both roots are in them before the new one is
/// used.
const SETTLED: Duration = Duration::from_secs(5 * 60);
/// Between two looks at the clock, which may jump, so that an end is no timer.
const LOOK: Duration = Duration::from_secs(10);

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// The roots.
    #[error("the webhooks' root cannot be used: {0}")]
    Kept(#[from] KeptError),
    /// Issuing.
    #[error("no certificate can be issued for the webhooks: {0}")]
    Issue(#[from] IssueError),
}

/// The certificate that is shown to the API server now, and the root that it is of.
#[derive(Debug)]
pub(crate) struct Serving {
    names: Vec<ServerName>,
    now: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    kept: Kept,
    own: Arc<CertifiedKey>,
    /// When the certificate has lived half of its life.
    renew_at: SystemTime,
}

impl Serving {
    /// With a new certificate for these names.
    pub(crate) fn new(names: Vec<ServerName>, kept: Kept, now: SystemTime) -> Result<Arc<Self>, CertificateError> {
        let current = issue(&names, kept, now)?;
        Ok(Arc::new(Self { names, now: Mutex::new(current) }))
    }

    /// The root is this one now.
    pub(crate) fn adopt(&self, kept: Kept, now: SystemTime) -> Result<(), CertificateError> {
        if self.kept() == kept {
            return Ok(());
        }
        let current = issue(&self.names, kept, now)?;
        *self.lock() = current;
        Ok(())
    }

    /// What the API server has to believe, PEM.
    pub(crate) fn bundle(&self) -> String {
        String::from_utf8_lossy(&self.kept().bundle()).into_owned()
    }

    /// The root as it is known.
    pub(crate) fn kept(&self) -> Kept {
        self.lock().kept.clone()
    }

    /// Shows the certificate of the moment to each connection. TLS 1.2 too, for what stands between some API servers and
    /// their webhooks.
    pub(crate) fn config(self: &Arc<Self>) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Follows the Secret and the clock. Does not return.
    pub(crate) async fn keep(self: Arc<Self>, secret: RootSecret) {
        let mut changes = std::pin::pin!(secret.changes());
        let mut looks = looks();
        loop {
            let newest = tokio::select! {
                newest = changes.next() => newest,
                _ = looks.tick() => None,
            };
            let now = SystemTime::now();
            let taken = match newest {
                Some(newest) => self.adopt(newest, now),
                None => self.renew(now),
            };
            if let Err(reason) = taken {
                error!("the webhooks keep their present certificate: {reason}");
            }
        }
    }

    fn renew(&self, now: SystemTime) -> Result<(), CertificateError> {
        let (kept, renew_at) = {
            let current = self.lock();
            (current.kept.clone(), current.renew_at)
        };
        if now >= renew_at {
            let current = issue(&self.names, kept, now)?;
            *self.lock() = current;
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.lock().own))
    }
}

fn issue(names: &[ServerName], kept: Kept, now: SystemTime) -> Result<Current, CertificateError> {
    let roots = kept.roots(LIFE, now)?;
    let OwnCertificate { key, ends } = roots.issuing.issue_own(Subject::Server(names), LIFE, now)?;
    let life = ends.duration_since(now).unwrap_or_default();
    Ok(Current { kept, own: key, renew_at: now + life / 2 })
}

/// Takes the steps of the root that are due, while this replica leads. `distributed` says since when the webhook
/// configurations have held the bundle of the moment. Does not return.
pub(crate) async fn rotate(
    serving: &Serving,
    secret: &RootSecret,
    distributed: tokio::sync::watch::Receiver<Option<SystemTime>>,
) {
    let mut looks = looks();
    loop {
        looks.tick().await;
        let (kept, now) = (serving.kept(), SystemTime::now());
        let after = match kept.roots(LIFE, now).map(|roots| due(&roots, *distributed.borrow(), now)) {
            Ok(Some(Step::Announce)) => kept.announced(WEBHOOK.purpose, WEBHOOK.life, now),
            Ok(Some(Step::Switch)) => Ok(kept.switched(LIFE, now)),
            Ok(Some(Step::Retire)) => Ok(kept.retired(now)),
            Ok(None) => continue,
            Err(reason) => {
                error!("the webhooks' root cannot be looked after: {reason}");
                continue;
            }
        };
        let after = match after {
            Ok(after) => after,
            Err(reason) => {
                error!("no new root can be made for the webhooks: {reason}");
                continue;
            }
        };
        match secret.replace(&kept, &after).await {
            Ok(()) => {
                info!("the webhooks' root took a step of its rotation");
                // The watch says the same in a moment; until then nothing is to be taken twice.
                if let Err(reason) = serving.adopt(after, now) {
                    error!("the webhooks keep their present certificate: {reason}");
                }
            }
            Err(reason) => warn!("the webhooks' root was not rotated, which is tried again: {reason}"),
        }
    }
}

/// The step that is due.
fn due(roots: &Roots, distributed: Option<SystemTime>, now: SystemTime) -> Option<Step> {
    match roots.owner {
        Owner::Leno => {}
        Owner::Operator(_) => return None,
    }
    match &roots.phase {
        Phase::Steady => (now + WEBHOOK.life / 3 >= roots.issuing.ends()).then_some(Step::Announce),
        Phase::Distributing { .. } => distributed.is_some_and(|since| since + SETTLED <= now).then_some(Step::Switch),
        Phase::Retiring { until, .. } => (*until < now).then_some(Step::Retire),
    }
}

fn looks() -> Interval {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    fn step(kept: &Kept, distributed: Option<SystemTime>, now: SystemTime) -> Option<Step> {
        due(&kept.roots(LIFE, now).unwrap(), distributed, now)
    }

    #[test]
    fn a_root_is_replaced_in_time_and_never_before_everybody_believes_the_next() {
        let first = Kept::create(WEBHOOK.purpose, WEBHOOK.life, start()).unwrap();
        assert_eq!(step(&first, Some(start()), start() + 240 * DAY), None, "a third of a year is left");
        let then = start() + 244 * DAY;
        assert_eq!(step(&first, Some(start()), then), Some(Step::Announce));

        let announced = first.announced(WEBHOOK.purpose, WEBHOOK.life, then).unwrap();
        assert_eq!(step(&announced, None, then + DAY), None, "the configurations do not have it");
        assert_eq!(step(&announced, Some(then), then + SETTLED / 2), None);
        assert_eq!(step(&announced, Some(then), then + SETTLED), Some(Step::Switch));

        let switched = announced.switched(LIFE, then + DAY);
        assert_eq!(step(&switched, Some(then), then + 2 * DAY), None, "another replica may have issued of the old one");
        assert_eq!(step(&switched, Some(then), then + 3 * DAY), Some(Step::Retire));
        assert_eq!(step(&switched.retired(then + 3 * DAY), Some(then), then + 3 * DAY), None);
    }

    #[test]
    fn an_operators_root_is_left_alone() {
        let kept = Kept::create(WEBHOOK.purpose, DAY, start()).unwrap();
        let roots = Roots { owner: Owner::Operator(Vec::new()), ..kept.roots(LIFE, start()).unwrap() };
        assert_eq!(due(&roots, Some(start()), start()), None);
    }

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life_and_when_the_root_changes() {
        let kept = Kept::create(WEBHOOK.purpose, WEBHOOK.life, start()).unwrap();
        let names = vec![ServerName::Dns("leno.leno-system.svc".to_owned())];
        let serving = Serving::new(names, kept.clone(), start()).unwrap();
        let shown = || Arc::clone(&serving.lock().own);
        let first = shown();
        serving.renew(start() + LIFE / 3).unwrap();
        serving.adopt(kept.clone(), start()).unwrap();
        assert!(Arc::ptr_eq(&first, &shown()), "nothing has changed");
        serving.renew(start() + LIFE / 2).unwrap();
        let second = shown();
        assert_ne!(first.cert, second.cert);
        serving.adopt(kept.announced(WEBHOOK.purpose, WEBHOOK.life, start()).unwrap(), start()).unwrap();
        assert_ne!(second.cert, shown().cert);
        assert_eq!(serving.bundle().matches("BEGIN").count(), 2);
    }
}
