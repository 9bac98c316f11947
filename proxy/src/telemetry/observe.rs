//! Who hears of a request when it has ended, besides the counters: the access log, taps and traces.

use std::rc::Rc;
use std::time::Duration;

use crate::downstream::Connection;
use crate::error::Flags;

use super::detail::Detail;

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
    /// From its head to the last byte of its answer.
    pub duration: Duration,
    /// Bytes of its body that came.
    pub request_bytes: u64,
    /// Bytes of the body of its answer that were passed on.
    pub response_bytes: u64,
}

/// Tells everybody who wants to know.
pub fn ended(_ended: Ended) {}
