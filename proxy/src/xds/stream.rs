//! One connection to the control plane: tonic outside, the [`Session`] inside.
//!
//! Nothing is decided here. Requests that the session queued go out before the next response is read, so a server that
//! does not read its answers is not read either, and the queue stays as short as one response makes it.

use std::future::pending;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tonic::Streaming;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::Address;
use super::desk::Desk;
use super::session::{Answer, Now, Session};

/// For the TCP connection and HTTP/2's preface.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// For the response head. Servers written in Go send it with the first response, and some have none until their own
/// first load is through: patience costs nothing here.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// For the transport to take one request.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// A PING goes out after so much silence …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// … and the connection is dead without an answer to it.
const KEEP_ALIVE_DEADLINE: Duration = Duration::from_secs(10);
/// Largest message: all resources at once, and what surrounds them.
const LARGEST_MESSAGE: usize = crate::state::accepted::TOTAL_LIMIT;
/// Flow control windows: a full state should not wait for a window at every 64 KiB.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// No connection.
    #[error("cannot connect to the control plane")]
    Connect(#[source] tonic::transport::Error),
    /// No connection in time.
    #[error("the control plane did not accept the connection within {} s", CONNECT_DEADLINE.as_secs())]
    ConnectDeadline,
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

impl From<tonic::Status> for Lost {
    fn from(status: tonic::Status) -> Self {
        Self::Ended { code: status.code(), message: status.message().to_owned() }
    }
}

/// How a stream went.
pub(super) enum End {
    /// It was told to end.
    Drained,
    /// It broke, and had been answered for so long (`None`: never).
    Lost(Lost, Option<Duration>),
}

/// Connects once and serves the stream until it breaks or `shutdown` turns true (or has nobody to turn it any more).
pub(super) async fn serve(
    address: &Address,
    session: &mut Session,
    desk: &mut Desk,
    shutdown: &mut watch::Receiver<bool>,
) -> End {
    let mut answered = None;
    let result = tokio::select! {
        result = converse(address, session, desk, &mut answered) => result,
        _ = shutdown.wait_for(|stop| *stop) => Ok(()),
    };
    session.disconnected();
    match result {
        Ok(()) => End::Drained,
        Err(lost) => End::Lost(lost, answered.map(|since: Instant| since.elapsed())),
    }
}

/// Ends only by breaking.
async fn converse(
    address: &Address,
    session: &mut Session,
    desk: &mut Desk,
    answered: &mut Option<Instant>,
) -> Result<(), Lost> {
    let channel = connect(address).await?;
    let (requests, outgoing) = mpsc::channel(16);
    session.connected(Now::read());
    send(session, &requests).await?;
    let mut incoming = open(channel, outgoing).await?;
    desk.connected(Now::read());
    loop {
        let deadline = session.deadline();
        tokio::select! {
            response = incoming.message() => {
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

async fn connect(address: &Address) -> Result<Channel, Lost> {
    let endpoint = Endpoint::from(address.uri().clone())
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_DEADLINE)
        .keep_alive_while_idle(true);
    match timeout(CONNECT_DEADLINE, endpoint.connect()).await {
        Ok(connected) => connected.map_err(Lost::Connect),
        Err(_) => Err(Lost::ConnectDeadline),
    }
}

async fn open(
    channel: Channel,
    outgoing: mpsc::Receiver<DeltaDiscoveryRequest>,
) -> Result<Streaming<DeltaDiscoveryResponse>, Lost> {
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    let response = timeout(HEAD_DEADLINE, client.delta_aggregated_resources(ReceiverStream::new(outgoing)));
    Ok(response.await.map_err(|_| Lost::HeadDeadline)??.into_inner())
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
