//! A custom resource: lists, watches, what is invalid, and apply.

use http::Method;
use leno_tests::api_server::{Cluster, cluster};
use serde_json::{Value, json};

use super::{GENERATED, recorded};

const RULES: &str = "/apis/mesh.example.com/v1alpha1/namespaces/demo/routerules";
const WEIGHTS: &str = "self.map(b, b.weight).sum() == 100";

/// The definition that the recordings were made with.
fn definition() -> Value {
    let backend =
        json!({"type": "object", "properties": {"service": {"type": "string"}, "weight": {"type": "integer"}}});
    let weights = json!([{"rule": WEIGHTS, "message": "weights must sum to 100"}]);
    let spec = json!({
        "type": "object",
        "required": ["host", "backends"],
        "properties": {
            "host": {"type": "string", "minLength": 1},
            "backends": {"type": "array", "minItems": 1, "items": backend, "x-kubernetes-validations": weights},
            "timeoutMs": {"type": "integer", "default": 1000},
        },
    });
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    let version = json!({"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "routerules.mesh.example.com"},
        "spec": {
            "group": "mesh.example.com",
            "scope": "Namespaced",
            "names": {"plural": "routerules", "singular": "routerule", "kind": "RouteRule"},
            "versions": [version],
        },
    })
}

fn rule(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "mesh.example.com/v1alpha1", "kind": "RouteRule", "metadata": {"name": name}, "spec": spec})
}

async fn defined() -> Option<Cluster> {
    let cluster = cluster();
    let server = cluster.fake("the definition of the recordings")?;
    server.rule(WEIGHTS, |backends| {
        let weights = backends.as_array().into_iter().flatten().filter_map(|backend| backend["weight"].as_i64());
        weights.sum::<i64>() == 100
    });
    server.create(definition()).await;
    cluster.namespace("demo").await;
    Some(cluster)
}

async fn get(cluster: &Cluster, query: &str) -> Value {
    let reply = cluster.ask(Method::GET, &format!("{RULES}?{query}"), GENERATED, None).await;
    serde_json::from_slice(&reply.body).unwrap()
}

#[tokio::test]
async fn lists_and_watches_of_a_custom_resource_answer_as_recorded() {
    let (Some(recorded), Some(cluster)) = (recorded("lists and watches as recorded"), defined().await) else { return };
    for number in 0..30 {
        let spec = json!({"host": "web", "backends": [{"service": "web-v0", "weight": 100}]});
        let made = cluster.ask(Method::POST, RULES, GENERATED, Some(&rule(&format!("l{number}"), spec))).await;
        assert_eq!(made.status, 201, "{}", made.text());
    }
    recorded.is("list-routerules.json", &get(&cluster, "limit=2").await);
    recorded.is("list-bad-continue.json", &get(&cluster, "limit=2&continue=aW52YWxpZA").await);
    let of_one = "watch=1&resourceVersion=0&fieldSelector=metadata.name%3Dl1&timeoutSeconds=3";
    let too_old = "watch=1&resourceVersion=1";
    let future = "watch=1&resourceVersion=99999999&timeoutSeconds=3";
    let initial = "watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
         &timeoutSeconds=3";
    for (file, query) in [
        ("watch-from-rv0.json", of_one),
        ("watch-410-gone.json", too_old),
        ("watch-future-rv.json", future),
        ("watch-initial-events.json", initial),
    ] {
        let ours = cluster.watch(&format!("{RULES}?{query}")).await.rest().await;
        super::same(file, &json!(recorded.lines(file)), &json!(ours));
    }
}

#[tokio::test]
async fn an_invalid_custom_resource_is_refused_as_recorded() {
    let (Some(recorded), Some(cluster)) = (recorded("a refusal as recorded"), defined().await) else { return };
    let invalid = rule("q", json!({"host": "", "backends": []}));
    let refused = cluster.ask(Method::POST, RULES, GENERATED, Some(&invalid)).await;
    assert_eq!(refused.status, 422);
    recorded.is("invalid-422.json", &serde_json::from_slice(&refused.body).unwrap());
}

#[tokio::test]
async fn an_apply_and_its_conflict_are_answered_as_recorded() {
    let (Some(recorded), Some(cluster)) = (recorded("an apply as recorded"), defined().await) else { return };
    let apply = async |manager: &str, host: &str| {
        let object = rule("ssa", json!({"host": host, "backends": [{"service": "b", "weight": 100}]}));
        let path = format!("{RULES}/ssa?fieldManager={manager}");
        let reply = cluster.patch(&path, GENERATED, "application/apply-patch+yaml", &object).await;
        (reply.status, serde_json::from_slice::<Value>(&reply.body).unwrap())
    };
    let (status, applied) = apply("meshctl", "a").await;
    assert_eq!(status, 201);
    recorded.is("apply-ssa.json", &applied);
    let (status, conflict) = apply("other", "z").await;
    assert_eq!(status, 409);
    recorded.is("apply-ssa-conflict.json", &conflict);
}
