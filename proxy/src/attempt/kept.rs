//! What is kept of a request that may have to be sent again.
//!
//! hyper takes a request whole, so whoever may need it later keeps a copy of its head: one allocation for the names
//! and one for the values that are not shared, about 0.3 µs for ten fields. That is paid only where it can be of use:
//! see [`super::Attempts`].

use http::{HeaderMap, Method, Request, Uri, Version};

use super::replay::{Again, Replay};
use crate::body::RequestBody;

/// The head of a request, and the way to its body. What hyper keeps beside a head (upgrades, the original case of names)
/// is not for the next connection.
#[derive(Debug)]
pub(super) struct Kept {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Option<Again<Box<RequestBody>>>,
}

impl Kept {
    /// Keeps what it takes to send `request` again, at most `most` bytes of its body.
    pub(super) fn of(request: &mut Request<RequestBody>, most: usize) -> Self {
        let body = match std::mem::replace(request.body_mut(), RequestBody::Empty) {
            RequestBody::Empty => None,
            RequestBody::Replay(replay) => Some(replay),
            source @ (RequestBody::Stream { .. } | RequestBody::Teed(_) | RequestBody::Copy(_)) => {
                Some(Replay::new(Box::new(source), most))
            }
        };
        let again = body.as_ref().map(Replay::again);
        if let Some(body) = body {
            *request.body_mut() = RequestBody::Replay(body);
        }
        let (method, uri) = (request.method().clone(), request.uri().clone());
        Self { method, uri, version: request.version(), headers: request.headers().clone(), body: again }
    }

    /// The request once more; `None`: its body was too large to be kept.
    pub(super) fn again(self) -> Option<Request<RequestBody>> {
        let body = match self.body {
            None => RequestBody::Empty,
            Some(body) => RequestBody::Replay(body.replay()?),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        Some(request)
    }

    /// It will not be sent again: what is left of its body just passes.
    pub(super) fn never(&mut self) {
        if let Some(body) = self.body.take() {
            body.never();
        }
    }
}
