//! Is the app still there?
//!
//! A sidecar that outlives its app serves nobody, and one that ends before it cuts the app off. The proxy cannot see the
//! app's process, which is in another container; it can see whether anybody listens on the app's ports: those that
//! inbound listeners lead to, and those that its probes and metrics name. Refused by all of them, the app is gone, or has
//! stopped taking requests, which is the same to whoever calls it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use leno_config::node::Node;

use crate::cluster::Members;
use crate::state::snapshot::Snapshot;

use super::Pod;
use super::ask::Asker;

/// For one look at all of its ports; on loopback the answer is immediate.
const LOOK: Duration = Duration::from_secs(1);
/// Ports that are looked at; an app with more is there as long as one of these is.
const MOST: usize = 64;

/// The app of this pod.
#[derive(Debug)]
pub(crate) struct App {
    /// What the bootstrap says.
    named: BTreeSet<SocketAddr>,
    node: Node,
    asker: Arc<Asker>,
}

impl App {
    pub(super) fn new(pod: &Pod, node: &Node, asker: Arc<Asker>) -> Self {
        let probed = pod.probes.ports().map(|port| SocketAddr::new(node.ip, port));
        let named = probed.chain(pod.metrics.as_ref().map(super::AppMetrics::address)).collect();
        Self { named, node: node.clone(), asker }
    }

    /// Whether every port of it refuses connections; so it is with an app that has none.
    pub(crate) async fn refuses(&self, snapshot: &Snapshot) -> bool {
        let look = async {
            for address in self.addresses(snapshot).into_iter().take(MOST) {
                if !self.asker.is_refused(address).await {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(LOOK, look).await.unwrap_or(false)
    }

    fn addresses(&self, snapshot: &Snapshot) -> BTreeSet<SocketAddr> {
        let mut addresses = self.named.clone();
        for cluster in &snapshot.clusters {
            let Some(port) = inbound_port(cluster.config.name.as_str()) else { continue };
            match &cluster.members {
                Members::Balanced(_) => addresses.extend(cluster.members.states().map(|state| state.address)),
                // What was called is the pod's own address.
                Members::OriginalDestination => drop(addresses.insert(SocketAddr::new(self.node.ip, port))),
                Members::RequestHost => {}
            }
        }
        addresses
    }
}

/// The port of a cluster of the app: `inbound|8080||`, as Istio names them.
fn inbound_port(cluster: &str) -> Option<u16> {
    cluster.strip_prefix("inbound|")?.split('|').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_of_the_app_say_its_ports() {
        let rows = [
            ("inbound|8080||", Some(8080)),
            ("inbound|8080|http|shop", Some(8080)),
            ("outbound|8080||shop.default.svc.cluster.local", None),
            ("InboundPassthroughCluster", None),
        ];
        for (name, port) in rows {
            assert_eq!(inbound_port(name), port, "{name}");
        }
    }
}
