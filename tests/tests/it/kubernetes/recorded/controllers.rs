//! What controllers write: leases, deployments, endpoint slices.

use http::Method;
use leno_tests::Reply;
use leno_tests::api_server::{Cluster, cluster, path};
use serde_json::{Value, json};

use super::{CONTROLLERS, GENERATED, URLLIB, recorded};

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap()
}

/// A cluster of its own, as the namespace and the names are those of the recordings.
async fn demo(what: &str) -> Option<Cluster> {
    let cluster = cluster();
    cluster.fake(what)?;
    cluster.namespace("demo").await;
    Some(cluster)
}

#[tokio::test]
async fn a_lease_and_its_conflict_are_as_recorded() {
    let what = "a lease as recorded";
    let (Some(recorded), Some(cluster)) = (recorded(what), demo(what).await) else { return };
    let leases = path("coordination.k8s.io/v1", "demo", "leases");
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "leader"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-11-22T08:14:52.000000Z"},
    });
    let first = body(&cluster.ask(Method::POST, &leases, GENERATED, Some(&lease)).await);
    lease["metadata"] = first["metadata"].clone();
    lease["spec"]["holderIdentity"] = json!("b");
    lease["spec"]["renewTime"] = json!("2026-11-22T08:14:52.470977Z");
    let leader = format!("{leases}/leader");
    assert_eq!(cluster.ask(Method::PUT, &leader, GENERATED, Some(&lease)).await.status, 200);
    recorded.is("lease-get.json", &body(&cluster.ask(Method::GET, &leader, GENERATED, None).await));
    let late = cluster.ask(Method::PUT, &leader, GENERATED, Some(&first)).await;
    assert_eq!(late.status, 409);
    recorded.is("lease-conflict.json", &body(&late));
}

#[tokio::test]
async fn a_deployment_that_is_scaled_is_as_recorded() {
    let what = "a deployment as recorded";
    let (Some(recorded), Some(cluster)) = (recorded(what), demo(what).await) else { return };
    let deployments = path("apps/v1", "demo", "deployments");
    let template = json!({
        "metadata": {"labels": {"app": "api"}},
        "spec": {"containers": [{"name": "app", "image": "api:1"}]},
    });
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "api"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "api"}}, "template": template},
    });
    let mut deployment = body(&cluster.ask(Method::POST, &deployments, GENERATED, Some(&deployment)).await);
    // What the controller wrote is taken from the recording: there is no controller here.
    let expected = recorded.json("deployment-scale.json");
    deployment["metadata"]["annotations"] = expected["metadata"]["annotations"].clone();
    deployment["status"] = expected["status"].clone();
    let api = format!("{deployments}/api");
    let written = cluster.ask(Method::PUT, &format!("{api}/status"), CONTROLLERS, Some(&deployment)).await;
    assert_eq!(written.status, 200, "{}", written.text());
    let scale = json!({"spec": {"replicas": 3}});
    let scaled = cluster.patch(&api, URLLIB, "application/merge-patch+json", &scale).await;
    recorded.is("deployment-scale.json", &body(&scaled));
}

#[tokio::test]
async fn endpoint_slices_are_listed_as_recorded() {
    let what = "endpoint slices as recorded";
    let (Some(recorded), Some(cluster)) = (recorded(what), demo(what).await) else { return };
    let slices = path("discovery.k8s.io/v1", "demo", "endpointslices");
    for (name, kind, address) in [("hand-1", "IPv4", "10.1.2.3"), ("lo-29867", "FQDN", "a.localhost")] {
        let labels = json!({"endpointslice.kubernetes.io/managed-by": "test", "kubernetes.io/service-name": "hand"});
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": labels},
            "addressType": kind,
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{"name": "http", "port": 8080}],
        });
        let made = cluster.ask(Method::POST, &slices, GENERATED, Some(&slice)).await;
        assert_eq!(made.status, 201, "{}", made.text());
    }
    recorded.is("endpointslices.json", &body(&cluster.ask(Method::GET, &slices, GENERATED, None).await));
}
