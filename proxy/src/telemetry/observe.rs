//! Who hears of a request when it has ended, besides the counters: the access log, taps and traces.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::downstream::Connection;
use crate::error::Flags;
use crate::worker::ListenerView;

use super::detail::Detail;
use super::log;
use super::tcp::Upstream;
use super::trace;

/// A request that has ended, with its last byte or before it.
#[derive(Debug)]
pub struct Ended {
    /// Which request.
    pub detail: Box<Detail>,
    /// How it came.
    pub connection: Rc<Connection>,
    /// The status of the answer; 0: there was none.
    pub code: u16,
    /// What went wrong, or was done on purpose.
    pub flags: Flags,
    /// When its head had come.
    pub started: Instant,
    /// From its head to its last byte; `None`: the rest of it never came.
    pub request_took: Option<Duration>,
    /// From its head to the last byte of its answer.
    pub duration: Duration,
    /// Bytes of its body that came.
    pub request_bytes: u64,
    /// Bytes of the body of its answer that were passed on.
    pub response_bytes: u64,
}

/// Tells everybody who wants to know; the trace last, since it keeps what it is told.
pub fn ended(ended: Ended) {
    log::request(&ended);
    let connection = Rc::clone(&ended.connection);
    connection.worker.taps.ended(&ended, &connection.worker.random);
    trace::ended(ended);
}

/// A TCP connection that has ended. A request that became a tunnel is none: it is told as the request that it was.
#[derive(Debug)]
pub struct ConnectionEnded {
    /// Who called, and where: addresses, certificate, server name.
    pub connection: Rc<Connection>,
    /// The listener as it was when the caller was let in: its name, its direction, its log.
    pub view: Rc<ListenerView>,
    /// When the caller was let in.
    pub began: SystemTime,
    /// From then to the end.
    pub duration: Duration,
    /// What went wrong: `UAEX` a policy said no, `UH` no endpoint, `UF` it could not be reached, `UO` a limit of the
    /// cluster, `NC` no such cluster, `UC` the endpoint broke it off, `DC` the caller did, `SI` it was idle for too long,
    /// `DT` it lasted as long as it may. Nothing: both sides have closed.
    pub flags: Flags,
    /// Bytes that came from the caller.
    pub received: u64,
    /// Bytes that went to the caller.
    pub sent: u64,
    /// Where they went, or would have gone.
    pub upstream: Upstream,
    /// A sentence about what went wrong.
    pub error: Option<String>,
}

/// Tells everybody who wants to know.
pub fn connection_ended(ended: ConnectionEnded) {
    log::connection(&ended);
    let worker = &ended.connection.worker;
    worker.taps.connection_ended(&ended, &worker.random);
}
