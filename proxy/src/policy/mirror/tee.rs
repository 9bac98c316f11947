//! One body, read by two: the request's own way, which sets the pace, and a copy's, which has to keep up.
//!
//! A frame goes on as soon as it comes, and into the buffer of each copy; bytes are shared, not copied. A copy that lags
//! behind by more than its buffer holds is given up: nobody waits for it, and nothing that goes wrong with it shows on
//! the other side.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::Notify;

use crate::body::{BodyError, RequestBody};

/// What one copy may lag behind, in bytes (Envoy's default buffer limit of a connection).
const MAX_HELD: usize = 1 << 20;
/// What all copies of a worker may lag behind, in bytes.
const MAX_HELD_BY_ALL: usize = 16 << 20;
/// What a frame costs beside its bytes.
const FRAME: usize = 128;
/// Shorter frames are copied: a slice would keep the whole buffer that it was read into.
const SHORT: usize = 512;

/// A body whose frames are copied as they pass.
#[derive(Debug)]
pub struct Tee {
    body: RequestBody,
    feeds: Vec<Feed>,
}

/// Where the frames for one copy are put.
#[derive(Debug)]
struct Feed(Rc<Buffer>);

/// A copy of a body.
#[derive(Debug)]
pub struct Copy {
    buffer: Rc<Buffer>,
    /// Bytes to come, where that is known.
    left: Option<u64>,
}

/// What stands between a body and its copy.
#[derive(Debug)]
pub struct Buffer {
    pieces: RefCell<VecDeque<Piece>>,
    held: Cell<usize>,
    held_by_all: Rc<Cell<usize>>,
    state: Cell<State>,
    /// Of the copy, which waits for a frame.
    waker: RefCell<Option<Waker>>,
    /// Told when no more frames come.
    over: Notify,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More may come.
    Open,
    /// All is here.
    Complete,
    /// The copy lagged behind.
    TooSlow,
    /// The body broke off, or nobody wants the copy any more.
    Broken,
}

impl Tee {
    /// `body`, and as many copies of it. `held_by_all`: what the copies of this worker hold.
    pub fn new(body: RequestBody, copies: usize, held_by_all: &Rc<Cell<usize>>) -> (Self, Vec<Copy>) {
        let left = body.size_hint().exact();
        let buffers: Vec<_> = (0..copies).map(|_| Rc::new(Buffer::new(held_by_all))).collect();
        let copies = buffers.iter().map(|buffer| Copy { buffer: Rc::clone(buffer), left }).collect();
        (Self { body, feeds: buffers.into_iter().map(Feed).collect() }, copies)
    }

    /// The next frame of the body; see [`HttpBody::poll_frame`].
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.feeds.iter().for_each(|feed| feed.0.push(frame));
                // hyper does not ask again behind the last frame.
                if self.body.is_end_stream() {
                    self.end(State::Complete);
                }
            }
            Poll::Ready(None) => self.end(State::Complete),
            Poll::Ready(Some(Err(_))) => self.end(State::Broken),
            Poll::Pending => {}
        }
        polled
    }

    /// The body itself.
    pub fn body(&self) -> &RequestBody {
        &self.body
    }

    fn end(&mut self, state: State) {
        self.feeds.iter().for_each(|feed| feed.0.end(state));
    }
}

/// Whoever has the body may let it go before its end.
impl Drop for Feed {
    fn drop(&mut self) {
        self.0.end(State::Broken);
    }
}

impl Buffer {
    fn new(held_by_all: &Rc<Cell<usize>>) -> Self {
        Self {
            pieces: RefCell::default(),
            held: Cell::new(0),
            held_by_all: Rc::clone(held_by_all),
            state: Cell::new(State::Open),
            waker: RefCell::default(),
            over: Notify::new(),
        }
    }

    /// Ready when no more frames come. One may wait.
    pub async fn over(&self) {
        if self.state.get() == State::Open {
            self.over.notified().await;
        }
    }

    /// Whether the copy was given up because it lagged behind.
    pub fn was_too_slow(&self) -> bool {
        self.state.get() == State::TooSlow
    }

    fn push(&self, frame: &Frame<Bytes>) {
        if self.state.get() != State::Open {
            return;
        }
        let (piece, length) = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) if data.len() < SHORT => (Piece::Data(Bytes::copy_from_slice(data)), data.len()),
            (Some(data), _) => (Piece::Data(data.clone()), data.len()),
            (None, Some(trailers)) => (Piece::Trailers(trailers.clone()), 0),
            (None, None) => return,
        };
        let cost = length + FRAME;
        if self.held.get() + cost > MAX_HELD || self.held_by_all.get() + cost > MAX_HELD_BY_ALL {
            return self.end(State::TooSlow);
        }
        self.hold(cost);
        self.pieces.borrow_mut().push_back(piece);
        self.wake();
    }

    fn pop(&self) -> Option<Piece> {
        let piece = self.pieces.borrow_mut().pop_front()?;
        let length = match &piece {
            Piece::Data(data) => data.len(),
            Piece::Trailers(_) => 0,
        };
        self.release(length + FRAME);
        Some(piece)
    }

    /// No more frames come; the first word stays.
    fn end(&self, state: State) {
        if self.state.get() != State::Open {
            return;
        }
        self.state.set(state);
        if state != State::Complete {
            self.pieces.borrow_mut().clear();
            self.release(self.held.get());
        }
        self.wake();
        self.over.notify_one();
    }

    fn hold(&self, cost: usize) {
        self.held.set(self.held.get() + cost);
        self.held_by_all.set(self.held_by_all.get() + cost);
    }

    fn release(&self, cost: usize) {
        self.held.set(self.held.get().saturating_sub(cost));
        self.held_by_all.set(self.held_by_all.get().saturating_sub(cost));
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release(self.held.get());
    }
}

impl Copy {
    /// What it is fed through.
    pub fn buffer(&self) -> Rc<Buffer> {
        Rc::clone(&self.buffer)
    }

    /// The next frame; see [`HttpBody::poll_frame`].
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.buffer.pop() {
            Some(Piece::Data(data)) => {
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Piece::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None => match self.buffer.state.get() {
                State::Complete => Poll::Ready(None),
                State::TooSlow | State::Broken => Poll::Ready(Some(Err(BodyError::CopyGivenUp))),
                State::Open => {
                    *self.buffer.waker.borrow_mut() = Some(context.waker().clone());
                    Poll::Pending
                }
            },
        }
    }

    /// Whether all of it has been read.
    pub fn is_end_stream(&self) -> bool {
        self.buffer.state.get() == State::Complete && self.buffer.pieces.borrow().is_empty()
    }

    /// As that of the body.
    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Nobody reads on: what comes is not kept.
impl Drop for Copy {
    fn drop(&mut self) {
        self.buffer.end(State::Broken);
        self.buffer.pieces.borrow_mut().clear();
        self.buffer.release(self.buffer.held.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(held: &Rc<Cell<usize>>) -> (Feed, Copy) {
        let buffer = Rc::new(Buffer::new(held));
        (Feed(Rc::clone(&buffer)), Copy { buffer, left: None })
    }

    fn data(length: usize) -> Frame<Bytes> {
        Frame::data(Bytes::from(vec![7; length]))
    }

    /// The lengths of the frames that are there, and how it ends: `Some(true)` well, `None` not yet.
    fn read(copy: &mut Copy) -> (Vec<usize>, Option<bool>) {
        let mut context = Context::from_waker(Waker::noop());
        let mut lengths = Vec::new();
        loop {
            match copy.poll_frame(&mut context) {
                Poll::Ready(Some(Ok(frame))) => lengths.push(frame.data_ref().map_or(0, Bytes::len)),
                Poll::Ready(Some(Err(_))) => return (lengths, Some(false)),
                Poll::Ready(None) => return (lengths, Some(true)),
                Poll::Pending => return (lengths, None),
            }
        }
    }

    #[test]
    fn a_copy_gets_every_frame_and_the_end() {
        let held = Rc::default();
        let (feed, mut copy) = pair(&held);
        feed.0.push(&data(3));
        feed.0.push(&data(1000));
        assert_eq!(read(&mut copy), (vec![3, 1000], None));
        feed.0.push(&Frame::trailers(HeaderMap::new()));
        feed.0.end(State::Complete);
        assert!(!copy.is_end_stream());
        assert_eq!(read(&mut copy), (vec![0], Some(true)));
        assert!(copy.is_end_stream() && !copy.buffer.was_too_slow());
        assert_eq!(held.get(), 0);
    }

    #[test]
    fn a_copy_that_lags_behind_is_given_up_and_holds_nothing() {
        let held = Rc::default();
        let (feed, mut copy) = pair(&held);
        let frames = MAX_HELD / (1000 + FRAME);
        for _ in 0..frames {
            feed.0.push(&data(1000));
        }
        assert_eq!(held.get(), frames * (1000 + FRAME));
        assert!(!copy.buffer.was_too_slow());
        feed.0.push(&data(1000));
        assert!(copy.buffer.was_too_slow());
        assert_eq!((read(&mut copy), held.get()), ((vec![], Some(false)), 0));
    }

    #[test]
    fn all_copies_together_hold_so_much_and_no_more() {
        let held = Rc::default();
        let pairs: Vec<_> = (0..64).map(|_| pair(&held)).collect();
        for (feed, _) in &pairs {
            feed.0.push(&data(MAX_HELD / 2));
        }
        assert!(held.get() <= MAX_HELD_BY_ALL && held.get() > MAX_HELD_BY_ALL - MAX_HELD);
        let given_up = pairs.iter().filter(|(_, copy)| copy.buffer.was_too_slow()).count();
        assert_eq!(given_up, 64 - MAX_HELD_BY_ALL / (MAX_HELD / 2 + FRAME));
        drop(pairs);
        assert_eq!(held.get(), 0);
    }

    #[test]
    fn a_body_that_breaks_off_breaks_its_copy_and_a_copy_that_ends_is_fed_no_more() {
        let held = Rc::default();
        let (feed, mut copy) = pair(&held);
        feed.0.push(&data(3));
        drop(feed);
        assert_eq!(read(&mut copy), (vec![], Some(false)));
        let (feed, copy) = pair(&held);
        feed.0.push(&data(3));
        drop(copy);
        feed.0.push(&data(3));
        assert_eq!((held.get(), feed.0.pieces.borrow().len()), (0, 0));
    }
}
