//! What a log line, a tap or a span tells of a request beyond its figures.
//!
//! Gathered only where somebody wants it ([`ListenerView::wants_detail`](crate::worker::ListenerView::wants_detail)): a
//! request of which nobody asks pays for one branch. What is kept are handles (a header value, a URI and a cluster are
//! counted references), so nothing is formatted before the request has ended.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use tokio::time::Instant;

use crate::attempt::Protocol;
use crate::cluster::outcome::Outcome;
use crate::cluster::{Cluster, EndpointState};
use crate::error::ProxyError;
use crate::tls::peer::Peer;
use crate::worker::ListenerView;

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
}

impl Detail {
    /// Of a request that has just come.
    pub fn of<B>(view: &Rc<ListenerView>, request: &Request<B>) -> Box<Self> {
        Box::new(Self {
            view: Rc::clone(view),
            began: SystemTime::now(),
            method: request.method().clone(),
            target: request.uri().clone(),
            version: request.version(),
            request_headers: request.headers().clone(),
            request_id: None,
            route: None,
            cluster: None,
            attempts: Vec::new(),
            upstream_time: None,
            response_headers: HeaderMap::new(),
            trailers: HeaderMap::new(),
            error: None,
            code_details: None,
            transport_failure: None,
        })
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
