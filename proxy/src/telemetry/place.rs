//! An endpoint, as its connections are counted.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::Arc;

use leno_config::ir;

use crate::cluster::Cluster;
use crate::tls::peer::{Peer, Security};

use super::labels::{Labels, LinkName};
use super::party::Link;

/// Where connections lead, and what the control plane says of who is there. Believed only as long as nobody there says so
/// better.
#[derive(Debug)]
pub struct Place {
    /// The address.
    pub address: SocketAddr,
    told: Option<ir::Endpoint>,
    labels: Arc<Labels>,
    unreached: OnceCell<LinkName>,
}

impl Place {
    /// An endpoint of a cluster.
    pub fn new(cluster: &Cluster, address: SocketAddr, labels: &Arc<Labels>) -> Self {
        let told = cluster.told(address).cloned();
        Self { address, told, labels: Arc::clone(labels), unreached: OnceCell::new() }
    }

    /// Whether a cluster says the same of who is there.
    pub fn is_told(&self, cluster: &Cluster) -> bool {
        match (cluster.told(self.address), &self.told) {
            (Some(now), Some(then)) => {
                now.workload == then.workload && now.labels == then.labels && now.identity == then.identity
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// A connection to it. For each new one: it takes a lock.
    pub fn reached(&self, peer: Option<&Peer>, security: Option<Security>) -> LinkName {
        self.labels.links.intern(Link::reached(peer, security, self.told.as_ref()))
    }

    /// What is sent there and does not arrive.
    pub fn unreached(&self) -> &LinkName {
        self.unreached.get_or_init(|| self.labels.links.intern(Link::unreached(self.told.as_ref())))
    }
}
