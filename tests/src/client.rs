//! The caller: requests that are sent once, on connections that the test owns.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

use crate::raw;

/// For a gibibyte on a machine that has other things to do.
const BODY_PATIENCE: Duration = Duration::from_secs(300);

/// A body of any kind.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// All at once.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// As the test sends it, frame by frame: dropping the sender ends the body, and an `Err` breaks it off. A frame is
/// accepted when the one before it was taken, so the sender feels back-pressure.
pub fn stream() -> (mpsc::Sender<std::io::Result<Frame<Bytes>>>, Body) {
    let (sender, frames) = mpsc::channel(1);
    (sender, BoxBody::new(Streamed { frames }))
}

struct Streamed {
    frames: mpsc::Receiver<std::io::Result<Frame<Bytes>>>,
}

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.frames.poll_recv(context)
    }
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2 with prior knowledge
    Http2,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];
}

/// `GET` of a URL through the sidecar at `through`, on a connection of its own.
pub async fn get(through: SocketAddr, url: &str) -> Reply {
    Call::get(url).send(through).await
}

/// One request to be.
#[derive(Debug)]
pub struct Call {
    request: http::request::Builder,
    body: Body,
    protocol: Protocol,
}

impl Call {
    /// `GET` of a URL; its host becomes `Host` or `:authority`.
    pub fn get(url: &str) -> Self {
        Self::new(Method::GET, url)
    }

    /// Any method.
    pub fn new(method: Method, url: &str) -> Self {
        Self { request: Request::builder().method(method).uri(url), body: empty(), protocol: Protocol::Http1 }
    }

    /// An upgrade to WebSocket as HTTP/2 asks for it (RFC 8441).
    pub fn websocket(url: &str) -> Self {
        let mut call = Self::new(Method::CONNECT, url).over(Protocol::Http2);
        call.request = call.request.extension(hyper::ext::Protocol::from_static("websocket"));
        call
    }

    /// With a header; a second one of the same name is added.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// With a body.
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// In HTTP/1.1 (the default) or HTTP/2.
    pub fn over(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Sends it on a connection of its own and reads the whole reply; fails the test when there is none.
    pub async fn send(self, through: SocketAddr) -> Reply {
        let mut connection = Connection::open(through, self.protocol).await;
        connection.send(self).await
    }

    /// Sends it on a connection of its own: the reply, or why there is none.
    pub async fn try_send(self, through: SocketAddr) -> Result<Reply, String> {
        let mut connection = Connection::try_open(through, self.protocol).await?;
        connection.try_send(self).await
    }

    fn build(self) -> Request<Body> {
        self.request.body(self.body).expect("the test's request is not valid")
    }
}

/// A reply, read to its end.
#[derive(Debug, Clone)]
pub struct Reply {
    /// As a number, for short comparisons.
    pub status: u16,
    /// What was spoken.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("(not text)"))
    }

    /// The response flag of a local reply: the letters at the start of `x-leno-error`.
    pub fn flag(&self) -> &str {
        self.header("x-leno-error").split(';').next().unwrap_or_default()
    }
}

/// A connection to a sidecar.
pub enum Connection {
    /// HTTP/1.1
    Http1(http1::SendRequest<Body>),
    /// HTTP/2
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    /// Connects, or fails the test.
    pub async fn open(to: SocketAddr, protocol: Protocol) -> Self {
        Self::try_open(to, protocol).await.unwrap_or_else(|why| panic!("{why}"))
    }

    /// Connects: the connection, or why there is none.
    pub async fn try_open(to: SocketAddr, protocol: Protocol) -> Result<Self, String> {
        let io = TokioIo::new(raw::try_connect(to).await?);
        match protocol {
            Protocol::Http1 => {
                let shaken = http1::handshake(io).await;
                let (sender, connection) = shaken.map_err(|error| format!("HTTP/1.1 with {to}: {}", chain(&error)))?;
                tokio::spawn(connection);
                Ok(Self::Http1(sender))
            }
            Protocol::Http2 => {
                let shaken = http2::Builder::new(TokioExecutor::new()).handshake(io).await;
                let (sender, connection) = shaken.map_err(|error| format!("HTTP/2 with {to}: {}", chain(&error)))?;
                tokio::spawn(connection);
                Ok(Self::Http2(sender))
            }
        }
    }

    /// An HTTP/2 connection whose streams may hold `stream_window` bytes unread, and all together `window`.
    pub async fn with_windows(to: SocketAddr, stream_window: u32, window: u32) -> Self {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(stream_window).initial_connection_window_size(window);
        let io = TokioIo::new(raw::connect(to).await);
        let (sender, connection) = builder.handshake(io).await.expect("HTTP/2's preface can be sent");
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    /// Sends a request and reads the whole reply, or fails the test.
    pub async fn send(&mut self, call: Call) -> Reply {
        self.try_send(call).await.unwrap_or_else(|why| panic!("{why}"))
    }

    /// Sends a request: the whole reply, or why there is none.
    pub async fn try_send(&mut self, call: Call) -> Result<Reply, String> {
        let response = self.begin(call).await?;
        read(response).await
    }

    /// Sends a request and returns when the head of the response is there.
    pub async fn begin(&mut self, call: Call) -> Result<Response<Incoming>, String> {
        let request = call.build();
        let what = format!("{} {}", request.method(), request.uri());
        let sent = async {
            match self {
                Self::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(in_origin_form(request)).await
                }
                Self::Http2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        };
        match tokio::time::timeout(BODY_PATIENCE, sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(format!("{what}: {}", chain(&error))),
            Err(_) => Err(format!("{what}: no response within {BODY_PATIENCE:?}")),
        }
    }

    /// Whether the peer still takes requests on it.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Another handle to the same HTTP/2 connection; fails the test on HTTP/1.1, which has one request at a time.
    pub fn share(&self) -> Self {
        match self {
            Self::Http1(_) => panic!("an HTTP/1.1 connection is not shared"),
            Self::Http2(sender) => Self::Http2(sender.clone()),
        }
    }
}

/// Reads a response to its end.
pub(crate) async fn read(response: Response<Incoming>) -> Result<Reply, String> {
    let (head, body) = response.into_parts();
    let collected = tokio::time::timeout(BODY_PATIENCE, body.collect()).await.map_err(|_| "the body does not end")?;
    let collected = collected.map_err(|error| format!("{} and then: {}", head.status, chain(&error)))?;
    let trailers = collected.trailers().cloned();
    Ok(Reply {
        status: head.status.as_u16(),
        version: head.version,
        headers: head.headers,
        body: collected.to_bytes(),
        trailers,
    })
}

/// HTTP/1.1 to a server: path in the request line, host in a header (unless the test set another).
pub(crate) fn in_origin_form(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri().clone();
    if let Some(authority) = uri.authority()
        && !request.headers().contains_key(header::HOST)
    {
        let host = HeaderValue::from_str(authority.as_str()).expect("an authority is a header value");
        request.headers_mut().insert(HeaderName::from_static("host"), host);
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().expect("a path is a URI");
    request
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
