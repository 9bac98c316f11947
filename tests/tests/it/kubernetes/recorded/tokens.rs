//! Tokens: asked for, reviewed, and the keys that others check them with.

use http::Method;
use leno_tests::api_server::{Cluster, cluster, path};
use serde_json::{Value, json};

use super::{URLLIB, recorded};

async fn post(cluster: &Cluster, path: &str, object: &Value) -> Value {
    let reply = cluster.ask(Method::POST, path, URLLIB, Some(object)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

#[tokio::test]
async fn tokens_and_their_reviews_are_as_recorded() {
    let Some(recorded) = recorded("tokens as recorded") else { return };
    let cluster = cluster();
    if cluster.fake("tokens as recorded").is_none() {
        return;
    }
    cluster.namespace("demo").await;
    let accounts = path("v1", "demo", "serviceaccounts");
    post(&cluster, &accounts, &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web"}}))
        .await;
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": ["mesh-ca"], "expirationSeconds": 600},
    });
    let answer = post(&cluster, &format!("{accounts}/web/token"), &request).await;
    recorded.is("tokenrequest.json", &answer);
    let token = answer["status"]["token"].as_str().unwrap();
    for (file, token, audience) in [
        ("tokenreview-ok.json", token, "mesh-ca"),
        ("tokenreview-wrong-aud.json", token, "other"),
        ("tokenreview-garbage.json", "x.y.z", "mesh-ca"),
    ] {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        recorded.is(file, &post(&cluster, "/apis/authentication.k8s.io/v1/tokenreviews", &review).await);
    }
}

#[tokio::test]
async fn the_keys_of_tokens_are_published_as_recorded() {
    let Some(recorded) = recorded("published keys as recorded") else { return };
    let cluster = cluster();
    if cluster.fake("published keys as recorded").is_none() {
        return;
    }
    let get = async |path: &str, accept: &str| {
        let call = cluster.request(Method::GET, path, URLLIB).header("accept", accept);
        cluster.connect().await.send(call).await
    };
    let configuration = get("/.well-known/openid-configuration", "application/json").await;
    recorded.is("openid-config.json", &serde_json::from_slice(&configuration.body).unwrap());
    let keys = get("/openid/v1/jwks", "application/jwk-set+json").await;
    assert_eq!(keys.header("content-type"), "application/jwk-set+json");
    recorded.is("openid-jwks.json", &serde_json::from_slice(&keys.body).unwrap());
    assert_eq!(get("/openid/v1/jwks", "application/json").await.status, 406);
}
