//! Circuit breaking, both meanings, and active health checks.

mod ejection;
mod figures;
mod health;
mod limits;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use http::Response;
use leno_tests::{Mesh, Origin, Reply, full};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// An app that answers with the status it is told to, when it is told to.
struct App {
    origin: Origin,
    status: Arc<AtomicU16>,
    held: watch::Sender<bool>,
}

/// An app that answers 200 with its name at once.
async fn app(name: &'static str) -> App {
    let status = Arc::new(AtomicU16::new(200));
    let (held, is_held) = watch::channel(false);
    let own = Arc::clone(&status);
    let origin = Origin::scripted(move |_| {
        let (status, mut is_held) = (Arc::clone(&own), is_held.clone());
        async move {
            // An error means that the test is over.
            let _ = is_held.wait_for(|held| !held).await;
            Response::builder().status(status.load(Ordering::SeqCst)).body(full(name)).unwrap()
        }
    })
    .await;
    App { origin, status, held }
}

impl App {
    fn address(&self) -> SocketAddr {
        self.origin.address()
    }

    /// From now on, all answers have this status.
    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Requests wait from now on, or no longer.
    fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    fn count(&self) -> usize {
        self.origin.count()
    }
}

/// So many requests at a time, each over a connection of its own.
fn begin(mesh: &Mesh, count: usize) -> JoinSet<Reply> {
    let mut requests = JoinSet::new();
    for _ in 0..count {
        requests.spawn(leno_tests::get(mesh.outbound(), "http://app/"));
    }
    requests
}

/// The next answers to come, as `status flag`.
async fn next(requests: &mut JoinSet<Reply>, count: usize) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..count {
        let reply = requests.join_next().await.unwrap().unwrap();
        let overloaded = if reply.header("x-envoy-overloaded") == "true" { " overloaded" } else { "" };
        answers.push(format!("{} {}{overloaded}", reply.status, reply.flag()).trim_end().to_owned());
    }
    answers.sort();
    answers
}

/// The value of a fact in `/clusters` about the cluster for all of `app`, or one of its endpoints.
async fn fact(mesh: &Mesh, fact: &str) -> String {
    let prefix = format!("outbound|80||app.default.svc.cluster.local::{fact}::");
    let clusters = mesh.client.clusters().await;
    let found = clusters.lines().find_map(|line| line.strip_prefix(&prefix));
    found.unwrap_or_else(|| panic!("no `{prefix}` in\n{clusters}")).to_owned()
}

/// A DestinationRule for `app`.
fn policy(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: policy}}
spec:
  host: app
  trafficPolicy:
    {policy}
"
    )
}
