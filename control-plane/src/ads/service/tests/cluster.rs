//! From an event of the API server to a proxy: kube's own client and watchers, our sources, a stream over a real socket.

use std::collections::HashMap;
use std::convert::Infallible;

use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use leno_proxy::rule_files::QUIET;
use serde_json::{Value as Json, json};
use tokio::sync::broadcast;

use super::*;
use crate::board::Board;
use crate::ca::{Authority, Settings};
use crate::follow::{Sources, follow};
use crate::source::kubernetes::Cluster;
use crate::source::{Accepted, Source};

const SERVICES: usize = 1000;

type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// As much of an API server as watches need: lists by path, and events as they are sent.
#[derive(Clone)]
struct Api {
    lists: Arc<HashMap<&'static str, Vec<Json>>>,
    events: broadcast::Sender<(&'static str, Json)>,
}

impl Api {
    /// Waits until every kind that is there has its watch.
    async fn is_watched(&self) {
        let watched = async {
            while self.events.receiver_count() < self.lists.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), watched).await.expect("all watches begin");
    }

    /// An object of a list is another now.
    fn changes(&self, list: &'static str, object: &Json) {
        self.events.send((list, json!({ "type": "MODIFIED", "object": object }))).unwrap();
    }

    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let answer = api.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        kube::Client::new(service, "default")
    }

    fn answer(&self, request: &http::Request<Body>) -> http::Response<Answer> {
        let path = request.uri().path();
        let Some((path, items)) = self.lists.get_key_value(path) else {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": "the server could not find the requested resource", "code": 404 });
            return respond(404, status.to_string());
        };
        if !request.uri().query().unwrap_or_default().contains("watch=true") {
            let list =
                json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": items });
            return respond(200, list.to_string());
        }
        let path = *path;
        let events = futures_util::stream::unfold(self.events.subscribe(), |mut events| async move {
            let next = events.recv().await.ok()?;
            Some((next, events))
        });
        let lines = events.filter_map(move |(of, event)| async move {
            let line = Bytes::from(format!("{event}\n"));
            (of == path).then(|| Ok::<_, Infallible>(http_body::Frame::data(line)))
        });
        http::Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

fn respond(status: u16, text: String) -> http::Response<Answer> {
    http::Response::builder().status(status).body(Full::new(Bytes::from(text)).boxed_unsync()).unwrap()
}

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const SERVICE_LIST: &str = "/api/v1/services";

fn service(number: usize, port: usize) -> Json {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": format!("s{number}"), "namespace": "default", "resourceVersion": "2" },
        "spec": { "clusterIP": "10.96.0.1", "ports": [{ "name": "http", "port": port, "targetPort": 8080 }] },
    })
}

fn slice(number: usize, address: &str) -> Json {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": format!("s{number}-x"), "namespace": "default", "resourceVersion": "2",
            "labels": { "kubernetes.io/service-name": format!("s{number}") } },
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true },
            "targetRef": { "kind": "Pod", "name": format!("p{number}"), "namespace": "default" } }],
    })
}

fn api() -> Api {
    let pod = |number| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": format!("p{number}"), "namespace": "default" },
            "spec": { "nodeName": "n1", "serviceAccountName": "web", "containers": [{ "name": "leno-proxy" }] } })
    };
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1",
        "labels": { "topology.kubernetes.io/zone": "z1" } }, "spec": {} });
    let address = |number: usize| format!("10.0.{}.{}", number / 200, number % 200 + 1);
    let lists = HashMap::from([
        (SERVICE_LIST, (0..SERVICES).map(|number| service(number, 80)).collect()),
        ("/api/v1/pods", (0..SERVICES).map(pod).collect()),
        ("/api/v1/nodes", vec![node]),
        ("/api/v1/namespaces", Vec::new()),
        (SLICES, (0..SERVICES).map(|number| slice(number, &address(number))).collect()),
    ]);
    Api { lists: Arc::new(lists), events: broadcast::channel(64).0 }
}

/// A control plane that follows this API server.
fn serve(api: &Api, hub: &Arc<Hub>) -> tokio::task::JoinHandle<()> {
    let settings = Settings {
        state: None,
        operator: None,
        life: Duration::from_secs(3600),
        names: Vec::new(),
        external: Vec::new(),
    };
    let authority = Authority::open(settings, hub.metrics().ca.clone(), std::time::SystemTime::now()).unwrap();
    let cluster = Cluster::watch(&api.client(), hub.metrics().kubernetes.clone());
    let accepted = Accepted::open(&[Source::Kubernetes], None);
    let sources =
        Sources { files: None, cluster: Some(cluster), accepted, standings: tokio::sync::watch::Sender::default() };
    let (hub, board) = (Arc::clone(hub), Board::new(Arc::clone(hub), Arc::clone(&authority)));
    tokio::spawn(async move { follow(sources, &hub, &board, &authority).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_change_among_a_thousand_services_reaches_a_proxy_alone_and_at_once() {
    let running = Running::start().await;
    let api = api();
    let following = serve(&api, &running.hub);
    let mut proxy = running.proxy("client").await;
    proxy.asks(Kind::Cluster, &[]).await;
    let clusters = proxy.takes(Kind::Cluster).await;
    let all = names(&clusters).into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert!(all.len() >= SERVICES, "{}", all.len());
    proxy.asks(Kind::Endpoints, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let endpoints = proxy.takes(Kind::Endpoints).await;
    let first = String::from_utf8_lossy(&endpoints.resources[0].resource.as_ref().unwrap().value).into_owned();
    assert!(first.contains("spiffe://cluster.local/ns/default/sa/web"), "the pod's identity: {first}");
    assert!(first.contains("z1"), "the node's zone: {first}");

    api.is_watched().await;
    let mut took = Vec::new();
    for round in 0..20_usize {
        let number = round * 37 % SERVICES;
        let sent = Instant::now();
        api.changes(SLICES, &slice(number, &format!("10.9.9.{}", round + 1)));
        let pushed = proxy.takes(Kind::Endpoints).await;
        took.push(sent.elapsed());
        assert_eq!(names(&pushed), [format!("outbound|80||s{number}.default.svc.cluster.local")], "and nothing else");
    }
    took.sort();
    println!(
        "from the API server's event to the endpoints at the proxy, {SERVICES} services: median {:.1} ms, slowest {:.1} ms",
        took[took.len() / 2].as_secs_f64() * 1e3,
        took[took.len() - 1].as_secs_f64() * 1e3
    );
    running.hub.stop();
    following.abort();
}

/// What is written waits for what else is written; what runs elsewhere does not wait with it. Both arrive over watches of
/// their own, one of which may be late on a busy machine: but if endpoints waited, they would never be the first, because
/// clusters go out before endpoints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_change_overtakes_an_edit_that_waits_for_quiet() {
    const ROUNDS: usize = 20;
    let running = Running::start().await;
    let api = api();
    let following = serve(&api, &running.hub);
    let mut proxy = running.proxy("client").await;
    proxy.asks(Kind::Cluster, &[]).await;
    proxy.takes(Kind::Cluster).await;
    let moving = "outbound|80||s5.default.svc.cluster.local";
    proxy.asks(Kind::Endpoints, &[moving]).await;
    proxy.takes(Kind::Endpoints).await;
    api.is_watched().await;
    let mut overtook = false;
    for round in 1..=ROUNDS {
        let written = Instant::now();
        api.changes(SERVICE_LIST, &service(1, 8000 + round));
        api.changes(SLICES, &slice(5, &format!("10.9.9.{round}")));
        let edited = format!("outbound|{}||s1.default.svc.cluster.local", 8000 + round);
        let (mut has_moved, mut has_changed) = (false, false);
        while !(has_moved && has_changed) {
            let response = proxy.hears().await.unwrap().unwrap();
            proxy.answers(&response, None).await;
            let names = names(&response);
            if response.type_url == Kind::Endpoints.url() && names.contains(&moving) {
                has_moved = true;
                overtook |= !has_changed;
            }
            if response.type_url == Kind::Cluster.url() && names.contains(&edited.as_str()) {
                has_changed = true;
                assert!(written.elapsed() >= QUIET, "an edit waits for others: {:?}", written.elapsed());
            }
        }
        if overtook {
            println!("endpoints overtook the edit in round {round}");
            break;
        }
    }
    assert!(overtook, "in {ROUNDS} rounds, endpoints always came after the edit that was written just before");
    running.hub.stop();
    following.abort();
}
