//! `create`, `update`, `patch`, `delete`: everything that makes a new version of an object.
//!
//! The order is the real server's: the object is read and defaulted, admission may change it, it is prepared and
//! checked, admission may refuse it, and it is stored if nobody was faster. A write that changes nothing makes no new
//! version and no event.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::lifecycle::{self, Deletion};
use super::patch;
use super::read::Form;
use super::request::Request;
use super::state::{State, World, timestamp};
use super::status::Status;
use super::store::ObjectKey;

/// How often a write without a version is tried again when somebody else is faster.
const ATTEMPTS: usize = 16;

/// What a write answers.
pub(super) type Answer = Result<(StatusCode, Value), Status>;

/// Makes an object.
pub(super) async fn create(state: &Arc<State>, request: &Request) -> Answer {
    let mut object = request.object()?;
    address(request, &mut object)?;
    if object["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let stored = insert(state, request, object).await?;
    Ok((StatusCode::CREATED, Form::of(request).one(&stored)))
}

/// Replaces an object, or its status.
pub(super) async fn update(state: &Arc<State>, request: &Request) -> Answer {
    let mut object = request.object()?;
    address(request, &mut object)?;
    if object["metadata"]["name"] != request.name.as_str() {
        let (given, path) = (&object["metadata"]["name"], &request.name);
        let why = format!("the name of the object ({given}) does not match the name on the URL ({path})");
        return Err(Status::bad_request(why));
    }
    let old = current(state, request)?;
    let stored = replace(state, request, &old, object)?;
    Ok((StatusCode::OK, Form::of(request).one(&stored)))
}

/// Changes an object in part; tried again while others change it, unless the patch names a version.
pub(super) async fn patch(state: &Arc<State>, request: &Request) -> Answer {
    let change = patch::Change::of(request)?;
    for _ in 0..ATTEMPTS {
        let old = current(state, request)?;
        let mut object = change.apply(&old, &request.kind)?;
        address(request, &mut object)?;
        match replace(state, request, &old, object) {
            Err(status) if status.reason == "Conflict" && !change.names_a_version() => {}
            answer => return answer.map(|stored| (StatusCode::OK, Form::of(request).one(&stored))),
        }
    }
    Err(Status::conflict(&request.kind, &request.name, lifecycle::MODIFIED))
}

/// Deletes an object, now or when it has ended.
pub(super) async fn delete(state: &Arc<State>, request: &Request) -> Answer {
    let options = match request.body.is_empty() {
        true => json!({}),
        false => request.object()?,
    };
    let key = key(request);
    let deleted = remove(state, request, &key, &options)?;
    Ok((StatusCode::OK, deleted))
}

/// Deletes what is selected.
pub(super) async fn delete_collection(state: &Arc<State>, request: &Request) -> Answer {
    let selector = request.selector()?;
    let objects = state.world().store.objects(&request.kind.key());
    let mut items = Vec::new();
    for (key, object) in objects {
        let is_here = request.namespace.is_empty() || key.namespace == request.namespace;
        if is_here && selector.matches(&object) {
            items.push(Form::of(request).one(&object));
            remove(state, request, &key, &json!({}))?;
        }
    }
    let version = state.world().store.version().to_string();
    let api_version = request.kind.api_version(&request.version);
    let kind = format!("{}List", request.kind.kind);
    let list =
        json!({"kind": kind, "apiVersion": api_version, "metadata": {"resourceVersion": version}, "items": items});
    Ok((StatusCode::OK, list))
}

/// Checks that an object is of the kind and in the namespace that the path says, and fills in what it leaves out.
fn address(request: &Request, object: &mut Value) -> Result<(), Status> {
    let expected = (request.kind.api_version(&request.version), request.kind.kind.as_str());
    for (field, expected) in [("apiVersion", expected.0.as_str()), ("kind", expected.1)] {
        let given = object[field].as_str().unwrap_or_default();
        if !given.is_empty() && given != expected {
            let why = format!("the {field} in the data ({given}) does not match the expected {field} ({expected})");
            return Err(Status::bad_request(why));
        }
        object[field] = json!(expected);
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if !request.kind.is_namespaced() {
        return Ok(());
    }
    let given = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if request.namespace.is_empty() {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    }
    if !given.is_empty() && given != request.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the \
             request",
        ));
    }
    object["metadata"]["namespace"] = json!(request.namespace);
    Ok(())
}

/// Stores a new object.
async fn insert(state: &Arc<State>, request: &Request, mut object: Value) -> Result<Arc<Value>, Status> {
    let kind = &request.kind;
    namespace_is_open(state, request)?;
    let name = name(state, request, &object)?;
    lifecycle::begin(kind, &mut object, &timestamp(state.now()), &state.uuid());
    object["metadata"]["name"] = json!(name);
    let key = ObjectKey::of(&object);
    state.change(|world| {
        if world.store.get(&kind.key(), &key).is_some() {
            return Err(Status::already_exists(kind, &name));
        }
        if request.is_dry_run() {
            return Ok(Arc::new(object));
        }
        Ok(world.store.put(&kind.key(), object))
    })
}

/// Stores an object in place of the one that was read before.
fn replace(state: &Arc<State>, request: &Request, old: &Arc<Value>, mut object: Value) -> Result<Arc<Value>, Status> {
    let kind = &request.kind;
    lifecycle::must_be_current(kind, old, &object)?;
    lifecycle::carry_on(kind, &request.subresource, old, &mut object);
    if lifecycle::is_same(old, &object) {
        return Ok(Arc::clone(old));
    }
    let key = ObjectKey::of(&object);
    state.change(|world| {
        let unchanged = world.store.get(&kind.key(), &key).is_some_and(|now| Arc::ptr_eq(&now, old));
        if !unchanged {
            return Err(Status::conflict(kind, &request.name, lifecycle::MODIFIED));
        }
        if request.is_dry_run() {
            return Ok(Arc::new(object));
        }
        let stored = world.store.put(&kind.key(), object);
        // The last finalizer is gone from an object that waits for nothing else.
        if lifecycle::has_ended(&stored) {
            world.store.remove(&kind.key(), &key);
        }
        Ok(stored)
    })
}

fn remove(state: &Arc<State>, request: &Request, key: &ObjectKey, options: &Value) -> Result<Value, Status> {
    let kind = &request.kind;
    let now = state.now();
    state.change(|world| {
        let old = world.store.get(&kind.key(), key).ok_or_else(|| Status::not_found(kind, &key.name))?;
        lifecycle::meets_preconditions(kind, &old, options)?;
        if request.is_dry_run() {
            return Ok(lifecycle::deleted(kind, &old));
        }
        match lifecycle::deletion(kind, &old, options, now) {
            Deletion::Later(ending) => {
                let ending = if lifecycle::is_same(&old, &ending) { old } else { world.store.put(&kind.key(), ending) };
                Ok(Form::of(request).one(&ending))
            }
            Deletion::AtOnce(ending) => {
                if let Some(ending) = ending {
                    world.store.put(&kind.key(), ending);
                }
                empty_namespace(world, request, key);
                let gone = world.store.remove(&kind.key(), key).unwrap_or(old);
                let is_shown = kind.is("", "pods");
                Ok(if is_shown { Form::of(request).one(&gone) } else { lifecycle::deleted(kind, &gone) })
            }
        }
    })
}

/// What is in a namespace goes with it.
fn empty_namespace(world: &mut World, request: &Request, key: &ObjectKey) {
    if !request.kind.is("", "namespaces") {
        return;
    }
    for kind in world.catalogue.kinds().to_vec() {
        for inside in world.store.objects(&kind.key()).keys().filter(|inside| inside.namespace == key.name) {
            world.store.remove(&kind.key(), inside);
        }
    }
}

fn namespace_is_open(state: &State, request: &Request) -> Result<(), Status> {
    if !request.kind.is_namespaced() {
        return Ok(());
    }
    let world = state.world();
    let Some(namespaces) = world.catalogue.resource("", "v1", "namespaces") else { return Ok(()) };
    let key = ObjectKey { namespace: String::new(), name: request.namespace.clone() };
    match world.store.get(&namespaces.key(), &key) {
        Some(_) => Ok(()),
        None => Err(Status::not_found(&namespaces, &request.namespace)),
    }
}

/// The name of a new object, perhaps generated.
fn name(state: &State, request: &Request, object: &Value) -> Result<String, Status> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    match (text("name"), text("generateName")) {
        ("", "") => {
            let cause = super::status::Cause::required("metadata.name");
            let why = "name or generateName is required".to_owned();
            let cause = super::status::Cause { message: format!("{}: {why}", cause.message), ..cause };
            Err(Status::invalid(&request.kind, "", &[cause]))
        }
        ("", prefix) => Ok(format!("{prefix}{}", state.suffix())),
        (name, _) => Ok(name.to_owned()),
    }
}

fn current(state: &State, request: &Request) -> Result<Arc<Value>, Status> {
    let old = state.world().store.get(&request.kind.key(), &key(request));
    old.ok_or_else(|| Status::not_found(&request.kind, &request.name))
}

fn key(request: &Request) -> ObjectKey {
    ObjectKey { namespace: request.namespace.clone(), name: request.name.clone() }
}
