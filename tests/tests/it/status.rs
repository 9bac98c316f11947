//! What the control plane says it sent and what the proxies say they run on: the same versions.

use std::collections::BTreeMap;

use leno_tests::{ControlPlane, Proxy, eventually, mesh, origin, run_leno};
use serde_json::Value;

const KINDS: [&str; 4] = ["listeners", "routes", "clusters", "endpoints"];

/// Versions by resource of one kind, as the control plane sent them to a proxy.
async fn sent(control_plane: &ControlPlane, proxy: &str, kind: &str) -> Result<BTreeMap<String, String>, String> {
    let status = control_plane.status().await?;
    let found = status["proxies"].as_array().into_iter().flatten().find(|found| {
        let node = found["node"].as_str().unwrap_or_default();
        node.contains(&format!("~{proxy}.default~"))
    });
    let found = found.ok_or_else(|| format!("{proxy} is not in {status:#}"))?;
    serde_json::from_value(found["types"][kind]["resources"].clone())
        .map_err(|error| format!("{kind} of {proxy}: {error}: {found:#}"))
}

async fn must_agree(control_plane: &ControlPlane, proxy: &Proxy, name: &str) {
    for kind in KINDS {
        eventually(&format!("both sides name the same {kind} of {name}"), async || {
            let sent = sent(control_plane, name, kind).await?;
            let held = proxy.config_dump().await.versions(kind);
            if sent == held && !held.is_empty() { Ok(()) } else { Err(format!("sent {sent:#?}\nheld {held:#?}")) }
        })
        .await;
    }
}

fn rules(timeout: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app}}
spec:
  hosts: [app]
  http:
  - headers: {{response: {{set: {{x-edit: \"{timeout}\"}}}}}}
    timeout: {timeout}s
    route: [{{destination: {{host: app}}}}]
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_resource_is_in_force_in_the_version_that_was_sent() {
    let app = origin("app").await;
    for workers in [1, 4] {
        let builder = mesh().service("app", &[("v1", app.address())]).behind_sidecars().workers(workers);
        let mesh = builder.rules(&rules(5)).start().await;
        let control_plane = mesh.control_plane.as_ref().unwrap();
        must_agree(control_plane, &mesh.client, "client").await;
        let before = mesh.client.config_dump().await;

        mesh.edit(&rules(6));
        eventually("the edit is in force", async || match mesh.get("http://app/").await.header("x-edit") {
            "6" => Ok(()),
            other => Err(other.to_owned()),
        })
        .await;
        must_agree(control_plane, &mesh.client, "client").await;
        let after = mesh.client.config_dump().await;
        assert_ne!(after.versions("routes"), before.versions("routes"));
        for untouched in ["listeners", "clusters", "endpoints"] {
            assert_eq!(after.versions(untouched), before.versions(untouched), "{untouched} were not edited");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_control_planes_and_file_mode_name_the_same_versions() {
    let app = origin("app").await;
    let instances = [("v1", app.address())];
    let mut served = mesh().service("app", &instances).rules(&rules(5)).start().await;
    served.settles().await;
    let first = served.client.config_dump().await;
    served.control_plane().kill();
    let _ = std::fs::remove_file(served.client.state().join("snapshot.bin"));
    served.control_plane().restart().await;
    served.client.restart();
    served.client.ready(served.outbound().port()).await;
    served.settles().await;
    let second = served.client.config_dump().await;
    for kind in KINDS {
        assert_eq!(first.versions(kind), second.versions(kind), "{kind}");
    }
    let alone = mesh().service("app", &instances).rules(&rules(5)).without_control_plane().start().await;
    let alone = alone.client.config_dump().await;
    // Listeners and their routes differ in a port of the test's own.
    for kind in ["clusters", "endpoints"] {
        assert_eq!(first.versions(kind), alone.versions(kind), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_only_improve_is_listed_as_not_enforced() {
    let app = origin("app").await;
    let rules = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: captured}
spec:
  host: app
  subsets:
  - name: captured
    labels: {version: v1}
    trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}
";
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(rules).start().await;
    assert_eq!(mesh.get("http://app/").await.text(), "app");
    let listed = mesh.client.config_dump().await.not_enforced();
    let (place, feature) = ("outbound|80|captured|app.default.svc.cluster.local", "original destination");
    let found = listed.iter().any(|line| line.contains(place) && line.contains(feature));
    assert!(found, "{feature} of {place} is not in {listed:#?}");
}

/// What would protect is not left out: where a rule asks for TLS and there is nothing to do it with, nobody is called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_not_there_opens_no_connection_and_the_answer_names_the_file() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(&rules(5)).start().await;
    mesh.settles().await;
    let encrypt = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: encrypt}
spec: {host: app, trafficPolicy: {tls: {mode: SIMPLE, credentialName: somewhere-else}}}
";
    mesh.edit(&format!("{}{encrypt}", rules(6)));
    eventually("the rule is in force", async || {
        let reply = mesh.get("http://app/").await;
        let error = reply.header("x-leno-error").to_owned();
        match reply.status == 503 && error.contains("/somewhere-else/ca.crt") {
            true => Ok(()),
            false => Err(format!("{} {error}", reply.status)),
        }
    })
    .await;
    mesh.edit(&rules(7));
    eventually("the app is called again without it", async || match mesh.get("http://app/").await.header("x-edit") {
        "7" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leno_status_shows_proxies_and_findings() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(&rules(5)).start().await;
    mesh.settles().await;
    mesh.edit(&rules(5).replace("timeout: 5s", "timeout: 5 parsecs"));
    let control_plane = mesh.control_plane.as_ref().unwrap();
    let address = format!("http://{}", control_plane.http());
    let json = eventually("the finding is shown", async || {
        let outcome = run_leno(&["status", "--address", &address, "-o", "json"], "");
        let json: Value = serde_json::from_str(&outcome.stdout).map_err(|error| format!("{error}: {outcome:?}"))?;
        if json["rules"]["rejected"].as_array().is_some_and(|list| !list.is_empty()) {
            Ok(json)
        } else {
            Err(json.to_string())
        }
    })
    .await;
    let finding = &json["rules"]["rejected"][0];
    assert!(finding["file"].as_str().unwrap().ends_with("rules.yaml"), "{finding}");
    assert_eq!(finding["path"], "spec.http[0].timeout");
    let table = run_leno(&["status", "--address", &address], "");
    assert_eq!(table.code, 0);
    for word in ["client", "clusters", "routes", "rules.yaml"] {
        assert!(table.stdout.contains(word), "{word} is missing in\n{}", table.stdout);
    }
}
