//! From an object's first version to its last: what the server itself writes into it, and how it ends.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::kinds::Kind;
use super::state::{State, timestamp};
use super::status::{Cause, Status};

/// Why a write came too late.
pub(super) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// How long a pod has, when nobody says.
const GRACE_SECONDS: i64 = 30;

/// Of `metadata`, what only the server writes.
const SYSTEM: [&str; 6] =
    ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"];

/// Takes away what nobody may write into a new object.
pub(super) fn clean(kind: &Kind, object: &mut Value) {
    for field in SYSTEM {
        remove(&mut object["metadata"], field);
    }
    if kind.has_status {
        remove(object, "status");
        if !kind.is_defined() {
            object["status"] = json!({});
        }
    }
    if kind.is("", "namespaces") {
        object["metadata"]["labels"]["kubernetes.io/metadata.name"] = object["metadata"]["name"].clone();
    }
}

/// Writes what a new object is given.
pub(super) fn begin(kind: &Kind, object: &mut Value, now: &str, uid: &str) {
    object["metadata"]["uid"] = json!(uid);
    object["metadata"]["creationTimestamp"] = json!(now);
    if kind.has_generation {
        object["metadata"]["generation"] = json!(1);
    }
    if kind.is("", "namespaces") {
        object["status"] = json!({"phase": "Active"});
        object["spec"] = json!({"finalizers": ["kubernetes"]});
    }
    if kind.is("", "services") {
        object["status"] = json!({"loadBalancer": {}});
    }
    if kind.is("", "pods") {
        object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
    }
}

/// Makes a namespace that every cluster has.
pub(super) fn found_namespace(state: &State, name: &str) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    found(state, "namespaces", object);
    furnish_namespace(state, name);
}

/// Puts into a namespace what the controllers of a cluster put there: the account that pods run as, and the certificate
/// of the API server.
pub(super) fn furnish_namespace(state: &State, name: &str) {
    let metadata = json!({"name": "default", "namespace": name});
    found(state, "serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}));
    let metadata = json!({"name": "kube-root-ca.crt", "namespace": name});
    let data = json!({"ca.crt": state.ca});
    found(state, "configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}));
}

fn found(state: &State, plural: &str, mut object: Value) {
    let (now, uid) = (timestamp(state.now()), state.uuid());
    state.change(|world| {
        if let Some(kind) = world.catalogue.resource("", "v1", plural) {
            clean(&kind, &mut object);
            begin(&kind, &mut object, &now, &uid);
            world.store.put(&kind.key(), object);
        }
    });
}

/// Refuses a write that is based on another version than the last.
pub(super) fn must_be_current(kind: &Kind, old: &Value, object: &Value) -> Result<(), Status> {
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    let text = |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (given, now) = (text(object, "resourceVersion"), text(old, "resourceVersion"));
    if given.is_empty() {
        let is_conditional = kind.is_defined() || kind.is("coordination.k8s.io", "leases");
        if is_conditional {
            let why = "must be specified for an update";
            let cause = Cause::invalid("metadata.resourceVersion", &json!(0), why);
            return Err(Status::invalid(kind, name, &[cause]));
        }
    } else if given != now {
        return Err(Status::conflict(kind, name, MODIFIED));
    }
    let uid = text(object, "uid");
    if !uid.is_empty() && uid != text(old, "uid") {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", text(old, "uid"));
        return Err(Status::conflict(kind, name, &why));
    }
    Ok(())
}

/// Makes the next version out of the last: what is not to be written by this call stays as it was.
pub(super) fn carry_on(kind: &Kind, subresource: &str, old: &Value, object: &mut Value) {
    for field in SYSTEM.into_iter().chain(["resourceVersion"]) {
        copy(&old["metadata"], &mut object["metadata"], field);
    }
    if subresource == "status" {
        let mut next = old.clone();
        copy(object, &mut next, "status");
        // As in the real server, a status may bring annotations and labels of controllers with it.
        for field in ["annotations", "labels", "managedFields"] {
            if !kind.is_defined() || field == "managedFields" {
                copy(&object["metadata"], &mut next["metadata"], field);
            }
        }
        *object = next;
        return;
    }
    if kind.has_status {
        copy(old, object, "status");
    }
}

/// Counts a change of what is wanted.
pub(super) fn count(kind: &Kind, old: &Value, object: &mut Value) {
    if kind.has_generation && wanted(kind, old) != wanted(kind, object) {
        let generation = old["metadata"]["generation"].as_u64().unwrap_or_default();
        object["metadata"]["generation"] = json!(generation + 1);
    }
}

/// Whether two versions differ in nothing but who wrote them when.
pub(super) fn is_same(old: &Value, new: &Value) -> bool {
    let bare = |object: &Value| {
        let mut bare = object.clone();
        for entry in bare["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
            entry["time"] = Value::Null;
        }
        bare
    };
    bare(old) == bare(new)
}

/// Whether an object that was to be deleted waits for nothing any more.
pub(super) fn has_ended(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let grace = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or_default();
    !metadata["deletionTimestamp"].is_null() && grace == 0 && !has_finalizers(object)
}

/// How an object is deleted.
pub(super) enum Deletion {
    /// Now; a pod is first seen to end.
    AtOnce(Option<Value>),
    /// When its finalizers are gone or its time has come: until then it is as here.
    Later(Value),
}

/// What a `DELETE` does to an object.
pub(super) fn deletion(kind: &Kind, old: &Value, options: &Value, now: OffsetDateTime) -> Deletion {
    let is_pod = kind.is("", "pods");
    let given = options["gracePeriodSeconds"].as_i64();
    let runs = is_pod && old["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let wanted = old["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(GRACE_SECONDS);
    let grace = if runs { given.unwrap_or(wanted).max(0) } else { 0 };
    let waits = grace > 0 || has_finalizers(old);
    if !is_pod && !waits {
        return Deletion::AtOnce(None);
    }
    let mut ending = old.clone();
    let is_first = old["metadata"]["deletionTimestamp"].is_null();
    if is_first || grace == 0 {
        ending["metadata"]["deletionTimestamp"] = json!(timestamp(now + time::Duration::seconds(grace)));
        ending["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    }
    if is_first && kind.has_generation {
        let generation = old["metadata"]["generation"].as_u64().unwrap_or_default();
        ending["metadata"]["generation"] = json!(generation + 1);
    }
    if waits { Deletion::Later(ending) } else { Deletion::AtOnce(Some(ending)) }
}

/// Refuses a deletion whose preconditions do not hold.
pub(super) fn meets_preconditions(kind: &Kind, old: &Value, options: &Value) -> Result<(), Status> {
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    for (field, word) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let (wanted, is) = (&options["preconditions"][field], &old["metadata"][field]);
        if let (Some(wanted), Some(is)) = (wanted.as_str(), is.as_str())
            && wanted != is
        {
            let why = format!("Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {is}");
            return Err(Status::conflict(kind, name, &why));
        }
    }
    Ok(())
}

/// What a deletion answers for most kinds.
pub(super) fn deleted(kind: &Kind, object: &Value) -> Value {
    let mut details =
        json!({"name": object["metadata"]["name"], "kind": kind.plural, "uid": object["metadata"]["uid"]});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}

/// What a generation counts: everything but who, when and how it is.
fn wanted(kind: &Kind, object: &Value) -> Value {
    let mut wanted = object.clone();
    remove(&mut wanted, "metadata");
    if kind.has_status {
        remove(&mut wanted, "status");
    }
    wanted
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => remove(to, field),
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_server::kinds::Catalogue;

    fn kind(group: &str, plural: &str) -> std::sync::Arc<Kind> {
        Catalogue::built_in().resource(group, "v1", plural).unwrap()
    }

    #[test]
    fn a_status_changes_nothing_else_and_a_change_leaves_the_status_alone() {
        let old = json!({
            "metadata": {"name": "a", "uid": "u", "generation": 1, "resourceVersion": "7"},
            "spec": {"replicas": 1},
            "status": {"replicas": 1},
        });
        let deployments = kind("apps", "deployments");
        let mut wanted = json!({"metadata": {"name": "a", "uid": "other"}, "spec": {"replicas": 2}, "status": {}});
        let mut status = wanted.clone();
        carry_on(&deployments, "", &old, &mut wanted);
        count(&deployments, &old, &mut wanted);
        assert_eq!((&wanted["metadata"]["uid"], &wanted["metadata"]["generation"]), (&json!("u"), &json!(2)));
        assert_eq!((&wanted["spec"]["replicas"], &wanted["status"]["replicas"]), (&json!(2), &json!(1)));
        carry_on(&deployments, "status", &old, &mut status);
        count(&deployments, &old, &mut status);
        assert_eq!((&status["spec"]["replicas"], &status["status"]), (&json!(1), &json!({})));
        assert_eq!(status["metadata"]["generation"], 1);
    }

    #[test]
    fn objects_end_at_once_or_when_nothing_holds_them() {
        let now = OffsetDateTime::from_unix_timestamp(0).unwrap();
        let none = json!({});
        let map = json!({"metadata": {"name": "a"}});
        assert!(matches!(deletion(&kind("", "configmaps"), &map, &none, now), Deletion::AtOnce(None)));
        let held = json!({"metadata": {"name": "a", "finalizers": ["x"]}});
        assert!(matches!(deletion(&kind("", "configmaps"), &held, &none, now), Deletion::Later(_)));
        let pods = kind("", "pods");
        let waiting = json!({"metadata": {"name": "a", "generation": 1}, "spec": {}});
        let Deletion::AtOnce(Some(seen)) = deletion(&pods, &waiting, &none, now) else { panic!("it runs nowhere") };
        assert_eq!((&seen["metadata"]["generation"], has_ended(&seen)), (&json!(2), true));
        let running = json!({"metadata": {"name": "a", "generation": 1}, "spec": {"nodeName": "n"}});
        let Deletion::Later(ending) = deletion(&pods, &running, &none, now) else { panic!("it has 30 s") };
        assert_eq!(ending["metadata"]["deletionTimestamp"], "1970-01-01T00:00:30Z");
        let now_please = json!({"gracePeriodSeconds": 0});
        assert!(matches!(deletion(&pods, &ending, &now_please, now), Deletion::AtOnce(Some(_))));
    }
}
