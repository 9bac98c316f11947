//! What people install from: `leno install`, the chart, the kustomize base, the Dockerfile and the examples for clusters.
//!
//! `LENO_RENEW=1 cargo test --workspace --test it packaging` writes the files that are made by `leno install` anew.

mod held;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use leno_tests::{feed, python_with_manifests, run_leno, skip, workspace};
use serde_json::{Value, json};

/// Values by which everything is there.
const EVERYTHING: &[&str] = &[
    "--set=podMonitor.enabled=true",
    "--set=imagePullSecrets=[{name: registry}]",
    "--set=nodeSelector={disk: ssd}",
    "--set=tolerations=[{key: a, operator: Exists}]",
    "--set=priorityClassName=system-cluster-critical",
    "--set=replicas=3",
    "--set=listenAddress=\"[::]\"",
    "--set=image=mirror/leno:7",
    "--set=proxyImage=mirror/leno-proxy:7",
    "--set=initImage=mirror/leno-init:7",
    "--set=injection.logLevel=debug",
    "--set=injection.resources={memory: 32Mi}",
];

/// What `leno install` prints without the definitions of kinds.
fn installed(namespace: &str, flags: &[&str]) -> String {
    let mut arguments = vec!["install", "--offline", "--without-crds", "--namespace", namespace];
    arguments.extend(flags);
    let printed = run_leno(&arguments, "");
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    printed.stdout
}

/// The objects of a YAML text, by kind and name. The injector's settings are compared as what they say.
fn objects(yaml: &str) -> BTreeMap<(String, String), Value> {
    let mut objects = BTreeMap::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let mut object = <Value as serde::Deserialize>::deserialize(document).expect("YAML");
        if object.is_null() {
            continue;
        }
        if let Some(text) = object.pointer_mut("/data/injection.yaml") {
            *text = serde_json::from_str(text.as_str().expect("text")).expect("JSON");
        }
        let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).expect(pointer).to_owned();
        let key = (word("/kind"), word("/metadata/name"));
        assert!(objects.insert(key.clone(), object).is_none(), "{key:?} twice");
    }
    objects
}

/// A file of the packaging that is made by a command: it is what the command prints, or is written anew on demand.
fn is_current(path: &str, expected: &str) {
    let file = workspace().join("packaging").join(path);
    if std::env::var_os("LENO_RENEW").is_some() {
        std::fs::write(&file, expected).expect("the file can be written");
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == expected, "{path} is out of date: LENO_RENEW=1 writes it anew");
}

/// The chart, as Helm's own template engine renders it with these values; `None`: there is no Go here.
fn rendered(values: &Value, namespace: &str) -> Option<String> {
    let mut go = Command::new("go");
    go.args(["run", "tests/tests/it/packaging/render.go", "packaging/helm/leno"]).current_dir(workspace());
    let cache = workspace().join("target/go");
    go.env("GOCACHE", cache).env("GO111MODULE", "off");
    let data = json!({
        "Values": values,
        "Release": { "Namespace": namespace },
        "Chart": { "AppVersion": env!("CARGO_PKG_VERSION") },
    });
    match feed(&mut go, &data.to_string()) {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).expect("text"))
        }
        Err(error) => {
            skip("rendering the Helm chart", &format!("Go is not there: {error}"));
            None
        }
    }
}

/// The chart's values with such `--set`s on top.
fn values(set: &[&str]) -> Value {
    let text = std::fs::read_to_string(workspace().join("packaging/helm/leno/values.yaml")).expect("values.yaml");
    let mut values: Value = serde_yaml::from_str(&text).expect("YAML");
    for one in set {
        let (path, value) = one.strip_prefix("--set=").and_then(|one| one.split_once('=')).expect("--set=KEY=VALUE");
        let pointer = format!("/{}", path.replace('.', "/"));
        let (parent, key) = pointer.rsplit_once('/').expect("a key");
        let parent = values.pointer_mut(parent).expect(parent);
        parent[key] = serde_yaml::from_str(value).expect("YAML");
    }
    values
}

#[test]
fn the_chart_and_leno_install_say_the_same() {
    for (namespace, set) in [("leno-system", &[][..]), ("mesh", EVERYTHING)] {
        let Some(chart) = rendered(&values(set), namespace) else { return };
        let mut installed = objects(&installed(namespace, set));
        // Helm makes the namespace itself, if it is told to.
        installed.remove(&("Namespace".to_owned(), namespace.to_owned()));
        let chart = objects(&chart);
        let names = |objects: &BTreeMap<_, _>| objects.keys().cloned().collect::<Vec<(String, String)>>();
        assert_eq!(names(&chart), names(&installed));
        for (key, object) in installed {
            assert_eq!(chart[&key], object, "{key:?}");
        }
    }
}

#[test]
fn what_is_made_by_a_command_is_current() {
    const HEADING: &str = "# Made by `leno install`; see packaging/README.md.\n";
    let base = installed("leno-system", &[]);
    is_current("kustomize/base/leno.yaml", &format!("{HEADING}{base}"));
    let definitions = run_leno(&["install", "--offline", "--crds-only"], "");
    assert_eq!(definitions.code, 0, "{}", definitions.stderr);
    is_current("helm/leno/crds/crds.yaml", &definitions.stdout);
    // Roles and webhooks have no values but the namespace.
    let all = objects(&installed("NAMESPACE", &[]));
    let texts = |kinds: &[&str]| {
        let chosen = all.iter().filter(|((kind, _), _)| kinds.contains(&kind.as_str()));
        let texts = chosen.map(|(_, object)| serde_yaml::to_string(object).expect("YAML"));
        format!("{HEADING}{}", texts.collect::<Vec<_>>().join("---\n")).replace("NAMESPACE", "{{ .Release.Namespace }}")
    };
    is_current("helm/leno/templates/roles.yaml", &texts(&["ClusterRole", "Role"]));
    let webhooks = texts(&["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]);
    is_current("helm/leno/templates/webhooks.yaml", &webhooks);
}

#[test]
fn what_is_installed_is_what_kubernetes_takes() {
    let Some(python) = python_with_manifests("Kubernetes' schemas") else { return };
    // Kinds of the Prometheus operator are none of Kubernetes'.
    let mut text = installed("leno-system", &EVERYTHING[1..]);
    text += &run_leno(&["install", "--offline", "--crds-only"], "").stdout;
    for example in ["bookinfo/namespace", "bookinfo/apps", "canary/shop"] {
        let path = workspace().join(format!("examples/kubernetes/{example}.yaml"));
        text += "\n---\n";
        text += &std::fs::read_to_string(path).expect("an example");
    }
    let mut validate = python.script("validate_manifests.py");
    let output = feed(validate.args(["1.29", "1.33"]), &text).expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn the_schema_of_the_values_knows_all_of_them_and_no_others() {
    let schema = std::fs::read_to_string(workspace().join("packaging/helm/leno/values.schema.json")).expect("a schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let keys = |value: &Value| value.as_object().expect("a mapping").keys().cloned().collect::<Vec<_>>();
    let mut known = keys(&schema["properties"]);
    known.retain(|key| key != "global");
    known.sort();
    let mut written = keys(&values(&[]));
    written.sort();
    assert_eq!(known, written);
}

#[test]
fn wrong_values_are_refused_with_their_key() {
    for (flag, words) in [
        ("--set=replica=3", "replica"),
        ("--set=replicas=0", "replicas: 0"),
        ("--set=replicas=many", "replicas"),
        ("--set=replicas", "KEY=VALUE"),
        ("--set=podMonitor.enable=true", "enable"),
        ("--set=image={", "image"),
    ] {
        let refused = run_leno(&["install", "--offline", flag], "");
        assert_eq!(refused.code, 2, "{flag}: {}", refused.stdout);
        assert!(refused.stderr.contains(words), "{flag}: {}", refused.stderr);
        assert!(refused.stdout.is_empty(), "{flag}");
    }
}

#[test]
fn uninstalling_leaves_the_definitions_unless_told_otherwise() {
    let kinds = |flags: &[&str]| {
        let printed = run_leno(flags, "");
        assert_eq!(printed.code, 0, "{}", printed.stderr);
        objects(&printed.stdout).into_keys().map(|(kind, _)| kind).collect::<Vec<_>>()
    };
    let without = kinds(&["uninstall"]);
    assert!(without.contains(&"Deployment".to_owned()), "{without:?}");
    assert!(!without.contains(&"CustomResourceDefinition".to_owned()), "{without:?}");
    let with = kinds(&["uninstall", "--crds"]);
    assert!(with.contains(&"CustomResourceDefinition".to_owned()), "{with:?}");
}

#[test]
fn images_are_made_of_what_is_there_hold_nothing_but_the_program_and_run_as_nobody_special() {
    let text = std::fs::read_to_string(workspace().join("packaging/Dockerfile")).expect("a Dockerfile");
    let stages: Vec<&str> = text.split("\nFROM ").skip(1).collect();
    let stage = |name: &str| {
        let found =
            stages.iter().find(|stage| stage.lines().next().is_some_and(|line| line.ends_with(&format!(" AS {name}"))));
        *found.unwrap_or_else(|| panic!("there is no image {name}"))
    };
    assert_eq!(stages.len(), 4);
    for line in text.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from")) {
        let sources: Vec<&str> = line.split(' ').collect();
        for source in &sources[..sources.len() - 1] {
            assert!(workspace().join(source).exists(), "COPY {source}");
        }
    }
    for (image, user, program) in [
        ("leno-proxy", "1337:1337", "leno-proxy"),
        ("leno-init", "1337:1337", "leno-proxy"),
        ("leno", "65532:65532", "leno"),
    ] {
        let stage = stage(image);
        assert!(stage.contains(&format!("\nUSER {user}\n")), "{stage}");
        assert!(stage.contains(&format!("\nENTRYPOINT [\"/usr/local/bin/{program}\"]\n")), "{stage}");
        // What runs for long has no shell: nothing is run while it is made, and one program is copied into it.
        let is_bare = stage.starts_with("gcr.io/distroless/cc-debian12:nonroot AS ");
        assert_eq!(is_bare, image != "leno-init", "{stage}");
        assert_eq!(stage.contains("\nRUN "), !is_bare, "{stage}");
        let copied: Vec<&str> = stage.lines().filter(|line| line.starts_with("COPY ")).collect();
        assert_eq!(copied, [format!("COPY --from=build /usr/local/bin/{program} /usr/local/bin/{program}")]);
    }
    assert!(stage("leno-init").contains(" nftables iptables "), "it sets rules by either");
    // A pod asks for these images, each where it has what the container needs.
    let yaml = std::fs::read_to_string(workspace().join("examples/kubernetes/canary/shop.yaml")).expect("an example");
    let injected = run_leno(&["inject", "-f", "-"], &yaml).stdout;
    for image in ["leno-init", "leno-proxy"] {
        let line = format!("image: {image}:{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(injected.matches(&line).count(), 3, "{line}: {injected}");
    }
    // Nothing else is sent to the builder.
    let ignored = std::fs::read_to_string(workspace().join(".dockerignore")).expect("a .dockerignore");
    assert!(ignored.lines().any(|line| line == "*"));
    for kept in ignored.lines().filter_map(|line| line.strip_prefix('!')) {
        assert!(workspace().join(kept).exists(), "{kept}");
    }
}

/// What Prometheus finds of a pod's ports: `__meta_kubernetes_pod_…` by what it says of each.
fn discovered(pod: &Value) -> Vec<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (name, value) in pod["metadata"]["labels"].as_object().into_iter().flatten() {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        labels.insert(format!("label_{name}"), value.as_str().unwrap_or_default().to_owned());
    }
    let containers = ["initContainers", "containers"].iter().flat_map(|kind| pod["spec"][kind].as_array());
    let mut targets = Vec::new();
    for container in containers.flatten() {
        for port in container["ports"].as_array().into_iter().flatten() {
            let mut target = labels.clone();
            target.insert("container_name".to_owned(), container["name"].as_str().unwrap_or_default().to_owned());
            target.insert("container_port_number".to_owned(), port["containerPort"].to_string());
            target.insert("container_port_name".to_owned(), port["name"].as_str().unwrap_or_default().to_owned());
            targets.push(target);
        }
    }
    targets
}

/// How many of the targets the rules of a job keep.
fn kept(job: &Value, targets: &[BTreeMap<String, String>]) -> usize {
    let keeps: Vec<&Value> =
        job["relabel_configs"].as_array().expect("rules").iter().filter(|rule| rule["action"] == "keep").collect();
    assert!(!keeps.is_empty(), "{job}");
    let fits = |target: &BTreeMap<String, String>, rule: &Value| {
        let names = rule["source_labels"].as_array().expect("labels").iter().map(|name| name.as_str().expect("text"));
        let value = |name: &str| target.get(name.strip_prefix("__meta_kubernetes_pod_")?).cloned();
        let values: Vec<String> = names.map(|name| value(name).unwrap_or_default()).collect();
        rule["regex"] == values.join(rule["separator"].as_str().expect("a separator"))
    };
    targets.iter().filter(|target| keeps.iter().all(|rule| fits(target, rule))).count()
}

/// By the example's scrape configuration, and by the monitors of the Prometheus operator.
#[test]
fn prometheus_finds_the_control_plane_and_each_sidecar_once() {
    let yaml = |path: &str| std::fs::read_to_string(workspace().join(path)).expect("an example");
    let injected = run_leno(&["inject", "-f", "-"], &yaml("examples/kubernetes/canary/shop.yaml"));
    assert_eq!(injected.code, 0, "{}", injected.stderr);
    let all = objects(&installed("leno-system", EVERYTHING));
    let of = |kind: &str, name: &str| all.get(&(kind.to_owned(), name.to_owned())).expect("it is installed");
    let control_plane = discovered(&of("Deployment", "leno")["spec"]["template"]);
    let apps = objects(&injected.stdout);
    let apps = apps.iter().filter(|((kind, _), _)| kind == "Deployment");
    let sidecars: Vec<_> = apps.map(|(_, app)| discovered(&app["spec"]["template"])).collect();
    assert!(sidecars.len() > 1);
    let scraped: Value = serde_yaml::from_str(&yaml("examples/prometheus/kubernetes.yml")).expect("YAML");
    for (job, monitor) in [("leno-control-plane", "leno"), ("leno-proxy", "leno-sidecars")] {
        let jobs = scraped["scrape_configs"].as_array().expect("jobs");
        let rules = jobs.iter().find(|it| it["job_name"] == job).expect("a job");
        let endpoint = &of("PodMonitor", monitor)["spec"]["podMetricsEndpoints"][0];
        assert_eq!(endpoint["relabelings"][0]["replacement"], job, "alerts know it by this name");
        let named = |targets: &[BTreeMap<String, String>]| {
            targets.iter().filter(|target| endpoint["port"] == target["container_port_name"].as_str()).count()
        };
        let is_control_plane = monitor == "leno";
        let found = |targets: &[BTreeMap<String, String>]| (kept(rules, targets), named(targets));
        assert_eq!(found(&control_plane), if is_control_plane { (1, 1) } else { (0, 0) }, "{job}");
        for sidecar in &sidecars {
            assert_eq!(found(sidecar), if is_control_plane { (0, 0) } else { (1, 1) }, "{job}");
        }
    }
}

#[test]
fn the_examples_for_clusters_are_right() {
    let directory = |name: &str| -> PathBuf { workspace().join("examples/kubernetes").join(name) };
    for (name, manifests, sidecars) in [("bookinfo", "apps.yaml", 6), ("canary", "shop.yaml", 3)] {
        let path = directory(name);
        let path = path.to_str().expect("a path");
        let validated = run_leno(&["validate", "-f", path, "--fail-on", "warning"], "");
        assert_eq!(validated.code, 0, "{name}: {}{}", validated.stdout, validated.stderr);
        let file = directory(name).join(manifests);
        let injected = run_leno(&["inject", "-f", file.to_str().expect("a path")], "");
        assert_eq!(injected.code, 0, "{name}: {}", injected.stderr);
        assert_eq!(injected.stdout.matches("leno.mesh/status").count(), sidecars, "{name}");
    }
}
