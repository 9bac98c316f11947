//! One answer of a proxy, as the body of an HTTP response.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::line::{Line, Piece};

/// An answer under way. Whoever drops it, ends it: the proxy is told, and its place is free.
///
/// There is no deadline between two pieces: a tap is silent while nothing happens. What ends it is its reader, who leaves,
/// or the connection with the proxy, on which pings find out within a minute that nobody is there.
#[derive(Debug)]
pub(crate) struct Answer {
    line: Arc<Line>,
    id: u64,
    pieces: mpsc::Receiver<Piece>,
    /// Among the answers that are passed on at a time.
    place: Option<OwnedSemaphorePermit>,
}

impl Answer {
    pub(super) fn new(line: Arc<Line>, id: u64, pieces: mpsc::Receiver<Piece>) -> Self {
        Self { line, id, pieces, place: None }
    }

    /// The same, holding its place for as long as it lasts.
    pub(super) fn with_place(mut self, place: OwnedSemaphorePermit) -> Self {
        self.place = Some(place);
        self
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.line.forget(self.id);
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match ready!(self.pieces.poll_recv(context)) {
            Some(Piece::Data(data)) => {
                self.line.read(self.id, data.len());
                Some(Ok(Frame::data(data)))
            }
            Some(Piece::End(None)) => None,
            Some(Piece::End(Some(reason))) => {
                Some(Err(io::Error::other(format!("the proxy broke its answer off: {reason}"))))
            }
            None => Some(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the proxy's stream ended in the middle of its answer",
            ))),
        })
    }
}
