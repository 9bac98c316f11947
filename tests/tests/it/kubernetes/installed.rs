//! A cluster into which Leno was installed by its own manifests: one control plane that runs as the service account which
//! they make, with no more rights than they give it, an app in two versions, and a sidecar that calls the app.
//!
//! Pods are processes of this machine: what the kubelet and the endpoints' controller would write of them, the test does.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use leno_tests::api_server::ApiServer;
use leno_tests::{Call, Origin, Proxy, eventually, eventually_within, free_port, full, run_leno};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::replica::Replica;

/// After an outage, kube-rs asks again with a delay that grows to 30 s.
pub(super) const AFTER_OUTAGE: Duration = Duration::from_secs(120);

/// Where the app is called.
pub(super) const REVIEWS: &str = "http://reviews.shop/";

/// The service account of the control plane.
pub(super) const ACCOUNT: &str = "system:serviceaccount:leno-system:leno";

/// See the module.
pub(super) struct Installed {
    pub(super) server: ApiServer,
    pub(super) plane: Option<Replica>,
    pub(super) proxy: Proxy,
    pub(super) outbound: SocketAddr,
    pub(super) kubeconfig: PathBuf,
    /// Version 1 and version 2.
    pub(super) versions: [Origin; 2],
    // Last: the processes write into it until they end.
    pub(super) directory: TempDir,
}

impl Installed {
    /// Waits until calls are answered.
    pub(super) async fn start() -> Self {
        let directory = TempDir::with_prefix("leno-test-").unwrap();
        let server = ApiServer::builder().allow_loopback_endpoints().start();
        for object in printed(&["install", "--offline"]) {
            server.apply(object).await;
        }
        server.authorize();
        let kubeconfig = server.kubeconfig_of("leno-system", "leno").await;
        let outbound = free_port();
        let versions = [app("v1", 11).await, app("v2", 12).await];
        server.namespace("shop", &[("leno.mesh/inject", "enabled")]).await;
        service(&server, "shop", "reviews", 80).await;
        for (version, reviews) in ["v1", "v2"].into_iter().zip(&versions) {
            run(&server, "shop", "reviews", version, reviews.address()).await;
        }
        server.apply(listens("default", outbound)).await;
        let plane = Replica::start(directory.path(), "leno-0", &kubeconfig, None).await;
        let proxy = sidecar(&server, &directory, &plane).await;
        proxy.ready(outbound).await;
        let outbound = SocketAddr::from(([127, 0, 0, 1], outbound));
        let installed = Self { server, plane: Some(plane), proxy, outbound, kubeconfig, versions, directory };
        installed.answers(REVIEWS, &["v1", "v2"]).await;
        installed
    }

    /// The control plane that runs.
    pub(super) fn plane(&self) -> &Replica {
        self.plane.as_ref().expect("the control plane runs")
    }

    /// Waits until twenty calls in a row are answered by these and nobody else, each of them at least once.
    pub(super) async fn answers(&self, url: &str, by: &[&str]) {
        eventually_within(AFTER_OUTAGE, &format!("{url} is answered by {by:?}"), async || {
            let mut heard = std::collections::BTreeSet::new();
            for _ in 0..20 {
                let reply = Call::get(url).try_send(self.outbound).await?;
                heard.insert(if reply.status == 200 { reply.text() } else { reply.status.to_string() });
            }
            if heard.iter().map(String::as_str).eq(by.iter().copied()) { Ok(()) } else { Err(format!("{heard:?}")) }
        })
        .await;
    }

    /// A condition of a rule, when it is so.
    pub(super) async fn condition(&self, rule: &Value, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually_within(AFTER_OUTAGE, &format!("{name} of {}", rule["metadata"]["name"]), async || {
            let condition = self.condition_now(rule, name)?;
            if is(&condition) { Ok(condition) } else { Err(condition.to_string()) }
        })
        .await
    }

    /// The same at this moment, if it speaks of the rule as it is.
    pub(super) fn condition_now(&self, rule: &Value, name: &str) -> Result<Value, String> {
        let found = self.stored(rule);
        let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
        let condition = conditions.into_iter().find(|condition| condition["type"] == name);
        let condition = condition.ok_or_else(|| format!("there is none: {found}"))?;
        let is_of_now = condition["observedGeneration"] == found["metadata"]["generation"];
        if is_of_now { Ok(condition.clone()) } else { Err(format!("it is of an earlier one: {condition}")) }
    }

    /// A rule as it is stored.
    pub(super) fn stored(&self, rule: &Value) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text(&rule["metadata"]["namespace"]), text(&rule["metadata"]["name"]));
        self.server.get(&text(&rule["apiVersion"]), &text(&rule["kind"]), &namespace, &name).unwrap_or_default()
    }

    /// Calls the app over and over until it is told to stop.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic::start(self.outbound)
    }
}

/// Somebody who calls the app all the time, each time over a connection of his own.
pub(super) struct Traffic {
    stop: oneshot::Sender<()>,
    calls: Arc<AtomicUsize>,
    task: JoinHandle<Vec<String>>,
}

impl Traffic {
    fn start(outbound: SocketAddr) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let calls = Arc::new(AtomicUsize::new(0));
        let made = Arc::clone(&calls);
        let task = tokio::spawn(async move {
            let mut failures = Vec::new();
            while matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                match Call::get(REVIEWS).try_send(outbound).await {
                    Ok(reply) if reply.status == 200 => {}
                    Ok(reply) => failures.push(format!("{} {}", reply.status, reply.text())),
                    Err(why) => failures.push(why),
                }
                made.fetch_add(1, Ordering::Relaxed);
                // A pace, so that the other tests of this machine go on too.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            failures
        });
        Self { stop, calls, task }
    }

    /// Waits until more calls were answered.
    pub(super) async fn goes_on(&self) {
        let before = self.calls.load(Ordering::Relaxed);
        eventually("calls go on", async || {
            let now = self.calls.load(Ordering::Relaxed);
            if now > before + 10 { Ok(()) } else { Err(format!("{now} after {before}")) }
        })
        .await;
    }

    /// Ends it; every call was answered.
    pub(super) async fn was_answered(self) {
        let _ = self.stop.send(());
        let failures = self.task.await.unwrap();
        let calls = self.calls.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {calls} calls failed: {:?}", failures.len(), failures.first());
        println!("{calls} calls, all answered");
    }
}

/// An app that answers with its name, on an address of its own: 127.0.0.`last`.
pub(super) async fn app(name: &'static str, last: u8) -> Origin {
    Origin::answering_at(Ipv4Addr::new(127, 0, 0, last), move |_| http::Response::new(full(name))).await
}

/// The objects that `leno` prints.
pub(super) fn printed(arguments: &[&str]) -> Vec<Value> {
    let outcome = run_leno(arguments, "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    objects(&outcome.stdout)
}

/// The objects of a YAML text.
pub(super) fn objects(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let objects = documents.map(|document| Value::deserialize(document).expect("a document is YAML"));
    objects.filter(|object| !object.is_null()).collect()
}

/// Lets the API server reach the webhooks, and waits until the leader has said whom to believe there.
pub(super) async fn webhooks_work(server: &ApiServer, plane: &Replica) {
    server.route_service("leno-system", "leno", 443, plane.webhook);
    for (kind, name) in
        [("MutatingWebhookConfiguration", "leno-injector"), ("ValidatingWebhookConfiguration", "leno-validator")]
    {
        eventually(&format!("the authority of {name} is known"), async || {
            let now = server.get("admissionregistration.k8s.io/v1", kind, "", name).unwrap_or_default();
            let all = now["webhooks"].as_array().cloned().unwrap_or_default();
            let is_known = |webhook: &Value| webhook["clientConfig"]["caBundle"].is_string();
            if !all.is_empty() && all.iter().all(is_known) { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
    }
}

/// A Service of a port.
pub(super) async fn service(server: &ApiServer, namespace: &str, name: &str, port: u16) {
    let metadata = json!({"name": name, "namespace": namespace});
    let spec = json!({"selector": {"app": name}, "ports": [{"name": "http", "port": port}]});
    server.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})).await;
}

/// A pod that is a process of this machine, and the slice that leads to it.
pub(super) async fn run(server: &ApiServer, namespace: &str, app: &str, version: &str, address: SocketAddr) {
    let name = format!("{app}-{version}");
    // Nobody runs a sidecar in it.
    let labels = json!({"app": app, "version": version, "leno.mesh/inject": "disabled"});
    let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
    let status = json!({
        "phase": "Running",
        "podIP": address.ip().to_string(),
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    let spec = json!({"containers": [{"name": "app", "image": "app:1"}]});
    server
        .apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}))
        .await;
    server.apply(slice(namespace, app, version, Some(address))).await;
}

/// The slice of a version of an app; without an address it has no endpoints.
pub(super) fn slice(namespace: &str, app: &str, version: &str, address: Option<SocketAddr>) -> Value {
    let name = format!("{app}-{version}");
    let endpoint = |address: SocketAddr| {
        json!({
            "addresses": [address.ip().to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": name},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": app}},
        "addressType": "IPv4",
        "endpoints": address.map(endpoint).into_iter().collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": address.map_or(1, |address| address.port())}],
    })
}

/// A rule.
pub(super) fn rule(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    let group = match kind {
        "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => "security.istio.io/v1",
        "MeshConfig" | "HealthCheck" | "RateLimit" => "leno.mesh/v1alpha1",
        _ => "networking.istio.io/v1",
    };
    let metadata = json!({"name": name, "namespace": namespace});
    json!({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec})
}

/// The VirtualService that sends all requests to one version.
pub(super) fn all_to(version: &str) -> Value {
    let route = json!([{"destination": {"host": "reviews", "subset": version}}]);
    rule("VirtualService", "shop", "reviews", json!({"hosts": ["reviews"], "http": [{"route": route}]}))
}

/// The DestinationRule with both versions.
pub(super) fn subsets() -> Value {
    let subset = |name: &str| json!({"name": name, "labels": {"version": name}});
    rule("DestinationRule", "shop", "reviews", json!({"host": "reviews", "subsets": [subset("v1"), subset("v2")]}))
}

/// The Sidecar by which the proxies of a namespace listen on this port, without capture.
fn listens(namespace: &str, port: u16) -> Value {
    let listener = json!({
        "port": {"number": port, "protocol": "HTTP", "name": "http"}, "bind": "127.0.0.1", "captureMode": "NONE",
        "hosts": ["*/*"],
    });
    rule("Sidecar", namespace, "client", json!({"egress": [listener]}))
}

/// A sidecar with what the injector gives one: the root of its mesh and a token of its pod.
async fn sidecar(server: &ApiServer, directory: &TempDir, plane: &Replica) -> Proxy {
    let metadata = json!({"name": "client", "namespace": "default"});
    server.create(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})).await;
    let spec = json!({"serviceAccountName": "client", "containers": [{"name": "app", "image": "app:1"}]});
    let pod = server.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
    let (token, root) = (directory.path().join("token"), directory.path().join("root.pem"));
    std::fs::write(&token, server.token_of("default", "client", &["istio-ca"], Some(&pod)).await).unwrap();
    let text = eventually("the root is in the namespace", async || {
        let map = server.get("v1", "ConfigMap", "shop", "leno-ca-root-cert");
        let text = map.as_ref().and_then(|map| map["data"]["root-cert.pem"].as_str());
        text.map(str::to_owned).ok_or(format!("{map:?}"))
    })
    .await;
    std::fs::write(&root, text).unwrap();
    let plane = json!({"address": format!("https://{}", plane.tls), "root": root, "token": token});
    Proxy::with(directory.path(), "client", &[("control_plane", plane)])
}
