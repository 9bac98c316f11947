//! What is in force, for people and for scripts.

use regex::Regex;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::state::enforced;

use super::answer::{self, Answer};
use super::query::{Query, QueryError};
use super::{Shared, redact};

/// What `/config_dump` understands.
pub(super) const PARAMETERS: &[&str] = &["resource", "name_regex", "mask"];

/// Kinds of resources, each with Envoy's names of its parts.
const KINDS: [(&str, [&str; 2]); 5] = [
    ("listeners", ["dynamic_listeners", "static_listeners"]),
    ("routes", ["dynamic_route_configs", "static_route_configs"]),
    ("clusters", ["dynamic_active_clusters", "static_clusters"]),
    ("endpoints", ["dynamic_endpoint_configs", "static_endpoint_configs"]),
    ("secrets", ["dynamic_active_secrets", "static_secrets"]),
];

/// `/config_dump`: every resource with its version, exactly as the workers run on it, but for what is secret.
///
/// `resource=clusters` shows one kind; `name_regex` the resources whose name matches; `mask=name,resource.address` these
/// fields only, within the rows where a kind is asked for, else from the top (Envoy's field masks).
pub(super) fn config(shared: &Shared, query: &Query) -> Result<Answer, QueryError> {
    let words: Vec<&str> = KINDS.iter().flat_map(|(kind, [one, other])| [*kind, *one, *other]).collect();
    let asked = query.one_of("resource", &words)?;
    let kind = KINDS.iter().find(|(kind, theirs)| asked.is_some_and(|asked| asked == *kind || theirs.contains(&asked)));
    let kind = kind.map(|(kind, _)| *kind);
    let name = query.regex("name_regex")?;
    let mask = query.value("mask").map(Mask::parse).transpose()?;
    let mut dump = resources(shared, kind, name.as_ref());
    if kind.is_none() {
        dump.extend(about(shared));
    }
    let dump = match (mask, kind) {
        (None, _) => Value::Object(dump),
        (Some(mask), None) => mask.of(Value::Object(dump)),
        (Some(mask), Some(_)) => dump.into_iter().map(|(kind, rows)| (kind, mask.of(rows))).collect(),
    };
    Ok(answer::json(&dump))
}

fn resources(shared: &Shared, kind: Option<&str>, name: Option<&Regex>) -> Map<String, Value> {
    let effective = shared.effective();
    let (resources, versions) = (&effective.resources, effective.versions());
    let mut dump = Map::new();
    let mut put = |of: &str, rows: &dyn Fn() -> Value| {
        if kind.is_none_or(|kind| kind == of) {
            dump.insert(of.to_owned(), rows());
        }
    };
    put("listeners", &|| {
        listed(resources.listeners.iter().map(|(name, one)| (name.as_str(), &**one)), &versions.listeners, name)
    });
    put("routes", &|| {
        listed(resources.routes.iter().map(|(name, one)| (name.as_str(), &**one)), &versions.routes, name)
    });
    put("clusters", &|| {
        listed(resources.clusters.iter().map(|(name, one)| (name.as_str(), &**one)), &versions.clusters, name)
    });
    put("endpoints", &|| {
        listed(resources.endpoints.iter().map(|(name, one)| (name.as_str(), &**one)), &versions.endpoints, name)
    });
    put("secrets", &|| {
        listed(resources.secrets.iter().map(|(name, one)| (name.as_str(), &**one)), &versions.secrets, name)
    });
    dump
}

fn about(shared: &Shared) -> Map<String, Value> {
    let not_enforced = enforced::not_enforced(&shared.effective().resources);
    [
        ("node", json!(shared.node)),
        ("source", json!(shared.source())),
        ("not_enforced", json!(not_enforced)),
        ("unbound_listeners", json!(shared.unbound())),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn listed<'a, T: Serialize + 'a>(
    resources: impl Iterator<Item = (&'a str, &'a T)>,
    versions: &std::collections::BTreeMap<String, String>,
    wanted: Option<&Regex>,
) -> Value {
    let wanted = resources.filter(|(name, _)| wanted.is_none_or(|wanted| wanted.is_match(name)));
    let rows = wanted.map(|(name, resource)| {
        let mut resource = json!(resource);
        redact::secrets(&mut resource);
        json!({ "name": name, "version": versions.get(name), "resource": resource })
    });
    Value::Array(rows.collect())
}

/// The fields that are shown, as paths through objects; a list is gone through as if it were each of its members.
struct Mask<'q>(Vec<Vec<&'q str>>);

impl<'q> Mask<'q> {
    fn parse(text: &'q str) -> Result<Self, QueryError> {
        let paths: Vec<Vec<&str>> = text.split(',').map(|path| path.split('.').collect()).collect();
        if paths.iter().flatten().any(|field| field.is_empty()) {
            let reason = "name fields as in name,version,resource.address";
            return Err(Query::wrong("mask", text, reason));
        }
        Ok(Self(paths))
    }

    fn of(&self, value: Value) -> Value {
        let paths: Vec<&[&str]> = self.0.iter().map(Vec::as_slice).collect();
        masked(value, &paths)
    }
}

fn masked(value: Value, paths: &[&[&str]]) -> Value {
    // A path that ends here shows all that is below.
    if paths.iter().any(|path| path.is_empty()) {
        return value;
    }
    match value {
        Value::Array(members) => members.into_iter().map(|member| masked(member, paths)).collect(),
        Value::Object(fields) => {
            let shown = fields.into_iter().filter_map(|(name, value)| {
                let below: Vec<&[&str]> = paths
                    .iter()
                    .filter_map(|path| path.split_first().filter(|(first, _)| **first == name).map(|(_, rest)| rest))
                    .collect();
                (!below.is_empty()).then(|| (name, masked(value, &below)))
            });
            Value::Object(shown.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_shows_its_fields_and_goes_through_lists() {
        let dump = json!({"clusters": [{"name": "a", "version": "1", "resource": {"x": 1, "y": [{"z": 2, "w": 3}]}}]});
        let rows = [
            ("clusters.name", json!({"clusters": [{"name": "a"}]})),
            ("clusters.resource.y.z", json!({"clusters": [{"resource": {"y": [{"z": 2}]}}]})),
            ("clusters.name,clusters.version", json!({"clusters": [{"name": "a", "version": "1"}]})),
            ("clusters,clusters.name", dump.clone()),
            ("routes", json!({})),
        ];
        for (mask, expected) in rows {
            assert_eq!(Mask::parse(mask).expect("a mask").of(dump.clone()), expected, "{mask}");
        }
        assert!(Mask::parse("a..b").is_err() && Mask::parse(",").is_err());
    }
}
