//! What `leno explain inject` asks a cluster: pods and what makes them, what namespaces say, and who else injects.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::client::{CallError, answer};
use super::others;
use crate::inject::Others;

/// Group, version, kind and plural of what has pods, the makers first.
const KINDS: [(&str, &str, &str, &str); 7] = [
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("batch", "v1", "CronJob", "cronjobs"),
    ("batch", "v1", "Job", "jobs"),
    ("", "v1", "Pod", "pods"),
];

/// The surroundings of pods, as a cluster has them at this moment.
#[derive(Debug)]
pub(crate) struct Surrounding {
    /// All Namespaces, with their labels and annotations.
    pub(crate) namespaces: Vec<Value>,
    pub(crate) others: Others,
}

/// Asks for the surroundings. Needs `list` of namespaces and of mutatingwebhookconfigurations.
pub(crate) async fn surrounding(client: &Client) -> Result<Surrounding, CallError> {
    let resource = ApiResource::erase::<Namespace>(&());
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    let all = answer(api.list(&ListParams::default())).await?;
    let namespaces = all.into_iter().map(|object| plain("v1", "Namespace", object)).collect();
    Ok(Surrounding { namespaces, others: others::ask(client).await? })
}

/// What has pods in a namespace and was not made by something else that is listed as well. With a kind (`deployment`, in
/// small letters), only objects of that kind, whoever made them.
pub(crate) async fn owners(client: &Client, namespace: &str, kind: Option<&str>) -> Result<Vec<Value>, CallError> {
    let mut found = Vec::new();
    for (group, version, name, plural) in KINDS {
        if kind.is_some_and(|kind| kind != name.to_lowercase()) {
            continue;
        }
        let gvk = GroupVersionKind::gvk(group, version, name);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        let all = answer(api.list(&ListParams::default())).await?;
        let is_made = |object: &DynamicObject| {
            let owners = object.metadata.owner_references.iter().flatten();
            owners.into_iter().any(|owner| owner.controller == Some(true))
        };
        let own = all.into_iter().filter(|object| kind.is_some() || !is_made(object));
        found.extend(own.map(|object| plain(&resource.api_version, name, object)));
    }
    Ok(found)
}

/// Kinds of which there can be one to ask for, in small letters.
pub(crate) fn kinds() -> impl Iterator<Item = String> {
    KINDS.into_iter().map(|(_, _, kind, _)| kind.to_lowercase())
}

/// As a person would write it: objects in lists do not say what they are, and nobody reads who owns which field.
fn plain(api_version: &str, kind: &str, object: DynamicObject) -> Value {
    let DynamicObject { metadata, mut data, .. } = object;
    if let Some(fields) = data.as_object_mut() {
        fields.remove("status");
        let metadata = json!({
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": metadata.labels.unwrap_or_default(),
            "annotations": metadata.annotations.unwrap_or_default(),
        });
        fields.extend([
            ("apiVersion".to_owned(), json!(api_version)),
            ("kind".to_owned(), json!(kind)),
            ("metadata".to_owned(), metadata),
        ]);
    }
    data
}
