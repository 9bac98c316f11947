//! One TCP connection, told and counted when it ends; and the bytes of whatever is passed both ways.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::cluster::{Cluster, EndpointState};
use crate::downstream::Connection;
use crate::error::{Flag, Flags};
use crate::tls::peer::{Peer, Security};
use crate::worker::ListenerView;

use super::observe::{self, ConnectionEnded};

/// The bytes of a connection or tunnel so far, without what encryption adds.
#[derive(Debug, Default)]
pub struct Traffic {
    received: Cell<u64>,
    sent: Cell<u64>,
}

impl Traffic {
    /// So many bytes have come from the caller.
    pub fn receive(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    /// So many bytes have gone to the caller.
    pub fn send(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// All that has come from the caller.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// All that has gone to the caller.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }
}

/// Where the bytes of a connection go, or would have gone.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    /// The cluster that was chosen; `None`: it did not come to that.
    pub cluster: Option<Arc<Cluster>>,
    /// The endpoint that was called last.
    pub endpoint: Option<Arc<EndpointState>>,
    /// Who it is, where it showed a certificate of the mesh.
    pub peer: Option<Box<Peer>>,
    /// How the bytes to it are protected; `None`: in clear text, or no connection.
    pub security: Option<Security>,
    /// Where the connection to it begins.
    pub local: Option<SocketAddr>,
}

/// A TCP connection under way: from the moment it is let in, or would have been. Told when it is dropped.
#[derive(Debug)]
pub struct TcpRecord {
    connection: Rc<Connection>,
    view: Rc<ListenerView>,
    began: SystemTime,
    started: Instant,
    traffic: Rc<Traffic>,
    flags: Flags,
    upstream: Upstream,
    error: Option<String>,
}

impl TcpRecord {
    /// A caller is there.
    pub fn begin(connection: Rc<Connection>) -> Self {
        let view = connection.listener.view();
        Self {
            connection,
            view,
            began: SystemTime::now(),
            started: Instant::now(),
            traffic: Rc::default(),
            flags: Flags::default(),
            upstream: Upstream::default(),
            error: None,
        }
    }

    /// The connection.
    pub fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// Where its bytes are counted.
    pub fn traffic(&self) -> &Rc<Traffic> {
        &self.traffic
    }

    /// What went wrong; the first word stays.
    pub fn flag(&mut self, flag: Flag) {
        self.flags.add(flag);
    }

    /// What went wrong, and a sentence about it.
    pub fn failed(&mut self, flag: Flag, error: impl Into<String>) {
        self.flag(flag);
        self.error.get_or_insert(error.into());
    }

    /// Where its bytes go, or would have gone.
    pub fn leads_to(&mut self, upstream: Upstream) {
        self.upstream = upstream;
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        observe::connection_ended(ConnectionEnded {
            connection: Rc::clone(&self.connection),
            view: Rc::clone(&self.view),
            began: self.began,
            duration: self.started.elapsed(),
            flags: self.flags,
            received: self.traffic.received(),
            sent: self.traffic.sent(),
            upstream: std::mem::take(&mut self.upstream),
            error: self.error.take(),
        });
    }
}
