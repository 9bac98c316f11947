//! Who owns which field: `metadata.managedFields` of every write, and server-side apply.
//!
//! A set of fields is a tree, written as `FieldsV1` writes it: `f:NAME` for a field, `k:{…}` for an item of a list that
//! has keys, `v:…` for a member of a list that is a set, and `.` for the thing itself. What is one value and what has
//! parts of its own comes from [`shape`](super::shape).

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::request::Request;
use super::shape::{Place, Shape, key_of, with_key};
use super::state::{State, timestamp};
use super::status::Status;

/// What nobody owns: the server writes it, or it says which object this is.
const UNOWNED: [&str; 10] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
];

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// The thing itself belongs to the set.
    is_member: bool,
    parts: BTreeMap<String, Fields>,
}

impl Fields {
    fn leaf() -> Self {
        Self { is_member: true, parts: BTreeMap::new() }
    }

    fn is_empty(&self) -> bool {
        !self.is_member && self.parts.is_empty()
    }

    /// As `FieldsV1`.
    fn to_value(&self) -> Value {
        let mut parts: Map<String, Value> =
            self.parts.iter().map(|(part, fields)| (part.clone(), fields.to_value())).collect();
        if self.is_member && !parts.is_empty() {
            parts.insert(".".to_owned(), json!({}));
        }
        Value::Object(parts)
    }

    fn from_value(value: &Value) -> Self {
        let parts = value.as_object().into_iter().flatten();
        let below: BTreeMap<String, Self> = parts
            .filter(|(part, _)| part.as_str() != ".")
            .map(|(part, fields)| (part.clone(), Self::from_value(fields)))
            .collect();
        Self { is_member: below.is_empty() || value.get(".").is_some(), parts: below }
    }

    fn union(&mut self, other: &Self) {
        self.is_member |= other.is_member;
        for (part, fields) in &other.parts {
            self.parts.entry(part.clone()).or_default().union(fields);
        }
    }

    /// Without what is in `other`.
    fn without(&self, other: &Self) -> Self {
        let parts = self.parts.iter().map(|(part, fields)| {
            let rest = other.parts.get(part).map_or_else(|| fields.clone(), |other| fields.without(other));
            (part.clone(), rest)
        });
        let parts = parts.filter(|(_, rest)| !rest.is_empty()).collect();
        Self { is_member: self.is_member && !other.is_member, parts }
    }

    /// What is in both.
    fn common(&self, other: &Self) -> Self {
        let parts = self.parts.iter().filter_map(|(part, fields)| {
            let common = fields.common(other.parts.get(part)?);
            (!common.is_empty()).then(|| (part.clone(), common))
        });
        Self { is_member: self.is_member && other.is_member, parts: parts.collect() }
    }

    /// Every path, as people read it: `.spec.containers[name="app"].image`
    fn paths(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.is_member {
            paths.push(prefix.to_owned());
        }
        for (part, fields) in &self.parts {
            let step = match part.split_once(':') {
                Some(("k", key)) => {
                    let key: BTreeMap<String, Value> = serde_json::from_str(key).unwrap_or_default();
                    let pairs: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    format!("[{}]", pairs.join(","))
                }
                Some(("v", value)) => format!("[={value}]"),
                Some((_, name)) => format!(".{name}"),
                None => part.clone(),
            };
            fields.paths(&format!("{prefix}{step}"), paths);
        }
    }
}

/// Enters a write that was no apply into `metadata.managedFields` of the new object.
pub(super) fn written(state: &State, request: &Request, old: Option<&Value>, object: &mut Value) {
    let empty = json!({});
    let before = old.unwrap_or(&empty);
    let place = Place::of(&request.kind, &request.version);
    let changed = difference(place, Some(before), object);
    let gone = difference(place, Some(object), before);
    let mut managers = Managers::of(old.unwrap_or(object));
    managers.0.iter_mut().for_each(|manager| {
        let is_me = manager.is(&request.manager(), "Update", request);
        let rest = manager.fields.without(&gone.without(&changed));
        manager.fields = if is_me { rest } else { rest.without(&changed) };
    });
    if !changed.is_empty() {
        let me = managers.entry(state, request, "Update");
        me.fields.union(&changed);
        me.time = timestamp(state.now());
    }
    managers.write(object);
}

/// Makes an applied object out of what is there (RFC of Kubernetes: KEP-555): what is applied is merged, what was
/// applied before and is no more is taken away, and what belongs to somebody else is a conflict unless forced.
pub(super) fn apply(state: &State, request: &Request, old: Option<&Value>, applied: &Value) -> Result<Value, Status> {
    let Some(name) = request.query.get("fieldManager").filter(|name| !name.is_empty()) else {
        let message =
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        return Err(Status::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message));
    };
    if applied["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let place = Place::of(&request.kind, &request.version);
    let applied = only(&request.subresource, request.kind.has_status, applied);
    let mut merged = old.cloned().unwrap_or_else(|| json!({}));
    merge(place, &mut merged, &applied);
    let mut managers = Managers::of(old.unwrap_or(&json!({})));
    let wanted = owned(place, &applied);
    let changed = difference(place, Some(old.unwrap_or(&json!({}))), &merged);
    let others = managers.0.iter_mut().filter(|manager| !manager.is(name, "Apply", request));
    let mut conflicts = Vec::new();
    for manager in others {
        let taken = manager.fields.common(&changed);
        let mut paths = Vec::new();
        taken.paths("", &mut paths);
        conflicts.extend(paths.into_iter().map(|path| (manager.described(), path)));
        manager.fields = manager.fields.without(&taken);
    }
    if !conflicts.is_empty() && !request.query.flag("force") {
        return Err(conflict(&conflicts));
    }
    let me = managers.entry(state, request, "Apply");
    let mut lost = me.fields.without(&wanted);
    if me.fields != wanted {
        me.time = timestamp(state.now());
    }
    me.fields = wanted;
    for manager in &managers.0 {
        lost = lost.without(&manager.fields);
    }
    take_away(place, &mut merged, &lost);
    managers.write(&mut merged);
    Ok(merged)
}

/// 409, in the words of the real server.
fn conflict(conflicts: &[(String, String)]) -> Status {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(manager, path)| {
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": path})
        })
        .collect();
    let message = match conflicts {
        [(manager, path)] => format!("Apply failed with 1 conflict: conflict with {manager}: {path}"),
        several => {
            let mut by_manager: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for (manager, path) in several {
                by_manager.entry(manager).or_default().push(format!("- {path}"));
            }
            let lines =
                by_manager.iter().map(|(manager, paths)| format!("conflicts with {manager}:\n{}", paths.join("\n")));
            let lines: Vec<String> = lines.collect();
            format!("Apply failed with {} conflicts: {}", several.len(), lines.join("\n"))
        }
    };
    Status::new(StatusCode::CONFLICT, "Conflict", message).with_details(json!({"causes": causes}))
}

/// What a subresource may write of an applied object.
fn only(subresource: &str, has_status: bool, applied: &Value) -> Value {
    let mut only = applied.clone();
    if let Some(fields) = only.as_object_mut() {
        match subresource {
            "status" => fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
            _ if has_status => drop(fields.remove("status")),
            _ => {}
        }
    }
    only
}

/// One entry of `managedFields`.
#[derive(Debug, Clone)]
struct Manager {
    name: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    fields: Fields,
}

impl Manager {
    fn is(&self, name: &str, operation: &str, request: &Request) -> bool {
        let api_version = written_version(request);
        let is_this = (self.name.as_str(), self.operation.as_str()) == (name, operation);
        is_this && self.api_version == api_version && self.subresource == request.subresource
    }

    fn described(&self) -> String {
        let Self { name, operation, api_version, subresource, time, .. } = self;
        let with = if subresource.is_empty() { String::new() } else { format!(" with subresource {subresource:?}") };
        match operation.as_str() {
            "Apply" => format!("{name:?}{with}"),
            _ => format!("{name:?}{with} using {api_version} at {time}"),
        }
    }

    fn to_value(&self) -> Value {
        let mut entry = json!({
            "manager": self.name,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_value(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }

    fn from_value(entry: &Value) -> Self {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("manager"),
            operation: text("operation"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: Fields::from_value(&entry["fieldsV1"]),
        }
    }
}

struct Managers(Vec<Manager>);

impl Managers {
    fn of(object: &Value) -> Self {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        Self(entries.map(Manager::from_value).collect())
    }

    /// The entry of whoever writes, perhaps a new one.
    fn entry(&mut self, state: &State, request: &Request, operation: &str) -> &mut Manager {
        let name = request.manager();
        let position = self.0.iter().position(|manager| manager.is(&name, operation, request));
        let position = position.unwrap_or_else(|| {
            self.0.push(Manager {
                name,
                operation: operation.to_owned(),
                api_version: written_version(request),
                subresource: request.subresource.clone(),
                time: timestamp(state.now()),
                fields: Fields::default(),
            });
            self.0.len() - 1
        });
        self.0.get_mut(position).expect("invariant: a position of the list")
    }

    fn write(&self, object: &mut Value) {
        let entries = self.0.iter().filter(|manager| !manager.fields.is_empty());
        let entries: Vec<Value> = entries.map(Manager::to_value).collect();
        let Some(metadata) = object["metadata"].as_object_mut() else { return };
        match entries.is_empty() {
            true => drop(metadata.remove("managedFields")),
            false => drop(metadata.insert("managedFields".to_owned(), json!(entries))),
        }
    }
}

/// The version that the fields are of.
fn written_version(request: &Request) -> String {
    match request.subresource.as_str() {
        "token" => "authentication.k8s.io/v1".to_owned(),
        _ => request.kind.api_version(&request.version),
    }
}

/// What is new or different in `new`.
fn difference(place: Place<'_>, old: Option<&Value>, new: &Value) -> Fields {
    if old == Some(new) {
        return Fields::default();
    }
    let Some(parts) = parts(place, new) else { return Fields::leaf() };
    if is_bare(new) {
        return if place.is_always_there() { Fields::default() } else { Fields::leaf() };
    }
    let mut fields = Fields { is_member: old.is_none() && !place.is_always_there(), parts: BTreeMap::new() };
    for (part, below, value) in parts {
        let before = old.and_then(|old| part_of(place, old, &part));
        let changed = difference(below, before, value);
        if !changed.is_empty() {
            fields.parts.insert(part, changed);
        }
    }
    fields
}

/// Whether a value that may have parts has none.
fn is_bare(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// What an applied object claims: its leaves, and the items of its lists.
fn owned(place: Place<'_>, value: &Value) -> Fields {
    let Some(parts) = parts(place, value).filter(|_| !is_bare(value)) else {
        return if place.is_always_there() { Fields::default() } else { Fields::leaf() };
    };
    let mut fields = Fields::default();
    for (part, below, value) in parts {
        let mut claimed = owned(below, value);
        claimed.is_member |= part.starts_with("k:");
        if !claimed.is_empty() {
            fields.parts.insert(part, claimed);
        }
    }
    fields
}

/// The parts of a value that has any: their names in a set, where they stand, and what they are.
fn parts<'a, 'b>(place: Place<'a>, value: &'b Value) -> Option<Vec<(String, Place<'a>, &'b Value)>> {
    match (place.shape(value), value) {
        (Shape::Parts, Value::Object(fields)) => {
            let is_owned = |name: &str| match place.is_metadata() {
                true => !UNOWNED.contains(&name),
                false => !place.is_root() || !matches!(name, "apiVersion" | "kind"),
            };
            let fields = fields.iter().filter(|(name, _)| is_owned(name));
            Some(fields.map(|(name, value)| (format!("f:{name}"), place.field(name), value)).collect())
        }
        (Shape::Keyed(keys), Value::Array(items)) => {
            let parts = items.iter().map(|item| (format!("k:{}", key_of(item, &keys)), place.item(), item));
            Some(parts.collect())
        }
        (Shape::Set, Value::Array(items)) => {
            Some(items.iter().map(|item| (member(item), place.item(), item)).collect())
        }
        (Shape::Whole | Shape::Parts | Shape::Keyed(_) | Shape::Set, _) => None,
    }
}

/// The same part of another value.
fn part_of<'v>(place: Place<'_>, value: &'v Value, part: &str) -> Option<&'v Value> {
    match part.split_once(':')? {
        ("f", name) => value.get(name),
        ("k", key) => {
            let Shape::Keyed(keys) = place.shape(value) else { return None };
            value.as_array()?.iter().find(|item| key_of(item, &keys) == key)
        }
        ("v", _) => value.as_array()?.iter().find(|item| member(item) == part),
        _ => None,
    }
}

/// The part of a set that a member is.
fn member(item: &Value) -> String {
    format!("v:{item}")
}

/// Puts an applied value over what is there.
fn merge(place: Place<'_>, value: &mut Value, applied: &Value) {
    match (place.shape(applied), applied) {
        (Shape::Parts, Value::Object(fields)) => {
            if !value.is_object() {
                *value = json!({});
            }
            for (name, field) in fields {
                merge(place.field(name), &mut value[name.as_str()], field);
            }
        }
        (Shape::Keyed(keys), Value::Array(items)) if value.is_array() => {
            for item in items {
                let key = key_of(item, &keys);
                let list = value.as_array_mut().expect("invariant: it was just an array");
                match list.iter_mut().find(|there| key_of(there, &keys) == key) {
                    Some(there) => merge(place.item(), there, item),
                    None => list.push(with_key(item, &keys)),
                }
            }
        }
        (Shape::Set, Value::Array(items)) if value.is_array() => {
            let list = value.as_array_mut().expect("invariant: it was just an array");
            list.extend(items.iter().filter(|item| !list.contains(item)).cloned().collect::<Vec<_>>());
        }
        (Shape::Whole | Shape::Parts | Shape::Keyed(_) | Shape::Set, _) => *value = applied.clone(),
    }
}

/// Removes fields.
fn take_away(place: Place<'_>, value: &mut Value, fields: &Fields) {
    for (part, below) in &fields.parts {
        let Some((kind, name)) = part.split_once(':') else { continue };
        match (kind, &mut *value) {
            ("f", Value::Object(object)) => {
                if let Some(field) = object.get_mut(name) {
                    take_away(place.field(name), field, below);
                    let is_bare = field.as_object().is_some_and(Map::is_empty) && !below.parts.is_empty();
                    if below.is_member || is_bare {
                        object.remove(name);
                    }
                }
            }
            (_, Value::Array(list)) => list.retain_mut(|item| {
                let is_it = match (kind, place.shape(&json!([]))) {
                    ("k", Shape::Keyed(keys)) => key_of(item, &keys) == name,
                    ("v", _) => member(item) == *part,
                    _ => false,
                };
                if is_it && !below.is_member {
                    take_away(place.item(), item, below);
                }
                !(is_it && below.is_member)
            }),
            _ => {}
        }
    }
}
