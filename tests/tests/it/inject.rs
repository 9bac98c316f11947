//! `leno inject`, `leno uninject` and `leno explain inject` from outside.

use leno_tests::{Outcome, feed, python_with_manifests, run_leno};
use serde_json::Value;

/// One of everything that makes pods, with most of what people write into one.
const EVERYTHING: &str = r#"# A shop.
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels:
    istio-injection: enabled
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {ports: [{name: http, port: 9080}], selector: {app: reviews}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  template:
    metadata:
      labels: {app: reviews, version: v1}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "9080"
        traffic.sidecar.istio.io/excludeOutboundPorts: "5432"
        sidecar.istio.io/proxyCPU: 250m
        proxy.istio.io/config: |
          concurrency: 2
          terminationDrainDuration: 20s
    spec:
      serviceAccountName: reviews
      initContainers:
      - name: migrate
        image: migrate:1
      - name: agent
        image: agent:1
        restartPolicy: Always
        startupProbe: {tcpSocket: {port: 7000}}
      containers:
      # The app.
      - name: app
        image: reviews:1
        ports:
        - {name: http, containerPort: 9080}
        livenessProbe: {httpGet: {path: /health, port: http}, periodSeconds: 5}
        readinessProbe: {grpc: {port: 9090}}
        volumeMounts:
        - {name: config, mountPath: /config}
      volumes:
      - name: config
        configMap: {name: config, defaultMode: 0644}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}, annotations: {leno.mesh/native-sidecar: "false"}}
    spec: {containers: [{name: db, image: "db:1"}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: shop}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {hostNetwork: true, containers: [{name: agent, image: "agent:1"}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: shop}
spec: {template: {metadata: {labels: {app: once}}, spec: {restartPolicy: Never, containers: [{name: work, image: "work:1"}]}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: shop}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        metadata:
          annotations: {sidecar.istio.io/interceptionMode: NONE}
        spec:
          restartPolicy: Never
          containers:
          - {name: work, image: "work:1"}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: bare, namespace: shop}
  spec: {containers: [{name: app, image: "a:1"}]}
- apiVersion: v1
  kind: Pod
  metadata:
    name: out
    namespace: shop
    labels:
      sidecar.istio.io/inject: "false"
  spec: {containers: [{name: app, image: "a:1"}]}
"#;

fn inject(text: &str, more: &[&str]) -> Outcome {
    run_leno(&[&["inject", "-f", "-"], more].concat(), text)
}

#[test]
fn injected_resources_are_valid_for_kubernetes() {
    let Some(python) = python_with_manifests("inject::injected_resources_are_valid_for_kubernetes") else { return };
    for form in ["native", "container"] {
        let outcome = inject(EVERYTHING, &["--sidecar", form]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let mut command = python.script("validate_manifests.py");
        let output = feed(command.args(["1.29", "1.33", "1.37"]), &outcome.stdout).unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(told, "held 9\n", "{form}: {}{}", String::from_utf8_lossy(&output.stderr), outcome.stdout);
    }
}

#[test]
fn a_line_for_each_resource_goes_to_stderr_and_the_resources_to_stdout() {
    let outcome = inject(EVERYTHING, &[]);
    let wanted = "deployment/reviews in shop: injected
statefulset/db in shop: injected
daemonset/agent in shop: not injected: the pod is in its node's network (hostNetwork: true), where redirecting would redirect the node
job/once in shop: injected
cronjob/nightly in shop: injected
pod/bare in shop: injected
pod/out in shop: not injected: the pod's label sidecar.istio.io/inject=false says so
";
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, wanted));
    assert!(outcome.stdout.starts_with("# A shop.\napiVersion: v1\nkind: Namespace\n"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("      # The app.\n      - name: app\n"), "comments stay: {}", outcome.stdout);
    assert!(outcome.stdout.contains("defaultMode: 0644"), "what is not touched stays: {}", outcome.stdout);
    let again = inject(&outcome.stdout, &[]);
    assert_eq!(again.stdout, outcome.stdout, "twice is once");
    assert!(again.stderr.starts_with("deployment/reviews in shop: has this sidecar already\n"), "{}", again.stderr);
}

#[test]
fn what_has_no_pod_passes_through_byte_for_byte() {
    let text = "%YAML 1.1\n---\n\n# odd   \nkind:   ConfigMap\napiVersion: v1\ndata: {a:   'b', t: !!str 1}\r\n...\n--- # last\n\"x\" : [1,\n 2]\n\n";
    let outcome = inject(text, &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, text), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("nothing here has a pod"), "{}", outcome.stderr);
    assert_eq!(run_leno(&["uninject", "-"], text).stdout, text);
}

#[test]
fn the_way_back_gives_the_same_values() {
    let Some(python) = python_with_manifests("inject::the_way_back_gives_the_same_values") else { return };
    let injected = inject(EVERYTHING, &[]).stdout;
    let back = run_leno(&["uninject", "-f", "-"], &injected);
    assert_eq!(back.code, 0, "{}", back.stderr);
    assert!(back.stderr.contains("deployment/reviews: sidecar taken out\n"), "{}", back.stderr);
    assert!(back.stderr.contains("daemonset/agent: has no sidecar\n"), "{}", back.stderr);
    let values = |text: &str| {
        let output = feed(&mut python.script("yaml_as_json.py"), text).unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(values(&back.stdout), values(EVERYTHING), "by another reader of YAML, who knows octal numbers");
    assert_ne!(values(&injected), values(EVERYTHING));
}

#[test]
fn where_one_resource_is_wrong_nothing_goes_out() {
    let text = EVERYTHING.replace("proxyCPU: 250m", "proxyCPU: much");
    let outcome = inject(&text, &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    let wanted = "error: deployment/reviews in shop (-:14): the pod's annotation `sidecar.istio.io/proxyCPU`: `much` is not an amount";
    assert!(outcome.stderr.contains(wanted), "{}", outcome.stderr);
    let broken = inject("a: 1\n---\nb: [\n", &[]);
    assert!(broken.code == 1 && broken.stderr.starts_with("error: -:"), "{} {}", broken.code, broken.stderr);
    assert_eq!(run_leno(&["inject"], "").code, 2);
    assert_eq!(run_leno(&["inject", "/nowhere.yaml"], "").code, 2);
}

#[test]
fn what_is_asked_for_can_be_said_on_the_command_line() {
    let pod = "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: app, image: a}\n";
    let rows: [(&[&str], &str); 6] = [
        (&[], "pod/a in default: injected"),
        (&["--opt-in"], "pod/a in default: not injected: neither the pod nor its namespace asks for it"),
        (&["--opt-in", "--namespace-label", "leno.mesh/inject=enabled"], "pod/a in default: injected"),
        (
            &["--namespace-label", "istio-injection=disabled"],
            "not injected: the namespace's label istio-injection=disabled",
        ),
        (&["--beside-istio", "--namespace-label", "istio-injection=enabled"], "not injected: Istio injects here"),
        (&["-n", "kube-system"], "pod/a in kube-system: not injected: the namespace kube-system is Kubernetes' own"),
    ];
    for (flags, wanted) in rows {
        let outcome = inject(pod, flags);
        assert!(outcome.code == 0 && outcome.stderr.contains(wanted), "{flags:?}: {}", outcome.stderr);
    }
    let image = inject(pod, &["--image", "mine:2", "--control-plane", "https://cp:15012"]).stdout;
    assert!(image.contains("image: mine:2") && image.contains("value: https://cp:15012"), "{image}");
    let slip = pod.replace("{name: a}", "{name: a, annotations: {leno.mesh/injct: x}}");
    assert!(inject(&slip, &[]).stderr.contains("did you mean `leno.mesh/inject`?"));
}

#[test]
fn explain_says_who_decided_and_where_it_stands() {
    let explain = |more: &[&str]| run_leno(&[&["explain", "inject", "-f", "-"], more].concat(), EVERYTHING);
    let all = explain(&[]);
    let line = |text: &str| EVERYTHING.lines().position(|line| line.contains(text)).unwrap() + 1;
    let space = line("istio-injection: enabled");
    let first = format!(
        "deployment/reviews in shop (-:14): gets a sidecar\n  the namespace's label istio-injection=enabled says so (-:{space})\n"
    );
    assert!(all.code == 0 && all.stdout.starts_with(&first), "{}{}", all.stdout, all.stderr);
    let out = line("sidecar.istio.io/inject: \"false\"");
    let last = format!("gets no sidecar\n  the pod's label sidecar.istio.io/inject=false says so (-:{out})\n");
    assert!(all.stdout.ends_with(&last), "{}", all.stdout);
    let one: Value = serde_json::from_str(&explain(&["ds/agent", "-o", "json"]).stdout).unwrap();
    assert_eq!((&one[0]["decision"], &one[0]["resource"]), (&"skip".into(), &"daemonset/agent".into()));
    assert!(one[0]["reason"].as_str().unwrap().contains("hostNetwork"), "{one}");
    let by_name: Value = serde_json::from_str(&explain(&["deploy/reviews", "-o", "json"]).stdout).unwrap();
    assert_eq!(by_name[0]["mark"]["key"], "istio-injection");
    assert_eq!(by_name[0]["mark_at"]["line"], space);
    let nobody = explain(&["deploy/nobody"]);
    assert!(nobody.code == 2 && nobody.stderr.contains("there are: deployment/reviews"), "{}", nobody.stderr);
}
