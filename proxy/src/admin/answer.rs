//! Answers of the admin interface: a text that is there, or one that comes bit by bit.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::query::QueryError;

/// The longest text that is made as a whole; who wants more has to ask for a part of it.
const MAX_TEXT: usize = 64 << 20;

/// An answer.
pub type Answer = Response<AdminBody>;

/// Its body.
#[derive(Debug)]
pub struct AdminBody(Content);

#[derive(Debug)]
enum Content {
    /// `None` once it is taken.
    Whole(Option<Bytes>),
    /// Ends when the sender is dropped.
    Stream(mpsc::Receiver<Bytes>),
}

impl AdminBody {
    /// A body that comes bit by bit, until the other end is dropped. Who reads no more drops this, and the sender hears of
    /// it.
    pub fn stream(bits: mpsc::Receiver<Bytes>) -> Self {
        Self(Content::Stream(bits))
    }

    /// All of it; `None`: it comes bit by bit.
    pub fn into_whole(self) -> Option<Bytes> {
        match self.0 {
            Content::Whole(whole) => Some(whole.unwrap_or_default()),
            Content::Stream(_) => None,
        }
    }

    /// Whether it comes bit by bit, perhaps for minutes.
    pub fn is_stream(&self) -> bool {
        matches!(self.0, Content::Stream(_))
    }
}

impl From<Bytes> for AdminBody {
    fn from(whole: Bytes) -> Self {
        Self(Content::Whole(Some(whole)))
    }
}

impl http_body::Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Content::Whole(whole) => Poll::Ready(whole.take().map(|whole| Ok(Frame::data(whole)))),
            Content::Stream(bits) => bits.poll_recv(context).map(|bit| bit.map(|bit| Ok(Frame::data(bit)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Content::Whole(whole) if whole.as_ref().is_none_or(Bytes::is_empty))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(whole) => SizeHint::with_exact(whole.as_ref().map_or(0, |whole| whole.len() as u64)),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

/// Words for a person.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

/// All is well, and there is no more to say.
pub(super) fn ok() -> Answer {
    text(StatusCode::OK, "OK\n")
}

/// JSON, for programs and for eyes.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Answer {
    let mut out = Bounded::default();
    match serde_json::to_writer_pretty(&mut out, value) {
        Ok(()) => {
            out.text.push(b'\n');
            with_type(StatusCode::OK, "application/json", out.text)
        }
        Err(error) if error.is_io() => too_long(),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer cannot be written: {error}\n")),
    }
}

/// A text of many lines.
pub(super) fn lines(body: String) -> Answer {
    if body.len() > MAX_TEXT { too_long() } else { text(StatusCode::OK, body) }
}

/// Any text.
pub(super) fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(AdminBody::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // What is asked again is meant to be fresh, and no browser is to guess that a text is a page.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl From<QueryError> for Answer {
    fn from(error: QueryError) -> Self {
        text(StatusCode::BAD_REQUEST, format!("{error}\n"))
    }
}

fn too_long() -> Answer {
    let says = format!("the answer would be longer than {} MiB; ask for a part of it, see /help\n", MAX_TEXT >> 20);
    text(StatusCode::PAYLOAD_TOO_LARGE, says)
}

/// Takes no more than [`MAX_TEXT`].
#[derive(Default)]
struct Bounded {
    text: Vec<u8>,
}

impl fmt::Debug for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.text.len())
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > MAX_TEXT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
