//! Who talks to whom, as labels say it.
//!
//! A workload is who its sidecar said it is on the encrypted connection itself (`tls/exchange.rs`), as far as its certificate
//! bears that out; else what the control plane says of the endpoint; else what its certificate says; else `unknown`.
//! Headers, which an app can see and set, are never asked.

use std::collections::BTreeMap;

use leno_config::defaults::CLUSTER_DOMAIN;
use leno_config::identity::SpiffeId;
use leno_config::ir;
use leno_config::node::Node;

use crate::tls::exchange::Workload;
use crate::tls::peer::{Peer, Security};

use super::figures;

/// What nobody knows.
pub const UNKNOWN: &str = "unknown";
/// What is too many to be told apart.
pub const OTHER: &str = "other";
/// The cluster that a mesh without clusters is: Istio's default, which dashboards look for.
const CLUSTER: &str = "Kubernetes";
/// The revision of what has none (Istio).
const LATEST: &str = "latest";
/// The cluster through which hosts are called that nobody has declared (Istio).
const PASSTHROUGH: &str = "PassthroughCluster";
/// Longest name, as DNS has it.
const LONGEST_NAME: usize = 253;
/// Longest label of Kubernetes, with one to spare.
const LONGEST_LABEL: usize = 64;

/// A workload, in the words of Istio's labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    /// What it is an instance of.
    pub workload: String,
    /// Where.
    pub namespace: String,
    /// Label `app`, else the canonical service.
    pub app: String,
    /// Label `version`, else the canonical revision.
    pub version: String,
    /// As whom it runs.
    pub service_account: String,
    /// Istio's canonical service.
    pub canonical_service: String,
    /// Istio's canonical revision.
    pub canonical_revision: String,
    /// Of which cluster.
    pub cluster: &'static str,
}

impl Party {
    /// All of it one word: [`UNKNOWN`] or [`OTHER`].
    pub fn word(word: &'static str) -> Self {
        Self {
            workload: word.to_owned(),
            namespace: word.to_owned(),
            app: word.to_owned(),
            version: word.to_owned(),
            service_account: word.to_owned(),
            canonical_service: word.to_owned(),
            canonical_revision: word.to_owned(),
            cluster: word,
        }
    }

    /// The workload that a proxy stands beside.
    pub fn of_node(node: &Node) -> Self {
        Self::new(&node.workload, &node.namespace, &node.service_account, &node.labels)
    }

    /// What a sidecar said of itself.
    pub fn of_workload(workload: &Workload) -> Self {
        Self::new(&workload.workload, &workload.namespace, &workload.service_account, &workload.labels)
    }

    /// What the control plane says of an endpoint. Without a word about its workload, that is called after its app.
    pub fn of_endpoint(endpoint: &ir::Endpoint) -> Self {
        let (namespace, account) = endpoint.identity.as_ref().map_or((UNKNOWN, UNKNOWN), names);
        let (workload, namespace) = match &endpoint.workload {
            Some(ir::WorkloadName { name, namespace }) => (name.as_str(), namespace.as_str()),
            None => ("", namespace),
        };
        if workload.is_empty() && endpoint.labels.is_empty() && namespace == UNKNOWN {
            return Self::word(UNKNOWN);
        }
        Self::new(workload, namespace, account, &endpoint.labels)
    }

    /// What a certificate says: no more than the service account.
    pub fn of_identity(id: &SpiffeId) -> Self {
        let (namespace, account) = names(id);
        Self::new("", namespace, account, &BTreeMap::new())
    }

    fn new(workload: &str, namespace: &str, account: &str, labels: &BTreeMap<String, String>) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|&name| labels.get(name)).filter(|value| !value.is_empty());
        let canonical = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let revision = first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        let named = if workload.is_empty() { canonical.map_or(UNKNOWN, String::as_str) } else { workload };
        let canonical = canonical.map_or(named, String::as_str);
        let revision = revision.map_or(LATEST, String::as_str);
        let or_unknown = |text: &str| cut(if text.is_empty() { UNKNOWN } else { text }, LONGEST_NAME).to_owned();
        Self {
            workload: or_unknown(named),
            namespace: or_unknown(namespace),
            app: cut(first(&["app"]).map_or(canonical, String::as_str), LONGEST_LABEL).to_owned(),
            version: cut(first(&["version"]).map_or(revision, String::as_str), LONGEST_LABEL).to_owned(),
            service_account: or_unknown(account),
            canonical_service: cut(canonical, LONGEST_NAME).to_owned(),
            canonical_revision: cut(revision, LONGEST_LABEL).to_owned(),
            cluster: CLUSTER,
        }
    }

    /// For who reads figures.
    pub fn figure(&self, principal: &str) -> figures::Party {
        figures::Party {
            workload: self.workload.clone(),
            namespace: self.namespace.clone(),
            app: self.app.clone(),
            version: self.version.clone(),
            service_account: self.service_account.clone(),
            principal: principal.to_owned(),
        }
    }
}

fn names(id: &SpiffeId) -> (&str, &str) {
    id.namespace_and_service_account().unwrap_or((UNKNOWN, UNKNOWN))
}

/// How the bytes of a connection are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protection {
    /// Both sides have shown a certificate of the mesh.
    MutualTls,
    /// TLS to the outside.
    Tls,
    /// In clear text.
    None,
    /// There was no connection.
    Unknown,
}

impl Protection {
    /// In the words of figures.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Tls => "tls",
            Self::None => "none",
            Self::Unknown => UNKNOWN,
        }
    }

    /// Istio's `connection_security_policy`.
    pub fn policy(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Tls | Self::None => "none",
            Self::Unknown => UNKNOWN,
        }
    }
}

/// The other side of a connection, and how it is reached or comes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// Who it is.
    pub party: Party,
    /// Its SPIFFE ID.
    pub principal: String,
    /// The own SPIFFE ID on this connection.
    pub own_principal: String,
    /// How the bytes are protected.
    pub protection: Protection,
    /// What the handshake agreed on; `-` in clear text.
    pub group: &'static str,
}

impl Link {
    /// All of it one word: [`UNKNOWN`] or [`OTHER`].
    pub fn word(word: &'static str) -> Self {
        Self { party: Party::word(word), ..Self::unproven(Party::word(word), Protection::Unknown) }
    }

    /// Without certificates of the mesh.
    pub fn unproven(party: Party, protection: Protection) -> Self {
        let nobody = || UNKNOWN.to_owned();
        Self { party, principal: nobody(), own_principal: nobody(), protection, group: "-" }
    }

    /// With a peer of the mesh; `told` is what else is known of it.
    pub fn with(peer: &Peer, told: Option<&ir::Endpoint>) -> Self {
        let party = match (&peer.workload, told) {
            (Some(workload), _) => Party::of_workload(workload),
            (None, Some(endpoint)) if endpoint.workload.is_some() || !endpoint.labels.is_empty() => {
                Party::of_endpoint(endpoint)
            }
            (None, _) => Party::of_identity(&peer.id),
        };
        Self {
            party,
            principal: cut(peer.id.as_str(), LONGEST_NAME).to_owned(),
            own_principal: cut(peer.own.as_str(), LONGEST_NAME).to_owned(),
            protection: Protection::MutualTls,
            group: peer.security.group,
        }
    }

    /// An endpoint that was reached.
    pub fn reached(peer: Option<&Peer>, security: Option<Security>, told: Option<&ir::Endpoint>) -> Self {
        match (peer, security) {
            (Some(peer), _) => Self::with(peer, told),
            (None, Some(Security { group, .. })) => {
                Self { group, ..Self::unproven(told.map_or_else(unknown, Party::of_endpoint), Protection::Tls) }
            }
            (None, None) => Self::unproven(told.map_or_else(unknown, Party::of_endpoint), Protection::None),
        }
    }

    /// An endpoint that was not reached.
    pub fn unreached(told: Option<&ir::Endpoint>) -> Self {
        Self::unproven(told.map_or_else(unknown, Party::of_endpoint), Protection::Unknown)
    }
}

fn unknown() -> Party {
    Party::word(UNKNOWN)
}

/// What is called: a service by one of its clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Name of the cluster; empty: none was chosen.
    pub cluster: String,
    /// Full name of the service.
    pub host: String,
    /// Its short name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The port that was called; 0: not known.
    pub port: u16,
}

impl Target {
    /// All of it one word: [`UNKNOWN`] or [`OTHER`].
    pub fn word(word: &'static str) -> Self {
        let text = || word.to_owned();
        Self { cluster: String::new(), host: text(), name: text(), namespace: text(), port: 0 }
    }

    /// The service behind a cluster: as the control plane names it, else by the cluster's name. An app behind its own
    /// sidecar, of which nobody says so, is called after the workload.
    pub fn of_cluster(cluster: &ir::Cluster, own: &Party) -> Self {
        let mut parts = cluster.name.as_str().split('|');
        let (direction, port) = (parts.next(), parts.next().and_then(|port| port.parse().ok()).unwrap_or(0));
        let host = parts.nth(1).filter(|host| !host.is_empty());
        let target = match (&cluster.service, direction, host) {
            (Some(ir::ServiceName { host, name, namespace }), ..) => Self {
                host: cut(host, LONGEST_NAME).to_owned(),
                name: cut(name, LONGEST_NAME).to_owned(),
                namespace: cut(namespace, LONGEST_NAME).to_owned(),
                ..Self::default()
            },
            (None, Some("inbound"), _) => Self::own(own),
            (None, _, Some(host)) => Self::of_host(host),
            (None, ..) => Self::of_host(cluster.name.as_str()),
        };
        Self { cluster: cut(cluster.name.as_str(), LONGEST_NAME).to_owned(), port, ..target }
    }

    /// The service that a workload is, where nobody names one.
    pub fn own(own: &Party) -> Self {
        let Party { canonical_service: name, namespace, .. } = own;
        let host = format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}");
        Self { host, name: name.clone(), namespace: namespace.clone(), ..Self::default() }
    }

    /// A host, with or without a port. `reviews.shop.svc.cluster.local` says name and namespace.
    pub fn of_host(host: &str) -> Self {
        let (host, port) = match host.rsplit_once(':') {
            Some((name, port)) if !name.ends_with(':') && !port.ends_with(']') => (name, port.parse().unwrap_or(0)),
            Some(_) | None => (host, 0),
        };
        let host = cut(host, LONGEST_NAME);
        let mut labels = host.split('.');
        let (name, namespace) = match (labels.next(), labels.next(), labels.next()) {
            (Some(name), Some(namespace), Some("svc")) => (name, namespace),
            _ => (host, UNKNOWN),
        };
        Self { host: host.to_owned(), name: name.to_owned(), namespace: namespace.to_owned(), port, ..Self::default() }
    }

    /// Whether it stands for hosts outside the mesh, each of which is counted for itself (Istio: `destination_service` is
    /// the request's host, its name the cluster's).
    pub fn is_outside(&self) -> bool {
        self.cluster == PASSTHROUGH
    }

    /// A host outside the mesh, called by way of `cluster`.
    pub fn outside(&self, host: &str) -> Self {
        let Self { host, port, .. } = Self::of_host(host);
        let port = if port == 0 { self.port } else { port };
        Self { host, port, ..self.clone() }
    }

    /// For who reads figures.
    pub fn figure(&self) -> figures::Service {
        figures::Service { host: self.host.clone(), name: self.name.clone(), namespace: self.namespace.clone() }
    }
}

/// The first so many bytes, or fewer where a character would be cut through.
pub fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_party_is_called_by_its_labels_and_else_by_its_workload() {
        // Labels; then app, version, canonical service, canonical revision.
        let rows = [
            (&[("app", "reviews"), ("version", "v2")][..], ["reviews", "v2", "reviews", "v2"]),
            (&[("app", "reviews")], ["reviews", "latest", "reviews", "latest"]),
            (&[], ["reviews-v2", "latest", "reviews-v2", "latest"]),
            (
                &[
                    ("app", "a"),
                    ("version", "1"),
                    ("app.kubernetes.io/name", "b"),
                    ("app.kubernetes.io/version", "2"),
                    ("service.istio.io/canonical-name", "c"),
                    ("service.istio.io/canonical-revision", "3"),
                ],
                ["a", "1", "c", "3"],
            ),
        ];
        for (pairs, expected) in rows {
            let Party { app, version, canonical_service, canonical_revision, .. } =
                Party::new("reviews-v2", "shop", "reviews", &labels(pairs));
            assert_eq!([&*app, &*version, &*canonical_service, &*canonical_revision], expected, "{pairs:?}");
        }
    }

    #[test]
    fn an_endpoint_is_what_the_control_plane_says_of_it() {
        let endpoint = |workload: Option<&str>, identity: Option<&str>, pairs: &[(&str, &str)]| ir::Endpoint {
            address: ir::Address::new("10.0.0.1", 80).expect("valid"),
            weight: 1,
            health: ir::Health::Unknown,
            mesh_tls: false,
            identity: identity.map(|id| SpiffeId::parse(id).expect("valid")),
            labels: labels(pairs),
            workload: workload.map(|name| ir::WorkloadName { name: name.to_owned(), namespace: "shop".to_owned() }),
        };
        let id = Some("spiffe://td/ns/bank/sa/reviews");
        let rows = [
            (endpoint(Some("reviews-v1"), id, &[("app", "reviews")]), ["reviews-v1", "shop", "reviews", "reviews"]),
            (endpoint(None, id, &[("app", "reviews")]), ["reviews", "bank", "reviews", "reviews"]),
            (endpoint(None, id, &[]), [UNKNOWN, "bank", UNKNOWN, "reviews"]),
            (endpoint(None, None, &[("app", "x")]), ["x", UNKNOWN, "x", UNKNOWN]),
            (endpoint(None, None, &[]), [UNKNOWN; 4]),
        ];
        for (endpoint, expected) in rows {
            let Party { workload, namespace, app, service_account, .. } = Party::of_endpoint(&endpoint);
            assert_eq!([&*workload, &*namespace, &*app, &*service_account], expected, "{endpoint:?}");
        }
    }

    #[test]
    fn a_service_is_named_by_its_cluster() {
        let own = Party::new("shop-1", "shop", "shop", &labels(&[("app", "front")]));
        let rows = [
            ("outbound|80|v1|reviews.shop.svc.cluster.local", "reviews.shop.svc.cluster.local", "reviews", "shop", 80),
            ("outbound|443||api.example.com", "api.example.com", "api.example.com", UNKNOWN, 443),
            ("inbound|8080||", "front.shop.svc.cluster.local", "front", "shop", 8080),
            ("PassthroughCluster", "PassthroughCluster", "PassthroughCluster", UNKNOWN, 0),
        ];
        for (cluster, host, name, namespace, port) in rows {
            let config = ir::Cluster::new(ir::ClusterName::new(cluster), ir::Discovery::RequestHost);
            let target = Target::of_cluster(&config, &own);
            assert_eq!((&*target.host, &*target.name, &*target.namespace, target.port), (host, name, namespace, port));
            assert_eq!(target.cluster, cluster);
        }
    }

    #[test]
    fn a_host_may_have_a_port_and_be_an_address() {
        let rows = [("a.b:81", "a.b", 81), ("[::1]:82", "[::1]", 82), ("[::1]", "[::1]", 0), ("h", "h", 0)];
        for (text, host, port) in rows {
            let target = Target::of_host(text);
            assert_eq!((&*target.host, target.port), (host, port), "{text}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        for (text, most, expected) in [("äöü", 3, "ä"), ("abc", 3, "abc"), ("abcd", 3, "abc"), ("", 3, "")] {
            assert_eq!(cut(text, most), expected);
        }
    }
}
