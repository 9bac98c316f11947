//! What a worker hands over of a request that is recorded, and the queue between the two threads.
//!
//! A worker must not wait and must not format, so it gives away what the request had gathered: counted references and
//! numbers. A full queue means that the collector does not keep up; then spans are lost, and counted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use leno_config::identity::SpiffeId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::attempt::Protocol;
use crate::cluster::outcome::Outcome;
use crate::cluster::{Cluster, EndpointState};
use crate::error::Flags;
use crate::headers::name::GRPC_STATUS;
use crate::state::snapshot::Listener;
use crate::telemetry::detail::{AttemptDetail, Detail};
use crate::telemetry::observe::Ended;
use crate::tls::exchange::Workload;

use super::Trace;
use super::figures::{Lost, SpanFigures};
use super::id::SpanId;

/// Requests that wait to be sent (OpenTelemetry's batch processor has the same bound).
pub const QUEUE: usize = 2048;

/// The way of spans out of the workers. One per process.
#[derive(Debug)]
pub struct Spans {
    queue: mpsc::Sender<Box<Finished>>,
    /// Until the task takes it that sends.
    inbox: Mutex<Option<mpsc::Receiver<Box<Finished>>>>,
    /// What became of them.
    pub figures: Arc<SpanFigures>,
}

impl Default for Spans {
    fn default() -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE);
        Self { queue, inbox: Mutex::new(Some(inbox)), figures: Arc::default() }
    }
}

impl Spans {
    /// Hands over a request with so many attempts, if there is room; it is made only then.
    pub(super) fn hand_over(&self, attempts: usize, make: impl FnOnce() -> Finished) {
        match self.queue.try_reserve() {
            Ok(room) => room.send(Box::new(make())),
            Err(mpsc::error::TrySendError::Full(())) => self.figures.lost(Lost::QueueFull, 1 + attempts),
            Err(mpsc::error::TrySendError::Closed(())) => self.figures.lost(Lost::Leaving, 1 + attempts),
        }
    }

    /// The end of the queue. Once: the next one gets nothing.
    pub(crate) fn inbox(&self) -> Option<mpsc::Receiver<Box<Finished>>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A request that is over, with all that its spans tell of it.
#[derive(Debug)]
pub struct Finished {
    /// Its place in its trace.
    pub trace: Trace,
    /// By which listener it came: its direction, and where its spans go.
    pub listener: Arc<Listener>,
    /// When it came, by the clock on the wall …
    pub began: SystemTime,
    /// … and by the one that never jumps, which tells when the attempts were.
    pub arrived: Instant,
    /// From its head to the last byte of its answer.
    pub duration: Duration,
    /// As the caller wrote it.
    pub method: Method,
    /// As the caller wrote it.
    pub target: Uri,
    /// What the caller spoke.
    pub version: Version,
    /// As the caller wrote them.
    pub request_headers: HeaderMap,
    /// What became of a gRPC call, from the trailers or, where there was no message, the head of its answer.
    pub grpc_status: Option<HeaderValue>,
    /// The `x-request-id` that went with it.
    pub request_id: Option<HeaderValue>,
    /// Its route, by place in the listener's table.
    pub route: Option<(usize, usize)>,
    /// Where it was sent.
    pub cluster: Option<Arc<Cluster>>,
    /// In order.
    pub attempts: Vec<Attempted>,
    /// What went wrong, as the caller was told.
    pub error: Option<String>,
    /// The status of the answer; 0: there was none.
    pub code: u16,
    /// What went wrong, or was done on purpose.
    pub flags: Flags,
    /// Bytes of its body that came.
    pub request_bytes: u64,
    /// Bytes of the body of its answer that were passed on.
    pub response_bytes: u64,
    /// The address that called.
    pub caller: SocketAddr,
    /// Who called, where that is known.
    pub peer: Option<(SpiffeId, Option<Arc<Workload>>)>,
}

/// One attempt of it, as far as it may leave its thread.
#[derive(Debug)]
pub struct Attempted {
    /// Which, from 1.
    pub number: u32,
    /// Where.
    pub endpoint: Arc<EndpointState>,
    /// Who the endpoint is, where it showed a certificate of the mesh.
    pub identity: Option<SpiffeId>,
    /// When a connection was looked for.
    pub began: Instant,
    /// When it was over, or its answer began; `None`: it was given up.
    pub ended: Option<Instant>,
    /// What became of it.
    pub outcome: Option<Outcome>,
    /// The status of its answer.
    pub status: Option<StatusCode>,
    /// What was spoken.
    pub protocol: Protocol,
    /// The span that stands for it.
    pub span: Option<SpanId>,
}

impl Attempted {
    fn of(detail: AttemptDetail) -> Self {
        let AttemptDetail { number, endpoint, began, ended, outcome, protocol, status, span, peer, local: _ } = detail;
        let identity = peer.map(|peer| peer.id.clone());
        Self { number, endpoint, identity, began, ended, outcome, status, protocol, span }
    }
}

impl Finished {
    pub(super) fn of(ended: Ended, trace: Trace) -> Self {
        let Ended { detail, connection, code, flags, duration, request_bytes, response_bytes, .. } = ended;
        let Detail {
            view,
            began,
            arrived,
            method,
            target,
            version,
            request_headers,
            request_id,
            route,
            cluster,
            attempts,
            response_headers,
            trailers,
            error,
            ..
        } = *detail;
        Self {
            trace,
            listener: Arc::clone(&view.listener),
            began,
            arrived,
            duration,
            method,
            target,
            version,
            request_headers,
            grpc_status: trailers.get(GRPC_STATUS).or_else(|| response_headers.get(GRPC_STATUS)).cloned(),
            request_id,
            route,
            cluster,
            attempts: attempts.into_iter().map(Attempted::of).collect(),
            error,
            code,
            flags,
            request_bytes,
            response_bytes,
            caller: connection.caller,
            peer: connection.peer.as_ref().map(|peer| (peer.id.clone(), peer.workload.clone())),
        }
    }
}
