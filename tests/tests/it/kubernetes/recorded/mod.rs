//! Our answers beside those that a real server gave (kube-apiserver 1.36.2): the same situation is made again, and what
//! comes back has to be the same, word for word, but for names that are random, times, versions and tokens.
//!
//! The recordings are not part of the repository: `LENO_KUBERNETES`, or `../shared/kubernetes` beside the workspace.

mod controllers;
mod pods;
mod rules;
mod tokens;

use std::path::PathBuf;

use leno_tests::{skip, workspace};
use serde_json::{Map, Value, json};

/// User agents of the recordings, before the `/` of which the name of a manager stands.
const GENERATED: &str = "OpenAPI-Generator/1.0/python";
const URLLIB: &str = "Python-urllib/3.11";
const CONTROLLERS: &str = "kube-controller-manager/v1.36.2";

/// Fields that differ from run to run.
const BLANK: [&str; 15] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "time",
    "lastTransitionTime",
    "lastUpdateTime",
    "expirationTimestamp",
    "renewTime",
    "token",
    "continue",
    "n",
    "kid",
    "jwks_uri",
    "authentication.kubernetes.io/credential-id",
];

/// The recordings.
struct Recorded(PathBuf);

fn recorded(what: &str) -> Option<Recorded> {
    let beside = workspace().join("../shared/kubernetes");
    let folder = std::env::var_os("LENO_KUBERNETES").map_or(beside, PathBuf::from).join("recorded");
    if !folder.is_dir() {
        skip(what, &format!("there is no folder {}; set LENO_KUBERNETES", folder.display()));
        return None;
    }
    Some(Recorded(folder))
}

impl Recorded {
    fn json(&self, name: &str) -> Value {
        let mut lines = self.lines(name);
        assert_eq!(lines.len(), 1, "{name} is one document");
        lines.remove(0)
    }

    /// The documents of a file: one, or one for each event.
    fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.0.join(name)).unwrap();
        serde_json::Deserializer::from_str(&text).into_iter::<Value>().map(Result::unwrap).collect()
    }

    /// The answer is the recorded one.
    fn is(&self, name: &str, ours: &Value) {
        same(name, &self.json(name), ours);
    }
}

fn same(what: &str, recorded: &Value, ours: &Value) {
    let (recorded, ours) = (blanked(recorded), blanked(ours));
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap();
    let (recorded, ours) = (pretty(&recorded), pretty(&ours));
    if recorded != ours {
        let differs = recorded.lines().zip(ours.lines()).find(|(recorded, ours)| recorded != ours);
        panic!("{what} differs at {differs:?}\n---- recorded\n{recorded}\n---- ours\n{ours}");
    }
}

/// Without what differs from run to run.
fn blanked(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let is_text = value.is_string() || name.contains('/');
                let is_blank = BLANK.contains(&name.as_str()) && is_text;
                (blanked_text(name), if is_blank { json!("*") } else { blanked(value) })
            };
            Value::Object(fields.iter().map(field).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(blanked).collect()),
        Value::String(text) => json!(blanked_text(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn blanked_text(text: &str) -> String {
    if text.starts_with("kube-api-access-") {
        return "kube-api-access-*".to_owned();
    }
    if text.starts_with("k:{\"uid\"") {
        return "k:{\"uid\":*}".to_owned();
    }
    if text.starts_with("too old resource version") {
        let numbers: String = text.chars().map(|letter| if letter.is_ascii_digit() { '#' } else { letter }).collect();
        return numbers.replace("##", "#").replace("##", "#");
    }
    if text.starts_with("api-76ccd55c76-") && text.len() > 15 {
        return "api-76ccd55c76-*".to_owned();
    }
    text.to_owned()
}

#[test]
fn what_differs_from_run_to_run_is_not_compared_and_everything_else_is() {
    let one = json!({"metadata": {"uid": "a", "name": "x"}, "message": "too old resource version: 1 (410)"});
    let other = json!({"metadata": {"uid": "b", "name": "x"}, "message": "too old resource version: 1 (9)"});
    assert_eq!(blanked(&one), blanked(&other));
    assert_ne!(blanked(&one), blanked(&json!({"metadata": {"uid": "b", "name": "y"}, "message": "too old"})));
    assert_ne!(blanked(&json!({"lastProbeTime": null})), blanked(&json!({})));
}
