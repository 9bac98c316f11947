//! A proxy's side of delta ADS, as little of it as the tests need.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use leno_config::xds::Kind;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::process::SOON;

struct Requests(mpsc::Receiver<discovery::DeltaDiscoveryRequest>);

impl Stream for Requests {
    type Item = discovery::DeltaDiscoveryRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// A connected proxy.
pub(crate) struct Client {
    node: Option<core::Node>,
    requests: mpsc::Sender<discovery::DeltaDiscoveryRequest>,
    responses: Streaming<discovery::DeltaDiscoveryResponse>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, name: &str) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let (requests, receiver) = mpsc::channel(16);
        let responses = service.delta_aggregated_resources(Requests(receiver)).await.unwrap().into_inner();
        let node = core::Node {
            id: format!("sidecar~127.0.0.1~{name}.default~default.svc.cluster.local"),
            cluster: format!("{name}.default"),
            metadata: Some(interception_none()),
            ..core::Node::default()
        };
        Self { node: Some(node), requests, responses }
    }

    pub(crate) async fn asks(&mut self, kind: Kind, names: &[String]) {
        let request = discovery::DeltaDiscoveryRequest {
            node: self.node.take(),
            type_url: kind.url().to_owned(),
            resource_names_subscribe: names.to_vec(),
            ..discovery::DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// The next response, acknowledged.
    pub(crate) async fn hears(&mut self) -> Result<discovery::DeltaDiscoveryResponse, Status> {
        let response = tokio::time::timeout(SOON, self.responses.message()).await.expect("an answer in time")?;
        let response = response.expect("the stream ends with a status");
        let acknowledgement = discovery::DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..discovery::DeltaDiscoveryRequest::default()
        };
        // A server that stops does not read any more.
        let _ = self.requests.send(acknowledgement).await;
        Ok(response)
    }

    /// Whether nothing comes for so long.
    pub(crate) async fn hears_nothing_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.responses.message()).await.is_err()
    }

    /// Everything a proxy would ask for: version by kind and name.
    pub(crate) async fn everything(&mut self) -> BTreeMap<(Kind, String), String> {
        let mut versions = BTreeMap::new();
        let mut names = BTreeMap::<Kind, Vec<String>>::new();
        for kind in Kind::PUSH_ORDER {
            let of_kind = |kind| names.get(&kind).cloned().unwrap_or_default();
            let asked = match kind {
                Kind::Cluster | Kind::Listener => Vec::new(),
                Kind::Endpoints => {
                    of_kind(Kind::Cluster).into_iter().filter(|name| name.starts_with("outbound")).collect()
                }
                Kind::Secret => vec![leno_config::ir::Secret::ROOTS.to_owned()],
                Kind::Route => vec!["15001".to_owned()],
            };
            if asked.is_empty() && kind == Kind::Endpoints {
                continue;
            }
            self.asks(kind, &asked).await;
            let response = self.hears().await.unwrap();
            assert_eq!(response.type_url, kind.url());
            for resource in response.resources {
                names.entry(kind).or_default().push(resource.name.clone());
                versions.insert((kind, resource.name), resource.version);
            }
        }
        versions
    }
}

fn interception_none() -> envoy_types::pb::google::protobuf::Struct {
    use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
    let none = Value { kind: Some(Kind::StringValue("NONE".to_owned())) };
    Struct { fields: [("INTERCEPTION_MODE".to_owned(), none)].into_iter().collect() }
}
