//! The gRPC method `leno.mesh.v1.Relay/Connect`.
//!
//! As with discovery, a stream is no task of its own but the body of its HTTP response, and ends with its connection; and
//! the node that opens it may only be what its credential says, for as long as the credential is good.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use leno_config::node::Node;
use leno_config::xds;
use leno_proxy::relay::wire::{self, Command, Report, Said};
use tokio::sync::mpsc;
use tonic::codegen::Service;
use tonic::codegen::tokio_stream::Stream;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming, body::Body};
use tonic_prost::ProstCodec;
use tracing::debug;

use super::line::Line;
use super::switchboard::Switchboard;
use crate::ads::credentials::{self, Access, Proof};
use crate::ads::push::Hub;
use crate::ca::attest::Peer;

/// How long a stream may be silent before it says whose it is.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// Commands between a stream and the connection. The questions are the real queue.
const QUEUE: usize = 4;

/// Takes the streams of proxies.
#[derive(Clone)]
pub(crate) struct Relay {
    switchboard: Arc<Switchboard>,
    /// Knows when the process stops.
    hub: Arc<Hub>,
    access: Access,
}

impl Relay {
    pub(crate) fn new(switchboard: Arc<Switchboard>, hub: Arc<Hub>, access: Access) -> Self {
        Self { switchboard, hub, access }
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        if request.uri().path() != wire::METHOD {
            return Status::unimplemented(format!("there is no method {}", request.uri().path())).into_http();
        }
        let peer = request.extensions().get::<Peer>().cloned();
        let proof = match self.access.admit(request.headers(), peer, SystemTime::now()).await {
            Ok(proof) => proof,
            Err(status) => return status.into_http(),
        };
        let connect = tower::service_fn(move |request: Request<Streaming<Report>>| {
            let (sender, commands) = mpsc::channel(QUEUE);
            let conversation: Talk = Box::pin(self.clone().converse(proof.clone(), request.into_inner(), sender));
            let conversation = Conversation { conversation: Some(conversation), commands, end: None };
            std::future::ready(Ok::<_, Status>(Response::new(conversation)))
        });
        let codec = ProstCodec::<Command, Report>::default();
        Grpc::new(codec).max_decoding_message_size(wire::LARGEST_MESSAGE).streaming(connect, request).await
    }

    /// One stream, from its introduction to its end.
    async fn converse(
        self,
        proof: Proof,
        mut reports: Streaming<Report>,
        commands: mpsc::Sender<Command>,
    ) -> Result<(), Status> {
        let Some(node) = self.introduction(&proof, &mut reports).await? else { return Ok(()) };
        let connected = self.switchboard.connect(node).map_err(|full| Status::resource_exhausted(full.to_string()))?;
        debug!(node = connected.line.id, "the proxy can be asked");
        let end = tokio::select! {
            end = talk(&connected.line, reports, commands) => end,
            () = proof.ended() => Err(credentials::ended()),
            () = self.hub.stopped() => Err(stopping()),
        };
        debug!(node = connected.line.id, reason = end.as_ref().err().map(Status::message), "the stream has ended");
        end
    }

    /// Whose stream it is; `None`: it ended before it said so.
    async fn introduction(&self, proof: &Proof, reports: &mut Streaming<Report>) -> Result<Option<Node>, Status> {
        let first = tokio::select! {
            first = tokio::time::timeout(INTRODUCTION, reports.message()) => first,
            () = self.hub.stopped() => return Err(stopping()),
        };
        let first = first.map_err(|_| Status::deadline_exceeded("the stream was opened and said nothing"))??;
        let Some(first) = first else { return Ok(None) };
        let Some(Said::Node(sent)) = first.said else {
            return Err(Status::invalid_argument("the first message of a stream says whose it is; this one does not"));
        };
        let node = xds::node_from_xds(&sent)
            .map_err(|refusal| Status::invalid_argument(format!("the node cannot be understood: {refusal}")))?;
        self.access.check(proof, &sent, &node)?;
        Ok(Some(node))
    }
}

/// Passes on what is to be told and takes what is said, until the proxy leaves.
async fn talk(line: &Line, mut reports: Streaming<Report>, commands: mpsc::Sender<Command>) -> Result<(), Status> {
    loop {
        tokio::select! {
            report = reports.message() => match report? {
                Some(report) => line.on_report(report)?,
                None => return Ok(()),
            },
            () = line.woken() => {}
        }
        while let Some(command) = line.next_command() {
            commands.send(command).await.map_err(|_| Status::cancelled("the stream was closed"))?;
        }
    }
}

fn stopping() -> Status {
    Status::unavailable("the control plane is stopping; connect again")
}

impl NamedService for Relay {
    const NAME: &'static str = wire::SERVICE;
}

impl Service<http::Request<Body>> for Relay {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}

/// A stream until its end.
type Talk = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// What a stream answers with: the conversation and what it has to say.
struct Conversation {
    /// `None` once it has come to its end.
    conversation: Option<Talk>,
    commands: mpsc::Receiver<Command>,
    /// Why it ended, until that was said.
    end: Option<Status>,
}

impl Stream for Conversation {
    type Item = Result<Command, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(conversation) = &mut self.conversation
            && let Poll::Ready(end) = pin!(conversation).poll(context)
        {
            self.conversation = None;
            self.end = end.err();
        }
        // The sender is gone once the conversation is, so that the queue ends after its last command.
        Poll::Ready(match ready!(self.commands.poll_recv(context)) {
            Some(command) => Some(Ok(command)),
            None => self.end.take().map(Err),
        })
    }
}
