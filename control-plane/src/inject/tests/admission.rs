//! Reviews as an API server sends them. The bodies have what kube-apiserver 1.36 sends for a pod of a Deployment and for one
//! that somebody made by hand: its defaults, its service-account mount, managed fields.

use base64::Engine as _;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use serde_json::{Value, json};

use super::super::{Marks, Settings, admission, written};
use super::names;

fn enabled() -> Marks {
    let labels = [("leno.mesh/inject".to_owned(), "enabled".to_owned())].into();
    Marks { labels, ..Marks::default() }
}

/// What the API server sets where a person is silent.
fn defaults(container: Value) -> Value {
    let mut whole = json!({
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always",
        "volumeMounts": [{
            "name": "kube-api-access-btkvm", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        }],
    });
    let mounts = whole["volumeMounts"].as_array().cloned().unwrap_or_default();
    whole.as_object_mut().expect("a mapping").extend(container.as_object().cloned().unwrap_or_default());
    if container.get("volumeMounts").is_some() {
        whole["volumeMounts"].as_array_mut().expect("a list").extend(mounts);
    }
    whole
}

/// A pod of a ReplicaSet: no name yet.
fn pod_of_a_deployment() -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "generateName": "api-76ccd55c76-", "namespace": "demo",
            "labels": { "app": "api", "pod-template-hash": "76ccd55c76" },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "api-76ccd55c76",
                "uid": "a6227bf1-0ea5-4d19-86e9-8c0fac791c0f", "controller": true, "blockOwnerDeletion": true,
            }],
            "managedFields": [{
                "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                "time": "2026-11-22T08:17:12Z", "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": {} },
            }],
        },
        "spec": {
            "volumes": [{ "name": "kube-api-access-btkvm", "projected": { "sources": [
                { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
            ], "defaultMode": 420 } }],
            "containers": [defaults(json!({ "name": "app", "image": "x" }))],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "serviceAccount": "default", "securityContext": {},
            "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true,
            "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {},
    })
}

fn review(pod: &Value, change: impl FnOnce(&mut Value)) -> AdmissionReview<DynamicObject> {
    let mut review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "f38d2ff3-18ed-4e4f-ad13-08b6286424e2",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "namespace": "demo", "operation": "CREATE",
            "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller" },
            "object": pod, "oldObject": null, "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    });
    change(&mut review["request"]);
    serde_json::from_value(review).expect("a review")
}

/// The pod as the API server has it after the answer.
fn after(pod: &Value, answer: &AdmissionResponse) -> Value {
    assert!(answer.allowed, "{}", answer.result.message);
    let mut pod = pod.clone();
    if let Some(patch) = &answer.patch {
        let patch: json_patch::Patch = serde_json::from_slice(patch).expect("a patch");
        json_patch::patch(&mut pod, &patch.0).expect("it applies");
    }
    pod
}

fn asked(pod: &Value) -> AdmissionResponse {
    admission(review(pod, |_| {}), &Settings::default(), &enabled())
}

#[test]
fn a_pod_without_a_name_gets_a_sidecar_that_knows_its_deployment() {
    let pod = pod_of_a_deployment();
    let answer = asked(&pod);
    assert_eq!(answer.uid, "f38d2ff3-18ed-4e4f-ad13-08b6286424e2");
    let after = after(&pod, &answer);
    assert_eq!(names(&after, "initContainers"), ["leno-init", "leno-proxy"]);
    assert_eq!(super::variable(&after, "LENO_NODE_WORKLOAD").as_deref(), Some("api"));
    assert_eq!(after["metadata"]["managedFields"], pod["metadata"]["managedFields"]);
    let audit = answer.audit_annotations.get("injection").expect("the reason is in the audit log");
    assert_eq!(audit, "injected: the namespace's label leno.mesh/inject=enabled says so");
    let sent = written(answer).expect("an answer");
    let patch =
        base64::engine::general_purpose::STANDARD.decode(sent["response"]["patch"].as_str().unwrap_or_default());
    assert!(serde_json::from_slice::<json_patch::Patch>(&patch.expect("base64")).is_ok(), "{sent}");
    assert_eq!((&sent["kind"], &sent["response"]["patchType"]), (&json!("AdmissionReview"), &json!("JSONPatch")));
}

#[test]
fn called_a_second_time_with_defaults_and_mounts_added_it_has_nothing_to_do() {
    let pod = pod_of_a_deployment();
    let mut second = after(&pod, &asked(&pod));
    for list in ["initContainers", "containers"] {
        let containers = second["spec"][list].as_array_mut().expect("a list");
        for container in containers {
            *container = defaults(container.clone());
        }
    }
    second["spec"]["initContainers"][1]["startupProbe"]["successThreshold"] = json!(1);
    let again = asked(&second);
    assert!(again.allowed && again.patch.is_none(), "{:?}", again.patch.map(String::from_utf8));
}

#[test]
fn a_container_that_another_webhook_adds_in_between_is_taken_care_of() {
    let pod = pod_of_a_deployment();
    let mut second = after(&pod, &asked(&pod));
    let proxy = &mut second["spec"]["initContainers"][1];
    *proxy = defaults(proxy.clone());
    let added = json!({ "name": "extra", "image": "e", "livenessProbe": { "httpGet": { "path": "/", "port": 81 } } });
    second["spec"]["containers"].as_array_mut().expect("a list").push(added);
    let third = after(&second, &asked(&second));
    assert_eq!(super::container(&third, "extra")["livenessProbe"]["httpGet"]["port"], 15020);
    assert_eq!(names(&third, "initContainers"), ["leno-init", "leno-proxy"]);
    let mounts = super::container(&third, "leno-proxy")["volumeMounts"].to_string();
    assert!(mounts.contains("kube-api-access-btkvm"), "what Kubernetes mounted stays: {mounts}");
    assert!(asked(&third).patch.is_none());
}

#[test]
fn what_is_no_new_pod_is_let_through() {
    let pod = pod_of_a_deployment();
    type Edit = fn(&mut Value);
    let rows: [(&str, Edit); 3] = [
        ("an update", |request| request["operation"] = json!("UPDATE")),
        ("a deletion", |request| {
            request["operation"] = json!("DELETE");
            request["object"] = Value::Null;
        }),
        ("another kind", |request| request["kind"]["kind"] = json!("ConfigMap")),
    ];
    for (what, change) in rows {
        let answer = admission(review(&pod, change), &Settings::default(), &enabled());
        assert!(answer.allowed && answer.patch.is_none(), "{what}");
    }
    let rehearsal =
        admission(review(&pod, |request| request["dryRun"] = json!(true)), &Settings::default(), &enabled());
    assert!(rehearsal.patch.is_some(), "a rehearsal shows what would happen");
    let silent = admission(review(&pod, |_| {}), &Settings::default(), &Marks::default());
    assert!(silent.allowed && silent.patch.is_none());
}

#[test]
fn a_pod_that_cannot_get_its_sidecar_is_refused_with_the_reason() {
    let mut pod = pod_of_a_deployment();
    pod["metadata"]["annotations"] = json!({ "sidecar.istio.io/proxyCPU": "much", "leno.mesh/injekt": "x" });
    let answer = asked(&pod);
    assert!(!answer.allowed && answer.result.message.contains("`sidecar.istio.io/proxyCPU`: `much`"), "{answer:?}");
    pod["metadata"]["annotations"] = json!({ "leno.mesh/injekt": "x" });
    let warnings = asked(&pod).warnings.expect("kubectl shows it");
    assert!(warnings[0].contains("did you mean `leno.mesh/inject`?"), "{warnings:?}");
}

#[test]
fn workloads_are_known_by_what_made_the_pod() {
    let controlled = |kind: &str, name: &str| {
        json!({
            "name": "x-1", "labels": { "pod-template-hash": "76cc" },
            "ownerReferences": [{ "kind": "Node", "name": "n" }, { "kind": kind, "name": name, "controller": true }],
        })
    };
    let rows = [
        (controlled("ReplicaSet", "api-76cc"), "api"),
        (controlled("ReplicaSet", "by-hand"), "by-hand"),
        (controlled("StatefulSet", "db"), "db"),
        (controlled("Job", "nightly-29012345"), "nightly"),
        (controlled("Job", "once"), "once"),
        (json!({ "name": "bare" }), "bare"),
        (json!({ "generateName": "some-" }), "some"),
    ];
    for (metadata, wanted) in rows {
        assert_eq!(super::super::owners::of_pod(&metadata).0, wanted, "{metadata}");
    }
}
