//! Whatever happens beside them, requests are served once; `cargo bench -p leno-tests --bench nothing_dropped` does the same at
//! full size.

use std::collections::HashSet;

use leno_tests::drills::{self, Changes};
use leno_tests::scene::{Scene, URL};
use leno_tests::under_way::UnderWay;
use leno_tests::{Call, Connection, Process, Protocol, eventually};
use tokio::sync::mpsc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_rotations_and_rolling_restarts_lose_no_request_and_double_none() {
    for workers in [1, 4] {
        let mut scene = Scene::start(2, workers).await;
        let much = Changes { requests: 1_500, pushes: 10, rotations: 3, restarts: 1 };
        drills::changes(&mut scene, much).await.must_be_flawless();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_is_killed_while_it_pushes_shows_nobody_half_a_push() {
    let mut scene = Scene::start(3, 2).await;
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    let report = drills::kills(&mut scene, 5, seed).await;
    eprintln!("up to date again after {:?}", report.reconverged);
    report.must_be_flawless();
}

/// Callers in the test that hear of a drain and go.
const CALLERS: usize = 8;

/// Asks until it hears that it should go; each request is answered.
async fn asks_until_told(through: std::net::SocketAddr, protocol: Protocol, number: usize, asked: mpsc::Sender<usize>) {
    let mut connection = Connection::open(through, protocol).await;
    while connection.is_open() {
        let call = Call::get(URL).over(protocol);
        let reply = match connection.try_send(call).await {
            Ok(reply) => reply,
            // The library saw GOAWAY before it had sent anything.
            Err(why) if protocol == Protocol::Http2 && !connection.is_open() => {
                assert!(!why.contains("and then"), "{why}");
                return;
            }
            Err(why) => panic!("{protocol:?}: {why}"),
        };
        assert_eq!(reply.status, 200, "{protocol:?}: {}", reply.header("x-leno-error"));
        // More than can be counted need not be.
        let _ = asked.try_send(number);
        if reply.header("connection") == "close" {
            return;
        }
    }
}

async fn ends_well(process: &mut Process) {
    let (status, _) = process.ended().await;
    assert!(status.success(), "{status}");
    assert!(!process.log().contains("are cut"), "{}", process.log());
}

/// h1, h2, gRPC, WebSocket and a long download, when the caller's sidecar or the app's is told to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_cuts_nothing_of_any_protocol() {
    for (workers, at_caller) in [(1, true), (4, true), (1, false), (4, false)] {
        let mut scene = Scene::start(1, workers).await;
        let through = scene.outbound();
        let mut long = UnderWay::open(through).await;
        let (asked, mut asks) = mpsc::channel(CALLERS);
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| tokio::spawn(asks_until_told(through, Protocol::ALL[number % 2], number, asked.clone())))
            .collect();
        let mut busy = HashSet::new();
        while busy.len() < CALLERS {
            busy.insert(asks.recv().await.expect("the callers are there"));
        }
        let proxy = if at_caller { &mut scene.client } else { &mut scene.instances[0].proxy };
        proxy.process.terminate();
        eventually("the proxy says that it is not ready", async || match proxy.readiness().await {
            Ok(503) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        long.go_on("while the proxy drains").await;
        proxy.process.must_be_running();
        if at_caller {
            for caller in callers {
                caller.await.expect("each request is answered");
            }
            long.end("while the proxy drains").await;
            ends_well(&mut scene.client.process).await;
        } else {
            // Nobody takes the instance off the list here; so it goes when its callers do.
            scene.client.process.terminate();
            for caller in callers {
                caller.await.expect("each request is answered");
            }
            long.end("while both proxies drain").await;
            ends_well(&mut scene.client.process).await;
            ends_well(&mut scene.instances[0].proxy.process).await;
        }
    }
}
