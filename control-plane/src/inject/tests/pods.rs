//! What a pod looks like afterwards.

use serde_json::{Value, json};

use super::super::uninject;
use super::{annotated, container, inject_with, injected, names, pod, settings, variable};

#[test]
fn a_native_sidecar_stands_behind_the_set_up_and_before_the_apps_own_init_containers() {
    let mut with_init = pod();
    with_init["spec"]["initContainers"] = json!([{ "name": "migrate", "image": "m" }]);
    let pod = injected(&with_init);
    assert_eq!(names(&pod, "initContainers"), ["leno-init", "leno-proxy", "migrate"]);
    assert_eq!(names(&pod, "containers"), ["app"]);
    assert_eq!(names(&pod, "volumes"), ["leno-token", "leno-root", "leno-state"]);
    let proxy = container(&pod, "leno-proxy");
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(proxy["startupProbe"]["httpGet"], json!({ "path": "/healthz/ready", "port": 15021, "scheme": "HTTP" }));
    assert_eq!(proxy["args"], json!(["run"]));
    assert!(container(&pod, "leno-init").get("restartPolicy").is_none(), "it ends");
}

#[test]
fn only_the_set_up_has_privileges() {
    let pod = injected(&pod());
    let proxy = &container(&pod, "leno-proxy")["securityContext"];
    let wanted = json!({
        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "privileged": false,
        "readOnlyRootFilesystem": true, "runAsGroup": 1337, "runAsNonRoot": true, "runAsUser": 1337,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    assert_eq!(*proxy, wanted);
    let init = &container(&pod, "leno-init")["securityContext"];
    assert_eq!(init["capabilities"], json!({ "add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"] }));
    assert_eq!((&init["runAsUser"], &init["privileged"]), (&json!(0), &json!(false)));
}

#[test]
fn the_sidecar_knows_who_it_is_and_whom_to_ask() {
    let pod = injected(&pod());
    let rows = [
        ("LENO_NODE_NAME", "\"metadata.name\""),
        ("LENO_NODE_IP", "\"status.podIP\""),
        ("LENO_NODE_NAMESPACE", "\"metadata.namespace\""),
        ("LENO_NODE_SERVICE_ACCOUNT", "\"spec.serviceAccountName\""),
        ("LENO_NODE_WORKLOAD", "reviews"),
        ("LENO_NODE_LABELS", "app=reviews,version=v1"),
        ("LENO_INTERCEPTION", "redirect"),
        ("LENO_CONTROL_PLANE_ADDRESS", "https://leno.leno-system.svc:15012"),
        ("LENO_CONTROL_PLANE_ROOT", "/var/run/secrets/leno-root/root-cert.pem"),
        ("LENO_CONTROL_PLANE_TOKEN", "/var/run/secrets/leno/token"),
        ("LENO_STATE", "/var/lib/leno"),
        ("LENO_READY", "0.0.0.0:15021"),
        ("LENO_METRICS", "0.0.0.0:15090"),
        ("LENO_MERGED", "0.0.0.0:15020"),
    ];
    for (name, wanted) in rows {
        assert_eq!(variable(&pod, name).as_deref(), Some(wanted), "{name}");
    }
    let token = &pod["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(*token, json!({ "audience": "istio-ca", "expirationSeconds": 43_200, "path": "token" }));
    assert_eq!(pod["spec"]["volumes"][1]["configMap"]["name"], "leno-ca-root-cert");
}

#[test]
fn status_and_default_containers_are_annotated() {
    let pod = injected(&annotated(&[("kubectl.kubernetes.io/default-container", "mine")]));
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["kubectl.kubernetes.io/default-container"], "mine", "what is there stays");
    assert_eq!(annotations["kubectl.kubernetes.io/default-logs-container"], "app");
    let status: Value = serde_json::from_str(annotations["leno.mesh/status"].as_str().expect("text")).expect("JSON");
    assert_eq!(status["initContainers"], json!(["leno-init", "leno-proxy"]));
    assert_eq!(status["volumes"], json!(["leno-token", "leno-root", "leno-state"]));
    assert_eq!(status["revision"], "default");
}

#[test]
fn probes_over_the_network_go_through_the_proxy() {
    let mut app = pod();
    app["spec"]["containers"][0]["ports"] = json!([{ "name": "http", "containerPort": 9080 }]);
    app["spec"]["containers"][0]["livenessProbe"] = json!({
        "httpGet": { "path": "/live", "port": "http", "httpHeaders": [{ "name": "a", "value": "b" }] },
        "periodSeconds": 7,
    });
    app["spec"]["containers"][0]["readinessProbe"] = json!({ "tcpSocket": { "port": 9080 }, "timeoutSeconds": 4 });
    app["spec"]["containers"][0]["startupProbe"] = json!({ "grpc": { "port": 9081, "service": "s" } });
    app["spec"]["initContainers"] =
        json!([{ "name": "side", "restartPolicy": "Always", "startupProbe": { "exec": { "command": ["true"] } } }]);
    let injected = injected(&app);
    let container = container(&injected, "app");
    for (probe, path) in [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")] {
        let wanted = json!({ "path": format!("/app-health/app/{path}"), "port": 15020, "scheme": "HTTP" });
        assert_eq!(container[probe]["httpGet"], wanted);
        assert!(container[probe].get("tcpSocket").is_none() && container[probe].get("grpc").is_none());
    }
    assert_eq!(container["livenessProbe"]["periodSeconds"], 7);
    let asked: Value = serde_json::from_str(&variable(&injected, "LENO_APP_PROBES").expect("set")).expect("JSON");
    let wanted = json!({
        "/app-health/app/livez": {
            "httpGet": { "path": "/live", "port": 9080, "scheme": "HTTP", "httpHeaders": [{ "name": "a", "value": "b" }] },
            "timeoutSeconds": 1,
        },
        "/app-health/app/readyz": { "tcpSocket": { "port": 9080 }, "timeoutSeconds": 4 },
        "/app-health/app/startupz": { "grpc": { "port": 9081, "service": "s" }, "timeoutSeconds": 1 },
    });
    assert_eq!(asked, wanted);
    assert_eq!(super::container(&injected, "side")["startupProbe"], json!({ "exec": { "command": ["true"] } }));
    assert_eq!(uninject(&injected).expect("valid"), Some(app));
}

#[test]
fn probes_that_cannot_or_shall_not_be_rewritten_stay() {
    let with = |probe: Value, annotations: &[(&str, &str)]| {
        let mut pod = annotated(annotations);
        pod["spec"]["containers"][0]["livenessProbe"] = probe;
        let injection = inject_with(&pod, &settings()).expect("valid");
        let after = injection.changed.expect("injected");
        (
            after["spec"]["containers"][0]["livenessProbe"] == pod["spec"]["containers"][0]["livenessProbe"],
            injection.warnings,
        )
    };
    let http = json!({ "httpGet": { "port": 80 } });
    assert!(with(http.clone(), &[("sidecar.istio.io/rewriteAppHTTPProbers", "false")]).0);
    assert!(with(http, &[("leno.mesh/rewrite-probes", "false")]).0);
    assert!(with(json!({ "httpGet": { "port": 80, "host": "elsewhere" } }), &[]).0);
    let (stays, warnings) = with(json!({ "httpGet": { "port": "web" } }), &[]);
    assert!(stays && warnings[0].contains("declares no port named `web`"), "{warnings:?}");
    let mut hook = pod();
    hook["spec"]["containers"][0]["lifecycle"] = json!({ "preStop": { "httpGet": { "port": 80 } } });
    let warnings = inject_with(&hook, &settings()).expect("valid").warnings;
    assert!(warnings[0].contains("lifecycle.preStop of container app"), "{warnings:?}");
}

#[test]
fn scrapes_are_pointed_at_the_merged_endpoint() {
    let scraped = ("prometheus.io/scrape", "true");
    type Row<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, Option<&'a str>);
    let rows: [Row<'_>; 7] = [
        (&[], Some("15020"), None),
        (&[scraped, ("prometheus.io/port", "9102")], Some("15020"), Some("http://127.0.0.1:9102/metrics")),
        (
            &[scraped, ("prometheus.io/port", "1"), ("prometheus.io/path", "m")],
            Some("15020"),
            Some("http://127.0.0.1:1/m"),
        ),
        (&[scraped], Some("15020"), Some("http://127.0.0.1:80/metrics")),
        (&[("prometheus.io/scrape", "false"), ("prometheus.io/port", "9")], Some("9"), None),
        (&[scraped, ("prometheus.io/port", "9"), ("prometheus.istio.io/merge-metrics", "false")], Some("9"), None),
        (&[scraped, ("prometheus.io/port", "9"), ("prometheus.io/scheme", "https")], Some("9"), None),
    ];
    for (annotations, port, app) in rows {
        let before = annotated(annotations);
        let after = injected(&before);
        assert_eq!(after["metadata"]["annotations"]["prometheus.io/port"].as_str(), port, "{annotations:?}");
        assert_eq!(variable(&after, "LENO_APP_METRICS").as_deref(), app, "{annotations:?}");
        assert_eq!(uninject(&after).expect("valid"), Some(before));
    }
    let mut declared = annotated(&[scraped]);
    declared["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 9080 }]);
    let app = variable(&injected(&declared), "LENO_APP_METRICS");
    assert_eq!(app.as_deref(), Some("http://127.0.0.1:9080/metrics"), "the only port that there is");
}

#[test]
fn a_name_of_ours_that_the_app_uses_is_refused() {
    let mut taken = pod();
    taken["spec"]["containers"][0]["name"] = json!("leno-proxy");
    taken["spec"]["volumes"] = json!([{ "name": "leno-state", "emptyDir": {} }]);
    let problems = inject_with(&taken, &settings()).expect_err("taken").to_string();
    assert!(problems.contains("a container named `leno-proxy`") && problems.contains("a volume named `leno-state`"));
    let broken = annotated(&[("leno.mesh/status", "injected")]);
    let problems = inject_with(&broken, &settings()).expect_err("broken").to_string();
    assert!(problems.contains("`leno.mesh/status` cannot be read"), "{problems}");
}
