//! JSON Schemas of the kinds that Leno reads, for editors and for whoever checks rules before Leno does.
//!
//! They are made of the very structs that read the rules: [`message!`](super::common) and [`words!`](super::common) know
//! every name, type and doc comment, so they write a [`Describe`] beside each struct. A crate that derives schemas would
//! have to be a dependency of everything that reads rules, the sidecar too; this way a field costs one line of code that
//! `leno` alone calls, and the linker leaves it out of `leno-proxy`.
//!
//! The schemas are of draft 7, which every editor understands. They say less than [`crate::validate`]: what can be seen
//! in one value (names, types, words, forms of durations), not what holds between values. In one thing they say more: a
//! key without a value, which Leno takes for one that was not written, is a slip to an editor.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::envelope::{DESCRIBED, KINDS, KnownKind, Layout};
use super::{DurationText, FieldSet, Metadata, NumberOrText, Status};

/// The dialect that all schemas are written in.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// A type that says how it is written.
pub trait Describe {
    /// The schema of a value. What it refers to is entered into `definitions`.
    fn describe(definitions: &mut Definitions) -> Value;
}

/// The named parts of a schema.
#[derive(Debug, Default)]
pub struct Definitions {
    parts: BTreeMap<&'static str, Value>,
    /// Being written: a part may refer to itself.
    begun: BTreeSet<&'static str>,
}

impl Definitions {
    /// A reference to the part of this name, which `write` writes unless it is there.
    pub fn part(&mut self, name: &'static str, write: impl FnOnce(&mut Self) -> Value) -> Value {
        if self.begun.insert(name) {
            let part = write(self);
            self.parts.insert(name, part);
        }
        json!({ "$ref": format!("#/definitions/{name}") })
    }

    /// `schema` as a document of its own, with all parts that were entered.
    fn close(self, schema: Value) -> Value {
        let mut document = Map::from_iter([("$schema".to_owned(), DRAFT.into())]);
        if let Value::Object(schema) = schema {
            document.extend(schema);
        }
        let parts = self.parts.into_iter().map(|(name, part)| (name.to_owned(), part));
        document.insert("definitions".to_owned(), Value::Object(parts.collect()));
        Value::Object(document)
    }
}

/// Names of all kinds, in the order in which they are explained.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

/// A kind of rules that a cluster has to be taught: neither Kubernetes' own nor without a `spec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CustomKind {
    /// `VirtualService`, …
    pub name: &'static str,
    /// `networking.istio.io`, …
    pub group: &'static str,
    /// The newest first.
    pub versions: &'static [&'static str],
}

impl CustomKind {
    /// As the kind stands in addresses: `virtualservices`, `authorizationpolicies`.
    pub fn plural(&self) -> String {
        let name = self.name.to_ascii_lowercase();
        match name.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{name}s"),
        }
    }
}

/// All kinds of rules, in the order in which they are explained.
pub fn custom_kinds() -> impl Iterator<Item = CustomKind> {
    let custom = KINDS.iter().filter(|kind| kind.group.contains('.') && kind.layout == Layout::Spec);
    custom.map(|kind| CustomKind { name: kind.name, group: kind.group, versions: kind.versions })
}

/// The schema of the documents of one kind; `None`: Leno does not read it.
pub fn of_kind(name: &str) -> Option<Value> {
    let kind = KINDS.iter().find(|kind| kind.name == name)?;
    let mut definitions = Definitions::default();
    let schema = document(kind, &mut definitions);
    Some(definitions.close(schema))
}

/// The schema of a file with documents of all kinds. Documents of other people's kinds are let through, as Leno does.
pub fn of_any_kind() -> Value {
    let mut definitions = Definitions::default();
    let cases = KINDS.iter().map(|kind| {
        let group = match kind.group {
            "" => "^[^/]+$".to_owned(),
            group => format!("^{}/", group.replace('.', "\\.")),
        };
        json!({
            "if": {
                "properties": { "apiVersion": { "pattern": group }, "kind": { "const": kind.name } },
                "required": ["apiVersion", "kind"],
            },
            "then": document(kind, &mut definitions),
        })
    });
    let cases = cases.collect::<Vec<_>>();
    let names = kinds().collect::<Vec<_>>();
    definitions.close(json!({
        "title": "Rules",
        "description": "Documents of all kinds that Leno reads.",
        "type": "object",
        "properties": {
            "apiVersion": { "type": "string", "description": "Group and version of the kind." },
            "kind": { "description": "What the document is.", "anyOf": [{ "enum": names }, { "type": "string" }] },
        },
        "required": ["apiVersion", "kind"],
        "allOf": cases,
    }))
}

/// A document of one kind: the envelope with what it says.
fn document(kind: &KnownKind, definitions: &mut Definitions) -> Value {
    let versions = kind.versions.iter().map(|version| match kind.group {
        "" => (*version).to_owned(),
        group => format!("{group}/{version}"),
    });
    let metadata = Metadata::describe(definitions);
    let mut properties = Map::from_iter([
        ("apiVersion".to_owned(), json!({ "enum": versions.collect::<Vec<_>>() })),
        ("kind".to_owned(), json!({ "const": kind.name })),
        ("metadata".to_owned(), json!({ "allOf": [metadata, { "required": ["name"] }] })),
    ]);
    let describe = DESCRIBED.iter().find(|(name, _)| *name == kind.name).map(|(_, describe)| describe);
    let said = describe.map_or(Value::Bool(true), |describe| describe(definitions));
    let mut required = vec!["apiVersion", "kind", "metadata"];
    let mut about = None;
    match kind.layout {
        Layout::Spec => {
            properties.insert("status".to_owned(), Status::describe(definitions));
            properties.insert("spec".to_owned(), said);
            required.push("spec");
        }
        Layout::Beside => {
            let part = definitions.parts.remove(kind.name).unwrap_or_default();
            about = part.get("description").cloned();
            if let Some(Value::Object(own)) = part.get("properties") {
                properties.extend(own.clone());
            }
        }
    }
    let about = about.or_else(|| definitions.parts.get(kind.name).and_then(|part| part.get("description")).cloned());
    json!({
        "title": kind.name,
        "description": about,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// A struct of named fields: what it is, and of each field the name, the lines of its comment and the schema.
pub(super) fn fields(about: &[&str], fields: impl IntoIterator<Item = (String, String, Value)>) -> Value {
    let described = fields.into_iter().map(|(name, about, schema)| (name, with_description(schema, about)));
    let properties = described.collect::<Map<_, _>>();
    json!({
        "description": sentence(about),
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

/// A closed set of words, each with what it means.
pub(super) fn choice(about: &[&str], words: &[(&str, String)]) -> Value {
    let texts = words.iter().map(|(word, _)| *word).collect::<Vec<_>>();
    let meanings = words.iter().map(|(_, meaning)| meaning.as_str()).collect::<Vec<_>>();
    // Validators pass over the last key; editors show it beside each word.
    json!({ "description": sentence(about), "type": "string", "enum": texts, "enumDescriptions": meanings })
}

/// The lines of a doc comment as one text, without the brackets of links.
pub(super) fn sentence(lines: &[&str]) -> String {
    let lines = lines.iter().map(|line| line.trim()).collect::<Vec<_>>();
    lines.join(" ").trim().replace("[`", "`").replace("`]", "`")
}

/// A field as it is written, which serde calls camel case: `export_to` is `exportTo`, `r#match` is `match`.
pub(super) fn camel_case(field: &str) -> String {
    let mut name = String::with_capacity(field.len());
    for (index, word) in field.trim_start_matches("r#").split('_').enumerate() {
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if index > 0 => name.push(first.to_ascii_uppercase()),
            Some(first) => name.push(first),
            None => {}
        }
        name.push_str(letters.as_str());
    }
    name
}

/// In draft 7 nothing may stand beside a reference.
fn with_description(schema: Value, about: String) -> Value {
    match schema {
        Value::Object(mut keys) if !keys.contains_key("$ref") => {
            keys.insert("description".to_owned(), about.into());
            Value::Object(keys)
        }
        reference => json!({ "description": about, "allOf": [reference] }),
    }
}

macro_rules! described {
    ($($type:ty => $schema:tt,)+) => {$(
        impl Describe for $type {
            fn describe(_: &mut Definitions) -> Value {
                json!($schema)
            }
        }
    )+};
}

described! {
    String => { "type": "string" },
    bool => { "type": "boolean" },
    f64 => { "type": "number" },
    i32 => { "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX },
    i64 => { "type": "integer" },
    u32 => { "type": "integer", "minimum": 0, "maximum": u32::MAX },
    u64 => { "type": "integer", "minimum": 0 },
    NumberOrText => { "type": ["integer", "string"] },
    DurationText => {
        "type": "string",
        "pattern": r"^(0|\+?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$",
        "examples": ["10s", "250ms", "1h30m"],
    },
}

impl<T: Describe> Describe for Option<T> {
    fn describe(definitions: &mut Definitions) -> Value {
        T::describe(definitions)
    }
}

impl<T: Describe> Describe for Box<T> {
    fn describe(definitions: &mut Definitions) -> Value {
        T::describe(definitions)
    }
}

impl<T: Describe> Describe for Vec<T> {
    fn describe(definitions: &mut Definitions) -> Value {
        json!({ "type": "array", "items": T::describe(definitions) })
    }
}

impl<T: Describe> Describe for BTreeMap<String, T> {
    fn describe(definitions: &mut Definitions) -> Value {
        json!({ "type": "object", "additionalProperties": T::describe(definitions) })
    }
}

impl Describe for FieldSet {
    fn describe(definitions: &mut Definitions) -> Value {
        let write = |definitions: &mut Definitions| {
            let inner = Self::describe(definitions);
            json!({ "description": "Fields, as nested maps.", "type": "object", "additionalProperties": inner })
        };
        definitions.part("FieldSet", write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_called_as_serde_calls_them() {
        let cases = [("hosts", "hosts"), ("export_to", "exportTo"), ("r#match", "match"), ("fields_v1", "fieldsV1")];
        for (field, expected) in cases {
            assert_eq!(camel_case(field), expected);
        }
    }

    #[test]
    fn names_words_and_comments_are_those_of_the_structs() {
        let schema = of_kind("VirtualService").expect("it is read");
        let at = |pointer: &str| schema.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!(at("/properties/kind/const"), "VirtualService");
        assert_eq!(at("/properties/apiVersion/enum/0"), "networking.istio.io/v1");
        assert_eq!(at("/properties/spec/$ref"), "#/definitions/VirtualService");
        assert_eq!(at("/definitions/VirtualService/properties/exportTo/items/type"), "string");
        assert_eq!(at("/definitions/HttpRoute/properties/timeout/description"), "For the whole request; absent: none.");
        assert_eq!(at("/definitions/HttpRoute/properties/match/items/$ref"), "#/definitions/HttpMatchRequest");
        assert_eq!(at("/definitions/HttpRoute/additionalProperties"), false);
        let schema = of_kind("DestinationRule").expect("it is read");
        let words = schema.pointer("/definitions/SimpleLb/enum").expect("a set of words").to_string();
        assert!(words.contains("\"LEAST_REQUEST\""), "{words}");
        assert!(of_kind("Gateway").is_none());
    }

    #[test]
    fn renamed_fields_keep_their_names() {
        let schema = of_kind("DestinationRule").expect("it is read");
        let outliers = schema.pointer("/definitions/OutlierDetection/properties").expect("a struct");
        assert!(outliers.get("consecutive5xxErrors").is_some(), "{outliers}");
        let schema = of_kind("Service").expect("it is read").to_string();
        assert!(schema.contains("\"clusterIPs\""));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(keys) => {
                    found.extend(keys.get("$ref").and_then(Value::as_str));
                    keys.values().for_each(|value| references(value, found));
                }
                Value::Array(entries) => entries.iter().for_each(|value| references(value, found)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        for schema in kinds().filter_map(of_kind).chain([of_any_kind()]) {
            let mut found = Vec::new();
            references(&schema, &mut found);
            for reference in found {
                assert!(schema.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
            }
        }
    }
}
