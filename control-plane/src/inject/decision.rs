//! Whether a pod gets a sidecar, and who says so.
//!
//! A pod's word counts more than its namespace's, a name of ours more than one of Istio's, a label more than an annotation.
//! What no label can change comes first: the control plane's own namespace and Kubernetes' are left alone, and a pod in its
//! node's network has no traffic of its own to capture. Last of all, wherever the answer would be yes: a pod whose
//! traffic another mesh takes already is refused, because two sidecars redirect each other's traffic forever.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::marks::{Mark, Marks, Place};
use super::names::{INJECT, ISTIO_INJECT, ISTIO_NAMESPACE, ISTIO_REVISION};
use super::others::Taken;
use super::problem::Problem;
use super::settings::{Default, IstioNames, Settings};

/// Whether a pod gets a sidecar, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It does.
    Inject(Asked),
    /// It does not.
    Skip(Skipped),
}

/// Why a pod gets a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A label or annotation asks for it.
    By(Mark),
    /// Nothing says anything, and that means yes here ([`Default::Inject`]).
    ByDefault,
}

/// Why a pod gets no sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Skipped {
    /// A label or annotation says no.
    By(Mark),
    /// Nothing says anything, and that means no here ([`Default::Skip`]).
    ByDefault,
    /// The namespace belongs to Kubernetes.
    SystemNamespace(String),
    /// The namespace is the control plane's own.
    OwnNamespace(String),
    /// The pod is in its node's network: redirecting its traffic would redirect the node's.
    HostNetwork,
    /// The pod runs on Windows, where nothing redirects.
    Windows,
    /// Another mesh injects here.
    OtherInjector {
        /// Which.
        who: &'static str,
        /// By which label or annotation.
        mark: Mark,
    },
    /// The API server calls another mesh's injector for the pod.
    OtherWebhook {
        /// Which mesh's.
        who: &'static str,
        /// Name of its MutatingWebhookConfiguration.
        configuration: String,
    },
    /// The pod has the sidecar of another mesh.
    OtherSidecar {
        /// Which mesh.
        who: &'static str,
        /// Name of its container.
        container: String,
    },
}

/// What a label or annotation says about injection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Word {
    Yes,
    No,
    /// Another revision of the control plane, or another control plane.
    OtherRevision,
}

/// Another mesh's opt-in: its name, the key, and the values that mean yes.
const OTHER_INJECTORS: [(&str, &str, &[&str]); 5] = [
    ("Linkerd", "linkerd.io/inject", &["enabled", "ingress"]),
    ("Istio's ambient mode", "istio.io/dataplane-mode", &["ambient"]),
    ("Consul", "consul.hashicorp.com/connect-inject", &["true"]),
    ("Kuma", "kuma.io/sidecar-injection", &["enabled", "true"]),
    ("Open Service Mesh", "openservicemesh.io/sidecar-injection", &["enabled", "true", "yes"]),
];

/// Containers by which the sidecars of other meshes are known.
const OTHER_SIDECARS: [(&str, &str); 4] =
    [("Istio", "istio-proxy"), ("Linkerd", "linkerd-proxy"), ("Consul", "consul-dataplane"), ("Kuma", "kuma-sidecar")];

/// Decides for a pod in `namespace`, whose labels and annotations are `outer`; `pod` are the pod's own and `spec` its
/// specification. An error is a value that means neither yes nor no.
pub(super) fn decide(
    spec: &Value,
    pod: &Marks,
    namespace: &str,
    outer: &Marks,
    settings: &Settings,
) -> Result<Decision, Problem> {
    if namespace == settings.own_namespace {
        return Ok(Decision::Skip(Skipped::OwnNamespace(namespace.to_owned())));
    }
    if settings.ignored_namespaces.contains(namespace) {
        return Ok(Decision::Skip(Skipped::SystemNamespace(namespace.to_owned())));
    }
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Ok(Decision::Skip(Skipped::HostNetwork));
    }
    if is_windows(spec) {
        return Ok(Decision::Skip(Skipped::Windows));
    }
    let word = match pod_says(pod, settings)? {
        None => namespace_says(outer, settings)?,
        said => said,
    };
    Ok(match (word, settings.default) {
        (Some((Word::No, mark)), _) => Decision::Skip(Skipped::By(mark)),
        (Some((Word::OtherRevision, mark)), _) => {
            Decision::Skip(Skipped::OtherInjector { who: "another revision of the control plane", mark })
        }
        (None, Default::Skip) => Decision::Skip(Skipped::ByDefault),
        (Some((Word::Yes, mark)), _) => unless_taken(Asked::By(mark), spec, pod, (namespace, outer), settings),
        (None, Default::Inject) => unless_taken(Asked::ByDefault, spec, pod, (namespace, outer), settings),
    })
}

/// Yes, unless another mesh has the pod.
fn unless_taken(
    asked: Asked,
    spec: &Value,
    pod: &Marks,
    (namespace, outer): (&str, &Marks),
    settings: &Settings,
) -> Decision {
    if let Some((who, container)) = other_sidecar(spec) {
        return Decision::Skip(Skipped::OtherSidecar { who, container });
    }
    if let Some((who, mark)) = other_injector(pod, outer, settings) {
        return Decision::Skip(Skipped::OtherInjector { who, mark });
    }
    match settings.others.taking(&pod.labels, namespace, &outer.labels) {
        Some(Taken { who, configuration }) => {
            Decision::Skip(Skipped::OtherWebhook { who, configuration: configuration.to_owned() })
        }
        None => Decision::Inject(asked),
    }
}

/// Our own name, then Istio's; each as a label, then as an annotation; then Istio's revision.
fn pod_says(pod: &Marks, settings: &Settings) -> Result<Option<(Word, Mark)>, Problem> {
    let places = (Place::PodLabel, Place::PodAnnotation);
    said(pod, [INJECT, ISTIO_INJECT], places, settings)
}

/// As [`pod_says`]. Istio's own order: `istio-injection` counts more than a revision.
fn namespace_says(outer: &Marks, settings: &Settings) -> Result<Option<(Word, Mark)>, Problem> {
    let places = (Place::NamespaceLabel, Place::NamespaceAnnotation);
    said(outer, [INJECT, ISTIO_NAMESPACE], places, settings)
}

fn said(
    marks: &Marks,
    keys: [&str; 2],
    (label, annotation): (Place, Place),
    settings: &Settings,
) -> Result<Option<(Word, Mark)>, Problem> {
    // Istio takes an empty value for none.
    let mut found =
        keys.into_iter().flat_map(|key| marks.both(key, label, annotation)).filter(|mark| !mark.value.is_empty());
    match found.next() {
        Some(mark) => word(&mark).map(|word| Some((word, mark))),
        None => Ok(marks.label(ISTIO_REVISION, label).map(|mark| (revision_word(&mark, settings), mark))),
    }
}

/// `enabled` and `disabled`, and the truth values of YAML 1.1 as Istio reads them, in any case. Istio takes everything else
/// for no; a typing mistake that silently leaves a pod outside the mesh is the worse surprise.
fn word(mark: &Mark) -> Result<Word, Problem> {
    match mark.value.to_ascii_lowercase().as_str() {
        "enabled" | "y" | "yes" | "true" | "on" => Ok(Word::Yes),
        "disabled" | "n" | "no" | "false" | "off" => Ok(Word::No),
        _ => Err(Problem::value(mark, "is neither `enabled` nor `disabled` (nor `true` or `false`)")),
    }
}

fn revision_word(mark: &Mark, settings: &Settings) -> Word {
    match mark.value == settings.revision {
        true => Word::Yes,
        false => Word::OtherRevision,
    }
}

fn other_sidecar(spec: &Value) -> Option<(&'static str, String)> {
    let lists = ["containers", "initContainers"].into_iter().filter_map(|list| spec.get(list)?.as_array());
    let mut names = lists.flatten().filter_map(|container| container.get("name")?.as_str());
    names.find_map(|name| {
        let (who, _) = OTHER_SIDECARS.iter().find(|(_, container)| *container == name)?;
        Some((*who, name.to_owned()))
    })
}

/// A pod that opts out of the other mesh is not taken by it, whatever its namespace says.
fn other_injector(pod: &Marks, outer: &Marks, settings: &Settings) -> Option<(&'static str, Mark)> {
    let others = OTHER_INJECTORS.iter().find_map(|(who, key, values)| {
        let mark = pod
            .both(key, Place::PodLabel, Place::PodAnnotation)
            .chain(outer.both(key, Place::NamespaceLabel, Place::NamespaceAnnotation))
            .next()?;
        values.contains(&mark.value.as_str()).then_some((*who, mark))
    });
    others.or_else(|| match settings.istio_names {
        IstioNames::Ours => None,
        IstioNames::Istios => istio(pod, outer).map(|mark| ("Istio", mark)),
    })
}

/// The label or annotation by which Istio's injector would take the pod.
fn istio(pod: &Marks, outer: &Marks) -> Option<Mark> {
    let mark = pod
        .both(ISTIO_INJECT, Place::PodLabel, Place::PodAnnotation)
        .chain(pod.label(ISTIO_REVISION, Place::PodLabel))
        .chain(outer.both(ISTIO_NAMESPACE, Place::NamespaceLabel, Place::NamespaceAnnotation))
        .chain(outer.label(ISTIO_REVISION, Place::NamespaceLabel))
        .find(|mark| !mark.value.is_empty())?;
    let takes = mark.key == ISTIO_REVISION || matches!(word(&mark), Ok(Word::Yes));
    takes.then_some(mark)
}

fn is_windows(spec: &Value) -> bool {
    let named = |pointer| spec.pointer(pointer).and_then(Value::as_str);
    [named("/os/name"), named("/nodeSelector/kubernetes.io~1os")].contains(&Some("windows"))
}

impl Decision {
    /// Whether there will be a sidecar.
    pub(crate) fn injects(&self) -> bool {
        match self {
            Self::Inject(_) => true,
            Self::Skip(_) => false,
        }
    }

    /// The label or annotation that decided, if one did.
    pub(crate) fn mark(&self) -> Option<&Mark> {
        match self {
            Self::Inject(Asked::By(mark)) | Self::Skip(Skipped::By(mark) | Skipped::OtherInjector { mark, .. }) => {
                Some(mark)
            }
            Self::Inject(Asked::ByDefault)
            | Self::Skip(
                Skipped::ByDefault
                | Skipped::SystemNamespace(_)
                | Skipped::OwnNamespace(_)
                | Skipped::HostNetwork
                | Skipped::Windows
                | Skipped::OtherWebhook { .. }
                | Skipped::OtherSidecar { .. },
            ) => None,
        }
    }
}

/// The reason, in words that go behind "injected:" or "not injected:".
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inject(Asked::By(mark)) | Self::Skip(Skipped::By(mark)) => write!(f, "{mark} says so"),
            Self::Inject(Asked::ByDefault) => f.write_str("nothing says otherwise"),
            Self::Skip(skipped) => skipped.fmt(f),
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By(mark) => write!(f, "{mark} says so"),
            Self::ByDefault => {
                write!(f, "neither the pod nor its namespace asks for it; label the namespace with {INJECT}=enabled")
            }
            Self::SystemNamespace(name) => write!(f, "the namespace {name} is Kubernetes' own"),
            Self::OwnNamespace(name) => write!(f, "the namespace {name} is the control plane's own"),
            Self::HostNetwork => f.write_str(
                "the pod is in its node's network (hostNetwork: true), where redirecting would redirect the node",
            ),
            Self::Windows => f.write_str("the pod runs on Windows, where traffic cannot be redirected"),
            Self::OtherInjector { who, mark } => {
                write!(f, "{who} injects here, because {mark} says so; remove it, or opt this pod out of it")
            }
            Self::OtherWebhook { who, configuration } => write!(
                f,
                "{who} injects here: its webhooks (MutatingWebhookConfiguration {configuration}) select the pod; take its \
                 label away, or opt this pod out of it"
            ),
            Self::OtherSidecar { who, container } => {
                write!(f, "the pod has the sidecar of {who} (container {container}) already")
            }
        }
    }
}
