//! A node may only be what its credential says.
//!
//! What a node says of itself decides what it is sent: the namespace, which rules it sees, and the labels, which services
//! it belongs to. So on the encrypted port the namespace and the service account that it claims have to be those of the
//! credential that it shows, in its id as well as in its metadata. A token of Kubernetes that is bound to a pod also says
//! the node's name. On the clear port, which is for this machine alone,
//! nobody shows a credential and every claim is taken.
//!
//! A stream lives no longer than the credential that it began with, so that an expired identity holds nothing: it ends
//! with UNAUTHENTICATED, and a proxy that has renewed connects again and is sent the difference alone.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::config::core::v3 as core;
use leno_config::node::Node;
use tonic::Status;

use crate::ca::attest::{Attested, Gate, Peer};

/// A stream outlives its credential by so much, for clocks that differ.
const SKEW: Duration = Duration::from_secs(5);

/// Who is served.
#[derive(Clone)]
pub(crate) enum Access {
    /// Whoever reaches the port.
    Open,
    /// Who shows a credential.
    Credential(Arc<Gate>),
}

/// What a stream may be, and until when.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// Anything.
    None,
    /// This workload.
    Workload(Attested, Peer),
}

/// Why a node is not what it says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the node says that its {what} is `{claimed}`, and its credential is for `{attested}`; set node.{key} of the proxy, or give it a credential of its own"
)]
pub(crate) struct Mismatch {
    what: &'static str,
    /// In the proxy's bootstrap.
    key: &'static str,
    claimed: String,
    attested: String,
}

impl Access {
    /// What the opener of a stream has proven.
    pub(crate) async fn admit(
        &self,
        headers: &http::HeaderMap,
        peer: Option<Peer>,
        now: SystemTime,
    ) -> Result<Proof, Status> {
        let Self::Credential(gate) = self else { return Ok(Proof::None) };
        let peer = peer.ok_or_else(|| Status::unauthenticated("this port is for encrypted connections"))?;
        let attested = gate.admit(headers, &peer, "a stream", now).await?;
        Ok(Proof::Workload(attested, peer))
    }

    /// Whether the node that opens a stream is what was proven.
    pub(crate) fn check(&self, proof: &Proof, sent: &core::Node, node: &Node) -> Result<(), Status> {
        let (Self::Credential(gate), Proof::Workload(attested, peer)) = (self, proof) else { return Ok(()) };
        compare(sent, node, attested).map_err(|mismatch| {
            gate.refused("a stream", peer.from, "node", &mismatch);
            Status::permission_denied(mismatch.to_string())
        })
    }
}

impl Proof {
    /// Resolves when the proof is not good any more.
    pub(crate) async fn ended(&self) {
        let Self::Workload(attested, _) = self else { return std::future::pending().await };
        loop {
            let left = (attested.until + SKEW).duration_since(SystemTime::now()).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            // The clock may be set while this sleeps, so it is asked again before long.
            tokio::time::sleep(left.min(Duration::from_secs(60))).await;
        }
    }
}

/// What a stream is told whose credential has ended.
pub(crate) fn ended() -> Status {
    Status::unauthenticated("the credential that this stream began with has expired; connect again with a newer one")
}

fn compare(sent: &core::Node, node: &Node, attested: &Attested) -> Result<(), Mismatch> {
    let mismatch = |what, key, claimed: &str, attested: &str| {
        Err(Mismatch { what, key, claimed: claimed.escape_debug().to_string(), attested: attested.to_owned() })
    };
    // Metadata win over the id where a node is read, so the id has to be looked at by itself.
    let (name, of_id) = name_and_namespace_of(&sent.id).unwrap_or_default();
    for claimed in [of_id, node.namespace.as_str()] {
        if claimed != attested.namespace {
            return mismatch("namespace", "namespace", claimed, &attested.namespace);
        }
    }
    if node.service_account != attested.service_account {
        return mismatch("service account", "service_account", &node.service_account, &attested.service_account);
    }
    match &attested.pod {
        Some(pod) if pod != name || *pod != node.name => mismatch("name", "name", &node.name, pod),
        Some(_) | None => Ok(()),
    }
}

/// Of `sidecar~IP~NAME.NAMESPACE~DOMAIN`.
fn name_and_namespace_of(id: &str) -> Option<(&str, &str)> {
    id.split('~').nth(2)?.rsplit_once('.')
}

#[cfg(test)]
mod tests {
    use leno_config::xds::{node_from_xds, node_to_xds};

    use super::*;
    use crate::ca::attest::Means;

    fn sent(namespace_of_id: &str, namespace: Option<&str>, account: Option<&str>) -> core::Node {
        let node = Node {
            name: "cart.1".to_owned(),
            ip: [127, 0, 0, 1].into(),
            namespace: namespace.unwrap_or_default().to_owned(),
            service_account: account.unwrap_or_default().to_owned(),
            workload: "cart".to_owned(),
            labels: [].into(),
            locality: leno_config::ir::Locality::default(),
            interception: leno_config::node::Interception::None,
        };
        let mut sent = node_to_xds(&node);
        sent.id = format!("sidecar~127.0.0.1~cart.1.{namespace_of_id}~{namespace_of_id}.svc.cluster.local");
        let metadata = sent.metadata.as_mut().unwrap();
        for (key, value) in [("NAMESPACE", namespace), ("SERVICE_ACCOUNT", account)] {
            if value.is_none() {
                metadata.fields.remove(key);
            }
        }
        sent
    }

    #[test]
    fn a_node_may_only_be_what_its_credential_says() {
        let attested = |account: &str| Attested {
            namespace: "shop".to_owned(),
            service_account: account.to_owned(),
            pod: None,
            until: SystemTime::UNIX_EPOCH,
            by: Means::Token,
        };
        let rows = [
            ("all agree", sent("shop", Some("shop"), Some("cart")), "cart", true),
            ("the id alone says the namespace", sent("shop", None, Some("cart")), "cart", true),
            ("another namespace in the metadata", sent("shop", Some("bank"), Some("cart")), "cart", false),
            ("another namespace in the id", sent("bank", Some("shop"), Some("cart")), "cart", false),
            ("another namespace in both", sent("bank", Some("bank"), Some("cart")), "cart", false),
            ("another service account", sent("shop", Some("shop"), Some("admin")), "cart", false),
            ("no service account, which means default", sent("shop", Some("shop"), None), "default", true),
            ("no service account for one that is not default", sent("shop", Some("shop"), None), "cart", false),
            ("another case", sent("shop", Some("Shop"), Some("cart")), "cart", false),
            ("a prefix", sent("shop", Some("shop"), Some("cart-admin")), "cart", false),
        ];
        for (what, sent, account, expected) in rows {
            let node = node_from_xds(&sent).unwrap();
            let compared = compare(&sent, &node, &attested(account));
            assert_eq!(compared.is_ok(), expected, "{what}: {compared:?}");
        }
        for (pod, expected) in [("cart.1", true), ("cart-1", false), ("cart", false), ("till-1", false)] {
            let sent = sent("shop", Some("shop"), Some("cart"));
            let node = node_from_xds(&sent).unwrap();
            let attested = Attested { pod: Some(pod.to_owned()), ..attested("cart") };
            let compared = compare(&sent, &node, &attested);
            assert_eq!(compared.is_ok(), expected, "a token of pod {pod}: {compared:?}");
        }
    }
}
