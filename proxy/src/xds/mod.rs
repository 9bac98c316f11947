//! The proxy's connection to its control plane: delta ADS (xDS v3).
//!
//! [`run`] is the whole of it: give it a single-threaded runtime (it spawns one task of its own and blocks on nothing),
//! and it keeps `updates` at what should be in force, for as long as the process lives:
//!
//! ```no_run
//! # async fn start(node: leno_config::node::Node, stop: tokio::sync::watch::Receiver<bool>) -> anyhow::Result<()> {
//! use leno_proxy::control_plane::{Access, Address};
//! use leno_proxy::state::warming::Effective;
//! use leno_proxy::xds::{ClientConfig, Hooks, Outputs, Status, run};
//! use tokio::sync::watch;
//!
//! let (updates, mut effective) = watch::channel(Effective::default());
//! let (status, _status) = watch::channel(Status::default());
//! let access = Access::plain(Address::parse("http://127.0.0.1:15010")?);
//! let config = ClientConfig::new(access, node, Some("state".into()));
//! tokio::spawn(run(config, Hooks::default(), Outputs { updates, status }, stop));
//! while effective.changed().await.is_ok() {
//!     let effective = effective.borrow_and_update().clone();
//!     // Build the snapshot from `effective.resources`; ready once `effective.complete`.
//! }
//! # Ok(()) }
//! ```
//!
//! * [`session`]: the protocol, without IO.
//! * [`stream`]: one connection; [`backoff`]: the time between two.
//! * [`status`]: for `/config_dump` and metrics.
//!
//! What is accepted, in force and on disk stands in [`crate::state`].
//!
//! **Failure.** A lost control plane changes nothing in force; the client tries again for ever. A bad resource is
//! refused by name and its siblings apply. A damaged state file is reported and written anew. The first effective state
//! comes from disk, if there is one, before the first connection is tried.

pub mod backoff;
mod desk;
pub mod session;
pub mod status;
pub mod stream;

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use leno_config::node::Node;
use leno_config::xds::node_to_xds;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

pub use self::backoff::Backoff;
pub(crate) use self::desk::chain;
use self::desk::{Desk, Keeper};
use self::session::{Now, Session};
pub use self::status::Status;
use self::stream::{End, Lost};
use crate::control_plane::{Access, Link};
use crate::state::accepted::Refuse;
use crate::state::disk;
use crate::state::warming::Effective;

/// Asks the client to rest: to end its stream, and to write nothing more once what it has is on disk.
#[derive(Debug)]
pub struct Pause {
    /// Hears that it rests.
    pub rests: oneshot::Sender<()>,
    /// The client goes on once something comes here, or the sender is gone.
    pub resumed: oneshot::Receiver<()>,
}

impl Pause {
    /// Says that the client rests, and waits until it is to go on; `false`: it is to end.
    async fn lasts(self, shutdown: &mut watch::Receiver<bool>) -> bool {
        // An error means that nobody waits for it any more.
        let _ = self.rests.send(());
        tokio::select! {
            _ = self.resumed => true,
            _ = shutdown.wait_for(|stop| *stop) => false,
        }
    }
}

/// What the client needs to know.
#[derive(Debug)]
pub struct ClientConfig {
    /// The control plane, and what to show it.
    pub access: Access,
    /// This proxy.
    pub node: Node,
    /// The state directory; `None`: nothing survives a restart.
    pub state: Option<PathBuf>,
    /// Between two connections.
    pub backoff: Backoff,
    /// Where the connection is put up while there is one, for what else is said to the control plane.
    pub link: watch::Sender<Option<Link>>,
    /// When it is to rest.
    pub pauses: mpsc::Receiver<Pause>,
}

impl ClientConfig {
    /// With the usual back-off, never to rest.
    pub fn new(access: Access, node: Node, state: Option<PathBuf>) -> Self {
        Self {
            access,
            node,
            state,
            backoff: Backoff::default(),
            link: watch::Sender::new(None),
            pauses: mpsc::channel(1).1,
        }
    }
}

/// What the rest of the proxy decides for the client.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Says of a valid resource that the data path cannot enforce it: it is refused (fail closed).
    pub refuse: Refuse,
    /// A random number, for the jitter.
    pub random: fn() -> u64,
}

impl Default for Hooks {
    /// Refuses nothing; jitter from the system's entropy.
    fn default() -> Self {
        Self { refuse: |_| None, random: || RandomState::new().hash_one(0) }
    }
}

/// Where the results go.
#[derive(Debug)]
pub struct Outputs {
    /// What is in force.
    pub updates: watch::Sender<Effective>,
    /// How it stands.
    pub status: watch::Sender<Status>,
}

/// What the client is told from outside.
enum Told {
    /// To end.
    Stop,
    /// To rest.
    Pause(Pause),
}

/// Where it is told.
struct Orders {
    shutdown: watch::Receiver<bool>,
    pauses: mpsc::Receiver<Pause>,
}

impl Orders {
    /// What it is told next. Nothing is lost when it is given up while it waits.
    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.shutdown.wait_for(|stop| *stop) => Told::Stop,
            // Where there is nobody to ask for a pause, there is none.
            Some(pause) = self.pauses.recv() => Told::Pause(pause),
        }
    }
}

/// Serves until `shutdown` turns true or its sender is gone; then what is in force is on disk.
pub async fn run(config: ClientConfig, hooks: Hooks, outputs: Outputs, shutdown: watch::Receiver<bool>) {
    let ClientConfig { access, node, state, mut backoff, link, pauses } = config;
    let keep = {
        let (state, node, status, shutdown) = (state.clone(), node.id(), outputs.status.clone(), shutdown.clone());
        move || Some(Keeper::start(state.clone()?, node.clone(), status.clone(), shutdown.clone()))
    };
    let mut orders = Orders { shutdown, pauses };
    let mut desk = Desk::new(outputs, link, access.addresses(), keep());
    let mut session = Session::new(node_to_xds(&node), hooks.refuse);
    if let Some(directory) = state {
        restore(&mut session, &mut desk, directory, node.id()).await;
    }
    let mut attempt = 0;
    loop {
        desk.attempt();
        let told = match stream::serve(&access, attempt, &mut session, &mut desk, &mut orders).await {
            End::Told(told) => Some(told),
            End::Lost(lost, answered) => {
                if matches!(lost, Lost::CredentialOver) {
                    desk.over(&lost, Now::read());
                } else {
                    desk.lost(&lost, Now::read());
                }
                attempt = if answered.is_some() { 0 } else { attempt.wrapping_add(1) };
                if let Some(lived) = answered {
                    backoff.after_answered_stream(lived);
                }
                let delay = backoff.next((hooks.random)());
                tokio::select! {
                    () = sleep(delay) => None,
                    told = orders.next() => Some(told),
                }
            }
        };
        match told {
            None => {}
            Some(Told::Stop) => break,
            Some(Told::Pause(pause)) => {
                desk.rest().await;
                if !pause.lasts(&mut orders.shutdown).await {
                    break;
                }
                desk.resume(keep(), &session);
            }
        }
    }
    desk.close().await;
}

/// Puts the last good state in force, before anything is asked of the network.
async fn restore(session: &mut Session, desk: &mut Desk, directory: PathBuf, node: String) {
    let loaded = tokio::task::spawn_blocking(move || disk::load(&directory, &node)).await;
    match loaded {
        Ok(Ok(Some(saved))) => {
            let resources = saved.len();
            for refusal in session.restore(saved) {
                tracing::warn!("left out of the last good state: {refusal}");
            }
            desk.publish(session);
            tracing::info!(resources, "serving from the last good state on disk");
        }
        Ok(Ok(None)) => {}
        Ok(Err(unusable)) => desk.disk_failed(&unusable),
        Err(_) => tracing::error!("the thread that reads the last good state panicked"),
    }
}
