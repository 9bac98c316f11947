//! A deployment is replaced pod by pod under load, and not one request is lost.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use leno_tests::{ControlPlane, Process, Proxy, eventually, free_port, skip, workspace};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::Load;

/// Pods of the deployment.
const REPLICAS: usize = 3;
/// Requests between two steps, so that each of them happens under load.
const MEANWHILE: usize = 50;

/// In which order a pod goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Native sidecar: the app's containers end first, then the sidecar is told.
    AppThenProxy,
    /// Older form, and an app with a preStop hook: both are told while peers still send.
    ProxyThenApp,
}

/// An app and its sidecar, two processes.
struct Pod {
    name: String,
    inbound: u16,
    app: Process,
    proxy: Proxy,
    /// A line for each request that the app has answered.
    served: PathBuf,
}

/// The control plane, the pods that are there and those that were.
struct Deployment {
    control_plane: ControlPlane,
    client: Proxy,
    outbound: u16,
    pods: Vec<Pod>,
    gone: Vec<PathBuf>,
    started: usize,
    // Last: the processes write into it until they end.
    directory: TempDir,
}

fn document(kind: &str, name: &str, spec: Value) -> String {
    let metadata = json!({"name": name, "namespace": "default"});
    format!("{:#}\n", json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}))
}

impl Deployment {
    async fn start() -> Self {
        let directory = TempDir::with_prefix("leno-test-").expect("cannot create a directory");
        let rules = directory.path().join("rules");
        std::fs::create_dir_all(&rules).expect("cannot create a directory");
        let outbound = free_port();
        let egress = json!([{
            "port": {"number": outbound, "protocol": "HTTP", "name": "http"},
            "bind": "127.0.0.1", "captureMode": "NONE", "hosts": ["*/*"],
        }]);
        let client = json!({"workloadSelector": {"labels": {"app": "client"}}, "egress": egress});
        std::fs::write(rules.join("client.yaml"), document("Sidecar", "client", client)).expect("written");
        std::fs::write(rules.join("endpoints.yaml"), endpoints(&[])).expect("written");
        let control_plane = ControlPlane::start(directory.path(), &rules, &[]).await;
        let way = control_plane.way("client", &directory.path().join("client.token"));
        let client = Proxy::with(directory.path(), "client", &[("control_plane", way)]);
        client.ready(outbound).await;
        let (pods, gone) = (Vec::new(), Vec::new());
        let mut deployment = Self { control_plane, client, outbound, pods, gone, started: 0, directory };
        for _ in 0..REPLICAS {
            deployment.add().await;
        }
        deployment
    }

    /// A new pod: it gets requests once it is ready.
    async fn add(&mut self) {
        self.started += 1;
        let (name, inbound, port) = (format!("shop-{}", self.started), free_port(), free_port());
        let served = self.directory.path().join(format!("{name}.served"));
        let mut command = Command::new("python3");
        command.arg(workspace().join("tests/python/numbered_app.py")).arg(port.to_string()).arg(&served);
        let app = Process::start(&name, &mut command, &self.directory.path().join(format!("{name}.log")));
        let sidecar = json!({
            "workloadSelector": {"labels": {"app": name}},
            "ingress": [{
                "port": {"number": inbound, "protocol": "HTTP", "name": "http"},
                "bind": "127.0.0.1", "defaultEndpoint": format!("127.0.0.1:{port}"),
            }],
            "egress": [{
                "port": {"number": free_port(), "protocol": "HTTP", "name": "http"},
                "bind": "127.0.0.1", "captureMode": "NONE", "hosts": ["./*"],
            }],
        });
        let rules = self.directory.path().join("rules");
        std::fs::write(rules.join(format!("{name}.yaml")), document("Sidecar", &name, sidecar)).expect("written");
        let way = self.control_plane.way(&name, &self.directory.path().join(format!("{name}.token")));
        let proxy = Proxy::with(self.directory.path(), &name, &[("control_plane", way), ("drain", json!("10m"))]);
        proxy.ready(inbound).await;
        eventually("the app listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        self.pods.push(Pod { name, inbound, app, proxy, served });
        self.publish();
        let added = self.pods.last().map_or(0, |pod| pod.inbound);
        self.client_knows(&format!("127.0.0.1:{added}"), true).await;
    }

    /// The oldest pod goes, its app only when the requests have been answered for which a worker of the client's sidecar
    /// chose it before it heard.
    async fn remove(&mut self, order: Order, load: &Load) {
        let mut pod = self.pods.remove(0);
        let address = format!("127.0.0.1:{}", pod.inbound);
        self.publish();
        match order {
            Order::AppThenProxy => {
                self.client_knows(&address, false).await;
                load.flows(MEANWHILE).await;
                pod.app.terminate();
                pod.app.ended().await;
                pod.proxy.process.terminate();
            }
            Order::ProxyThenApp => {
                pod.proxy.process.terminate();
                self.client_knows(&address, false).await;
                pod.proxy.process.must_be_running();
                load.flows(MEANWHILE).await;
                pod.app.terminate();
            }
        }
        let (status, _) = pod.proxy.process.ended().await;
        assert!(status.success(), "{}: {status}", pod.name);
        let log = pod.proxy.process.log();
        assert!(!log.contains("are cut"), "{}: {log}", pod.name);
        self.gone.push(pod.served);
    }

    /// Tells the endpoints that take requests.
    fn publish(&self) {
        let rules = self.directory.path().join("rules");
        let scratch = self.directory.path().join("endpoints.new");
        std::fs::write(&scratch, endpoints(&self.pods)).expect("written");
        std::fs::rename(scratch, rules.join("endpoints.yaml")).expect("renamed");
    }

    async fn client_knows(&self, address: &str, known: bool) {
        eventually(&format!("the client's sidecar knows {address}: {known}"), async || {
            let clusters = self.client.clusters().await;
            if clusters.contains(address) == known { Ok(()) } else { Err(clusters) }
        })
        .await;
    }

    /// How often each number was served, by the apps' own books.
    fn served(&self) -> BTreeMap<usize, usize> {
        let mut served = BTreeMap::new();
        for book in self.pods.iter().map(|pod| &pod.served).chain(&self.gone) {
            let text = std::fs::read_to_string(book).unwrap_or_default();
            for number in text.lines().filter_map(|line| line.parse::<usize>().ok()) {
                *served.entry(number).or_default() += 1;
            }
        }
        served
    }
}

fn endpoints(pods: &[Pod]) -> String {
    let endpoint = |pod: &Pod| {
        json!({
            "address": "127.0.0.1", "ports": {"http": pod.inbound}, "serviceAccount": pod.name,
            "labels": {"app": pod.name, "security.istio.io/tlsMode": "istio"},
        })
    };
    let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    let hosts = json!(["shop.default.svc.cluster.local"]);
    let spec = json!({
        "hosts": hosts, "location": "MESH_INTERNAL", "resolution": "STATIC", "ports": ports, "endpoints": endpoints,
    });
    document("ServiceEntry", "shop", spec)
}

/// Replaces every pod, and asks the callers and the apps what became of each request.
async fn rolls(order: Order) {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skip("a rolling restart", "(no `python3`: apt-get install python3)");
    }
    let mut deployment = Deployment::start().await;
    let through = ([127, 0, 0, 1], deployment.outbound).into();
    let load = Load::start(through, "http://shop/", 4);
    for _ in 0..REPLICAS {
        load.flows(MEANWHILE).await;
        deployment.add().await;
        load.flows(MEANWHILE).await;
        deployment.remove(order, &load).await;
    }
    load.flows(MEANWHILE).await;
    let totals = load.stop().await;
    totals.must_be_flawless();
    let served = deployment.served();
    let lost: Vec<_> = totals.numbers.iter().filter(|number| !served.contains_key(number)).collect();
    assert!(lost.is_empty(), "answered and never served: {lost:?}");
    let doubled: Vec<_> = served.iter().filter(|(_, times)| **times != 1).collect();
    assert!(doubled.is_empty(), "served more than once: {doubled:?}");
    let used = totals.by_body.len();
    assert!(used > REPLICAS, "only {used} pods have served: {:?}", totals.by_body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_sidecars_end_after_their_apps() {
    rolls(Order::AppThenProxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_sidecars_end_while_peers_still_send() {
    rolls(Order::ProxyThenApp).await;
}
