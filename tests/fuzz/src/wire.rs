//! A caller's bytes through what Leno does to a request, to the bytes that an endpoint gets.
//!
//! ```text
//! bytes ─▶ hyper's server ─▶ upgrade ─▶ sanitize ─▶ arrival ─▶ to HTTP/1.1 ─▶ hyper's client ─▶ bytes ─▶ strict reader
//! ```
//!
//! In memory and on one thread. The servers are set up as `downstream/http.rs` sets them up; the body streams from one hyper
//! to the other as it does in the proxy, so that its framing is decided by the same code.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use leno_config::ir::{PathNormalization, UnderscoreNames};
use leno_proxy::downstream::upgrade::Upgrade;
use leno_proxy::nest::{Nest, Nested};
use leno_proxy::sanitize::{Rules, Transport};
use leno_proxy::upstream::send::declare_body;
use leno_proxy::{prepare, sanitize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use crate::strict::{self, Message};

/// Polls for which a caller that has said everything waits for its answer.
const PATIENCE: u32 = 64;
/// Far more than anything here takes; it ends what would wait for ever.
const DEADLINE: Duration = Duration::from_secs(20);

thread_local! {
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_time().build().expect("invariant: a runtime without IO needs nothing");
}

/// Runs a future that needs nothing but itself and maybe a timer.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// What the caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
}

/// A request that was taken and sent on.
#[derive(Debug)]
pub(crate) struct Forwarded {
    /// The head as routing and policies saw it.
    pub(crate) seen: Parts,
    /// Host and port as they saw it.
    pub(crate) authority: String,
    /// What the endpoint read: one message, or why it is none; `None`: its end never came.
    pub(crate) read: Result<Option<Message>, &'static str>,
    /// Everything that it got.
    pub(crate) bytes: Vec<u8>,
}

type All = Rc<RefCell<Vec<Option<Forwarded>>>>;

/// What became of every request that `bytes` lead to, in their order; `None`: it was refused.
pub(crate) fn requests(bytes: &[u8], spoken: Spoken) -> Vec<Option<Forwarded>> {
    let all = All::default();
    let caller = TokioIo::new(Caller { said: bytes.to_vec(), heard: 0, patience: PATIENCE });
    let requests = Rc::clone(&all);
    let service = service_fn(move |request| serve(request, Rc::clone(&requests)));
    let served = async {
        match spoken {
            Spoken::Http1 => {
                let mut builder = http1::Builder::new();
                builder.max_headers(100).max_header_size(64 * 1024);
                drop(builder.serve_connection(caller, service).with_upgrades().await);
            }
            Spoken::Http2 => {
                let nest = Nest::default();
                let mut builder = http2::Builder::new(nest.clone());
                builder.max_header_list_size(64 * 1024).enable_connect_protocol();
                drop(Nested::server(nest, builder.serve_connection(caller, service)).await);
            }
        }
    };
    block_on(async { tokio::time::timeout(DEADLINE, served).await }).expect("a connection whose caller has left ends");
    all.take()
}

/// The rules of a listener that asks of paths what it is told, and nothing else.
pub(crate) fn in_clear_text(path: PathNormalization) -> Rules {
    Rules { path, underscores: UnderscoreNames::Pass, transport: Transport::Clear }
}

/// What a request meets in the proxy, and an answer.
async fn serve(request: Request<Incoming>, all: All) -> Result<Response<Empty<Bytes>>, Infallible> {
    let refuse = |status: StatusCode| {
        all.borrow_mut().push(None);
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status;
        Ok(response)
    };
    let (mut parts, body) = request.into_parts();
    // No route here allows an upgrade: what asks for one is refused or becomes a plain request.
    let taken = Upgrade::take(&mut parts, &body, &[])
        .and_then(|_| sanitize::request(&mut parts, in_clear_text(PathNormalization::BASE)));
    if let Err(refused) = taken {
        return refuse(refused.reply().status);
    }
    prepare::arrival(&mut parts.headers, None);
    let (seen, authority) = (parts.clone(), sanitize::authority(&parts).to_owned());
    if let Err(refused) = sanitize::to_http1(&mut parts) {
        return refuse(refused.reply().status);
    }
    let mut request = Request::from_parts(parts, body);
    declare_body(&mut request);
    let (read, bytes) = send(request).await;
    all.borrow_mut().push(Some(Forwarded { seen, authority, read, bytes }));
    Ok(Response::new(Empty::new()))
}

/// Sends a request to an endpoint that reads strictly.
async fn send(request: Request<Incoming>) -> (Result<Option<Message>, &'static str>, Vec<u8>) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let calling = async {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(near)).await;
        let Ok((mut sender, connection)) = handshake else { return };
        let mut connection = pin!(connection);
        let answered = pin!(async {
            if let Ok(response) = sender.send_request(request).await {
                drop(response.into_body().collect().await);
            }
        });
        tokio::select! {
            _ = connection.as_mut() => {}
            () = answered => {}
        }
    };
    let ((), read) = tokio::join!(calling, endpoint(far));
    read
}

/// Reads one request, answers it and reads on until the caller leaves.
async fn endpoint(mut far: DuplexStream) -> (Result<Option<Message>, &'static str>, Vec<u8>) {
    let mut bytes = Vec::new();
    let read = loop {
        match far.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => break Ok(None),
            Ok(_) => {}
        }
        match strict::request(&bytes) {
            Ok(None) => {}
            Ok(Some((message, _))) => break Ok(Some(message)),
            Err(problem) => break Err(problem),
        }
    };
    drop(far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await);
    drop(far.read_to_end(&mut bytes).await);
    (read, bytes)
}

/// A caller that says everything at once and leaves when it has waited long enough. It does not listen.
struct Caller {
    said: Vec<u8>,
    /// How much of it has been read.
    heard: usize,
    patience: u32,
}

impl AsyncRead for Caller {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = self.said.get(self.heard..).unwrap_or_default();
        if !rest.is_empty() {
            let (now, _) = rest.split_at(into.remaining().min(rest.len()));
            into.put_slice(now);
            self.heard += now.len();
            return Poll::Ready(Ok(()));
        }
        match self.patience.checked_sub(1) {
            Some(left) => {
                self.patience = left;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Caller {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.patience = PATIENCE;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
