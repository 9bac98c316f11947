//! The JSON Schema of the bootstrap file, for editors.
//!
//! The keys are few and the structs that read them are private, so the schema is a table; a test asks the reader for the
//! names that it takes, so that neither can know a key that the other does not.

use serde_json::{Map, Value, json};

/// A key: where it stands, what it takes, what it is.
type Row = (&'static str, fn() -> Value, &'static str);

const ROWS: &[Row] = &[
    ("node.name", text, "Name of this instance of the workload; needed."),
    ("node.ip", text, "Its address; 127.0.0.1 unless given."),
    ("node.namespace", text, "Its namespace; `default` unless given."),
    ("node.service_account", text, "Its service account; `default` unless given."),
    ("node.workload", text, "Name of the workload; the name of the instance unless given."),
    ("node.labels", labels, "Its labels, by which rules and services select it."),
    ("node.locality.region", text, "Region in which it runs."),
    ("node.locality.zone", text, "Zone of the region."),
    ("node.locality.subzone", text, "Part of the zone."),
    (
        "interception",
        interception,
        "How traffic reaches the proxy; `none`: the app calls its listeners; `redirect`: the pod's connections are redirected to it.",
    ),
    (
        "control_plane.address",
        text,
        "https://HOST:15012, or http://127.0.0.1:15010 on this machine; several replicas with commas.",
    ),
    (
        "control_plane.root",
        text,
        "File of the certificates (PEM) that the control plane's must chain to; https:// needs it.",
    ),
    ("control_plane.token", text, "File of the token that says who this proxy is."),
    (
        "control_plane.certificate",
        text,
        "File of the certificate (PEM) that says who this proxy is, in place of a token.",
    ),
    ("control_plane.key", text, "File of its key (PEM)."),
    ("identity.certificate", text, "File of the own certificate (PEM), in place of one from the control plane."),
    ("identity.key", text, "File of its key (PEM)."),
    ("identity.roots", text, "File of the roots (PEM) of the own trust domain."),
    ("identity.revoked", text, "File of revocation lists (PEM)."),
    (
        "credentials",
        text,
        "Directory of mounted Kubernetes secrets, which rules name by `credentialName`; /etc/leno/credentials unless given.",
    ),
    ("rules", texts, "Rule files and directories, instead of a control plane."),
    ("state", text, "Directory for state that survives a restart."),
    ("admin", address, "Address of the admin interface; 127.0.0.1:15000 unless given."),
    ("metrics", address, "One more address, for /stats/prometheus alone."),
    ("metrics_dialect", dialect, "Whose names metrics of requests have, or `none`; `istio` unless given."),
    ("ready", address, "One more address, for /ready alone."),
    (
        "merged",
        address,
        "One more address, for the kubelet and scrapers: readiness, the app's probes, the metrics of both.",
    ),
    ("app_metrics", text, "Where the app's metrics are, as http://127.0.0.1:8080/metrics."),
    ("app_probes", probes, "The app's probes by path, as a pod has them: httpGet, tcpSocket or grpc."),
    ("workers", workers, "Worker threads, or `auto`: as many as the process may use CPUs."),
    ("limits.profile", profile, "Whose defaults hold: `istio`, unless given, or `safe`, which is stricter."),
    ("limits.connections", count, "Connections from callers at a time; a third of the open files, at most 10000."),
    (
        "limits.connections_per_caller",
        count,
        "Those of one caller where they come in: of one identity, in clear text of one address; 1000.",
    ),
    ("limits.requests", count, "Requests at a time."),
    ("limits.adaptive_concurrency", yes_or_no, "Let the number of requests at a time follow the latency."),
    ("limits.memory", size, "What the process may have in memory, as 512Mi; what its control group allows."),
    ("limits.first_byte", duration, "From the connection to its first byte; 10s."),
    ("limits.handshake", duration, "For a TLS handshake; 5s."),
    ("limits.preface", duration, "For the preface of HTTP/2 with its SETTINGS; 5s."),
    ("limits.head", duration, "For the head of a request, or one frame; 10s."),
    ("limits.body_idle", duration, "Between two parts of a request's body; not for gRPC, nor after an upgrade; 30s."),
    (
        "limits.write_stall",
        duration,
        "Between two parts of an answer that a caller takes; 300s, in the profile `safe` 30s.",
    ),
    ("limits.connection_idle", duration, "That a connection may rest; 1h, in the profile `safe` 600s."),
    ("limits.header_fields", count, "Fields of a head; 100."),
    ("limits.header_bytes", size, "Bytes of a head; 64Ki, in the profile `safe` 32Ki."),
    ("limits.target_bytes", size, "Bytes of the target of a request; 64Ki, in the profile `safe` 8Ki."),
    ("limits.header_bytes_per_connection", size, "Bytes of all heads that an HTTP/2 connection has under way; 1Mi."),
    ("limits.http2_streams", count, "Streams of an HTTP/2 connection at a time; 100."),
    ("limits.http2_stream_window", size, "Unread bytes of one stream; 64Ki."),
    ("limits.http2_connection_window", size, "Unread bytes of all streams of a connection; 64Mi."),
    ("limits.http2_pending_resets", count, "Streams that a caller may reset before they are looked at; 20."),
    ("limits.http2_local_resets", count, "Streams of a connection that had to be reset; 200."),
    ("limits.http2_control_burst", count, "Frames that carry nothing, at once; 1000."),
    ("limits.http2_control_per_second", count, "More of them, each second; 100."),
    ("limits.http2_control_per_request", count, "More of them, with each request; 10."),
    ("drain", duration, "How long work under way may take after SIGTERM, as 30s."),
    ("drain_after_upgrade", duration, "How long work under way may take after another process has taken over, as 10m."),
    ("seed", seed, "Where the random numbers of splits and balancing begin, so that a test can be repeated."),
    ("dumpable", yes_or_no, "Let debuggers and core dumps see the process's memory, in which its keys are."),
];

/// The schema of the bootstrap file, in draft 7.
pub fn schema() -> Value {
    let mut whole = section("");
    if let Value::Object(keys) = &mut whole {
        keys.insert("$schema".to_owned(), "http://json-schema.org/draft-07/schema#".into());
        keys.insert("title".to_owned(), "Bootstrap".into());
        keys.insert("description".to_owned(), "What a proxy has to know before it knows anything.".into());
    }
    whole
}

/// The keys below `prefix`, which is empty or ends with a dot.
fn section(prefix: &str) -> Value {
    let mut keys = Map::new();
    for (path, describe, about) in ROWS {
        let Some(rest) = path.strip_prefix(prefix) else { continue };
        match rest.split_once('.') {
            Some((inner, _)) if keys.contains_key(inner) => {}
            Some((inner, _)) => {
                keys.insert(inner.to_owned(), section(&format!("{prefix}{inner}.")));
            }
            None => {
                let mut value = describe();
                if let Value::Object(value) = &mut value {
                    value.insert("description".to_owned(), (*about).into());
                }
                keys.insert(rest.to_owned(), value);
            }
        }
    }
    json!({ "type": "object", "properties": keys, "additionalProperties": false })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn texts() -> Value {
    json!({ "type": "array", "items": { "type": "string" } })
}

fn labels() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" } })
}

fn interception() -> Value {
    json!({ "enum": ["none", "redirect"] })
}

fn address() -> Value {
    json!({ "type": "string", "pattern": r"^.+:[0-9]{1,5}$" })
}

fn dialect() -> Value {
    json!({ "enum": ["istio", "otel", "both", "none"] })
}

fn probes() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "object" } })
}

fn workers() -> Value {
    json!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 256 }, { "enum": ["auto"] }] })
}

fn count() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000 })
}

fn profile() -> Value {
    json!({ "enum": ["istio", "safe"] })
}

fn size() -> Value {
    json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi)?$" }] })
}

fn yes_or_no() -> Value {
    json!({ "type": "boolean" })
}

fn duration() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" })
}

fn seed() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::bootstrap::File;

    /// The keys that the reader takes below a path, out of its own words about one that it does not take.
    fn taken(path: &[String]) -> BTreeSet<String> {
        let opened = path.iter().map(|key| format!("{{{key}: ")).collect::<String>();
        let yaml = format!("{opened}{{no_such_key: 1}}{}", "}".repeat(path.len()));
        let error = serde_saphyr::from_str::<File>(&yaml).expect_err("the key is unknown").to_string();
        let expected = error.split_once("expected").map(|(_, keys)| keys.lines().next().unwrap_or_default());
        let keys = expected.unwrap_or_default().split([',', ' ', '`']).map(|key| key.trim_matches(['.', ':']));
        keys.filter(|key| !key.is_empty() && !["one", "of", "or"].contains(key)).map(str::to_owned).collect()
    }

    fn compare(schema: &Value, path: &[String]) {
        let keys = schema.get("properties").and_then(Value::as_object).expect("a section");
        assert_eq!(keys.keys().cloned().collect::<BTreeSet<_>>(), taken(path), "below {path:?}");
        for (key, inner) in keys.iter().filter(|(_, inner)| inner.get("properties").is_some()) {
            compare(inner, &[path, std::slice::from_ref(key)].concat());
        }
    }

    #[test]
    fn the_schema_has_the_keys_that_the_reader_takes_and_no_others() {
        compare(&schema(), &[]);
    }
}
