//! One request on one connection.

use futures_util::TryFutureExt;
use futures_util::future::Either;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::{Body, Incoming};

use crate::body::RequestBody;
use crate::error::Flag;

use super::pool::Lease;

/// What a failed send means for trying again.
#[derive(Debug)]
pub enum SendFailure {
    /// Not a byte of the request left: hyper handed it back, body and all. Always safe to send again.
    Unsent(Box<Request<RequestBody>>),
    /// The peer says that it did not look at it: REFUSED_STREAM, or a stream above GOAWAY's last (RFC 9113 §8.7).
    /// The request is gone, but a kept copy may be sent again.
    Unprocessed(hyper::Error),
    /// The connection ended before the first byte of an answer.
    Closed(hyper::Error),
    /// The stream was reset.
    Reset(hyper::Error),
    /// The answer was not HTTP.
    Protocol(hyper::Error),
    /// The body of the request ended early, or is not HTTP: its caller's doing, and not the endpoint's.
    Body(hyper::Error),
}

impl Lease {
    /// Sends the request and waits for the head of the answer. Not an `async fn`: the request would lie in its future
    /// after it has long gone to hyper.
    pub fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendFailure>> + use<> {
        let sending = match self {
            Self::Http1(lease) => {
                lease.count();
                declare_body(&mut request);
                Either::Left(lease.sender().try_send_request(request))
            }
            Self::Http2(lease) => Either::Right(lease.sender().try_send_request(request)),
        };
        sending.map_err(|mut failure| match failure.take_message() {
            Some(request) => SendFailure::Unsent(Box::new(request)),
            None => classify(failure.into_error()),
        })
    }

    /// Whether the connection has carried a request before.
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Http1(lease) => lease.is_reused(),
            Self::Http2(lease) => lease.is_reused(),
        }
    }
}

/// Says that a GET or HEAD has a body of unknown length. hyper would send it without a word of one, and without the body: a
/// search with its query in the body (HTTP/2 from the caller, or chunked) would become another one.
pub fn declare_body<B: Body>(request: &mut Request<B>) {
    let (method, body) = (request.method(), request.body());
    if (method == Method::GET || method == Method::HEAD) && !body.is_end_stream() && body.size_hint().exact().is_none()
    {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The flag of an answer that breaks off in its body, as Envoy has it (measured on 1.40): HTTP/2 tells a stream that was
/// reset from a connection that was lost; in HTTP/1.1, a body that ends before its length is not HTTP.
pub fn broken_off(error: &hyper::Error) -> Flag {
    match std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>()) {
        Some(h2) if h2.is_reset() => Flag::UR,
        Some(h2) if h2.is_io() || h2.is_go_away() => Flag::UC,
        Some(_) | None => Flag::UPE,
    }
}

fn classify(error: hyper::Error) -> SendFailure {
    if error.is_user() {
        return SendFailure::Body(error);
    }
    let h2 = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
    if let Some(h2) = h2 {
        let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM);
        let above_last = h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR);
        return match () {
            () if refused || above_last => SendFailure::Unprocessed(error),
            // A stream that neither the peer nor the library has reset: hyper did, since the request's body failed.
            () if h2.is_reset() && !h2.is_remote() && !h2.is_library() => SendFailure::Body(error),
            () if h2.is_reset() || h2.is_go_away() => SendFailure::Reset(error),
            () if h2.is_io() => SendFailure::Closed(error),
            () => SendFailure::Protocol(error),
        };
    }
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        SendFailure::Protocol(error)
    } else {
        SendFailure::Closed(error)
    }
}
