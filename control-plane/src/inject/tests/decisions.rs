//! Who gets a sidecar, and who says so.

use serde_json::{Value, json};

use super::super::{Default, IstioNames, Marks, Purpose, Settings, Surroundings, inject};

/// Pod's and namespace's labels and annotations, and what is decided: `+` or `-`, and the words of the reason.
type Row =
    (&'static str, &'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)], &'static str);

fn marks(pairs: &[(&str, &str)]) -> Marks {
    let mut marks = Marks::default();
    for (key, value) in pairs {
        let (list, key) = match key.strip_prefix('@') {
            Some(key) => (&mut marks.annotations, key),
            None => (&mut marks.labels, *key),
        };
        list.insert(key.to_owned(), (*value).to_owned());
    }
    marks
}

fn decided(pod: &Value, namespace: &str, outer: &Marks, settings: &Settings) -> String {
    let around = Surroundings { namespace, marks: outer, workload: "a", purpose: Purpose::Serves };
    match inject(pod, &around, settings) {
        Ok(injection) => {
            assert_eq!(injection.decision.injects(), injection.changed.is_some());
            format!("{} {}", if injection.decision.injects() { '+' } else { '-' }, injection.decision)
        }
        Err(problems) => format!("! {problems}"),
    }
}

fn pod(own: &[(&str, &str)]) -> Value {
    let own = marks(own);
    json!({
        "metadata": { "labels": own.labels, "annotations": own.annotations },
        "spec": { "containers": [{ "name": "app", "image": "a" }] },
    })
}

fn check(rows: &[Row], settings: &Settings) {
    for (what, own, outer, wanted) in rows {
        let got = decided(&pod(own), "shop", &marks(outer), settings);
        assert!(got.starts_with(wanted), "{what}: {got}");
    }
}

#[test]
fn a_pods_word_counts_more_than_its_namespaces_and_our_name_more_than_istios() {
    const ON: &str = "leno.mesh/inject";
    let rows: [Row; 20] = [
        ("nobody says anything", &[], &[], "- neither the pod nor its namespace"),
        ("our label on the namespace", &[], &[(ON, "enabled")], "+ the namespace's label leno.mesh/inject=enabled"),
        ("our annotation on the namespace", &[], &[("@leno.mesh/inject", "enabled")], "+ the namespace's annotation"),
        ("Istio's label", &[], &[("istio-injection", "enabled")], "+ the namespace's label istio-injection=enabled"),
        ("Istio's label that says no", &[], &[("istio-injection", "disabled")], "- the namespace's label istio-"),
        ("our revision", &[], &[("istio.io/rev", "default")], "+ the namespace's label istio.io/rev=default"),
        ("another revision", &[], &[("istio.io/rev", "canary")], "- another revision of the control plane"),
        ("istio-injection and a revision", &[], &[("istio-injection", "enabled"), ("istio.io/rev", "x")], "+ "),
        (
            "ours against Istio's",
            &[],
            &[(ON, "disabled"), ("istio-injection", "enabled")],
            "- the namespace's label leno",
        ),
        ("the pod's label", &[(ON, "enabled")], &[], "+ the pod's label leno.mesh/inject=enabled"),
        ("the pod's annotation", &[("@leno.mesh/inject", "enabled")], &[], "+ the pod's annotation leno.mesh/inject"),
        ("the pod's no", &[(ON, "disabled")], &[(ON, "enabled")], "- the pod's label"),
        ("the pod's yes", &[(ON, "enabled")], &[("istio-injection", "disabled")], "+ the pod's label"),
        ("label against annotation", &[(ON, "disabled"), ("@leno.mesh/inject", "enabled")], &[], "- the pod's label"),
        (
            "Istio's name on a pod",
            &[("sidecar.istio.io/inject", "true")],
            &[],
            "+ the pod's label sidecar.istio.io/inj",
        ),
        ("Istio's, annotated", &[("@sidecar.istio.io/inject", "false")], &[(ON, "enabled")], "- the pod's annotation"),
        (
            "ours against Istio's",
            &[(ON, "enabled"), ("sidecar.istio.io/inject", "false")],
            &[],
            "+ the pod's label leno",
        ),
        ("an empty one", &[("sidecar.istio.io/inject", "")], &[(ON, "enabled")], "+ the namespace's label"),
        ("a slip", &[(ON, "enabld")], &[], "! the pod's label `leno.mesh/inject`: `enabld` is neither `enabled` nor"),
        ("a slip on the namespace", &[], &[("istio-injection", "enable")], "! the namespace's label `istio-injection`"),
    ];
    check(&rows, &Settings::default());
}

#[test]
fn istios_truth_values_are_taken_in_any_case() {
    for (value, wanted) in
        [("Y", '+'), ("yes", '+'), ("TRUE", '+'), ("on", '+'), ("n", '-'), ("No", '-'), ("false", '-'), ("OFF", '-')]
    {
        let got = decided(&pod(&[("sidecar.istio.io/inject", value)]), "shop", &Marks::default(), &Settings::default());
        assert!(got.starts_with(wanted), "{value}: {got}");
    }
}

#[test]
fn beside_another_mesh_a_pod_is_refused_unless_it_opts_out_of_that_mesh() {
    const ON: (&str, &str) = ("leno.mesh/inject", "enabled");
    let rows: [Row; 10] = [
        (
            "Linkerd's annotation",
            &[],
            &[ON, ("@linkerd.io/inject", "enabled")],
            "- Linkerd injects here, because the namesp",
        ),
        ("opted out of Linkerd", &[("@linkerd.io/inject", "disabled")], &[ON, ("@linkerd.io/inject", "enabled")], "+ "),
        ("ambient mode", &[], &[ON, ("istio.io/dataplane-mode", "ambient")], "- Istio's ambient mode injects here"),
        (
            "out of ambient mode",
            &[("istio.io/dataplane-mode", "none")],
            &[ON, ("istio.io/dataplane-mode", "ambient")],
            "+ ",
        ),
        (
            "Consul",
            &[ON, ("@consul.hashicorp.com/connect-inject", "true")],
            &[],
            "- Consul injects here, because the pod's",
        ),
        ("Kuma", &[], &[ON, ("kuma.io/sidecar-injection", "enabled")], "- Kuma injects here"),
        (
            "Istio's label alone",
            &[],
            &[("istio-injection", "enabled")],
            "- Istio injects here, because the namespace's label",
        ),
        ("both labels", &[], &[ON, ("istio-injection", "enabled")], "- Istio injects here"),
        (
            "both, and the pod opts out of Istio",
            &[ON, ("sidecar.istio.io/inject", "false")],
            &[("istio-injection", "enabled")],
            "+ ",
        ),
        ("only ours", &[], &[ON], "+ the namespace's label leno.mesh/inject=enabled"),
    ];
    check(&rows, &Settings { istio_names: IstioNames::Istios, ..Settings::default() });
}

#[test]
fn what_no_label_can_change() {
    let yes = Marks { labels: marks(&[("leno.mesh/inject", "enabled")]).labels, ..Marks::default() };
    let settings = Settings { default: Default::Inject, ..Settings::default() };
    let with = |spec: Value| {
        let mut pod = pod(&[("leno.mesh/inject", "enabled")]);
        let changes = spec.as_object().cloned().unwrap_or_default();
        pod["spec"].as_object_mut().expect("a mapping").extend(changes);
        pod
    };
    let sidecar = json!([{ "name": "app" }, { "name": "istio-proxy" }]);
    let rows = [
        ("kube-system", json!({}), "- the namespace kube-system is Kubernetes' own"),
        ("leno-system", json!({}), "- the namespace leno-system is the control plane's own"),
        ("shop", json!({ "hostNetwork": true }), "- the pod is in its node's network (hostNetwork: true)"),
        ("shop", json!({ "hostNetwork": false }), "+ "),
        ("shop", json!({ "os": { "name": "windows" } }), "- the pod runs on Windows"),
        ("shop", json!({ "nodeSelector": { "kubernetes.io/os": "windows" } }), "- the pod runs on Windows"),
        (
            "shop",
            json!({ "containers": sidecar }),
            "- the pod has the sidecar of Istio (container istio-proxy) already",
        ),
        ("shop", json!({ "containers": [] }), "! `spec.containers` of the pod is missing or empty"),
    ];
    for (namespace, spec, wanted) in rows {
        let got = decided(&with(spec), namespace, &yes, &settings);
        assert!(got.starts_with(wanted), "{namespace}: {got}");
    }
}

#[test]
fn a_value_without_quotes_is_named_before_kubernetes_refuses_it() {
    let pod = json!({
        "metadata": { "annotations": { "sidecar.istio.io/inject": true, "my.company/number": 1 } },
        "spec": { "containers": [{ "name": "app" }] },
    });
    let got = decided(&pod, "shop", &Marks::default(), &Settings::default());
    let wanted = "! the pod's annotation `sidecar.istio.io/inject`: `true` is not a text; Kubernetes takes only texts here: write \"true\"";
    assert_eq!(got, wanted);
}
