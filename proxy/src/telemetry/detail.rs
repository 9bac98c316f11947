//! What a log line, a tap or a span tells of a request beyond its figures.
//!
//! Gathered only where somebody wants it ([`ListenerView::wants_detail`](crate::worker::ListenerView::wants_detail)): a
//! request of which nobody asks pays for one branch. What is kept are handles (a header value, a URI and a cluster are
//! counted references), so nothing is formatted before the request has ended.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use tokio::time::Instant;

use crate::cluster::outcome::Outcome;
use crate::cluster::{Cluster, EndpointState};
use crate::worker::ListenerView;

use super::trace::context;
use super::trace::id::{SpanId, TraceId};

/// One request, as far as it has come.
#[derive(Debug)]
pub struct Detail {
    /// The listener as it was when the request came: its log, its tracing, its name.
    pub view: Rc<ListenerView>,
    /// When it came.
    pub began: SystemTime,
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
    /// The trace it belongs to: the caller's, else ours where the listener traces; prints as 32 digits.
    pub trace_id: Option<TraceId>,
    /// The span that stands for it in that trace: our own if it is recorded, else the caller's; prints as 16 digits.
    pub span_id: Option<SpanId>,
    /// Its route, by place in the listener's table.
    pub route: Option<(usize, usize)>,
    /// Where it was sent.
    pub cluster: Option<Arc<Cluster>>,
    /// Each attempt, in order.
    pub attempts: Vec<AttemptDetail>,
    /// From the first attempt to the head of its answer.
    pub upstream_time: Option<Duration>,
    /// As the caller got them.
    pub response_headers: HeaderMap,
    /// The sentence of `x-leno-error`, where the answer was made here because something went wrong.
    pub error: Option<String>,
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
}

impl Detail {
    /// Of a request that has just come.
    pub fn of<B>(view: &Rc<ListenerView>, request: &Request<B>) -> Box<Self> {
        let parent = context::extract(request.headers()).parent;
        Box::new(Self {
            view: Rc::clone(view),
            began: SystemTime::now(),
            method: request.method().clone(),
            target: request.uri().clone(),
            version: request.version(),
            request_headers: request.headers().clone(),
            request_id: None,
            trace_id: parent.map(|parent| parent.trace),
            span_id: parent.map(|parent| parent.span),
            route: None,
            cluster: None,
            attempts: Vec::new(),
            upstream_time: None,
            response_headers: HeaderMap::new(),
            error: None,
        })
    }

    /// What goes to the endpoint is settled.
    pub fn prepared(&mut self, cluster: &Arc<Cluster>, parts: &Parts) {
        self.cluster = Some(Arc::clone(cluster));
        self.request_id = parts.headers.get(crate::headers::name::REQUEST_ID).cloned();
    }
}
