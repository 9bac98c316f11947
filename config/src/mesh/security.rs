//! The rules that protect workloads, by whom they are for.
//!
//! A rule is for the workloads of its namespace that its selector takes; in the root namespace for those of the whole
//! mesh. Rules for gateways and waypoints (`targetRefs`) are for nobody here. How several for one workload go together
//! differs by kind (Istio):
//!
//! * **PeerAuthentication**: the narrowest that says something, of workload, namespace and mesh; of two as narrow, the
//!   oldest. One with a selector in the root namespace is for nobody.
//! * **AuthorizationPolicy**, **RequestAuthentication** and **RateLimit**: all of them together.

use std::collections::{BTreeMap, HashMap};

use crate::ir::{MtlsMode, Port};
use crate::node::Node;
use crate::rules::{
    AuthorizationPolicy, DRY_RUN_ANNOTATION, LabelSelector, MutualTls, MutualTlsMode, PeerAuthentication, RateLimit,
    RequestAuthentication, Resource, ResourceId,
};

use super::Mesh;
use super::visibility::{Age, selects};

/// A rule with whom it is for.
#[derive(Debug)]
pub(crate) struct Scoped<T> {
    pub(crate) id: ResourceId,
    /// Empty: all workloads of the namespace, or of the mesh.
    selector: BTreeMap<String, String>,
    pub(crate) spec: T,
    /// Whether it is only tried.
    pub(crate) dry_run: bool,
}

/// The rules of one kind by namespace, the oldest first.
#[derive(Debug)]
struct ByNamespace<T>(HashMap<String, Vec<Scoped<T>>>);

/// The four kinds.
#[derive(Debug)]
pub(super) struct Protections {
    peers: ByNamespace<PeerAuthentication>,
    policies: ByNamespace<AuthorizationPolicy>,
    tokens: ByNamespace<RequestAuthentication>,
    limits: ByNamespace<RateLimit>,
}

/// Documents of one kind, as they are handed in.
pub(super) type Written<'a, T> = [(&'a ResourceId, &'a Resource<T>)];

/// How callers of a port come in, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerMode {
    /// How.
    pub mode: MtlsMode,
    /// The PeerAuthentication that decides; `None`: the default.
    pub by: Option<ResourceId>,
}

impl Protections {
    pub(super) fn new(
        peers: &Written<'_, PeerAuthentication>,
        policies: &Written<'_, AuthorizationPolicy>,
        tokens: &Written<'_, RequestAuthentication>,
        limits: &Written<'_, RateLimit>,
    ) -> Self {
        Self {
            peers: ByNamespace::new(peers, |spec| Some(spec.selector.as_ref())),
            policies: ByNamespace::new(policies, |spec| (!spec.has_targets()).then_some(spec.selector.as_ref())),
            tokens: ByNamespace::new(tokens, |spec| (!spec.has_targets()).then_some(spec.selector.as_ref())),
            limits: ByNamespace::new(limits, |spec| Some(spec.selector.as_ref())),
        }
    }

    /// Keys of the labels that some rule asks a workload for.
    pub(super) fn labels(&self) -> impl Iterator<Item = &String> {
        let tokens = self.tokens.labels().chain(self.limits.labels());
        self.peers.labels().chain(self.policies.labels()).chain(tokens)
    }
}

impl<T: Clone> ByNamespace<T> {
    /// `selector` is `None` for a rule that is for nobody here.
    fn new(written: &Written<'_, T>, selector: impl Fn(&T) -> Option<Option<&LabelSelector>>) -> Self {
        let mut written = written.to_vec();
        written.sort_by_key(|(id, rule)| Age::new(id, &rule.metadata));
        let mut all = HashMap::<_, Vec<_>>::new();
        for (id, rule) in written {
            let Some(selector) = selector(&rule.spec) else { continue };
            all.entry(id.namespace.clone()).or_default().push(Scoped {
                id: id.clone(),
                selector: selector.map(|selector| selector.match_labels.clone()).unwrap_or_default(),
                spec: rule.spec.clone(),
                dry_run: is_dry_run(rule),
            });
        }
        Self(all)
    }

    fn of(&self, namespace: &str) -> impl Iterator<Item = &Scoped<T>> {
        self.0.get(namespace).into_iter().flatten()
    }

    /// Those for a workload: of the root namespace first, then of its own.
    fn for_workload<'a>(&'a self, root: &'a str, node: &'a Node) -> impl Iterator<Item = &'a Scoped<T>> {
        let own = (node.namespace != root).then_some(node.namespace.as_str());
        let places = std::iter::once(root).chain(own);
        places.flat_map(|namespace| self.of(namespace)).filter(|rule| selects(&rule.selector, &node.labels))
    }

    fn labels(&self) -> impl Iterator<Item = &String> {
        self.0.values().flatten().flat_map(|rule| rule.selector.keys())
    }
}

/// Go's `ParseBool`, as Istio reads the annotation; what is no truth value is none.
pub(crate) fn parse_dry_run(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn is_dry_run<T>(rule: &Resource<T>) -> bool {
    rule.metadata.annotations.get(DRY_RUN_ANNOTATION).and_then(|text| parse_dry_run(text)).unwrap_or(false)
}

/// What a block says; `None`: nothing.
fn written_mode(mtls: Option<&MutualTls>) -> Option<MtlsMode> {
    match mtls?.mode? {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(MtlsMode::Disable),
        MutualTlsMode::Permissive => Some(MtlsMode::Permissive),
        MutualTlsMode::Strict => Some(MtlsMode::Strict),
    }
}

impl Mesh {
    /// How callers of a workload's port come in. `port` is the one that its sidecar listens on.
    pub fn peer_mode(&self, node: &Node, port: Port) -> PeerMode {
        self.peer_mode_at(node, Some(port))
    }

    /// The same for ports of which no rule speaks.
    pub(crate) fn peer_mode_of_workload(&self, node: &Node) -> PeerMode {
        self.peer_mode_at(node, None)
    }

    /// The ports of a workload of which the PeerAuthentication speaks that selects it.
    pub(crate) fn peer_ports(&self, node: &Node) -> Vec<Port> {
        let ports = self.selecting(node).and_then(|rule| rule.spec.port_level_mtls.as_ref());
        ports.into_iter().flatten().filter_map(|(number, _)| number.parse().ok()).collect()
    }

    /// The PeerAuthentication that selects a workload; one in the root namespace is for nobody.
    fn selecting(&self, node: &Node) -> Option<&Scoped<PeerAuthentication>> {
        let selecting =
            |rule: &&Scoped<PeerAuthentication>| !rule.selector.is_empty() && selects(&rule.selector, &node.labels);
        let is_root = node.namespace == self.root_namespace();
        self.protections.peers.of(&node.namespace).find(selecting).filter(|_| !is_root)
    }

    fn peer_mode_at(&self, node: &Node, port: Option<Port>) -> PeerMode {
        let root = self.root_namespace();
        let peers = &self.protections.peers;
        let oldest = |namespace: &str| peers.of(namespace).find(|rule| rule.selector.is_empty());
        let is_root = node.namespace == root;
        let workload = self.selecting(node);
        let namespace = oldest(&node.namespace).filter(|_| !is_root);
        let of_port = workload.and_then(|rule| {
            let ports = rule.spec.port_level_mtls.as_ref()?;
            let port = port?;
            let written = ports.iter().find(|(number, _)| number.parse() == Ok(port)).map(|(_, mtls)| mtls);
            Some((rule, written_mode(written)?))
        });
        let general = [workload, namespace, oldest(root)].into_iter().flatten();
        let found = of_port
            .or_else(|| general.into_iter().find_map(|rule| Some((rule, written_mode(rule.spec.mtls.as_ref())?))));
        match found {
            Some((rule, mode)) => PeerMode { mode, by: Some(rule.id.clone()) },
            None => PeerMode { mode: MtlsMode::Permissive, by: None },
        }
    }

    /// The RequestAuthentications for a workload, which hold together.
    pub fn request_authentications(&self, node: &Node) -> Vec<ResourceId> {
        self.tokens(node).map(|rule| rule.id.clone()).collect()
    }

    pub(crate) fn tokens<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Scoped<RequestAuthentication>> {
        self.protections.tokens.for_workload(self.root_namespace(), node)
    }

    pub(crate) fn policies<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Scoped<AuthorizationPolicy>> {
        self.protections.policies.for_workload(self.root_namespace(), node)
    }

    /// The RateLimits for a workload, which hold together: those of the root namespace first, the oldest first.
    pub(crate) fn rate_limits<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Scoped<RateLimit>> {
        self.protections.limits.for_workload(self.root_namespace(), node)
    }

    /// The mesh's trust domain and its other names.
    pub fn trust_domains(&self) -> Vec<&str> {
        let aliases = self.settings.trust_domain_aliases.iter().map(String::as_str);
        let mut domains = vec![self.trust_domain()];
        for alias in aliases {
            if !domains.contains(&alias) {
                domains.push(alias);
            }
        }
        domains
    }
}
