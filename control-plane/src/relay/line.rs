//! One proxy's stream, without IO: questions under way, what is to be told to the proxy, what it answered.
//!
//! There is no queue of commands. What is to be told follows from the questions: one that was not sent yet, one that
//! nobody waits for any more, one whose answer was read. So a proxy that does not read costs nothing but the few questions
//! that may be under way, and nothing can overtake or be lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use leno_config::node::Node;
use leno_proxy::relay::wire::{self, Ask, Cancel, Chunk, Command, End, Head, More, Report, Said, Told};
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::Status;

use super::answer::Answer;

/// From a question to the head of its answer. A proxy answers from memory, so only one that hangs takes longer.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer that is passed on, in bytes.
const LARGEST_ANSWER: u64 = 256 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum AskError {
    /// Too many questions at a time.
    #[error("{} questions to this proxy are under way already; try again when one has ended", wire::CONCURRENT)]
    Busy,
    /// No head in time.
    #[error("the proxy did not answer within {} s; is its machine overloaded?", HEAD_DEADLINE.as_secs())]
    Silent,
    /// It went away.
    #[error("the proxy's stream ended before it answered; it connects again by itself, so try again")]
    Gone,
    /// Not HTTP.
    #[error("the proxy answered with the status {0}, which is none of HTTP")]
    Status(u32),
}

/// A connected proxy.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) node: Node,
    /// Its node's id.
    pub(crate) id: String,
    calls: Mutex<Calls>,
    /// There is something to tell.
    wake: Notify,
}

#[derive(Debug, Default)]
struct Calls {
    next: u64,
    open: BTreeMap<u64, Call>,
    /// Sent, and not wanted any more. No more than were open at a time: the next one is sent after these.
    cancelled: Vec<u64>,
    /// The stream is over.
    closed: bool,
}

/// A question under way.
#[derive(Debug)]
struct Call {
    /// `None` once it is sent.
    unsent: Option<Ask>,
    /// `None` once the head is there.
    head: Option<oneshot::Sender<Head>>,
    pieces: mpsc::Sender<Piece>,
    /// What the proxy may still send, by its cost.
    allowed: u32,
    /// What was read and not given back yet.
    owed: u32,
    /// Bytes of the answer so far.
    answered: u64,
}

/// A part of an answer.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    /// The last; with a reason where it is not whole.
    End(Option<String>),
}

impl Line {
    /// A proxy that has just said who it is.
    pub(crate) fn new(node: Node) -> Arc<Self> {
        Arc::new(Self { id: node.id(), node, calls: Mutex::default(), wake: Notify::new() })
    }

    /// Asks, and returns when the head of the answer is there. Dropping the answer ends it at the proxy too.
    pub(crate) async fn ask(self: &Arc<Self>, method: &str, path_and_query: &str) -> Result<(Head, Answer), AskError> {
        self.ask_within(HEAD_DEADLINE, method, path_and_query).await
    }

    pub(super) async fn ask_within(
        self: &Arc<Self>,
        deadline: Duration,
        method: &str,
        path_and_query: &str,
    ) -> Result<(Head, Answer), AskError> {
        let (sender, head) = oneshot::channel();
        // One more than there can be chunks, for the end.
        let (pieces, received) = mpsc::channel(wire::CHUNKS + 1);
        let id = self.calls().open(method, path_and_query, sender, pieces)?;
        let answer = Answer::new(Arc::clone(self), id, received);
        self.wake.notify_one();
        let head = tokio::time::timeout(deadline, head).await.map_err(|_| AskError::Silent)?;
        Ok((head.map_err(|_| AskError::Gone)?, answer))
    }

    /// Resolves when there may be something to tell.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The next thing to tell the proxy.
    pub(super) fn next_command(&self) -> Option<Command> {
        self.calls().next_command().map(Command::from)
    }

    /// Takes what the proxy says. An error ends the stream: the proxy does not keep to what was agreed.
    pub(super) fn on_report(&self, report: Report) -> Result<(), Status> {
        match report.said {
            Some(Said::Node(_)) => Err(Status::invalid_argument("a stream says once whose it is")),
            Some(Said::Head(head)) => {
                self.calls().on_head(head);
                Ok(())
            }
            Some(Said::Chunk(chunk)) => self.calls().on_chunk(chunk),
            Some(Said::End(End { id, error })) => {
                self.calls().end(id, (!error.is_empty()).then_some(error));
                Ok(())
            }
            // Of a newer proxy.
            None => Ok(()),
        }
    }

    /// The stream is over; whoever waits hears of it.
    pub(super) fn close(&self) {
        let mut calls = self.calls();
        calls.closed = true;
        calls.open.clear();
    }

    /// So much of an answer was read.
    pub(super) fn read(&self, id: u64, bytes: usize) {
        let mut calls = self.calls();
        let Some(call) = calls.open.get_mut(&id) else { return };
        call.owed = call.owed.saturating_add(wire::cost(bytes));
        if call.is_owed_enough() {
            self.wake.notify_one();
        }
    }

    /// Nobody reads an answer any more.
    pub(super) fn forget(&self, id: u64) {
        self.calls().cancel(id);
        self.wake.notify_one();
    }

    /// For a moment, never across an await. What is behind the lock is whole between two statements.
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// Giving back half a window at a time keeps the proxy sending and the commands few.
    fn is_owed_enough(&self) -> bool {
        self.owed >= wire::WINDOW / 2
    }
}

impl Calls {
    fn open(
        &mut self,
        method: &str,
        path_and_query: &str,
        head: oneshot::Sender<Head>,
        pieces: mpsc::Sender<Piece>,
    ) -> Result<u64, AskError> {
        if self.closed {
            return Err(AskError::Gone);
        }
        if self.open.len() + self.cancelled.len() >= wire::CONCURRENT {
            return Err(AskError::Busy);
        }
        let id = self.next;
        self.next += 1;
        let ask = Ask { id, method: method.to_owned(), path_and_query: path_and_query.to_owned() };
        let call = Call { unsent: Some(ask), head: Some(head), pieces, allowed: wire::WINDOW, owed: 0, answered: 0 };
        self.open.insert(id, call);
        Ok(id)
    }

    fn next_command(&mut self) -> Option<Told> {
        if let Some(id) = self.cancelled.pop() {
            return Some(Told::Cancel(Cancel { id }));
        }
        if let Some(ask) = self.open.values_mut().find_map(|call| call.unsent.take()) {
            return Some(Told::Ask(ask));
        }
        let (id, call) = self.open.iter_mut().find(|(_, call)| call.is_owed_enough())?;
        let cost = std::mem::take(&mut call.owed);
        call.allowed = call.allowed.saturating_add(cost);
        Some(Told::More(More { id: *id, cost }))
    }

    fn on_head(&mut self, head: Head) {
        // None: cancelled while this was on its way.
        let waiting = self.open.get_mut(&head.id).and_then(|call| call.head.take());
        if let Some(waiting) = waiting {
            // Who does not wait any more has dropped the answer, too.
            let _ = waiting.send(head);
        }
    }

    fn on_chunk(&mut self, Chunk { id, data }: Chunk) -> Result<(), Status> {
        let Some(call) = self.open.get_mut(&id) else { return Ok(()) };
        let cost = wire::cost(data.len());
        let within = call.allowed.checked_sub(cost).filter(|_| data.len() <= wire::LARGEST_CHUNK);
        call.allowed = within.ok_or_else(|| {
            Status::resource_exhausted("an answer came faster than it was read; this is a fault in leno-proxy")
        })?;
        call.answered = call.answered.saturating_add(data.len() as u64);
        if call.answered > LARGEST_ANSWER {
            self.end(id, Some(format!("it is longer than {} MiB", LARGEST_ANSWER >> 20)));
            self.cancelled.push(id);
            return Ok(());
        }
        // There is room: what was sent and not read yet fits into a window. Who reads no more will say so.
        let _ = call.pieces.try_send(Piece::Data(data));
        Ok(())
    }

    fn end(&mut self, id: u64, error: Option<String>) {
        if let Some(call) = self.open.remove(&id) {
            let _ = call.pieces.try_send(Piece::End(error));
        }
    }

    fn cancel(&mut self, id: u64) {
        let sent = self.open.remove(&id).is_some_and(|call| call.unsent.is_none());
        if sent && !self.closed {
            self.cancelled.push(id);
        }
    }
}
