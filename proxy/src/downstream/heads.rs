//! How much of a head is taken: fields, bytes, the target, and all heads of an HTTP/2 connection together.
//!
//! HTTP/1.1 is bounded while it is read, by hyper. In HTTP/2 a byte can stand for a field of 4 KiB that the decoder
//! remembers (the "HTTP/2 bomb"): h2 bounds the bytes of one list, nobody their number, and nobody what a hundred streams
//! hold together. So fields are counted here, and what the heads of a connection take while they are under way.

use std::rc::Rc;

use http::request::Parts;
use http::{Request, StatusCode};

use crate::error::ProxyError;
use crate::overload::reached::Reached;

use super::{Connection, Life};

/// What a field takes besides its bytes (RFC 9113 §6.5.2).
const FIELD: usize = 32;
/// Heads that are too much, on one connection: after so many it is asked to end, and after so many it ends. A few are the
/// mistake of somebody who shares it; whoever goes on makes us decode them.
const ASKED_AFTER: u32 = 16;
const ENDS_AFTER: u32 = 64;
const TOO_MUCH: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;

/// The head of a request while it is under way.
#[derive(Debug)]
pub(super) struct Held {
    life: Rc<Life>,
    bytes: u32,
}

impl Held {
    /// Counts it.
    pub(super) fn new<B>(life: &Rc<Life>, request: &Request<B>) -> Self {
        let fields: usize =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        let bytes = u32::try_from(fields + target).unwrap_or(u32::MAX);
        life.set_heads(life.heads().saturating_add(bytes));
        Self { life: Rc::clone(life), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.life.set_heads(self.life.heads().saturating_sub(self.bytes));
    }
}

/// Refuses a head that is too much.
#[inline]
pub fn check(connection: &Connection, parts: &Parts) -> Result<(), ProxyError> {
    let limits = &connection.worker.overload.limits().heads;
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let (reached, status, reason) = match () {
        () if parts.headers.len() > limits.fields as usize => {
            (Reached::HeaderFields, TOO_MUCH, "there are more header fields than `limits.header_fields`")
        }
        () if target > limits.target as usize => {
            (Reached::TargetBytes, StatusCode::URI_TOO_LONG, "the target is longer than `limits.target_bytes`")
        }
        () if connection.life.heads() > limits.per_connection => {
            let reason = "the heads of this connection are more than `limits.header_bytes_per_connection`";
            (Reached::HeaderBytes, TOO_MUCH, reason)
        }
        () => return Ok(()),
    };
    connection.worker.overload.reached.add(reached);
    match connection.life.refuses_head() {
        0..ASKED_AFTER => {}
        ASKED_AFTER..ENDS_AFTER => connection.life.leave(),
        ENDS_AFTER.. => connection.life.cut(),
    }
    Err(ProxyError::BadRequest { status, reason })
}
