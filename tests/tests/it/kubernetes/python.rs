//! The Python client of Kubernetes, unmodified, against the same API.

use leno_tests::api_server::cluster;
use leno_tests::python_with_kubernetes;

#[tokio::test]
async fn pythons_client_lists_watches_writes_reviews_and_applies() {
    let Some(python) = python_with_kubernetes("the Python client of Kubernetes") else { return };
    let cluster = cluster();
    let namespace = cluster.namespace("python").await;
    // It has a version that is long gone, on a real cluster by itself.
    if let Some(server) = cluster.fake("expiry on demand") {
        server.expire_watches();
    }
    let mut script = python.script("kubernetes_client.py");
    let output = script.arg(cluster.kubeconfig()).arg(&namespace).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let steps = [
        "lists_and_pages",
        "watches",
        "creates_and_patches",
        "holds_a_lease",
        "reviews_tokens",
        "applies",
        "discovers",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), steps);
}
