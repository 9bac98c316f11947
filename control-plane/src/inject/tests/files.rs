//! Files in, files out.

use leno_config::rules::SourceText;
use serde_json::Value;

use super::super::manifest::{Manifest, Namespaces};
use super::settings;

fn manifest(files: &[(&str, &str)]) -> Manifest {
    let sources: Vec<SourceText> =
        files.iter().map(|(name, text)| SourceText { name: (*name).into(), text: (*text).into() }).collect();
    Manifest::read(&sources).unwrap_or_else(|error| panic!("{error}"))
}

fn namespaces() -> Namespaces {
    Namespaces { default: "default".to_owned(), ..Namespaces::default() }
}

fn injected(text: &str) -> String {
    manifest(&[("a.yaml", text)]).inject(&settings(), &namespaces()).text
}

fn uninjected(text: &str) -> String {
    manifest(&[("a.yaml", text)]).uninject().0
}

/// The documents as a reader sees them.
fn values(text: &str) -> Vec<Value> {
    let documents = text.split_inclusive('\n').fold(vec![String::new()], |mut documents, line| {
        match line.trim_end() {
            "---" => documents.push(String::new()),
            _ => documents.last_mut().expect("there is one").push_str(line),
        }
        documents
    });
    documents.iter().map(|text| serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))).collect()
}

/// With all that people write: comments, quotes, octal numbers, words that YAML 1.1 takes for truth values, texts of several
/// lines, lists that are indented and lists that are not.
const SHOP: &str = r##"# The shop.
apiVersion: v1
kind: Service
metadata: {name: reviews}   # braces
spec:
    ports:
        - {name: http, port: 9080}
--- # and its pods
# Two of them.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: reviews   # the name
spec:
  replicas: 2
  template:
    metadata:
      labels:
        app: reviews
        "version": 'v1'
      annotations:
        # asked for by the people of metrics
        prometheus.io/scrape: "true"
        prometheus.io/port: "9080"

    spec:
      # first the database
      initContainers:
      - name: migrate
        image: migrate:1
        command:
        - sh
        - -c
        - |
          # not a comment
          echo "a: b"

          exit 0
      containers:
      # the app itself
      - name: app
        image: reviews:1 # pinned
        readinessProbe:
          # slow
          httpGet:
            path: /health
            port: http
          periodSeconds: 5
        ports:
        - containerPort: 9080
          name: http
        env:
          - name: TRUTH
            value: "yes"
        volumeMounts:
        - {name: config, mountPath: /config}

      # what they read
      volumes:
      - name: config
        configMap:
          name: config
          defaultMode: 0644
...
---
apiVersion: v1
kind: ConfigMap
metadata:
  name:   odd
data: {a:   "b"}
# the end"##;

#[test]
fn what_injection_does_not_change_comes_out_as_it_went_in() {
    let out = injected(SHOP);
    let mut rest = out.lines();
    for line in SHOP.lines() {
        // What has another value now: the probe, and where Prometheus asks.
        let changes = ["httpGet:", "path: /health", "port: http", "prometheus.io/port"];
        if !changes.iter().any(|changed| line.trim().starts_with(changed)) {
            assert!(rest.any(|written| written == line), "`{line}` is gone or out of order:\n{out}");
        }
    }
    let documents = values(&out.replace("--- # and its pods", "---").replace("...\n", ""));
    let pod = &documents[1]["spec"]["template"];
    assert_eq!(super::names(pod, "initContainers"), ["leno-init", "leno-proxy", "migrate"]);
    assert_eq!(super::names(pod, "containers"), ["app"]);
    assert_eq!(super::names(pod, "volumes"), ["config", "leno-token", "leno-root", "leno-state"]);
    assert!(out.ends_with("# the end"), "not even a line end is added");
}

#[test]
fn twice_is_once_and_the_way_back_leads_to_the_same_value() {
    let once = injected(SHOP);
    assert_eq!(injected(&once), once, "byte for byte");
    let back = uninjected(&once);
    let plain = |text: &str| values(&text.replace("--- # and its pods", "---").replace("...\n", ""));
    assert_eq!(plain(&back), plain(SHOP));
    assert!(back.contains("defaultMode: 0644") && back.contains("# pinned") && back.contains("# the app itself"));
    assert_eq!(uninjected(SHOP), SHOP, "what has no sidecar comes out as it went in");
}

#[test]
fn everything_that_makes_pods_gets_a_sidecar() {
    let spec = "{containers: [{name: app, image: a}]}";
    let rows = [
        ("v1", "Pod", format!("spec: {spec}"), ""),
        ("v1", "ReplicationController", format!("spec: {{template: {{spec: {spec}}}}}"), "/spec/template"),
        ("apps/v1", "Deployment", format!("spec: {{template: {{spec: {spec}}}}}"), "/spec/template"),
        ("apps/v1", "StatefulSet", format!("spec: {{template: {{spec: {spec}}}}}"), "/spec/template"),
        ("apps/v1", "DaemonSet", format!("spec: {{template: {{spec: {spec}}}}}"), "/spec/template"),
        ("apps/v1", "ReplicaSet", format!("spec: {{template: {{spec: {spec}}}}}"), "/spec/template"),
        ("batch/v1", "Job", format!("spec: {{template: {{spec: {spec}}}}}"), "/spec/template"),
        (
            "batch/v1",
            "CronJob",
            format!("spec: {{jobTemplate: {{spec: {{template: {{spec: {spec}}}}}}}}}"),
            "/spec/jobTemplate/spec/template",
        ),
        (
            "v1",
            "List",
            format!("items: [{{apiVersion: v1, kind: Pod, metadata: {{name: b}}, spec: {spec}}}]"),
            "/items/0",
        ),
    ];
    for (version, kind, body, template) in rows {
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: a\n{body}\n");
        let out = injected(&text);
        let document = values(&out).remove(0);
        let pod = document.pointer(template).unwrap_or_else(|| panic!("{kind}: {out}"));
        assert_eq!(super::names(pod, "initContainers"), ["leno-init", "leno-proxy"], "{kind}");
        assert_eq!(injected(&out), out, "{kind}");
        assert_eq!(values(&uninjected(&out)), values(&text), "{kind}");
    }
    let others = "apiVersion: example.org/v1\nkind: Deployment\nspec: {template: {spec: {containers: [{name: a}]}}}\n";
    assert_eq!(injected(others), others, "somebody else's Deployment is none");
}

#[test]
fn json_and_braces_and_anchors_and_windows_line_ends_are_taken_too() {
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"app"}]}}"#;
    let out = injected(json);
    let read: Value = serde_json::from_str(&out).expect("JSON stays JSON");
    assert_eq!(super::names(&read, "containers"), ["app"]);
    let mode = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: app}], volumes: [{name: s, secret: {secretName: s, defaultMode: 0400}}]}\n";
    assert!(injected(mode).contains("defaultMode: 256"), "{}", injected(mode));
    let anchors = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: &labels\n    app: a\nspec:\n  containers:\n  - name: app\n    env: &env []\n  - name: other\n    <<: {image: b}\n    env: *env\n";
    let out = injected(anchors);
    assert!(out.contains("&labels") && out.contains("*env"), "{out}");
    assert_eq!(super::names(&values(&out)[0], "containers"), ["app", "other"]);
    let windows =
        "apiVersion: v1\r\nkind: Pod\r\nmetadata:\r\n  name: a\r\nspec:\r\n  containers:\r\n  - name: app\r\n";
    let out = injected(windows);
    assert!(out.contains("leno-proxy") && out.lines().count() == out.matches("\r\n").count(), "{out:?}");
}

#[test]
fn files_stand_behind_each_other_as_documents() {
    let pod = "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec:\n  containers:\n  - name: app";
    let map = "---\nkind: ConfigMap\napiVersion: v1\n";
    let text = manifest(&[("a", "a: 1"), ("b", pod), ("c", map), ("d", "# nothing\n")]);
    let text = text.inject(&settings(), &namespaces()).text;
    assert!(text.starts_with("a: 1\n---\nkind: Pod\n"), "{text}");
    assert!(text.ends_with("\n---\nkind: ConfigMap\napiVersion: v1\n# nothing\n"), "{text}");
}

#[test]
fn namespaces_in_the_files_decide_and_are_found_again() {
    let space = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels:\n    istio-injection: disabled\n";
    let pods = "kind: Pod\napiVersion: v1\nmetadata:\n  name: a\n  namespace: shop\nspec: {containers: [{name: app}]}\n---\nkind: Pod\napiVersion: v1\nmetadata:\n  name: b\n  namespace: shop\n  annotations:\n    leno.mesh/inject: enabled\nspec: {containers: [{name: app}]}\n---\nkind: Pod\napiVersion: v1\nmetadata: {name: c}\nspec: {containers: [{name: app}]}\n";
    let verdicts = manifest(&[("pods.yaml", pods), ("space.yaml", space)]).verdicts(&settings(), &namespaces());
    let told: Vec<(String, bool, Option<String>)> = verdicts
        .iter()
        .map(|verdict| {
            let injection = verdict.outcome.as_ref().expect("valid");
            let place = verdict.decided_at.as_ref().map(|at| format!("{}:{}", at.file, at.line));
            (verdict.owner.name.clone(), injection.decision.injects(), place)
        })
        .collect();
    assert_eq!(told[0], ("a".to_owned(), false, Some("space.yaml:6".to_owned())));
    assert_eq!(told[1], ("b".to_owned(), true, Some("pods.yaml:14".to_owned())));
    assert_eq!(told[2], ("c".to_owned(), true, None));
    let labels = [("leno.mesh/inject".to_owned(), "disabled".to_owned())].into();
    let given = Namespaces { labels, ..namespaces() };
    let verdicts = manifest(&[("pods.yaml", pods)]).verdicts(&settings(), &given);
    let decisions: Vec<bool> =
        verdicts.iter().flat_map(|verdict| &verdict.outcome).map(|it| it.decision.injects()).collect();
    assert_eq!(decisions, [false, true, false]);
}

#[test]
fn what_is_no_yaml_is_told_with_its_line() {
    let source = |text: &[u8]| SourceText { name: "a.yaml".into(), text: text.into() };
    let error = Manifest::read(&[source(b"a: 1\n---\nb: [\n")]).expect_err("no YAML");
    assert_eq!((error.file.as_str(), error.line >= 3), ("a.yaml", true), "{error}");
    assert!(Manifest::read(&[source(b"\xff")]).expect_err("no text").to_string().contains("UTF-8"));
}
