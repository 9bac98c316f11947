//! Leno against any cluster that a kubeconfig names: its definitions, a control plane outside of it, rules and what becomes
//! of them. And the way by which a real cluster is named, taken by a process of its own.

use std::process::{Command, Stdio};

use http::Method;
use leno_tests::api_server::{ApiServer, Cluster, cluster, path};
use leno_tests::{eventually_within, workspace};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::installed::{AFTER_OUTAGE, printed, rule};
use super::replica::Replica;

const AGENT: &str = "leno-tests/1";
const APPLY: &str = "application/apply-patch+yaml";

/// Makes an object or takes it over, as `kubectl apply --server-side --force-conflicts` does.
async fn apply(cluster: &Cluster, collection: &str, object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap();
    let path = format!("{collection}/{name}?fieldManager=leno-tests&force=true");
    let answer = cluster.patch(&path, AGENT, APPLY, object).await;
    assert!(matches!(answer.status, 200 | 201), "{path}: {}", answer.text());
}

/// A condition of a rule, once it speaks of the rule as it is.
async fn condition(cluster: &Cluster, path: &str, name: &str, status: &str) -> Value {
    eventually_within(AFTER_OUTAGE, &format!("{path} is {name}: {status}"), async || {
        let answer = cluster.ask(Method::GET, path, AGENT, None).await;
        let rule: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        let all = rule["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let of_now = |it: &Value| it["observedGeneration"] == rule["metadata"]["generation"];
        let found = all.into_iter().find(|it| it["type"] == name && it["status"] == status && of_now(it));
        found.ok_or_else(|| rule["status"].to_string())
    })
    .await
}

fn route(weight: i64) -> Value {
    let route = json!([{"destination": {"host": "reviews"}, "weight": weight}]);
    json!({"hosts": ["reviews"], "http": [{"route": route}]})
}

#[tokio::test]
async fn a_control_plane_beside_a_cluster_reads_its_rules_and_says_there_what_became_of_them() {
    let cluster = cluster();
    let system = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "leno-system"}});
    apply(&cluster, "/api/v1/namespaces", &system).await;
    for definition in printed(&["install", "--offline", "--crds-only"]) {
        apply(&cluster, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
    }
    let namespace = cluster.namespace("anywhere").await;
    let ports = json!([{"name": "http", "port": 80}]);
    let metadata = json!({"name": "reviews", "namespace": namespace});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}});
    apply(&cluster, &path("v1", &namespace, "services"), &service).await;

    let directory = TempDir::with_prefix("leno-test-").unwrap();
    let name = format!("anywhere-{}", std::process::id());
    let _plane = Replica::start(directory.path(), &name, cluster.kubeconfig(), None).await;
    let rules = path("networking.istio.io/v1", &namespace, "virtualservices");
    let own = format!("{rules}/reviews");
    for (weight, accepted, words) in [(1, "True", ""), (-5, "False", "L0107"), (2, "True", "")] {
        apply(&cluster, &rules, &rule("VirtualService", &namespace, "reviews", route(weight))).await;
        let said = condition(&cluster, &own, "Accepted", accepted).await;
        assert!(said["message"].as_str().unwrap().contains(words), "{weight}: {said}");
    }
    // Nobody is connected, and who writes that is the leader.
    condition(&cluster, &own, "Propagated", "Unknown").await;
    let leases = path("coordination.k8s.io/v1", "leno-system", "leases/leno-leader");
    let lease = cluster.ask(Method::GET, &leases, AGENT, None).await;
    assert!(lease.text().contains(&name), "{}", lease.text());
    let gone = cluster.ask(Method::DELETE, &own, AGENT, None).await;
    assert_eq!(gone.status, 200, "{}", gone.text());
}

/// With `LENO_TEST_CLUSTER=1`, the cluster of KUBECONFIG is the one that tests are given. Here that is a server of another
/// process; to the tests it is a real one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_runs_against_the_cluster_that_a_kubeconfig_names() {
    let server = ApiServer::start();
    let kubeconfig = server.kubeconfig();
    let mut suite = Command::new(std::env::current_exe().unwrap());
    suite.args(["kubernetes::objects", "kubernetes::python", "kubernetes::anywhere::a_control_plane", "--nocapture"]);
    suite.current_dir(workspace()).env("LENO_TEST_CLUSTER", "1").env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
    let outcome = tokio::task::spawn_blocking(move || suite.output().unwrap()).await.unwrap();
    let (said, errors) = (String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
    assert!(outcome.status.success(), "{said}{errors}");
    assert!(errors.contains("SKIPPED pages that expire (a real cluster cannot be made to)"), "{errors}");
    let passed = said.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok());
    assert!(passed.is_some_and(|passed: usize| passed >= 9), "{said}");
    // What they wrote is there: they were not on servers of their own.
    let suffix = |namespace: &Value| namespace["metadata"]["name"].as_str().unwrap().starts_with("conflicts-");
    assert!(server.list("v1", "Namespace").iter().any(suffix), "{said}");
}
