//! Definitions of kinds that somebody else made, Istio's for example: `leno install` and `leno uninstall` leave them, and
//! the rules with them, as they are.

use leno_tests::api_server::{ApiServer, Verb};
use serde_json::{Value, json};

use super::installed::{all_to, printed};

const CRD: &str = "apiextensions.k8s.io/v1";
const KIND: &str = "CustomResourceDefinition";
const ISTIOS: &str = "virtualservices.networking.istio.io";

/// As Istio's Helm chart has it, in short.
fn of_istio() -> Value {
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "properties": {"spec": anything, "status": anything}});
    let version = json!({
        "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    });
    json!({
        "apiVersion": CRD, "kind": KIND,
        "metadata": {"name": ISTIOS, "labels": {"app.kubernetes.io/managed-by": "Helm", "release": "istio"}},
        "spec": {
            "group": "networking.istio.io", "scope": "Namespaced", "versions": [version],
            "names": {"kind": "VirtualService", "listKind": "VirtualServiceList", "plural": "virtualservices",
                "singular": "virtualservice"},
        },
    })
}

fn is_definition(object: &Value) -> bool {
    object["kind"] == KIND
}

#[tokio::test]
async fn installing_and_uninstalling_leave_definitions_alone_that_somebody_else_made() {
    let server = ApiServer::start();
    server.create(of_istio()).await;
    let before = server.get(CRD, KIND, "", ISTIOS).unwrap();
    let kubeconfig = server.kubeconfig();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let kubeconfig = kubeconfig.as_str();
    // Twice: the second time there is everything already.
    for _ in 0..2 {
        let objects = printed(&["install", kubeconfig]);
        assert!(objects.iter().filter(|object| is_definition(object)).count() > 5);
        for object in objects {
            server.apply(object).await;
        }
        assert_eq!(server.get(CRD, KIND, "", ISTIOS).unwrap(), before, "Istio's is as it was");
    }
    server.namespace("shop", &[]).await;
    server.create(all_to("v1")).await;

    let definitions = || server.list(CRD, KIND).len();
    let all = definitions();
    for object in printed(&["uninstall", kubeconfig]) {
        assert!(!is_definition(&object), "{object}");
        let _ = server.call(Verb::Delete, object).await;
    }
    assert_eq!(definitions(), all, "without --crds all stay");
    assert_eq!(server.get("apps/v1", "Deployment", "leno-system", "leno"), None);
    for object in printed(&["uninstall", "--crds", kubeconfig]) {
        let _ = server.call(Verb::Delete, object).await;
    }
    assert_eq!(definitions(), 1, "Istio's stays");
    assert_eq!(server.get(CRD, KIND, "", ISTIOS).unwrap(), before);
    assert_eq!(server.list("networking.istio.io/v1", "VirtualService").len(), 1, "and so do its rules");
}
