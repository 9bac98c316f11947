//! What the control thread puts up for admin requests to read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use leno_config::node::Node;
use tokio::sync::{Notify, Semaphore, watch};

use crate::identity::{CertificateMetrics, Keyring};
use crate::source::Status;
use crate::stage::Stage;
use crate::state::snapshot::Snapshot;
use crate::state::warming::Effective;
use crate::telemetry::{Telemetry, build_info};

use super::drain::ListenerDrain;
use super::stats::Baseline;

/// The state of the process, written by the control thread alone.
#[derive(Debug)]
pub struct Shared {
    /// All figures.
    pub telemetry: Arc<Telemetry>,
    /// Everything that `/stats/prometheus` shows.
    pub registry: prometheus::Registry,
    /// Its certificate and whom it believes.
    pub keyring: Arc<Keyring>,
    /// Who this proxy is.
    pub node: Node,
    source: watch::Receiver<Status>,
    stage: watch::Receiver<Stage>,
    ready: AtomicBool,
    health_failed: AtomicBool,
    /// What somebody wants drained; the control thread does it.
    listener_drain: watch::Sender<ListenerDrain>,
    /// When the process began.
    pub(super) started: Instant,
    quit: Notify,
    current: Mutex<Current>,
    /// Whose turn it is to write a long answer.
    pub(super) writing: Semaphore,
    /// From where on `/stats` counts.
    pub(super) baseline: Baseline,
}

#[derive(Debug, Default)]
struct Current {
    snapshot: Arc<Snapshot>,
    effective: Effective,
    admin: Option<SocketAddr>,
    /// Listeners whose address could not be bound.
    unbound: Vec<String>,
    /// Where the others really listen.
    bound: BTreeMap<String, SocketAddr>,
}

impl Shared {
    /// Nothing in force yet.
    pub fn new(
        telemetry: Arc<Telemetry>,
        keyring: Arc<Keyring>,
        node: Node,
        source: watch::Receiver<Status>,
        stage: watch::Receiver<Stage>,
    ) -> Self {
        let registry = prometheus::Registry::new();
        let registered = telemetry
            .collector()
            .and_then(|collector| registry.register(Box::new(collector)))
            .and_then(|()| registry.register(Box::new(build_info()?)))
            .and_then(|()| registry.register(Box::new(CertificateMetrics::new(Arc::clone(&keyring))?)));
        if let Err(error) = registered {
            tracing::error!(%error, "the metrics cannot be registered");
        }
        Self {
            telemetry,
            registry,
            keyring,
            node,
            source,
            stage,
            ready: AtomicBool::new(false),
            health_failed: AtomicBool::new(false),
            listener_drain: watch::Sender::default(),
            started: Instant::now(),
            quit: Notify::new(),
            current: Mutex::default(),
            writing: Semaphore::new(1),
            baseline: Baseline::default(),
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the workers run on.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current().snapshot)
    }

    /// Puts up a new snapshot.
    pub fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.current().snapshot = snapshot;
    }

    /// What the source wants in force, with versions.
    pub fn effective(&self) -> Effective {
        self.current().effective.clone()
    }

    /// Puts up what the source wants in force.
    pub fn set_effective(&self, effective: Effective) {
        self.current().effective = effective;
    }

    /// Where admin really listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.current().admin
    }

    /// Puts up where admin really listens.
    pub fn set_admin(&self, address: SocketAddr) {
        self.current().admin = Some(address);
    }

    /// Listeners whose address could not be bound.
    pub fn unbound(&self) -> Vec<String> {
        self.current().unbound.clone()
    }

    /// Puts up the listeners whose address could not be bound.
    pub fn set_unbound(&self, names: Vec<String>) {
        self.current().unbound = names;
    }

    /// Where each listener really listens.
    pub fn bound(&self) -> BTreeMap<String, SocketAddr> {
        self.current().bound.clone()
    }

    /// Puts up where listeners really listen.
    pub fn set_bound(&self, bound: BTreeMap<String, SocketAddr>) {
        self.current().bound = bound;
    }

    /// How it stands with the source of the rules.
    pub fn source(&self) -> Status {
        self.source.borrow().clone()
    }

    /// Whether a complete configuration was ever in force.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// A complete configuration is in force.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Lets `/ready` fail, or takes that back.
    pub(super) fn fail_health(&self, failed: bool) {
        if self.health_failed.swap(failed, Ordering::Relaxed) != failed {
            self.telemetry.fails_health(failed);
            tracing::warn!("/ready {} by POST /healthcheck", if failed { "is made to fail" } else { "is let be" });
        }
    }

    /// Asks for listeners to be drained; what was asked before is not taken back.
    pub(super) fn drain_listeners(&self, asked: ListenerDrain) {
        self.listener_drain.send_modify(|now| *now = now.and(asked));
    }

    /// What somebody wants drained, and every change of it.
    pub fn listener_drains(&self) -> watch::Receiver<ListenerDrain> {
        self.listener_drain.subscribe()
    }

    /// How it stands, in Envoy's words.
    pub fn state(&self) -> &'static str {
        if self.why_draining().is_some() {
            "DRAINING"
        } else if !self.is_ready() || self.keyring.why_not_ready().is_some() {
            "PRE_INITIALIZING"
        } else if self.unbound().is_empty() {
            "LIVE"
        } else {
            "INITIALIZING"
        }
    }

    fn why_draining(&self) -> Option<&'static str> {
        if *self.stage.borrow() != Stage::Serving {
            return Some("DRAINING");
        }
        if self.health_failed.load(Ordering::Relaxed) {
            return Some("DRAINING: POST /healthcheck/fail was asked; POST /healthcheck/ok takes it back");
        }
        let asked = *self.listener_drain.borrow() != ListenerDrain::default();
        asked.then_some("DRAINING: POST /drain_listeners was asked")
    }

    /// Why no traffic should be sent here; `None` when it may.
    pub fn why_not_ready(&self) -> Option<String> {
        if let Some(reason) = self.why_draining() {
            return Some(reason.to_owned());
        }
        let configuration = (!self.is_ready()).then(|| "no complete configuration yet".to_owned());
        let missing: Vec<String> = configuration.into_iter().chain(self.keyring.why_not_ready()).collect();
        if !missing.is_empty() {
            return Some(format!("PRE_INITIALIZING: {}", missing.join("; ")));
        }
        let unbound = self.unbound();
        (!unbound.is_empty()).then(|| format!("cannot listen: {}", unbound.join(", ")))
    }

    /// Asks the process to end.
    pub fn quit(&self) {
        self.quit.notify_one();
    }

    /// Ready when somebody asked the process to end.
    pub async fn quit_asked(&self) {
        self.quit.notified().await;
    }
}
