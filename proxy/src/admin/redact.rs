//! What is shown to nobody, however he asks.
//!
//! The configuration holds no private key: those are files of this process. But a rule may set or ask for a header that is
//! a password, and issuers' keys may have been written with their secret half.

use serde_json::Value;

use crate::telemetry::redact::{REDACTED, is_secret};

/// A command line without what a flag like `--token` says, and without passwords in URLs. Names of files stay.
pub(super) fn arguments(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_secret_value = false;
    let redacted = all.map(|argument| {
        let is_flag = argument.starts_with("--");
        let hide = std::mem::replace(&mut is_secret_value, false) && !is_flag;
        let (name, value) =
            argument.split_once('=').map_or((argument.as_str(), None), |(name, value)| (name, Some(value)));
        let names_secret = is_flag && is_secret(&name.to_ascii_lowercase());
        match value {
            _ if hide && !argument.contains('/') => REDACTED.to_owned(),
            Some(value) if names_secret && !value.contains('/') => format!("{name}={REDACTED}"),
            Some(_) | None => {
                is_secret_value = names_secret && value.is_none();
                without_password(&argument)
            }
        }
    });
    redacted.collect()
}

/// `https://user:password@host` without the password.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest.split_at_checked(end).and_then(|(authority, path)| Some((authority.rsplit_once('@')?.1, path))) {
        Some((host, path)) => format!("{scheme}://{REDACTED}@{host}{path}"),
        None => text.to_owned(),
    }
}

/// Takes out of a resource what must not be seen: values of such headers, and secret halves of keys.
pub(super) fn secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let header = ["name", "key"].iter().find_map(|field| fields.get(*field)).and_then(Value::as_str);
            let is_secret_field = header.is_some_and(|name| is_secret(&name.to_ascii_lowercase()));
            for (name, value) in fields.iter_mut() {
                match value {
                    Value::Null => {}
                    _ if name == "value" && is_secret_field => *value = REDACTED.into(),
                    Value::String(keys) if name == "inline" && has_secret_half(keys) => *value = REDACTED.into(),
                    _ => secrets(value),
                }
            }
        }
        Value::Array(members) => members.iter_mut().for_each(secrets),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a JSON Web Key Set holds a symmetric key or a private one (RFC 7518 §6: `k` and `d`).
fn has_secret_half(keys: &str) -> bool {
    let Ok(set) = serde_json::from_str::<Value>(keys) else { return false };
    let keys = set.get("keys").and_then(Value::as_array).cloned().unwrap_or_default();
    keys.iter().any(|key| key.get("k").is_some() || key.get("d").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_command_line_is_shown_without_secrets() {
        let rows = [
            (&["leno-proxy", "run", "--config", "a.yaml"][..], "leno-proxy run --config a.yaml"),
            (&["--token", "abc", "--state", "x"], "--token [redacted] --state x"),
            (&["--token=abc"], "--token=[redacted]"),
            (&["--token=/run/token"], "--token=/run/token"),
            (&["--token-file", "/run/token"], "--token-file /run/token"),
            (&["--token", "--dumpable"], "--token --dumpable"),
            (&["--control-plane=https://u:p@host:1/x"], "--control-plane=https://[redacted]@host:1/x"),
        ];
        for (all, expected) in rows {
            assert_eq!(arguments(all.iter().map(|one| (*one).to_owned())).join(" "), expected);
        }
    }

    #[test]
    fn passwords_and_secret_keys_are_not_shown() {
        let rows = [
            (
                json!({"set": [{"name": "authorization", "value": "Basic eDp5"}]}),
                json!({"set": [{"name": "authorization", "value": REDACTED}]}),
            ),
            (json!({"key": "Cookie", "value": {"exact": "a=b"}}), json!({"key": "Cookie", "value": REDACTED})),
            (json!({"key": "cookie", "value": null}), json!({"key": "cookie", "value": null})),
            (json!({"name": "x-version", "value": "v1"}), json!({"name": "x-version", "value": "v1"})),
            (json!({"inline": r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#}), json!({"inline": REDACTED})),
            (
                json!({"inline": r#"{"keys":[{"kty":"RSA","n":"x","e":"AQAB"}]}"#}),
                json!({"inline": r#"{"keys":[{"kty":"RSA","n":"x","e":"AQAB"}]}"#}),
            ),
        ];
        for (mut value, expected) in rows {
            let before = value.to_string();
            secrets(&mut value);
            assert_eq!(value, expected, "{before}");
        }
    }
}
