//! Probes that go through the proxy.
//!
//! The kubelet has no certificate: where only mTLS is let in, an app would never become ready. So an HTTP, TCP or gRPC
//! probe is pointed at the proxy's port 15020, which is not redirected, and the proxy asks the app as the kubelet would
//! have. The paths are Istio's (`/app-health/CONTAINER/{livez,readyz,startupz}`), and so is the JSON in which the proxy
//! gets to know what was asked. A command runs inside the container and stays as it is.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The port of the proxy that answers probes.
pub(super) const PORT: u16 = 15020;

/// The probes of a container, and the last step of the path at which the proxy answers each.
const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];
/// What can be asked of an app over the network.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];
/// What every path begins with.
const PREFIX: &str = "/app-health/";

/// What probes were: container → probe → its handler, as `{"httpGet": {…}}`.
pub(super) type Originals = BTreeMap<String, BTreeMap<String, Value>>;

/// What became of a pod's probes.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    /// Value of `LENO_APP_PROBES`: path → what to ask. Empty where no probe was rewritten.
    pub(super) asked: Map<String, Value>,
    /// For undoing.
    pub(super) originals: Originals,
}

/// Points the probes of all containers of `spec` at the proxy. One that cannot be understood stays, with a word in
/// `warnings`.
pub(super) fn rewrite(spec: &mut Map<String, Value>, warnings: &mut Vec<String>) -> Rewritten {
    let mut rewritten = Rewritten::default();
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let Some(name) = container.get("name").and_then(Value::as_str).map(str::to_owned) else { continue };
            for (probe, step) in PROBES {
                if let Err(why) = rewrite_one(container, &name, probe, step, &mut rewritten) {
                    warnings.push(format!(
                        "{probe} of container {name} is left as it is, because {why}; where only mTLS is let in it will fail"
                    ));
                }
            }
            warnings.extend(direct_hooks(container, &name));
        }
    }
    rewritten
}

/// Puts back what [`rewrite`] took out. A probe that somebody has changed since stays as it is.
pub(super) fn restore(spec: &mut Map<String, Value>, originals: &Originals) {
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let Some(probes) = container.get("name").and_then(Value::as_str).and_then(|name| originals.get(name))
            else {
                continue;
            };
            for (name, original) in probes {
                let Some(probe) = container.get_mut(name).and_then(Value::as_object_mut) else { continue };
                if !asks_proxy(probe) {
                    continue;
                }
                probe.remove("httpGet");
                probe.extend(
                    original.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())),
                );
            }
        }
    }
}

fn rewrite_one(
    container: &mut Map<String, Value>,
    name: &str,
    probe: &str,
    step: &str,
    rewritten: &mut Rewritten,
) -> Result<(), String> {
    let ports = container.get("ports").cloned().unwrap_or_default();
    let Some(settings) = container.get_mut(probe).and_then(Value::as_object_mut) else { return Ok(()) };
    let Some(kind) = HANDLERS.into_iter().find(|kind| settings.get(*kind).is_some_and(Value::is_object)) else {
        return Ok(());
    };
    let handler = settings.get(kind).cloned().unwrap_or_default();
    if handler.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
        // Not the app that the proxy stands beside.
        return Ok(());
    }
    let mut asked = Map::new();
    asked.insert(kind.to_owned(), asked_of_app(kind, &handler, &ports)?);
    let timeout = settings.get("timeoutSeconds").cloned().unwrap_or_else(|| json!(1));
    asked.insert("timeoutSeconds".to_owned(), timeout);
    let path = format!("{PREFIX}{name}/{step}");
    settings.remove(kind);
    settings.insert("httpGet".to_owned(), json!({ "path": path, "port": PORT, "scheme": "HTTP" }));
    rewritten.asked.insert(path, Value::Object(asked));
    let originals = rewritten.originals.entry(name.to_owned()).or_default();
    originals.insert(probe.to_owned(), json!({ kind: handler }));
    Ok(())
}

/// The handler with a number for a port, and Kubernetes' defaults where the proxy needs them.
fn asked_of_app(kind: &str, handler: &Value, ports: &Value) -> Result<Value, String> {
    let port = port(handler.get("port"), ports)?;
    let mut asked = Map::from_iter([("port".to_owned(), json!(port))]);
    let mut keep = |key: &str, default: Option<&str>| {
        let found = handler.get(key).filter(|value| !value.is_null()).cloned();
        if let Some(value) = found.or_else(|| default.map(|default| json!(default))) {
            asked.insert(key.to_owned(), value);
        }
    };
    match kind {
        "httpGet" => {
            keep("path", Some("/"));
            keep("scheme", Some("HTTP"));
            keep("httpHeaders", None);
        }
        "grpc" => keep("service", None),
        _ => {}
    }
    Ok(Value::Object(asked))
}

fn port(port: Option<&Value>, ports: &Value) -> Result<u16, String> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let named = |name: &str| {
        let declared = ports.as_array().into_iter().flatten();
        let found = declared.filter(|port| port.get("name").and_then(Value::as_str) == Some(name));
        found.filter_map(|port| number(port.get("containerPort")?)).next()
    };
    match port {
        Some(Value::String(name)) => match name.parse::<u16>() {
            Ok(port) => Ok(port),
            Err(_) => named(name).ok_or_else(|| format!("the container declares no port named `{name}`")),
        },
        Some(value) => number(value).ok_or_else(|| format!("{value} is not a port")),
        None => Err("it names no port".to_owned()),
    }
}

fn asks_proxy(probe: &Map<String, Value>) -> bool {
    let path = probe.get("httpGet").and_then(|get| get.get("path")?.as_str());
    path.is_some_and(|path| path.starts_with(PREFIX))
}

/// Life-cycle hooks that the kubelet calls over the network, which nothing answers for.
fn direct_hooks(container: &Map<String, Value>, name: &str) -> Vec<String> {
    let hooks = ["postStart", "preStop"].into_iter().filter(|hook| {
        let handler = container.get("lifecycle").and_then(|lifecycle| lifecycle.get(hook));
        handler.is_some_and(|handler| handler.get("httpGet").is_some() || handler.get("tcpSocket").is_some())
    });
    let told = hooks.map(|hook| {
        format!(
            "lifecycle.{hook} of container {name} is called by the kubelet, which has no certificate; where only mTLS is let in it will fail: use exec, or exclude its port with leno.mesh/exclude-inbound-ports"
        )
    });
    told.collect()
}
