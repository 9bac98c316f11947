//! What is not Kubernetes' own, held against the schemas of those who read it: Helm, the Prometheus operator, kustomize.

use std::collections::BTreeSet;

use leno_tests::{Python, feed, python, workspace};
use serde_json::{Value, json};

use super::{EVERYTHING, installed, objects, values};

/// What a schema has against documents: `NAME: why`, one per line.
fn refused(python: &Python, schema: &Value, documents: &[(String, Value)]) -> Vec<String> {
    let question = json!({ "schema": schema, "documents": documents });
    let output = feed(&mut python.script("validate_json.py"), &question.to_string()).expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn json_of(path: &str) -> Value {
    let text = std::fs::read_to_string(workspace().join(path)).expect("a schema");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn the_charts_schema_takes_its_values_and_refuses_wrong_ones_with_their_place() {
    let Some(python) = python("the chart's schema") else { return };
    let schema = json_of("packaging/helm/leno/values.schema.json");
    let right = [("the defaults", &[][..]), ("everything", EVERYTHING)];
    let right = right.map(|(name, set)| (name.to_owned(), values(set)));
    assert_eq!(refused(&python, &schema, &right), Vec::<String>::new());
    for (set, place) in [
        ("--set=replica=3", "data must not contain {'replica'}"),
        ("--set=replicas=0", "data.replicas must be bigger than or equal to 1"),
        ("--set=replicas=21", "data.replicas must be smaller than or equal to 20"),
        ("--set=replicas=many", "data.replicas must be integer"),
        ("--set=image=7", "data.image must be string"),
        ("--set=initImage=7", "data.initImage must be string"),
        ("--set=imagePullPolicy=Sometimes", "data.imagePullPolicy must be one of"),
        ("--set=imagePullSecrets=[registry]", "data.imagePullSecrets[0] must be object"),
        ("--set=imagePullSecrets=[{}]", "data.imagePullSecrets[0] must contain ['name']"),
        ("--set=listenAddress=127.0.0.1", "data.listenAddress must be one of"),
        ("--set=logLevel=loud", "data.logLevel must be one of"),
        ("--set=nodeSelector={disk: 7}", "data.nodeSelector.disk must be string"),
        ("--set=networkPolicy=true", "data.networkPolicy must be object"),
        ("--set=podDisruptionBudget.enabled=maybe", "data.podDisruptionBudget.enabled must be boolean"),
        ("--set=podMonitor.enable=true", "data.podMonitor must not contain {'enable'}"),
        ("--set=podMonitor.interval=soon", "data.podMonitor.interval must match pattern"),
        ("--set=resources.request={cpu: 1}", "data.resources must not contain {'request'}"),
    ] {
        let wrong = [(set.to_owned(), values(&[set]))];
        let said = refused(&python, &schema, &wrong);
        assert!(said.len() == 1 && said[0].contains(place), "{set}: {said:?}, not `{place}`");
    }
}

#[test]
fn the_monitors_are_what_the_prometheus_operator_takes() {
    let Some(python) = python("the schema of the Prometheus operator") else { return };
    let schema = json_of("tests/tests/it/packaging/podmonitor.schema.json");
    let all = objects(&installed("leno-system", EVERYTHING));
    let monitors = all.into_iter().filter(|((kind, _), _)| kind == "PodMonitor");
    let monitors: Vec<(String, Value)> = monitors.map(|((_, name), monitor)| (name, monitor)).collect();
    assert_eq!(monitors.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["leno", "leno-sidecars"]);
    assert_eq!(refused(&python, &schema, &monitors), Vec::<String>::new());
    // The schema is no rubber stamp.
    for (pointer, value, place) in [
        ("/spec/podMetricsEndpoints/0/interval", json!("soon"), "interval must match pattern"),
        ("/spec/podMetricsEndpoints/0/port", json!(15090), "port must be string"),
        ("/spec/podMetricsEndpoints/0/relabelings/0/target_label", json!("job"), "must not contain {'target_label'}"),
        ("/spec/namespaceSelector", json!({"all": true}), "must not contain {'all'}"),
        ("/spec/endpoints", json!([]), "must not contain {'endpoints'}"),
    ] {
        let mut wrong = monitors.clone();
        let (parent, field) = pointer.rsplit_once('/').expect("a field");
        wrong[1].1.pointer_mut(parent).expect(parent)[field] = value;
        let said = refused(&python, &schema, &wrong);
        assert!(said.len() == 1 && said[0].contains(place), "{pointer}: {said:?}, not `{place}`");
    }
}

#[test]
fn the_kustomize_base_lists_what_is_there_and_everything_of_it_is_in_its_namespace() {
    let base = workspace().join("packaging/kustomize/base");
    let text = std::fs::read_to_string(base.join("kustomization.yaml")).expect("a kustomization");
    let kustomization: Value = serde_yaml::from_str(&text).expect("YAML");
    assert_eq!(kustomization["apiVersion"], "kustomize.config.k8s.io/v1beta1");
    assert_eq!(kustomization["kind"], "Kustomization");
    let fields: BTreeSet<&str> = kustomization.as_object().expect("a mapping").keys().map(String::as_str).collect();
    assert_eq!(fields, BTreeSet::from(["apiVersion", "kind", "namespace", "resources"]));
    let listed = kustomization["resources"].as_array().expect("a list").iter();
    let listed: BTreeSet<String> = listed.map(|name| name.as_str().expect("a name").to_owned()).collect();
    let there = std::fs::read_dir(&base).expect("a directory").flatten();
    let there = there.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let there: BTreeSet<String> = there.filter(|name| name != "kustomization.yaml").collect();
    assert_eq!(listed, there, "nothing is missing, and nothing lies about");

    // kustomize writes its namespace into objects, subjects and webhooks: all of them have it already, so that the base
    // is what `leno install` prints.
    let namespace = &kustomization["namespace"];
    for file in &listed {
        let text = std::fs::read_to_string(base.join(file)).expect("a resource");
        for ((kind, name), object) in objects(&text) {
            assert!(name == "leno" || name.starts_with("leno-"), "{kind} {name} is ours by its name");
            let of_cluster =
                kind.starts_with("Cluster") || kind.ends_with("WebhookConfiguration") || kind == "Namespace";
            let within = object["metadata"].get("namespace");
            assert_eq!(within, (!of_cluster).then_some(namespace), "{kind} {name}");
            let subjects = object["subjects"].as_array().into_iter().flatten().map(|subject| &subject["namespace"]);
            let webhooks = object["webhooks"].as_array().into_iter().flatten();
            let services = webhooks.map(|webhook| &webhook["clientConfig"]["service"]["namespace"]);
            for named in subjects.chain(services) {
                assert_eq!(named, namespace, "{kind} {name}");
            }
        }
    }
}
