//! The schemas are in step with the program, and say of documents what the program says of them.

use std::path::{Path, PathBuf};

use leno_tests::{Python, feed, leno, leno_proxy, python, run_leno, workspace};
use serde_json::{Value, json};

use super::read;
use crate::skip::skip;

/// The documents of a file.
fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let documents = documents.map(|document| serde::Deserialize::deserialize(document).expect("it is YAML"));
    documents.filter(|document: &Value| !document.is_null()).collect()
}

/// What fastjsonschema has against documents: `NAME: why`, one per line.
fn refused(python: &Python, schema: &Value, documents: &[(String, Value)]) -> Vec<String> {
    let question = json!({ "schema": schema, "documents": documents });
    let output = feed(&mut python.script("validate_json.py"), &question.to_string()).expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn schema(arguments: &[&str]) -> Value {
    let outcome = run_leno(&[&["schema"], arguments].concat(), "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).expect("a schema is JSON")
}

/// Files of YAML below a directory.
fn yaml_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(yaml_below(&path)),
            path if path.extension().is_some_and(|it| it == "yaml") => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

#[test]
fn the_schemas_in_the_repository_are_what_the_program_prints() {
    for (file, arguments) in [("leno.json", &[][..]), ("bootstrap.json", &["bootstrap"])] {
        let checked_in: Value = serde_json::from_str(&read(&workspace().join("schemas").join(file))).unwrap();
        let command = [&["leno schema"], arguments].concat().join(" ");
        assert!(checked_in == schema(arguments), "schemas/{file} is old; `{command} > schemas/{file}` renews it");
    }
}

#[test]
fn every_schema_is_printed_and_written_and_an_unknown_kind_is_refused_with_the_known_ones() {
    let directory = tempfile::tempdir().unwrap();
    let written = run_leno(&["schema", "--output", directory.path().to_str().unwrap()], "");
    assert_eq!(written.code, 0, "{}", written.stderr);
    let unknown = run_leno(&["schema", "Gateway"], "");
    assert_eq!(unknown.code, 2);
    let (_, names) = unknown.stderr.trim().split_once("schemas of ").expect("it names the known ones");
    let names = names.split(", ").collect::<Vec<_>>();
    assert!(names.contains(&"VirtualService") && names.contains(&"RateLimit") && names.contains(&"bootstrap"));
    for name in names {
        let file: Value = serde_json::from_str(&read(&directory.path().join(format!("{name}.json")))).unwrap();
        assert_eq!(file, schema(&[&name.to_lowercase()]), "{name}");
        assert_eq!(file["$schema"], "http://json-schema.org/draft-07/schema#", "{name}");
    }
}

#[test]
fn every_example_names_its_schema_in_the_first_line_and_keeps_to_it() {
    let Some(python) = python("schemas of the examples") else { return };
    let mut of_schema = std::collections::BTreeMap::<PathBuf, Vec<(String, Value)>>::new();
    for path in yaml_below(&workspace().join("examples")) {
        let text = read(&path);
        let first = text.lines().next().unwrap_or_default();
        let Some(named) = first.strip_prefix("# yaml-language-server: $schema=") else {
            // Files of other programs name theirs, or none.
            assert!(!text.contains("kind: ") && !text.contains("\nnode:"), "{}: {first}", path.display());
            continue;
        };
        let schema = path.parent().unwrap().join(named).canonicalize();
        let schema = schema.unwrap_or_else(|error| panic!("{}: {named}: {error}", path.display()));
        let name = path.strip_prefix(workspace()).unwrap().display().to_string();
        let documents = documents(&text).into_iter().map(|document| (name.clone(), document));
        of_schema.entry(schema).or_default().extend(documents);
    }
    assert_eq!(of_schema.len(), 2, "rules and bootstraps");
    for (schema, documents) in of_schema {
        assert!(documents.len() > 10, "{} for {} documents", schema.display(), documents.len());
        let schema = serde_json::from_str(&read(&schema)).unwrap();
        assert_eq!(refused(&python, &schema, &documents), Vec::<String>::new());
    }
}

#[test]
fn real_rules_that_the_program_takes_keep_to_the_schema() {
    let beside = workspace().join("../shared/corpus/istio");
    let corpus = std::env::var_os("LENO_CORPUS").map_or(beside, PathBuf::from);
    if !corpus.is_dir() {
        return skip("schemas of the corpus", &format!("there is no folder {}; set LENO_CORPUS", corpus.display()));
    }
    let Some(python) = python("schemas of the corpus") else { return };
    let mut taken = Vec::new();
    for path in yaml_below(&corpus) {
        let said = run_leno(&["validate", "-o", "json", "-f", path.to_str().unwrap()], "");
        let findings: Vec<Value> = serde_json::from_str(&said.stdout).unwrap_or_default();
        // What it calls wrong, and what means nothing to it, is not compared.
        if said.code != 0 || findings.iter().any(|finding| finding["severity"] == "error") {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        taken.extend(documents(&read(&path)).into_iter().map(|document| (name.clone(), without_nulls(document))));
    }
    assert!(taken.len() > 100, "{} documents of the corpus are taken", taken.len());
    assert_eq!(refused(&python, &schema(&[]), &taken), Vec::<String>::new());
}

/// A key without a value is the one thing in which the schema is stricter on purpose.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(keys) => {
            let keys = keys.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(keys.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(entries) => Value::Array(entries.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

const ROUTE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - timeout: 1.5s
    retries: {attempts: 2, perTryTimeout: 500ms}
    route: [{destination: {host: reviews, subset: v1}, weight: 100}]
";

#[test]
fn slips_of_the_pen_are_seen_by_the_schema() {
    let Some(python) = python("schemas and slips") else { return };
    let of = |text: &str| documents(text).remove(0);
    let good = [ROUTE.to_owned(), "apiVersion: apps/v1\nkind: Deployment\nmetadata: {}\n".to_owned()];
    let good = good.iter().map(|text| ("good".to_owned(), of(text))).collect::<Vec<_>>();
    let whole = schema(&[]);
    assert_eq!(refused(&python, &whole, &good), Vec::<String>::new());
    let slips = [
        ("an unknown field", "timeout: 1.5s", "timeOut: 1.5s"),
        ("no duration", "1.5s", "1.5 seconds"),
        ("a number in quotes", "weight: 100", "weight: '100'"),
        ("a text without quotes", "subset: v1", "subset: 1"),
        ("no list", "hosts: [reviews]", "hosts: reviews"),
        ("no name", "{name: reviews}", "{namespace: reviews}"),
        ("no spec", "spec:", "status:"),
        ("a version that there is not", "networking.istio.io/v1", "networking.istio.io/v9"),
        ("a negative number", "attempts: 2", "attempts: two"),
    ];
    let wrong = slips.map(|(what, from, to)| (what.to_owned(), of(&ROUTE.replacen(from, to, 1))));
    let said = refused(&python, &whole, &wrong);
    for (what, ..) in slips {
        assert!(said.iter().any(|line| line.starts_with(what)), "{what} is let through: {said:#?}");
    }
    let bootstrap = schema(&["bootstrap"]);
    let slips = [
        ("an unknown key", json!({"node": {"nmae": "a"}})),
        ("no address", json!({"admin": "localhost"})),
        ("no duration", json!({"drain": "thirty"})),
        ("neither a number nor auto", json!({"workers": "many"})),
    ];
    let said = refused(&python, &bootstrap, &slips.clone().map(|(what, document)| (what.to_owned(), document)));
    for (what, _) in slips {
        assert!(said.iter().any(|line| line.starts_with(what)), "{what} is let through: {said:#?}");
    }
}

#[test]
fn the_sidecar_holds_no_descriptions() {
    let words = b"For the whole request; absent: none";
    let holds = |program: &Path| contains(&std::fs::read(program).unwrap(), words);
    assert!(holds(leno()) && !holds(leno_proxy()), "schemas are for people at a desk, and cost each pod nothing");
}

/// Whether the words stand in the bytes.
fn contains(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}
