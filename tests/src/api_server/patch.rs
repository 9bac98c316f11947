//! The three kinds of patch that change what is there: JSON patch (RFC 6902), JSON merge patch (RFC 7396) and
//! Kubernetes' strategic merge patch, which merges some lists by a key.

use json_patch::Patch;
use serde_json::{Map, Value};

use super::kinds::Kind;
use super::request::Request;
use super::status::Status;

/// The patches that are understood.
const ACCEPTED: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Keys by which a strategic merge patch merges lists: those fields of Kubernetes' own kinds that the tests of a mesh
/// meet. Every other list is replaced.
const MERGED_BY: [(&str, &str); 13] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("volumeMounts", "mountPath"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("conditions", "type"),
    ("ownerReferences", "uid"),
    ("webhooks", "name"),
    ("secrets", "name"),
    ("podIPs", "ip"),
    ("addresses", "type"),
    ("ports", "containerPort"),
];

/// A change to whatever an object is now.
#[derive(Debug)]
pub(super) enum Change {
    /// Operations.
    Json(Patch),
    /// A partial object.
    Merge(Value),
    /// A partial object, with lists that are merged.
    Strategic(Value),
}

impl Change {
    /// Of a body, by its content type.
    pub(super) fn of(request: &Request) -> Result<Self, Status> {
        let unreadable = |error: serde_json::Error| Status::bad_request(format!("error decoding patch: {error}"));
        let body = &request.body;
        match request.content_type() {
            "application/json-patch+json" => serde_json::from_slice(body).map(Self::Json).map_err(unreadable),
            "application/merge-patch+json" => serde_json::from_slice(body).map(Self::Merge).map_err(unreadable),
            "application/strategic-merge-patch+json" if !request.kind.is_defined() => {
                serde_json::from_slice(body).map(Self::Strategic).map_err(unreadable)
            }
            other => Err(Status::unsupported_media_type(other, &ACCEPTED)),
        }
    }

    /// The object after it.
    pub(super) fn apply(&self, old: &Value, kind: &Kind) -> Result<Value, Status> {
        let mut object = old.clone();
        match self {
            Self::Json(patch) => json_patch::patch(&mut object, patch).map_err(|error| {
                let message = format!("the server rejected our request due to an error in our request: {error}");
                let code = http::StatusCode::UNPROCESSABLE_ENTITY;
                Status::new(code, "Invalid", message)
                    .with_details(serde_json::json!({"kind": kind.plural, "group": kind.group}))
            })?,
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Strategic(patch) => merge_strategically(&mut object, patch),
        }
        Ok(object)
    }

    /// Whether it is meant for one version alone.
    pub(super) fn names_a_version(&self) -> bool {
        match self {
            Self::Json(_) => false,
            Self::Merge(patch) | Self::Strategic(patch) => !patch["metadata"]["resourceVersion"].is_null(),
        }
    }
}

fn merge_strategically(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if patch.get("$patch").is_some_and(|directive| directive == "replace") {
        let mut whole = patch.clone();
        whole.remove("$patch");
        *object = Value::Object(whole);
        return;
    }
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Some(fields) = object.as_object_mut() else { return };
    for (name, change) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        let key = MERGED_BY.iter().find(|(list, _)| list == name).map(|(_, key)| *key);
        match (change, key) {
            (Value::Null, _) => drop(fields.remove(name)),
            (Value::Array(changes), Some(key)) if changes.iter().all(|change| change.get(key).is_some()) => {
                let list = fields.entry(name.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().into_iter().for_each(|list| merge_list(list, changes, key));
            }
            (Value::Object(_), _) => merge_strategically(fields.entry(name.as_str()).or_insert(Value::Null), change),
            (other, _) => drop(fields.insert(name.clone(), other.clone())),
        }
    }
}

fn merge_list(list: &mut Vec<Value>, changes: &[Value], key: &str) {
    for change in changes {
        let position = list.iter().position(|item| item[key] == change[key]);
        let is_deletion = change.get("$patch").is_some_and(|directive| directive == "delete");
        match (position, is_deletion) {
            (Some(position), true) => drop(list.remove(position)),
            (None, true) => {}
            (Some(position), false) => {
                list.get_mut(position).into_iter().for_each(|item| merge_strategically(item, change));
            }
            (None, false) => {
                let mut item = Value::Null;
                merge_strategically(&mut item, change);
                list.push(item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_strategic_patch_merges_lists_by_their_keys() {
        let old = json!({"spec": {
            "containers": [{"name": "app", "image": "a:1"}, {"name": "old", "image": "o"}],
            "tolerations": [{"key": "a"}],
            "nodeName": "n1",
        }});
        for (patch, expected) in [
            (
                json!({"spec": {"containers": [{"name": "app", "image": "a:2"}, {"name": "old", "$patch": "delete"}]}}),
                json!([{"name": "app", "image": "a:2"}]),
            ),
            (
                json!({"spec": {"containers": [{"name": "proxy", "image": "p"}]}}),
                json!([{"name": "app", "image": "a:1"}, {"name": "old", "image": "o"}, {"name": "proxy", "image": "p"}]),
            ),
        ] {
            let mut object = old.clone();
            merge_strategically(&mut object, &patch);
            assert_eq!(object["spec"]["containers"], expected, "{patch}");
        }
        let mut object = old.clone();
        merge_strategically(&mut object, &json!({"spec": {"tolerations": [{"key": "b"}], "nodeName": null}}));
        assert_eq!(object["spec"]["tolerations"], json!([{"key": "b"}]));
        assert!(object["spec"].get("nodeName").is_none());
    }
}
