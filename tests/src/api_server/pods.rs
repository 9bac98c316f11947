//! What Kubernetes' own kinds are given when they are written: the defaults of pods and of what makes pods, and what the
//! admission of service accounts and tolerations adds to a pod.
//!
//! The recorded server mounts one ConfigMap more than a plain one (`openshift-service-ca.crt`); it is kept, because it is
//! what was recorded.

use serde_json::{Value, json};

use super::state::State;

/// Where the token of a service account is mounted.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Name of its volume, before the letters.
const TOKEN_VOLUME: &str = "kube-api-access-";

/// Defaults of a pod.
pub(super) fn fill_in_pod(pod: &mut Value) {
    fill_in_spec(&mut pod["spec"]);
    set(&mut pod["spec"], "enableServiceLinks", json!(true));
    if let Some(account) = pod["spec"].get("serviceAccountName").cloned() {
        set(&mut pod["spec"], "serviceAccount", account);
    }
    let conditions = pod.get_mut("status").and_then(|status| status.get_mut("conditions"));
    for condition in conditions.and_then(Value::as_array_mut).into_iter().flatten() {
        set(condition, "lastProbeTime", Value::Null);
        set(condition, "lastTransitionTime", Value::Null);
    }
}

/// Defaults of the pod that a Deployment or the like makes.
pub(super) fn fill_in_template(template: &mut Value) {
    fill_in_spec(&mut template["spec"]);
}

fn fill_in_spec(spec: &mut Value) {
    for (field, default) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
    ] {
        set(spec, field, default);
    }
    for list in ["initContainers", "containers"] {
        spec[list].as_array_mut().into_iter().flatten().for_each(fill_in_container);
    }
    if spec["initContainers"].is_null() {
        spec.as_object_mut().into_iter().for_each(|spec| drop(spec.remove("initContainers")));
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        fill_in_volume(volume);
    }
}

fn fill_in_container(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    let is_moving = !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
    for (field, default) in [
        ("resources", json!({})),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
        ("imagePullPolicy", json!(if is_moving { "Always" } else { "IfNotPresent" })),
    ] {
        set(container, field, default);
    }
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set(port, "protocol", json!("TCP"));
    }
    for variable in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(field) = variable.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
            set(field, "apiVersion", json!("v1"));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) else { continue };
        for (field, default) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            set(probe, field, json!(default));
        }
        if let Some(http) = probe.get_mut("httpGet") {
            set(http, "scheme", json!("HTTP"));
        }
    }
}

fn fill_in_volume(volume: &mut Value) {
    for kind in ["configMap", "secret", "projected", "downwardAPI"] {
        if let Some(source) = volume.get_mut(kind).filter(|source| source.is_object()) {
            set(source, "defaultMode", json!(420));
        }
    }
    let sources = volume.get_mut("projected").and_then(|projected| projected.get_mut("sources"));
    for source in sources.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(token) = source.get_mut("serviceAccountToken") {
            set(token, "expirationSeconds", json!(3600));
        }
        let items = source.get_mut("downwardAPI").and_then(|api| api.get_mut("items"));
        for item in items.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(field) = item.get_mut("fieldRef") {
                set(field, "apiVersion", json!("v1"));
            }
        }
    }
}

/// What the server's own admission does to a pod, before the webhooks and again after them: a sidecar that a webhook
/// adds gets the token as well.
pub(super) fn admit(state: &State, pod: &mut Value) {
    let spec = &mut pod["spec"];
    let account = spec["serviceAccountName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default").to_owned();
    spec["serviceAccountName"] = json!(account);
    spec["serviceAccount"] = json!(account);
    if spec["automountServiceAccountToken"] != false {
        mount_token(state, spec);
    }
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let list = list(spec, "tolerations");
        if !list.iter().any(|there| there["key"] == key) {
            list.push(toleration);
        }
    }
    set(spec, "priority", json!(0));
    set(spec, "preemptionPolicy", json!("PreemptLowerPriority"));
}

fn mount_token(state: &State, spec: &mut Value) {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let there = volumes.filter_map(|volume| volume["name"].as_str()).find(|name| name.starts_with(TOKEN_VOLUME));
    let is_new = there.is_none();
    let name = there.map_or_else(|| format!("{TOKEN_VOLUME}{}", state.suffix()), str::to_owned);
    let mut is_mounted = false;
    for kind in ["initContainers", "containers"] {
        for container in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = list(container, "volumeMounts");
            if mounts.iter().any(|mount| mount["mountPath"] == TOKEN_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
            is_mounted = true;
        }
    }
    if is_mounted && is_new {
        list(spec, "volumes").push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    let file = |map: &str, key: &str| json!({"configMap": {"name": map, "items": [{"key": key, "path": key}]}});
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        file("kube-root-ca.crt", "ca.crt"),
        {"downwardAPI": {"items": [namespace]}},
        file("openshift-service-ca.crt", "service-ca.crt"),
    ]);
    json!({"name": name, "projected": {"sources": sources, "defaultMode": 420}})
}

fn list<'a>(object: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    let list = &mut object[field];
    if !list.is_array() {
        *list = json!([]);
    }
    list.as_array_mut().expect("invariant: it was just made an array")
}

/// Sets a field that nobody set.
pub(super) fn set(object: &mut Value, field: &str, default: Value) {
    if object.get(field).is_none_or(Value::is_null) {
        object[field] = default;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_server::state::Settings;

    #[test]
    fn the_token_is_mounted_into_every_container_by_one_volume() {
        let state = State::new(Settings::default(), String::new());
        let mut pod = json!({"spec": {"containers": [{"name": "app", "image": "web:1"}]}});
        fill_in_pod(&mut pod);
        admit(&state, &mut pod);
        pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "proxy", "image": "proxy"}));
        fill_in_pod(&mut pod);
        admit(&state, &mut pod);
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        assert_eq!(volumes.len(), 1);
        for container in pod["spec"]["containers"].as_array().unwrap() {
            assert_eq!(container["volumeMounts"][0]["name"], volumes[0]["name"], "{container}");
        }
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let policies: Vec<&Value> =
            pod["spec"]["containers"].as_array().unwrap().iter().map(|one| &one["imagePullPolicy"]).collect();
        assert_eq!(policies, [&json!("IfNotPresent"), &json!("Always")]);
    }

    #[test]
    fn who_wants_no_token_gets_none() {
        let state = State::new(Settings::default(), String::new());
        let mut pod = json!({"spec": {"automountServiceAccountToken": false, "containers": [{"name": "app"}]}});
        admit(&state, &mut pod);
        assert!(pod["spec"]["volumes"].is_null() && pod["spec"]["containers"][0].get("volumeMounts").is_none());
    }
}
