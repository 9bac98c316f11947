use serde_json::{Value, json};

use super::permissions;
use super::values::Values;

#[test]
fn later_values_win_and_mappings_are_merged() {
    let file = |text: &str| ("values.yaml".to_owned(), text.to_owned());
    let files = [
        file("replicas: 3\ninjection: {logLevel: debug, resources: {cpu: 10m}}\n"),
        file("# nothing\n"),
        file("injection: {resources: {memory: 32Mi}}\n"),
    ];
    let set = ["replicas=5", "image=", "tolerations=[{key: a}]"].map(str::to_owned);
    let values = Values::merged(&files, &set).expect("values");
    assert_eq!(values.replicas, 5);
    assert_eq!(values.image, "");
    assert_eq!(values.tolerations, [json!({ "key": "a" })]);
    let expected = json!({ "logLevel": "debug", "resources": { "cpu": "10m", "memory": "32Mi" } });
    assert_eq!(Value::Object(values.injection), expected);
    assert_eq!(values.log_format, "json", "what nobody says is the chart's own");
}

#[test]
fn what_is_wrong_with_values_is_said_with_its_place() {
    let rows = [
        ("[1]", "", "a.yaml: values are a mapping"),
        ("a: {", "", "a.yaml: "),
        ("replicass: 1", "", "replicass"),
        ("replicas: 99", "", "replicas: 99"),
        ("", "replicas", "--set replicas: write KEY=VALUE"),
        ("", ".a=1", "KEY=VALUE"),
        ("", "image={", "--set image"),
    ];
    for (text, set, expected) in rows {
        let set: Vec<String> = [set].iter().filter(|set| !set.is_empty()).map(|set| (*set).to_owned()).collect();
        let error = Values::merged(&[("a.yaml".to_owned(), text.to_owned())], &set).expect_err(text).to_string();
        assert!(error.contains(expected), "{text} {set:?}: {error}");
    }
}

#[test]
fn no_permission_is_for_everything_and_secrets_are_named() {
    let cluster = permissions::of_cluster();
    for rule in cluster.iter().chain(&permissions::of_namespace()) {
        for key in ["apiGroups", "resources", "verbs"] {
            let words = rule[key].as_array().expect("a list");
            assert!(!words.is_empty() && words.iter().all(|word| word != "*"), "{rule}");
        }
        let of = |resource: &str| rule["resources"].as_array().is_some_and(|all| all.contains(&json!(resource)));
        let creates = rule["verbs"] == json!(["create"]);
        if of("secrets") || of("leases") || of("configmaps") {
            assert!(creates || rule["resourceNames"].is_array(), "{rule}");
        }
    }
    let everywhere = |resource: &str| {
        cluster.iter().any(|rule| rule["resources"].as_array().is_some_and(|all| all.contains(&json!(resource))))
    };
    assert!(!everywhere("secrets"), "secrets of other namespaces are nobody's business");
}
