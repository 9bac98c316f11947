//! Webhooks: when they are called, how often, and what becomes of what they say.

use std::sync::{Arc, Mutex};

use http::Method;
use leno_tests::api_server::{Cluster, ShownReview, Webhook, cluster, path};
use serde_json::{Value, json};

const AGENT: &str = "leno-tests/1";

/// Adds a container to a pod that has none of it.
fn inject(review: &Value) -> Value {
    let pod = &review["request"]["object"];
    let containers = pod["spec"]["containers"].as_array().unwrap();
    if containers.iter().any(|container| container["name"] == "sidecar") {
        return json!({"allowed": true});
    }
    let container = json!({"name": "sidecar", "image": "sidecar:1"});
    json!({"allowed": true, "patch": [{"op": "add", "path": "/spec/containers/-", "value": container}]})
}

fn mutating(webhook: &Webhook, change: &Value) -> Value {
    let mut hook = json!({
        "name": "inject.tests.leno.example",
        "clientConfig": {"url": webhook.url(), "caBundle": webhook.ca_bundle()},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "reinvocationPolicy": "IfNeeded",
        "timeoutSeconds": 10,
    });
    json_patch_like(&mut hook, change);
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "tests"},
        "webhooks": [hook],
    })
}

fn json_patch_like(hook: &mut Value, change: &Value) {
    for (field, value) in change.as_object().into_iter().flatten() {
        hook[field] = value.clone();
    }
}

fn pod(metadata: Value) -> Value {
    let spec = json!({"containers": [{"name": "app", "image": "app:1"}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

async fn configured(cluster: &Cluster, webhook: &Webhook, change: Value) -> bool {
    let Some(server) = cluster.fake("webhooks of this process") else { return false };
    server.apply(mutating(webhook, &change)).await;
    true
}

#[tokio::test]
async fn an_injector_is_called_twice_and_sees_its_own_work_with_the_mount_that_the_server_added() {
    let cluster = cluster();
    let webhook = Webhook::start(inject);
    if !configured(&cluster, &webhook, json!({})).await {
        return;
    }
    let pods = path("v1", &cluster.namespace("injected").await, "pods");
    let made = cluster.ask(Method::POST, &pods, AGENT, Some(&pod(json!({"generateName": "web-"})))).await;
    let made: Value = serde_json::from_slice(&made.body).unwrap();
    let names: Vec<&Value> = made["spec"]["containers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, [&json!("app"), &json!("sidecar")]);
    let seen: Vec<ShownReview> = webhook.reviews();
    assert_eq!(seen.len(), 2, "{seen:?}");
    let request = |at: usize| &seen[at].0["request"];
    assert!(request(0).get("name").is_none(), "a pod of a ReplicaSet has no name yet");
    assert_eq!(request(0)["object"]["spec"]["containers"].as_array().unwrap().len(), 1);
    let sidecar = &request(1)["object"]["spec"]["containers"][1];
    assert_eq!(sidecar["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_ne!(request(0)["uid"], request(1)["uid"]);
}

#[tokio::test]
async fn a_webhook_that_never_wants_to_be_called_again_is_called_once() {
    let cluster = cluster();
    let webhook = Webhook::start(inject);
    if !configured(&cluster, &webhook, json!({"reinvocationPolicy": "Never"})).await {
        return;
    }
    let pods = path("v1", &cluster.namespace("once").await, "pods");
    assert_eq!(cluster.ask(Method::POST, &pods, AGENT, Some(&pod(json!({"name": "web"})))).await.status, 201);
    assert_eq!(webhook.reviews().len(), 1);
}

#[tokio::test]
async fn selectors_rules_and_policies_decide_who_is_called_and_what_a_failure_means() {
    let nobody = json!({"url": "https://127.0.0.1:1/", "caBundle": ""});
    for (what, change, status, called) in [
        ("it is selected", json!({}), 201, 2),
        ("its namespace is not", json!({"namespaceSelector": {"matchLabels": {"mesh": "on"}}}), 201, 0),
        ("itself is not", json!({"objectSelector": {"matchLabels": {"mesh": "on"}}}), 201, 0),
        (
            "its rules are of another operation",
            json!({"rules": [
                {"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
            ]}),
            201,
            0,
        ),
        ("nobody answers, which fails", json!({"clientConfig": nobody}), 500, 0),
        ("nobody answers, which is ignored", json!({"clientConfig": nobody, "failurePolicy": "Ignore"}), 201, 0),
    ] {
        let cluster = cluster();
        let webhook = Webhook::start(inject);
        if !configured(&cluster, &webhook, change).await {
            return;
        }
        let pods = path("v1", &cluster.namespace("chosen").await, "pods");
        let answer = cluster.ask(Method::POST, &pods, AGENT, Some(&pod(json!({"name": "web"})))).await;
        assert_eq!((answer.status, webhook.reviews().len()), (status, called), "{what}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_certificate_that_the_bundle_did_not_sign_is_a_failure() {
    let cluster = cluster();
    let (webhook, stranger) = (Webhook::start(inject), Webhook::start(inject));
    let config = json!({"url": webhook.url(), "caBundle": stranger.ca_bundle()});
    if !configured(&cluster, &webhook, json!({"clientConfig": config})).await {
        return;
    }
    let pods = path("v1", &cluster.namespace("strange").await, "pods");
    let refused = cluster.ask(Method::POST, &pods, AGENT, Some(&pod(json!({"name": "web"})))).await;
    assert_eq!(refused.status, 500, "{}", refused.text());
    assert!(refused.text().contains("failed calling webhook"), "{}", refused.text());
    assert_eq!(webhook.reviews().len(), 0);
}

#[tokio::test]
async fn a_webhook_behind_a_service_refuses_and_warns_in_its_own_words() {
    let cluster = cluster();
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&kinds);
    let webhook = Webhook::start(move |review| {
        written.lock().unwrap().push(review["request"]["operation"].as_str().unwrap().to_owned());
        json!({"allowed": false, "warnings": ["look out"], "status": {"code": 422, "message": "no such host"}})
    });
    let Some(server) = cluster.fake("webhooks of this process") else { return };
    server.route_service("leno-system", "leno", 443, webhook.address());
    let service = json!({"name": "leno", "namespace": "leno-system", "path": "/validate"});
    let hook = json!({
        "name": "validate.tests.leno.example",
        "clientConfig": {"service": service, "caBundle": webhook.ca_bundle()},
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"]}],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    });
    server
        .apply(json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "tests"},
            "webhooks": [hook],
        }))
        .await;
    let maps = path("v1", &cluster.namespace("refusing").await, "configmaps");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let answer = cluster.ask(Method::POST, &maps, AGENT, Some(&map)).await;
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    let expected = "admission webhook \"validate.tests.leno.example\" denied the request: no such host";
    assert_eq!((answer.status, &said["message"]), (422, &json!(expected)));
    assert_eq!(answer.header("warning"), "299 - \"look out\"");
    let deleted = cluster.ask(Method::DELETE, &format!("{maps}/kube-root-ca.crt"), AGENT, None).await;
    assert_eq!(deleted.status, 422, "{}", deleted.text());
    let first: Vec<String> = kinds.lock().unwrap().iter().filter(|one| *one != "UPDATE").cloned().collect();
    assert!(first.contains(&"CREATE".to_owned()) && first.contains(&"DELETE".to_owned()), "{first:?}");
}
