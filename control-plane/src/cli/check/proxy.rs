//! Is one proxy well? By its admin interface alone, so that it can be asked on its own machine.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use leno_proxy::version::VERSION;
use serde_json::Value;

use super::lasting;
use super::report::Section;
use crate::cli::ask::{Question, ask_whom};
use crate::cli::failure::Failure;
use crate::cli::status::age;

/// What a proxy says about itself.
pub(super) fn section(address: &str, now: SystemTime) -> Result<Section, Failure> {
    let mut section = Section::new("proxy");
    let hint = "is it running? --proxy takes its `admin` address, which stands in ports.json of its state directory";
    let get = |path: &str| ask_whom("the proxy", hint, address, &Question::get(path));
    let (code, answer) = match get("/ready") {
        Ok(answer) => answer,
        Err(failure) if failure.is_unreachable() => {
            return Ok(section.unreachable(failure.to_string(), "leno-proxy run --config FILE"));
        }
        Err(failure) => return Err(failure),
    };
    match code {
        StatusCode::OK => section.ok(format!("it answers at {address} and is ready")),
        _ => section.fails(format!("it is not ready: {}", answer.trim()), format!("curl -s {address}/server_info")),
    }
    let read = |path: &str| -> Result<Value, Failure> {
        let (code, answer) = get(path)?;
        Ok(serde_json::from_str(&answer).ok().filter(|_| code.is_success()).unwrap_or_default())
    };
    version(&mut section, &read("/server_info")?, address);
    source(&mut section, &read("/config_dump")?, address, now);
    certificate(&mut section, &read("/certs")?, address);
    Ok(section)
}

fn version(section: &mut Section, info: &Value, address: &str) {
    let theirs = info.get("version").and_then(Value::as_str).unwrap_or("unknown");
    match theirs == VERSION {
        true => section.ok(format!("it has the version of this program, {VERSION}")),
        false => section.warns(
            format!("it is of version {theirs}, this program of {VERSION}"),
            format!("curl -s {address}/server_info"),
        ),
    }
}

/// Where its rules come from, and what became of them.
fn source(section: &mut Section, dump: &Value, address: &str, now: SystemTime) {
    let next = format!("curl -s {address}/config_dump");
    if let Some(plane) = dump.pointer("/source/control_plane") {
        let text = |key: &str| plane.get(key).and_then(Value::as_str).unwrap_or_default();
        match plane.get("connected").and_then(Value::as_bool) {
            Some(true) => section.ok(format!("it is connected to {}", text("address"))),
            _ => section.fails(
                format!("it is not connected to {}: {}", text("address"), text("last_error")),
                format!("curl -sv {}/ --max-time 5", text("address")),
            ),
        }
        if plane.get("from_disk").and_then(Value::as_bool) == Some(true) {
            section.warns("what is in force comes from its disk: the control plane has not spoken yet", next.as_str());
        }
        if let Some(error) = plane.get("disk_error").and_then(Value::as_str) {
            section.warns(format!("its state on disk: {error}"), next.as_str());
        }
        for (label, kind) in plane.get("kinds").and_then(Value::as_object).into_iter().flatten() {
            kind_of(section, label, kind, &next, now);
        }
    }
    let findings = dump.pointer("/source/rules/findings").and_then(Value::as_array);
    for finding in findings.into_iter().flatten().filter_map(Value::as_str) {
        let paths = dump.pointer("/source/rules/paths").and_then(Value::as_array).into_iter().flatten();
        let files = paths.filter_map(Value::as_str).map(|path| format!(" -f {path}")).collect::<String>();
        section.fails(finding, format!("leno validate{files}"));
    }
    for listener in dump.get("unbound_listeners").and_then(Value::as_array).into_iter().flatten() {
        let listener = listener.as_str().map_or_else(|| listener.to_string(), str::to_owned);
        section.fails(format!("it cannot listen: {listener}"), "sudo ss -ltnp");
    }
    for part in dump.get("not_enforced").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        section.warns(format!("not enforced: {part}"), next.as_str());
    }
}

fn kind_of(section: &mut Section, label: &str, kind: &Value, next: &str, now: SystemTime) {
    if let Some(nack) = kind.pointer("/last_nack/text").and_then(Value::as_str) {
        let at = kind.pointer("/last_nack/at").and_then(Value::as_u64).unwrap_or_default();
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ago = age(now.saturating_sub(Duration::from_millis(at)));
        section.warns(format!("{ago} ago it refused {label}: {nack}"), next);
    }
    let names = |key: &str| kind.get(key).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    if names("warming") > 0 {
        section.warns(format!("{} of its {label} wait for what they need", names("warming")), next);
    }
}

fn certificate(section: &mut Section, certs: &Value, address: &str) {
    let next = format!("curl -s {address}/certs");
    match certs.get("certificate").filter(|certificate| !certificate.is_null()) {
        Some(certificate) if certificate.get("is_valid").and_then(Value::as_bool) == Some(true) => {
            let days = certificate.get("days_left").and_then(Value::as_f64).unwrap_or_default();
            let left = Duration::try_from_secs_f64(days * 86_400.0).unwrap_or_default();
            section.ok(format!("its certificate is good for {}", lasting(left)));
        }
        Some(certificate) => {
            let until = certificate.get("valid_until").and_then(Value::as_str).unwrap_or("its end");
            section.fails(format!("its certificate is not valid: it was until {until}"), next.as_str());
        }
        None => section.ok("it has no certificate and needs none: its control plane is spoken to in clear text"),
    }
    for (key, what) in [("/renewals/error/text", "renewing its certificate"), ("/trust_error/text", "whom to believe")]
    {
        if let Some(error) = certs.pointer(key).and_then(Value::as_str) {
            section.fails(format!("{what}: {error}"), next.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcomes(look: impl Fn(&mut Section)) -> Vec<String> {
        let mut section = Section::new("proxy");
        look(&mut section);
        let checks = serde_json::to_value(&section).unwrap()["checks"].as_array().unwrap().clone();
        checks.iter().map(|check| check["outcome"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_source_of_the_rules_is_looked_at() {
        let now = SystemTime::now();
        let plane =
            |plane: Value| outcomes(|section| source(section, &json!({"source": {"control_plane": plane}}), "u", now));
        assert_eq!(plane(json!({"connected": true})), ["ok"]);
        assert_eq!(plane(json!({"connected": false, "from_disk": true})), ["failed", "warning"]);
        let nack = json!({"connected": true, "kinds": {"routes": {"last_nack": {"text": "no", "at": 5}, "warming": {"a": "1"}}}});
        assert_eq!(plane(nack), ["ok", "warning", "warning"]);
        let files = json!({"source": {"rules": {"paths": ["r"], "findings": ["bad"]}}, "unbound_listeners": ["x"], "not_enforced": ["y"]});
        assert_eq!(outcomes(|section| source(section, &files, "u", now)), ["failed", "failed", "warning"]);
        assert!(outcomes(|section| source(section, &Value::Null, "u", now)).is_empty());
    }

    #[test]
    fn a_certificate_is_valid_not_needed_or_a_failure() {
        let of = |certs: Value| outcomes(|section| certificate(section, &certs, "u"));
        assert_eq!(of(json!({"certificate": {"is_valid": true, "days_left": 0.5}})), ["ok"]);
        assert_eq!(of(json!({"certificate": null})), ["ok"]);
        assert_eq!(of(json!({"certificate": {"is_valid": false}})), ["failed"]);
        assert_eq!(
            of(json!({"certificate": {"is_valid": true}, "renewals": {"error": {"text": "no"}}})),
            ["ok", "failed"]
        );
    }
}
