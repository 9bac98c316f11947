//! The proxy's connection to its control plane: delta ADS (xDS v3).
//!
//! [`run`] is the whole of it: give it a single-threaded runtime (it spawns one task of its own and blocks on nothing),
//! and it keeps `updates` at what should be in force, for as long as the process lives:
//!
//! ```no_run
//! # async fn start(node: leno_config::node::Node, stop: tokio::sync::watch::Receiver<bool>) -> anyhow::Result<()> {
//! use leno_proxy::state::warming::Effective;
//! use leno_proxy::xds::{Address, ClientConfig, Hooks, Outputs, Status, run};
//! use tokio::sync::watch;
//!
//! let (updates, mut effective) = watch::channel(Effective::default());
//! let (status, _status) = watch::channel(Status::default());
//! let config = ClientConfig::new(Address::parse("http://127.0.0.1:15010")?, node, Some("state".into()));
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

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::path::PathBuf;

use leno_config::node::Node;
use leno_config::xds::node_to_xds;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::transport::Uri;

pub use self::backoff::Backoff;
use self::desk::{Desk, Keeper};
use self::session::{Now, Session};
pub use self::status::Status;
use self::stream::End;
use crate::state::accepted::Refuse;
use crate::state::disk;
use crate::state::warming::Effective;

/// Where the control plane is: `http://HOST:PORT`, on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Uri);

/// An address that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum AddressError {
    #[error("the control plane's address `{0}` is not of the form http://HOST:PORT")]
    Form(String),
    #[error(
        "the control plane's address `{0}` asks for TLS, which this version cannot do yet: use http:// and an address \
         on this machine"
    )]
    Tls(String),
    #[error(
        "the control plane's address `{0}` is not on this machine: without TLS anybody on the way could rewrite every \
         route, so http:// is for 127.0.0.0/8, [::1] and localhost only"
    )]
    NotLoopback(String),
}

impl Address {
    /// Reads `http://HOST:PORT`. Without TLS, the host must be this machine.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| form())?;
        let host = uri.host().ok_or_else(form)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(AddressError::Tls(text.to_owned())),
            Some(_) | None => return Err(form()),
        }
        let has_path = uri.path() != "/" || uri.query().is_some();
        if has_path || uri.port_u16().is_none_or(|port| port == 0) {
            return Err(form());
        }
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match ip.map_or(host.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback()) {
            true => Ok(Self(uri)),
            false => Err(AddressError::NotLoopback(text.to_owned())),
        }
    }

    fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the client needs to know.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The control plane.
    pub address: Address,
    /// This proxy.
    pub node: Node,
    /// The state directory; `None`: nothing survives a restart.
    pub state: Option<PathBuf>,
    /// Between two connections.
    pub backoff: Backoff,
}

impl ClientConfig {
    /// With the usual back-off.
    pub fn new(address: Address, node: Node, state: Option<PathBuf>) -> Self {
        Self { address, node, state, backoff: Backoff::default() }
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

/// Serves until `shutdown` turns true or its sender is gone; then what is in force is on disk.
pub async fn run(config: ClientConfig, hooks: Hooks, outputs: Outputs, mut shutdown: watch::Receiver<bool>) {
    let ClientConfig { address, node, state, mut backoff } = config;
    let keeper = state
        .as_ref()
        .map(|directory| Keeper::start(directory.clone(), node.id(), outputs.status.clone(), shutdown.clone()));
    let mut desk = Desk::new(outputs, &address, keeper);
    let mut session = Session::new(node_to_xds(&node), hooks.refuse);
    if let Some(directory) = state {
        restore(&mut session, &mut desk, directory, node.id()).await;
    }
    loop {
        desk.attempt();
        let (lost, answered) = match stream::serve(&address, &mut session, &mut desk, &mut shutdown).await {
            End::Drained => break,
            End::Lost(lost, answered) => (lost, answered),
        };
        desk.lost(&lost, Now::read());
        if let Some(lived) = answered {
            backoff.after_answered_stream(lived);
        }
        let delay = backoff.next((hooks.random)());
        tokio::select! {
            () = sleep(delay) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
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
