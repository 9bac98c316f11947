//! What is shown to nobody, however he asks.
//!
//! The configuration holds no private key: those are files of this process. But a rule may set or ask for a header that is
//! a password, and issuers' keys may have been written with their secret half.

use serde_json::Value;

/// What stands where a secret was.
pub(crate) const REDACTED: &str = "[redacted]";

/// Whether the value of a header proves who somebody is.
pub(crate) fn is_secret(header: &str) -> bool {
    const NAMES: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
    const PARTS: [&str; 6] = ["token", "secret", "password", "api-key", "apikey", "session"];
    let name = header.to_ascii_lowercase();
    NAMES.contains(&name.as_str()) || PARTS.iter().any(|part| name.contains(part))
}

/// Takes out of a resource what must not be seen: values of such headers, and secret halves of keys.
pub(super) fn secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let header = ["name", "key"].iter().find_map(|field| fields.get(*field)).and_then(Value::as_str);
            let is_secret_field = header.is_some_and(is_secret);
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
        for (name, expected) in
            [("Authorization", true), ("x-api-key", true), ("X-Auth-Token", true), ("user-agent", false)]
        {
            assert_eq!(is_secret(name), expected, "{name}");
        }
    }
}
