//! A mesh in which everything has happened that a dashboard shows: two versions of a shop, a greeter in gRPC and a store
//! in TCP, all behind sidecars with mTLS; served, tried again, failed on purpose, denied, timed out, refused, ejected.

use leno_tests::exposition::{Sample, samples};
use leno_tests::scripted::{Fleet, Manner, RUN, SCRIPT, Upstream};
use leno_tests::{Call, Connection, Mesh, Protocol, eventually, free_port, full, mesh, metric, raw};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

/// What is well: a few requests of each kind.
const HEALTHY: usize = 30;
/// What is not: of each kind so many, which is far more than any budget for errors.
const SICK: usize = 20;

pub(super) struct Scene {
    pub(super) mesh: Mesh,
    store: u16,
    // They serve while the scene is there.
    _apps: (Fleet, Vec<Upstream>, raw::Server),
}

/// The rules: what each path of the shop stands for.
const RULES: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec:
  selector: {matchLabels: {app: shop}}
  action: DENY
  rules: [{to: [{operation: {paths: [/admin]}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop]
  http:
  - match: [{uri: {exact: /fault}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 503}}
    route: [{destination: {host: shop}}]
  - match: [{uri: {exact: /delay}}]
    fault: {delay: {percentage: {value: 100}, fixedDelay: 0.01s}}
    route: [{destination: {host: shop}}]
  - match: [{uri: {exact: /slow}}]
    timeout: 0.05s
    route: [{destination: {host: shop}}]
  - retries: {attempts: 2, retryOn: '5xx,connect-failure,reset', backoff: 1ms}
    route: [{destination: {host: shop}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: narrow-limits, namespace: default}
spec: {host: narrow, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 1, maxRetries: 1}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: flaky-ejection, namespace: default}
spec:
  host: flaky
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 300s, maxEjectionPercent: 100}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: flaky, namespace: default}
spec: {hosts: [flaky], http: [{retries: {attempts: 0}, route: [{destination: {host: flaky}}]}]}
";

impl Scene {
    pub(super) async fn start() -> Self {
        let (fleet, bytes, store) = (Fleet::new(), raw::Server::echo().await, free_port());
        let mut servers = Vec::new();
        for name in ["shop-v1", "shop-v2", "greeter", "narrow", "flaky"] {
            servers.push(fleet.server(name, Manner::Obeys).await);
        }
        let [v1, v2, greeter, narrow, flaky] = [0, 1, 2, 3, 4].map(|at: usize| servers[at].address());
        let mesh = mesh()
            .encrypted()
            .service("shop", &[("v1", v1), ("v2", v2)])
            .service_on("greeter", (80, "grpc", "GRPC"), &[("v1", greeter)])
            .service("narrow", &[("v1", narrow)])
            .service("flaky", &[("v1", flaky)])
            .service_on("store", (store, "tcp", "TCP"), &[("v1", bytes.address())])
            .rules(RULES)
            .start()
            .await;
        Self { mesh, store, _apps: (fleet, servers, bytes) }
    }

    /// Requests that all end well, of every protocol.
    pub(super) async fn is_used(&self) {
        let through = self.mesh.outbound();
        for protocol in Protocol::ALL {
            let mut connection = Connection::open(through, protocol).await;
            for at in 0..HEALTHY {
                let path = if at % 10 == 0 { "/delay" } else { "/" };
                let call = Call::new(http::Method::POST, &format!("http://shop{path}")).body(full("a question"));
                assert_eq!(connection.send(call.over(protocol)).await.status, 200);
            }
        }
        let mut connection = Connection::open(through, Protocol::Http2).await;
        for _ in 0..HEALTHY {
            let reply = connection.send(grpc("grpc-late=0")).await;
            assert_eq!(reply.status, 200, "{}", reply.header("x-leno-error"));
        }
        let mut stream = raw::connect(([127, 0, 0, 1], self.store).into()).await;
        assert_eq!(raw::round_trip(&mut stream, b"some bytes").await, b"some bytes");
        stream.shutdown().await.expect("the caller may leave");
    }

    /// Everything that can go wrong, and is to be seen.
    pub(super) async fn falls_ill(&self) {
        let through = self.mesh.outbound();
        let reply = grpc("grpc-late=14").send(through).await;
        assert_eq!(reply.status, 200);
        let mut connection = Connection::open(through, Protocol::Http1).await;
        for at in 0..SICK {
            let run = at.to_string();
            for (path, script, status) in [
                ("/", "503; 200", 200),
                ("/", "500", 500),
                ("/fault", "200", 503),
                ("/admin", "200", 403),
                ("/slow", "200 after=500", 504),
            ] {
                let call = Call::get(&format!("http://shop{path}")).header(RUN, &format!("{run}{path}{script}"));
                assert_eq!(connection.send(call.header(SCRIPT, script)).await.status, status, "{path} {script}");
            }
            let call = Call::get("http://flaky/").header(RUN, "flaky").header(SCRIPT, "500");
            assert!(connection.send(call).await.status >= 500);
        }
        self.overflows().await;
        self.is_observed("an ejection", "leno_cluster_ejections_active", &[]).await;
    }

    /// More at once than the cluster's limit: who is refused has to be more than nobody.
    async fn overflows(&self) {
        let through = self.mesh.outbound();
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            let call = Call::get("http://narrow/").header(SCRIPT, "200 after=500");
            calls.spawn(async move { call.send(through).await.status });
        }
        let statuses = calls.join_all().await;
        assert!(statuses.contains(&503), "{statuses:?}");
    }

    async fn is_observed(&self, what: &str, name: &str, labels: &[&str]) {
        eventually(&format!("{what} is counted"), async || {
            let metrics = self.mesh.client.metrics().await;
            if metric(&metrics, name, labels) > 0.0 { Ok(()) } else { Err(metrics) }
        })
        .await;
    }

    /// Where the sidecars and the control plane are scraped.
    pub(super) async fn targets(&self) -> (Vec<String>, String) {
        let mut proxies = vec![self.mesh.client.admin().await.to_string()];
        for peer in &self.mesh.peers {
            proxies.push(peer.admin().await.to_string());
        }
        let control_plane = self.mesh.control_plane.as_ref().expect("this mesh has a control plane");
        (proxies, control_plane.http().to_string())
    }

    /// All that all programs emit now, with the labels that Prometheus adds.
    pub(super) async fn samples(&self) -> Vec<Sample> {
        let mut all = Vec::new();
        for (job, text) in self.texts().await {
            for mut sample in samples(&text) {
                sample.labels.insert("job".to_owned(), job.to_owned());
                sample.labels.insert("instance".to_owned(), "some".to_owned());
                all.push(sample);
            }
        }
        all
    }

    /// What each program says, by its job.
    pub(super) async fn texts(&self) -> Vec<(&'static str, String)> {
        let mut texts = vec![("leno-proxy", self.mesh.client.metrics().await)];
        for peer in &self.mesh.peers {
            texts.push(("leno-proxy", peer.metrics().await));
        }
        let control_plane = self.mesh.control_plane.as_ref().expect("this mesh has a control plane");
        texts.push(("leno-control-plane", control_plane.metrics().await));
        texts
    }
}

fn grpc(script: &str) -> Call {
    let message = full(&[0, 0, 0, 0, 2, 1, 2][..]);
    let call = Call::new(http::Method::POST, "http://greeter/leno.Greeter/Hello").over(Protocol::Http2);
    call.header("content-type", "application/grpc").header("te", "trailers").header(SCRIPT, script).body(message)
}
