//! Watches: where they begin, what they tell, how they expire.

use http::Method;
use leno_tests::api_server::{Cluster, Failure, Verb, cluster, path};
use serde_json::{Value, json};

const AGENT: &str = "leno-tests/1";

async fn make(cluster: &Cluster, namespace: &str, name: &str, labels: &Value) -> Value {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}});
    let made = cluster.ask(Method::POST, &path("v1", namespace, "configmaps"), AGENT, Some(&map)).await;
    assert_eq!(made.status, 201, "{}", made.text());
    serde_json::from_slice(&made.body).unwrap()
}

async fn version(cluster: &Cluster, namespace: &str) -> String {
    let list = cluster.ask(Method::GET, &path("v1", namespace, "configmaps"), AGENT, None).await;
    let list: Value = serde_json::from_slice(&list.body).unwrap();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

fn event(kind: &str, name: &str) -> Option<(String, String)> {
    Some((kind.to_owned(), name.to_owned()))
}

#[tokio::test]
async fn a_watch_tells_what_happened_after_its_version_and_then_what_happens() {
    let cluster = cluster();
    let namespace = cluster.namespace("watched").await;
    let maps = path("v1", &namespace, "configmaps");
    make(&cluster, &namespace, "before", &json!({})).await;
    let version = version(&cluster, &namespace).await;
    make(&cluster, &namespace, "between", &json!({})).await;
    let mut watch = cluster.watch(&format!("{maps}?watch=1&resourceVersion={version}")).await;
    assert_eq!(watch.next_name().await, event("ADDED", "between"));
    let change = json!({"data": {"a": "1"}});
    cluster.patch(&format!("{maps}/before"), AGENT, "application/merge-patch+json", &change).await;
    assert_eq!(watch.next_name().await, event("MODIFIED", "before"));
    cluster.ask(Method::DELETE, &format!("{maps}/before"), AGENT, None).await;
    let deleted = watch.next().await.unwrap();
    assert_eq!((&deleted["type"], &deleted["object"]["data"]["a"]), (&json!("DELETED"), &json!("1")));
}

#[tokio::test]
async fn an_object_that_leaves_a_selection_is_deleted_for_that_watch() {
    let cluster = cluster();
    let namespace = cluster.namespace("selected").await;
    let maps = path("v1", &namespace, "configmaps");
    let version = version(&cluster, &namespace).await;
    let mut watch = cluster.watch(&format!("{maps}?watch=1&resourceVersion={version}&labelSelector=mesh%3Don")).await;
    make(&cluster, &namespace, "other", &json!({"mesh": "off"})).await;
    make(&cluster, &namespace, "a", &json!({"mesh": "on"})).await;
    for value in ["off", "on"] {
        let change = json!({"metadata": {"labels": {"mesh": value}}});
        cluster.patch(&format!("{maps}/a"), AGENT, "application/merge-patch+json", &change).await;
    }
    for kind in ["ADDED", "DELETED", "ADDED"] {
        assert_eq!(watch.next_name().await, event(kind, "a"));
    }
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark_that_says_so() {
    let cluster = cluster();
    let namespace = cluster.namespace("initial").await;
    let maps = path("v1", &namespace, "configmaps");
    make(&cluster, &namespace, "a", &json!({"test": "yes"})).await;
    let query = "watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let mut watch = cluster.watch(&format!("{maps}?{query}&labelSelector=test%3Dyes")).await;
    assert_eq!(watch.next_name().await, event("ADDED", "a"));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    make(&cluster, &namespace, "b", &json!({"test": "yes"})).await;
    assert_eq!(watch.next_name().await, event("ADDED", "b"));
    let forbidden = cluster.ask(Method::GET, &format!("{maps}?watch=1&sendInitialEvents=true"), AGENT, None).await;
    assert_eq!(forbidden.status, 422);
}

#[tokio::test]
async fn bookmarks_say_how_far_a_watch_is_where_nothing_happens() {
    let cluster = cluster();
    let namespace = cluster.namespace("bookmarked").await;
    let Some(server) = cluster.fake("bookmarks on demand") else { return };
    let pods = path("v1", &namespace, "pods");
    let start = server.version();
    let mut watch = cluster.watch(&format!("{pods}?watch=1&allowWatchBookmarks=true&resourceVersion={start}")).await;
    make(&cluster, &namespace, "elsewhere", &json!({})).await;
    server.bookmark_watches();
    let bookmark = watch.next().await.unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
    let reached: u64 = bookmark["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(reached > start, "{reached} after {start}");
}

#[tokio::test]
async fn an_expired_watch_is_an_answer_of_200_with_an_event_of_410() {
    let cluster = cluster();
    let namespace = cluster.namespace("expired").await;
    let maps = path("v1", &namespace, "configmaps");
    let Some(server) = cluster.fake("expiry on demand") else { return };
    let version = version(&cluster, &namespace).await;
    let mut watch = cluster.watch(&format!("{maps}?watch=1&resourceVersion={version}")).await;
    make(&cluster, &namespace, "a", &json!({})).await;
    assert_eq!(watch.next_name().await, event("ADDED", "a"));
    server.expire_watches();
    let told = watch.rest().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["type"], &told[0]["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(told[0]["object"]["reason"], "Expired");
    // And nobody goes on from before.
    let again = cluster.watch(&format!("{maps}?watch=1&resourceVersion={version}")).await.rest().await;
    assert_eq!(again[0]["object"]["code"], 410);
}

#[tokio::test]
async fn a_cut_watch_can_go_on_from_its_last_version() {
    let cluster = cluster();
    let namespace = cluster.namespace("cut").await;
    let maps = path("v1", &namespace, "configmaps");
    let Some(server) = cluster.fake("cutting watches") else { return };
    let version = version(&cluster, &namespace).await;
    let mut watch = cluster.watch(&format!("{maps}?watch=1&resourceVersion={version}")).await;
    let seen = make(&cluster, &namespace, "a", &json!({})).await;
    assert_eq!(watch.next_name().await, event("ADDED", "a"));
    server.drop_watches();
    assert_eq!(watch.next().await, None);
    make(&cluster, &namespace, "b", &json!({})).await;
    let last = seen["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = cluster.watch(&format!("{maps}?watch=1&resourceVersion={last}")).await;
    assert_eq!(watch.next_name().await, event("ADDED", "b"));
}

#[tokio::test]
async fn requests_are_counted_and_fail_when_they_are_to() {
    let cluster = cluster();
    let namespace = cluster.namespace("failing").await;
    let maps = path("v1", &namespace, "configmaps");
    let Some(server) = cluster.fake("failures on demand") else { return };
    let before = server.requests(Verb::Create, "configmaps");
    server.fail_next(Verb::Create, "configmaps", 1, Failure::Lost);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lost"}});
    let call = cluster.request(Method::POST, &maps, AGENT).header("content-type", "application/json");
    let lost = cluster.connect().await.try_send(call.body(leno_tests::full(map.to_string()))).await;
    assert!(lost.is_err(), "{lost:?}");
    // It was done all the same.
    assert!(server.get("v1", "ConfigMap", &namespace, "lost").is_some());
    assert_eq!(server.requests(Verb::Create, "configmaps"), before + 1);
}
