//! One stream: who this proxy is, then questions in and answers out.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use http::uri::PathAndQuery;
use leno_config::node::Node;
use leno_config::xds::node_to_xds;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use super::Admin;
use super::answer::{self, Window};
use super::wire::{self, Ask, Cancel, Command, More, Report, Said, Told};
use crate::control_plane::Link;

/// For the response head; a server that knows the service sends it at once.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// Reports that wait for the transport. The windows of the answers are the real bound.
const QUEUE: usize = 4;

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// Not Leno's control plane, or an older one.
    #[error("the control plane does not know {}", wire::SERVICE)]
    Unknown,
    /// The server's words.
    #[error("the control plane ended the stream of {}: {code}: {message}", wire::SERVICE)]
    Ended {
        /// gRPC's code in words.
        code: Code,
        /// The server's reason, or the transport's.
        message: String,
    },
    /// The server ended the stream without an error.
    #[error("the control plane closed the stream of {}", wire::SERVICE)]
    Closed,
    /// A silent server.
    #[error("the control plane did not answer {} within {} s", wire::SERVICE, HEAD_DEADLINE.as_secs())]
    HeadDeadline,
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::Unknown,
            code => Self::Ended { code, message: status.message().escape_default().to_string() },
        }
    }
}

/// Opens a stream on the connection and serves it until it breaks.
pub(super) async fn serve(link: Link, node: &Node, admin: &impl Admin) -> Lost {
    let (reports, outgoing) = mpsc::channel(QUEUE);
    let hello = Report::from(Said::Node(Box::new(node_to_xds(node))));
    // The queue is empty and its other end is here.
    let _ = reports.send(hello).await;
    let commands = match timeout(HEAD_DEADLINE, open(&link, outgoing)).await {
        Ok(Ok(commands)) => commands,
        Ok(Err(status)) => return status.into(),
        Err(_) => return Lost::HeadDeadline,
    };
    tracing::debug!("the control plane may relay questions to this proxy");
    converse(commands, reports, admin).await
}

async fn open(link: &Link, outgoing: mpsc::Receiver<Report>) -> Result<Streaming<Command>, Status> {
    let mut grpc = tonic::client::Grpc::new(link.channel.clone()).max_decoding_message_size(wire::LARGEST_MESSAGE);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let request = link.request(ReceiverStream::new(outgoing));
    let codec = ProstCodec::<Report, Command>::default();
    Ok(grpc.streaming(request, PathAndQuery::from_static(wire::METHOD), codec).await?.into_inner())
}

async fn converse(mut commands: Streaming<Command>, reports: mpsc::Sender<Report>, admin: &impl Admin) -> Lost {
    let mut answers = Answers { running: JoinSet::new(), open: HashMap::new(), reports };
    loop {
        tokio::select! {
            command = commands.message() => match command {
                Ok(Some(command)) => answers.obey(command, admin),
                Ok(None) => return Lost::Closed,
                Err(status) => return status.into(),
            },
            Some(ended) = answers.running.join_next() => {
                // One that was cancelled is forgotten already, and a panic is in the log.
                if let Ok(id) = ended {
                    answers.open.remove(&id);
                }
            }
        }
    }
}

/// Answers under way on one stream; dropping it ends them.
struct Answers {
    running: JoinSet<u64>,
    open: HashMap<u64, Open>,
    reports: mpsc::Sender<Report>,
}

struct Open {
    task: AbortHandle,
    window: Rc<Window>,
}

impl Answers {
    fn obey(&mut self, command: Command, admin: &impl Admin) {
        match command.told {
            Some(Told::Ask(ask)) => self.ask(ask, admin),
            Some(Told::Cancel(Cancel { id })) => {
                if let Some(open) = self.open.remove(&id) {
                    open.task.abort();
                }
            }
            Some(Told::More(More { id, cost })) => {
                if let Some(open) = self.open.get(&id) {
                    open.window.give(cost);
                }
            }
            // Of a newer control plane.
            None => {}
        }
    }

    fn ask(&mut self, ask: Ask, admin: &impl Admin) {
        let Ask { id, method, path_and_query } = ask;
        // The control plane holds itself to both; a faulty one gets no answer and finds out by its own deadline. Answers
        // that have just ended are still counted here, so there is room for as many again.
        if self.open.len() >= 2 * wire::CONCURRENT || self.open.contains_key(&id) {
            tracing::warn!("the control plane asks for more at a time than {}; left out", wire::CONCURRENT);
            return;
        }
        let window = Rc::new(Window::new());
        let (admin, reports, own) = (admin.clone(), self.reports.clone(), Rc::clone(&window));
        let task = self.running.spawn_local(async move {
            answer::answer(id, &method, &path_and_query, &admin, &own, &reports).await;
            id
        });
        self.open.insert(id, Open { task, window });
    }
}
