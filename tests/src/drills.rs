//! What is done to a [`scene`](crate::scene) under numbered load: small in the suite, large as
//! `cargo bench -p leno-tests --bench nothing_dropped`.

use std::time::{Duration, Instant};

use crate::client::Call;
use crate::numbered::{Callers, Outcome};
use crate::process::Process;
use crate::random::Random;
use crate::scene::{Scene, URL, saw_one_generation};
use crate::under_way::UnderWay;
use crate::wait::eventually;

/// Callers at a time.
const CALLERS: usize = 10;
/// Where one instance alone serves a generation.
const ONE: &str = "http://shop/one";

/// How a drill went.
#[derive(Debug)]
pub struct Report {
    /// What became of the requests.
    pub outcome: Outcome,
    /// Everything that was wrong, by the apps' book too.
    pub complaints: Vec<String>,
    /// How long the proxies took to be up to date again, each time.
    pub reconverged: Vec<Duration>,
}

impl Report {
    fn new(outcome: Outcome, scene: &Scene, reconverged: Vec<Duration>) -> Self {
        let complaints = outcome.complaints(&scene.book);
        Self { outcome, complaints, reconverged }
    }

    /// Fails the test where anything was wrong.
    pub fn must_be_flawless(&self) {
        let first: Vec<_> = self.complaints.iter().take(5).collect();
        let answered = self.outcome.answered.len();
        assert!(self.complaints.is_empty(), "{}, {answered} answered; the first: {first:#?}", self.complaints.len());
        assert!(answered > 0, "no request was made at all");
    }

    /// The longest of [`reconverged`](Self::reconverged).
    pub fn slowest(&self) -> Duration {
        self.reconverged.iter().max().copied().unwrap_or_default()
    }
}

/// How much happens.
#[derive(Debug, Clone, Copy)]
pub struct Changes {
    /// At least so many requests.
    pub requests: usize,
    /// Pushes of the control plane.
    pub pushes: usize,
    /// New certificates for all sidecars.
    pub rotations: usize,
    /// Rolling restarts: every instance, sidecar and app, one after the other.
    pub restarts: usize,
}

/// Pushes, rotations and rolling restarts, spread evenly over the requests.
pub async fn changes(scene: &mut Scene, changes: Changes) -> Report {
    let Changes { requests, pushes, rotations, restarts } = changes;
    let callers = Callers::start(scene.outbound(), URL, CALLERS, |_| None);
    // Whether one of so many is due with this push.
    let is_due = |push: usize, many: usize| push * many / pushes != (push + 1) * many / pushes;
    for push in 0..pushes {
        callers.reach(requests * push / pushes).await;
        scene.push().await;
        if is_due(push, rotations) {
            scene.rotate().await;
        }
        if is_due(push, restarts) {
            for instance in 0..scene.instances.len() {
                scene.restart(instance, &callers).await;
            }
        }
    }
    callers.reach(requests).await;
    let outcome = callers.stop().await;
    scene.nobody_has_panicked().await;
    Report::new(outcome, scene, Vec::new())
}

/// The control plane is killed in the middle of pushes, and what changes meanwhile is found when it is back.
pub async fn kills(scene: &mut Scene, kills: usize, seed: u64) -> Report {
    let callers = Callers::start(scene.outbound(), ONE, CALLERS, saw_one_generation);
    let (mut random, mut reconverged) = (Random::new(seed), Vec::new());
    for _ in 0..kills {
        callers.flow(CALLERS).await;
        scene.write_generation();
        // Anywhere between reading the file and the last acknowledgement.
        tokio::time::sleep(Duration::from_millis(random.below(60) as u64)).await;
        scene.control_plane.kill();
        scene.write_generation();
        callers.flow(CALLERS).await;
        scene.control_plane.restart().await;
        let back = Instant::now();
        is_up_to_date(scene).await;
        reconverged.push(back.elapsed());
    }
    callers.flow(CALLERS).await;
    let outcome = callers.stop().await;
    scene.nobody_has_panicked().await;
    Report::new(outcome, scene, reconverged)
}

/// Waits until the callers' sidecar has the newest generation, and every sidecar has acknowledged what it was sent.
async fn is_up_to_date(scene: &Scene) {
    let (expected, proxies) = (scene.generation().to_string(), scene.instances.len() + 1);
    eventually("everything is as the rules say", async || {
        let reply = Call::get(ONE).try_send(scene.outbound()).await?;
        let seen = reply.header("x-generation");
        if seen != expected {
            return Err(format!("{} `{seen}`, not `{expected}`", reply.status));
        }
        let status = scene.control_plane.status().await?;
        let known = status["proxies"].as_array().cloned().unwrap_or_default();
        let is_acknowledged = |proxy: &serde_json::Value| {
            let kinds = proxy["types"].as_object();
            kinds.is_some_and(|kinds| kinds.values().all(|kind| kind["sent"] == kind["acked"]))
        };
        let current = known.iter().filter(|proxy| is_acknowledged(proxy)).count();
        if current == proxies { Ok(()) } else { Err(status["proxies"].to_string()) }
    })
    .await;
}

/// Every sidecar is upgraded so often, while a gRPC stream, a WebSocket and downloads are under way.
pub async fn upgrades(scene: &mut Scene, upgrades: usize, meanwhile: usize) -> Report {
    let mut long = UnderWay::open(scene.outbound()).await;
    let callers = Callers::start(scene.outbound(), URL, CALLERS, |_| None);
    let (mut before, mut took) = (Vec::<Process>::new(), Vec::new());
    for number in 0..upgrades {
        callers.flow(meanwhile).await;
        for proxy in scene.proxies() {
            let began = Instant::now();
            before.push(proxy.upgrade().await);
            took.push(began.elapsed());
        }
        callers.flow(meanwhile).await;
        long.go_on(&format!("after upgrade {number}")).await;
        // The stream at the control plane has gone over: what is new reaches the new processes.
        scene.push().await;
    }
    callers.flow(meanwhile).await;
    let outcome = callers.stop().await;
    long.end("after all upgrades").await;
    for process in &mut before {
        let (status, _) = process.ended().await;
        assert!(status.success(), "{status}: {}", process.log());
    }
    scene.nobody_has_panicked().await;
    Report::new(outcome, scene, took)
}
