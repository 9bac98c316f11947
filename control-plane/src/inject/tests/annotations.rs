//! What annotations of a pod decide about its sidecar.

use serde_json::json;

use super::super::Sidecar;
use super::{annotated, container, inject_with, injected, names, pod, settings, variable};

/// The value of a flag of `leno-proxy redirect apply`.
fn flag(annotations: &[(&str, &str)], flag: &str) -> String {
    let pod = injected(&annotated(annotations));
    let arguments = container(&pod, "leno-init")["args"].as_array().expect("it has arguments").clone();
    let at = arguments.iter().position(|argument| argument == flag).expect("the flag is there");
    arguments[at + 1].as_str().expect("a text").to_owned()
}

#[test]
fn traffic_annotations_become_flags_of_redirect() {
    let rows = [
        ("", "", "--include-inbound-ports", "*"),
        ("", "", "--exclude-inbound-ports", "15020,15021,15090"),
        ("", "", "--include-outbound-ranges", "*"),
        ("", "", "--exclude-outbound-ports", ""),
        ("traffic.sidecar.istio.io/includeInboundPorts", "8080, 8443", "--include-inbound-ports", "8080,8443"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "", "--include-inbound-ports", ""),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "22", "--exclude-inbound-ports", "15020,15021,15090,22"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "3306", "--include-outbound-ports", "3306"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "25,465", "--exclude-outbound-ports", "25,465"),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.0/8", "--include-outbound-ranges", "10.0.0.0/8"),
        (
            "traffic.sidecar.istio.io/excludeOutboundIPRanges",
            "fd00::/8,1.2.3.4",
            "--exclude-outbound-ranges",
            "fd00::/8,1.2.3.4",
        ),
        ("leno.mesh/exclude-outbound-ports", "5432", "--exclude-outbound-ports", "5432"),
        ("leno.mesh/include-outbound-ip-ranges", "*", "--include-outbound-ranges", "*"),
    ];
    for (key, value, name, wanted) in rows {
        let annotations: &[_] = if key.is_empty() { &[] } else { &[(key, value)] };
        assert_eq!(flag(annotations, name), wanted, "{key}={value}");
    }
    let both = [("traffic.sidecar.istio.io/excludeOutboundPorts", "1"), ("leno.mesh/exclude-outbound-ports", "2")];
    assert_eq!(flag(&both, "--exclude-outbound-ports"), "2", "our name wins");
}

#[test]
fn the_sidecar_is_as_its_annotations_want_it() {
    let pod = injected(&annotated(&[
        ("sidecar.istio.io/proxyCPU", "250m"),
        ("sidecar.istio.io/proxyMemoryLimit", "1.5Gi"),
        ("sidecar.istio.io/logLevel", "warning"),
        ("sidecar.istio.io/proxyImage", "registry.example/leno-proxy:2"),
        ("proxy.istio.io/config", "concurrency: 2\nterminationDrainDuration: 45s\n"),
    ]));
    let proxy = container(&pod, "leno-proxy");
    // As in Istio, what a pod says about resources replaces all that the operator said.
    assert_eq!(proxy["resources"], json!({ "requests": { "cpu": "250m" }, "limits": { "memory": "1.5Gi" } }));
    assert_eq!(proxy["image"], "registry.example/leno-proxy:2");
    assert_eq!(container(&pod, "leno-init")["image"], concat!("leno-init:", env!("CARGO_PKG_VERSION")));
    for (name, wanted) in [("LENO_LOG", "warn"), ("LENO_WORKERS", "2"), ("LENO_DRAIN", "45s")] {
        assert_eq!(variable(&pod, name).as_deref(), Some(wanted), "{name}");
    }
    let plain = injected(&super::pod());
    assert_eq!(container(&plain, "leno-proxy")["resources"]["requests"], json!({ "cpu": "100m", "memory": "64Mi" }));
    assert_eq!(variable(&plain, "LENO_WORKERS"), None);
}

#[test]
fn the_form_of_the_sidecar_and_what_it_takes_can_be_chosen() {
    let older = injected(&annotated(&[("leno.mesh/native-sidecar", "false")]));
    assert_eq!(names(&older, "containers"), ["leno-proxy", "app"]);
    assert_eq!(names(&older, "initContainers"), ["leno-init"]);
    let hook = &container(&older, "leno-proxy")["lifecycle"]["postStart"]["exec"]["command"];
    assert_eq!(*hook, json!(["leno-proxy", "wait"]));
    let no_hold =
        [("leno.mesh/native-sidecar", "false"), ("proxy.istio.io/config", "{holdApplicationUntilProxyStarts: false}")];
    let eager = injected(&annotated(&no_hold));
    assert_eq!(names(&eager, "containers"), ["app", "leno-proxy"]);
    assert!(container(&eager, "leno-proxy").get("lifecycle").is_none());
    let none = injected(&annotated(&[("sidecar.istio.io/interceptionMode", "NONE")]));
    assert_eq!(names(&none, "initContainers"), ["leno-proxy"]);
    assert_eq!(variable(&none, "LENO_INTERCEPTION").as_deref(), Some("none"));
    let native = super::super::Settings { sidecar: Sidecar::Container, ..settings() };
    let native = inject_with(&annotated(&[("sidecar.istio.io/nativeSidecar", "true")]), &native);
    let native = native.expect("valid").changed.expect("injected");
    assert_eq!(names(&native, "initContainers"), ["leno-init", "leno-proxy"]);
}

#[test]
fn a_value_that_means_nothing_is_told_with_the_annotations_name() {
    let rows = [
        ("sidecar.istio.io/proxyCPU", "much", "is not an amount as Kubernetes writes it"),
        ("sidecar.istio.io/proxyMemory", "-1Gi", "is not an amount"),
        ("leno.mesh/proxy-memory-limit", "1 Gi", "is not an amount"),
        ("sidecar.istio.io/logLevel", "loud", "is not a level"),
        ("sidecar.istio.io/proxyImage", "a b", "is not the name of an image"),
        ("sidecar.istio.io/rewriteAppHTTPProbers", "maybe", "is neither `true` nor `false`"),
        ("sidecar.istio.io/interceptionMode", "TPROXY", "is not supported; REDIRECT and NONE are"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "80,http", "`http` is not a port from 1 to 65535"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "0", "`0` is not a port"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "*", "`*` is not a port"),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.0/33", "is not a range of addresses"),
        ("leno.mesh/exclude-outbound-ip-ranges", "example.org", "is not a range of addresses"),
        ("leno.mesh/workers", "1000", "is not a number of threads"),
        ("leno.mesh/drain", "soon", "is not a duration"),
        ("proxy.istio.io/config", "concurrency: many", "`concurrency` is not a number from 0 to 256"),
        ("proxy.istio.io/config", "[", "is not YAML"),
        ("proxy.istio.io/config", "text", "is not a mapping"),
        ("prometheus.io/scrape", "perhaps", "is neither `true` nor `false`"),
        ("sidecar.istio.io/userVolume", "web", "is not a JSON object by names of volumes"),
        ("sidecar.istio.io/userVolume", r#"{"web": {}}"#, "no volume is without a source"),
        ("leno.mesh/volume-mounts", r#"{"web": {"mountPath": "web"}}"#, "an absolute `mountPath`"),
    ];
    for (key, value, wanted) in rows {
        let problems = inject_with(&annotated(&[(key, value)]), &settings()).expect_err(key).to_string();
        assert!(problems.contains(wanted), "{key}: {problems}");
        assert!(problems.starts_with(&format!("the pod's annotation `{key}`: `{value}`")), "{problems}");
    }
    let all = [("sidecar.istio.io/proxyCPU", "much"), ("leno.mesh/drain", "soon"), ("leno.mesh/workers", "-1")];
    assert_eq!(inject_with(&annotated(&all), &settings()).expect_err("wrong").0.len(), 3, "all at once");
}

#[test]
fn names_that_nobody_reads_are_told_and_what_was_meant() {
    let rows = [
        ("leno.mesh/injct", Some("did you mean `leno.mesh/inject`?")),
        ("leno.mesh/proxyCPU", Some("did you mean `leno.mesh/proxy-cpu`?")),
        ("leno.mehs/inject", Some("did you mean `leno.mesh/inject`?")),
        ("leno.mesh/colour", Some("`leno.mesh/colour` is unknown and does nothing")),
        ("sidecar.istio.io/proxyCpu", Some("did you mean `sidecar.istio.io/proxyCPU`?")),
        (
            "traffic.sidecar.istio.io/excludeOutboundPort",
            Some("did you mean `traffic.sidecar.istio.io/excludeOutboundPorts`?"),
        ),
        ("sidecar.istio.io/bootstrapOverride", Some("is not honoured")),
        ("leno.mesh/drain", None),
        ("my.company/inject", None),
        ("kubectl.kubernetes.io/restartedAt", None),
        ("networking.istio.io/exportTo", None),
    ];
    for (key, wanted) in rows {
        let warnings = inject_with(&annotated(&[(key, "5s")]), &settings()).expect("valid").warnings;
        match wanted {
            Some(wanted) => assert!(warnings.iter().any(|warning| warning.contains(wanted)), "{key}: {warnings:?}"),
            None => assert!(warnings.is_empty(), "{key}: {warnings:?}"),
        }
    }
    let skipped = annotated(&[("leno.mesh/inject", "disabled"), ("leno.mesh/injekt", "x")]);
    assert_eq!(inject_with(&skipped, &settings()).expect("valid").warnings.len(), 1, "also where nothing is injected");
}

#[test]
fn the_sidecar_gets_volumes_of_its_own_and_a_name_that_is_taken_is_refused() {
    let annotations = [
        ("sidecar.istio.io/userVolume", r#"{"web-tls": {"secret": {"secretName": "web"}}}"#),
        (
            "sidecar.istio.io/userVolumeMount",
            r#"{"web-tls": {"mountPath": "/etc/leno/credentials/web", "readOnly": true}}"#,
        ),
    ];
    let injected = injected(&annotated(&annotations));
    let spec = &injected["spec"];
    let named = |list: &serde_json::Value| {
        list.as_array().into_iter().flatten().find(|entry| entry["name"] == "web-tls").cloned()
    };
    assert_eq!(named(&spec["volumes"]), Some(json!({"name": "web-tls", "secret": {"secretName": "web"}})));
    let proxy = spec["initContainers"].as_array().expect("containers").iter().find(|it| it["name"] == "leno-proxy");
    let mount = json!({"name": "web-tls", "mountPath": "/etc/leno/credentials/web", "readOnly": true});
    assert_eq!(proxy.and_then(|proxy| named(&proxy["volumeMounts"])), Some(mount));
    assert!(named(&spec["containers"][0]["volumeMounts"]).is_none(), "the app has nothing of it");
    let mut taken = annotated(&annotations);
    taken["spec"]["volumes"] = json!([{"name": "web-tls", "emptyDir": {}}]);
    let problem = inject_with(&taken, &settings()).expect_err("two of one name").to_string();
    assert!(problem.contains("web-tls"), "{problem}");
}

#[test]
fn what_will_surprise_somebody_is_told() {
    let told = |pod: &serde_json::Value| inject_with(pod, &settings()).expect("valid").warnings.join("\n");
    let mut root = pod();
    root["spec"]["securityContext"] = json!({ "runAsUser": 1337 });
    assert!(told(&root).contains("runs as user 1337"));
    let mut port = pod();
    port["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 15021 }]);
    assert!(told(&port).contains("15021 is one of the sidecar's"));
    let istios = told(&annotated(&[("sidecar.istio.io/proxyImage", "docker.io/istio/proxyv2:1.29.0")]));
    assert!(istios.contains("is Istio's proxy; it gets Leno's"), "{istios}");
    let config = told(&annotated(&[("proxy.istio.io/config", "tracing: {}")]));
    assert!(config.contains("`tracing` in the pod's annotation `proxy.istio.io/config` is not honoured"), "{config}");
}
