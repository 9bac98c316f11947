//! The envelope around a document: which kind it is, whether that is one of ours, and what it is called.

use serde::Deserialize;

use super::document::{ResourceId, Rule};
use super::path::Path;
use super::reader::{self, Fault, closest, listed};
use super::schema::{Definitions, Describe as _};
use super::yaml::{Node, Value};
use super::{Metadata, Resource, Status};
use crate::diagnostic::{Code, codes};
use crate::{defaults, rules};

/// What a document is.
pub(super) enum Envelope {
    Ours(Box<Read>),
    /// `apiVersion/kind` of something else.
    Foreign(String),
    Fault(Fault),
}

/// A document of ours.
pub(super) struct Read {
    /// `None` where too little could be read.
    pub(super) rule: Option<Rule>,
    pub(super) faults: Vec<Fault>,
}

/// A kind that Leno reads.
pub(super) struct KnownKind {
    pub(super) name: &'static str,
    /// Of its `apiVersion`; empty: Kubernetes' core.
    pub(super) group: &'static str,
    pub(super) versions: &'static [&'static str],
    pub(super) layout: Layout,
    read: fn(&Node, &mut Vec<Fault>) -> Option<Rule>,
}

/// Where the fields of a kind stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Below `spec`.
    Spec,
    /// Beside `metadata`.
    Beside,
}

macro_rules! kinds {
    ($($group:ident $versions:tt $layout:ident: $($kind:ident)+;)+) => {
        /// Kinds that Leno reads.
        pub(super) const KINDS: &[KnownKind] = &[$($(KnownKind {
            name: stringify!($kind),
            group: $group,
            versions: &$versions,
            layout: Layout::$layout,
            read: |node, faults| read(Layout::$layout, node, faults).map(Rule::$kind),
        },)+)+];

        /// The schema of each kind, without the envelope. A table of its own: a program that reads rules and prints no
        /// schemas holds no descriptions.
        pub(super) const DESCRIBED: &[(&str, fn(&mut Definitions) -> serde_json::Value)] =
            &[$($((stringify!($kind), rules::$kind::describe),)+)+];
    };
}

kinds! {
    NETWORKING ["v1", "v1beta1", "v1alpha3"] Spec: VirtualService DestinationRule ServiceEntry WorkloadEntry Sidecar;
    SECURITY ["v1", "v1beta1"] Spec: PeerAuthentication AuthorizationPolicy RequestAuthentication;
    LENO ["v1alpha1"] Spec: MeshConfig HealthCheck RateLimit;
    CORE ["v1"] Spec: Service;
    DISCOVERY ["v1"] Beside: EndpointSlice;
}

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const LENO: &str = "leno.mesh";
const CORE: &str = "";
const DISCOVERY: &str = "discovery.k8s.io";

/// Whether Leno reads a kind, of whichever group.
pub(super) fn is_ours(kind: &str) -> bool {
    KINDS.iter().any(|known| known.name == kind)
}

/// Reads a document of whatever kind.
pub(super) fn envelope(node: &Node) -> Envelope {
    let fault = |code, path: &str, message: String, help: &str| {
        let help = (!help.is_empty()).then(|| help.to_owned());
        Envelope::Fault(Fault { code, path: path.to_owned(), on_key: false, message, help })
    };
    if !matches!(node.value, Value::Map(_)) {
        let message = format!("a resource is expected here, not {}", node.describe());
        return fault(codes::NOT_A_RESOURCE, "", message, "a document starts with `apiVersion:` and `kind:`");
    }
    let (Some(kind), Some(api_version)) =
        (node.get("kind").and_then(Node::text), node.get("apiVersion").and_then(Node::text))
    else {
        let missing = if node.get("kind").and_then(Node::text).is_none() { "kind" } else { "apiVersion" };
        let message = format!("the document has no `{missing}`");
        return fault(codes::NOT_A_RESOURCE, "", message, "a document starts with `apiVersion:` and `kind:`");
    };
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let found = KINDS.iter().find(|known| known.name == kind && known.group == group);
    let Some(KnownKind { versions, read, .. }) = found else { return foreign(group, api_version, kind, fault) };
    if !versions.contains(&version) {
        let message = format!("{kind} has no version `{version}`");
        return fault(codes::UNKNOWN_VERSION, "apiVersion", message, &format!("it has {}", listed(versions)));
    }
    let mut faults = Vec::new();
    let rule = read(node, &mut faults);
    name_faults(node, &mut faults);
    Envelope::Ours(Box::new(Read { rule, faults }))
}

/// A kind that is not ours: a warning where the mesh should know it, else no word.
fn foreign(
    group: &str,
    api_version: &str,
    kind: &str,
    fault: impl Fn(Code, &str, String, &str) -> Envelope,
) -> Envelope {
    if !is_of_a_mesh(group) {
        return Envelope::Foreign(format!("{api_version}/{kind}"));
    }
    let kinds: Vec<&str> = KINDS.iter().filter(|known| known.group == group).map(|known| known.name).collect();
    let help = match closest(kind, &kinds) {
        Some(meant) if meant != kind => format!("did you mean `{meant}`?"),
        _ => String::new(),
    };
    let message = format!("Leno does not know {kind} of {group}; the document is left out");
    fault(codes::UNSUPPORTED_KIND, "kind", message, &help)
}

/// Whether a kind of somebody else is known not to be any of ours and nothing that a mesh should know.
pub(super) fn is_foreign(group: &str, kind: &str) -> bool {
    !is_of_a_mesh(group) && !KINDS.iter().any(|known| known.name == kind && known.group == group)
}

fn is_of_a_mesh(group: &str) -> bool {
    group == "istio.io" || group.ends_with(".istio.io") || group == "gateway.networking.k8s.io" || group == LENO
}

const ENVELOPE: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

fn read<T: for<'a> Deserialize<'a> + Default>(
    layout: Layout,
    node: &Node,
    faults: &mut Vec<Fault>,
) -> Option<Resource<T>> {
    match layout {
        Layout::Spec => resource(node, faults),
        Layout::Beside => without_spec(node, faults),
    }
}

/// Reads a document with a `spec`.
fn resource<T: for<'a> Deserialize<'a> + Default>(node: &Node, faults: &mut Vec<Fault>) -> Option<Resource<T>> {
    top_level(node, ENVELOPE, faults);
    let spec = match node.get("spec") {
        None | Some(Node { value: Value::Null, .. }) => {
            faults.push(Fault {
                code: codes::NOT_A_RESOURCE,
                path: String::new(),
                on_key: false,
                message: "the document has no `spec`".to_owned(),
                help: None,
            });
            None
        }
        Some(spec) => part(spec, "spec", faults),
    };
    assemble(node, spec, faults)
}

/// Reads a document whose fields stand beside `metadata`.
fn without_spec<T: for<'a> Deserialize<'a> + Default>(node: &Node, faults: &mut Vec<Fault>) -> Option<Resource<T>> {
    let Value::Map(entries) = &node.value else { return None };
    let own = entries.iter().filter(|(key, _)| !ENVELOPE.contains(&key.text.as_str())).cloned().collect();
    let spec = Node { at: node.at.clone(), value: Value::Map(own) };
    let (spec, found) = reader::read(&spec, &Path::root());
    faults.extend(found);
    assemble(node, spec, faults)
}

fn assemble<T>(node: &Node, spec: Option<T>, faults: &mut Vec<Fault>) -> Option<Resource<T>> {
    let text = |key: &str| node.get(key).and_then(Node::text).unwrap_or_default().to_owned();
    let metadata: Option<Metadata> = match node.get("metadata") {
        Some(metadata) => part(metadata, "metadata", faults),
        None => Some(Metadata::default()),
    };
    let status: Option<Status> = match node.get("status") {
        Some(Node { value: Value::Null, .. }) | None => None,
        Some(status) => part(status, "status", faults),
    };
    Some(Resource { api_version: text("apiVersion"), kind: text("kind"), metadata: metadata?, spec: spec?, status })
}

fn part<T: for<'a> Deserialize<'a>>(node: &Node, key: &str, faults: &mut Vec<Fault>) -> Option<T> {
    let (value, found) = reader::read(node, &Path::root().key(key));
    faults.extend(found);
    value
}

fn top_level(node: &Node, known: &[&str], faults: &mut Vec<Fault>) {
    let Value::Map(entries) = &node.value else { return };
    for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.text.as_str())) {
        let help = match closest(&key.text, known) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "a document has `apiVersion`, `kind`, `metadata` and `spec`".to_owned(),
        };
        faults.push(Fault {
            code: codes::UNKNOWN_FIELD,
            path: Path::root().key(&key.text).to_string(),
            on_key: true,
            message: format!("there is no field `{}` here", key.text),
            help: Some(help),
        });
    }
}

/// Which resource a document is about, as far as it says.
pub(super) fn identify(node: &Node) -> ResourceId {
    let of =
        |outer: Option<&Node>, key: &str| outer.and_then(|node| node.get(key)).and_then(Node::text).map(str::to_owned);
    let metadata = node.get("metadata");
    ResourceId {
        kind: of(Some(node), "kind").unwrap_or_default(),
        namespace: of(metadata, "namespace")
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| defaults::NAMESPACE.into()),
        name: of(metadata, "name").unwrap_or_default(),
    }
}

/// Names end up in file names and logs, so they are plain words. Kubernetes would also refuse capitals and `_`; rules in
/// files have them.
fn name_faults(node: &Node, faults: &mut Vec<Fault>) {
    let id = identify(node);
    let mut fault = |path: &str, message: String, help: &str| {
        let path = path.to_owned();
        faults.push(Fault { code: codes::RESOURCE_NAME, path, on_key: false, message, help: Some(help.to_owned()) });
    };
    if id.name.is_empty() {
        fault("metadata", "the resource has no name".to_owned(), "add `metadata.name`");
    } else if !is_plain_name(&id.name) {
        let message = format!("`{}` is not a name of a resource", id.name);
        fault("metadata.name", message, "use letters, digits, `-`, `_` and `.`");
    }
    if !is_dns_label(&id.namespace) {
        let message = format!("`{}` is not a name of a namespace", id.namespace);
        fault("metadata.namespace", message, "use small letters, digits and `-`");
    }
}

fn is_plain_name(text: &str) -> bool {
    text.len() <= 253
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A label of a host name in small letters (RFC 1123).
pub(crate) fn is_dns_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    text.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}
