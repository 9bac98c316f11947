//! Injection: a sidecar into a pod.
//!
//! Pure functions over the pod's JSON, in which whatever this program does not know stays as it is; no client, no clock.
//! The webhook ([`admission()`]), `leno inject` and `leno explain inject` call the same ones, so that what is said offline is
//! what happens in a cluster.
//!
//! 1. [`decision`]: whether, and who says so.
//! 2. [`status`]: what an earlier injection left is taken out first. Injection is *take out, then put in*, and so twice is
//!    once, and other settings replace the ones before.
//! 3. [`knobs`]: what the pod's annotations want differently.
//! 4. [`probes`], [`scrape`]: what the kubelet and Prometheus ask of the app goes through the proxy.
//! 5. [`containers`]: what is put in.
//!
//! The API server calls a webhook a second time when another one has changed the pod, and by then has added defaults and
//! mounts to our containers. So a pod that has everything already is left alone, whatever else it has ([`covers`]).

mod admission;
mod containers;
mod decision;
mod knobs;
pub(crate) mod manifest;
mod marks;
pub(crate) mod names;
mod others;
mod owners;
mod probes;
mod problem;
mod scrape;
mod settings;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::Hasher as _;

use serde_json::{Map, Value, json};

// The webhook calls it.
#[allow(unused_imports)]
pub(crate) use admission::{admission, written};
pub(crate) use decision::Decision;
pub(crate) use marks::{Mark, Marks};
pub(crate) use others::Others;
pub(crate) use owners::{Owner, Purpose};
pub(crate) use problem::Problems;
pub(crate) use settings::{Default, IstioNames, Settings, Sidecar};

use containers::AppFacts;
use knobs::Knobs;
use problem::Problem;
use status::{Before, Status};

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
const DEFAULT_LOGS_CONTAINER: &str = "kubectl.kubernetes.io/default-logs-container";

/// What a pod cannot say about itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// Name of its namespace.
    pub(crate) namespace: &'a str,
    /// The namespace's labels and annotations.
    pub(crate) marks: &'a Marks,
    /// Name of what made it: a Deployment's, a Job's; its own where nothing did.
    pub(crate) workload: &'a str,
    /// Whether it is meant to end.
    pub(crate) purpose: Purpose,
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Injection {
    /// Whether there is a sidecar now, and why.
    pub(crate) decision: Decision,
    /// The pod, or the template of one, if it changed.
    pub(crate) changed: Option<Value>,
    /// What a person had better know.
    pub(crate) warnings: Vec<String>,
}

/// Injects into `template`: an object with `metadata` and `spec` as a Pod or a pod template has them.
pub(crate) fn inject(template: &Value, around: &Surroundings<'_>, settings: &Settings) -> Result<Injection, Problems> {
    let pod = Marks::of_pod(template.get("metadata"))?;
    let spec = template.get("spec").unwrap_or(&Value::Null);
    let decision = decision::decide(spec, &pod, around.namespace, around.marks, settings)?;
    let mut warnings = Vec::new();
    if !decision.injects() {
        warnings.extend(names::unknown(pod.annotations.keys(), "annotation"));
        warnings.extend(names::unknown(pod.labels.keys(), "label"));
        return Ok(Injection { decision, changed: None, warnings });
    }
    let bare = status::take_out(template)?.unwrap_or_else(|| template.clone());
    let mut wanted = put_in(bare, around, settings, &mut warnings)?;
    if covers(template, &wanted) {
        return Ok(Injection { decision, changed: None, warnings });
    }
    keep_mounts(template, &mut wanted);
    Ok(Injection { decision, changed: Some(wanted), warnings })
}

/// Takes the sidecar out of `template` again; `None` where there is none.
pub(crate) fn uninject(template: &Value) -> Result<Option<Value>, Problems> {
    Ok(status::take_out(template)?)
}

/// The pod with a sidecar; `bare` has none.
fn put_in(
    mut bare: Value,
    around: &Surroundings<'_>,
    settings: &Settings,
    warnings: &mut Vec<String>,
) -> Result<Value, Problems> {
    let pod = Marks::of_pod(bare.get("metadata"))?;
    let knobs = Knobs::read(&pod, settings, warnings)?;
    let empty = status::empty_parts(&bare);
    let scrape = match knobs.merge_metrics {
        true => {
            scrape::merge(&pod.annotations, bare.get("spec").unwrap_or(&Value::Null), warnings)?.unwrap_or_default()
        }
        false => scrape::Scrape::default(),
    };
    let spec = bare.get_mut("spec").and_then(Value::as_object_mut).ok_or(Problem::NoContainers)?;
    let app = app_container(spec)?;
    taken(spec, &knobs)?;
    warnings.extend(remarks(spec, &knobs, around));
    let rewritten = if knobs.rewrite_probes { probes::rewrite(spec, warnings) } else { probes::Rewritten::default() };
    let facts = AppFacts { probes: rewritten.asked, metrics: scrape.app };
    let mut status = add(spec, &knobs, settings, &pod, around, &facts);

    let mut annotations = scrape.annotations;
    for key in [DEFAULT_CONTAINER, DEFAULT_LOGS_CONTAINER] {
        if !pod.annotations.contains_key(key) {
            annotations.insert(key.to_owned(), app.clone());
        }
    }
    let before = annotations.keys().map(|key| (key.clone(), pod.annotations.get(key).cloned())).collect();
    status.before = Before { annotations: before, probes: rewritten.originals, empty };
    annotate(&mut bare, annotations, &status);
    Ok(bare)
}

/// Adds containers and volumes.
fn add(
    spec: &mut Map<String, Value>,
    knobs: &Knobs,
    settings: &Settings,
    pod: &Marks,
    around: &Surroundings<'_>,
    facts: &AppFacts,
) -> Status {
    let init: Vec<Value> = containers::init(knobs, settings).into_iter().collect();
    let proxy = containers::proxy(knobs, settings, pod, around, facts);
    let volumes = containers::volumes(knobs, settings);
    let hash = hash(&json!([init, proxy, volumes]));
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: settings.revision.clone(),
        init_containers: init.iter().filter_map(name_of).collect(),
        volumes: volumes.iter().filter_map(name_of).collect(),
        hash,
        ..Status::default()
    };
    let mut first = init;
    match (knobs.sidecar, knobs.hold_application) {
        (Sidecar::Native, _) => {
            status.init_containers.extend(name_of(&proxy));
            first.push(proxy);
        }
        // The kubelet starts containers in their order, each when the one before has done its postStart.
        (Sidecar::Container, hold) => {
            status.containers.extend(name_of(&proxy));
            let containers = list(spec, "containers");
            containers.insert(if hold { 0 } else { containers.len() }, proxy);
        }
    }
    if !first.is_empty() {
        list(spec, "initContainers").splice(0..0, first);
    }
    list(spec, "volumes").extend(volumes);
    status
}

/// Writes annotations and the status.
fn annotate(template: &mut Value, mut annotations: BTreeMap<String, String>, status: &Status) {
    // A status is text and maps of text: there is nothing in it that JSON cannot hold.
    annotations.insert(names::STATUS.to_owned(), json!(status).to_string());
    let Some(template) = template.as_object_mut() else { return };
    let metadata = object(template, "metadata");
    let written = object(metadata, "annotations");
    written.extend(annotations.into_iter().map(|(key, value)| (key, Value::String(value))));
}

/// The container that `kubectl logs` and `exec` mean: the first of the app's.
fn app_container(spec: &Map<String, Value>) -> Result<String, Problem> {
    let first = spec.get("containers").and_then(|containers| containers.as_array()?.first());
    first.and_then(name_of).ok_or(Problem::NoContainers)
}

/// A name of ours that somebody else has.
fn taken(spec: &Map<String, Value>, knobs: &Knobs) -> Result<(), Vec<Problem>> {
    let ours = |list: &str, what: &'static str, names: &[&str]| {
        let entries = spec.get(list).and_then(Value::as_array);
        let found = entries.into_iter().flatten().filter_map(name_of).filter(|name| names.contains(&name.as_str()));
        found.map(|name| Problem::Taken { what, name }).collect::<Vec<_>>()
    };
    let containers = [containers::INIT, containers::PROXY];
    let wanted = knobs.volumes.iter().filter_map(|volume| volume.get("name")?.as_str());
    let own = [containers::TOKEN_VOLUME, containers::ROOT_VOLUME, containers::STATE_VOLUME];
    let volumes: Vec<&str> = own.into_iter().chain(wanted).collect();
    let mut problems = ours("containers", "container", &containers);
    problems.extend(ours("initContainers", "container", &containers));
    problems.extend(ours("volumes", "volume", &volumes));
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// What hinders nothing and will surprise somebody.
fn remarks(spec: &Map<String, Value>, knobs: &Knobs, around: &Surroundings<'_>) -> Vec<String> {
    let mut remarks = Vec::new();
    let is_ours = |context: Option<&Value>| {
        let user = context.and_then(|context| context.get("runAsUser")?.as_u64());
        user == Some(containers::ID.into())
    };
    let containers = spec.get("containers").and_then(Value::as_array).into_iter().flatten();
    if is_ours(spec.get("securityContext")) || containers.clone().any(|app| is_ours(app.get("securityContext"))) {
        let id = containers::ID;
        remarks.push(format!("the app runs as user {id}, which is the sidecar's: its traffic will not be redirected"));
    }
    let ports = containers.filter_map(|container| container.get("ports")?.as_array()).flatten();
    for port in ports.filter_map(|port| port.get("containerPort")?.as_u64()) {
        if [15000, 15001, 15006, 15020, 15021, 15090].contains(&port) {
            remarks.push(format!("the app's port {port} is one of the sidecar's; one of the two will not start"));
        }
    }
    match (knobs.sidecar, around.purpose) {
        (Sidecar::Container, Purpose::Ends) => remarks.push(
            "with the sidecar as a plain container the Job does not end by itself: let the app call `leno-proxy quit` at its end, or use a native sidecar".to_owned(),
        ),
        (Sidecar::Native, _) | (Sidecar::Container, Purpose::Serves) => {}
    }
    remarks
}

/// Whether `actual` has all that `wanted` has. Lists may have more in between: what Kubernetes and other webhooks add.
fn covers(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| actual.get(key).is_some_and(|actual| covers(actual, wanted)))
        }
        (Value::Array(actual), Value::Array(wanted)) => {
            let mut rest = actual.iter();
            wanted.iter().all(|wanted| rest.any(|actual| covers(actual, wanted)))
        }
        (actual, wanted) => actual == wanted,
    }
}

/// Carries over what somebody else mounted into the sidecar of `template`, such as Kubernetes' own service account.
fn keep_mounts(template: &Value, wanted: &mut Value) {
    for list in ["initContainers", "containers"] {
        let Some(old) = template.get("spec").and_then(|spec| spec.get(list)?.as_array()) else { continue };
        let new = wanted.get_mut("spec").and_then(|spec| spec.get_mut(list)?.as_array_mut());
        for container in new.into_iter().flatten() {
            let name = name_of(container);
            if ![containers::INIT, containers::PROXY].map(Some).contains(&name.as_deref()) {
                continue;
            }
            let before =
                old.iter().find(|old| name_of(old) == name).and_then(|old| old.get("volumeMounts")?.as_array());
            let foreign = before.into_iter().flatten().filter(|mount| {
                let volume = name_of(mount).unwrap_or_default();
                ![containers::TOKEN_VOLUME, containers::ROOT_VOLUME, containers::STATE_VOLUME]
                    .contains(&volume.as_str())
            });
            if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                mounts.extend(foreign.cloned());
            }
        }
    }
}

fn name_of(entry: &Value) -> Option<String> {
    entry.get("name").and_then(Value::as_str).map(str::to_owned)
}

/// The list `key`, made where it is missing.
#[expect(clippy::expect_used, reason = "it was made one in the line before")]
fn list<'a>(object: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let entry = object.entry(key).or_insert_with(|| json!([]));
    if !entry.is_array() {
        *entry = json!([]);
    }
    entry.as_array_mut().expect("invariant: it was made one")
}

/// The mapping `key`, made where it is missing.
#[expect(clippy::expect_used, reason = "it was made one in the line before")]
fn object<'a>(object: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let entry = object.entry(key).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    entry.as_object_mut().expect("invariant: it was made one")
}

fn hash(injected: &Value) -> String {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.write(injected.to_string().as_bytes());
    format!("{:016x}", hasher.finish())
}
