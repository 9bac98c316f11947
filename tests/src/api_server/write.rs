//! `create`, `update`, `patch`, `delete`: everything that makes a new version of an object.
//!
//! The order is the real server's: the object is read and defaulted, its fields get their owners, admission may change
//! it, it is prepared and checked, admission may refuse it, and it is stored if nobody was faster. A write that changes
//! nothing makes no new version and no event.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::kinds::{Kind, Origin};
use super::lifecycle::{self, Deletion};
use super::patch::Change;
use super::read::Form;
use super::request::Request;
use super::state::{State, World, timestamp};
use super::status::{Cause, Status};
use super::store::ObjectKey;
use super::{admission, builtin, definitions, fields, schema, tokens};

/// How often a write without a version is tried again when somebody else is faster.
const ATTEMPTS: usize = 16;

/// Of what a name is made (RFC 1123), as the real server says it.
const NOT_A_NAME: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
     and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// What a write answers.
pub(super) type Answer = Result<(StatusCode, Value), Status>;

/// Makes an object; or answers a question that looks like one.
pub(super) async fn create(state: &Arc<State>, request: &Request) -> Answer {
    if request.subresource == "token" {
        return tokens::request(state, request).map(|token| (StatusCode::CREATED, token));
    }
    let mut object = request.object()?;
    address(request, &mut object)?;
    if request.kind.origin == Origin::Question {
        return Ok((StatusCode::CREATED, tokens::review(state, request, object)));
    }
    if object["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    object["metadata"].as_object_mut().into_iter().for_each(|metadata| drop(metadata.remove("managedFields")));
    definitions::warm_up(state, &request.kind).await;
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
    let stored = replace(state, request, &old, object).await?;
    Ok((StatusCode::OK, Form::of(request).one(&stored)))
}

/// Changes an object in part; tried again while others change it, unless the patch names a version.
pub(super) async fn patch(state: &Arc<State>, request: &Request) -> Answer {
    if request.is_apply() {
        return apply(state, request).await;
    }
    let change = Change::of(request)?;
    for _ in 0..ATTEMPTS {
        let old = current(state, request)?;
        let mut object = change.apply(&old, &request.kind)?;
        address(request, &mut object)?;
        match replace(state, request, &old, object).await {
            Err(status) if status.reason == "Conflict" && !change.names_a_version() => {}
            answer => return answer.map(|stored| (StatusCode::OK, Form::of(request).one(&stored))),
        }
    }
    Err(Status::conflict(&request.kind, &request.name, lifecycle::MODIFIED))
}

/// Server-side apply: makes an object, or changes the fields that the caller owns.
async fn apply(state: &Arc<State>, request: &Request) -> Answer {
    let mut applied = request.object()?;
    address(request, &mut applied)?;
    applied["metadata"]["name"] = json!(request.name);
    for _ in 0..ATTEMPTS {
        let old = state.world().store.get(&request.kind.key(), &key(request));
        let object = fields::apply(state, request, old.as_deref(), &applied)?;
        let stored = match &old {
            Some(old) => replace(state, request, old, object).await.map(|stored| (StatusCode::OK, stored)),
            None if !request.subresource.is_empty() => Err(Status::not_found(&request.kind, &request.name)),
            None => insert(state, request, object).await.map(|stored| (StatusCode::CREATED, stored)),
        };
        let names_a_version = !applied["metadata"]["resourceVersion"].is_null();
        match stored {
            Err(status) if matches!(status.reason.as_str(), "Conflict" | "AlreadyExists") && !names_a_version => {}
            answer => return answer.map(|(code, stored)| (code, Form::of(request).one(&stored))),
        }
    }
    Err(Status::conflict(&request.kind, &request.name, lifecycle::MODIFIED))
}

/// Deletes an object, now or when it has ended.
pub(super) async fn delete(state: &Arc<State>, request: &Request) -> Answer {
    let mut options = match request.body.is_empty() {
        true => json!({}),
        false => request.object()?,
    };
    if let Some(grace) = request.query.number("gracePeriodSeconds")? {
        options["gracePeriodSeconds"] = json!(grace);
    }
    let old = current(state, request)?;
    admission::validate(state, request, Some(&old), None).await?;
    let deleted = remove(state, request, &key(request), &options)?;
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
            admission::validate(state, request, Some(&object), None).await?;
            items.push(Form::of(request).one(&object));
            remove(state, request, &key, &json!({}))?;
        }
    }
    let version = state.world().store.version().to_string();
    let list = json!({
        "kind": format!("{}List", request.kind.kind),
        "apiVersion": request.kind.api_version(&request.version),
        "metadata": {"resourceVersion": version},
        "items": items,
    });
    Ok((StatusCode::OK, list))
}

/// Checks that an object is of the kind and in the namespace that the path says, and fills in what it leaves out.
fn address(request: &Request, object: &mut Value) -> Result<(), Status> {
    let expected = (request.kind.api_version(&request.version), request.kind.kind.as_str());
    for (field, expected) in [("apiVersion", expected.0.as_str()), ("kind", expected.1)] {
        let given = object[field].as_str().unwrap_or_default();
        let is_stored = field == "apiVersion"
            && request.kind.versions.iter().any(|version| {
                // A patch starts from what is stored, in whichever version that was written.
                given == request.kind.api_version(version) && !request.is_apply() && request.verb == super::Verb::Patch
            });
        if !given.is_empty() && given != expected && !is_stored {
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
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(why));
    }
    object["metadata"]["namespace"] = json!(request.namespace);
    Ok(())
}

/// Stores a new object.
async fn insert(state: &Arc<State>, request: &Request, mut object: Value) -> Result<Arc<Value>, Status> {
    let kind = &request.kind;
    namespace_is_open(state, request)?;
    lifecycle::clean(kind, &mut object);
    fill_in(state, request, &mut object)?;
    if !request.is_apply() {
        fields::written(state, request, None, &mut object);
    }
    admission::mutate(state, request, None, &mut object).await?;
    let name = name(state, request, &object)?;
    lifecycle::begin(kind, &mut object, &timestamp(state.now()), &state.uuid());
    object["metadata"]["name"] = json!(name);
    check(state, request, &object)?;
    admission::validate(state, request, None, Some(&object)).await?;
    let stored = put(state, request, None, object)?;
    if kind.is("", "namespaces") && !request.is_dry_run() {
        lifecycle::furnish_namespace(state, &name);
    }
    Ok(stored)
}

/// Stores an object in place of the one that was read before.
async fn replace(
    state: &Arc<State>,
    request: &Request,
    old: &Arc<Value>,
    mut object: Value,
) -> Result<Arc<Value>, Status> {
    let kind = &request.kind;
    lifecycle::must_be_current(kind, old, &object)?;
    let managed = object["metadata"]["managedFields"].clone();
    lifecycle::carry_on(kind, &request.subresource, old, &mut object);
    fill_in(state, request, &mut object)?;
    if request.is_apply() {
        object["metadata"]["managedFields"] = managed;
    } else {
        fields::written(state, request, Some(old), &mut object);
    }
    admission::mutate(state, request, Some(old), &mut object).await?;
    lifecycle::count(kind, old, &mut object);
    check(state, request, &object)?;
    admission::validate(state, request, Some(old), Some(&object)).await?;
    if lifecycle::is_same(old, &object) {
        return Ok(Arc::clone(old));
    }
    put(state, request, Some(old), object)
}

/// The next version of the store, if the object is still what it was.
fn put(state: &Arc<State>, request: &Request, old: Option<&Arc<Value>>, object: Value) -> Result<Arc<Value>, Status> {
    let kind = &request.kind;
    let key = ObjectKey::of(&object);
    let now = state.now();
    state.change(|world| {
        match (world.store.get(&kind.key(), &key), old) {
            (Some(_), None) => return Err(Status::already_exists(kind, &key.name)),
            (Some(is), Some(was)) if Arc::ptr_eq(&is, was) => {}
            (Some(_) | None, Some(_)) => return Err(Status::conflict(kind, &key.name, lifecycle::MODIFIED)),
            (None, None) => {}
        }
        if request.is_dry_run() {
            return Ok(Arc::new(object));
        }
        let stored = world.store.put(&kind.key(), object);
        if definitions::defines(kind) && request.subresource.is_empty() && !lifecycle::has_ended(&stored) {
            let established = definitions::establish(world, now, &stored);
            world.store.put(&kind.key(), established);
        }
        // The last finalizer is gone from an object that waits for nothing else.
        if lifecycle::has_ended(&stored) {
            forget(world, kind, &key);
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
                let gone = forget(world, kind, key).unwrap_or(old);
                let is_shown = kind.is("", "pods");
                Ok(if is_shown { Form::of(request).one(&gone) } else { lifecycle::deleted(kind, &gone) })
            }
        }
    })
}

/// Takes an object out of the store, and what cannot be without it.
fn forget(world: &mut World, kind: &Kind, key: &ObjectKey) -> Option<Arc<Value>> {
    if kind.is("", "namespaces") {
        for inner in world.catalogue.kinds().to_vec() {
            for inside in world.store.objects(&inner.key()).keys().filter(|inside| inside.namespace == key.name) {
                world.store.remove(&inner.key(), inside);
            }
        }
    }
    let gone = world.store.remove(&kind.key(), key)?;
    if definitions::defines(kind) {
        definitions::abolish(world, &gone);
    }
    Some(gone)
}

/// Writes defaults into an object, and takes away what its kind does not know.
fn fill_in(state: &State, request: &Request, object: &mut Value) -> Result<(), Status> {
    let Some(schema) = request.kind.schema(&request.version) else {
        builtin::fill_in(state, &request.kind, object);
        return Ok(());
    };
    let unknown = schema::prune(schema, object);
    match (unknown.is_empty(), request.query.get("fieldValidation")) {
        (true, _) | (false, Some("Ignore")) => {}
        (false, Some("Strict")) => {
            let list: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
            let (kind, version) = (&request.kind.kind, &request.version);
            let list = list.join(", ");
            let why =
                format!("{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {list}");
            return Err(Status::bad_request(why));
        }
        (false, _) => unknown.iter().for_each(|path| request.warn(&format!("unknown field {path:?}"))),
    }
    schema::fill_in(schema, object);
    Ok(())
}

/// Refuses an object that is not valid.
fn check(state: &State, request: &Request, object: &Value) -> Result<(), Status> {
    let kind = &request.kind;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let mut causes = match kind.schema(&request.version) {
        Some(schema) => schema::check(schema, object, &state.rules()),
        None => builtin::check(state, kind, object),
    };
    // Roles may be named more freely.
    if !is_name(name) && kind.group != "rbac.authorization.k8s.io" {
        causes.insert(0, Cause::invalid("metadata.name", &json!(name), NOT_A_NAME));
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid(kind, name, &causes)) }
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let ends = |end: Option<char>| end.is_some_and(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit());
        let inside = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        ends(label.chars().next()) && ends(label.chars().last()) && label.chars().all(inside)
    };
    name.len() <= 253 && name.split('.').all(is_label)
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
            let message = "Required value: name or generateName is required".to_owned();
            let cause = Cause { message, ..Cause::required("metadata.name") };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hosts() {
        for (name, is_one) in
            [("web-1", true), ("a.b", true), ("Web", false), ("-a", false), ("a_b", false), ("", false)]
        {
            assert_eq!(is_name(name), is_one, "{name:?}");
        }
    }
}
