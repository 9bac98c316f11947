//! A proxy that takes no listener: it answers each with a NACK.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::rpc::Status;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// Connected until it is dropped.
pub(super) struct Refusing {
    task: JoinHandle<()>,
}

impl Refusing {
    /// Under this name in the namespace `default`, for this reason.
    pub(super) async fn connect(address: SocketAddr, name: &str, why: &str) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let (requests, receiver) = mpsc::channel(16);
        let node = core::Node {
            id: format!("sidecar~127.0.0.1~{name}.default~default.svc.cluster.local"),
            cluster: format!("{name}.default"),
            ..core::Node::default()
        };
        let request = |node| discovery::DeltaDiscoveryRequest {
            node,
            type_url: LISTENERS.to_owned(),
            ..discovery::DeltaDiscoveryRequest::default()
        };
        requests.send(request(Some(node))).await.unwrap();
        let sent = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let next = receiver.recv().await?;
            Some((next, receiver))
        });
        let mut responses = service.delta_aggregated_resources(sent).await.unwrap().into_inner();
        let why = why.to_owned();
        let task = tokio::spawn(async move {
            while let Ok(Some(response)) = responses.message().await {
                let refusal = Status { code: 3, message: format!("15001: {why}"), ..Status::default() };
                let nack = discovery::DeltaDiscoveryRequest {
                    response_nonce: response.nonce,
                    error_detail: Some(refusal),
                    ..request(None)
                };
                if requests.send(nack).await.is_err() {
                    return;
                }
            }
        });
        Self { task }
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        self.task.abort();
    }
}
