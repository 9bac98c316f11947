//! Which of several control planes writes: the one that holds the Lease `leno-leader`.
//!
//! All replicas serve proxies and webhooks; what stands in the API server is written by one (the mesh's root, the
//! webhooks' certificates, the root in every namespace, statuses of rules). Two that write would not break anything for
//! long, since all writes are over a version or of fields of our own, but they would undo each other's work.
//!
//! [`elector`] decides, without IO. [`stand`] is its hands: it asks the API server, follows a watch of the Lease, so that
//! a candidate knows of the last renewal as soon as it happens and takes over when the Lease ends and not at its next
//! look, and says in [`Leadership`] who leads.

mod elector;

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tonic::codegen::tokio_stream::{Stream, StreamExt as _};
use tracing::{debug, info, warn};

use elector::{Elector, Move, Terms};

use super::client::FIELD_MANAGER;

/// The Lease, in the control plane's own namespace.
pub(crate) const LEASE: &str = "leno-leader";

/// For one question to the API server. Twice within [`Terms::renew_within`], so that one lost answer costs nothing.
const PATIENCE: Duration = Duration::from_secs(4);
/// For the Lease to be given back at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Who leads, as this replica knows it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Leadership {
    leads: watch::Receiver<bool>,
    leader: watch::Receiver<Option<Arc<str>>>,
}

impl Leadership {
    /// Whether this replica writes. Turns false before another's can turn true; what is written has to be given up then.
    pub(crate) fn is_leader(&self) -> watch::Receiver<bool> {
        self.leads.clone()
    }

    /// Whether this replica writes at this moment.
    pub(crate) fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// The pod that leads, for people; `None`: nobody is known to.
    pub(crate) fn leader(&self) -> Option<String> {
        let leader = self.leader.borrow().clone()?;
        Some(leader.rsplit_once('_').map_or_else(|| leader.to_string(), |(pod, _)| pod.to_owned()))
    }

    /// Runs `work` while this replica leads, from the beginning whenever it begins to lead, and drops it when it does
    /// not any more. Returns when the election is over.
    pub(crate) async fn while_leading<F: Future<Output = ()>>(self, mut work: impl FnMut() -> F) {
        let (mut begins, mut ends) = (self.leads.clone(), self.leads);
        while begins.wait_for(|leads| *leads).await.is_ok() {
            let term = async {
                work().await;
                // There is nothing more to do in this term.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = term => {}
                _ = ends.wait_for(|leads| !*leads) => {}
            }
        }
    }
}

/// A candidate, and what it will say. The election begins when [`stand`] is polled.
pub(crate) struct Candidate {
    elector: Elector,
    api: Api<Lease>,
    leads: watch::Sender<bool>,
    leader: watch::Sender<Option<Arc<str>>>,
    random: fn() -> u64,
}

impl Candidate {
    /// One of the replicas of `namespace`. `pod` need not be unique: two processes of one name, or of one pod before and
    /// after its container restarts, must not both believe that they hold what stands there.
    pub(crate) fn new(client: Client, namespace: &str, pod: &str, random: fn() -> u64) -> (Self, Leadership) {
        let identity = format!("{pod}_{:012x}", random() >> 16);
        let (leads, leader) = (watch::Sender::new(false), watch::Sender::new(None));
        let leadership = Leadership { leads: leads.subscribe(), leader: leader.subscribe() };
        let elector = Elector::new(identity, Terms::USUAL, Instant::now());
        (Self { elector, api: Api::namespaced(client, namespace), leads, leader, random }, leadership)
    }

    /// Stands for election until `stop` resolves, and then gives the Lease back, so that another need not wait for its
    /// end.
    pub(crate) async fn stand(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut changes = std::pin::pin!(changes(&self.api));
        loop {
            self.announce();
            let now = Instant::now();
            match self.elector.next(LEASE, now, &wall()) {
                Move::Wait(until) => {
                    let until = self.elector.leads_until().filter(|end| *end > now).map_or(until, |end| end.min(until));
                    tokio::select! {
                        () = &mut stop => break,
                        () = sleep_until(until.into()) => {}
                        Some(lease) = changes.next() => self.elector.noticed(lease, Instant::now()),
                    }
                }
                step @ (Move::Read | Move::Claim(_)) => tokio::select! {
                    () = &mut stop => break,
                    () = self.ask(step, now) => {}
                },
            }
        }
        self.resign().await;
    }

    /// Asks the API server, for no longer than there is something to win.
    async fn ask(&mut self, step: Move, now: Instant) {
        let end = self.elector.leads_until().filter(|end| *end > now);
        let patience = end.map_or(PATIENCE, |end| PATIENCE.min(end - now));
        let answered = match &step {
            Move::Wait(_) => return,
            Move::Read => timeout(patience, self.api.get_opt(LEASE)).await,
            Move::Claim(lease) => timeout(patience, write(&self.api, lease)).await.map(|it| it.map(Some)),
        };
        match (answered, step) {
            (Ok(Ok(Some(lease))), Move::Claim(_)) => self.elector.granted(now, lease, Instant::now()),
            (Ok(Ok(lease)), _) => self.elector.read(lease, Instant::now()),
            (Ok(Err(error)), step) => self.refused(&step, &error),
            (Err(_), _) => {
                debug!("the API server did not answer about the Lease `{LEASE}` within {patience:?}");
                self.elector.failed(Instant::now(), self.jitter());
            }
        }
    }

    fn refused(&mut self, step: &Move, error: &kube::Error) {
        let is_conflict = matches!(error, kube::Error::Api(status) if status.code == 409);
        if is_conflict && matches!(step, Move::Claim(_)) {
            return self.elector.outrun(Instant::now());
        }
        if matches!(error, kube::Error::Api(status) if status.code == 403) {
            warn!(
                "the Lease `{LEASE}` may not be read and written by this control plane: {error}; its Role has to allow \
                 get, list, watch, create and update of leases"
            );
        } else {
            debug!("the Lease `{LEASE}` cannot be had: {error}");
        }
        self.elector.failed(Instant::now(), self.jitter());
    }

    /// Says what has changed.
    fn announce(&self) {
        let leader: Option<Arc<str>> = self.elector.leader().map(Arc::from);
        self.leader.send_if_modified(|known| std::mem::replace(known, leader.clone()) != leader);
        let leads = self.elector.is_leader(Instant::now());
        let has_changed = self.leads.send_if_modified(|known| std::mem::replace(known, leads) != leads);
        match (has_changed, leads) {
            (true, true) => info!("this control plane leads now: it writes roots, certificates and statuses"),
            (true, false) => warn!(
                "this control plane leads no more, {}",
                match leader {
                    Some(leader) if self.elector.is_own(&leader) => "as the API server does not answer".to_owned(),
                    Some(leader) => format!("but {leader}"),
                    None => "and nobody is known to".to_owned(),
                }
            ),
            (false, _) => {}
        }
    }

    /// From 0 to 1.
    #[allow(clippy::cast_precision_loss)]
    fn jitter(&self) -> f64 {
        ((self.random)() >> 11) as f64 / (1u64 << 53) as f64
    }

    async fn resign(mut self) {
        let given = self.elector.resign(Instant::now(), &wall());
        self.leads.send_replace(false);
        let Some(lease) = given else { return };
        match timeout(FAREWELL, write(&self.api, &lease)).await {
            Ok(Ok(_)) => info!("gave the Lease `{LEASE}` back"),
            Ok(Err(error)) => debug!("the Lease `{LEASE}` could not be given back: {error}"),
            Err(_) => debug!("the Lease `{LEASE}` could not be given back within {FAREWELL:?}"),
        }
    }
}

/// Creates or replaces; the version in the Lease, or that it has none, decides between two that try.
async fn write(api: &Api<Lease>, lease: &Lease) -> Result<Lease, kube::Error> {
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match lease.metadata.resource_version {
        Some(_) => api.replace(LEASE, &parameters, lease).await,
        None => api.create(&parameters, lease).await,
    }
}

/// The Lease whenever it changes. What goes wrong is tried again with a growing delay, and the API server's answers to
/// claims do not depend on it.
fn changes(api: &Api<Lease>) -> impl Stream<Item = Option<Lease>> + Send + use<> {
    watch_object(api.clone(), LEASE).default_backoff().filter_map(|change| match change {
        Ok(lease) => Some(lease),
        Err(error) => {
            debug!("the Lease `{LEASE}` cannot be watched: {error}");
            None
        }
    })
}

fn wall() -> MicroTime {
    MicroTime(Timestamp::now())
}
