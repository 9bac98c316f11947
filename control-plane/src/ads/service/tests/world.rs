//! The state-of-the-world variant over a real socket.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use prost::Message as _;

use super::*;
use crate::ads::variant::Protocol;

/// One stream as a client of this variant holds it.
struct Client {
    node: Option<envoy_types::pb::envoy::config::core::v3::Node>,
    requests: mpsc::Sender<discovery::DiscoveryRequest>,
    responses: Streaming<discovery::DiscoveryResponse>,
}

impl Running {
    async fn world_client(&self, name: &str) -> Client {
        let (requests, receiver) = mpsc::channel(16);
        let stream = ReceiverStream(receiver);
        let responses = self.client().await.stream_aggregated_resources(stream).await.unwrap().into_inner();
        Client { node: Some(xds::node_to_xds(&node(name))), requests, responses }
    }
}

impl Client {
    async fn says(
        &mut self,
        kind: Kind,
        names: &[&str],
        about: Option<&discovery::DiscoveryResponse>,
        refusal: Option<&str>,
    ) {
        let error_detail = refusal.map(|text| envoy_types::pb::google::rpc::Status {
            code: 3,
            message: text.to_owned(),
            ..Default::default()
        });
        let request = discovery::DiscoveryRequest {
            node: self.node.take(),
            type_url: kind.url().to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            version_info: about.map(|response| response.version_info.clone()).unwrap_or_default(),
            response_nonce: about.map(|response| response.nonce.clone()).unwrap_or_default(),
            error_detail,
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn hears(&mut self) -> Result<Option<discovery::DiscoveryResponse>, Status> {
        tokio::time::timeout(Duration::from_secs(20), self.responses.message()).await.expect("an answer in time")
    }

    /// Asks, hears and accepts.
    async fn takes(&mut self, kind: Kind, names: &[&str]) -> discovery::DiscoveryResponse {
        self.says(kind, names, None, None).await;
        let response = self.hears().await.unwrap().unwrap();
        assert_eq!(response.type_url, kind.url());
        self.says(kind, names, Some(&response), None).await;
        response
    }
}

fn cluster_names(response: &discovery::DiscoveryResponse) -> Vec<String> {
    assert!(response.resources.iter().all(|any| any.type_url == Kind::Cluster.url()));
    response.resources.iter().map(|any| Cluster::decode(&*any.value).unwrap().name).collect()
}

const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
const V2: &str = "outbound|9080|v2|reviews.default.svc.cluster.local";

#[tokio::test]
async fn a_client_gets_its_mesh_and_every_change_of_it() {
    let running = Running::start().await;
    let mut client = running.world_client("productpage").await;
    client.says(Kind::Cluster, &[], None, None).await;
    // Nothing is answered before there are rules; the subscription is not lost.
    running.hub.publish(generation(MESH));
    let clusters = client.hears().await.unwrap().unwrap();
    assert!(cluster_names(&clusters).iter().any(|name| name == V1), "{clusters:?}");
    assert!(!clusters.version_info.is_empty());
    client.says(Kind::Cluster, &[], Some(&clusters), None).await;
    assert_eq!(client.takes(Kind::Endpoints, &[V1, V2]).await.resources.len(), 2);
    assert!(!client.takes(Kind::Listener, &[]).await.resources.is_empty());
    let routes = client.takes(Kind::Route, &["15001"]).await;
    running.hub.publish(generation(&MESH.replace("weight: 80", "weight: 70").replace("weight: 20", "weight: 30")));
    let pushed = client.hears().await.unwrap().unwrap();
    assert_eq!((pushed.type_url.as_str(), pushed.resources.len()), (Kind::Route.url(), 1));
    assert_ne!(pushed.version_info, routes.version_info);
    assert_ne!(pushed.nonce, routes.nonce);
}

#[tokio::test]
async fn a_client_that_asks_by_name_hears_of_those_names_alone() {
    let running = Running::start().await;
    running.hub.publish(generation(MESH));
    let mut client = running.world_client("productpage").await;
    client.says(Kind::Cluster, &[V1], None, None).await;
    client.says(Kind::Cluster, &[V1, V2], None, None).await;
    // However the two requests meet the answers, the last one holds both.
    let mut clusters = client.hears().await.unwrap().unwrap();
    while cluster_names(&clusters) != [V1, V2] {
        assert_eq!(cluster_names(&clusters), [V1]);
        clusters = client.hears().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_refusal_is_logged_counted_and_shown_as_that_of_the_other_variant() {
    let running = Running::start().await;
    running.hub.publish(generation(MESH));
    let mut client = running.world_client("productpage").await;
    client.says(Kind::Cluster, &[], None, None).await;
    let clusters = client.hears().await.unwrap().unwrap();
    client.says(Kind::Cluster, &[], Some(&clusters), Some("PassthroughCluster: lb_policy: not understood")).await;
    client.takes(Kind::Listener, &[]).await;
    let [stream] = &running.hub.streams()[..] else { panic!("one stream") };
    assert_eq!(stream.protocol, Protocol::World);
    let status = stream.session().status();
    assert_eq!(status[&Kind::Cluster].nack.as_deref(), Some("PassthroughCluster: lb_policy: not understood"));
    assert_eq!(running.counted("leno_control_plane_nacks_total{type=\"clusters\"}"), 1.0);
}

#[tokio::test]
async fn a_client_that_reconnects_gets_an_answer_whatever_it_brings_along() {
    let running = Running::start().await;
    running.hub.publish(generation(MESH));
    let mut client = running.world_client("productpage").await;
    let clusters = client.takes(Kind::Cluster, &[]).await;
    let mut again = running.world_client("productpage").await;
    let brought = discovery::DiscoveryResponse { nonce: String::new(), ..clusters.clone() };
    again.says(Kind::Cluster, &[], Some(&brought), None).await;
    let answer = again.hears().await.unwrap().unwrap();
    assert_eq!((&answer.version_info, cluster_names(&answer)), (&clusters.version_info, cluster_names(&clusters)));
}

#[tokio::test]
async fn what_grpc_cannot_be_told_is_an_error_of_the_resource_and_the_stream_goes_on() {
    let running = Running::start().await;
    let table = "reviews.default.svc.cluster.local:9080";
    let mirrored = MESH.replace("  - route:", "  - mirrors: [{destination: {host: reviews}}]\n    route:");
    running.hub.publish(generation(&mirrored));
    let mut client = running.world_client("productpage").await;
    client.node.as_mut().unwrap().user_agent_name = "gRPC C-core".to_owned();
    assert_eq!(client.takes(Kind::Listener, &["reviews:9080"]).await.resources.len(), 1);
    let refused = client.takes(Kind::Route, &[table]).await;
    assert!(refused.resources.is_empty());
    let [error] = &refused.resource_errors[..] else { panic!("{refused:?}") };
    assert_eq!(error.resource_name.as_ref().unwrap().name, table);
    let reason = &error.error_detail.as_ref().unwrap().message;
    assert_eq!(reason, "VirtualService default/reviews[0]: mirrors: gRPC sends no copies");
    let [stream] = &running.hub.streams()[..] else { panic!("one stream") };
    assert_eq!(stream.dialect.label(), "grpc");
    let remarks = stream.session().remarks();
    let remarked = remarks.iter().map(|((kind, name), remark)| (*kind, name.as_str(), &remark.reason));
    assert_eq!(remarked.collect::<Vec<_>>(), [(Kind::Route, table, reason)]);
    // The rule is repaired, and the client is told.
    running.hub.publish(generation(MESH));
    let pushed = client.hears().await.unwrap().unwrap();
    assert_eq!((pushed.type_url.as_str(), pushed.resources.len()), (Kind::Route.url(), 1));
    assert!(stream.session().remarks().is_empty());
}
