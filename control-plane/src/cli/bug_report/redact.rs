//! What may not leave the house: taken out of everything that a report holds, before it is written anywhere.
//!
//! The proxies show no private key by themselves. But rules set headers that are passwords, routes match on cookies, keys
//! of issuers are written in full by mistake, and directories with rules hold Kubernetes' Secrets. Whoever attaches a
//! report to a ticket does not read it first, so this errs on the side of too much.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

/// What stands where a secret was.
pub(super) const REDACTED: &str = "[redacted]";

/// How much was taken out, by what it was.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// Headers that say who somebody is.
const HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
/// Parts of the names of other secrets.
const PARTS: [&str; 8] = ["token", "secret", "password", "passwd", "api-key", "apikey", "api_key", "session"];
/// Of objects in which everything else is secret, what is not.
const NAMES: [&str; 3] = ["name", "key", "path"];

/// The page of a server: JSON where it is JSON, else text.
pub(super) fn page(text: &str, counts: &mut Counts) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
            json(&mut value, counts);
            format!("{value:#}\n")
        }
        Ok(_) | Err(_) => self::text(text, counts),
    }
}

fn json(value: &mut Value, counts: &mut Counts) {
    match value {
        Value::Object(fields) => {
            let named = NAMES.iter().find_map(|field| fields.get(*field)).and_then(Value::as_str).map(is_secret);
            for (name, value) in fields.iter_mut() {
                let is_header = HEADERS.contains(&name.to_ascii_lowercase().as_str());
                match value {
                    _ if is_header || (name == "value" && named == Some(true)) => blank(value, counts),
                    Value::String(_) if is_secret(name) => blank(value, counts),
                    _ => json(value, counts),
                }
            }
        }
        Value::Array(members) => members.iter_mut().for_each(|member| json(member, counts)),
        Value::String(said) => *said = patterns(said, counts),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Takes out everything but names.
fn blank(value: &mut Value, counts: &mut Counts) {
    match value {
        Value::Object(fields) => fields
            .iter_mut()
            .filter(|(name, _)| !NAMES.contains(&name.as_str()))
            .for_each(|(_, value)| blank(value, counts)),
        Value::Array(members) => members.iter_mut().for_each(|member| blank(member, counts)),
        Value::String(_) => {
            count(counts, "field");
            *value = REDACTED.into();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Lines of no particular form: logs, metrics.
pub(super) fn text(text: &str, counts: &mut Counts) -> String {
    static HEADER: LazyLock<Regex> = LazyLock::new(|| {
        compiled(r#"(?im)\b(proxy-authorization|authorization|set-cookie|cookie)("?\s*[:=]\s*)(\S.*)$"#)
    });
    static PAIR: LazyLock<Regex> = LazyLock::new(|| {
        compiled(r#"(?i)([a-z0-9_-]*(?:password|passwd|secret|token|api[-_]?key)[a-z0-9_-]*)(=)([^\s&"',;]+)"#)
    });
    let text = replaced(text, &HEADER, "field", counts);
    patterns(&replaced(&text, &PAIR, "field", counts), counts)
}

/// YAML as a person wrote it, comments and all. What stands below a secret's name goes, line by line.
pub(super) fn yaml(text: &str, counts: &mut Counts) -> String {
    let mut out = String::with_capacity(text.len());
    for document in documents(text) {
        let is_secret_kind = document.lines().any(|line| line.trim_end() == "kind: Secret");
        // As deep as the name whose value is being taken out.
        let mut below: Option<usize> = None;
        for line in document.split_inclusive('\n') {
            let depth = line.len() - line.trim_start().len();
            let is_blank = line.trim().is_empty();
            if below.is_some_and(|name| depth <= name && !is_blank) {
                below = None;
            }
            match below {
                Some(_) if is_blank => out.push_str(line),
                Some(_) => {
                    count(counts, "field");
                    out.push_str(&" ".repeat(depth));
                    out.push_str(REDACTED);
                    out.push('\n');
                }
                None => {
                    let (line, opens) = yaml_line(line, is_secret_kind, counts);
                    below = opens.then_some(depth);
                    out.push_str(&line);
                }
            }
        }
    }
    patterns(&out, counts)
}

/// The line without what is secret in it, and whether that goes on in the lines below.
fn yaml_line(line: &str, is_secret_kind: bool, counts: &mut Counts) -> (String, bool) {
    static KEY: LazyLock<Regex> =
        LazyLock::new(|| compiled(r#"(?:^|[\s{\[,-])["']?([A-Za-z0-9_.-]+)["']?\s*:(?:\s+|$)"#));
    let secret = KEY.captures_iter(line).find(|found| {
        let name = found.get(1).map_or("", |name| name.as_str());
        is_secret(name) || (is_secret_kind && matches!(name, "data" | "stringData"))
    });
    let Some(end) = secret.and_then(|found| found.get(0)).map(|found| found.end()) else {
        return (line.to_owned(), false);
    };
    let (name, value) = line.split_at(end);
    match value.trim() {
        "" => (line.to_owned(), true),
        // A text in the lines below.
        block if block.starts_with(['|', '>', '&', '#']) => (line.to_owned(), true),
        _ => {
            count(counts, "field");
            (format!("{} {REDACTED}\n", name.trim_end()), true)
        }
    }
}

/// Each with its separator.
fn documents(text: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if at > 0 && line.starts_with("---") {
            starts.push(at);
        }
        at += line.len();
    }
    starts.push(text.len());
    starts.windows(2).filter_map(|pair| text.get(*pair.first()?..*pair.last()?)).collect()
}

/// What is known by its looks, wherever it stands.
fn patterns(text: &str, counts: &mut Counts) -> String {
    static KEY: LazyLock<Regex> = LazyLock::new(|| {
        compiled(r"(?s)()()-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)")
    });
    static JWT: LazyLock<Regex> =
        LazyLock::new(|| compiled(r"()()\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*"));
    static SCHEME: LazyLock<Regex> = LazyLock::new(|| compiled(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}"));
    // The secret halves of JSON Web Keys (RFC 7518 §6).
    static JWK: LazyLock<Regex> =
        LazyLock::new(|| compiled(r#"(\\?["']?\b(?:k|d|p|q|dp|dq|qi)\\?["']?)(\s*:\s*\\?["'])[A-Za-z0-9_=-]{6,}"#));
    let text = replaced(text, &KEY, "private key", counts);
    let text = replaced(&text, &JWT, "JWT", counts);
    let text = replaced(&text, &SCHEME, "credentials", counts);
    match text.contains("kty") {
        true => replaced(&text, &JWK, "JSON Web Key", counts),
        false => text,
    }
}

/// All matches with what stands in the first two groups kept.
fn replaced(text: &str, pattern: &Regex, what: &'static str, counts: &mut Counts) -> String {
    let all = pattern.replace_all(text, |found: &Captures<'_>| {
        count(counts, what);
        let group = |at| found.get(at).map_or("", |group| group.as_str());
        format!("{}{}{REDACTED}", group(1), group(2))
    });
    all.into_owned()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // Names of things, not the things: which Secret holds a certificate, which header holds a token.
    let is_reference = name.ends_with("name") || name.ends_with("secrets") || name.ends_with("tokens");
    HEADERS.contains(&name.as_str()) || (!is_reference && PARTS.iter().any(|part| name.contains(part)))
}

fn count(counts: &mut Counts, what: &'static str) {
    *counts.entry(what).or_default() += 1;
}

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("invariant: written here and tested")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planted wherever a secret may stand.
    const SECRET: &str = "hunter2hunter2";

    fn key() -> String {
        ["-----BEGIN EC ", "PRIVATE KEY-----\nMHcCAQEE", SECRET, "\n-----END EC PRIVATE KEY-----"].concat()
    }

    #[test]
    fn nothing_secret_is_left_in_a_page() {
        let token = format!("eyJhbGciOiJIUzI1NiJ9.{SECRET}.sig");
        for planted in [
            format!(r#"{{"set": [{{"name": "authorization", "value": "{SECRET}"}}]}}"#),
            format!(r#"{{"key": "cookie", "value": {{"exact": {{"value": "{SECRET}", "ignore_case": false}}}}}}"#),
            format!(r#"{{"headers": {{"Cookie": {{"exact": "{SECRET}"}}}}}}"#),
            format!(r#"{{"token": "{SECRET}"}}"#),
            format!(r#"{{"client_secret": "{SECRET}"}}"#),
            format!(r#"{{"note": "sent Bearer {SECRET}"}}"#),
            format!(r#"{{"note": "{token}"}}"#),
            format!(r#"{{"inline": "{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"{SECRET}\"}}]}}"}}"#),
            serde_json::json!({ "file": key() }).to_string(),
            format!("GET /?access_token={SECRET}&x=y\n"),
            format!("cookie: a=b; c={SECRET}\n"),
            format!("authorization = \"Digest {SECRET}\"\n"),
            key(),
            token,
        ] {
            let mut counts = Counts::new();
            let shown = page(&planted, &mut counts);
            assert!(!shown.contains(SECRET), "{planted}\n{shown}");
            assert!(shown.contains(REDACTED) && counts.values().sum::<u64>() > 0, "{shown}");
        }
    }

    #[test]
    fn nothing_secret_is_left_in_rules() {
        for planted in [
            format!("headers:\n  request:\n    set:\n      authorization: Basic {SECRET}\n"),
            format!("- match:\n  - headers:\n      cookie:\n        exact: {SECRET}\n    uri: {{prefix: /}}\n"),
            format!("- match: [{{headers: {{cookie: {{exact: \"{SECRET}\"}}}}}}]\n"),
            format!("x-api-key: |\n  {SECRET}\nnext: 1\n"),
            format!("x-api-key: >-\n  one\n\n  {SECRET}\n"),
            format!("apiVersion: v1\nkind: Secret\ndata:\n  tls.key: {SECRET}\n  other: {SECRET}\n"),
            format!("jwks: '{{\"keys\": [{{\"kty\": \"oct\", \"k\": \"{SECRET}\"}}]}}'\n"),
            format!("jwks: |\n  {{\"keys\": [{{\"kty\": \"RSA\", \"d\": \"{SECRET}\"}}]}}\n"),
            format!("key: |\n  {}\n", key().replace('\n', "\n  ")),
            format!("\"password\": {SECRET}\n"),
        ] {
            let mut counts = Counts::new();
            let shown = yaml(&planted, &mut counts);
            assert!(!shown.contains(SECRET), "{planted}\n{shown}");
            assert!(shown.contains(REDACTED) && !counts.is_empty(), "{shown}");
        }
    }

    #[test]
    fn what_is_no_secret_stays_as_it_was_written() {
        let rules = "# for cookies see below\nkind: VirtualService\nmetadata: {name: token-service}\nspec:\n  hosts: [secret-santa]\n---\nkind: DestinationRule\nspec:\n  credentialName: somewhere\n";
        let mut counts = Counts::new();
        assert_eq!(yaml(rules, &mut counts), rules);
        let dump =
            serde_json::json!({"secrets": [{"name": "ROOTCA"}], "name": "x-version", "value": "v1", "p": "public"});
        assert_eq!(serde_json::from_str::<Value>(&page(&dump.to_string(), &mut counts)).unwrap(), dump);
        let metrics = "leno_jwt_refused_total{reason=\"token\"} 3\n";
        assert_eq!(page(metrics, &mut counts), metrics);
        assert!(counts.is_empty(), "{counts:?}");
    }

    #[test]
    fn what_stands_beside_a_secret_is_kept() {
        let rules = format!("a: 1\ncookie:\n  exact: {SECRET}\nb: 2\n");
        assert_eq!(yaml(&rules, &mut Counts::new()), "a: 1\ncookie:\n  [redacted]\nb: 2\n");
    }
}
