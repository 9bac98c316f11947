//! What the control thread puts up for admin requests to read.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leno_config::node::Node;
use tokio::sync::{Notify, Semaphore, watch};

use crate::identity::{CertificateMetrics, Keyring};
use crate::source::Status;
use crate::state::snapshot::Snapshot;
use crate::state::warming::Effective;
use crate::telemetry::{Telemetry, build_info};

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
    drain: watch::Sender<bool>,
    ready: AtomicBool,
    draining: AtomicBool,
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
}

impl Shared {
    /// Nothing in force yet.
    pub fn new(
        telemetry: Arc<Telemetry>,
        keyring: Arc<Keyring>,
        node: Node,
        source: watch::Receiver<Status>,
        drain: watch::Sender<bool>,
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
            drain,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
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

    /// From now on, not ready.
    pub fn set_draining(&self) {
        self.telemetry.drains();
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Why no traffic should be sent here; `None` when it may.
    pub fn why_not_ready(&self) -> Option<String> {
        if self.draining.load(Ordering::Relaxed) || *self.drain.borrow() {
            return Some("DRAINING".to_owned());
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
