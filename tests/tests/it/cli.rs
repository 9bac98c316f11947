//! What the command line says, and with which code it ends.

use leno_tests::{Outcome, free_port, run_leno};
use serde_json::Value;

const GOOD: &str = "apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  ports: [{name: http, port: 9080}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews}
      weight: 5
";

fn validate(text: &str, more: &[&str]) -> Outcome {
    run_leno(&[&["validate", "-f", "-"], more].concat(), text)
}

fn findings(text: &str) -> Vec<Value> {
    let outcome = validate(text, &["-o", "json"]);
    serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", outcome.stdout, outcome.stderr))
}

#[test]
fn rules_without_a_finding_are_valid() {
    let outcome = validate(GOOD, &["--fail-on", "warning"]);
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    assert!(findings(GOOD).is_empty());
}

#[test]
fn every_finding_has_a_code_a_place_a_path_and_words() {
    let text = GOOD.replace("weight: 5", "weight: -5").replace("  - route:", "  - rout: x\n    route:");
    let found = findings(&text);
    assert_eq!(validate(&text, &[]).code, 1);
    let weight = found.iter().find(|finding| finding["path"] == "spec.http[0].route[0].weight");
    let weight = weight.unwrap_or_else(|| panic!("no finding about the weight: {found:#?}"));
    assert_eq!((&weight["severity"], &weight["file"]), (&Value::from("error"), &Value::from("-")));
    let line = text.lines().position(|line| line.contains("-5")).unwrap() + 1;
    assert_eq!(weight["line"], line);
    assert!(weight["column"].as_u64().unwrap() > 1, "{weight}");
    assert!(weight["code"].as_str().unwrap().starts_with('L'), "{weight}");
    let field = found.iter().find(|finding| finding["message"].as_str().unwrap_or_default().contains("rout"));
    let field = field.unwrap_or_else(|| panic!("no finding about the unknown field: {found:#?}"));
    assert!(field.to_string().contains("route"), "it suggests what was meant: {field}");
}

#[test]
fn a_person_sees_the_line_with_the_finding() {
    let text = GOOD.replace("weight: 5", "weight: -5");
    let outcome = validate(&text, &[]);
    let line = text.lines().position(|line| line.contains("-5")).unwrap() + 1;
    assert!(outcome.stdout.contains("weight: -5"), "the snippet is there: {}", outcome.stdout);
    assert!(outcome.stdout.contains(&format!("-:{line}:")), "the place is there: {}", outcome.stdout);
    assert!(!outcome.stdout.contains('\x1b'), "NO_COLOR is honoured");
    assert!(validate(&text, &["--color", "always"]).stdout.contains('\x1b'));
}

#[test]
fn a_warning_fails_only_whoever_asks_for_that() {
    let text = GOOD.replace("destination: {host: reviews}", "destination: {host: nobody}");
    assert_eq!(validate(&text, &[]).code, 0);
    assert_eq!(validate(&text, &["--fail-on", "warning"]).code, 1);
    assert!(findings(&text).iter().all(|finding| finding["severity"] == "warning"));
}

#[test]
fn exit_codes_tell_usage_from_findings_from_an_unreachable_server() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for (arguments, code) in [
        (&["no-such-command"][..], 2),
        (&["validate", "--no-such-flag"], 2),
        (&["status", "--address", &nobody], 3),
        (&["version"], 0),
        (&["--help"], 0),
    ] {
        let outcome = run_leno(arguments, "");
        assert_eq!(outcome.code, code, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
    }
}

fn explain(arguments: &[&str]) -> Value {
    let outcome = run_leno(&[&["explain"], arguments, &["-f", "examples/bookinfo", "-o", "json"]].concat(), "");
    serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", outcome.stdout, outcome.stderr))
}

#[test]
fn explain_names_the_rule_its_place_and_its_split() {
    let json = explain(&["GET", "http://reviews:9080/reviews/0"]);
    let rule = &json["rule"];
    assert_eq!(
        (&rule["kind"], &rule["name"], &rule["index"]),
        (&"VirtualService".into(), &"reviews".into(), &1.into())
    );
    assert!(rule["file"].as_str().unwrap().ends_with("examples/bookinfo/routes.yaml"), "{rule}");
    let text = std::fs::read_to_string(leno_tests::workspace().join("examples/bookinfo/routes.yaml")).unwrap();
    let second = text.lines().enumerate().filter(|(_, line)| line.starts_with("  - ")).nth(1).unwrap().0 + 1;
    assert_eq!(rule["line"], second);
    let shares: Vec<(&str, u64)> = json["clusters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cluster| (cluster["name"].as_str().unwrap(), cluster["weight"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        shares,
        [
            ("outbound|9080|v1|reviews.default.svc.cluster.local", 80),
            ("outbound|9080|v2|reviews.default.svc.cluster.local", 20)
        ]
    );
    let lost = json["lost"].as_array().unwrap();
    assert_eq!(lost.len(), 1, "{json:#}");
    assert!(lost[0]["reason"].as_str().unwrap().contains("end-user"), "{json:#}");
}

#[test]
fn explain_follows_headers_and_says_what_nobody_routes() {
    let jason = explain(&["GET", "http://reviews:9080/reviews/0", "-H", "end-user=jason"]);
    assert_eq!(jason["rule"]["index"], 0);
    assert_eq!(jason["clusters"][0]["name"], "outbound|9080|v2|reviews.default.svc.cluster.local");
    assert_eq!(jason["status"], Value::Null);
    let outcome = run_leno(&["explain", "GET", "http://reviews:9080/", "-f", "examples/bookinfo"], "");
    assert_eq!(outcome.code, 0);
    for word in ["reviews", "80", "20", "routes.yaml:"] {
        assert!(outcome.stdout.contains(word), "{word} is missing in\n{}", outcome.stdout);
    }
}
