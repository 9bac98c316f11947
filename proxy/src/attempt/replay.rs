//! A request body that can be sent again.
//!
//! What has passed is kept as it streams, up to a limit: the frames are shared with those that were sent ([`Bytes`]
//! counts references), so keeping costs a pointer each and no copy. An attempt that fails halfway leaves the rest with the
//! caller; the next one is given what was kept and then goes on where the other stopped. Beyond the limit nothing is kept
//! any more, and the request is sent only this once; so it is when an answer has been passed on, which ends all retrying.
//!
//! ```text
//!  caller ──▶ source ──▶ kept frames ──▶ attempt 1 (overtaken: an error, if its connection still asks)
//!                             └────────▶ attempt 2
//! ```
//!
//! All that reads them lives on one worker's thread; nothing here is locked. Another reader beside the attempts, such as
//! a mirror, is one more cursor over the same frames.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// Kept of one request (`safety.md`).
pub const MOST_KEPT: usize = 64 << 10;
/// Kept of all requests of the process together.
const MOST_KEPT_IN_ALL: usize = 16 << 20;

/// What a frame counts at least.
const SMALLEST_PIECE: usize = 64;

/// What is kept of all requests now.
static KEPT_IN_ALL: AtomicUsize = AtomicUsize::new(0);

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError<E> {
    /// The caller's side failed.
    #[error("the caller's body ended early")]
    Source(#[source] E),
    /// Another attempt has taken over.
    #[error("another attempt is being made")]
    Overtaken,
}

/// The body of one attempt.
#[derive(Debug)]
pub struct Replay<B> {
    shared: Rc<Shared<B>>,
    /// Which attempt it belongs to; only the last may read on.
    turn: u32,
    /// How many frames it has passed on.
    at: usize,
}

/// What makes the next [`Replay`] of a body.
#[derive(Debug)]
pub struct Again<B>(Rc<Shared<B>>);

#[derive(Debug)]
struct Shared<B> {
    source: RefCell<B>,
    /// From the first frame on; `None`: some of it is lost.
    kept: RefCell<Option<Kept>>,
    most: usize,
    turn: Cell<u32>,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: Vec<Piece>,
    bytes: usize,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl<B> Replay<B> {
    /// The first attempt. Of `source`, at most `most` bytes are kept; with 0, it can be sent again as long as nobody has
    /// asked for it.
    pub fn new(source: B, most: usize) -> Self {
        let kept = RefCell::new(Some(Kept::default()));
        Self {
            shared: Rc::new(Shared { source: RefCell::new(source), kept, most, turn: Cell::new(0) }),
            turn: 0,
            at: 0,
        }
    }

    /// What makes the next one.
    pub fn again(&self) -> Again<B> {
        Again(Rc::clone(&self.shared))
    }
}

impl<B> Again<B> {
    /// The body from its beginning; the attempt before is overtaken. `None`: a part of it is lost.
    pub fn replay(self) -> Option<Replay<B>> {
        let Self(shared) = self;
        if shared.kept.borrow().is_none() {
            return None;
        }
        let turn = shared.turn.get().wrapping_add(1);
        shared.turn.set(turn);
        Some(Replay { shared, turn, at: 0 })
    }

    /// There will be no further attempt: what is left just passes.
    pub fn never(self) {
        *self.0.kept.borrow_mut() = None;
    }
}

impl<B> Shared<B> {
    /// Keeps a frame that passes, if it fits.
    fn keep(&self, frame: &Frame<Bytes>) {
        let mut kept = self.kept.borrow_mut();
        let Some(all) = kept.as_mut() else { return };
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        if !all.add(piece, self.most) {
            *kept = None;
        }
    }
}

impl Kept {
    /// Whether it fits.
    fn add(&mut self, piece: Piece, most: usize) -> bool {
        let size = piece.size();
        if self.bytes + size > most {
            return false;
        }
        self.bytes += size;
        let before = KEPT_IN_ALL.fetch_add(size, Ordering::Relaxed);
        self.pieces.push(piece);
        before + size <= MOST_KEPT_IN_ALL
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT_IN_ALL.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Piece {
    /// What it counts: at least what it takes to keep it at all, so that many tiny frames are not for nothing.
    fn size(&self) -> usize {
        let bytes = match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
        };
        bytes.max(SMALLEST_PIECE)
    }

    fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data.clone()),
            Self::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> Replay<B> {
    fn is_overtaken(&self) -> bool {
        self.turn != self.shared.turn.get()
    }

    /// Bytes and frames that were kept and not yet passed on by this one.
    fn left(&self) -> (u64, usize) {
        let kept = self.shared.kept.borrow();
        let left = kept.as_ref().and_then(|kept| kept.pieces.get(self.at..)).unwrap_or_default();
        let bytes = left.iter().map(|piece| match piece {
            Piece::Data(data) => data.remaining() as u64,
            Piece::Trailers(_) => 0,
        });
        (bytes.sum(), left.len())
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Replay<B> {
    type Data = Bytes;
    type Error = ReplayError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.is_overtaken() {
            return Poll::Ready(Some(Err(ReplayError::Overtaken)));
        }
        let next = this.shared.kept.borrow().as_ref().and_then(|kept| Some(kept.pieces.get(this.at)?.frame()));
        if let Some(frame) = next {
            this.at += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = Pin::new(&mut *this.shared.source.borrow_mut()).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.shared.keep(frame);
                this.at += 1;
            }
            // What the caller has broken off cannot be sent again as a whole.
            Poll::Ready(Some(Err(_))) => *this.shared.kept.borrow_mut() = None,
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled.map_err(ReplayError::Source)
    }

    fn is_end_stream(&self) -> bool {
        !self.is_overtaken() && self.left().1 == 0 && self.shared.source.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (left, source) = (self.left().0, self.shared.source.borrow().size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = source.upper() {
            hint.set_upper(upper + left);
        }
        hint.set_lower(source.lower() + left);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use super::*;

    /// Frames of a caller; an empty text stands for the trailers.
    #[derive(Debug, Default)]
    struct Caller(VecDeque<&'static str>);

    impl HttpBody for Caller {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|text| match text {
                "" => Ok(Frame::trailers([(http::header::ETAG, "x".parse().unwrap())].into_iter().collect())),
                text => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
            }))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|text| text.len() as u64).sum())
        }
    }

    fn body(frames: &[&'static str], most: usize) -> Replay<Caller> {
        Replay::new(Caller(frames.iter().copied().collect()), most)
    }

    /// The next frame: `None` at the end, an error as `!`, trailers as an empty text.
    fn next(body: &mut Replay<Caller>) -> Option<String> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(body).poll_frame(&mut context) {
            Poll::Ready(None) => None,
            Poll::Ready(Some(Ok(frame))) => {
                Some(frame.into_data().map_or(String::new(), |data| String::from_utf8(data.to_vec()).unwrap()))
            }
            Poll::Ready(Some(Err(_))) => Some("!".to_owned()),
            Poll::Pending => panic!("a caller that has everything ready"),
        }
    }

    fn rest(body: &mut Replay<Caller>) -> Vec<String> {
        std::iter::from_fn(|| next(body)).take(10).collect()
    }

    #[test]
    fn an_attempt_goes_on_where_the_one_before_stopped_after_what_that_one_had() {
        let mut first = body(&["a", "b", "c", ""], 1000);
        let again = first.again();
        assert_eq!((next(&mut first), next(&mut first)), (Some("a".to_owned()), Some("b".to_owned())));
        let mut second = again.replay().unwrap();
        assert_eq!(second.size_hint().exact(), Some(3));
        let again = second.again();
        assert_eq!(rest(&mut second), ["a", "b", "c", ""]);
        assert!(second.is_end_stream());
        let mut third = again.replay().unwrap();
        assert!(!third.is_end_stream());
        assert_eq!(rest(&mut third), ["a", "b", "c", ""]);
    }

    #[test]
    fn an_attempt_that_was_overtaken_takes_nothing_away() {
        let mut first = body(&["a", "b"], 1000);
        let again = first.again();
        next(&mut first);
        let mut second = again.replay().unwrap();
        assert_eq!(next(&mut first), Some("!".to_owned()));
        assert!(!first.is_end_stream(), "its connection must not take it for complete");
        assert_eq!(rest(&mut second), ["a", "b"]);
    }

    #[test]
    fn what_is_too_large_passes_and_cannot_be_sent_again() {
        let mut first = body(&["abc", "def", "ghi"], 2 * SMALLEST_PIECE - 1);
        let again = first.again();
        next(&mut first);
        next(&mut first);
        assert!(again.replay().is_none());
        assert_eq!(rest(&mut first), ["ghi"]);
    }

    #[test]
    fn with_nothing_kept_it_can_be_sent_again_until_somebody_has_asked_for_it() {
        let first = body(&["abc"], 0);
        let mut second = first.again().replay().unwrap();
        let again = second.again();
        assert_eq!(rest(&mut second), ["abc"]);
        assert!(again.replay().is_none());
    }

    #[test]
    fn after_the_last_attempt_nothing_is_kept() {
        let mut only = body(&["abc", "def"], 1000);
        next(&mut only);
        only.again().never();
        assert_eq!(rest(&mut only), ["def"]);
        assert!(only.again().replay().is_none());
    }
}
