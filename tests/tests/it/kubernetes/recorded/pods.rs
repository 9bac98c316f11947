//! Pods: as a mutating webhook is shown them, as they are stored, and as a watch tells of them.

use http::Method;
use leno_tests::api_server::{Cluster, Webhook, cluster};
use serde_json::{Value, json};

use super::{CONTROLLERS, GENERATED, Recorded, URLLIB, recorded, same};

const PATCH: &str = "application/strategic-merge-patch+json";

/// The injector that the recordings were made with: a container, and an annotation that says so.
fn inject(review: &Value) -> Value {
    let pod = &review["request"]["object"];
    let annotations = &pod["metadata"]["annotations"];
    if annotations["mesh.example.com/inject"] == "false" || !annotations["mesh.example.com/status"].is_null() {
        return json!({"allowed": true});
    }
    let container = json!({"name": "mesh-proxy", "image": "mesh/proxy:test", "ports": [{"containerPort": 15001}]});
    let annotations = json!({"mesh.example.com/status": "injected"});
    json!({"allowed": true, "patch": [
        {"op": "add", "path": "/spec/containers/-", "value": container},
        {"op": "add", "path": "/metadata/annotations", "value": annotations},
    ]})
}

/// A cluster with the injector for namespace `demo`, and namespace `plain` without.
async fn injected(webhook: &Webhook) -> Option<Cluster> {
    let cluster = cluster();
    let server = cluster.fake("pods as recorded")?;
    server.namespace("demo", &[("mesh", "on")]).await;
    server.namespace("plain", &[]).await;
    let hook = json!({
        "name": "inject.mesh.example.com",
        "clientConfig": {"url": webhook.url(), "caBundle": webhook.ca_bundle()},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"mesh": "on"}},
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    });
    let group = "admissionregistration.k8s.io/v1";
    let metadata = json!({"name": "mesh"});
    let kind = "MutatingWebhookConfiguration";
    server.create(json!({"apiVersion": group, "kind": kind, "metadata": metadata, "webhooks": [hook]})).await;
    Some(cluster)
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

fn pod(metadata: Value, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

fn web(metadata: Value) -> Value {
    pod(metadata, json!({"containers": [{"name": "app", "image": "web:1", "ports": [{"containerPort": 8080}]}]}))
}

/// As the controller of a ReplicaSet makes it.
fn api() -> Value {
    let owner = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "api-76ccd55c76",
        "uid": "a6227bf1-0ea5-4d19-86e9-8c0fac791c0f",
        "controller": true,
        "blockOwnerDeletion": true,
    });
    let labels = json!({"app": "api", "pod-template-hash": "76ccd55c76"});
    let metadata = json!({"generateName": "api-76ccd55c76-", "labels": labels, "ownerReferences": [owner]});
    pod(metadata, json!({"containers": [{"name": "app", "image": "api:1"}]}))
}

async fn post(cluster: &Cluster, namespace: &str, agent: &str, pod: &Value) -> Value {
    let reply = cluster.ask(Method::POST, &pods(namespace), agent, Some(pod)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

#[tokio::test]
async fn an_injector_is_shown_what_was_recorded() {
    let webhook = Webhook::start(inject);
    let Some(recorded) = recorded("reviews as recorded") else { return };
    let Some(cluster) = injected(&webhook).await else { return };
    let Some(server) = cluster.fake("reviews as recorded") else { return };
    // The administrator of the recordings showed a certificate.
    let admin = Cluster::through(&server.kubeconfig_with_certificate());
    let container = |name: &str| json!({"name": name, "image": "x"});
    let mut init = container("i");
    init["restartPolicy"] = json!("Always");
    let bare = pod(json!({"name": "fx-bare"}), json!({"initContainers": [init], "containers": [container("a")]}));
    recorded.is("created-pod-bare.json", &post(&admin, "demo", URLLIB, &bare).await);
    let account = json!({"name": "replicaset-controller", "namespace": "kube-system"});
    server.create(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})).await;
    let controller = Cluster::through(&server.kubeconfig_of("kube-system", "replicaset-controller").await);
    post(&controller, "demo", CONTROLLERS, &api()).await;
    let shown: Vec<Value> = webhook.reviews().into_iter().map(|review| review.0).collect();
    let files = ["5333566e", "17ff50be", "f38d2ff3", "26d0df6e"];
    assert_eq!(shown.len(), files.len(), "twice for each pod");
    for (file, ours) in files.into_iter().zip(&shown) {
        recorded.is(&format!("admissionreview-{file}.json"), ours);
    }
}

#[tokio::test]
async fn a_watch_tells_of_pods_what_was_recorded() {
    let webhook = Webhook::start(inject);
    let Some(recorded) = recorded("events of pods as recorded") else { return };
    let Some(cluster) = injected(&webhook).await else { return };
    let Some(server) = cluster.fake("events of pods as recorded") else { return };
    let version = server.version();
    let labels = json!({"app": "web"});
    post(&cluster, "demo", GENERATED, &web(json!({"name": "web-1", "labels": labels}))).await;
    post(&cluster, "plain", GENERATED, &web(json!({"name": "web-1", "labels": labels}))).await;
    let annotations = json!({"mesh.example.com/inject": "false"});
    post(&cluster, "demo", GENERATED, &web(json!({"name": "opt-out", "labels": labels, "annotations": annotations})))
        .await;
    post(&cluster, "demo", CONTROLLERS, &api()).await;
    post(&cluster, "demo", CONTROLLERS, &api()).await;
    let containers = json!([{"name": "a", "image": "x"}]);
    let bound = json!({"serviceAccountName": "default", "containers": containers});
    post(&cluster, "plain", GENERATED, &pod(json!({"name": "bound"}), bound)).await;
    cluster.ask(Method::DELETE, &format!("{}/bound", pods("plain")), GENERATED, None).await;
    let lo = pod(json!({"name": "lo", "labels": labels}), json!({"nodeName": "n1", "containers": containers}));
    post(&cluster, "plain", GENERATED, &lo).await;
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let status = json!({
        "phase": "Running",
        "conditions": [condition("Ready"), condition("ContainersReady")],
        "podIP": "127.0.0.5",
        "podIPs": [{"ip": "127.0.0.5"}],
    });
    let path = format!("{}/lo/status", pods("plain"));
    let patched = cluster.patch(&path, GENERATED, PATCH, &json!({"status": status})).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    let watch = cluster.watch(&format!("/api/v1/pods?watch=1&resourceVersion={version}&timeoutSeconds=3")).await;
    compare(&recorded, &watch.rest().await);
}

/// All events of the recording but the two of a pod that a scheduler bound: there is none here.
fn compare(recorded: &Recorded, ours: &[Value]) {
    let mut expected = recorded.lines("watch-too-old.json");
    expected.retain(|event| event["type"] != "MODIFIED" || event["object"]["metadata"]["name"] != "web-1");
    assert_eq!(expected.len(), ours.len());
    for (number, (recorded, ours)) in expected.iter().zip(ours).enumerate() {
        same(&format!("event {number}"), recorded, ours);
    }
}
