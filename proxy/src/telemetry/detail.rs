//! What a log line, a tap or a span tells of a request beyond its figures.
//!
//! Gathered only where somebody wants it ([`ListenerView::wants_detail`](crate::worker::ListenerView::wants_detail)): a
//! request of which nobody asks pays for one branch. What is kept are handles (a header value, a URI and a cluster are
//! counted references), so nothing is formatted before the request has ended.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use tokio::time::Instant;

use crate::attempt::Protocol;
use crate::cluster::outcome::Outcome;
use crate::cluster::{Cluster, EndpointState};
use crate::downstream::Connection;
use crate::error::ProxyError;
use crate::tls::peer::Peer;
use crate::worker::ListenerView;

use super::trace::id::{SpanId, TraceId};
use super::trace::{self, Trace, context};

/// One request, as far as it has come.
#[derive(Debug)]
pub struct Detail {
    /// The listener as it was when the request came: its log, its tracing, its name.
    pub view: Rc<ListenerView>,
    /// When it came.
    pub began: SystemTime,
    /// The same moment, by the clock that never jumps.
    pub arrived: Instant,
    /// As the caller wrote it.
    pub method: Method,
    /// As the caller wrote it, before any rewrite.
    pub target: Uri,
    /// What the caller spoke.
    pub version: Version,
    /// As the caller wrote them, `Host` included.
    pub request_headers: HeaderMap,
    /// The `x-request-id` that goes with it, the caller's or ours.
    pub request_id: Option<HeaderValue>,
    /// Its place in its trace, where the listener traces.
    pub trace: Option<Trace>,
    /// The trace it belongs to: the caller's, else ours where the listener traces; prints as 32 digits.
    pub trace_id: Option<TraceId>,
    /// The span that stands for it in that trace: our own if it is recorded, else the caller's; prints as 16 digits.
    pub span_id: Option<SpanId>,
    /// Its route, by place in the listener's table.
    pub route: Option<(usize, usize)>,
    /// Where it was sent.
    pub cluster: Option<Arc<Cluster>>,
    /// Each attempt, in order; known when it has ended.
    pub attempts: Vec<AttemptDetail>,
    /// The attempts while they are made.
    pub seen: Rc<Seen>,
    /// From the first attempt to the head of its answer.
    pub upstream_time: Option<Duration>,
    /// As the caller got them.
    pub response_headers: HeaderMap,
    /// What followed the body of the answer.
    pub trailers: HeaderMap,
    /// The sentence of `x-leno-error`, where the answer was made here because something went wrong.
    pub error: Option<String>,
    /// The same in one word of Envoy's ([`crate::error::details`]).
    pub code_details: Option<Cow<'static, str>>,
    /// Why TLS with the endpoint failed.
    pub transport_failure: Option<String>,
}

/// One attempt at one endpoint.
#[derive(Debug, Clone)]
pub struct AttemptDetail {
    /// Which, from 1.
    pub number: u32,
    /// Where.
    pub endpoint: Arc<EndpointState>,
    /// When a connection was looked for.
    pub began: Instant,
    /// When it was over, or its answer began; `None`: it was given up.
    pub ended: Option<Instant>,
    /// What became of it.
    pub outcome: Option<Outcome>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Where its connection begins; `None`: there was none.
    pub local: Option<SocketAddr>,
    /// Who the endpoint is, where it showed a certificate of the mesh.
    pub peer: Option<Rc<Peer>>,
    /// The status of its answer.
    pub status: Option<StatusCode>,
    /// The span that stands for it, where the request is recorded.
    pub span: Option<SpanId>,
}

/// The attempts of a request while they are made. Apart from the rest, since whoever makes them may be dropped in the
/// middle, when the caller leaves, and what was sent until then shall be told all the same.
#[derive(Debug, Default)]
pub struct Seen {
    /// So far.
    pub attempts: RefCell<Vec<AttemptDetail>>,
    /// Of which trace they tell their endpoints; `None`: of none that is recorded.
    pub trace: Option<Trace>,
}

impl Seen {
    /// Does something to the one under way.
    pub fn last(&self, change: impl FnOnce(&mut AttemptDetail)) {
        if let Some(last) = self.attempts.borrow_mut().last_mut() {
            change(last);
        }
    }
}

impl Detail {
    /// Of a request that has just come: decides whether it is traced, and says so in its headers. `None`: nobody wants to
    /// know of it.
    pub fn begin<B>(connection: &Connection, view: &Rc<ListenerView>, request: &mut Request<B>) -> Option<Box<Self>> {
        let trace = trace::begin(connection, view, request.headers());
        let is_told = view.wants_detail() || connection.worker.taps.any() || trace.is_some_and(|it| it.is_sampled());
        let detail = is_told.then(|| Self::of(view, request, trace));
        if let Some(trace) = trace {
            trace.write(request.headers_mut());
        }
        detail
    }

    fn of<B>(view: &Rc<ListenerView>, request: &Request<B>, trace: Option<Trace>) -> Box<Self> {
        let parent = context::extract(request.headers()).parent;
        let own = trace.map(|trace| (trace.context.trace, trace.context.span));
        let (trace_id, span_id) = own.or(parent.map(|parent| (parent.trace, parent.span))).unzip();
        Box::new(Self {
            view: Rc::clone(view),
            began: SystemTime::now(),
            arrived: Instant::now(),
            method: request.method().clone(),
            target: request.uri().clone(),
            version: request.version(),
            request_headers: request.headers().clone(),
            request_id: None,
            trace,
            trace_id,
            span_id,
            route: None,
            cluster: None,
            attempts: Vec::new(),
            seen: Rc::new(Seen { attempts: RefCell::default(), trace: trace.filter(Trace::is_sampled) }),
            upstream_time: None,
            response_headers: HeaderMap::new(),
            trailers: HeaderMap::new(),
            error: None,
            code_details: None,
            transport_failure: None,
        })
    }

    /// It has ended.
    pub fn finish(&mut self) {
        self.attempts = self.seen.attempts.take();
    }

    /// It is answered here because something went wrong.
    pub fn failed(&mut self, error: &ProxyError) {
        self.error = Some(error.to_string());
        self.code_details = Some(error.details());
        self.transport_failure = error.transport_failure().map(str::to_owned);
    }

    /// What goes to the endpoint is settled.
    pub fn prepared(&mut self, cluster: &Arc<Cluster>, parts: &Parts) {
        self.cluster = Some(Arc::clone(cluster));
        self.request_id = parts.headers.get(crate::headers::name::REQUEST_ID).cloned();
    }
}
