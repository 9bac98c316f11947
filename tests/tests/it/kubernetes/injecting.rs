//! Injection in a cluster in which Istio's injector is, too; what `leno explain inject` says about it; and the example of a
//! canary, applied as it stands there.

use leno_tests::api_server::ApiServer;
use leno_tests::{Call, eventually, metric, run_leno, workspace};
use serde_json::{Value, json};

use super::installed::{Installed, app, objects, run};

/// Istio's injector, as its chart has it, in short. Nobody answers behind it.
async fn istio(server: &ApiServer) {
    let webhook = json!({
        "name": "namespace.sidecar-injector.istio.io",
        "clientConfig": {"url": "https://127.0.0.1:1/inject", "caBundle": ""},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"istio-injection": "enabled"}},
        "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
    });
    server
        .create(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "istio-sidecar-injector"}, "webhooks": [webhook],
        }))
        .await;
}

async fn made(server: &ApiServer, namespace: &str) -> Value {
    let spec = json!({"containers": [{"name": "app", "image": "app:1"}]});
    let metadata = json!({"generateName": "app-", "namespace": namespace});
    server.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await
}

fn has_sidecar(pod: &Value) -> bool {
    pod["metadata"]["annotations"]["leno.mesh/status"].is_string()
}

/// Until the pods of a namespace come out like this.
async fn pods_come(server: &ApiServer, namespace: &str, with_sidecar: bool) {
    eventually(&format!("pods of {namespace} come with a sidecar: {with_sidecar}"), async || {
        let pod = made(server, namespace).await;
        if has_sidecar(&pod) == with_sidecar { Ok(()) } else { Err(pod["metadata"].to_string()) }
    })
    .await;
}

#[tokio::test]
async fn pods_that_istios_injector_takes_are_left_to_it_and_explain_says_so() {
    let installed = Installed::start().await;
    let server = &installed.server;
    server.route_service("leno-system", "leno", 443, installed.plane().webhook);
    server.namespace("ours", &[("leno.mesh/inject", "enabled")]).await;
    server.namespace("theirs", &[("istio-injection", "enabled")]).await;
    server.namespace("nobodys", &[]).await;
    // Without Istio, its label means us.
    for (namespace, with_sidecar) in [("ours", true), ("theirs", true), ("nobodys", false)] {
        pods_come(server, namespace, with_sidecar).await;
    }
    istio(server).await;
    for (namespace, with_sidecar) in [("theirs", false), ("ours", true)] {
        pods_come(server, namespace, with_sidecar).await;
    }

    let kubeconfig = format!("--kubeconfig={}", server.kubeconfig().display());
    let explain = |arguments: &[&str], stdin: &str| {
        let outcome = run_leno(&[&["explain", "inject", kubeconfig.as_str()], arguments].concat(), stdin);
        assert_eq!(outcome.code, 0, "{arguments:?}: {}", outcome.stderr);
        outcome.stdout
    };
    let of_istio =
        "gets no sidecar\n  Istio injects here: its webhooks (MutatingWebhookConfiguration istio-sidecar-injector)";
    for (namespace, words) in [
        ("theirs", of_istio),
        ("ours", "gets a sidecar\n  the namespace's label leno.mesh/inject=enabled says so"),
        ("nobodys", "gets no sidecar\n  neither the pod nor its namespace asks for it"),
    ] {
        let said = explain(&["-n", namespace], "");
        assert!(said.contains(words), "{namespace}: {said}");
    }
    // A pod that was there before its namespace was labelled.
    let early = made(server, "nobodys").await;
    let mut labelled = server.get("v1", "Namespace", "", "nobodys").unwrap();
    labelled["metadata"]["labels"]["leno.mesh/inject"] = json!("enabled");
    server.update(labelled).await;
    let name = format!("pod/{}", early["metadata"]["name"].as_str().unwrap());
    let said = explain(&["-n", "nobodys", &name], "");
    assert!(said.contains("gets a sidecar") && said.contains("it runs without this sidecar"), "{said}");
    // A file that is not applied yet, against the cluster.
    let file = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "new", "namespace": "theirs"},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    let said = explain(&["-f", "-"], &file.to_string());
    assert!(said.starts_with("pod/new in theirs (-:1): ") && said.contains(of_istio), "{said}");
    let unknown = run_leno(&["explain", "inject", kubeconfig.as_str(), "-n", "ours", "pod/nobody"], "");
    assert!(unknown.code == 2 && unknown.stderr.contains("in the namespace ours of the cluster"), "{}", unknown.stderr);

    let metrics = Call::get("http://plane/metrics").send(installed.plane().http).await.text();
    assert_eq!(metric(&metrics, "leno_kubernetes_leader", &[]), 1.0);
    for verdict in ["patched", "allowed"] {
        let labels = [r#"webhook="inject""#, &format!(r#"verdict="{verdict}""#)];
        assert!(metric(&metrics, "leno_kubernetes_webhook_requests_total", &labels) >= 1.0, "{verdict}: {metrics}");
    }
}

#[tokio::test]
async fn the_canary_of_the_examples_gets_its_share_in_a_cluster() {
    let installed = Installed::start().await;
    let server = &installed.server;
    let directory = workspace().join("examples/kubernetes/canary");
    for file in ["shop.yaml", "rules.yaml"] {
        for object in objects(&std::fs::read_to_string(directory.join(file)).unwrap()) {
            server.apply(object).await;
        }
    }
    let versions = [app("v1", 21).await, app("v2", 22).await];
    for (version, shop) in ["v1", "v2"].into_iter().zip(&versions) {
        run(server, "canary", "shop", version, shop.address()).await;
    }
    let shop = "http://shop.canary:9080/";
    installed.answers(&format!("{shop}?warm"), &["v1", "v2"]).await;
    // The rule is in force in every worker: who asks for the canary gets it, time after time.
    eventually("who asks for the canary gets it", async || {
        for _ in 0..20 {
            let reply = Call::get(shop).header("x-canary", "true").try_send(installed.outbound).await?;
            if reply.text() != "v2" {
                return Err(format!("{} `{}`", reply.status, reply.text()));
            }
        }
        Ok(())
    })
    .await;
    let mut canaries = 0;
    for _ in 0..400 {
        let reply = Call::get(shop).send(installed.outbound).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        canaries += usize::from(reply.text() == "v2");
    }
    // A tenth: forty, six standard deviations around.
    assert!((4..=76).contains(&canaries), "{canaries} of 400 went to the canary");
    for _ in 0..20 {
        let reply = Call::get(shop).header("x-canary", "true").send(installed.outbound).await;
        assert_eq!(reply.text(), "v2", "who asks for the canary gets it");
    }
}
