//! Envoy's metrics of clusters, each after something that the client knows the number of.

use std::time::Instant;

use leno_tests::exposition::{figure, samples};
use leno_tests::scripted::{Fleet, Manner, RUN, SCRIPT, Upstream};
use leno_tests::{Call, Connection, Mesh, Protocol, Reply, eventually, mesh, origin, run_leno, sidecar};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// What each service is for.
const RULES: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: retried}
spec:
  hosts: [retried]
  http: [{retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}, route: [{destination: {host: retried}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: scarce}
spec:
  hosts: [scarce]
  http: [{retries: {attempts: 1, retryOn: 5xx, backoff: 1ms}, route: [{destination: {host: scarce}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: scarce-policy}
spec: {host: scarce, trafficPolicy: {connectionPool: {http: {maxRetries: 1}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: slow}
spec:
  hosts: [slow]
  http: [{timeout: 2s, retries: {attempts: 0}, route: [{destination: {host: slow}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: absent}
spec:
  hosts: [absent]
  http: [{retries: {attempts: 0}, route: [{destination: {host: absent}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: narrow-policy}
spec: {host: narrow, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: flaky-policy}
spec:
  host: flaky
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 300s, maxEjectionPercent: 100}
---
apiVersion: leno.mesh/v1alpha1
kind: HealthCheck
metadata: {name: retried}
spec: {host: retried, tcp: {}, interval: 1s, idleInterval: 1s, timeout: 5s}
";

/// A metric without `envoy_cluster_`, its other label as `name=value`, and its value.
type Figure = (&'static str, &'static str, f64);

/// A service for each thing that can happen.
struct Scene {
    mesh: Mesh,
    fleet: Fleet,
    // They serve while the scene is there.
    _servers: Vec<Upstream>,
}

impl Scene {
    async fn start() -> Self {
        let fleet = Fleet::new();
        let (mut servers, mut builder) = (Vec::new(), mesh().rules(RULES).without_control_plane());
        for name in ["plain", "retried", "scarce", "slow", "absent", "narrow", "flaky"] {
            let manner = if name == "absent" { Manner::Refuses } else { Manner::Obeys };
            let server = fleet.server(name, manner).await;
            builder = builder.service(name, &[("v1", server.address())]);
            servers.push(server);
        }
        Self { mesh: builder.start().await, fleet, _servers: servers }
    }

    fn call(service: &str, run: &str, script: &str) -> Call {
        Call::get(&format!("http://{service}/")).header(RUN, run).header(SCRIPT, script)
    }

    async fn asks(&self, service: &str, run: &str, script: &str) -> Reply {
        Self::call(service, run, script).send(self.mesh.outbound()).await
    }

    /// A request whose answer never comes, once so many attempts at it are under way.
    async fn hangs(&self, service: &str, run: &'static str, script: &str, attempts: usize) -> JoinHandle<()> {
        let (call, through) = (Self::call(service, run, script), self.mesh.outbound());
        let hangs = tokio::spawn(async move { drop(call.try_send(through).await) });
        eventually("the app has it", async || match self.fleet.count(run) {
            seen if seen == attempts => Ok(()),
            seen => Err(format!("{seen} attempts")),
        })
        .await;
        hangs
    }

    /// Waits until the figures of a service are these.
    async fn shows(&self, service: &str, figures: &[Figure]) {
        let cluster = format!("outbound|80||{service}.default.svc.cluster.local");
        for (name, label, value) in figures {
            let own = label.split_once('=');
            let labels: Vec<_> = [("envoy_cluster_name", cluster.as_str())].into_iter().chain(own).collect();
            self.mesh.client.shows(&format!("envoy_cluster_{name}"), &labels, *value).await;
        }
    }

    /// A request is told as soon as it is counted, and a little later than it is answered.
    async fn everything_happens(&self) {
        let (mut caller, asked) = (Connection::open(self.mesh.outbound(), Protocol::Http1).await, Instant::now());
        for (at, status) in [200, 200, 404, 500, 500].into_iter().enumerate() {
            let reply = caller.send(Self::call("plain", &format!("plain {at}"), &format!("{status} after=10"))).await;
            assert_eq!(reply.status, status);
        }
        let took = asked.elapsed();
        self.shows("plain", &[("upstream_rq_time_count", "", 5.0)]).await;
        let samples = samples(&self.mesh.client.metrics().await);
        let cluster = ("envoy_cluster_name", "outbound|80||plain.default.svc.cluster.local");
        let sum = figure(&samples, "envoy_cluster_upstream_rq_time_sum", &[cluster]).unwrap();
        assert!((50.0..=took.as_secs_f64() * 1e3).contains(&sum), "{sum} ms of {took:?}");
        let below = figure(&samples, "envoy_cluster_upstream_rq_time_bucket", &[cluster, ("le", "5")]);
        assert_eq!(below, Some(0.0), "each took longer than 10 ms");

        assert_eq!(self.asks("retried", "saved", "503; 200").await.status, 200);
        assert_eq!(self.asks("retried", "lost", "503").await.status, 503);

        let retry = self.hangs("scarce", "scarce", "503; silent", 2).await;
        assert_eq!(self.asks("scarce", "too many", "503").await.status, 503);
        retry.abort();

        assert_eq!(self.asks("slow", "slow", "silent").await.status, 504);
        assert_eq!(self.asks("absent", "absent", "200").await.flag(), "UF");

        for at in 0..2 {
            assert_eq!(self.asks("flaky", &format!("flaky {at}"), "500").await.status, 500);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_metric_of_a_cluster_counts_what_the_client_has_seen() {
    let scene = Scene::start().await;
    scene.everything_happens().await;
    let cases: [(&str, &[Figure]); 6] = [
        (
            "plain",
            &[
                ("upstream_rq_total", "", 5.0),
                ("upstream_rq_xx", "envoy_response_code_class=2", 2.0),
                ("upstream_rq_xx", "envoy_response_code_class=4", 1.0),
                ("upstream_rq_xx", "envoy_response_code_class=5", 2.0),
                ("upstream_rq", "envoy_response_code=200", 2.0),
                ("upstream_rq", "envoy_response_code=404", 1.0),
                ("upstream_rq", "envoy_response_code=500", 2.0),
                ("upstream_rq_time_bucket", "le=+Inf", 5.0),
                ("upstream_rq_retry", "", 0.0),
                ("upstream_rq_timeout", "", 0.0),
                ("upstream_rq_active", "", 0.0),
                ("upstream_cx_total", "", 1.0),
                ("upstream_cx_active", "", 1.0),
                ("upstream_cx_connect_fail", "", 0.0),
                ("membership_total", "", 1.0),
                ("membership_healthy", "", 1.0),
            ],
        ),
        (
            "retried",
            &[
                ("upstream_rq_total", "", 5.0),
                ("upstream_rq_retry", "", 3.0),
                ("upstream_rq_retry_success", "", 1.0),
                ("upstream_rq_xx", "envoy_response_code_class=2", 1.0),
                ("upstream_rq_xx", "envoy_response_code_class=5", 1.0),
            ],
        ),
        ("scarce", &[("upstream_rq_retry", "", 1.0), ("upstream_rq_retry_overflow", "", 1.0)]),
        (
            "slow",
            &[
                ("upstream_rq_timeout", "", 1.0),
                ("upstream_rq", "envoy_response_code=504", 1.0),
                ("upstream_rq_total", "", 1.0),
                // A connection whose answer nobody waits for is of no use.
                ("upstream_cx_active", "", 0.0),
            ],
        ),
        ("absent", &[("upstream_cx_connect_fail", "", 1.0), ("upstream_cx_active", "", 0.0)]),
        (
            "flaky",
            &[
                ("outlier_detection_ejections_enforced_total", "", 1.0),
                ("outlier_detection_ejections_active", "", 1.0),
                ("membership_total", "", 1.0),
                ("membership_healthy", "", 0.0),
            ],
        ),
    ];
    for (service, figures) in cases {
        scene.shows(service, figures).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_and_what_is_refused_is_told_while_it_is_so() {
    let scene = Scene::start().await;
    let first = scene.hangs("narrow", "first", "silent", 1).await;
    scene
        .shows(
            "narrow",
            &[("upstream_rq_active", "", 1.0), ("upstream_cx_active", "", 1.0), ("upstream_cx_total", "", 1.0)],
        )
        .await;
    // One of these waits for the one connection; the others are refused.
    let mut others = tokio::task::JoinSet::new();
    for number in 0..3 {
        let call = Scene::call("narrow", &format!("other {number}"), "200");
        others.spawn(call.try_send(scene.mesh.outbound()));
    }
    for _ in 0..2 {
        let refused = others.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!((refused.status, refused.flag()), (503, "UO"));
    }
    scene
        .shows(
            "narrow",
            &[("upstream_rq_pending_overflow", "", 2.0), ("upstream_rq_xx", "envoy_response_code_class=5", 2.0)],
        )
        .await;
    first.abort();
    assert_eq!(others.join_next().await.unwrap().unwrap().unwrap().status, 200);
    scene.shows("narrow", &[("upstream_rq_active", "", 0.0), ("upstream_cx_total", "", 2.0)]).await;
}

/// `leno explain flag` sends people to figures: they have to be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_figure_that_a_flag_names_is_emitted() {
    let scene = Scene::start().await;
    scene.everything_happens().await;
    // A limit that is only there where somebody wants it.
    let adaptive = json!({"adaptive_concurrency": true});
    let app = origin("app").await;
    let other = sidecar(app.address(), "").bootstrap("limits", adaptive).start().await;
    let list = run_leno(&["explain", "flag", "no-such-flag"], "").stderr;
    let letters = list.split_once("there are: ").expect("all flags are listed").1.trim().replace(", ", ",");
    let explained = run_leno(&["explain", "flag", "-o", "json", "--", &letters], "");
    let explained: Vec<Value> = serde_json::from_str(&explained.stdout).expect(&explained.stderr);
    assert!(explained.len() > 20, "{letters}");
    let named: Vec<&str> = explained
        .iter()
        .flat_map(|flag| flag["metrics"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    assert!(named.len() > 10, "{named:?}");
    eventually("all of them are there", async || {
        let texts = [scene.mesh.client.metrics().await, other.proxy.metrics().await];
        let samples = samples(&texts.concat());
        let missing: Vec<_> = named.iter().filter(|name| figure(&samples, name, &[]).is_none()).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    })
    .await;
    for flag in &explained {
        for part in ["cause", "remedy"] {
            let sentence = flag[part].as_str().unwrap_or_default();
            assert!(sentence.ends_with('.') && sentence.split(' ').count() >= 3, "{part} of {flag}");
        }
        let letters = flag["flag"].as_str().unwrap();
        let words = run_leno(&["explain", "flag", "--", letters], "").stdout;
        assert!(words.contains("  cause ") && words.contains("  remedy "), "{words}");
        assert!(words.lines().all(|line| line.chars().count() <= 80), "{words}");
        assert!(letters == "-" || letters.chars().all(|letter| letter.is_ascii_uppercase()), "{letters}");
    }
}
