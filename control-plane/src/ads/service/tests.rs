//! A real client over a real socket, in this process.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;

use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::{Value, value};
use leno_config::node::{Interception, Node};
use leno_config::rules::{SourceText, parse};
use leno_config::xds::{Dialect, Flavour};
use tonic::transport::{Channel, Server, server::TcpIncoming};

use super::*;
use crate::ca::bundle::Bundles;
use crate::metrics::Metrics;
use crate::snapshot::Shelf;

const MESH: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews.default.svc.cluster.local]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, labels: {version: v1}}, {address: 127.0.0.2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - route: [{destination: {host: reviews, subset: v1}, weight: 80}, {destination: {host: reviews, subset: v2}, weight: 20}]
";

fn generation(rules: &str) -> Arc<Generation> {
    let source = SourceText { name: "test.yaml".into(), text: rules.as_bytes().to_vec() };
    let parsed = parse(&[source]);
    assert!(parsed.diagnostics.iter().all(|finding| !finding.is_error()), "{:?}", parsed.diagnostics);
    Generation::new(&parsed.documents, Arc::default(), &Bundles::default(), Arc::new(Mutex::new(Shelf::default())))
}

fn node(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        ip: [127, 0, 0, 1].into(),
        namespace: "default".to_owned(),
        service_account: "default".to_owned(),
        workload: name.to_owned(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        locality: leno_config::ir::Locality::default(),
        interception: Interception::None,
    }
}

mod counts;
mod world;

/// A server on a free port.
struct Running {
    hub: Arc<Hub>,
    address: SocketAddr,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Running {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hub = Hub::new(Metrics::new().unwrap());
        let stop = Arc::clone(&hub);
        let server = Server::builder()
            .add_service(Discovery::new(Arc::clone(&hub), Access::Open))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), async move { stop.stopped().await });
        Self { hub, address, server: tokio::spawn(server) }
    }

    async fn client(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap();
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn proxy(&self, name: &str) -> Proxy {
        let (requests, receiver) = mpsc::channel(16);
        let stream = ReceiverStream(receiver);
        let responses = self.client().await.delta_aggregated_resources(stream).await.unwrap().into_inner();
        Proxy { node: Some(xds::node_to_xds(&node(name))), requests, responses }
    }
}

/// tokio-stream has one too, in a crate that nothing else here needs.
struct ReceiverStream<T>(mpsc::Receiver<T>);

impl<T> tonic::codegen::tokio_stream::Stream for ReceiverStream<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}

/// One stream as a proxy holds it.
struct Proxy {
    node: Option<envoy_types::pb::envoy::config::core::v3::Node>,
    requests: mpsc::Sender<discovery::DeltaDiscoveryRequest>,
    responses: Streaming<discovery::DeltaDiscoveryResponse>,
}

impl Proxy {
    async fn asks(&mut self, kind: Kind, names: &[&str]) {
        let request = discovery::DeltaDiscoveryRequest {
            node: self.node.take(),
            type_url: kind.url().to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn answers(&mut self, response: &discovery::DeltaDiscoveryResponse, refusal: Option<&str>) {
        let error_detail = refusal.map(|text| envoy_types::pb::google::rpc::Status {
            code: 3,
            message: text.to_owned(),
            ..Default::default()
        });
        let request = discovery::DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn hears(&mut self) -> Result<Option<discovery::DeltaDiscoveryResponse>, Status> {
        tokio::time::timeout(Duration::from_secs(20), self.responses.message()).await.expect("an answer in time")
    }

    /// The next response, acknowledged.
    async fn takes(&mut self, kind: Kind) -> discovery::DeltaDiscoveryResponse {
        let response = self.hears().await.unwrap().unwrap();
        assert_eq!(response.type_url, kind.url());
        self.answers(&response, None).await;
        response
    }
}

fn names(response: &discovery::DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

/// Everything a proxy needs to route to reviews; the routes last.
async fn in_sync(proxy: &mut Proxy) -> discovery::DeltaDiscoveryResponse {
    proxy.asks(Kind::Cluster, &[]).await;
    let clusters = proxy.takes(Kind::Cluster).await;
    assert!(names(&clusters).contains(&"outbound|9080|v1|reviews.default.svc.cluster.local"), "{:?}", names(&clusters));
    proxy.asks(Kind::Endpoints, &["outbound|9080|v1|reviews.default.svc.cluster.local"]).await;
    proxy.takes(Kind::Endpoints).await;
    proxy.asks(Kind::Listener, &[]).await;
    assert!(names(&proxy.takes(Kind::Listener).await).iter().any(|name| name.contains("15001")));
    proxy.asks(Kind::Route, &["15001"]).await;
    proxy.takes(Kind::Route).await
}

#[tokio::test]
async fn a_proxy_gets_its_mesh_and_a_changed_weight_is_one_route_resource() {
    let running = Running::start().await;
    let mut proxy = running.proxy("productpage").await;
    proxy.asks(Kind::Cluster, &[]).await;
    // Nothing is answered before there are rules; the subscription is not lost.
    running.hub.publish(generation(MESH));
    let clusters = proxy.takes(Kind::Cluster).await;
    assert!(!clusters.resources.is_empty());
    let mut proxy = running.proxy("ratings").await;
    let routes = in_sync(&mut proxy).await;
    running.hub.publish(generation(&MESH.replace("weight: 80", "weight: 70").replace("weight: 20", "weight: 30")));
    let pushed = proxy.hears().await.unwrap().unwrap();
    assert_eq!((pushed.type_url.as_str(), names(&pushed)), (Kind::Route.url(), vec!["15001"]));
    assert_ne!(pushed.resources[0].version, routes.resources[0].version);
    // A comment changes nothing; the next thing that is heard is the change after it.
    proxy.answers(&pushed, None).await;
    running.hub.publish(generation(
        &format!("# a comment\n{MESH}").replace("weight: 80", "weight: 70").replace("weight: 20", "weight: 30"),
    ));
    running.hub.publish(generation(MESH));
    let pushed = proxy.hears().await.unwrap().unwrap();
    assert_eq!(pushed.resources[0].version, routes.resources[0].version);
}

#[tokio::test]
async fn a_refusal_is_shown_until_it_is_repaired_and_a_proxy_that_leaves_is_forgotten() {
    let running = Running::start().await;
    running.hub.publish(generation(MESH));
    let mut proxy = running.proxy("productpage").await;
    proxy.asks(Kind::Cluster, &[]).await;
    let clusters = proxy.hears().await.unwrap().unwrap();
    proxy.answers(&clusters, Some("PassthroughCluster: lb_policy: not understood")).await;
    proxy.asks(Kind::Listener, &[]).await;
    proxy.hears().await.unwrap();
    let [stream] = &running.hub.streams()[..] else { panic!("one stream") };
    assert_eq!(stream.node.name, "productpage");
    let status = stream.session().status();
    assert_eq!(status[&Kind::Cluster].nack.as_deref(), Some("PassthroughCluster: lb_policy: not understood"));
    assert_eq!(running.counted("leno_control_plane_nacks_total{type=\"clusters\"}"), 1.0);
    drop(proxy);
    while !running.hub.streams().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.counted("pilot_xds"), 0.0);
}

#[tokio::test]
async fn unknown_types_and_methods_are_declined_politely() {
    let running = Running::start().await;
    running.hub.publish(generation(MESH));
    let mut proxy = running.proxy("productpage").await;
    let request = discovery::DeltaDiscoveryRequest {
        node: proxy.node.take(),
        type_url: "type.googleapis.com/istio.networking.nds.v1.NameTable".to_owned(),
        ..Default::default()
    };
    proxy.requests.send(request).await.unwrap();
    proxy.asks(Kind::Cluster, &[]).await;
    assert_eq!(proxy.hears().await.unwrap().unwrap().type_url, Kind::Cluster.url());
    let request = http::Request::post("/envoy.service.discovery.v3.AggregatedDiscoveryService/Fetch");
    let request = request.body(tonic::body::Body::empty()).unwrap();
    let answer = Discovery::new(Arc::clone(&running.hub), Access::Open).call(request).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12", "UNIMPLEMENTED");
}

#[tokio::test]
async fn a_stream_that_does_not_say_who_it_is_ends_with_the_reason() {
    let running = Running::start().await;
    let mut proxy = running.proxy("productpage").await;
    proxy.node = None;
    proxy.asks(Kind::Cluster, &[]).await;
    let status = proxy.hears().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("node"), "{status}");
}

#[tokio::test]
async fn stopping_ends_streams_with_a_status_and_the_server_with_them() {
    let running = Running::start().await;
    running.hub.publish(generation(MESH));
    let mut proxy = running.proxy("productpage").await;
    in_sync(&mut proxy).await;
    running.hub.stop();
    let status = proxy.hears().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    drop(proxy);
    tokio::time::timeout(Duration::from_secs(20), running.server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn proxies_of_one_scope_share_one_snapshot() {
    let running = Running::start().await;
    running.hub.publish(generation(MESH));
    let generation = running.hub.generations().borrow().clone().unwrap();
    let snapshot = |name: &'static str| {
        let generation = Arc::clone(&generation);
        async move { generation.snapshot(&node(name), &Dialect::Envoy(Flavour::Sidecar)).await.unwrap().snapshot }
    };
    let (one, other) = tokio::join!(snapshot("one"), snapshot("other"));
    assert!(Arc::ptr_eq(&one, &other));
}

#[tokio::test]
async fn an_envoy_with_certificate_files_gets_the_same_resources_in_its_own_words() {
    let running = Running::start().await;
    let encrypted = "  host: reviews\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}\n";
    running.hub.publish(generation(&MESH.replace("  host: reviews\n", encrypted)));
    let mut usual = running.proxy("productpage").await;
    let mut envoy = running.proxy("productpage").await;
    let directory = Value { kind: Some(value::Kind::StringValue("/run/sds".to_owned())) };
    let metadata = envoy.node.as_mut().unwrap().metadata.get_or_insert_default();
    metadata.fields.insert("LENO_SDS_DIRECTORY".to_owned(), directory);
    let names_the_file = |resource: &discovery::Resource| {
        let bytes = &resource.resource.as_ref().unwrap().value;
        bytes.windows(21).any(|part| part == b"/run/sds/default.yaml")
    };
    for (proxy, expected) in [(&mut envoy, true), (&mut usual, false)] {
        proxy.asks(Kind::Cluster, &[]).await;
        let clusters = proxy.hears().await.unwrap().unwrap().resources;
        assert_eq!(clusters.iter().any(names_the_file), expected);
    }
}

#[tokio::test]
async fn a_route_table_of_ten_thousand_hosts_is_one_message() {
    let mut rules = String::new();
    for service in 0..10_000 {
        write!(
            rules,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s{service}}}\nspec:\n  \
             hosts: [service-{service}.example.com]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
             resolution: STATIC\n  endpoints: [{{address: 127.0.0.1}}]\n"
        )
        .unwrap();
    }
    let running = Running::start().await;
    running.hub.publish(generation(&rules));
    let mut proxy = running.proxy("productpage").await;
    proxy.asks(Kind::Cluster, &[]).await;
    assert!(proxy.takes(Kind::Cluster).await.resources.len() >= 10_000);
    proxy.asks(Kind::Route, &["15001"]).await;
    let routes = proxy.takes(Kind::Route).await;
    let [table] = &routes.resources[..] else { panic!("one table") };
    let size = table.resource.as_ref().unwrap().value.len();
    assert!((1 << 20..MAX_MESSAGE).contains(&size), "{size} bytes");
}
