//! Where pods stand in what people write: in Pods themselves, and in everything that makes pods.

use serde_json::Value;

/// A pod, or a template of pods, in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// `Deployment`, `CronJob`, ….
    pub(crate) kind: String,
    /// Its name, or how it begins.
    pub(crate) name: String,
    /// Its namespace, where it says one.
    pub(crate) namespace: Option<String>,
    /// JSON pointer to `metadata` and `spec` of the pod.
    pub(crate) template: String,
    /// Whether its pods are meant to end.
    pub(crate) purpose: Purpose,
}

/// What pods are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// They run until somebody stops them.
    Serves,
    /// They end when their work is done.
    Ends,
}

/// Group (a core kind has none), kind, and where the pod stands in it.
const KINDS: [(&str, &str, &str); 16] = [
    ("", "Pod", ""),
    ("", "PodTemplate", "/template"),
    ("", "ReplicationController", "/spec/template"),
    ("apps", "Deployment", "/spec/template"),
    ("apps", "StatefulSet", "/spec/template"),
    ("apps", "DaemonSet", "/spec/template"),
    ("apps", "ReplicaSet", "/spec/template"),
    ("extensions", "Deployment", "/spec/template"),
    ("extensions", "DaemonSet", "/spec/template"),
    ("extensions", "ReplicaSet", "/spec/template"),
    ("batch", "Job", "/spec/template"),
    ("batch", "CronJob", "/spec/jobTemplate/spec/template"),
    ("apps.openshift.io", "DeploymentConfig", "/spec/template"),
    ("argoproj.io", "Rollout", "/spec/template"),
    ("apps.kruise.io", "CloneSet", "/spec/template"),
    ("apps.kruise.io", "StatefulSet", "/spec/template"),
];

/// How many lists may stand in lists.
const MAX_DEPTH: usize = 4;

/// All pods and templates of pods in a document, those in a List too.
pub(crate) fn find(document: &Value) -> Vec<Owner> {
    let mut owners = Vec::new();
    gather(document, "", MAX_DEPTH, &mut owners);
    owners
}

fn gather(document: &Value, at: &str, depth: usize, owners: &mut Vec<Owner>) {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let (Some(kind), Some(version)) = (text("/kind"), text("/apiVersion")) else { return };
    if kind.ends_with("List") {
        let items = document.get("items").and_then(Value::as_array).filter(|_| depth > 0);
        for (index, item) in items.into_iter().flatten().enumerate() {
            gather(item, &format!("{at}/items/{index}"), depth - 1, owners);
        }
        return;
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let known = KINDS.iter().find(|(known_group, known, _)| *known_group == group && *known == kind);
    let Some((_, _, template)) = known.filter(|(_, _, template)| document.pointer(template).is_some()) else { return };
    owners.push(Owner {
        kind: kind.to_owned(),
        name: text("/metadata/name").or(text("/metadata/generateName")).unwrap_or_default().to_owned(),
        namespace: text("/metadata/namespace").map(str::to_owned),
        template: format!("{at}{template}"),
        purpose: match kind {
            "Job" | "CronJob" => Purpose::Ends,
            _ => Purpose::Serves,
        },
    });
}

/// What made a pod, by its `metadata`, and whether it ends. Deployments and CronJobs make pods by way of a ReplicaSet or a
/// Job, whose name is theirs with something behind.
pub(super) fn of_pod(metadata: &Value) -> (String, Purpose) {
    let text = |pointer: &str| metadata.pointer(pointer).and_then(Value::as_str);
    let controller = metadata.get("ownerReferences").and_then(|owners| {
        let mut owners = owners.as_array()?.iter();
        owners.find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
    });
    let named = controller.and_then(|owner| Some((owner.get("kind")?.as_str()?, owner.get("name")?.as_str()?)));
    match named {
        Some(("ReplicaSet", name)) => {
            let hash = text("/labels/pod-template-hash").unwrap_or_default();
            let deployment = name.strip_suffix(hash).and_then(|name| name.strip_suffix('-'));
            (deployment.filter(|_| !hash.is_empty()).unwrap_or(name).to_owned(), Purpose::Serves)
        }
        Some(("Job", name)) => (cron_job(name).unwrap_or(name).to_owned(), Purpose::Ends),
        Some((_, name)) => (name.to_owned(), Purpose::Serves),
        None => {
            let name = text("/name").filter(|name| !name.is_empty());
            let begins = text("/generateName").map(|name| name.trim_end_matches('-'));
            (name.or(begins).unwrap_or_default().to_owned(), Purpose::Serves)
        }
    }
}

/// A CronJob's Jobs have the minute for which they are behind their name.
fn cron_job(job: &str) -> Option<&str> {
    let (name, minute) = job.rsplit_once('-')?;
    let is_minute = minute.len() >= 8 && minute.bytes().all(|digit| digit.is_ascii_digit());
    is_minute.then_some(name)
}
