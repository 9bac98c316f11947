//! Rules that change while traffic flows: good ones arrive, bad ones do not.

use leno_tests::{eventually, mesh, origin};

use crate::load::Load;

/// Everything of host `app` to one subset.
fn all_to(subset: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app}}
spec:
  hosts: [app]
  http:
  - route:
    - destination: {{host: app, subset: {subset}}}
"
    )
}

async fn rejected(mesh: &leno_tests::Mesh, what: &str) {
    let control_plane = mesh.control_plane.as_ref().expect("a control plane");
    eventually("the control plane reports the finding", async || {
        let status = control_plane.status().await?;
        let findings = status["rules"]["rejected"].to_string();
        if findings.contains(what) { Ok(()) } else { Err(status["rules"].to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_moves_traffic_and_fails_no_request() {
    let (v1, v2) = (origin("v1").await, origin("v2").await);
    for workers in [1, 4] {
        let instances = [("v1", v1.address()), ("v2", v2.address())];
        let mesh = mesh().service("app", &instances).rules(&all_to("v1")).workers(workers).start().await;
        mesh.answers("http://app/", "v1").await;
        let load = Load::start(mesh.outbound(), "http://app/", 4);
        for subset in ["v2", "v1", "v2"] {
            load.flows(50).await;
            mesh.edit(&all_to(subset));
            mesh.answers("http://app/", subset).await;
        }
        load.flows(50).await;
        let totals = load.stop().await;
        totals.must_be_flawless();
        assert_eq!(totals.by_body.keys().collect::<Vec<_>>(), ["v1", "v2"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_edit_reaches_no_proxy_and_the_next_good_one_does() {
    let (v1, v2) = (origin("v1").await, origin("v2").await);
    for workers in [1, 4] {
        let instances = [("v1", v1.address()), ("v2", v2.address())];
        let mesh = mesh().service("app", &instances).workers(workers).rules(&all_to("v1")).start().await;
        mesh.answers("http://app/", "v1").await;
        mesh.settles().await;
        let good = mesh.client.config_dump().await.versions("routes");
        let load = Load::start(mesh.outbound(), "http://app/", 2);
        let negative = all_to("v2").replace("subset: v2}", "subset: v2}\n      weight: -5");
        let broken_yaml = all_to("v2").replace("hosts: [app]", "hosts: [app");
        let unknown_subset = all_to("v7");
        let unknown_field = all_to("v2").replace("route:", "rout:");
        for (bad, finding) in
            [(negative, "weight"), (broken_yaml, "rules.yaml"), (unknown_subset, "v7"), (unknown_field, "rout")]
        {
            mesh.edit(&bad);
            rejected(&mesh, finding).await;
            load.flows(20).await;
            assert_eq!(mesh.client.config_dump().await.versions("routes"), good, "after\n{bad}");
            assert_eq!(mesh.get("http://app/").await.text(), "v1", "after\n{bad}");
        }
        mesh.edit(&all_to("v2"));
        mesh.answers("http://app/", "v2").await;
        load.stop().await.must_be_flawless();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_reads_the_files_itself_follows_good_edits_and_keeps_bad_ones_out() {
    let (v1, v2) = (origin("v1").await, origin("v2").await);
    for workers in [1, 4] {
        let instances = [("v1", v1.address()), ("v2", v2.address())];
        let builder = mesh().service("app", &instances).rules(&all_to("v1")).workers(workers);
        let mesh = builder.without_control_plane().start().await;
        mesh.answers("http://app/", "v1").await;
        let load = Load::start(mesh.outbound(), "http://app/", 2);
        for bad in [all_to("v7"), all_to("v2").replace("hosts: [app]", "hosts: [app")] {
            let before = mesh.client.process.log().len();
            mesh.edit(&bad);
            eventually("the proxy tells what is wrong", async || {
                let log = mesh.client.process.log().split_off(before);
                if log.contains("rules.yaml") { Ok(()) } else { Err(log) }
            })
            .await;
            load.flows(20).await;
            assert_eq!(mesh.get("http://app/").await.text(), "v1", "after\n{bad}");
        }
        mesh.edit(&all_to("v2"));
        mesh.answers("http://app/", "v2").await;
        load.stop().await.must_be_flawless();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_document_does_not_hold_up_the_good_one_beside_it() {
    let (v1, v2) = (origin("v1").await, origin("v2").await);
    let instances = [("v1", v1.address()), ("v2", v2.address())];
    let other = |subset: &str| all_to(subset).replace("app}", "other}").replace("[app]", "[other]");
    let both = |app: &str, other_subset: &str| {
        format!("{}---\n{}", all_to(app), other(other_subset).replace("host: app", "host: other"))
    };
    let mesh = mesh().service("app", &instances).service("other", &instances).rules(&both("v1", "v1")).start().await;
    mesh.answers("http://app/", "v1").await;
    mesh.edit(&both("v2", "v7"));
    mesh.answers("http://app/", "v2").await;
    rejected(&mesh, "v7").await;
    assert_eq!(mesh.get("http://other/").await.text(), "v1", "the last good version of the bad document is in force");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_restarts_with_a_bad_file_serves_the_last_good_set() {
    let (v1, v2) = (origin("v1").await, origin("v2").await);
    let instances = [("v1", v1.address()), ("v2", v2.address())];
    let mut mesh = mesh().service("app", &instances).rules(&all_to("v1")).start().await;
    mesh.answers("http://app/", "v1").await;
    mesh.control_plane().kill();
    mesh.edit(&all_to("v7"));
    mesh.control_plane().restart().await;
    rejected(&mesh, "v7").await;
    // A proxy that has nothing of its own gets the last good set.
    mesh.client.process.kill();
    std::fs::remove_file(mesh.client.state().join("snapshot.bin")).ok();
    mesh.client.restart();
    mesh.client.ready(mesh.outbound().port()).await;
    mesh.answers("http://app/", "v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_directory_is_an_error_and_changes_nothing() {
    let v1 = origin("v1").await;
    let mesh = mesh().service("app", &[("v1", v1.address())]).rules(&all_to("v1")).start().await;
    mesh.answers("http://app/", "v1").await;
    for file in std::fs::read_dir(mesh.rules_directory()).expect("the rules are there").flatten() {
        std::fs::remove_file(file.path()).expect("a rule file can be removed");
    }
    let control_plane = mesh.control_plane.as_ref().expect("a control plane");
    eventually("the control plane complains of the empty directory", async || {
        let log = control_plane.process.log();
        if log.contains("--allow-empty") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(mesh.get("http://app/").await.text(), "v1");
}
