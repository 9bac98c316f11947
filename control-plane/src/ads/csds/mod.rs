//! The client status discovery service (CSDS): what each connected proxy was sent, and what became of it, for tools that
//! ask control planes in Envoy's words (`grpcdebug`, csds-client).
//!
//! Who may see what follows from who may have it sent anyway. On the clear port, which is for this machine alone, every
//! claim of being some node is taken by ADS too, so whoever reaches it could fetch each of these configurations as that
//! node; CSDS shows all of them. On the encrypted port ADS sends a workload only what is meant for its own namespace and
//! service account, and so does CSDS: the replicas of the caller's own identity, and nobody else. What lies outside is
//! left out as if it were not there, for that somebody else is connected is none of the caller's business either. There
//! is no identity of operators on that port on purpose: a role that sees everything would be worth stealing.

mod nodes;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryService;
use envoy_types::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
};
use envoy_types::pb::google::protobuf::{Any, Timestamp};
use leno_config::xds::{Kind, node_to_xds};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tonic::codegen::tokio_stream::Stream as Messages;
use tonic::{Request, Response, Status, Streaming};

use super::credentials::{self, Access, Proof};
use super::push::{Hub, Stream};
use super::session::{Holding, KindStatus, Standing};
use crate::ca::attest::Peer;
use crate::snapshot::Resource;
use nodes::Selection;

/// Most bytes of one question.
pub(crate) const MAX_QUESTION: usize = 1 << 20;
/// Most bytes of one answer. Larger ones have to be asked for by node.
const MAX_ANSWER: usize = 60 << 20;
/// Answers that are made at a time: each may take [`MAX_ANSWER`].
const AT_A_TIME: usize = 2;
/// For its turn to come, and for an answer to be made.
const DEADLINE: Duration = Duration::from_secs(20);
/// A stream on which nothing is asked for so long is closed.
const REST: Duration = Duration::from_secs(600);

/// The client status discovery service.
#[derive(Clone)]
pub(crate) struct Statuses {
    hub: Arc<Hub>,
    access: Access,
    turns: Arc<Semaphore>,
}

impl Statuses {
    pub(crate) fn new(hub: Arc<Hub>, access: Access) -> Self {
        Self { hub, access, turns: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Who asks.
    async fn admit<T>(&self, request: &Request<T>) -> Result<Proof, Status> {
        let headers = request.metadata().clone().into_headers();
        let peer = request.extensions().get::<Peer>().cloned();
        self.access.admit(&headers, peer, SystemTime::now()).await
    }

    /// What one may see who has proven this.
    async fn answer(&self, proof: &Proof, request: ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
        // Who asks is proven, or does not matter; what it says of itself counts for nothing.
        let ClientStatusRequest { node_matchers, node: _, exclude_resource_contents } = request;
        let selection = Selection::new(node_matchers).map_err(Status::invalid_argument)?;
        let (hub, proof) = (Arc::clone(&self.hub), proof.clone());
        let work = move || {
            let streams = hub.streams();
            let seen = streams.iter().filter(|stream| may_see(&proof, stream) && selection.takes(&stream.node));
            collect(seen, !exclude_resource_contents)
        };
        let turn = async {
            let _turn = self.turns.acquire().await.map_err(|_| Status::unavailable("the control plane is stopping"))?;
            let made = tokio::task::spawn_blocking(work).await;
            made.unwrap_or_else(|panic| Err(Status::internal(format!("the answer could not be made: {panic}"))))
        };
        let late = |_| Status::resource_exhausted("too many ask at a time; try again, or ask for fewer nodes");
        tokio::time::timeout(DEADLINE, turn).await.map_err(late)?
    }
}

/// Whether a stream is of the caller's own identity, where the caller has one.
fn may_see(proof: &Proof, stream: &Stream) -> bool {
    match proof {
        Proof::None => true,
        Proof::Workload(own, _) => {
            stream.node.namespace == own.namespace && stream.node.service_account == own.service_account
        }
    }
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Statuses {
    type StreamClientStatusStream = Answers;

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        let proof = self.admit(&request).await?;
        self.answer(&proof, request.into_inner()).await.map(Response::new)
    }

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let proof = self.admit(&request).await?;
        let (service, mut requests) = (self.clone(), request.into_inner());
        // One answer at a time; the next question is not read before it is taken.
        let (answers, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let answer = tokio::select! {
                    asked = tokio::time::timeout(REST, requests.message()) => match asked {
                        Ok(Ok(Some(request))) => service.answer(&proof, request).await,
                        Ok(Ok(None)) => return,
                        Ok(Err(status)) => Err(status),
                        Err(_) => Err(Status::deadline_exceeded("nothing was asked for ten minutes")),
                    },
                    () = proof.ended() => Err(credentials::ended()),
                    () = service.hub.stopped() => Err(Status::unavailable("the control plane is stopping")),
                    () = answers.closed() => return,
                };
                let is_last = answer.is_err();
                if answers.send(answer).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(Response::new(Answers(receiver)))
    }
}

/// What a stream is answered.
pub(crate) struct Answers(mpsc::Receiver<Result<ClientStatusResponse, Status>>);

impl Messages for Answers {
    type Item = Result<ClientStatusResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

fn collect<'a>(
    streams: impl Iterator<Item = &'a Arc<Stream>>,
    with_contents: bool,
) -> Result<ClientStatusResponse, Status> {
    let now = (Instant::now(), SystemTime::now());
    let mut answer = ClientStatusResponse::default();
    let mut bytes = 0_usize;
    for stream in streams {
        let config = client(stream, with_contents, now);
        bytes = bytes.saturating_add(config.encoded_len());
        if bytes > MAX_ANSWER {
            return Err(Status::resource_exhausted(format!(
                "the answer is larger than {} MiB; ask for fewer nodes (node_matchers), or without contents \
                 (exclude_resource_contents)",
                MAX_ANSWER >> 20
            )));
        }
        answer.config.push(config);
    }
    Ok(answer)
}

/// One proxy.
fn client(stream: &Stream, with_contents: bool, now: (Instant, SystemTime)) -> ClientConfig {
    let (statuses, mut holdings) = {
        let session = stream.session();
        (session.status(), session.holdings())
    };
    let mut configs = Vec::new();
    for (kind, status) in statuses {
        let held = holdings.remove(&kind).unwrap_or_default();
        if held.is_empty() && status.sent.is_none() {
            configs.push(not_sent(kind, String::new()));
        }
        configs.extend(held.into_iter().map(|holding| resource(kind, &status, holding, with_contents, now)));
    }
    ClientConfig { node: Some(node_to_xds(&stream.node)), generic_xds_configs: configs, ..ClientConfig::default() }
}

fn not_sent(kind: Kind, name: String) -> GenericXdsConfig {
    GenericXdsConfig {
        type_url: kind.url().to_owned(),
        name,
        config_status: ConfigStatus::NotSent.into(),
        client_status: ClientResourceStatus::Requested.into(),
        ..GenericXdsConfig::default()
    }
}

fn resource(
    kind: Kind,
    status: &KindStatus,
    holding: Holding,
    with_contents: bool,
    (now, time): (Instant, SystemTime),
) -> GenericXdsConfig {
    let Holding { name, version, standing, resource } = holding;
    let (config, client) = match standing {
        Standing::Missing => return not_sent(kind, name.to_string()),
        Standing::Accepted => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        Standing::UnderWay => (ConfigStatus::Stale, ClientResourceStatus::Requested),
        Standing::Refused => (ConfigStatus::Error, ClientResourceStatus::Nacked),
    };
    let sent = timestamp(time.checked_sub(now.saturating_duration_since(status.since)).unwrap_or(time));
    let contents = resource.filter(|_| with_contents).and_then(|resource| contents(&resource));
    let error_state = (standing == Standing::Refused).then(|| UpdateFailureState {
        failed_configuration: None,
        last_update_attempt: sent,
        details: status.nack.as_deref().unwrap_or_default().to_owned(),
        version_info: version.to_string(),
    });
    GenericXdsConfig {
        type_url: kind.url().to_owned(),
        name: name.to_string(),
        version_info: version.to_string(),
        xds_config: contents,
        last_updated: sent,
        config_status: config.into(),
        client_status: client.into(),
        error_state,
        is_static_resource: false,
    }
}

/// The resource out of the message that it is kept as.
fn contents(resource: &Resource) -> Option<Any> {
    DiscoveryResponse::decode(resource.state.clone()).ok()?.resources.pop()
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp { seconds: i64::try_from(since.as_secs()).ok()?, nanos: i32::try_from(since.subsec_nanos()).ok()? })
}
