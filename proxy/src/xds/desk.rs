//! Where the client puts its results: effective states, its status, and the state directory.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use super::Outputs;
use super::session::{Now, Session};
use super::status::Status;
use crate::control_plane::Link;
use crate::state::accepted::Store;
use crate::state::disk;

/// A state goes to disk so long after it came: a burst of pushes is written once.
const QUIET: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Desk {
    outputs: Outputs,
    link: watch::Sender<Option<Link>>,
    keeper: Option<Keeper>,
}

impl Desk {
    pub(super) fn new(
        outputs: Outputs,
        link: watch::Sender<Option<Link>>,
        address: String,
        keeper: Option<Keeper>,
    ) -> Self {
        outputs.status.send_modify(|status| status.address = address);
        Self { outputs, link, keeper }
    }

    /// Hands on what is new.
    pub(super) fn publish(&mut self, session: &mut Session) {
        if let Some(effective) = session.take_effective() {
            // Half a state would make a restarted proxy call itself ready; and what comes from disk is there already.
            let is_worth_keeping = effective.complete && !session.is_from_disk();
            if let (true, Some(keeper)) = (is_worth_keeping, &self.keeper) {
                keeper.keep(Arc::clone(session.in_force()));
            }
            self.outputs.updates.send_replace(effective);
        }
        self.outputs.status.send_modify(|status| session.describe(status));
    }

    pub(super) fn attempt(&mut self) {
        self.outputs.status.send_modify(|status| status.attempts = status.attempts.saturating_add(1));
    }

    pub(super) fn connected(&mut self, link: &Link, now: Now) {
        tracing::info!(replica = %link.peer(), "connected to the control plane");
        self.link.send_replace(Some(link.clone()));
        self.outputs.status.send_modify(|status| {
            status.connected = true;
            status.since = Some(now.wall);
            status.last_error = None;
        });
    }

    pub(super) fn lost(&mut self, reason: &dyn Error, now: Now) {
        let reason = chain(reason);
        // Once for each trouble, not for each attempt.
        if self.outputs.status.borrow().last_error.as_ref() == Some(&reason) {
            tracing::debug!("{reason}");
        } else {
            tracing::warn!("{reason}; what is in force stays, and the proxy tries again");
        }
        self.outputs.status.send_modify(|status| {
            if std::mem::replace(&mut status.connected, false) {
                status.since = Some(now.wall);
            }
            status.last_error = Some(reason);
        });
    }

    /// The stream's credential is over, as it was bound to be: no trouble, and nothing for a person to do.
    pub(super) fn over(&mut self, reason: &dyn Error, now: Now) {
        tracing::info!("{reason}");
        self.outputs.status.send_modify(|status| {
            status.connected = false;
            status.since = Some(now.wall);
        });
    }

    /// Nobody is to use the connection any more: it ends with its last user.
    pub(super) fn disconnected(&mut self) {
        self.link.send_if_modified(|link| link.take().is_some());
    }

    pub(super) fn disk_failed(&mut self, reason: &dyn Error) {
        report_disk_error(&self.outputs.status, reason);
    }

    /// Waits until everything is on disk; from then on nothing is written.
    pub(super) async fn close(mut self) {
        self.rest().await;
    }

    /// The same, until [`resume`](Self::resume).
    pub(super) async fn rest(&mut self) {
        if let Some(Keeper { latest, task }) = self.keeper.take() {
            drop(latest);
            if task.await.is_err() {
                tracing::error!("the task that writes the last good state panicked");
            }
        }
    }

    /// Writes again: somebody else may have written meanwhile.
    pub(super) fn resume(&mut self, keeper: Option<Keeper>, session: &Session) {
        self.keeper = keeper;
        if let (true, Some(keeper)) = (self.outputs.updates.borrow().complete, &self.keeper) {
            keeper.keep(Arc::clone(session.in_force()));
        }
    }
}

/// Writes the newest state to disk, on a thread that may block.
pub(super) struct Keeper {
    latest: watch::Sender<Option<Arc<Store>>>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Starts it for a state directory.
    pub(super) fn start(
        directory: PathBuf,
        node: String,
        status: watch::Sender<Status>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let (latest, states) = watch::channel(None);
        let task = tokio::spawn(write(directory, node, states, status, shutdown));
        Self { latest, task }
    }

    fn keep(&self, state: Arc<Store>) {
        self.latest.send_replace(Some(state));
    }
}

/// Ends when the sender is gone and its last state written.
async fn write(
    directory: PathBuf,
    node: String,
    mut states: watch::Receiver<Option<Arc<Store>>>,
    status: watch::Sender<Status>,
    mut shutdown: watch::Receiver<bool>,
) {
    while states.changed().await.is_ok() {
        tokio::select! {
            () = sleep(QUIET) => {}
            () = ended(&mut states) => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
        let Some(state) = states.borrow_and_update().clone() else { continue };
        let (directory, node) = (directory.clone(), node.clone());
        match spawn_blocking(move || disk::save(&directory, &node, &state)).await {
            Ok(Ok(())) => {
                status.send_if_modified(|status| status.disk_error.take().is_some());
            }
            Ok(Err(error)) => report_disk_error(&status, &error),
            Err(_) => tracing::error!("the thread that writes the last good state panicked"),
        }
    }
}

/// Ready when nobody can bring a newer state any more.
async fn ended(states: &mut watch::Receiver<Option<Arc<Store>>>) {
    while states.changed().await.is_ok() {}
}

fn report_disk_error(status: &watch::Sender<Status>, reason: &dyn Error) {
    let reason = chain(reason);
    tracing::warn!("{reason}");
    status.send_modify(|status| status.disk_error = Some(reason));
}

/// An error and all its causes, in one sentence.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat their cause in their own words.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
