//! The control plane goes away and comes back; the sidecars carry on.

use leno_tests::{eventually, mesh, origin};

use crate::load::Load;

fn answer_with(words: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app}}
spec:
  hosts: [app]
  http:
  - match: [{{uri: {{exact: /words}}}}]
    directResponse: {{status: 200, body: {{string: {words}}}}}
  - route:
    - destination: {{host: app}}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_is_killed_and_restarted_fails_no_request() {
    let app = origin("app").await;
    for workers in [1, 4] {
        let builder = mesh().service("app", &[("v1", app.address())]).workers(workers);
        let mut mesh = builder.rules(&answer_with("before")).start().await;
        mesh.answers("http://app/words", "before").await;
        let load = Load::start(mesh.outbound(), "http://app/", 4);
        load.flows(100).await;
        mesh.control_plane().kill();
        load.flows(300).await;
        assert_eq!(mesh.client.readiness().await, Ok(200), "a proxy with a configuration is ready without its source");
        mesh.edit(&answer_with("after"));
        mesh.control_plane().restart().await;
        mesh.answers("http://app/words", "after").await;
        load.flows(100).await;
        load.stop().await.must_be_flawless();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_restarts_without_control_plane_serves_what_it_had() {
    let app = origin("app").await;
    for workers in [1, 4] {
        let builder = mesh().service("app", &[("v1", app.address())]).workers(workers);
        let mut mesh = builder.rules(&answer_with("kept")).start().await;
        mesh.answers("http://app/words", "kept").await;
        mesh.settles().await;
        let before = mesh.client.config_dump().await;
        eventually("the state is on disk", async || {
            let snapshot = mesh.client.state().join("snapshot.bin");
            snapshot.metadata().map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
        mesh.control_plane().kill();
        let restarted = std::time::Instant::now();
        mesh.client.restart();
        mesh.client.ready(mesh.outbound().port()).await;
        assert_eq!(mesh.get("http://app/").await.text(), "app");
        eprintln!("with {workers} workers, the first request was answered {:?} after the restart", restarted.elapsed());
        assert_eq!(mesh.get("http://app/words").await.text(), "kept");
        let after = mesh.client.config_dump().await;
        for kind in ["listeners", "routes", "clusters", "endpoints"] {
            assert_eq!(after.versions(kind), before.versions(kind), "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_without_any_configuration_is_not_ready_until_it_has_one() {
    let app = origin("app").await;
    let mut mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    mesh.control_plane().kill();
    mesh.client.process.kill();
    // It may not have been written yet.
    let _ = std::fs::remove_file(mesh.client.state().join("snapshot.bin"));
    mesh.client.restart();
    eventually("it says that it is not ready", async || match mesh.client.readiness().await {
        Ok(503) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    mesh.control_plane().restart().await;
    mesh.client.ready(mesh.outbound().port()).await;
    assert_eq!(mesh.get("http://app/").await.text(), "app");
}

/// What becomes of a file, and the words by which that is told.
type Damage = (fn(&mut Vec<u8>), &'static str);

const DAMAGES: [Damage; 8] = [
    (|bytes| bytes.clear(), "is damaged (truncated)"),
    (|bytes| bytes.truncate(5), "is damaged (truncated)"),
    (|bytes| bytes.truncate(20), "is damaged (truncated)"),
    (|bytes| bytes.truncate(bytes.len() / 2), "is damaged (its checksum does not fit)"),
    (|bytes| bytes.truncate(bytes.len() - 1), "is damaged (its checksum does not fit)"),
    (|bytes| bytes[0] ^= 0x55, "is not a snapshot of Leno"),
    (|bytes| bytes[8] ^= 0x55, "this program knows format"),
    (
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x01;
        },
        "is damaged (its checksum does not fit)",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_truncated_state_on_disk_is_told_and_not_served() {
    let app = origin("app").await;
    let mut mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    mesh.settles().await;
    let snapshot = mesh.client.state().join("snapshot.bin");
    mesh.client.settles_on_disk().await;
    mesh.control_plane().kill();
    mesh.client.process.kill();
    let good = std::fs::read(&snapshot).expect("a proxy keeps its state");
    for (damage, words) in DAMAGES {
        let mut bytes = good.clone();
        damage(&mut bytes);
        std::fs::write(&snapshot, bytes).expect("the state can be written");
        let before = mesh.client.process.log().len();
        mesh.client.restart();
        eventually("it says that it is not ready, and why", async || {
            let log = mesh.client.process.log().split_off(before);
            match mesh.client.readiness().await {
                Ok(503) if log.contains("snapshot.bin") && log.contains(words) => Ok(()),
                other => Err(format!("{other:?}, without `{words}`: {log}")),
            }
        })
        .await;
        mesh.client.process.kill();
    }
    std::fs::write(&snapshot, &good).expect("the state can be written");
    mesh.client.restart();
    mesh.client.ready(mesh.outbound().port()).await;
    assert_eq!(mesh.get("http://app/").await.text(), "app", "the whole one is served without a control plane");
    std::fs::write(&snapshot, &good[1..]).expect("the state can be written");
    mesh.client.restart();
    mesh.control_plane().restart().await;
    mesh.client.ready(mesh.outbound().port()).await;
    assert_eq!(mesh.get("http://app/").await.text(), "app");
    eventually("the file is written anew", async || {
        let written = std::fs::read(&snapshot).map_err(|error| error.to_string())?;
        if written.starts_with(b"LENOSNAP") { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
}
