//! Custom resource definitions: creating one makes its kind served, deleting it takes its objects along.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::kinds::{CRDS, DEFINITIONS, Kind, Origin, Scope};
use super::schema;
use super::state::{State, World, timestamp};
use super::status::Cause;

/// Whether a kind is that of the definitions.
pub(super) fn defines(kind: &Kind) -> bool {
    kind.is(DEFINITIONS, CRDS)
}

/// What is wrong with a definition.
pub(super) fn check(definition: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"]));
    if definition["metadata"]["name"] != name {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &definition["metadata"]["name"], why));
    }
    for field in ["group", "names", "scope", "versions"] {
        if spec.get(field).is_none() {
            causes.push(Cause::required(&format!("spec.{field}")));
        }
    }
    let versions = || spec["versions"].as_array().into_iter().flatten();
    if versions().filter(|version| version["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &spec["versions"], why));
    }
    for (index, version) in versions().enumerate() {
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        match version["schema"].get("openAPIV3Schema") {
            Some(schema) => causes.extend(schema::not_structural(schema, &path)),
            None => causes.push(Cause::required(&path)),
        }
    }
    causes
}

/// Serves what a stored definition defines, and says so in its status. Returns the definition with it.
pub(super) fn establish(world: &mut World, now: OffsetDateTime, definition: &Value) -> Value {
    let mut definition = definition.clone();
    let kind = kind(&definition);
    let version = storage_version(&definition);
    let condition = |name: &str, reason: &str, message: &str| {
        json!({
            "type": name,
            "status": "True",
            "lastTransitionTime": timestamp(now),
            "reason": reason,
            "message": message,
        })
    };
    definition["status"] = json!({
        "acceptedNames": definition["spec"]["names"],
        "storedVersions": [version],
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
    world.store.serve(&kind.key());
    world.catalogue.serve(kind);
    definition
}

/// Serves it no more.
pub(super) fn abolish(world: &mut World, definition: &Value) {
    let key = kind(definition).key();
    world.catalogue.stop_serving(&key);
    world.store.stop_serving(&key);
}

/// Waits while a kind is new: the real server lets the first objects wait, so that all its parts know of it.
pub(super) async fn warm_up(state: &Arc<State>, kind: &Kind) {
    let Some(defined) = state.world().catalogue.since(&kind.key()).filter(|_| kind.is_defined()) else { return };
    let left = state.settings.warm_up.saturating_sub(defined.elapsed());
    if left > Duration::ZERO {
        tokio::time::sleep(left).await;
    }
}

fn storage_version(definition: &Value) -> Value {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    versions.into_iter().find(|version| version["storage"] == true).map_or(Value::Null, |stored| stored["name"].clone())
}

fn kind(definition: &Value) -> Kind {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let served = || {
        let versions = spec["versions"].as_array().into_iter().flatten();
        versions.filter(|version| version["served"] != false)
    };
    let singular = match text(&spec["names"]["singular"]) {
        empty if empty.is_empty() => text(&spec["names"]["kind"]).to_lowercase(),
        singular => singular,
    };
    let schemas: BTreeMap<String, Value> =
        served().map(|version| (text(&version["name"]), version["schema"]["openAPIV3Schema"].clone())).collect();
    Kind {
        group: text(&spec["group"]),
        versions: served().map(|version| text(&version["name"])).collect(),
        kind: text(&spec["names"]["kind"]),
        plural: text(&spec["names"]["plural"]),
        singular,
        short_names: spec["names"]["shortNames"].as_array().into_iter().flatten().map(text).collect(),
        scope: if spec["scope"] == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        has_status: served().any(|version| version["subresources"].get("status").is_some()),
        has_generation: true,
        origin: Origin::Defined { schemas },
    }
}
