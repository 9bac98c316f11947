//! One line of a tap: a JSON object, with what is not known left out.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version};
use leno_config::identity::SpiffeId;
use leno_config::ir::Direction;
use leno_config::node::Node;
use serde_json::{Map, Value, json};

use crate::admin::Shared;
use crate::telemetry::redact::{self, Telling};
use crate::telemetry::tap::{Party, RequestSeen, Seen};

/// The workload beside the proxy.
#[derive(Debug, Clone)]
pub(super) struct Own {
    workload: Value,
    identity: Option<SpiffeId>,
}

impl Own {
    pub(super) fn of(shared: &Shared) -> Self {
        let now = shared.keyring.identity().now();
        Self::new(&shared.node, now.svid.as_ref().map(|svid| svid.id().clone()))
    }

    fn new(node: &Node, identity: Option<SpiffeId>) -> Self {
        let workload = json!({
            "workload": node.workload,
            "namespace": node.namespace,
            "version": node.labels.get("version"),
            "pod": node.name,
        });
        Self { workload, identity }
    }
}

/// `{"dropped": N}`: so many were not shown, since they came too fast for the rate or for the reader.
pub(super) fn dropped(count: u64) -> Bytes {
    written(json!({ "dropped": count }))
}

/// A request or connection.
pub(super) fn of(seen: &Seen, own: &Own, query: bool) -> Bytes {
    let (source, destination) = ends(seen, own);
    let mut line = json!({
        "time": rfc3339(seen.began),
        "kind": if seen.request.is_some() { "request" } else { "connection" },
        "direction": match seen.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        },
        "flags": seen.flags.to_string(),
        "error": seen.error,
        "duration_ms": millis(seen.duration),
        "request_bytes": seen.received,
        "response_bytes": seen.sent,
        "source": source,
        "destination": destination,
        "cluster": seen.cluster.as_ref().map(|cluster| cluster.config.name.to_string()),
    });
    if let (Some(request), Value::Object(line)) = (&seen.request, &mut line) {
        line.extend(of_request(request, query));
    }
    written(line)
}

fn of_request(request: &RequestSeen, query: bool) -> Map<String, Value> {
    let path = request.target.path();
    let path = match request.target.query() {
        Some(asked) if query => format!("{path}?{asked}"),
        Some(_) => format!("{path}?{}", redact::REDACTED),
        None => path.to_owned(),
    };
    let headers = request.headers.as_ref();
    let fields = json!({
        "method": request.method.as_str(),
        "path": path,
        "authority": request.authority,
        "protocol": protocol(request.version),
        "status": request.code,
        "upstream_ms": request.upstream_time.map(millis),
        "rule": request.rule,
        "attempts": request.attempts,
        "request_id": request.request_id.as_ref().map(lossy),
        "trace_id": request.trace_parent.as_ref().and_then(trace_id),
        "request_headers": headers.map(|(request, _)| shown(request, query)),
        "response_headers": headers.map(|(_, response)| shown(response, query)),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Source and destination: the own workload is the one that is near.
#[expect(clippy::indexing_slicing, reason = "an object that this program has made")]
fn ends(seen: &Seen, own: &Own) -> (Value, Value) {
    let near = |identity: Option<&SpiffeId>, address: Option<String>| {
        let mut near = own.workload.clone();
        near["identity"] = json!(identity.or(own.identity.as_ref()).map(ToString::to_string));
        near["address"] = json!(address);
        near
    };
    let caller = Some(seen.caller.to_string());
    let endpoint = seen.endpoint.as_ref().map(|endpoint| endpoint.address.to_string());
    match seen.direction {
        Direction::Inbound => {
            let own_id = seen.peer.as_ref().map(|peer| &peer.own);
            (far(seen.peer.as_ref(), None, caller), near(own_id, endpoint.or_else(|| Some(seen.local.to_string()))))
        }
        Direction::Outbound => {
            let expected = seen.endpoint.as_ref().and_then(|endpoint| endpoint.security.identity.as_ref());
            let own_id = seen.upstream.as_ref().map(|peer| &peer.own);
            (near(own_id, caller), far(seen.upstream.as_ref(), expected, endpoint))
        }
    }
}

/// Who is on the other side: by its certificate, else who it has to be.
fn far(party: Option<&Party>, expected: Option<&SpiffeId>, address: Option<String>) -> Value {
    let id = party.map(|party| &party.id).or(expected);
    let workload = party.and_then(|party| party.workload.as_ref());
    let of_id = id.and_then(|id| id.namespace_and_service_account());
    json!({
        "workload": workload.map(|workload| &workload.workload),
        "namespace": workload.map(|workload| workload.namespace.as_str()).or(of_id.map(|(namespace, _)| namespace)),
        "version": workload.and_then(|workload| workload.labels.get("version")),
        "pod": workload.map(|workload| &workload.name),
        "identity": id.map(ToString::to_string),
        "address": address,
    })
}

/// Headers by name; what proves who somebody is is not shown, and addresses end before their query.
fn shown(headers: &HeaderMap, query: bool) -> Value {
    let mut all = Map::new();
    for name in headers.keys() {
        let telling = redact::telling(name);
        let values = headers.get_all(name).iter().map(|value| {
            let value = lossy(value);
            match (telling, value.split_once('?')) {
                (Telling::Nothing, _) => redact::REDACTED.to_owned(),
                (Telling::WithoutQuery, Some((before, _))) if !query => format!("{before}?{}", redact::REDACTED),
                (Telling::WithoutQuery | Telling::All, _) => value,
            }
        });
        all.insert(name.to_string(), Value::String(values.collect::<Vec<_>>().join(", ")));
    }
    Value::Object(all)
}

fn written(mut value: Value) -> Bytes {
    without_nulls(&mut value);
    let mut text = value.to_string();
    text.push('\n');
    text.into()
}

fn without_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(without_nulls);
    }
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP",
    }
}

/// The 32 digits of `00-TRACE-SPAN-FLAGS`.
fn trace_id(parent: &HeaderValue) -> Option<&str> {
    let id = parent.to_str().ok()?.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Milliseconds, with three digits after the point.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// With milliseconds.
fn rfc3339(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    let (date, month) = (time.date(), u8::from(time.month()));
    let (hour, minute, second, milli) = time.to_hms_milli();
    format!("{:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", date.year(), date.day())
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::error::{Flag, Flags};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().expect("valid"))).collect()
    }

    fn seen(with_headers: bool) -> Seen {
        let request = headers(&[("authorization", "Bearer x"), ("referer", "http://a/b?c=d"), ("accept", "*/*")]);
        let response = headers(&[("set-cookie", "a=b"), ("server", "app")]);
        let request = RequestSeen {
            method: Method::GET,
            target: "/items?token=abc".parse().expect("a target"),
            authority: "shop".to_owned(),
            version: Version::HTTP_11,
            code: 503,
            upstream_time: Some(Duration::from_micros(1_500)),
            attempts: 2,
            rule: Some("routes.yaml:12".to_owned()),
            request_id: Some(HeaderValue::from_static("id-1")),
            trace_parent: Some(HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
            headers: with_headers.then_some((request, response)),
        };
        Seen {
            began: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            duration: Duration::from_millis(12),
            direction: Direction::Inbound,
            flags: Flags::from(Flag::UF),
            error: Some("cannot connect".to_owned()),
            received: 3,
            sent: 4,
            caller: ([10, 0, 0, 1], 1000).into(),
            local: ([10, 0, 0, 2], 80).into(),
            peer: None,
            cluster: None,
            endpoint: None,
            upstream: None,
            request: Some(request),
        }
    }

    fn told(seen: &Seen, query: bool) -> Value {
        let own = Own { workload: json!({"workload": "shop", "namespace": "default"}), identity: None };
        let line = of(seen, &own, query);
        assert!(line.ends_with(b"\n") && line.iter().filter(|byte| **byte == b'\n').count() == 1);
        serde_json::from_slice(&line).expect("JSON")
    }

    #[test]
    fn a_line_tells_a_request_without_what_nobody_asked_for() {
        let line = told(&seen(false), false);
        let expected = json!({
            "time": "2023-11-14T22:13:20.123Z", "kind": "request", "direction": "inbound", "flags": "UF",
            "error": "cannot connect", "duration_ms": 12.0, "upstream_ms": 1.5, "request_bytes": 3, "response_bytes": 4,
            "method": "GET", "path": "/items?[redacted]", "authority": "shop", "protocol": "HTTP/1.1", "status": 503,
            "rule": "routes.yaml:12", "attempts": 2, "request_id": "id-1",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "source": {"address": "10.0.0.1:1000"},
            "destination": {"workload": "shop", "namespace": "default", "address": "10.0.0.2:80"},
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn headers_are_shown_when_asked_for_and_credentials_never() {
        let line = told(&seen(true), false);
        let redacted = json!({"authorization": "[redacted]", "referer": "http://a/b?[redacted]", "accept": "*/*"});
        assert_eq!(line["request_headers"], redacted);
        assert_eq!(line["response_headers"], json!({"set-cookie": "[redacted]", "server": "app"}));
        let line = told(&seen(true), true);
        assert_eq!(line["path"], "/items?token=abc");
        assert_eq!(line["request_headers"]["referer"], "http://a/b?c=d");
        assert_eq!(line["request_headers"]["authorization"], "[redacted]");
    }

    #[test]
    fn a_connection_has_no_fields_of_requests() {
        let line = told(&Seen { request: None, ..seen(false) }, false);
        assert_eq!((&line["kind"], line.get("method"), line.get("status")), (&json!("connection"), None, None));
    }
}
