//! A rule on its way into a cluster: what `leno validate` refuses, the API server refuses, in the same words.

use http::Method;
use leno_tests::api_server::{ApiServer, Cluster, path};
use leno_tests::{Reply, eventually, feed, leno, workspace};
use serde_json::{Value, json};

use super::installed::{Installed, objects, service, webhooks_work};

const AGENT: &str = "leno-tests/1";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Lets the API server reach the validator, and waits until the leader has said whom to believe there.
async fn guarded(installed: &Installed) -> Cluster {
    webhooks_work(&installed.server, installed.plane()).await;
    Cluster::through(&installed.server.kubeconfig())
}

/// The documents of the canary's example.
fn canary(file: &str) -> Vec<Value> {
    let path = workspace().join("examples/kubernetes/canary").join(file);
    objects(&std::fs::read_to_string(path).unwrap())
}

/// The example's VirtualService with another weight for the first version.
fn weighing(weight: i64) -> Value {
    let mut rule = canary("rules.yaml").into_iter().find(|rule| rule["kind"] == "VirtualService").unwrap();
    rule["spec"]["http"][1]["route"][0]["weight"] = json!(weight);
    rule
}

/// Code, field, sentence and remedy of each error that `leno validate` prints about a rule.
fn words(rule: &Value) -> Vec<String> {
    let mut validate = std::process::Command::new(leno());
    let outcome = feed(validate.args(["validate", "-f", "-", "-o", "json"]), &rule.to_string()).unwrap();
    let findings: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let errors = findings.as_array().unwrap().iter().filter(|finding| finding["severity"] == "error");
    let parts =
        |error: &Value| ["code", "path", "message", "help"].map(|part| error[part].as_str().unwrap().to_owned());
    errors.flat_map(parts).collect()
}

/// The answer is what kube-apiserver makes of a denial: a Status with the webhook's name, its code and all of the words.
fn is_denied(what: &str, answer: &Reply, words: &[String]) {
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer.status, 422, "{what}: {said}");
    assert_eq!(
        (&said["kind"], &said["status"], &said["reason"]),
        (&json!("Status"), &json!("Failure"), &json!("Invalid"))
    );
    let message = said["message"].as_str().unwrap();
    let begins = "admission webhook \"rules.validate.leno.mesh\" denied the request: L";
    assert!(message.starts_with(begins), "{what}: {message}");
    assert!(!words.is_empty(), "{what}: leno validate refuses it");
    for word in words {
        assert!(message.contains(word.as_str()), "{what}: `{word}` is not in {message}");
    }
}

fn stored(server: &ApiServer) -> Option<Value> {
    server.get("networking.istio.io/v1", "VirtualService", "canary", "shop")
}

#[tokio::test]
async fn what_validate_refuses_is_refused_in_its_words_however_it_is_written() {
    let installed = Installed::start().await;
    let client = guarded(&installed).await;
    for object in canary("shop.yaml") {
        installed.server.apply(object).await;
    }
    let rules = path("networking.istio.io/v1", "canary", "virtualservices");
    let rule = format!("{rules}/shop");
    let (good, bad) = (weighing(90), weighing(-5));
    let words = words(&bad);

    let created = client.ask(Method::POST, &rules, AGENT, Some(&bad)).await;
    is_denied("it is created", &created, &words);
    assert!(stored(&installed.server).is_none(), "what is refused is not stored");
    let applied =
        client.patch(&format!("{rule}?fieldManager=kubectl"), AGENT, "application/apply-patch+yaml", &bad).await;
    is_denied("it is applied by the server", &applied, &words);
    assert!(stored(&installed.server).is_none(), "what is refused is not stored");

    let created = client.ask(Method::POST, &rules, AGENT, Some(&good)).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let version = stored(&installed.server).unwrap()["spec"].clone();
    let mut replacing = bad.clone();
    replacing["metadata"]["resourceVersion"] =
        stored(&installed.server).unwrap()["metadata"]["resourceVersion"].clone();
    is_denied("it is replaced", &client.ask(Method::PUT, &rule, AGENT, Some(&replacing)).await, &words);
    // As in the example's README.
    let weigh = |weight: i64| json!([{"op": "replace", "path": "/spec/http/1/route/0/weight", "value": weight}]);
    is_denied("it is patched", &client.patch(&rule, AGENT, JSON_PATCH, &weigh(-5)).await, &words);
    let merge = json!({"spec": {"http": bad["spec"]["http"]}});
    is_denied("it is merged", &client.patch(&rule, AGENT, MERGE_PATCH, &merge).await, &words);
    assert_eq!(stored(&installed.server).unwrap()["spec"], version, "what is refused changes nothing");

    let patched = client.patch(&rule, AGENT, JSON_PATCH, &weigh(50)).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    let weight = &stored(&installed.server).unwrap()["spec"]["http"][1]["route"][0]["weight"];
    assert_eq!(weight, &json!(50));
    let deleted = client.ask(Method::DELETE, &rule, AGENT, None).await;
    assert_eq!(deleted.status, 200, "{}", deleted.text());
}

#[tokio::test]
async fn what_validate_only_warns_of_is_taken_and_the_warning_reaches_whoever_wrote_it() {
    let installed = Installed::start().await;
    let client = guarded(&installed).await;
    installed.server.namespace("canary", &[]).await;
    let rules = path("networking.istio.io/v1", "canary", "virtualservices");
    // `kubectl apply -f` writes one object after another: nobody has made the Service yet.
    let created = client.ask(Method::POST, &rules, AGENT, Some(&weighing(90))).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let warning = created.header("warning");
    assert!(warning.starts_with("299 - \"L0201: ") && warning.contains("no service has the host"), "{warning}");

    // With the Service, but before the DestinationRule, which comes after the VirtualService in the example's own file.
    installed.server.delete(&weighing(90)).await;
    service(&installed.server, "canary", "shop", 9080).await;
    let tried = format!("{rules}?dryRun=All");
    eventually("the Service is known, and its subsets are not", async || {
        let taken = client.ask(Method::POST, &tried, AGENT, Some(&weighing(90))).await;
        assert_eq!(taken.status, 201, "{}", taken.text());
        let warning = taken.header("warning");
        if warning.starts_with("299 - \"L0202: ") { Ok(()) } else { Err(warning.to_owned()) }
    })
    .await;
    for rule in canary("rules.yaml") {
        let plural = format!("{}s", rule["kind"].as_str().unwrap().to_lowercase());
        let rules = path("networking.istio.io/v1", "canary", &plural);
        let created = client.ask(Method::POST, &rules, AGENT, Some(&rule)).await;
        assert_eq!(created.status, 201, "{}", created.text());
    }
    installed.condition(&weighing(90), "Accepted", |condition| condition["status"] == "True").await;
}
