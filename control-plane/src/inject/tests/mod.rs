//! Tables and properties of injection.

mod admission;
mod annotations;
mod decisions;
mod files;
mod pods;
mod properties;

use serde_json::{Value, json};

use super::{Default, Injection, Marks, Problems, Purpose, Settings, Surroundings, inject};

/// In a cluster silence means no; here most pods ask for nothing.
fn settings() -> Settings {
    Settings { default: Default::Inject, ..Settings::default() }
}

/// A pod with one container, `app`.
fn pod() -> Value {
    json!({
        "metadata": { "labels": { "app": "reviews", "version": "v1" } },
        "spec": { "containers": [{ "name": "app", "image": "reviews:1" }] },
    })
}

/// [`pod`] with these annotations.
fn annotated(annotations: &[(&str, &str)]) -> Value {
    let mut pod = pod();
    pod["metadata"]["annotations"] = annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    pod
}

fn inject_with(pod: &Value, settings: &Settings) -> Result<Injection, Problems> {
    let marks = Marks::default();
    let around = Surroundings { namespace: "shop", marks: &marks, workload: "reviews", purpose: Purpose::Serves };
    inject(pod, &around, settings)
}

/// The pod with a sidecar, which it has to get.
fn injected(pod: &Value) -> Value {
    inject_with(pod, &settings()).expect("it can be injected").changed.expect("it is injected")
}

/// The container `name` of either list.
fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
    let mut found = lists.flatten().filter(|container| container["name"] == name);
    found.next().unwrap_or_else(|| panic!("no container {name} in {pod:#}"))
}

/// A variable of the sidecar.
fn variable(pod: &Value, name: &str) -> Option<String> {
    let variables = container(pod, "leno-proxy")["env"].as_array().expect("it has variables");
    let found = variables.iter().find(|variable| variable["name"] == name)?;
    Some(found["value"].as_str().map_or_else(|| found["valueFrom"]["fieldRef"]["fieldPath"].to_string(), str::to_owned))
}

/// Names of a list of the specification.
fn names(pod: &Value, list: &str) -> Vec<String> {
    let entries = pod["spec"][list].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| entry["name"].as_str().unwrap_or_default().to_owned()).collect()
}
