//! What was injected, written into the pod, and the way back.
//!
//! The annotation `leno.mesh/status` has the shape of Istio's: which containers and volumes are ours, of which revision.
//! Beside that it holds what was there before and would be lost. So a pod can be injected anew with other settings, and
//! `leno uninject` gives back the value that was put in, with nothing but the pod at hand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::names::STATUS;
use super::probes::{self, Originals};
use super::problem::Problem;

/// The annotation `leno.mesh/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    /// Of the program that injected.
    pub(super) version: String,
    /// Of the control plane.
    pub(super) revision: String,
    /// Ours among `initContainers`.
    pub(super) init_containers: Vec<String>,
    /// Ours among `containers`.
    pub(super) containers: Vec<String>,
    /// Ours among `volumes`.
    pub(super) volumes: Vec<String>,
    /// A hash of what was injected: two pods with one were injected alike.
    pub(super) hash: String,
    /// What was there before.
    #[serde(skip_serializing_if = "Before::is_empty")]
    pub(super) before: Before,
}

/// What was in the pod before and is not any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Before {
    /// Annotations that injection sets; `null`: it was not there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, Option<String>>,
    /// Probes that ask the proxy now.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) probes: Originals,
    /// Lists and mappings that were there with nothing in them, by JSON pointer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) empty: BTreeMap<String, Value>,
}

/// What injection adds to, and what [`take_out`] therefore removes when nothing is left in it. From the inside out.
const CONTAINED: [&str; 4] = ["/spec/initContainers", "/spec/volumes", "/metadata/annotations", "/metadata"];

/// The pod as it was before injection; `None` for one that has no sidecar of ours.
pub(super) fn take_out(template: &Value) -> Result<Option<Value>, Problem> {
    let Some(text) = template.get("metadata").and_then(|metadata| metadata.get("annotations")?.get(STATUS)) else {
        return Ok(None);
    };
    let text = text.as_str().ok_or_else(|| Problem::Status("it is not a text".to_owned()))?;
    let status: Status = serde_json::from_str(text).map_err(|error| Problem::Status(error.to_string()))?;
    let mut template = template.clone();
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        remove_named(spec, "initContainers", &status.init_containers);
        remove_named(spec, "containers", &status.containers);
        remove_named(spec, "volumes", &status.volumes);
        probes::restore(spec, &status.before.probes);
    }
    if let Some(annotations) = template.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(STATUS);
        for (key, value) in status.before.annotations {
            match value {
                Some(value) => annotations.insert(key, Value::String(value)),
                None => annotations.remove(&key),
            };
        }
    }
    for pointer in CONTAINED {
        if template.pointer(pointer).is_some_and(is_empty) {
            match status.before.empty.get(pointer) {
                Some(before) => replace(&mut template, pointer, before.clone()),
                None => remove(&mut template, pointer),
            }
        }
    }
    Ok(Some(template))
}

/// What is there with nothing in it, for [`Before::empty`].
pub(super) fn empty_parts(template: &Value) -> BTreeMap<String, Value> {
    let found = CONTAINED.into_iter().filter_map(|pointer| Some((pointer, template.pointer(pointer)?)));
    found.filter(|(_, value)| is_empty(value)).map(|(pointer, value)| (pointer.to_owned(), value.clone())).collect()
}

impl Before {
    fn is_empty(&self) -> bool {
        self.annotations.is_empty() && self.probes.is_empty() && self.empty.is_empty()
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(entries) => entries.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn remove_named(spec: &mut Map<String, Value>, list: &str, names: &[String]) {
    if let Some(entries) = spec.get_mut(list).and_then(Value::as_array_mut) {
        let is_ours = |entry: &Value| {
            let name = entry.get("name").and_then(Value::as_str);
            name.is_some_and(|name| names.iter().any(|ours| ours == name))
        };
        entries.retain(|entry| !is_ours(entry));
    }
}

fn replace(template: &mut Value, pointer: &str, value: Value) {
    if let Some(place) = template.pointer_mut(pointer) {
        *place = value;
    }
}

fn remove(template: &mut Value, pointer: &str) {
    let Some((parent, key)) = pointer.rsplit_once('/') else { return };
    if let Some(parent) = template.pointer_mut(parent).and_then(Value::as_object_mut) {
        parent.remove(key);
    }
}
