//! What a verified token says.

use std::borrow::Cow;

use leno_config::ir::{ClaimMatch, StringMatch};
use serde_json::{Map, Value};

/// Claims whose text is a list with spaces between (RFC 8693 §4.2; Istio treats these two so and no others: a name that
/// a user may choose must not become a list of roles by having a space in it).
const SPACED: [&str; 2] = ["scope", "permission"];

/// The payload of a token whose signature, issuer, audience and times are good.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Reads a payload: a JSON object, at most 128 levels deep.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok().map(Self)
    }

    /// The claim at `path`, from the outermost key inward.
    pub fn find<'k>(&self, path: impl IntoIterator<Item = &'k str>) -> Option<&Value> {
        let mut keys = path.into_iter();
        let first = self.0.get(keys.next()?)?;
        keys.try_fold(first, |value, key| value.as_object()?.get(key))
    }

    /// Who the token speaks of: issuer and subject, as rules write request principals (Istio).
    pub fn principal(&self) -> Option<String> {
        let text = |name: &str| self.0.get(name).and_then(Value::as_str);
        Some(format!("{}/{}", text("iss")?, text("sub")?))
    }

    /// Whether a condition holds. Without a verified token, every claim is missing.
    pub fn fulfil(claims: Option<&Self>, condition: &ClaimMatch) -> bool {
        let found = claims.and_then(|claims| claims.find(condition.path.iter().map(String::as_str)));
        let holds = found.is_some_and(|value| match condition.path.as_slice() {
            [only] if SPACED.contains(&only.as_str()) => spaced_holds(value, &condition.value),
            _ => value_holds(value, &condition.value),
        });
        holds != condition.invert
    }
}

fn spaced_holds(value: &Value, wanted: &StringMatch) -> bool {
    match value {
        Value::String(text) => text.split_ascii_whitespace().any(|word| wanted.is_match(word)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value_holds(value, wanted)
        }
    }
}

/// A list matches when one of its elements does; lists in lists do not.
fn value_holds(value: &Value, wanted: &StringMatch) -> bool {
    match value {
        Value::Array(elements) => elements.iter().filter_map(text_of).any(|element| wanted.is_match(&element)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            text_of(value).is_some_and(|text| wanted.is_match(&text))
        }
    }
}

/// A text as it is; numbers, `true` and `false` as JSON writes them.
pub(super) fn text_of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Bool(true) => Some(Cow::Borrowed("true")),
        Value::Bool(false) => Some(Cow::Borrowed("false")),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_found_by_its_path_and_matches_as_text() {
        let claims = Claims::parse(
            br#"{"iss":"a","scope":"read write","name":"eve admin","age":7,"ok":true,"groups":["dev","ops"],
                "realm":{"roles":["admin"],"deep":{"x":"y"}},"none":null,"https://x.example/role":"r"}"#,
        );
        let rows: &[(&[&str], &str, bool)] = &[
            (&["iss"], "a", true),
            (&["iss"], "A", false),
            (&["scope"], "read", true),
            (&["scope"], "write", true),
            (&["scope"], "read write", false),
            (&["name"], "admin", false),
            (&["name"], "eve admin", true),
            (&["age"], "7", true),
            (&["ok"], "true", true),
            (&["groups"], "ops", true),
            (&["groups"], "dev,ops", false),
            (&["realm", "roles"], "admin", true),
            (&["realm", "deep", "x"], "y", true),
            (&["realm"], "admin", false),
            (&["realm.roles"], "admin", false),
            (&["https://x.example/role"], "r", true),
            (&["none"], "null", false),
            (&["missing"], "", false),
            (&["iss", "a"], "a", false),
        ];
        assert!(claims.is_some());
        for (path, value, expected) in rows {
            let path: Vec<String> = path.iter().map(|key| (*key).to_owned()).collect();
            for invert in [false, true] {
                let condition = ClaimMatch { path: path.clone(), value: StringMatch::exact(*value), invert };
                assert_eq!(
                    Claims::fulfil(claims.as_ref(), &condition),
                    *expected != invert,
                    "{path:?} {value} {invert}"
                );
                assert_eq!(Claims::fulfil(None, &condition), invert, "without a token, every claim is missing");
            }
        }
    }

    #[test]
    fn a_payload_is_an_object_and_not_bottomless() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for wrong in ["", "[]", "1", "\"a\"", "{", "{}x", "{\"a\":1,}", deep.as_str()] {
            assert_eq!(Claims::parse(wrong.as_bytes()), None, "{:.20}", wrong);
        }
        assert!(Claims::parse(b"{}").is_some());
    }
}
