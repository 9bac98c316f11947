//! The objects of a control plane, in the order in which they are applied.

use serde_json::{Map, Value, json};

use super::permissions;
use super::values::Values;
use crate::kubernetes::webhook::configurations::{self, Target};

/// The Service, the Deployment and whatever else there is one of.
const NAME: &str = "leno";
/// The control plane's user in its image.
const USER: u32 = 65532;
/// Where the injector's settings are mounted.
const SETTINGS: &str = "/etc/leno/injection.yaml";

/// Port, number and what for.
const PORTS: [(&str, u16); 3] = [("tls-xds", 15012), ("http-monitoring", 15014), ("https-webhook", 15017)];

/// All of them, for this namespace.
pub(crate) fn all(values: &Values, namespace: &str) -> Vec<Value> {
    let mut objects = vec![
        of_cluster("v1", "Namespace", namespace, json!({})),
        service_account(values, namespace),
        of_cluster("rbac.authorization.k8s.io/v1", "ClusterRole", NAME, json!({ "rules": permissions::of_cluster() })),
        binding("ClusterRole", namespace, None),
        within(
            namespace,
            "rbac.authorization.k8s.io/v1",
            "Role",
            NAME,
            json!({ "rules": permissions::of_namespace() }),
        ),
        binding("Role", namespace, Some(namespace)),
        settings(values, namespace),
        service(namespace),
        deployment(values, namespace),
    ];
    if values.pod_disruption_budget.enabled {
        let spec = json!({ "spec": { "maxUnavailable": 1, "selector": { "matchLabels": labels() } } });
        objects.push(within(namespace, "policy/v1", "PodDisruptionBudget", NAME, spec));
    }
    if values.network_policy.enabled {
        objects.push(network_policy(namespace));
    }
    let target = Target { namespace, service: NAME, port: 443, ca: None };
    objects.extend([configurations::mutating(target), configurations::validating(target)]);
    if values.pod_monitor.enabled {
        objects.extend([monitor_of_sidecars(values, namespace), monitor_of_itself(values, namespace)]);
    }
    objects
}

/// By which everything of it is found.
fn labels() -> Value {
    json!({ "app.kubernetes.io/name": "leno", "app.kubernetes.io/component": "control-plane" })
}

fn object(api_version: &str, kind: &str, metadata: Value, rest: Value) -> Value {
    let mut object = json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata });
    for (key, value) in rest.as_object().cloned().unwrap_or_default() {
        object[key] = value;
    }
    object
}

fn of_cluster(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    object(api_version, kind, json!({ "name": name, "labels": with_manager() }), rest)
}

fn within(namespace: &str, api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    object(api_version, kind, json!({ "name": name, "namespace": namespace, "labels": with_manager() }), rest)
}

fn with_manager() -> Value {
    json!({ "app.kubernetes.io/name": "leno", "app.kubernetes.io/managed-by": "leno" })
}

fn service_account(values: &Values, namespace: &str) -> Value {
    let mut rest = json!({});
    if !values.image_pull_secrets.is_empty() {
        rest["imagePullSecrets"] = json!(values.image_pull_secrets);
    }
    within(namespace, "v1", "ServiceAccount", NAME, rest)
}

fn binding(of: &str, account_of: &str, namespace: Option<&str>) -> Value {
    let rest = json!({
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": of, "name": NAME },
        "subjects": [{ "kind": "ServiceAccount", "name": NAME, "namespace": account_of }],
    });
    let (api, kind) = ("rbac.authorization.k8s.io/v1", format!("{of}Binding"));
    match namespace {
        Some(namespace) => within(namespace, api, &kind, NAME, rest),
        None => of_cluster(api, &kind, NAME, rest),
    }
}

/// What pods get, as the injector reads it.
fn settings(values: &Values, namespace: &str) -> Value {
    let mut settings = Map::from_iter([
        ("image".to_owned(), image(&values.proxy_image, concat!("leno-proxy:", env!("CARGO_PKG_VERSION"))).into()),
        ("initImage".to_owned(), image(&values.init_image, concat!("leno-init:", env!("CARGO_PKG_VERSION"))).into()),
    ]);
    settings.insert("ownNamespace".to_owned(), namespace.into());
    settings.insert("controlPlane".to_owned(), format!("https://{NAME}.{namespace}.svc:15012").into());
    settings.extend(values.injection.clone());
    // JSON is YAML, and it is how Helm writes a mapping without knowing its keys.
    let text = Value::Object(settings).to_string();
    within(namespace, "v1", "ConfigMap", "leno-injection", json!({ "data": { "injection.yaml": text } }))
}

/// The image that was chosen, or the one of this version.
fn image<'a>(chosen: &'a str, ours: &'a str) -> &'a str {
    if chosen.is_empty() { ours } else { chosen }
}

fn service(namespace: &str) -> Value {
    let mut ports: Vec<Value> =
        PORTS.iter().map(|(name, port)| json!({ "name": name, "port": port, "targetPort": name })).collect();
    // The API server calls webhooks at 443 unless told otherwise.
    if let Some(webhook) = ports.last_mut() {
        webhook["port"] = json!(443);
    }
    within(namespace, "v1", "Service", NAME, json!({ "spec": { "selector": labels(), "ports": ports } }))
}

fn deployment(values: &Values, namespace: &str) -> Value {
    let mut pod = json!({
        "serviceAccountName": NAME,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container(values)],
        "volumes": [
            { "name": "state", "emptyDir": { "medium": "Memory", "sizeLimit": "128Mi" } },
            { "name": "injection", "configMap": { "name": "leno-injection" } },
        ],
        // Replicas on one node would go together with it.
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": labels() },
        }],
    });
    if values.node_selector.as_object().is_some_and(|selector| !selector.is_empty()) {
        pod["nodeSelector"] = values.node_selector.clone();
    }
    if !values.tolerations.is_empty() {
        pod["tolerations"] = json!(values.tolerations);
    }
    if !values.priority_class_name.is_empty() {
        pod["priorityClassName"] = json!(values.priority_class_name);
    }
    // A control plane has no sidecar: it is what sidecars ask.
    let mut pod_labels = labels();
    pod_labels["leno.mesh/inject"] = json!("disabled");
    pod_labels["sidecar.istio.io/inject"] = json!("false");
    let spec = json!({
        "replicas": values.replicas,
        "selector": { "matchLabels": labels() },
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
        "template": { "metadata": { "labels": pod_labels }, "spec": pod },
    });
    within(namespace, "apps/v1", "Deployment", NAME, json!({ "spec": spec }))
}

fn container(values: &Values) -> Value {
    let image = image(&values.image, concat!("leno:", env!("CARGO_PKG_VERSION")));
    let at = |port: u16| format!("{}:{port}", values.listen_address);
    let from_pod = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let [(_, tls), (_, http), (_, webhook)] = PORTS;
    json!({
        "name": NAME,
        "image": image,
        "imagePullPolicy": values.image_pull_policy,
        "args": ["serve", "--kubernetes"],
        "env": [
            from_pod("LENO_POD_NAME", "metadata.name"),
            from_pod("LENO_NAMESPACE", "metadata.namespace"),
            { "name": "LENO_TLS_ADDRESS", "value": at(tls) },
            { "name": "LENO_HTTP_ADDRESS", "value": at(http) },
            { "name": "LENO_WEBHOOK_ADDRESS", "value": at(webhook) },
            { "name": "LENO_INJECTION", "value": SETTINGS },
            { "name": "LENO_STATE", "value": "/var/lib/leno" },
            { "name": "LENO_LOG", "value": values.log_level },
            { "name": "LENO_LOG_FORMAT", "value": values.log_format },
        ],
        "ports": PORTS.map(|(name, port)| json!({ "name": name, "containerPort": port, "protocol": "TCP" })),
        "readinessProbe": {
            "httpGet": { "path": "/ready", "port": "http-monitoring" }, "periodSeconds": 2, "timeoutSeconds": 5,
        },
        "livenessProbe": {
            "tcpSocket": { "port": "http-monitoring" }, "periodSeconds": 20, "timeoutSeconds": 5, "failureThreshold": 3,
        },
        "resources": values.resources,
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [
            { "name": "state", "mountPath": "/var/lib/leno" },
            { "name": "injection", "mountPath": "/etc/leno", "readOnly": true },
        ],
    })
}

/// Sidecars, Prometheus and the API server call from anywhere, and only on these ports.
fn network_policy(namespace: &str) -> Value {
    let ports = PORTS.map(|(_, port)| json!({ "protocol": "TCP", "port": port }));
    let spec = json!({
        "podSelector": { "matchLabels": labels() },
        "policyTypes": ["Ingress"],
        "ingress": [{ "ports": ports }],
    });
    within(namespace, "networking.k8s.io/v1", "NetworkPolicy", NAME, json!({ "spec": spec }))
}

/// Every sidecar of the cluster: of all pods those with the port that only sidecars have.
fn monitor_of_sidecars(values: &Values, namespace: &str) -> Value {
    let spec = json!({
        "namespaceSelector": { "any": true },
        "selector": {},
        "podMetricsEndpoints": [{
            "port": "http-leno-prom", "path": "/stats/prometheus", "interval": values.pod_monitor.interval,
            "relabelings": job("leno-proxy"),
        }],
    });
    within(namespace, "monitoring.coreos.com/v1", "PodMonitor", "leno-sidecars", json!({ "spec": spec }))
}

/// What alerts and dashboards call it; the operator would make a name of the monitor's.
fn job(name: &str) -> Value {
    json!([{ "targetLabel": "job", "replacement": name }])
}

fn monitor_of_itself(values: &Values, namespace: &str) -> Value {
    let spec = json!({
        "selector": { "matchLabels": labels() },
        "podMetricsEndpoints": [{
            "port": "http-monitoring", "path": "/metrics", "interval": values.pod_monitor.interval,
            "relabelings": job("leno-control-plane"),
        }],
    });
    within(namespace, "monitoring.coreos.com/v1", "PodMonitor", NAME, json!({ "spec": spec }))
}
