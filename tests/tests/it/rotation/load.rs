//! Numbered requests while certificates and roots change.
//!
//! Nobody sends anything again: a request that fails is a request that is lost. The sidecars may (they know what was not
//! delivered), so the origin's list is compared number by number.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use leno_tests::pki::Authority;
use leno_tests::{Call, Connection, ControlPlane, Origin, Protocol, Proxy, eventually, full, origin, run_leno};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Mesh, Pair, Side, believes, local};

/// Certificates of each side with one root.
const ROTATIONS: u64 = 6;
/// Requests between two changes, at least.
const BETWEEN: usize = 30;
/// Ends of certificates of a minute, with all that happens before.
const LONG: Duration = Duration::from_secs(150);

/// Callers that each send one request after another.
struct Load {
    next: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    callers: Vec<JoinHandle<Vec<String>>>,
}

/// How a caller goes about it.
#[derive(Debug, Clone, Copy)]
struct Manner {
    protocol: Protocol,
    method: &'static str,
    keeps: bool,
}

const MANNERS: [Manner; 5] = [
    Manner { protocol: Protocol::Http1, method: "GET", keeps: true },
    Manner { protocol: Protocol::Http1, method: "POST", keeps: true },
    Manner { protocol: Protocol::Http1, method: "GET", keeps: false },
    Manner { protocol: Protocol::Http2, method: "GET", keeps: true },
    Manner { protocol: Protocol::Http2, method: "POST", keeps: true },
];

impl Load {
    /// Each manner twice, a request every `pace`.
    fn start(through: SocketAddr, pace: Duration) -> Self {
        let (next, answered, stop) = (Arc::default(), Arc::default(), watch::Sender::new(false));
        let start = |manner: &Manner| {
            let numbers = (Arc::clone(&next), Arc::clone(&answered));
            tokio::spawn(calls(through, *manner, pace, numbers, stop.subscribe()))
        };
        let callers = MANNERS.iter().chain(&MANNERS).map(start).collect();
        Self { next, answered, stop, callers }
    }

    /// Waits until so many more requests have been answered.
    async fn goes_on(&self, requests: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + requests;
        eventually("requests go on", async || match self.answered.load(Ordering::Relaxed) {
            answered if answered >= goal => Ok(()),
            answered => Err(format!("{answered} of {goal}")),
        })
        .await;
    }

    /// Stops; every request was answered well and has arrived once.
    async fn lost_nothing(self, origin: &Origin) {
        self.stop.send_replace(true);
        let mut failed = Vec::new();
        for caller in self.callers {
            failed.extend(caller.await.unwrap());
        }
        let sent = self.next.load(Ordering::Relaxed);
        assert!(failed.is_empty(), "{} of {sent} requests failed: {failed:#?}", failed.len());
        let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
        for request in origin.requests() {
            *arrived.entry(request.path).or_default() += 1;
        }
        let not_once: Vec<String> = (0..sent)
            .filter_map(|number| match arrived.get(&format!("/{number}")) {
                Some(1) => None,
                times => Some(format!("{number}: {}", times.copied().unwrap_or_default())),
            })
            .collect();
        assert!(not_once.is_empty(), "each request arrives once, but {not_once:?}");
        assert_eq!(arrived.len(), sent, "and nothing else arrives");
    }
}

/// One caller: says which requests failed, and how.
async fn calls(
    through: SocketAddr,
    manner: Manner,
    pace: Duration,
    (next, answered): (Arc<AtomicUsize>, Arc<AtomicUsize>),
    stop: watch::Receiver<bool>,
) -> Vec<String> {
    let Manner { protocol, method, keeps } = manner;
    let (mut failed, mut kept) = (Vec::new(), None::<Connection>);
    let mut beat = tokio::time::interval(pace);
    while !*stop.borrow() {
        beat.tick().await;
        let number = next.fetch_add(1, Ordering::Relaxed);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let call = Call::new(method.clone(), &format!("http://reviews/{number}")).over(protocol);
        let call = if method == Method::POST { call.body(full(number.to_string())) } else { call };
        let sent = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => Connection::try_open(through, protocol).await?,
            };
            let reply = connection.try_send(call).await?;
            kept = keeps.then_some(connection);
            Ok::<_, String>(reply)
        };
        match sent.await {
            Ok(reply) if reply.status == 200 => {}
            Ok(reply) => failed.push(format!("{manner:?} {number}: {} {}", reply.status, reply.header("x-leno-error"))),
            Err(why) => failed.push(format!("{manner:?} {number}: {why}")),
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    failed
}

/// The certificates that callers have shown on the way to the origin.
fn certificates(origin: &Origin) -> HashSet<String> {
    let shown = |header: &str| header.split(';').find(|part| part.starts_with("Hash=")).map(str::to_owned);
    origin.requests().iter().filter_map(|request| shown(request.header("x-forwarded-client-cert"))).collect()
}

/// Waits until a request has gone under a certificate that none went under before: the newest of the callers' sidecar.
async fn shows_another(origin: &Origin, before: usize) {
    eventually("the new certificate is shown", async || match certificates(origin).len() {
        now if now > before => Ok(()),
        now => Err(format!("{now} certificates as before")),
    })
    .await;
}

/// Gives a side its next certificate. Where it is for callers to show, waits until a request has gone under it.
async fn gives(pair: &Pair, side: &Side, root: &Authority, serial: u64, origin: &Origin) {
    let before = certificates(origin).len();
    side.is_given(root, serial).await;
    if side.id == pair.shop.id {
        shows_another(origin, before).await;
    }
}

/// New certificates, a root joins, certificates of that, the old root goes, new certificates again.
async fn rotates(protocol: &str) {
    let (old, new) = (Authority::new("old root"), Authority::new("new root"));
    let app = origin("app").await;
    let pair = Pair::start(app.address(), protocol, &old).await;
    let load = Load::start(pair.outbound, Duration::from_millis(4));
    load.goes_on(BETWEEN).await;
    let mut serial = 0x1000;
    for _ in 0..ROTATIONS {
        for side in pair.sides() {
            serial += 1;
            gives(&pair, side, &old, serial, &app).await;
            load.goes_on(BETWEEN).await;
        }
    }
    for side in pair.sides() {
        side.believes(&[&old, &new]).await;
        load.goes_on(BETWEEN).await;
    }
    for _ in 0..ROTATIONS {
        for side in pair.sides().into_iter().rev() {
            serial += 1;
            gives(&pair, side, &new, serial, &app).await;
            load.goes_on(BETWEEN).await;
        }
    }
    for side in pair.sides().into_iter().rev() {
        side.believes(&[&new]).await;
        load.goes_on(10 * BETWEEN).await;
    }
    load.lost_nothing(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_the_root_change_under_load_and_no_request_is_lost() {
    rotates("HTTP").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_change_under_streams_of_http2_connections_too() {
    rotates("HTTP2").await;
}

/// `leno ca rotate`, every second until it is no longer refused: before that, the step would cut somebody off.
async fn rotate(control_plane: &ControlPlane, done: &str) {
    let state = control_plane.state().display().to_string();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let taken = tokio::time::timeout(LONG, async {
        loop {
            second.tick().await;
            let outcome = run_leno(&["ca", "rotate", "--state", &state], "");
            if outcome.code == 0 {
                return outcome.stdout;
            }
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(said.contains("Refused: "), "{said}");
        }
    });
    let taken = taken.await.expect("the step is allowed at last");
    assert!(taken.contains(done), "{taken}");
}

/// The slow one: it lives through the certificates of a minute that it rotates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_dies_and_then_changes_its_root_loses_no_request() {
    let app = origin("app").await;
    let directory = TempDir::with_prefix("leno-test-").unwrap();
    let mesh = Mesh::write(directory.path(), app.address(), "HTTP");
    let mut control_plane = ControlPlane::start(directory.path(), &mesh.rules, &["--certificate-ttl", "60s"]).await;
    let sidecar = |name: &str| {
        let token = directory.path().join(format!("{name}.token"));
        control_plane.write_token(name, &token);
        let way = json!({
            "address": format!("https://{}", control_plane.tls()),
            "root": control_plane.state().join("root.pem"),
            "token": token,
        });
        Proxy::with(directory.path(), name, &[("control_plane", way)])
    };
    let (shop, reviews) = (sidecar("shop"), sidecar("reviews"));
    shop.ready(mesh.outbound).await;
    reviews.ready(mesh.inbound).await;
    let load = Load::start(local(mesh.outbound), Duration::from_millis(25));
    load.goes_on(BETWEEN).await;

    control_plane.kill();
    load.goes_on(10 * BETWEEN).await;
    control_plane.restart().await;

    rotate(&control_plane, "there is a new root").await;
    for proxy in [&shop, &reviews] {
        believes(proxy, 2).await;
    }
    rotate(&control_plane, "certificates come from the new root").await;
    rotate(&control_plane, "the old root has left").await;
    for proxy in [&shop, &reviews] {
        believes(proxy, 1).await;
        // One of the old root, which has lapsed, and one of the new; a third is a question of when the step was taken.
        let obtained = proxy.certs().await.unwrap()["renewals"]["obtained"].as_u64();
        assert!(obtained >= Some(2), "{obtained:?} certificates");
    }
    load.goes_on(10 * BETWEEN).await;
    load.lost_nothing(&app).await;
    assert!(certificates(&app).len() >= 2);
}
