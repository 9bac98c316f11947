//! Texts that nobody meant to be rules: reading and validating them always ends, and never in a panic.

use leno_config::diagnostic::{Style, render};
use leno_config::rules::{SourceText, parse};
use leno_config::validate::check;
use proptest::prelude::*;

const RULES: &str = include_str!("data/everything.yaml");

/// Reads, validates and shows everything.
fn survive(text: &[u8]) {
    let parsed = parse(&[SourceText { name: "-".into(), text: text.to_vec() }]);
    for finding in check(&parsed) {
        let place = finding.place.as_ref().expect("what was read has a place");
        assert!(place.line >= 1 && place.column >= 1, "{finding}");
        assert!(!render(&finding, Style::Plain).is_empty());
        serde_json::to_string(&finding).expect("a finding is JSON");
    }
    for document in parsed.documents.iter().chain(&parsed.broken) {
        document.rule.to_yaml().expect("a rule can be written");
        document.place_of("spec.http[0].route[0].destination.host");
    }
}

/// One small change to a text.
#[derive(Debug, Clone)]
enum Change {
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
    Swap(usize, usize),
    Repeat(usize, usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let snippets = prop::sample::select(vec![
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "|\n",
        ">\n",
        "&a ",
        "*a",
        "<<: ",
        "\t",
        "\r\n",
        "\n---\n",
        "\n...\n",
        "!!binary ",
        "!x ",
        "? ",
        "#",
        "%",
        "@",
        "~",
        "-1",
        "0",
        "1e999",
        ".nan",
        "99999999999999999999",
        "true",
        "null",
        "é",
        "\u{0}",
        "\u{feff}",
        "kind: List\n",
        "items:\n",
        "*",
        "(",
        "spec:\n",
    ]);
    let insert = prop_oneof![
        4 => snippets.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..8),
    ];
    prop_oneof![
        (any::<usize>(), 1_usize..40).prop_map(|(at, length)| Change::Remove(at, length)),
        (any::<usize>(), insert).prop_map(|(at, text)| Change::Insert(at, text)),
        (any::<usize>(), any::<usize>()).prop_map(|(one, other)| Change::Swap(one, other)),
        (any::<usize>(), 1_usize..80, 1_usize..4).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
    ]
}

fn apply(text: &mut Vec<u8>, change: &Change) {
    let length = text.len().max(1);
    match change {
        Change::Remove(at, count) => {
            let start = (at % length).min(text.len());
            text.drain(start..(start + count).min(text.len()));
        }
        Change::Insert(at, insert) => {
            let at = (at % length).min(text.len());
            text.splice(at..at, insert.iter().copied());
        }
        Change::Swap(one, other) => {
            // Whole lines, so that the result is often YAML again.
            let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
            let count = lines.len();
            lines.swap(one % count, other % count);
            *text = lines.join(&b'\n');
        }
        Change::Repeat(at, count, times) => {
            let start = (at % length).min(text.len());
            let part = text[start..(start + count).min(text.len())].to_vec();
            text.splice(start..start, part.repeat(*times));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn rules_with_random_changes_end_in_findings(changes in prop::collection::vec(change(), 1..6)) {
        let mut text = RULES.as_bytes().to_vec();
        for change in &changes {
            apply(&mut text, change);
        }
        survive(&text);
    }

    #[test]
    fn random_texts_end_in_findings(text in "[-a-z0-9:{}\\[\\]\"'|>&*!?#%@, \t\r\n\\\\]{0,200}") {
        survive(text.as_bytes());
    }

    #[test]
    fn random_bytes_end_in_findings(text in prop::collection::vec(any::<u8>(), 0..200)) {
        survive(&text);
    }
}

#[test]
fn the_rules_that_are_changed_are_whole_to_begin_with() {
    let parsed = parse(&[SourceText { name: "-".into(), text: RULES.into() }]);
    let errors: Vec<String> =
        check(&parsed).iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert_eq!(parsed.documents.len(), 13);
}

#[test]
fn rules_are_written_as_they_were_read() {
    let parsed = parse(&[SourceText { name: "-".into(), text: RULES.into() }]);
    for document in &parsed.documents {
        let written = document.rule.to_yaml().unwrap();
        let again = parse(&[SourceText { name: "again".into(), text: written.clone().into() }]);
        assert_eq!(again.documents[0].rule, document.rule, "{written}");
        assert_eq!(meaning(&written), meaning(&document.text), "{}", document.id);
    }
}

/// YAML as values, where 1 is 1.0.
fn meaning(yaml: &str) -> serde_json::Value {
    fn with_floats(value: serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Number(number) => number.as_f64().into(),
            serde_json::Value::Array(entries) => entries.into_iter().map(with_floats).collect(),
            serde_json::Value::Object(entries) => {
                entries.into_iter().map(|(key, value)| (key, with_floats(value))).collect()
            }
            other => other,
        }
    }
    with_floats(serde_yaml::from_str(yaml).expect("what was written is YAML"))
}

#[test]
fn sizes_and_depths_have_bounds() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec: {}{}",
            open.repeat(depth),
            close.repeat(depth)
        )
    };
    let aliases: String =
        (0..40).map(|level| format!("  a{}: &a{} [*a{level}, *a{level}, *a{level}]\n", level + 1, level + 1)).collect();
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n";
    for text in [
        nested("[", "]", 10_000),
        nested("{a: ", "}", 10_000),
        "- ".repeat(10_000),
        (0..2_000).map(|level| format!("{}a:\n", " ".repeat(level))).collect(),
        format!("{head}  a0: &a0 x\n{aliases}"),
        format!("{head}  hosts: [{}]", "x".repeat(1 << 20)),
        format!("{head}  hosts:\n  - |\n    {}\n", "x ".repeat(1 << 19)),
        format!("{head}  {}: 1", "k".repeat(1 << 20)),
        format!("{head}  hosts: [{}]", "1, ".repeat(100_000)),
        format!("{head}{}", (0..20_000).map(|n| format!("  field{n}: 1\n")).collect::<String>()),
        format!("{head}{}", "  hosts: [a]\n".repeat(20_000)),
        format!("{head}  hosts: &a [*a]\n"),
        format!("{head}  <<: {{hosts: [a]}}\n"),
        "%YAML 9.9\n---\na: 1".to_owned(),
        "\u{feff}\u{feff}".to_owned(),
    ] {
        survive(text.as_bytes());
    }
}

#[test]
fn ten_thousand_documents_are_read_at_once() {
    let one = |n: usize| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{n}}}\nspec:\n  hosts: [h{n}]\n  http: [{{route: [{{destination: {{host: h{n}}}}}]}}]\n"
        )
    };
    let text: String = (0..10_000).map(one).collect();
    let parsed = parse(&[SourceText { name: "-".into(), text: text.into() }]);
    assert_eq!(parsed.documents.len(), 10_000);
    assert_eq!(parsed.documents[9_999].place.line, 9_999 * 7 + 2);
}
