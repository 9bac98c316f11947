//! Which values have parts of their own, and by what the items of a list are told apart: from the schema of a
//! definition (`x-kubernetes-list-type`, …), or from a table for Kubernetes' own kinds.

use serde_json::{Map, Value, json};

use super::kinds::Kind;

/// How a value is taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// Not at all.
    Whole,
    /// Into its fields.
    Parts,
    /// Into items with these keys.
    Keyed(Vec<String>),
    /// Into its members.
    Set,
}

/// Where a value stands in an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// The object itself, of a kind without a schema.
    Root(&'a Kind),
    /// The object itself, with its schema.
    DefinedRoot(&'a Value),
    /// A field of a kind without a schema, and the field that it stands in.
    Field { plural: &'a str, parent: &'static str, name: &'static str },
    /// A field that is described by a schema.
    Defined(&'a Value),
    /// An item of a list of a kind without a schema.
    Item { plural: &'a str, list: &'static str },
}

/// Lists of Kubernetes' own kinds whose items have keys: resource (or any), field, keys.
const KEYED: &[(&str, &str, &[&str])] = &[
    ("services", "ports", &["port", "protocol"]),
    ("pods", "ports", &["containerPort", "protocol"]),
    ("deployments", "ports", &["containerPort", "protocol"]),
    ("replicasets", "ports", &["containerPort", "protocol"]),
    ("statefulsets", "ports", &["containerPort", "protocol"]),
    ("daemonsets", "ports", &["containerPort", "protocol"]),
    ("jobs", "ports", &["containerPort", "protocol"]),
    ("cronjobs", "ports", &["containerPort", "protocol"]),
    ("", "containers", &["name"]),
    ("", "initContainers", &["name"]),
    ("", "volumes", &["name"]),
    ("", "volumeMounts", &["mountPath"]),
    ("", "env", &["name"]),
    ("", "imagePullSecrets", &["name"]),
    ("", "secrets", &["name"]),
    ("", "conditions", &["type"]),
    ("", "ownerReferences", &["uid"]),
    ("", "podIPs", &["ip"]),
    ("", "hostIPs", &["ip"]),
    ("nodes", "addresses", &["type"]),
    ("", "webhooks", &["name"]),
];

/// Lists that are sets.
const SETS: [&str; 1] = ["finalizers"];

/// Objects that are one value, and lists whose items are.
const WHOLE: [&str; 9] = [
    "selector",
    "nodeSelector",
    "fieldRef",
    "resourceFieldRef",
    "secretKeyRef",
    "configMapKeyRef",
    "roleRef",
    "namespaceSelector",
    "objectSelector",
];

/// Lists whose items are one value each.
const WHOLE_ITEMS: [&str; 1] = ["ownerReferences"];

/// Structures that exist even where nobody wrote them, because Kubernetes' own types have them by value.
const ALWAYS_THERE: [&str; 6] = ["metadata", "spec", "status", "template", "strategy", "containers"];

/// The names that the tables know, so that a place can be copied.
fn known(name: &str) -> &'static str {
    let keyed = KEYED.iter().map(|(_, field, _)| *field);
    let all = keyed.chain(SETS).chain(WHOLE).chain(WHOLE_ITEMS).chain(ALWAYS_THERE);
    all.into_iter().find(|known| *known == name).unwrap_or("")
}

impl<'a> Place<'a> {
    /// The object itself.
    pub(super) fn of(kind: &'a Kind, version: &str) -> Self {
        kind.schema(version).map_or(Self::Root(kind), Self::DefinedRoot)
    }

    pub(super) fn is_root(self) -> bool {
        matches!(self, Self::Root(_) | Self::DefinedRoot(_))
    }

    pub(super) fn is_metadata(self) -> bool {
        matches!(self, Self::Field { parent: "/", name: "metadata", .. })
    }

    /// Whether it is there even in an object in which nobody wrote it.
    pub(super) fn is_always_there(self) -> bool {
        match self {
            Self::Root(_) | Self::DefinedRoot(_) => true,
            Self::Defined(_) | Self::Item { .. } => false,
            Self::Field { name, parent, .. } => match name {
                "metadata" | "spec" | "status" => matches!(parent, "/" | "template"),
                other => ALWAYS_THERE.contains(&other),
            },
        }
    }

    /// A field of it.
    pub(super) fn field(self, field: &str) -> Self {
        let name = known(field);
        match self {
            Self::Root(kind) => Self::Field { plural: &kind.plural, parent: "/", name },
            Self::DefinedRoot(_) if field == "metadata" => Self::Field { plural: "", parent: "/", name },
            Self::DefinedRoot(schema) | Self::Defined(schema) => {
                let property = schema["properties"].get(field);
                Self::Defined(property.or_else(|| schema.get("additionalProperties")).unwrap_or(&Value::Null))
            }
            Self::Field { plural, name: parent, .. } => Self::Field { plural, parent, name },
            Self::Item { plural, list } => Self::Field { plural, parent: list, name },
        }
    }

    /// An item of it.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Defined(schema) | Self::DefinedRoot(schema) => Self::Defined(&schema["items"]),
            Self::Field { plural, name, .. } => Self::Item { plural, list: name },
            Self::Root(_) | Self::Item { .. } => self,
        }
    }

    /// How a value at this place is taken apart.
    pub(super) fn shape(self, value: &Value) -> Shape {
        match self {
            Self::Root(_) | Self::DefinedRoot(_) => Shape::Parts,
            Self::Defined(schema) => shape_by_schema(schema, value),
            Self::Item { list, .. } if value.is_object() && !WHOLE_ITEMS.contains(&list) => Shape::Parts,
            Self::Item { .. } => Shape::Whole,
            Self::Field { name, .. } if value.is_object() => {
                if WHOLE.contains(&name) {
                    Shape::Whole
                } else {
                    Shape::Parts
                }
            }
            Self::Field { plural, name, .. } if value.is_array() => {
                let row = KEYED.iter().find(|(of, field, _)| *field == name && (of.is_empty() || *of == plural));
                match row {
                    Some((_, _, keys)) => Shape::Keyed(keys.iter().map(|key| (*key).to_owned()).collect()),
                    None if SETS.contains(&name) => Shape::Set,
                    None => Shape::Whole,
                }
            }
            Self::Field { .. } => Shape::Whole,
        }
    }
}

fn shape_by_schema(schema: &Value, value: &Value) -> Shape {
    if value.is_object() {
        let is_whole = schema["x-kubernetes-map-type"] == "atomic";
        return if is_whole { Shape::Whole } else { Shape::Parts };
    }
    if !value.is_array() {
        return Shape::Whole;
    }
    match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            Shape::Keyed(keys.filter_map(Value::as_str).map(str::to_owned).collect())
        }
        Some("set") => Shape::Set,
        Some(_) | None => Shape::Whole,
    }
}

/// The keys of an item, as JSON with sorted names. A protocol that is not written is TCP.
pub(super) fn key_of(item: &Value, keys: &[String]) -> String {
    let value = |key: &String| match item.get(key) {
        None if key == "protocol" => json!("TCP"),
        value => value.cloned().unwrap_or(Value::Null),
    };
    Value::Object(keys.iter().map(|key| (key.clone(), value(key))).collect::<Map<_, _>>()).to_string()
}

/// An item with the keys that it leaves to their defaults.
pub(super) fn with_key(item: &Value, keys: &[String]) -> Value {
    let mut item = item.clone();
    if keys.iter().any(|key| key == "protocol") && item.get("protocol").is_none() {
        item["protocol"] = json!("TCP");
    }
    item
}
