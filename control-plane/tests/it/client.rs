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
        Self::over(channel, None, node(name, "default", &[("INTERCEPTION_MODE", "NONE")])).await
    }

    /// Over a connection that is there, with a credential.
    pub(crate) async fn over(channel: Channel, token: Option<&str>, node: core::Node) -> Self {
        let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let (requests, receiver) = mpsc::channel(16);
        let mut request = tonic::Request::new(Requests(receiver));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let responses = service.delta_aggregated_resources(request).await.unwrap().into_inner();
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

    /// The next response, not acknowledged.
    pub(crate) async fn hears_in_silence(&mut self) -> Result<discovery::DeltaDiscoveryResponse, Status> {
        let response = tokio::time::timeout(SOON, self.responses.message()).await.expect("an answer in time")?;
        Ok(response.expect("the stream ends with a status"))
    }

    /// The next response, acknowledged.
    pub(crate) async fn hears(&mut self) -> Result<discovery::DeltaDiscoveryResponse, Status> {
        let response = self.hears_in_silence().await?;
        let acknowledgement = discovery::DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..discovery::DeltaDiscoveryRequest::default()
        };
        // A server that stops does not read any more.
        let _ = self.requests.send(acknowledgement).await;
        Ok(response)
    }

    /// Refuses a response.
    pub(crate) async fn refuses(&mut self, response: &discovery::DeltaDiscoveryResponse, why: &str) {
        let refusal = discovery::DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(envoy_types::pb::google::rpc::Status {
                code: 3,
                message: why.to_owned(),
                ..Default::default()
            }),
            ..discovery::DeltaDiscoveryRequest::default()
        };
        self.requests.send(refusal).await.unwrap();
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

/// A node as Istio writes it, with metadata.
pub(crate) fn node(name: &str, namespace: &str, metadata: &[(&str, &str)]) -> core::Node {
    use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = metadata.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
    core::Node {
        id: format!("sidecar~127.0.0.1~{name}.{namespace}~{namespace}.svc.cluster.local"),
        cluster: format!("{name}.{namespace}"),
        metadata: Some(Struct { fields }),
        ..core::Node::default()
    }
}
