//! Outlier detection: a bad endpoint is left out by all workers, and comes back with one request.

use http::Method;
use hyper::body::Frame;
use leno_tests::{Call, Connection, Mesh, Protocol, eventually, get, mesh, metric, run_leno, stream};

use super::{App, app, begin, fact, policy};

/// Two apps, of which the second is to be ejected.
struct Pair {
    good: App,
    bad: App,
    mesh: Mesh,
}

/// Three 5xx in a row, and never mind how many are out.
fn rules(interval: &str, ejection: &str) -> String {
    policy(&format!(
        "outlierDetection: {{consecutive5xxErrors: 3, interval: {interval}, baseEjectionTime: {ejection}, maxEjectionPercent: 100}}"
    ))
}

async fn pair(workers: usize, rules: &str) -> Pair {
    let (good, bad) = (app("good").await, app("bad").await);
    let apps = [("v1", good.address()), ("v2", bad.address())];
    let mesh = mesh().service("app", &apps).rules(rules).workers(workers).start().await;
    Pair { good, bad, mesh }
}

impl Pair {
    async fn of_bad(&self, what: &str) -> String {
        fact(&self.mesh, &format!("{}::{what}", self.bad.address())).await
    }

    /// Calls until the bad one has been ejected. It looks before it calls, at what stays true when the ejection is over.
    async fn until_ejected(&self) {
        eventually("the bad one is ejected", async || {
            if self.of_bad("ejections").await == "1" {
                return Ok(());
            }
            get(self.mesh.outbound(), "http://app/").await;
            Err("not yet".to_owned())
        })
        .await;
    }

    /// Calls until the bad one's breaker stands so.
    async fn until_breaker_is(&self, wanted: &str) {
        eventually("the breaker has changed", async || {
            get(self.mesh.outbound(), "http://app/").await;
            match self.of_bad("breaker").await {
                breaker if breaker == wanted => Ok(()),
                breaker => Err(breaker),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ejection_is_seen_by_all_workers_and_survives_pushes() {
    for workers in [1, 4] {
        let pair = pair(workers, &rules("1s", "300s")).await;
        pair.bad.answers(500);
        pair.until_breaker_is("open").await;
        assert_eq!(pair.of_bad("breaker_reason").await, "consecutive_5xx");
        assert_eq!(pair.of_bad("health_flags").await, "/failed_outlier_check");
        // Every connection may be another worker's. What was begun before the ejection has ended: calls are in turn.
        let before = pair.bad.count();
        let mut requests = begin(&pair.mesh, 80);
        while let Some(reply) = requests.join_next().await {
            let reply = reply.unwrap();
            assert_eq!((reply.status, reply.text().as_str()), (200, "good"));
        }
        assert_eq!(pair.bad.count(), before);

        // A push that changes the policy, and a rule beside it.
        pair.mesh.edit(&(rules("2s", "300s") + "---\n" + ROUTE));
        pair.mesh.settles().await;
        eventually("the route is in force", async || {
            let reply = pair.mesh.get("http://app/").await;
            (reply.header("x-route") == "new").then_some(()).ok_or_else(|| "the old one".to_owned())
        })
        .await;
        assert_eq!((pair.of_bad("breaker").await.as_str(), pair.bad.count()), ("open", before), "{workers} workers");

        // Without the policy nobody is kept out by it.
        pair.mesh.edit(ROUTE);
        eventually("the endpoint is back", async || match pair.of_bad("breaker").await.as_str() {
            "closed" => Ok(()),
            other => Err(other.to_owned()),
        })
        .await;
    }
}

const ROUTE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http:
  - headers: {response: {set: {x-route: new}}}
    route: [{destination: {host: app}}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_comes_back_gets_exactly_one_request_until_that_has_succeeded() {
    for workers in [1, 4] {
        let pair = pair(workers, &rules("100ms", "100ms")).await;
        pair.bad.answers(500);
        pair.until_ejected().await;

        // The probe hangs, and while it does nobody else is sent there.
        pair.bad.hold(true);
        let before = pair.bad.count();
        let mut probe = tokio::task::JoinSet::new();
        eventually("one request probes", async || {
            probe.spawn(get(pair.mesh.outbound(), "http://app/"));
            match pair.of_bad("breaker").await.as_str() {
                "probing" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
        let mut requests = begin(&pair.mesh, 40);
        while let Some(reply) = requests.join_next().await {
            assert_eq!(reply.unwrap().text(), "good");
        }
        assert_eq!(pair.bad.count(), before + 1, "exactly one probe with {workers} workers");

        // It fails: out again, for longer.
        pair.bad.hold(false);
        eventually("it is ejected again", async || match pair.of_bad("ejections").await.as_str() {
            "2" => Ok(()),
            other => Err(format!("{other} ejections")),
        })
        .await;
        assert_eq!(pair.bad.count(), before + 1);

        // It is well again: one request shows it, and then it has its share.
        pair.bad.answers(200);
        pair.until_breaker_is("closed").await;
        let before = pair.bad.count();
        let mut requests = begin(&pair.mesh, 60);
        while let Some(reply) = requests.join_next().await {
            assert_eq!(reply.unwrap().status, 200);
        }
        assert!(pair.bad.count() > before + 10, "{} of 60", pair.bad.count() - before);

        let metrics = pair.mesh.client.metrics().await;
        let reason = |reason: &str| {
            let label = format!("reason=\"{reason}\"");
            metric(&metrics, "leno_cluster_ejections_total", &[&label])
        };
        assert_eq!((reason("consecutive_5xx"), reason("failed_probe")), (1.0, 1.0));
        assert_eq!(metric(&metrics, "leno_cluster_half_open_probes_total", &[]), 2.0);
        assert_eq!(metric(&metrics, "leno_cluster_ejections_active", &[]), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_whose_caller_has_gone_is_given_to_the_next() {
    let pair = pair(1, &rules("50ms", "50ms")).await;
    pair.bad.answers(500);
    pair.until_ejected().await;
    pair.bad.answers(200);
    pair.bad.hold(true);
    let before = pair.bad.count();
    for given_up in 1..=2 {
        eventually("a request probes and is given up", async || {
            let call = tokio::spawn(get(pair.mesh.outbound(), "http://app/"));
            let reached = eventually("an answer, or the bad one has it", async || {
                match (call.is_finished(), pair.bad.count() - before) {
                    (_, seen) if seen >= given_up => Ok(true),
                    (true, _) => Ok(false),
                    (false, seen) => Err(format!("{seen} requests")),
                }
            })
            .await;
            call.abort();
            reached.then_some(()).ok_or_else(|| "the good one answered".to_owned())
        })
        .await;
        assert_eq!(pair.bad.count(), before + given_up);
    }
    assert_eq!(pair.of_bad("ejections").await, "1", "nothing was learnt");
    pair.bad.hold(false);
    pair.until_breaker_is("closed").await;
    assert!(pair.good.count() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_our_own_is_nobodys_error() {
    let more = rules("1s", "300s") + "    connectionPool: {http: {http2MaxRequests: 1}}\n";
    let pair = pair(1, &more).await;
    pair.good.hold(true);
    pair.bad.hold(true);
    let mut requests = begin(&pair.mesh, 20);
    assert_eq!(super::next(&mut requests, 19).await, ["503 UO overloaded"; 19]);
    pair.good.hold(false);
    pair.bad.hold(false);
    assert_eq!(super::next(&mut requests, 1).await, ["200"]);
    assert_eq!(pair.of_bad("breaker").await, "closed");
    assert_eq!(fact(&pair.mesh, "outlier::ejections_active").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leno_status_shows_the_breakers_of_a_proxy() {
    let pair = pair(1, &rules("1s", "300s")).await;
    pair.bad.answers(503);
    pair.until_breaker_is("open").await;
    let admin = format!("http://{}", pair.mesh.client.admin().await);
    let shown =
        tokio::task::spawn_blocking(move || run_leno(&["status", "--proxy", &admin, "-o", "wide"], "")).await.unwrap();
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    let (cluster, address) = ("outbound|80||app.default.svc.cluster.local", pair.bad.address().to_string());
    let row = shown.stdout.lines().find(|line| line.starts_with(&address) && line.ends_with(cluster));
    let row = row.unwrap_or_else(|| panic!("{}", shown.stdout));
    assert!(row.contains("open for ") && row.contains("(consecutive_5xx)"), "{row}");
}

/// An endpoint that waits for the rest of a body has done nothing wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_leave_in_the_middle_of_a_body_eject_nobody() {
    let pair = pair(1, &rules("1s", "300s")).await;
    pair.good.hold(true);
    pair.bad.hold(true);
    for protocol in Protocol::ALL {
        for _ in 0..10 {
            let before = pair.good.count() + pair.bad.count();
            let mut connection = Connection::open(pair.mesh.outbound(), protocol).await;
            let (frames, body) = stream();
            let call = Call::new(Method::POST, "http://app/").over(protocol).body(body);
            let leaves = async {
                frames.send(Ok(Frame::data("half of".into()))).await.unwrap();
                eventually("an app has the request", async || match pair.good.count() + pair.bad.count() {
                    now if now > before => Ok(()),
                    _ => Err("not yet".to_owned()),
                })
                .await;
                frames.send(Err(std::io::Error::other("the caller leaves"))).await.unwrap();
            };
            let (response, ()) = tokio::join!(connection.begin(call), leaves);
            assert!(response.is_err(), "{response:?}");
        }
    }
    eventually("all of them are counted as what they are", async || {
        let metrics = pair.mesh.client.metrics().await;
        let left = metric(&metrics, "http_requests_total", &["response_code=\"0\"", "response_flags=\"DC\""]);
        if left == 20.0 { Ok(()) } else { Err(metrics) }
    })
    .await;
    assert_eq!(metric(&pair.mesh.client.metrics().await, "leno_cluster_ejections_total", &[]), 0.0);
}
