//! One TCP connection, told and counted when it ends; and the bytes of whatever is passed both ways.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use leno_config::ir::Direction;
use tokio::time::Instant;

use crate::cluster::{Cluster, EndpointState};
use crate::downstream::Connection;
use crate::error::{Flag, Flags};
use crate::tls::peer::{Peer, Security};
use crate::worker::ListenerView;

use super::connections::{CLOSED, OPENED, RECEIVED, SENT, TcpBlock};
use super::observe::{self, ConnectionEnded};
use super::party::{Link, Target};

/// The bytes of a connection or tunnel so far, without what encryption adds.
#[derive(Debug, Default)]
pub struct Traffic {
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Where they are counted as they pass: of a connection, not of a tunnel.
    block: OnceCell<Arc<TcpBlock>>,
}

impl Traffic {
    /// So many bytes have come from the caller.
    pub fn receive(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
        if let Some(block) = self.block.get() {
            block.add(RECEIVED, bytes as u64);
        }
    }

    /// So many bytes have gone to the caller.
    pub fn send(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
        if let Some(block) = self.block.get() {
            block.add(SENT, bytes as u64);
        }
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
    /// As whom and as what it is counted.
    link: u32,
    target: u32,
    error: Option<String>,
}

impl TcpRecord {
    /// A caller is there.
    pub fn begin(connection: Rc<Connection>) -> Self {
        let view = connection.listener.view();
        let (link, labels) = (connection.link().id(), connection.worker.meters.labels());
        let target = labels.home(view.listener.config.direction);
        Self {
            link,
            target,
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

    /// Where its bytes go, or would have gone: whether it `is_open` now, and counts from now on.
    pub fn leads_to(&mut self, upstream: Upstream, is_open: bool) {
        let Connection { worker, .. } = &*self.connection;
        let labels = worker.meters.labels();
        if let Some(cluster) = &upstream.cluster {
            self.target = labels.targets.intern(Target::of_cluster(&cluster.config, labels.own())).id();
        }
        if let (Direction::Outbound, Some(cluster), Some(endpoint)) =
            (self.direction(), &upstream.cluster, &upstream.endpoint)
        {
            let told = cluster.told(endpoint.address);
            let link = match is_open {
                true => Link::reached(upstream.peer.as_deref(), upstream.security, told),
                false => Link::unreached(told),
            };
            self.link = labels.links.intern(link).id();
        }
        self.upstream = upstream;
        if is_open {
            let block = self.block(Flags::default());
            block.add(OPENED, 1);
            // There is none before: it is opened once.
            let _ = self.traffic.block.set(block);
        }
    }

    fn direction(&self) -> Direction {
        self.view.listener.config.direction
    }

    fn block(&self, flags: Flags) -> Arc<TcpBlock> {
        self.connection.worker.meters.connection(self.direction(), self.link, self.target, flags)
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        let ended = self.block(self.flags);
        if self.traffic.block.get().is_none() {
            ended.add(OPENED, 1);
        }
        ended.add(CLOSED, 1);
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
