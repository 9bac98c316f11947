//! One stream to the control plane: tonic outside, the [`Session`] inside.
//!
//! Nothing is decided here. Requests that the session queued go out before the next response is read, so a server that
//! does not read its answers is not read either, and the queue stays as short as one response makes it.

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tonic::Streaming;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use super::desk::Desk;
use super::session::{Answer, Now, Session};
use super::{Orders, Told};
use crate::control_plane::{Access, ConnectError, Link, Purpose, Refusal};

/// For the response head. Servers written in Go send it with the first response, and some have none until their own
/// first load is through: patience costs nothing here.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// For the transport to take one request.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// Largest message: all resources at once, and what surrounds them.
const LARGEST_MESSAGE: usize = crate::state::accepted::TOTAL_LIMIT;

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nothing to show yet.
    #[error("cannot say who this proxy is: {0}")]
    NoCredential(String),
    /// The server does not believe or does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A stream lives no longer than what it began with.
    #[error("the control plane ended the stream with the credential that it began with; the next one has a newer")]
    CredentialOver,
    /// The server's words.
    #[error("the control plane ended the stream: {code}: {message}")]
    Ended {
        /// gRPC's code in words.
        code: tonic::Code,
        /// The server's reason, or the transport's.
        message: String,
    },
    /// The server ended the stream without an error, as it does when it stops.
    #[error("the control plane closed the stream")]
    Closed,
    /// A silent server.
    #[error("the control plane did not answer within {} s", HEAD_DEADLINE.as_secs())]
    HeadDeadline,
    /// A server that does not read.
    #[error("the control plane did not take a request within {} s", SEND_DEADLINE.as_secs())]
    SendDeadline,
}

impl Lost {
    fn ended(link: &Link, status: &tonic::Status) -> Self {
        match link.refusal(status) {
            Some(refusal) => Self::Refused(refusal),
            None => Self::Ended { code: status.code(), message: status.message().escape_default().to_string() },
        }
    }
}

/// How a stream went.
pub(super) enum End {
    /// It was told to.
    Told(Told),
    /// It broke, and had been answered for so long (`None`: never).
    Lost(Lost, Option<Duration>),
}

/// Connects once and serves the stream until it breaks or is told to stop.
/// `attempt` counts the attempts since a stream was answered: where there are several credentials, one that the server
/// does not accept is not shown for ever.
pub(super) async fn serve(
    access: &Access,
    attempt: usize,
    session: &mut Session,
    desk: &mut Desk,
    orders: &mut Orders,
) -> End {
    let mut answered = None;
    let end = tokio::select! {
        broken = converse(access, attempt, session, desk, &mut answered) => broken.map(|never| match never {}),
        told = orders.next() => Ok(told),
    };
    session.disconnected();
    desk.disconnected();
    match end {
        Ok(told) => End::Told(told),
        Err(lost) => End::Lost(lost, answered.map(|since: Instant| since.elapsed())),
    }
}

/// Ends only by breaking.
async fn converse(
    access: &Access,
    attempt: usize,
    session: &mut Session,
    desk: &mut Desk,
    answered: &mut Option<Instant>,
) -> Result<Infallible, Lost> {
    let link = connect(access, attempt).await?;
    let (requests, outgoing) = mpsc::channel(16);
    session.connected(Now::read());
    send(session, &requests).await?;
    let mut incoming = open(&link, outgoing).await?;
    desk.connected(&link, Now::read());
    loop {
        let deadline = session.deadline();
        tokio::select! {
            response = incoming.message() => {
                let response = response.map_err(|status| match Lost::ended(&link, &status) {
                    Lost::Refused(_) if answered.is_some() => Lost::CredentialOver,
                    lost => lost,
                });
                let response = response?.ok_or(Lost::Closed)?;
                answered.get_or_insert_with(Instant::now);
                receive(session, response);
            }
            () = until(deadline) => session.elapsed(Now::read()),
        }
        desk.publish(session);
        send(session, &requests).await?;
    }
}

async fn connect(access: &Access, attempt: usize) -> Result<Link, Lost> {
    let credentials = access.credentials(Purpose::Discovery, SystemTime::now());
    let turn = attempt.checked_rem(credentials.len()).unwrap_or_default();
    let credential = credentials.into_iter().nth(turn);
    let credential = credential.ok_or_else(|| Lost::NoCredential(access.without_credentials()))?;
    Ok(Link::open(access, credential).await?)
}

async fn open(
    link: &Link,
    outgoing: mpsc::Receiver<DeltaDiscoveryRequest>,
) -> Result<Streaming<DeltaDiscoveryResponse>, Lost> {
    let client = AggregatedDiscoveryServiceClient::new(link.channel.clone());
    let mut client = client.max_decoding_message_size(LARGEST_MESSAGE);
    let response = client.delta_aggregated_resources(link.request(ReceiverStream::new(outgoing)));
    let response = timeout(HEAD_DEADLINE, response).await.map_err(|_| Lost::HeadDeadline)?;
    Ok(response.map_err(|status| Lost::ended(link, &status))?.into_inner())
}

/// Sends everything that the session queued.
async fn send(session: &mut Session, requests: &mpsc::Sender<DeltaDiscoveryRequest>) -> Result<(), Lost> {
    while let Some(request) = session.take_request() {
        match timeout(SEND_DEADLINE, requests.send(request)).await {
            Ok(Ok(())) => {}
            // The transport let go of the requests; the next look at the responses says why.
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(Lost::SendDeadline),
        }
    }
    Ok(())
}

fn receive(session: &mut Session, response: DeltaDiscoveryResponse) {
    let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
    let (resources, removed) = (response.resources.len(), response.removed_resources.len());
    match session.received(response, Now::read()) {
        Answer::Ack => tracing::debug!(type_url, nonce, resources, removed, "accepted a response of the control plane"),
        Answer::Nack(text) => {
            tracing::warn!(type_url, nonce, "refused a part of what the control plane sent, the rest applies: {text}");
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
