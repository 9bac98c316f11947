//! What is kept of a request that may have to be sent again.
//!
//! hyper takes a request whole, so whoever may need it later keeps a copy of its head: one allocation for the names
//! and one for the values that are not shared, about 0.2 µs for a dozen fields. That is paid only where it can be of use:
//! see [`super::Attempts`].

use http::Request;
use http::request::Parts;

use super::replay::{Again, Replay};
use crate::body::RequestBody;

/// The head of a request, and the way to its body.
#[derive(Debug)]
pub(super) struct Kept {
    head: Parts,
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
        // What hyper keeps beside a head (upgrades, the original case of names) is not for the next connection.
        let mut head = Request::new(()).into_parts().0;
        head.method = request.method().clone();
        head.uri = request.uri().clone();
        head.version = request.version();
        head.headers = request.headers().clone();
        Self { head, body: again }
    }

    /// The request once more; `None`: its body was too large to be kept.
    pub(super) fn again(self) -> Option<Request<RequestBody>> {
        let body = match self.body {
            None => RequestBody::Empty,
            Some(body) => RequestBody::Replay(body.replay()?),
        };
        Some(Request::from_parts(self.head, body))
    }

    /// It will not be sent again: what is left of its body just passes.
    pub(super) fn never(self) {
        if let Some(body) = self.body {
            body.never();
        }
    }
}
