//! The kinds of rules, as a cluster is taught them: CustomResourceDefinitions, made of the very structs that read the rules
//! ([`leno_config::rules::schema`]).
//!
//! Kubernetes wants *structural* schemas: no references, a type everywhere, and nothing that a value may not have. What
//! they say here is names, types and descriptions, for `kubectl explain` and so that nothing but a number is where a number
//! is read. What they do not say is what a value has to be (words, patterns, limits), and they keep fields that they do not
//! know (`x-kubernetes-preserve-unknown-fields`): all that `leno validate` finds wrong then reaches Leno, whose webhook and
//! whose status say it in its own words, with the field that was probably meant. A schema that refused it first would say
//! less, and one that pruned it would say nothing.

use std::collections::BTreeSet;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use leno_config::rules::schema::{self, CustomKind};
use serde_json::{Map, Value, json};

use super::client::{CallError, answer};

/// Says who made an object.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Which version of Leno made a definition.
const MADE_BY: &str = "leno.mesh/version";

/// All definitions, in the order in which the kinds are explained.
pub(crate) fn definitions() -> Vec<Value> {
    schema::custom_kinds().map(definition).collect()
}

/// Names of definitions that are in the cluster and that somebody else made.
pub(crate) async fn of_others(client: &Client) -> Result<BTreeSet<String>, CallError> {
    let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "customresourcedefinitions");
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    let mut of_others = BTreeSet::new();
    for kind in schema::custom_kinds() {
        let name = name(kind);
        let known = answer(api.get_opt(&name)).await?;
        let is_ours = |known: &DynamicObject| {
            known.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == "leno")
        };
        if known.is_some_and(|known| !is_ours(&known)) {
            of_others.insert(name);
        }
    }
    Ok(of_others)
}

/// `virtualservices.networking.istio.io`
fn name(kind: CustomKind) -> String {
    format!("{}.{}", kind.plural(), kind.group)
}

fn definition(kind: CustomKind) -> Value {
    let schema = schema::of_kind(kind.name).unwrap_or_default();
    let structural = object_schema(&schema);
    let versions = kind.versions.iter().enumerate().map(|(index, version)| {
        json!({
            "name": version,
            "served": true,
            // Versions differ in name alone; the newest is what is kept.
            "storage": index == 0,
            "subresources": { "status": {} },
            "additionalPrinterColumns": columns(kind.name),
            "schema": { "openAPIV3Schema": structural },
        })
    });
    let category = kind.group.replace('.', "-");
    let mut names = json!({
        "kind": kind.name,
        "listKind": format!("{}List", kind.name),
        "plural": kind.plural(),
        "singular": kind.name.to_ascii_lowercase(),
        "categories": if kind.group.ends_with("istio.io") { vec!["istio-io", category.as_str()] } else { vec![category.as_str()] },
    });
    if let (Some(short), Some(names)) = (short_name(kind.name), names.as_object_mut()) {
        names.insert("shortNames".to_owned(), json!([short]));
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": name(kind),
            "labels": { MANAGED_BY: "leno", "app.kubernetes.io/part-of": "leno" },
            "annotations": { MADE_BY: env!("CARGO_PKG_VERSION") },
        },
        "spec": {
            "group": kind.group,
            "scope": "Namespaced",
            "names": names,
            "versions": versions.collect::<Vec<_>>(),
        },
    })
}

/// What Istio calls them for short.
fn short_name(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "VirtualService" => "vs",
        "DestinationRule" => "dr",
        "ServiceEntry" => "se",
        "WorkloadEntry" => "we",
        "AuthorizationPolicy" => "ap",
        "PeerAuthentication" => "pa",
        "RequestAuthentication" => "ra",
        _ => return None,
    })
}

/// What `kubectl get` shows: what Istio's definitions show, and how the rule stands.
fn columns(kind: &str) -> Value {
    let column = |name: &str, path: &str| json!({ "name": name, "type": "string", "jsonPath": path });
    let own: &[(&str, &str)] = match kind {
        "VirtualService" => &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts")],
        "DestinationRule" | "HealthCheck" => &[("Host", ".spec.host")],
        "ServiceEntry" => {
            &[("Hosts", ".spec.hosts"), ("Location", ".spec.location"), ("Resolution", ".spec.resolution")]
        }
        "WorkloadEntry" => &[("Address", ".spec.address")],
        "AuthorizationPolicy" => &[("Action", ".spec.action")],
        "PeerAuthentication" => &[("Mode", ".spec.mtls.mode")],
        _ => &[],
    };
    let mut columns: Vec<_> = own.iter().map(|(name, path)| column(name, path)).collect();
    columns.push(column("Accepted", r#".status.conditions[?(@.type=="Accepted")].status"#));
    columns.push(column("Propagated", r#".status.conditions[?(@.type=="Propagated")].message"#));
    columns.push(json!({ "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" }));
    Value::Array(columns)
}

/// The structural schema of an object: what its `spec` says, and a `status` of which everybody may write what he likes.
fn object_schema(schema: &Value) -> Value {
    let root = schema.get("definitions").unwrap_or(&Value::Null);
    let spec = schema.pointer("/properties/spec").map(|spec| structural(spec, root, &mut Vec::new()));
    json!({
        "description": schema.get("description"),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": spec,
            "status": {
                "description": "How the rule stands. Leno writes the conditions Accepted and Propagated.",
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": {
                    "conditions": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["type"],
                        "items": condition(),
                    },
                },
            },
        },
    })
}

/// A list that is a map by its `type`, so that several writers each own their conditions.
fn condition() -> Value {
    json!({
        "type": "object",
        "required": ["type"],
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "type": { "type": "string" },
            "status": { "type": "string" },
            "reason": { "type": "string" },
            "message": { "type": "string" },
            "lastTransitionTime": { "type": "string", "format": "date-time" },
        },
    })
}

/// A part of a schema without references. `inside` are the parts around it: one that contains itself is cut there.
fn structural(part: &Value, root: &Value, inside: &mut Vec<String>) -> Value {
    if let Some(name) = part.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/definitions/")) {
        if inside.iter().any(|known| known == name) {
            return anything();
        }
        inside.push(name.to_owned());
        let whole = structural(root.get(name).unwrap_or(&Value::Null), root, inside);
        inside.pop();
        return whole;
    }
    let mut made = match part.get("allOf").and_then(|all| all.get(0)) {
        Some(inner) => into_map(structural(inner, root, inside)),
        None => typed(part, root, inside),
    };
    if let Some(about) = part.get("description").filter(|about| about.is_string()) {
        made.insert("description".to_owned(), about.clone());
    }
    Value::Object(made)
}

fn typed(part: &Value, root: &Value, inside: &mut Vec<String>) -> Map<String, Value> {
    let made = match part.get("type") {
        Some(Value::Array(_)) => json!({ "x-kubernetes-int-or-string": true }),
        Some(Value::String(word)) if word == "array" => {
            let items = part.get("items").map_or_else(anything, |items| structural(items, root, inside));
            json!({ "type": "array", "items": items })
        }
        Some(Value::String(word)) if word == "object" => {
            match (part.get("properties"), part.get("additionalProperties")) {
                (Some(Value::Object(fields)), _) => {
                    let fields = fields.iter().map(|(name, field)| (name.clone(), structural(field, root, inside)));
                    json!({
                        "type": "object",
                        "properties": fields.collect::<Map<_, _>>(),
                        "x-kubernetes-preserve-unknown-fields": true,
                    })
                }
                (_, Some(values @ Value::Object(_))) => {
                    json!({ "type": "object", "additionalProperties": structural(values, root, inside) })
                }
                _ => anything(),
            }
        }
        Some(Value::String(word)) => json!({ "type": word }),
        _ => anything(),
    };
    into_map(made)
}

/// Whatever object it is.
fn anything() -> Value {
    json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn into_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules for structural schemas (`apiextensions/v1`, "Specifying a structural schema").
    fn assert_structural(at: &str, schema: &Value) {
        let keys = schema.as_object().unwrap_or_else(|| panic!("{at}: {schema}"));
        const ALLOWED: [&str; 11] = [
            "type",
            "description",
            "properties",
            "additionalProperties",
            "items",
            "required",
            "format",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-int-or-string",
            "x-kubernetes-list-type",
            "x-kubernetes-list-map-keys",
        ];
        for key in keys.keys() {
            assert!(ALLOWED.contains(&key.as_str()), "{at}: {key}");
        }
        assert!(keys.contains_key("type") != keys.contains_key("x-kubernetes-int-or-string"), "{at} has one type");
        assert!(!(keys.contains_key("properties") && keys.contains_key("additionalProperties")), "{at}");
        if keys.get("type").is_some_and(|word| word == "array") {
            assert_structural(&format!("{at}[]"), &keys["items"]);
        }
        for (name, field) in keys.get("properties").and_then(Value::as_object).into_iter().flatten() {
            assert_structural(&format!("{at}.{name}"), field);
        }
        if let Some(values) = keys.get("additionalProperties") {
            assert_structural(&format!("{at}.*"), values);
        }
    }

    #[test]
    fn every_schema_is_structural() {
        for definition in definitions() {
            let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
            let versions = definition["spec"]["versions"].as_array().unwrap();
            for version in versions {
                assert_structural(&name, &version["schema"]["openAPIV3Schema"]);
            }
            assert_eq!(versions.iter().filter(|version| version["storage"] == true).count(), 1, "{name}");
        }
    }

    #[test]
    fn kinds_are_served_in_the_versions_of_istio_under_the_names_of_istio() {
        let served = |definition: &Value| {
            let versions = definition["spec"]["versions"].as_array().cloned().unwrap_or_default();
            let versions: Vec<_> =
                versions.iter().map(|version| version["name"].as_str().unwrap().to_owned()).collect();
            format!("{} {}", definition["metadata"]["name"].as_str().unwrap(), versions.join(","))
        };
        let all: Vec<_> = definitions().iter().map(served).collect();
        for expected in [
            "virtualservices.networking.istio.io v1,v1beta1,v1alpha3",
            "serviceentries.networking.istio.io v1,v1beta1,v1alpha3",
            "authorizationpolicies.security.istio.io v1,v1beta1",
            "peerauthentications.security.istio.io v1,v1beta1",
            "meshconfigs.leno.mesh v1alpha1",
        ] {
            assert!(all.iter().any(|it| it == expected), "{expected}: {all:?}");
        }
        assert!(!all.iter().any(|it| it.starts_with("services.") || it.starts_with("endpointslices.")), "{all:?}");
    }

    #[test]
    fn fields_types_and_descriptions_are_those_of_the_structs() {
        let definition = definitions().remove(0);
        let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let route = &spec["properties"]["http"]["items"]["properties"];
        assert_eq!(route["timeout"]["type"], "string");
        assert_eq!(route["timeout"]["description"], "For the whole request; absent: none.");
        assert_eq!(route["route"]["items"]["properties"]["weight"]["type"], "integer");
        assert_eq!(definition["metadata"]["labels"][MANAGED_BY], "leno");
        assert_eq!(spec["x-kubernetes-preserve-unknown-fields"], true);
    }
}
