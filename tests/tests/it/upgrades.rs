//! A new proxy takes over from the one that runs: nothing is lost, nothing stands twice, and a failed attempt changes nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use leno_tests::numbered::Callers;
use leno_tests::scene::{Scene, URL};
use leno_tests::under_way::UnderWay;
use leno_tests::{Call, Connection, PATIENCE, Process, Protocol, drills, eventually, leno_proxy, metric};

/// Upgrades of each sidecar; `cargo bench -p leno-tests --bench nothing_dropped -- upgrades` does twenty.
const UPGRADES: usize = 3;
const MEANWHILE: usize = 60;

/// A process that would take over from a sidecar, with more flags.
fn newcomer(scene: &Scene, flags: &[&str]) -> Process {
    let state = scene.client.state();
    let mut command = Command::new(leno_proxy());
    command.arg("run").arg("--config").arg(state.join("bootstrap.yaml")).args(flags);
    Process::start("newcomer", &mut command, &state.join("newcomer.log"))
}

/// How many streams the control plane holds for a node.
async fn streams(scene: &Scene, node: &str) -> usize {
    let status = scene.control_plane.status().await.expect("the control plane answers");
    let proxies = status["proxies"].as_array().expect("a list of proxies").clone();
    proxies.iter().filter(|proxy| proxy["node"].to_string().contains(node)).count()
}

/// Waits until the new process answers: until it has closed it, the old one accepts at the admin address too.
async fn is_ready(scene: &Scene) {
    eventually("the new process says that it is ready", async || match scene.client.readiness().await {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Asks on this connection until the process at its other end drains.
async fn says_that_it_drains(mut kept: Connection) -> Connection {
    let mut beat = tokio::time::interval(Duration::from_millis(500));
    loop {
        beat.tick().await;
        let reply = kept.send(Call::get("http://admin/ready")).await;
        if reply.status == 503 && reply.text().contains("DRAINING") {
            return kept;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_under_load_lose_nothing_and_what_is_under_way_goes_on() {
    for workers in [1, 4] {
        let mut scene = Scene::start(2, workers).await;
        drills::upgrades(&mut scene, UPGRADES, MEANWHILE).await.must_be_flawless();
        for node in ["client", "shop-0", "shop-1"] {
            assert_eq!(streams(&scene, node).await, 1, "{node}");
        }
        let log = scene.client.process.log();
        assert!(!log.contains("cannot listen"), "{log}");
        assert!(log.contains("serving from the last good state on disk"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_process_says_that_it_drains_and_the_new_one_that_it_is_ready() {
    let mut scene = Scene::start(1, 1).await;
    let admin = scene.client.admin().await;
    let mut kept = Connection::open(admin, Protocol::Http1).await;
    assert_eq!(kept.send(Call::get("http://admin/ready")).await.status, 200);
    // Something that keeps the old process: an answer that is not read to its end.
    let long = UnderWay::open(scene.outbound()).await;
    // Asked all the time: the admin interface closes what rests for ten seconds.
    let says_so = tokio::spawn(says_that_it_drains(kept));
    let mut before = scene.client.upgrade().await;
    assert_eq!(scene.client.admin().await, admin, "the admin address is the same");
    let holder = std::fs::read_to_string(scene.client.state().join("lock")).unwrap();
    assert_eq!(holder.trim(), scene.client.process.pid().to_string(), "the lock says who holds it");
    is_ready(&scene).await;
    let kept = tokio::time::timeout(PATIENCE, says_so).await.expect("the old process says that it drains").unwrap();
    before.must_be_running();
    long.end("in the old process").await;
    // It has no patience with connections that rest.
    drop(kept);
    let (status, _) = before.ended().await;
    assert!(status.success(), "{status}");
    // SIGTERM is for the one that serves now.
    scene.client.process.terminate();
    let (status, _) = scene.client.process.ended().await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_dies_or_is_refused_changes_nothing() {
    let mut scene = Scene::start(1, 1).await;
    let callers = Callers::start(scene.outbound(), URL, 5, |_| None);
    callers.flow(MEANWHILE).await;

    // By accident: a second one without --upgrade.
    let mut second = newcomer(&scene, &[]);
    let (status, _) = second.ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(second.log().contains("--upgrade"), "{}", second.log());

    // Of another node.
    let mut other = newcomer(&scene, &["--upgrade", "--node-name", "other"]);
    let (status, _) = other.ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(other.log().contains("a state directory of its own"), "{}", other.log());

    // One that is killed on its way: without a certificate it has no configuration to serve with.
    for _ in 0..2 {
        let mut dying = newcomer(&scene, &["--upgrade", "--identity-certificate", "/nowhere"]);
        eventually("it has the sockets", async || {
            let log = dying.log();
            if log.contains("has handed over its sockets") { Ok(()) } else { Err(log) }
        })
        .await;
        dying.kill();
        callers.flow(MEANWHILE / 4).await;
    }
    // The stream to the control plane is the running one's again.
    scene.push().await;
    callers.flow(MEANWHILE).await;
    callers.stop().await.must_be_flawless(&scene.book);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_is_told_to_end_before_it_serves_gives_everything_back() {
    let mut scene = Scene::start(1, 1).await;
    scene.client.settles_on_disk().await;
    let callers = Callers::start(scene.outbound(), URL, 5, |_| None);
    let mut taken = newcomer(&scene, &["--upgrade", "--identity-certificate", "/nowhere"]);
    eventually("it has the sockets", async || {
        let log = taken.log();
        if log.contains("has handed over its sockets") { Ok(()) } else { Err(log) }
    })
    .await;
    callers.flow(MEANWHILE).await;
    assert_eq!(scene.client.readiness().await, Ok(200), "the running one answers for itself");
    taken.terminate();
    let (status, _) = taken.ended().await;
    assert_eq!(status.code(), Some(1), "{}", taken.log());
    assert!(taken.log().contains("the running proxy goes on"), "{}", taken.log());
    scene.push().await;
    callers.flow(MEANWHILE).await;
    callers.stop().await.must_be_flawless(&scene.book);
    eventually("the failure is counted", async || {
        let failed = metric(&scene.client.metrics().await, "leno_upgrades_failed_total", &[]);
        if failed == 1.0 { Ok(()) } else { Err(failed.to_string()) }
    })
    .await;
    let mode = |file: &str| std::fs::metadata(scene.client.state().join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("handover.sock"), mode("lock")), (0o600, 0o600));
    // The next one can take over.
    scene.client.upgrade().await;
    is_ready(&scene).await;
}
