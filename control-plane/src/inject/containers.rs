//! What is put into a pod: a container that redirects its traffic, the sidecar, and their volumes.
//!
//! The set-up container is root with `NET_ADMIN` and `NET_RAW`, which writing redirect rules needs, and has ended before
//! anything of the app starts. The sidecar has no capability at all, a read-only root, and user and group 1337, by which
//! the redirect rules know its own traffic.

use serde_json::{Map, Value, json};

use super::Surroundings;
use super::knobs::{Capture, Knobs};
use super::marks::Marks;
use super::probes;
use super::settings::{Resources, Settings, Sidecar};

/// The container that redirects traffic and ends.
pub(super) const INIT: &str = "leno-init";
/// The sidecar.
pub(super) const PROXY: &str = "leno-proxy";
/// Token by which the sidecar says who it is.
pub(super) const TOKEN_VOLUME: &str = "leno-token";
/// Roots of the control plane's certificate.
pub(super) const ROOT_VOLUME: &str = "leno-root";
/// What the sidecar keeps: keys among it, hence memory.
pub(super) const STATE_VOLUME: &str = "leno-state";

/// The program in the image, found by `PATH`.
const PROGRAM: &str = "leno-proxy";
/// User and group of the sidecar; its own traffic is known by them and not redirected.
pub(super) const ID: u32 = 1337;
const READY_PORT: u16 = 15021;
const METRICS_PORT: u16 = 15090;

/// What the app's side of the pod says that the sidecar has to know.
#[derive(Debug, Default)]
pub(super) struct AppFacts {
    /// `LENO_APP_PROBES`.
    pub(super) probes: Map<String, Value>,
    /// `LENO_APP_METRICS`.
    pub(super) metrics: Option<String>,
}

/// `leno-init`; `None` where nothing is redirected.
pub(super) fn init(knobs: &Knobs, settings: &Settings) -> Option<Value> {
    let capture = knobs.capture.as_ref()?;
    let mut container = json!({
        "name": INIT,
        "image": settings.init_image,
        "command": [PROGRAM],
        "args": redirect(capture),
        "env": [{ "name": "LENO_LOG", "value": knobs.log }],
        "resources": {
            "requests": { "cpu": "10m", "memory": "16Mi" },
            "limits": { "cpu": "100m", "memory": "64Mi" },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        // iptables takes a lock in a file there.
        "volumeMounts": [{ "name": STATE_VOLUME, "mountPath": "/run" }],
    });
    pull_policy(&mut container, settings);
    Some(container)
}

/// `leno-proxy`.
pub(super) fn proxy(
    knobs: &Knobs,
    settings: &Settings,
    pod: &Marks,
    around: &Surroundings<'_>,
    app: &AppFacts,
) -> Value {
    let mut container = json!({
        "name": PROXY,
        "image": knobs.image,
        "command": [PROGRAM],
        "args": ["run"],
        "env": environment(knobs, settings, pod, around, app),
        "ports": [
            { "name": "leno-merged", "containerPort": probes::PORT, "protocol": "TCP" },
            { "name": "leno-ready", "containerPort": READY_PORT, "protocol": "TCP" },
            { "name": "http-leno-prom", "containerPort": METRICS_PORT, "protocol": "TCP" },
        ],
        "readinessProbe": ready(json!({ "periodSeconds": 15, "failureThreshold": 4 })),
        "resources": resources(&knobs.resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": ID,
            "runAsNonRoot": true,
            "runAsUser": ID,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": TOKEN_VOLUME, "mountPath": "/var/run/secrets/leno", "readOnly": true },
            { "name": ROOT_VOLUME, "mountPath": "/var/run/secrets/leno-root", "readOnly": true },
            { "name": STATE_VOLUME, "mountPath": "/var/lib/leno" },
        ],
    });
    if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
        mounts.extend(knobs.volume_mounts.iter().cloned());
    }
    match knobs.sidecar {
        Sidecar::Native => {
            set(&mut container, "restartPolicy", json!("Always"));
            // Ten minutes: a control plane that is being rolled out is waited for.
            set(&mut container, "startupProbe", ready(json!({ "periodSeconds": 1, "failureThreshold": 600 })));
        }
        Sidecar::Container if knobs.hold_application => {
            // The kubelet starts the next container when this hook has ended.
            let wait = json!({ "postStart": { "exec": { "command": [PROGRAM, "wait"] } } });
            set(&mut container, "lifecycle", wait);
        }
        Sidecar::Container => {}
    }
    pull_policy(&mut container, settings);
    container
}

/// The volumes of both, and what the pod wants for the sidecar beside them.
pub(super) fn volumes(knobs: &Knobs, settings: &Settings) -> Vec<Value> {
    let ours = vec![
        json!({
            "name": TOKEN_VOLUME,
            "projected": { "sources": [{ "serviceAccountToken": {
                "audience": settings.token_audience,
                "expirationSeconds": settings.token_seconds,
                "path": "token",
            } }] },
        }),
        json!({ "name": ROOT_VOLUME, "configMap": { "name": settings.root_config_map } }),
        json!({ "name": STATE_VOLUME, "emptyDir": { "medium": "Memory" } }),
    ];
    [ours, knobs.volumes.clone()].concat()
}

/// As istio-iptables takes them; a list that is empty says so, lest a default of the program counts.
fn redirect(capture: &Capture) -> Vec<String> {
    let id = ID.to_string();
    let flags = [
        ("--outbound-port", "15001"),
        ("--inbound-port", "15006"),
        ("--proxy-uid", &id),
        ("--proxy-gid", &id),
        ("--include-inbound-ports", &capture.include_inbound_ports),
        ("--exclude-inbound-ports", &capture.exclude_inbound_ports),
        ("--include-outbound-ports", &capture.include_outbound_ports),
        ("--exclude-outbound-ports", &capture.exclude_outbound_ports),
        ("--include-outbound-ranges", &capture.include_outbound_ranges),
        ("--exclude-outbound-ranges", &capture.exclude_outbound_ranges),
    ];
    let flags = flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]);
    ["redirect", "apply"].into_iter().map(str::to_owned).chain(flags).collect()
}

fn environment(
    knobs: &Knobs,
    settings: &Settings,
    pod: &Marks,
    around: &Surroundings<'_>,
    app: &AppFacts,
) -> Vec<Value> {
    let text = |name: &str, value: &str| json!({ "name": name, "value": value });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let labels: Vec<String> = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let interception = if knobs.capture.is_some() { "redirect" } else { "none" };
    let mut environment = vec![
        field("LENO_NODE_NAME", "metadata.name"),
        field("LENO_NODE_IP", "status.podIP"),
        field("LENO_NODE_NAMESPACE", "metadata.namespace"),
        field("LENO_NODE_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        text("LENO_NODE_WORKLOAD", around.workload),
        text("LENO_INTERCEPTION", interception),
        text("LENO_CONTROL_PLANE_ADDRESS", &settings.control_plane),
        text("LENO_CONTROL_PLANE_ROOT", "/var/run/secrets/leno-root/root-cert.pem"),
        text("LENO_CONTROL_PLANE_TOKEN", "/var/run/secrets/leno/token"),
        text("LENO_STATE", "/var/lib/leno"),
        text("LENO_READY", &format!("0.0.0.0:{READY_PORT}")),
        text("LENO_METRICS", &format!("0.0.0.0:{METRICS_PORT}")),
        text("LENO_MERGED", &format!("0.0.0.0:{}", probes::PORT)),
        text("LENO_LOG", &knobs.log),
    ];
    let optional = [
        ("LENO_NODE_LABELS", (!labels.is_empty()).then(|| labels.join(","))),
        ("LENO_APP_PROBES", (!app.probes.is_empty()).then(|| Value::Object(app.probes.clone()).to_string())),
        ("LENO_APP_METRICS", app.metrics.clone()),
        ("LENO_WORKERS", knobs.workers.map(|workers| workers.to_string())),
        ("LENO_DRAIN", knobs.drain.clone()),
    ];
    environment.extend(optional.into_iter().filter_map(|(name, value)| Some(text(name, &value?))));
    environment
}

/// A probe of the proxy's readiness with more settings.
fn ready(mut more: Value) -> Value {
    set(&mut more, "httpGet", json!({ "path": "/healthz/ready", "port": READY_PORT, "scheme": "HTTP" }));
    set(&mut more, "timeoutSeconds", json!(3));
    more
}

fn resources(resources: &Resources) -> Value {
    let amounts = |cpu: &Option<String>, memory: &Option<String>| {
        let named = [("cpu", cpu), ("memory", memory)].into_iter();
        let amounts: Map<String, Value> =
            named.filter_map(|(name, amount)| Some((name.to_owned(), json!(amount.as_ref()?)))).collect();
        (!amounts.is_empty()).then_some(Value::Object(amounts))
    };
    let groups = [
        ("requests", amounts(&resources.cpu, &resources.memory)),
        ("limits", amounts(&resources.cpu_limit, &resources.memory_limit)),
    ];
    groups.into_iter().filter_map(|(name, group)| Some((name.to_owned(), group?))).collect::<Map<_, _>>().into()
}

fn pull_policy(container: &mut Value, settings: &Settings) {
    if let Some(policy) = &settings.image_pull_policy {
        set(container, "imagePullPolicy", json!(policy));
    }
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}
