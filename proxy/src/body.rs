//! Bodies on their way through.
//!
//! One enum a direction, no boxes: a body is polled in place, frame by frame, so that back-pressure reaches from one
//! side to the other and a gigabyte passes through a few pages of memory.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::attempt::replay::{Replay, ReplayError};
use crate::cluster::InFlight;
use crate::cluster::limits::Permit;
use crate::downstream::Flow;
use crate::error::Flag;
use crate::policy::grant::Grant;
use crate::policy::mirror::tee::{Copy, Tee};
use crate::sanitize;
use crate::stream_limits::{Overdue, Watch};
use crate::telemetry::{Meter, RequestRecord};
use crate::upstream::pool::Lease;
use crate::upstream::send::broken_off;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side failed.
    #[error("the body ended early")]
    Peer(#[source] hyper::Error),
    /// The route's timeout, after the head of the answer had been passed on.
    #[error("the route's timeout ended the response")]
    TimedOut,
    /// A limit of the listener for one stream.
    #[error("the stream was idle for too long, or has lasted too long")]
    Overdue(Overdue),
    /// The copy of a request lagged behind, or its request broke off.
    #[error("the copy of the request was given up")]
    CopyGivenUp,
    /// The body of an attempt that another one has followed.
    #[error("another attempt is being made")]
    Overtaken,
    /// The request is over before its body: the endpoint has answered, or the caller has gone.
    #[error("the request was over before its body")]
    Answered,
    /// The policies have changed and no longer allow the request.
    #[error("the policies have changed and no longer allow this request")]
    Revoked,
}

/// A request body on its way to an endpoint.
#[derive(Debug)]
pub enum RequestBody {
    /// Nothing.
    Empty,
    /// From the caller.
    Stream {
        /// The frames.
        incoming: Incoming,
        /// Told when the last frame has passed, where somebody waits for it.
        end: Option<RequestEnd>,
        /// When it is revoked, no further frame passes; whoever reads the answer is woken for it.
        grant: Option<Rc<Grant>>,
        /// Counts what passes.
        meter: Rc<Meter>,
        /// Whose turn it is.
        flow: Flow,
    },
    /// From the caller, and kept so that it can be sent again.
    Replay(Replay<Box<Self>>),
    /// One that is copied as it passes.
    Teed(Box<Tee>),
    /// A copy.
    Copy(Box<Copy>),
}

impl RequestBody {
    /// The body of a caller's request; `end` is told when it is complete.
    pub fn new(incoming: Incoming, end: Option<RequestEnd>, record: &mut RequestRecord) -> Self {
        if incoming.is_end_stream() {
            if let Some(end) = end {
                end.signal();
            }
            return Self::Empty;
        }
        let (grant, flow) = (record.grant().cloned(), record.flow());
        Self::Stream { incoming, end, grant, meter: record.has_body(), flow }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream { grant: Some(grant), .. } if grant.is_revoked() => Poll::Ready(Some(Err(BodyError::Revoked))),
            Self::Stream { meter, .. } if meter.is_cut() => Poll::Ready(Some(Err(BodyError::Answered))),
            Self::Stream { incoming, end, meter, flow, .. } => {
                let mut polled = Pin::new(&mut *incoming).poll_frame(context);
                keep_trailers_apart(&mut polled);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        let data = frame.data_ref().map_or(&[][..], |data| data);
                        meter.passed(data);
                        flow.comes(data.len());
                    }
                    Poll::Pending => {
                        flow.waits();
                        meter.waits(context);
                    }
                    Poll::Ready(None | Some(Err(_))) => {}
                }
                if let (Some(end), Poll::Ready(Some(Ok(_)))) = (&end, &polled) {
                    end.touch();
                }
                let ended = matches!(polled, Poll::Ready(None | Some(Err(_)))) || incoming.is_end_stream();
                if ended {
                    meter.ended();
                    if !matches!(polled, Poll::Ready(Some(Err(_)))) {
                        flow.has_come();
                    }
                    if let Some(end) = end.take() {
                        end.signal();
                    }
                }
                polled.map_err(BodyError::Peer)
            }
            Self::Replay(replay) => Pin::new(replay).poll_frame(context).map_err(|error| match error {
                ReplayError::Source(error) => error,
                ReplayError::Overtaken => BodyError::Overtaken,
            }),
            Self::Teed(tee) => tee.poll_frame(context),
            Self::Copy(copy) => copy.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { incoming, .. } => incoming.is_end_stream(),
            Self::Replay(replay) => replay.is_end_stream(),
            Self::Teed(tee) => tee.body().is_end_stream(),
            Self::Copy(copy) => copy.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { incoming, .. } => incoming.size_hint(),
            Self::Replay(replay) => replay.size_hint(),
            Self::Teed(tee) => tee.body().size_hint(),
            Self::Copy(copy) => copy.size_hint(),
        }
    }
}

/// Lets only those trailers pass that nobody can take for a header of the message.
fn keep_trailers_apart<E>(polled: &mut Poll<Option<Result<Frame<Bytes>, E>>>) {
    if let Poll::Ready(Some(Ok(frame))) = polled
        && let Some(trailers) = frame.trailers_mut()
    {
        sanitize::trailers(trailers);
    }
}

/// Told when a request has been received to its end: the route's timeout starts there (Envoy).
#[derive(Debug, Clone, Default)]
pub struct RequestEnd(Rc<RequestEndState>);

#[derive(Debug, Default)]
struct RequestEndState {
    done: Cell<bool>,
    /// When the last frame came.
    moved: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl RequestEnd {
    /// All of it is here.
    pub(crate) fn signal(&self) {
        self.0.done.set(true);
        if let Some(waker) = self.0.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// A part of it is here.
    pub(crate) fn touch(&self) {
        self.0.moved.set(Some(Instant::now()));
    }

    /// When a part of it came last; `None`: only its head.
    pub fn moved(&self) -> Option<Instant> {
        self.0.moved.get()
    }

    /// Whether all of it is here.
    pub fn is_complete(&self) -> bool {
        self.0.done.get()
    }

    /// Ready when the request is complete.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.0.done.get() {
            return Poll::Ready(());
        }
        *self.0.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

/// A response body on its way to the caller.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty {
        /// Counts the request when it is dropped.
        record: Option<Box<RequestRecord>>,
    },
    /// From the endpoint.
    Upstream(UpstreamBody),
    /// Made here.
    Full {
        /// The bytes.
        bytes: Option<Bytes>,
        /// Counts the request when it is dropped.
        record: Option<Box<RequestRecord>>,
        /// Whose turn it is.
        flow: Option<Flow>,
    },
    /// Nothing: what follows the head is not HTTP, and is counted when it ends.
    Tunnel,
}

/// A response body from an endpoint, with what has to happen at its end.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    /// It counts at its endpoint and in its cluster.
    in_use: Option<(InFlight, Permit)>,
    record: Option<Box<RequestRecord>>,
    complete: bool,
    /// All of the request had passed when the head of the answer came.
    request_is_over: bool,
    deadline: Option<Pin<Box<Sleep>>>,
    watch: Option<Box<Watch>>,
    /// Whose turn it is, once there is more than one frame.
    flow: Option<Flow>,
}

impl UpstreamBody {
    /// `lease` goes back to its pool and what is `in_use` is given back when the last frame has passed. `request_is_over`:
    /// all of the request has passed already.
    pub fn new(
        incoming: Incoming,
        lease: Lease,
        in_use: (InFlight, Permit),
        deadline: Option<Pin<Box<Sleep>>>,
        request_is_over: bool,
    ) -> Self {
        let (lease, in_use, record, watch, flow) = (Some(lease), Some(in_use), None, None, None);
        let mut body =
            Self { incoming, lease, in_use, record, complete: false, request_is_over, deadline, watch, flow };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// Within the listener's limits for one stream.
    pub fn watched(mut self, watch: Option<Box<Watch>>) -> Self {
        self.watch = watch.filter(|_| !self.complete);
        self
    }

    /// The response was read to its end: its connection can carry another, unless the request has not: an endpoint that
    /// answers early may take the rest of it for the next one.
    fn finish(&mut self) {
        let record = self.record.as_deref();
        let request_is_over = self.request_is_over || record.is_some_and(RequestRecord::request_is_over);
        self.complete = true;
        self.in_use = None;
        self.deadline = None;
        self.watch = None;
        // The last frame may still wait for room in hyper's hands: its place is given back with the body.
        if let Some(flow) = &mut self.flow {
            flow.hands(0);
        }
        match self.lease.take() {
            Some(Lease::Http1(lease)) if request_is_over => lease.release(),
            Some(Lease::Http1(_) | Lease::Http2(_)) | None => {}
        }
        if let Some(mut record) = self.record.take() {
            record.complete();
        }
    }

    /// Whether the stream is over, after something has `moved` or not.
    fn overdue(&mut self, moved: bool, context: &mut Context<'_>) -> Option<Overdue> {
        let watch = self.watch.as_mut()?;
        if moved {
            watch.touch();
        }
        match watch.poll(context) {
            Poll::Ready(overdue) => Some(overdue),
            Poll::Pending => None,
        }
    }

    /// A frame of so many bytes is handed out, and it is not the last.
    fn hands(&mut self, bytes: usize) {
        if let (None, Some(record)) = (&self.flow, &self.record) {
            self.flow = Some(record.flow());
        }
        if let Some(flow) = &mut self.flow {
            flow.hands(bytes);
        }
    }

    /// The endpoint has no more yet.
    fn is_taken(&mut self) {
        if let Some(flow) = &mut self.flow {
            flow.is_taken();
        }
    }

    fn grant(&self) -> Option<&Rc<Grant>> {
        self.record.as_ref().and_then(|record| record.grant())
    }

    fn flag(&mut self, flag: Flag) {
        if let Some(record) = &mut self.record {
            record.flag(flag);
        }
    }
}

impl Body {
    /// Bytes made here.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            Self::Empty { record: None }
        } else {
            Self::Full { bytes: Some(bytes), record: None, flow: None }
        }
    }

    /// Nothing.
    pub fn empty() -> Self {
        Self::Empty { record: None }
    }

    /// Counts the request when the body has passed.
    pub fn carry(&mut self, mut new: Box<RequestRecord>) {
        match self {
            Self::Empty { record } => *record = Some(new.local()),
            Self::Full { bytes, record, flow } => {
                new.answered(bytes.as_deref().unwrap_or_default());
                *flow = new.stream_flow();
                *record = Some(new.local());
            }
            Self::Upstream(body) if body.complete => body.record = Some(new.local()),
            Self::Upstream(body) => {
                body.flow = new.stream_flow();
                body.record = Some(new);
            }
            // Counted by whoever carries the bytes; the new record has nothing left to count.
            Self::Tunnel => {}
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty { .. } | Self::Tunnel => Poll::Ready(None),
            Self::Full { bytes, .. } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(body) => {
                if let Some(deadline) = &mut body.deadline
                    && deadline.as_mut().poll(context).is_ready()
                {
                    body.flag(Flag::UT);
                    return Poll::Ready(Some(Err(BodyError::TimedOut)));
                }
                if body.grant().is_some_and(|grant| grant.poll_revoked(context).is_ready()) {
                    body.flag(Flag::UAEX);
                    return Poll::Ready(Some(Err(BodyError::Revoked)));
                }
                let mut polled = Pin::new(&mut body.incoming).poll_frame(context);
                keep_trailers_apart(&mut polled);
                if let Some(overdue) = body.overdue(polled.is_ready(), context) {
                    body.flag(overdue.flag());
                    return Poll::Ready(Some(Err(BodyError::Overdue(overdue))));
                }
                if let (Poll::Ready(Some(Ok(frame))), Some(record)) = (&polled, &mut body.record) {
                    match frame.trailers_ref() {
                        Some(trailers) => record.trailed(trailers),
                        None => record.answered(frame.data_ref().map_or(&[], |data| data)),
                    }
                }
                match &polled {
                    Poll::Ready(None) => body.finish(),
                    Poll::Ready(Some(Ok(_))) if body.incoming.is_end_stream() => body.finish(),
                    Poll::Ready(Some(Err(error))) => body.flag(broken_off(error)),
                    Poll::Ready(Some(Ok(frame))) => body.hands(frame.data_ref().map_or(0, Bytes::len)),
                    Poll::Pending => body.is_taken(),
                }
                polled.map_err(BodyError::Peer)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty { .. } | Self::Tunnel => true,
            Self::Full { bytes, .. } => bytes.is_none(),
            Self::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty { .. } | Self::Tunnel => SizeHint::with_exact(0),
            Self::Full { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
