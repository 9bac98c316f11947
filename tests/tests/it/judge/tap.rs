//! What stands between the control plane and an Envoy: it lets everything pass, asks for an access log, and says who is
//! inside.
//!
//! Envoy tells response flags to its access log alone, and Leno's control plane does not speak of access logs yet. Of a
//! caller's own words about retries and timeouts, Envoy takes notice only where `x-forwarded-for` names one address that
//! is said to be inside; here that is loopback. All else that Envoy runs is what `leno serve` sent.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{
    CidrRange, DataSource, SubstitutionFormatString, data_source::Specifier,
};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::InternalAddressConfig,
};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use prost::{Message as _, Name as _};
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

/// Largest message, as Leno's own.
const MAX_MESSAGE: usize = 64 << 20;

/// A running tap. It ends with the value.
pub(super) struct Tap {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Tap {
    /// To the control plane at `to`. The access log is written to `log`, its lines as `format` says.
    pub(super) async fn start(to: SocketAddr, log: &Path, format: &str) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Service { to: format!("http://{to}"), log: log.display().to_string(), format: format.to_owned() };
        let service = AggregatedDiscoveryServiceServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let serve = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { serve.await.expect("the tap serves") });
        Self { address, task }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Service {
    to: String,
    log: String,
    format: String,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        requests: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let answers = self.client().await?.stream_aggregated_resources(good(requests.into_inner())).await?;
        let tap = self.clone();
        Ok(Response::new(Box::pin(answers.into_inner().map_ok(move |mut answer| {
            answer.resources.iter_mut().for_each(|resource| tap.edit(resource));
            answer
        }))))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let answers = self.client().await?.delta_aggregated_resources(good(requests.into_inner())).await?;
        let tap = self.clone();
        Ok(Response::new(Box::pin(answers.into_inner().map_ok(move |mut answer| {
            answer.resources.iter_mut().filter_map(|it| it.resource.as_mut()).for_each(|resource| tap.edit(resource));
            answer
        }))))
    }
}

/// Until the stream breaks.
fn good<T: Send + 'static>(requests: Streaming<T>) -> impl Stream<Item = T> + Send + 'static {
    requests
        .take_while(|request| std::future::ready(request.is_ok()))
        .filter_map(|request| std::future::ready(request.ok()))
}

impl Service {
    async fn client(&self) -> Result<AggregatedDiscoveryServiceClient<Channel>, Status> {
        let client = AggregatedDiscoveryServiceClient::connect(self.to.clone()).await;
        let client = client.map_err(|error| Status::unavailable(format!("the control plane is away: {error}")))?;
        Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }

    /// Adds to what is an HTTP listener.
    fn edit(&self, resource: &mut Any) {
        if resource.type_url != Listener::type_url() {
            return;
        }
        let mut listener = Listener::decode(resource.value.as_slice()).expect("a listener decodes");
        for filter in listener.filter_chains.iter_mut().flat_map(|chain| &mut chain.filters) {
            let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else { continue };
            if any.type_url != HttpConnectionManager::type_url() {
                continue;
            }
            let mut manager = HttpConnectionManager::decode(any.value.as_slice()).expect("a manager decodes");
            manager.access_log.push(self.access_log());
            let loopback =
                CidrRange { address_prefix: "127.0.0.0".to_owned(), prefix_len: Some(UInt32Value { value: 8 }) };
            let inside = InternalAddressConfig { cidr_ranges: vec![loopback], ..Default::default() };
            manager.internal_address_config = Some(inside);
            any.value = manager.encode_to_vec();
        }
        resource.value = listener.encode_to_vec();
    }

    fn access_log(&self) -> AccessLog {
        let text = DataSource { specifier: Some(Specifier::InlineString(self.format.clone())), ..Default::default() };
        let format = SubstitutionFormatString { format: Some(Format::TextFormatSource(text)), ..Default::default() };
        let file = FileAccessLog {
            path: self.log.clone(),
            access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format)),
        };
        let file = Any { type_url: FileAccessLog::type_url(), value: file.encode_to_vec() };
        AccessLog {
            name: "file".to_owned(),
            config_type: Some(access_log::ConfigType::TypedConfig(file)),
            ..Default::default()
        }
    }
}
