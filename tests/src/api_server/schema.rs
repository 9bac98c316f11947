//! Structural schemas: what a custom resource must be like, what it is given, and what is taken from it.
//!
//! The words are those of the real server (kube-openapi's), as far as the recorded refusal shows them. Rules in CEL
//! (`x-kubernetes-validations`) are not evaluated here: a test says what a rule means with
//! [`ApiServer::rule`](super::ApiServer::rule), and a rule whose meaning nobody gave holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::{Value, json};

use super::status::Cause;

/// What a rule in CEL means: whether it holds for `self`.
pub(super) type Rule = Arc<dyn Fn(&Value) -> bool + Send + Sync>;

/// Meanings by the text of the rule.
pub(super) type Rules = BTreeMap<String, Rule>;

/// Fills in what the schema has defaults for.
pub(super) fn fill_in(schema: &Value, value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| fill_in(&schema["items"], item)),
        Value::Object(fields) => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                if let (false, Some(default)) = (fields.contains_key(name), property.get("default")) {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, field) in fields {
                fill_in(below(schema, name), field);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Takes away what the schema of an object does not know: the paths of what was taken.
pub(super) fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut taken = Vec::new();
    let kept = ["apiVersion", "kind", "metadata"].map(|field| (field, object.get(field).cloned()));
    prune_value(schema, object, "", &mut taken);
    for (field, value) in kept {
        if let Some(value) = value {
            object[field] = value;
        }
        taken.retain(|path| path != field);
    }
    taken
}

fn prune_value(schema: &Value, value: &mut Value, path: &str, taken: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                prune_value(&schema["items"], item, &format!("{path}[{index}]"), taken);
            }
        }
        Value::Object(fields) => {
            let keeps_all = schema["x-kubernetes-preserve-unknown-fields"] == true;
            let properties = schema["properties"].as_object();
            let is_map = !matches!(schema.get("additionalProperties"), None | Some(Value::Bool(false)));
            let is_known = |name: &String| is_map || properties.is_some_and(|known| known.contains_key(name));
            taken.extend(fields.keys().filter(|name| !keeps_all && !is_known(name)).map(|name| joined(path, name)));
            fields.retain(|name, _| keeps_all || is_known(name));
            for (name, field) in fields.iter_mut().filter(|(name, _)| is_known(name)) {
                prune_value(below(schema, name), field, &joined(path, name), taken);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Everything that is wrong with an object, first by its schema, then by its rules.
pub(super) fn check(schema: &Value, object: &Value, rules: &Rules) -> Vec<Cause> {
    let mut causes = Vec::new();
    check_value(schema, object, "", &mut causes);
    check_rules(schema, object, "", rules, &mut causes);
    causes
}

/// What keeps a schema from being structural, which the real server insists on.
pub(super) fn not_structural(schema: &Value, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let is_free =
        schema["x-kubernetes-int-or-string"] == true || schema["x-kubernetes-preserve-unknown-fields"] == true;
    if schema["type"].as_str().unwrap_or_default().is_empty() && !is_free {
        let mut cause = Cause::required(&format!("{path}.type"));
        cause.message = "Required value: must not be empty for specified object fields".to_owned();
        causes.push(cause);
    }
    for word in ["$ref", "definitions", "patternProperties", "dependencies", "additionalItems", "deprecated"] {
        if schema.get(word).is_some() {
            let message = format!("Forbidden: {word} is not supported");
            causes.push(Cause { reason: "FieldValueForbidden", message, field: format!("{path}.{word}") });
        }
    }
    let maps = schema.get("additionalProperties").filter(|map| map.is_object());
    if maps.is_some() && schema["properties"].is_object() {
        let message = "Forbidden: additionalProperties and properties are mutual exclusive".to_owned();
        causes.push(Cause { reason: "FieldValueForbidden", message, field: format!("{path}.additionalProperties") });
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        causes.extend(not_structural(property, &format!("{path}.properties[{name}]")));
    }
    for (field, below) in [("additionalProperties", maps), ("items", schema.get("items"))] {
        causes.extend(below.into_iter().flat_map(|below| not_structural(below, &format!("{path}.{field}"))));
    }
    causes
}

fn check_value(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && (schema["nullable"] == true || schema.get("type").is_none()) {
        return;
    }
    if !is_of_type(schema, value) {
        let wanted = schema["type"].as_str().unwrap_or_default();
        let message = format!("Invalid value: {value}: {path} in body must be of type {wanted}: {value}");
        causes.push(Cause { reason: "FieldValueTypeInvalid", message, field: path.to_owned() });
        return;
    }
    check_size(schema, value, path, causes);
    check_choice(schema, value, path, causes);
    match value {
        Value::Object(fields) => {
            for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !fields.contains_key(required) {
                    causes.push(Cause::required(&joined(path, required)));
                }
            }
            for (name, field) in fields {
                check_value(below(schema, name), field, &joined(path, name), causes);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check_value(&schema["items"], item, &format!("{path}[{index}]"), causes);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_of_type(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_i64() || value.is_string();
    }
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some(_) | None => true,
    }
}

/// Bounds of lengths, numbers and counts, and patterns.
fn check_size(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut invalid = |shown: Value, why: String| {
        causes.push(Cause::invalid(path, &shown, &format!("{path} in body {why}")));
    };
    let bound = |name: &str| schema.get(name).filter(|bound| bound.is_number());
    let count = |name: &str| schema[name].as_u64();
    match value {
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if let Some(least) = bound("minimum").filter(|least| number < least.as_f64().unwrap_or(f64::MIN)) {
                invalid(value.clone(), format!("should be greater than or equal to {least}"));
            }
            if let Some(most) = bound("maximum").filter(|most| number > most.as_f64().unwrap_or(f64::MAX)) {
                invalid(value.clone(), format!("should be less than or equal to {most}"));
            }
        }
        Value::String(text) => {
            let length = text.chars().count() as u64;
            if let Some(least) = count("minLength").filter(|least| length < *least) {
                invalid(value.clone(), format!("should be at least {least} chars long"));
            }
            if let Some(pattern) = schema["pattern"].as_str()
                && Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
            {
                invalid(value.clone(), format!("should match '{pattern}'"));
            }
            if let Some(most) = count("maxLength").filter(|most| length > *most) {
                let message = format!("Too long: may not be more than {most} bytes");
                causes.push(Cause { reason: "FieldValueTooLong", message, field: path.to_owned() });
            }
        }
        Value::Array(items) => {
            let length = items.len() as u64;
            if let Some(least) = count("minItems").filter(|least| length < *least) {
                invalid(json!(length), format!("should have at least {least} items"));
            }
            if let Some(most) = count("maxItems").filter(|most| length > *most) {
                let message = format!("Too many: {length}: must have at most {most} items");
                causes.push(Cause { reason: "FieldValueTooMany", message, field: path.to_owned() });
            }
        }
        Value::Null | Value::Bool(_) | Value::Object(_) => {}
    }
}

/// `enum`, `allOf`, `anyOf`, `oneOf` and `not`
fn check_choice(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(choices) = schema["enum"].as_array().filter(|choices| !choices.contains(value)) {
        let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", choices.join(", "));
        causes.push(Cause { reason: "FieldValueNotSupported", message, field: path.to_owned() });
    }
    let holds = |schema: &Value| {
        let mut inside = Vec::new();
        check_value(schema, value, path, &mut inside);
        inside.is_empty()
    };
    let holding =
        |word: &str| schema[word].as_array().map(|all| (all.iter().filter(|one| holds(one)).count(), all.len()));
    let rules = [
        ("allOf", "must validate all the schemas (allOf)", holding("allOf").is_some_and(|(held, all)| held < all)),
        ("anyOf", "must validate at least one schema (anyOf)", holding("anyOf").is_some_and(|(held, _)| held == 0)),
        ("oneOf", "must validate one and only one schema (oneOf)", holding("oneOf").is_some_and(|(held, _)| held != 1)),
        ("not", "must not validate the schema (not)", schema.get("not").is_some_and(holds)),
    ];
    for (_, why, _) in rules.into_iter().filter(|(_, _, is_broken)| *is_broken) {
        causes.push(Cause::invalid(path, value, &format!("{path} in body {why}")));
    }
}

fn check_rules(schema: &Value, value: &Value, path: &str, rules: &Rules, causes: &mut Vec<Cause>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let text = rule["rule"].as_str().unwrap_or_default();
        if rules.get(text).is_some_and(|holds| !holds(value)) {
            let why = rule["message"].as_str().map_or_else(|| format!("failed rule: {text}"), str::to_owned);
            let message = format!("Invalid value: {why}");
            causes.push(Cause { reason: "FieldValueInvalid", message, field: path.to_owned() });
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                check_rules(below(schema, name), field, &joined(path, name), rules, causes);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check_rules(&schema["items"], item, &format!("{path}[{index}]"), rules, causes);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The schema of a field.
fn below<'a>(schema: &'a Value, name: &str) -> &'a Value {
    schema["properties"].get(name).or_else(|| schema.get("additionalProperties")).unwrap_or(&Value::Null)
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "required": ["host"],
            "properties": {
                "host": {"type": "string", "minLength": 1, "pattern": "^[a-z]*$"},
                "mode": {"type": "string", "enum": ["A", "B"]},
                "retries": {"type": "integer", "minimum": 1, "default": 3},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            },
        }}})
    }

    #[test]
    fn every_mistake_is_found_and_worded_as_the_real_server_words_it() {
        for (spec, field, expected) in [
            (json!({}), "spec.host", "Required value"),
            (json!({"host": 1}), "spec.host", "Invalid value: 1: spec.host in body must be of type string: 1"),
            (json!({"host": "A"}), "spec.host", "Invalid value: \"A\": spec.host in body should match '^[a-z]*$'"),
            (
                json!({"host": "a", "mode": "C"}),
                "spec.mode",
                "Unsupported value: \"C\": supported values: \"A\", \"B\"",
            ),
            (
                json!({"host": "a", "retries": 0}),
                "spec.retries",
                "Invalid value: 0: spec.retries in body should be greater than or equal to 1",
            ),
            (
                json!({"host": "a", "labels": {"x": 1}}),
                "spec.labels.x",
                "Invalid value: 1: spec.labels.x in body must be of type string: 1",
            ),
        ] {
            let causes = check(&schema(), &json!({"spec": spec}), &Rules::new());
            let found: Vec<(&str, &str)> =
                causes.iter().map(|cause| (cause.field.as_str(), cause.message.as_str())).collect();
            assert_eq!(found, [(field, expected)], "{spec}");
        }
    }

    #[test]
    fn defaults_are_filled_in_and_unknown_fields_are_taken_away() {
        let mut object = json!({"spec": {"host": "a", "free": {"x": 1}, "labels": {"y": "z"}, "typo": 1}});
        assert_eq!(prune(&schema(), &mut object), ["spec.typo"]);
        fill_in(&schema(), &mut object);
        let expected = json!({"host": "a", "free": {"x": 1}, "labels": {"y": "z"}, "retries": 3});
        assert_eq!(object["spec"], expected);
    }

    #[test]
    fn a_schema_without_types_is_not_structural() {
        assert_eq!(not_structural(&schema(), "s"), []);
        let bad = json!({"type": "object", "properties": {"a": {"items": {"type": "string"}}}});
        let fields: Vec<String> = not_structural(&bad, "s").into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields, ["s.properties[a].type"]);
    }
}
