//! The gRPC methods `DeltaAggregatedResources` and `StreamAggregatedResources`.
//!
//! A stream is no task of its own: it is the body of its HTTP response. Polling the body drives the conversation, so
//! that a stream lives exactly as long as its connection wants it, ends with it without a trace, and does nothing at
//! all (does not even read) while its proxy does not take what was sent.
//!
//! ```text
//! Introduced ──first request, names the node──▶ Serving ──request │ new generation │ deadline──▶ Serving
//!      └─────10 s of silence, a node that cannot be read, or─┐   └───proxy leaves, process stops, too many names,─┐
//!            that is not what its credential says            ▼       its credential ends                          ▼
//!                                                          trailers with a status that says why
//! ```

use std::convert::Infallible;
use std::error::Error as _;
use std::future::{Future, Ready, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready as poll_ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body::Frame;
use leno_config::xds::grpc::{Remark, Remarks};
use leno_config::xds::{self, Kind};
use tokio::sync::mpsc;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Code, Status, Streaming};
use tracing::{debug, error, info, warn};

use super::credentials::{self, Access, Proof};
use super::push::{Connection, Hub};
use super::session::Received;
use super::variant::{Delta, Sent, Variant};
use super::wire::{self, MAX_MESSAGE, MessageDecoder};
use super::world::World;
use crate::ca::attest::Peer;
use crate::generation::{Compiled, Generation};
use crate::metrics::{Metrics, StreamEnd};

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const STATE_OF_THE_WORLD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// How long a stream may be silent before it says who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// Pieces of messages between a stream and the connection. The session is the real queue.
const QUEUE: usize = 4;

/// Longest part of a refusal that is written to the log.
const LOGGED: usize = 4096;

/// The aggregated discovery service.
#[derive(Clone)]
pub(crate) struct Discovery {
    hub: Arc<Hub>,
    access: Access,
}

impl Discovery {
    pub(crate) fn new(hub: Arc<Hub>, access: Access) -> Self {
        Self { hub, access }
    }
}

impl NamedService for Discovery {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<tonic::body::Body>> for Discovery {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        ready(Ok(match request.uri().path() {
            DELTA => converse::<Delta>(Arc::clone(&self.hub), self.access.clone(), request),
            STATE_OF_THE_WORLD => converse::<World>(Arc::clone(&self.hub), self.access.clone(), request),
            other => Status::unimplemented(format!("there is no method {other}")).into_http(),
        }))
    }
}

/// Answers with a body that holds the conversation.
fn converse<V: Variant>(
    hub: Arc<Hub>,
    access: Access,
    request: http::Request<tonic::body::Body>,
) -> http::Response<tonic::body::Body> {
    let decoder = MessageDecoder::<V::Message>::default();
    if request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
        return Status::unimplemented("compressed requests are not understood; send them as they are").into_http();
    }
    let (head, body) = request.into_parts();
    let requests = Streaming::new_request(decoder, body, None, Some(MAX_MESSAGE));
    let (sender, pieces) = mpsc::channel(QUEUE);
    let ending = Ending { metrics: hub.metrics().clone(), end: StreamEnd::Lost };
    let conversation = Box::pin(async move {
        let peer = head.extensions.get::<Peer>().cloned();
        let ended = match access.admit(&head.headers, peer, SystemTime::now()).await {
            Ok(proof) => {
                drop(head);
                serve::<V>(hub, access, proof, requests, sender).await
            }
            Err(status) => Err(status),
        };
        ending.with(match ended {
            Ok(()) => Status::ok(""),
            Err(status) => status,
        })
    });
    let body = Conversation { conversation: Some(conversation), pieces, end: None };
    let mut response = http::Response::new(tonic::body::Body::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
    response
}

/// Counts a stream's end, also where its connection is gone and nobody polls it any more.
struct Ending {
    metrics: Metrics,
    end: StreamEnd,
}

impl Ending {
    /// It ends with this status, which is handed on.
    fn with(mut self, status: Status) -> Status {
        self.end = reason(&status);
        status
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.metrics.stream_ended(self.end);
    }
}

/// The statuses that this file and [`credentials`] make; all others come from the connection.
fn reason(status: &Status) -> StreamEnd {
    match status.code() {
        Code::Ok => StreamEnd::Left,
        Code::Unauthenticated => StreamEnd::Credential,
        Code::PermissionDenied => StreamEnd::Identity,
        Code::InvalidArgument => StreamEnd::NotUnderstood,
        Code::DeadlineExceeded => StreamEnd::Silent,
        Code::ResourceExhausted => StreamEnd::TooMuch,
        Code::Unavailable => StreamEnd::Stopping,
        _ => StreamEnd::Lost,
    }
}

/// One stream, from the first request to its end.
async fn serve<V: Variant>(
    hub: Arc<Hub>,
    access: Access,
    proof: Proof,
    mut requests: Streaming<V::Message>,
    pieces: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    let Some(first) = introduction(&hub, &mut requests).await?.map(V::read) else { return Ok(()) };
    let sent = first
        .node
        .as_ref()
        .ok_or_else(|| Status::invalid_argument("the first request of a stream names its node; this one names none"))?;
    let unclear = |refusal| Status::invalid_argument(format!("the node cannot be understood: {refusal}"));
    let dialect = xds::dialect_from_xds(sent).map_err(unclear)?;
    let node = xds::node_from_xds(sent).map_err(unclear)?;
    access.check(&proof, sent, &node)?;
    let connection = hub.connect(node, (V::PROTOCOL, dialect), Instant::now());
    let connection = connection.map_err(|full| Status::resource_exhausted(full.to_string()))?;
    let id = connection.stream.node.id();
    let dialect = connection.stream.dialect.label();
    info!(node = %id, variant = V::PROTOCOL.label(), dialect, "proxy connected");
    let (variant, remarked) = (V::default(), Remarks::new());
    let (hub, connection, proof) = (&hub, &connection, &proof);
    let serving = Serving { hub, connection, id: &id, proof, pieces, variant, remarked, settled: 0 };
    let end = serving.run(first, requests).await;
    match &end {
        Ok(()) => info!(node = %id, "proxy left"),
        Err(status) => info!(node = %id, reason = status.message(), "stream ended"),
    }
    end
}

async fn introduction<T>(hub: &Hub, requests: &mut Streaming<T>) -> Result<Option<T>, Status> {
    tokio::select! {
        message = tokio::time::timeout(INTRODUCTION, requests.message()) => match message {
            Ok(message) => message,
            Err(_) => Err(Status::deadline_exceeded("the stream was opened and nothing was asked for")),
        },
        () = hub.stopped() => Err(stopping()),
    }
}

struct Serving<'a, V> {
    hub: &'a Arc<Hub>,
    connection: &'a Connection,
    id: &'a str,
    /// The stream ends when it is not good any more.
    proof: &'a Proof,
    pieces: mpsc::Sender<Bytes>,
    variant: V,
    /// What the log was told.
    remarked: Remarks,
    /// Number of the newest generation that the proxy has answered in full.
    settled: u64,
}

impl<V: Variant> Serving<'_, V> {
    async fn run(
        mut self,
        first: wire::Received<V::Request>,
        mut requests: Streaming<V::Message>,
    ) -> Result<(), Status> {
        let mut generations = self.hub.generations();
        generations.mark_changed();
        self.on_request(first)?;
        let mut ended = pin!(self.proof.ended());
        loop {
            let deadline = self.connection.stream.session().deadline(Instant::now());
            tokio::select! {
                message = requests.message() => match message? {
                    Some(message) => self.on_request(V::read(message))?,
                    None => return Ok(()),
                },
                changed = generations.changed() => {
                    let generation = generations.borrow_and_update().clone();
                    if let (Ok(()), Some(generation)) = (changed, generation) {
                        self.take(&generation).await;
                    }
                }
                () = until(deadline) => {}
                () = &mut ended => return Err(credentials::ended()),
                () = self.hub.stopped() => return Err(stopping()),
            }
            self.send_what_is_due().await?;
            self.connection.settle(&mut self.settled, Instant::now());
            self.log_remarks();
        }
    }

    fn on_request(&mut self, received: wire::Received<V::Request>) -> Result<(), Status> {
        let wire::Received { node: _, type_url, request } = received;
        let Some(kind) = Kind::from_url(&type_url) else {
            debug!(node = self.id, type_url, "ignored a subscription to a type that is not served");
            return Ok(());
        };
        let outcome = self.variant.on_request(&mut self.connection.stream.session(), kind, request);
        match outcome.map_err(|error| Status::resource_exhausted(error.to_string()))? {
            Received::Subscription => {}
            Received::Ack => self.hub.metrics().acked(kind),
            Received::Nack(text) => {
                self.hub.metrics().nacked(kind);
                let text = text.chars().take(LOGGED).collect::<String>();
                self.connection.stream.refuses(kind, &text);
                warn!(
                    node = self.id,
                    kind = kind.label(),
                    "the proxy refused what it was sent: {}",
                    text.escape_debug()
                );
            }
        }
        Ok(())
    }

    async fn take(&self, generation: &Generation) {
        match generation.snapshot(&self.connection.stream.node, &self.connection.stream.dialect).await {
            Ok(Compiled { snapshot, took }) => {
                if let Some(took) = took {
                    self.hub.metrics().compiled(took);
                }
                self.connection.stream.session().on_snapshot(snapshot);
                self.connection.stream.was_given(generation.number());
            }
            Err(error) => {
                self.hub.metrics().compile_failed();
                error!(node = self.id, cause = error.source().map(ToString::to_string), "{error}");
            }
        }
    }

    /// What a client asks for and cannot be told is for a person, once.
    fn log_remarks(&mut self) {
        let remarks = self.connection.stream.session().remarks();
        for ((kind, name), Remark { outcome, reason }) in
            remarks.iter().filter(|it| self.remarked.get(it.0) != Some(it.1))
        {
            let (node, kind, outcome) = (self.id, kind.label(), outcome.label());
            warn!(node, kind, name = %name.escape_debug(), outcome, "the rules cannot be told to this client: {reason}");
        }
        self.remarked = remarks;
    }

    async fn send_what_is_due(&mut self) -> Result<(), Status> {
        loop {
            let begun = Instant::now();
            let polled = self.variant.poll(&mut self.connection.stream.session(), Instant::now());
            let sent = polled.map_err(|error| Status::resource_exhausted(error.to_string()))?;
            let Some(Sent { kind, resources, removed, pieces }) = sent else { return Ok(()) };
            debug!(node = self.id, kind = kind.label(), resources, removed, "sent");
            for piece in pieces {
                self.pieces.send(piece).await.map_err(|_| Status::cancelled("the stream was closed"))?;
            }
            self.hub.metrics().pushed(kind, begun.elapsed());
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn stopping() -> Status {
    Status::unavailable("the control plane is stopping; keep what you have and connect again")
}

/// The body of a response: the conversation and what it has to say.
struct Conversation {
    /// `None` once it has come to its end.
    conversation: Option<Pin<Box<dyn Future<Output = Status> + Send>>>,
    pieces: mpsc::Receiver<Bytes>,
    /// How it ended, until that was said.
    end: Option<Status>,
}

impl http_body::Body for Conversation {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(conversation) = &mut self.conversation
            && let Poll::Ready(end) = conversation.as_mut().poll(context)
        {
            self.conversation = None;
            self.end = Some(end);
        }
        // The sender is gone once the conversation is, so that the queue ends after its last piece.
        match poll_ready!(self.pieces.poll_recv(context)) {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Poll::Ready(self.end.take().map(trailers)),
        }
    }
}

fn trailers(end: Status) -> Result<Frame<Bytes>, Status> {
    let mut headers = http::HeaderMap::new();
    end.add_header(&mut headers)?;
    Ok(Frame::trailers(headers))
}

#[cfg(test)]
mod tests;
