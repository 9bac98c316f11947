//! The bookshop of the examples, from its manifests to its pages: what `kubectl apply -f` writes goes through the API server
//! and its webhooks, every pod runs in a network namespace as its spec says, and its README is what is looked at.

use std::collections::BTreeSet;
use std::path::Path;

use leno_tests::api_server::ApiServer;
use leno_tests::{eventually, skip, workspace};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::installed::{objects, printed, webhooks_work};
use super::kubelet::{Kubelet, Running};
use super::replica::Replica;
use crate::capture::network::{self, Network, finish};

/// One file of the example.
fn example(file: &str) -> Vec<Value> {
    let path = workspace().join("examples/kubernetes/bookinfo").join(file);
    objects(&std::fs::read_to_string(path).unwrap())
}

/// Six namespaces, or why there are none.
fn six_pods() -> Option<Network> {
    let missing = ["nft", "setpriv", "curl"].into_iter().find(|program| !network::has(program));
    let network = missing.map_or_else(|| Network::of(6), |program| Err(format!("there is no program {program}")));
    network.map_err(|why| skip("the bookshop in a cluster", &why)).ok()
}

impl Running {
    /// What curl says in this pod: the body, and the status behind a space.
    fn curl(&self, user: &str, arguments: &[&str]) -> String {
        let mut curl = self.place.command(Path::new("setpriv"));
        curl.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "curl"]);
        finish(curl.args(["-s", "-m", "20", "-w", " %{http_code}"]).args(arguments)).stdout
    }

    /// The page as the README asks for it: through `kubectl port-forward`, which comes by the pod's loopback device.
    fn page(&self, headers: &[&str]) -> Result<Value, String> {
        let headers: Vec<&str> = headers.iter().flat_map(|header| ["-H", header]).collect();
        let answer = self.curl("0", &[&headers[..], &["http://127.0.0.1:9080/"]].concat());
        let (body, _) = answer.rsplit_once(' ').ok_or("no answer")?;
        serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))
    }
}

/// Who answered a service's call of another, at which status.
fn called(answer: &Value, name: &str) -> Result<(u64, Value), String> {
    let calls = answer["calls"].as_array().into_iter().flatten();
    let call = calls.into_iter().find(|call| call["url"].as_str().is_some_and(|url| url.contains(name)));
    let call = call.ok_or_else(|| format!("{name} was not called: {answer}"))?;
    Ok((call["status"].as_u64().unwrap_or_default(), call["answer"].clone()))
}

/// The version of reviews on a page whose every call went well, and whether it has stars.
fn reviews(page: &Value) -> Result<(String, bool), String> {
    let (details, reviews) = (called(page, "details")?, called(page, "reviews")?);
    if (details.0, reviews.0) != (200, 200) {
        return Err(page.to_string());
    }
    let stars = match called(&reviews.1, "ratings") {
        Ok((200, _)) => true,
        Ok(_) => return Err(page.to_string()),
        Err(_) => false,
    };
    Ok((reviews.1["version"].as_str().unwrap_or_default().to_owned(), stars))
}

/// Waits until twenty pages in a row have these versions of reviews and no others, each of them at least once.
async fn pages_have(productpage: &Running, headers: &[&str], expected: &[(&str, bool)]) {
    eventually(&format!("pages for {headers:?} have {expected:?}"), async || {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            seen.insert(reviews(&productpage.page(headers)?)?);
        }
        let seen: Vec<(&str, bool)> = seen.iter().map(|(version, stars)| (version.as_str(), *stars)).collect();
        if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bookshop_of_the_examples_runs_and_routes_as_its_readme_says() {
    let Some(network) = six_pods() else { return };
    let directory = TempDir::with_prefix("leno-test-").unwrap();
    let server = ApiServer::start();
    for object in printed(&["install", "--offline"]) {
        server.apply(object).await;
    }
    server.authorize();
    let kubeconfig = server.kubeconfig_of("leno-system", "leno").await;
    let plane = Replica::start(directory.path(), "leno-0", &kubeconfig, None).await;
    webhooks_work(&server, &plane).await;
    for file in ["namespace.yaml", "apps.yaml", "rules.yaml"] {
        for object in example(file) {
            server.apply(object).await;
        }
    }
    let kubelet = Kubelet::new(&server, &network, plane.tls);
    let deployments = example("apps.yaml").into_iter().filter(|object| object["kind"] == "Deployment");
    let mut pods = Vec::new();
    for (index, deployment) in deployments.enumerate() {
        pods.push(kubelet.run(&deployment, network.pod(index)).await);
    }
    let [productpage, _, v1, ..] = &pods[..] else { panic!("six pods") };

    pages_have(productpage, &[], &[("v1", false)]).await;
    pages_have(productpage, &["end-user: jason"], &[("v2", true)]).await;
    pages_have(productpage, &["end-user: jasmin"], &[("v1", false)]).await;

    // Nobody comes in who has no identity …
    let url = format!("http://{}:9080/", v1.place.v4());
    let mut stranger = network.on_node(Path::new("curl"));
    let refused = finish(stranger.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "20", &url]));
    assert_eq!(refused.stdout, "000", "{}", refused.stderr);
    // … and only reviews may ask for ratings.
    let ratings = "http://ratings:9080/";
    let name = format!("ratings:9080:{}", cluster_ip(&server, "ratings"));
    let refused = productpage.curl("65532", &["--resolve", &name, ratings]);
    assert!(refused.ends_with(" 403") && refused.contains("RBAC"), "{refused}");
    let answered = v1.curl("65532", &["--resolve", &name, ratings]);
    assert!(answered.ends_with(" 200"), "{answered}");

    everybody_has_the_rules(&server).await;
    // A split, as somebody would edit it.
    let mut rule = server.get("networking.istio.io/v1", "VirtualService", "bookinfo", "reviews").unwrap();
    let to = |version: &str| json!({"destination": {"host": "reviews", "subset": version}, "weight": 50});
    rule["spec"]["http"][1]["route"] = json!([to("v1"), to("v3")]);
    server.update(rule).await;
    pages_have(productpage, &[], &[("v1", false), ("v3", true)]).await;
    pages_have(productpage, &["end-user: jason"], &[("v2", true)]).await;
    for mut pod in pods {
        pod.sidecar.must_be_running();
        pod.app.must_be_running();
    }
}

fn cluster_ip(server: &ApiServer, service: &str) -> String {
    let service = server.get("v1", "Service", "bookinfo", service).unwrap();
    service["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

/// `PROPAGATED 6/6`, as `kubectl get` shows it.
async fn everybody_has_the_rules(server: &ApiServer) {
    for rule in example("rules.yaml") {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (version, kind) = (text(&rule["apiVersion"]), text(&rule["kind"]));
        let (namespace, name) = (text(&rule["metadata"]["namespace"]), text(&rule["metadata"]["name"]));
        eventually(&format!("everybody has {kind} {name}"), async || {
            let stored = server.get(&version, &kind, &namespace, &name).unwrap();
            let conditions = stored["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let of = |name: &str| conditions.iter().find(|condition| condition["type"] == name).cloned();
            let is_true = |name: &str| of(name).is_some_and(|condition| condition["status"] == "True");
            if is_true("Accepted") && is_true("Propagated") { Ok(()) } else { Err(stored["status"].to_string()) }
        })
        .await;
    }
}
