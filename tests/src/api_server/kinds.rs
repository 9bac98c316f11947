//! Which kinds are served: Kubernetes' own by a table, those of custom resource definitions as they come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::store::ResourceKey;

/// A kind of object and the resource under which it is served.
#[derive(Debug, Clone, PartialEq)]
pub struct Kind {
    /// `apps`; empty for the core group.
    pub group: String,
    /// The versions that are served, the preferred one first. All have the same fields.
    pub versions: Vec<String>,
    /// `Deployment`
    pub kind: String,
    /// `deployments`
    pub plural: String,
    /// `deployment`
    pub singular: String,
    /// `deploy`
    pub short_names: Vec<String>,
    /// Whether its objects live in namespaces.
    pub scope: Scope,
    /// Whether `status` is written apart from the rest.
    pub has_status: bool,
    /// Whether `metadata.generation` counts the changes of what is wanted.
    pub has_generation: bool,
    /// What it is made of.
    pub(super) origin: Origin,
}

/// Where objects live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// Where a kind comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Origin {
    /// Kubernetes itself.
    BuiltIn,
    /// Kubernetes itself, but a question that is answered and not an object that is kept (a review).
    Question,
    /// A definition, with the schema of each version.
    Defined {
        /// `openAPIV3Schema` by version.
        schemas: BTreeMap<String, Value>,
    },
}

impl Kind {
    /// `v1`, `apps/v1`
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The version that is preferred.
    pub fn preferred(&self) -> &str {
        self.versions.first().map_or("v1", String::as_str)
    }

    pub(super) fn key(&self) -> ResourceKey {
        ResourceKey { group: self.group.clone(), plural: self.plural.clone() }
    }

    /// `leases.coordination.k8s.io`
    pub(super) fn qualified_plural(&self) -> String {
        qualified(&self.plural, &self.group)
    }

    /// `Lease.coordination.k8s.io`
    pub(super) fn qualified_kind(&self) -> String {
        qualified(&self.kind, &self.group)
    }

    pub(super) fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether it is this one of Kubernetes' own.
    pub(super) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// The schema by which an object of a version is checked, if the kind was defined.
    pub(super) fn schema(&self, version: &str) -> Option<&Value> {
        match &self.origin {
            Origin::Defined { schemas } => schemas.get(version),
            Origin::BuiltIn | Origin::Question => None,
        }
    }

    /// Whether a definition made it.
    pub(super) fn is_defined(&self) -> bool {
        matches!(self.origin, Origin::Defined { .. })
    }

    fn verbs(&self) -> &'static [&'static str] {
        match self.origin {
            Origin::Question => &["create"],
            Origin::BuiltIn | Origin::Defined { .. } => {
                &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            }
        }
    }

    /// Its entries in an `APIResourceList`.
    pub(super) fn discovered(&self) -> Vec<Value> {
        let mut main = json!({
            "name": self.plural,
            "singularName": self.singular,
            "namespaced": self.is_namespaced(),
            "kind": self.kind,
            "verbs": self.verbs(),
        });
        if !self.short_names.is_empty() {
            main["shortNames"] = json!(self.short_names);
        }
        let below = |name: &str, kind: &str, verbs: &[&str]| {
            json!({
                "name": format!("{}/{name}", self.plural),
                "singularName": "",
                "namespaced": self.is_namespaced(),
                "kind": kind,
                "verbs": verbs,
            })
        };
        let mut all = vec![main];
        if self.has_status {
            all.push(below("status", &self.kind, &["get", "patch", "update"]));
        }
        if self.is("", "serviceaccounts") {
            let mut token = below("token", "TokenRequest", &["create"]);
            token["group"] = json!("authentication.k8s.io");
            token["version"] = json!("v1");
            all.push(token);
        }
        all
    }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// Every kind that is served now.
#[derive(Debug, Clone)]
pub(super) struct Catalogue {
    kinds: Vec<Arc<Kind>>,
    /// Since when the defined ones are served.
    since: BTreeMap<ResourceKey, Instant>,
}

impl Catalogue {
    /// Kubernetes' own.
    pub(super) fn built_in() -> Self {
        Self { kinds: BUILT_IN.iter().map(|row| Arc::new(row.kind())).collect(), since: BTreeMap::new() }
    }

    /// The kind behind a path.
    pub(super) fn resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let is_it = |kind: &&Arc<Kind>| kind.is(group, plural) && kind.versions.iter().any(|served| served == version);
        self.kinds.iter().find(is_it).map(Arc::clone)
    }

    /// The kind of an object, with the version that it is written in.
    pub(super) fn kind_of(&self, api_version: &str, kind: &str) -> Option<(Arc<Kind>, String)> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let is_it = |known: &&Arc<Kind>| {
            known.group == group && known.kind == kind && known.versions.iter().any(|served| served == version)
        };
        self.kinds.iter().find(is_it).map(|known| (Arc::clone(known), version.to_owned()))
    }

    /// All of them.
    pub(super) fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// Serves a kind, in place of the one of that name.
    pub(super) fn serve(&mut self, kind: Kind) {
        let key = kind.key();
        self.kinds.retain(|known| known.key() != key);
        self.since.entry(key).or_insert_with(Instant::now);
        self.kinds.push(Arc::new(kind));
    }

    /// Since when a defined kind is served.
    pub(super) fn since(&self, resource: &ResourceKey) -> Option<Instant> {
        self.since.get(resource).copied()
    }

    /// Serves a kind no more.
    pub(super) fn stop_serving(&mut self, resource: &ResourceKey) {
        self.kinds.retain(|kind| kind.key() != *resource);
        self.since.remove(resource);
    }
}

/// A row of the table.
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    scope: Scope,
    writes: Writes,
}

/// How the objects of a kind are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// As a whole.
    Whole,
    /// As a whole, and the generation is counted.
    Counted,
    /// The status apart.
    Status,
    /// The status apart, and the generation is counted.
    CountedStatus,
    /// Never: it is a question.
    Question,
}

impl Row {
    fn kind(&self) -> Kind {
        Kind {
            group: self.group.to_owned(),
            versions: vec![self.version.to_owned()],
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
            singular: self.kind.to_lowercase(),
            short_names: self.short.split_terminator(',').map(str::to_owned).collect(),
            scope: self.scope,
            has_status: matches!(self.writes, Writes::Status | Writes::CountedStatus),
            has_generation: matches!(self.writes, Writes::Counted | Writes::CountedStatus),
            origin: if self.writes == Writes::Question { Origin::Question } else { Origin::BuiltIn },
        }
    }
}

const fn row(
    names: (&'static str, &'static str, &'static str, &'static str, &'static str),
    scope: Scope,
    writes: Writes,
) -> Row {
    let (group, version, kind, plural, short) = names;
    Row { group, version, kind, plural, short, scope, writes }
}

/// Group, version, kind, plural and short names; scope; how it is written. Which kinds count their generation is what
/// the recorded objects show (a Lease and a ConfigMap do not).
const BUILT_IN: &[Row] = {
    use Scope::{Cluster, Namespaced};
    use Writes::{Counted, CountedStatus, Question, Status, Whole};
    &[
        row(("", "v1", "Namespace", "namespaces", "ns"), Cluster, Status),
        row(("", "v1", "Node", "nodes", "no"), Cluster, Status),
        row(("", "v1", "Pod", "pods", "po"), Namespaced, CountedStatus),
        row(("", "v1", "Service", "services", "svc"), Namespaced, Status),
        row(("", "v1", "Endpoints", "endpoints", "ep"), Namespaced, Whole),
        row(("", "v1", "Secret", "secrets", ""), Namespaced, Whole),
        row(("", "v1", "ConfigMap", "configmaps", "cm"), Namespaced, Whole),
        row(("", "v1", "ServiceAccount", "serviceaccounts", "sa"), Namespaced, Whole),
        row(("", "v1", "Event", "events", "ev"), Namespaced, Whole),
        row(("events.k8s.io", "v1", "Event", "events", "ev"), Namespaced, Whole),
        row(("apps", "v1", "Deployment", "deployments", "deploy"), Namespaced, CountedStatus),
        row(("apps", "v1", "ReplicaSet", "replicasets", "rs"), Namespaced, CountedStatus),
        row(("apps", "v1", "StatefulSet", "statefulsets", "sts"), Namespaced, CountedStatus),
        row(("apps", "v1", "DaemonSet", "daemonsets", "ds"), Namespaced, CountedStatus),
        row(("batch", "v1", "Job", "jobs", ""), Namespaced, CountedStatus),
        row(("batch", "v1", "CronJob", "cronjobs", "cj"), Namespaced, CountedStatus),
        row(("coordination.k8s.io", "v1", "Lease", "leases", ""), Namespaced, Whole),
        row(("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", ""), Namespaced, Counted),
        row(("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb"), Namespaced, CountedStatus),
        row(("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "netpol"), Namespaced, Counted),
        row(("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", ""), Cluster, Whole),
        row(("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", ""), Cluster, Whole),
        row(("rbac.authorization.k8s.io", "v1", "Role", "roles", ""), Namespaced, Whole),
        row(("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", ""), Namespaced, Whole),
        row((WEBHOOKS, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", ""), Cluster, Counted),
        row(
            (WEBHOOKS, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", ""),
            Cluster,
            Counted,
        ),
        row((DEFINITIONS, "v1", "CustomResourceDefinition", CRDS, "crd,crds"), Cluster, CountedStatus),
        row(("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", ""), Cluster, Question),
    ]
};

/// Group of the webhook configurations.
pub(super) const WEBHOOKS: &str = "admissionregistration.k8s.io";

/// Group of the definitions of custom resources.
pub(super) const DEFINITIONS: &str = "apiextensions.k8s.io";

/// The definitions of custom resources.
pub(super) const CRDS: &str = "customresourcedefinitions";
