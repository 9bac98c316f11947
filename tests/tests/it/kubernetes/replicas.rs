//! Three control planes of one cluster: they agree, one of them writes, and none of them is missed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::Method;
use leno_tests::api_server::ApiServer;
use leno_tests::{Call, Origin, PATIENCE, Proxy, eventually, eventually_within, free_port, origin};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::replica::Replica;

/// The Lease of a leader that says nothing lasts so long after its last renewal.
const LEASE: Duration = Duration::from_secs(15);
/// So long a leader may go without a renewal; here it is what a busy machine may take for noticing, claiming and looking.
const RENEW: Duration = Duration::from_secs(10);

/// A cluster, its control planes, an app and a sidecar that calls it.
struct World {
    server: ApiServer,
    replicas: Vec<Replica>,
    proxy: Proxy,
    outbound: SocketAddr,
    _origin: Origin,
    // Last: the processes write into it until they end.
    _directory: TempDir,
}

impl World {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let (app, outbound) = (origin("shop").await, free_port());
        let rules = rules(directory.path(), app.address(), outbound);
        let server = ApiServer::start();
        server.namespace("leno-system", &[]).await;
        server.namespace("shop", &[("leno.mesh/inject", "enabled")]).await;
        let mut replicas = Vec::new();
        for name in ["leno-0", "leno-1", "leno-2"] {
            replicas.push(Replica::start(directory.path(), name, &server.kubeconfig(), Some(&rules)).await);
        }
        let proxy = proxy(directory.path(), &server, &replicas).await;
        proxy.ready(outbound).await;
        let outbound = SocketAddr::from(([127, 0, 0, 1], outbound));
        Self { server, replicas, proxy, outbound, _origin: app, _directory: directory }
    }

    /// The pod that holds the Lease.
    fn leader(&self) -> Result<String, String> {
        let lease = self.server.get("coordination.k8s.io/v1", "Lease", "leno-system", "leno-leader");
        let holder = lease.as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str());
        let (pod, _) = holder.and_then(|holder| holder.rsplit_once('_')).ok_or(format!("nobody leads: {lease:?}"))?;
        Ok(pod.to_owned())
    }

    fn take(&mut self, name: &str) -> Replica {
        let index = self.replicas.iter().position(|replica| replica.name == name).expect("a replica of this name");
        self.replicas.swap_remove(index)
    }

    /// The replica that serves the proxy.
    async fn serving(&self) -> String {
        eventually("a replica serves the proxy", async || {
            for replica in &self.replicas {
                if !replica.proxies().await?.is_empty() {
                    return Ok(replica.name.clone());
                }
            }
            Err("none of them does".to_owned())
        })
        .await
    }

    fn root_in(&self, namespace: &str) -> Result<String, String> {
        let map = self.server.get("v1", "ConfigMap", namespace, "leno-ca-root-cert");
        let text = map.as_ref().and_then(|map| map["data"]["root-cert.pem"].as_str());
        text.map(str::to_owned).ok_or(format!("no root in {namespace}: {map:?}"))
    }

    async fn calls_work(&self) {
        assert_eq!(Call::get("http://reviews.example/").send(self.outbound).await.status, 200);
    }
}

/// The rules that all three read: where the app is, and where the sidecar listens.
fn rules(directory: &Path, origin: SocketAddr, outbound: u16) -> PathBuf {
    let document = |kind: &str, name: &str, spec: Value| {
        let metadata = json!({"name": name, "namespace": "default"});
        json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}).to_string()
    };
    let port = origin.port();
    let entry = json!({
        "hosts": ["reviews.example"], "location": "MESH_EXTERNAL", "resolution": "STATIC",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "endpoints": [{"address": origin.ip().to_string(), "ports": {"http": port}}],
    });
    let listener = json!({
        "port": {"number": outbound, "protocol": "HTTP", "name": "http"}, "bind": "127.0.0.1", "captureMode": "NONE",
        "hosts": ["*/*"],
    });
    let documents =
        [document("ServiceEntry", "reviews", entry), document("Sidecar", "client", json!({"egress": [listener]}))];
    let rules = directory.join("rules");
    std::fs::create_dir_all(&rules).unwrap();
    std::fs::write(rules.join("rules.yaml"), documents.join("\n---\n")).unwrap();
    rules
}

/// A sidecar with what the injector gives one: all replicas, the root of its namespace and a token of its pod.
async fn proxy(directory: &Path, server: &ApiServer, replicas: &[Replica]) -> Proxy {
    let in_default = json!({"name": "client", "namespace": "default"});
    server.create(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": in_default})).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": in_default,
        "spec": {"serviceAccountName": "client", "containers": [{"name": "app", "image": "app"}]},
    });
    let pod = server.create(pod).await;
    let (token, root) = (directory.join("token"), directory.join("root.pem"));
    std::fs::write(&token, server.token_of("default", "client", &["istio-ca"], Some(&pod)).await).unwrap();
    let text = eventually("the root is in the namespace", async || {
        let map = server.get("v1", "ConfigMap", "shop", "leno-ca-root-cert");
        let text = map.as_ref().and_then(|map| map["data"]["root-cert.pem"].as_str());
        text.map(str::to_owned).ok_or(format!("{map:?}"))
    })
    .await;
    std::fs::write(&root, text).unwrap();
    let addresses: Vec<String> = replicas.iter().map(|replica| format!("https://{}", replica.tls)).collect();
    let plane = json!({"address": addresses.join(","), "root": root, "token": token});
    Proxy::with(directory, "client", &[("control_plane", plane)])
}

#[tokio::test]
async fn when_the_leader_dies_another_writes_and_no_proxy_notices() {
    let mut world = World::start().await;
    world.calls_work().await;
    let leader = eventually("somebody leads", async || world.leader()).await;
    let root = world.root_in("shop").unwrap();
    assert_eq!(root.matches("BEGIN CERTIFICATE").count(), 1, "all replicas have one root");

    let mut dead = world.take(&leader);
    dead.process.kill();
    let died = Instant::now();
    world.calls_work().await;
    let next = eventually_within(2 * (LEASE + RENEW), "another leads", async || {
        world.leader().and_then(|now| if now == leader { Err(format!("{now} does")) } else { Ok(now) })
    })
    .await;
    let without_leader = died.elapsed();
    println!("{next} leads {:.1} s after {leader} was killed", without_leader.as_secs_f64());
    assert!(without_leader <= LEASE + RENEW, "nobody led for {without_leader:?}");
    assert!(world.replicas.iter().any(|replica| replica.name == next), "{next} lives");
    world.server.namespace("late", &[("istio-injection", "enabled")]).await;
    let written = eventually("the new leader writes", async || world.root_in("late")).await;
    assert_eq!(written, root, "nobody made another root");
    world.calls_work().await;

    // A leader that is told to stop does not keep anybody waiting for the end of its Lease.
    let stopping = world.take(&next);
    stopping.process.terminate();
    eventually("the Lease is given on", async || {
        world.leader().and_then(|now| if now == next { Err(format!("{now} has it")) } else { Ok(()) })
    })
    .await;
    world.calls_work().await;
    world.proxy.process.must_be_running();
}

#[tokio::test]
async fn a_proxy_that_loses_its_replica_goes_to_another_and_is_sent_nothing_that_it_has() {
    let mut world = World::start().await;
    let first = world.serving().await;
    let serving = world.replicas.iter().find(|replica| replica.name == first).unwrap();
    let before = eventually("the proxy has taken all that it was sent", async || {
        let proxies = serving.proxies().await?;
        let types = proxies.first().and_then(|proxy| proxy["types"].as_object()).cloned().unwrap_or_default();
        let all = !types.is_empty() && types.values().all(|kind| kind["sent"] == kind["acked"]);
        if all { Ok(proxies) } else { Err(format!("{proxies:?}")) }
    })
    .await;
    let ports = std::fs::read(world.proxy.state().join("ports.json")).unwrap();
    let ports: Value = serde_json::from_slice(&ports).unwrap();
    let admin: SocketAddr = ports["admin"].as_str().unwrap().parse().unwrap();
    assert_eq!(Call::new(Method::POST, "http://localhost/logging?level=debug").send(admin).await.status, 200);
    let heard = world.proxy.process.log().len();
    let mut dead = world.take(&first);
    dead.process.kill();
    world.calls_work().await;
    let second = world.serving().await;
    let replica = world.replicas.iter().find(|replica| replica.name == second).unwrap();
    // What it holds is what the other replica would send, resource by resource, because versions are made of contents.
    eventually("both replicas mean the same", async || {
        let after = replica.proxies().await?;
        let versions = |proxies: &[Value]| proxies.first().map(|proxy| proxy["types"].clone()).unwrap_or_default();
        let acknowledged = |types: &Value| -> Vec<(String, Value)> {
            let types = types.as_object().into_iter().flatten();
            types.map(|(kind, state)| (kind.clone(), state["resources"].clone())).collect()
        };
        let (before, after) = (acknowledged(&versions(&before)), acknowledged(&versions(&after)));
        if before == after { Ok(()) } else { Err(format!("{before:?} and {after:?}")) }
    })
    .await;
    // The replica counts what it has sent before the proxy has written down that it took it.
    let news = eventually("the proxy says what the other replica sent", async || {
        let log = world.proxy.process.log();
        let news: Vec<String> =
            log[heard..].lines().filter(|line| line.contains("accepted a response")).map(str::to_owned).collect();
        if news.is_empty() { Err(log) } else { Ok(news) }
    })
    .await;
    assert!(news.iter().all(|line| line.contains("resources=0 removed=0")), "what it had was sent again: {news:#?}");
}

#[tokio::test]
async fn the_api_server_believes_the_webhooks_by_itself() {
    let world = World::start().await;
    for (replica, pod) in world.replicas.iter().zip(["one", "two", "three"]) {
        world.server.route_service("leno-system", "leno", 443, replica.webhook);
        if pod == "one" {
            register(&world.server).await;
        }
        let labels = json!({"name": pod, "namespace": "shop"});
        let spec = json!({"containers": [{"name": "app", "image": "app"}]});
        let made = world.server.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": labels, "spec": spec}));
        let made = tokio::time::timeout(PATIENCE, made).await.expect("an answer");
        assert!(
            made["metadata"]["annotations"]["leno.mesh/status"].is_string(),
            "{} did not inject: {made}",
            replica.name
        );
    }
}

/// Registers the injector as `leno install` does, without a bundle, and waits until the leader has put it there.
async fn register(server: &ApiServer) {
    let client = json!({"service": {"namespace": "leno-system", "name": "leno", "port": 443, "path": "/inject"}});
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]});
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "leno-injector"},
        "webhooks": [{
            "name": "namespace.inject.leno.mesh", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "reinvocationPolicy": "IfNeeded", "failurePolicy": "Fail", "timeoutSeconds": 10,
            "clientConfig": client, "rules": [rule],
            "namespaceSelector": {"matchLabels": {"leno.mesh/inject": "enabled"}},
        }],
    });
    server.create(configuration).await;
    eventually("the leader says whom to believe", async || {
        let kind = "MutatingWebhookConfiguration";
        let now = server.get("admissionregistration.k8s.io/v1", kind, "", "leno-injector").unwrap_or_default();
        match now["webhooks"][0]["clientConfig"]["caBundle"].as_str() {
            Some(_) => Ok(()),
            None => Err(now.to_string()),
        }
    })
    .await;
}
