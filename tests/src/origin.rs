//! The app behind a service: answers as the test says and remembers what it was asked.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::client::{Body, empty, full, stream};

/// A request as the app saw it.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// `Host`, or `:authority` in HTTP/2.
    pub host: String,
    /// What was spoken.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; empty when a script reads it itself.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
    /// Which of the app's connections it came on, from 0.
    pub connection: usize,
}

impl Recorded {
    /// A header as text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("(not text)"))
    }
}

type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Script = dyn Fn(Request<Incoming>) -> Answer + Send + Sync;

/// A small HTTP server, HTTP/1.1 and HTTP/2 on one port, in the test's own process.
pub struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Recorded>>>,
    task: JoinHandle<()>,
}

/// An origin that answers 200 with its name as body and as header `x-origin`.
pub async fn origin(name: &'static str) -> Origin {
    Origin::answering(move |_| {
        Response::builder().header("x-origin", name).body(full(name)).expect("a name is a header value")
    })
    .await
}

impl Origin {
    /// One that reads each request to its end, remembers it, and answers as `answer` says.
    pub async fn answering(answer: impl Fn(&Recorded) -> Response<Body> + Send + Sync + 'static) -> Self {
        Self::answering_at(Ipv4Addr::LOCALHOST, answer).await
    }

    /// The same on another address of this machine (127/8): pods have one each.
    pub async fn answering_at(
        ip: Ipv4Addr,
        answer: impl Fn(&Recorded) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let memory = Arc::clone(&seen);
        let answer = Arc::new(answer);
        let treat = move |request: Request<Incoming>, connection| -> Answer {
            let (memory, answer) = (Arc::clone(&memory), Arc::clone(&answer));
            Box::pin(async move {
                let recorded = record(request, connection).await;
                let response = answer(&recorded);
                memory.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
                response
            })
        };
        Self::serve(ip, treat, seen).await
    }

    /// One that hands each request to `script` as it comes in: for streams, delays and answers that break off. Heads
    /// are remembered, bodies are not.
    pub async fn scripted<F>(script: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let memory = Arc::clone(&seen);
        let script: Arc<Script> = Arc::new(move |request| Box::pin(script(request)));
        let treat = move |request: Request<Incoming>, connection| -> Answer {
            let head = head(&request, connection);
            memory.lock().unwrap_or_else(PoisonError::into_inner).push(head);
            script(request)
        };
        Self::serve(Ipv4Addr::LOCALHOST, treat, seen).await
    }

    /// The same at an address of the test's choice, and nothing is remembered: for very many requests.
    pub async fn unrecorded<F>(
        address: SocketAddr,
        script: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let script: Arc<Script> = Arc::new(move |request| Box::pin(script(request)));
        Self::serve_at(address, move |request, _| script(request), Arc::default()).await
    }

    /// Refuses connections from now on; those that are there go on.
    pub async fn close(&mut self) {
        self.task.abort();
        // An error says that it was aborted.
        let _ = (&mut self.task).await;
    }

    async fn serve(
        ip: Ipv4Addr,
        treat: impl Fn(Request<Incoming>, usize) -> Answer + Clone + Send + Sync + 'static,
        seen: Arc<Mutex<Vec<Recorded>>>,
    ) -> Self {
        Self::serve_at((ip, 0).into(), treat, seen).await
    }

    async fn serve_at(
        address: SocketAddr,
        treat: impl Fn(Request<Incoming>, usize) -> Answer + Clone + Send + Sync + 'static,
        seen: Arc<Mutex<Vec<Recorded>>>,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("cannot listen");
        let address = listener.local_addr().expect("a listener has an address");
        let next = AtomicUsize::new(0);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = next.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(converse(stream, number, treat.clone()));
            }
        });
        Self { address, seen, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests until now, in the order of their ends.
    pub fn requests(&self) -> Vec<Recorded> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests there were.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The last request; fails the test when there was none.
    pub fn last(&self) -> Recorded {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last().expect("no request has reached the origin").clone()
    }

    /// Forgets what it has seen.
    pub fn forget(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(
    stream: TcpStream,
    number: usize,
    treat: impl Fn(Request<Incoming>, usize) -> Answer + Clone + Send + Sync + 'static,
) {
    let _ = stream.set_nodelay(true);
    let Some(is_http2) = begins_http2(&stream).await else { return };
    let service = service_fn(move |request| {
        let answer = treat(request, number);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let io = TokioIo::new(stream);
    if is_http2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .initial_connection_window_size(64 << 20)
            .initial_stream_window_size(256 << 10)
            .max_concurrent_streams(1000)
            .serve_connection(io, service)
            .await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await;
    }
}

/// Whether the connection begins with HTTP/2's preface (`PRI`); `None` when it ends first.
async fn begins_http2(stream: &TcpStream) -> Option<bool> {
    let mut first = [0; 3];
    loop {
        let seen = stream.peek(&mut first).await.ok().filter(|seen| *seen > 0)?;
        if seen == first.len() || !b"PRI".starts_with(&first[..seen]) {
            return Some(&first == b"PRI");
        }
        tokio::task::yield_now().await;
    }
}

fn head(request: &Request<Incoming>, connection: usize) -> Recorded {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
    let authority = request.uri().authority().map(ToString::to_string);
    Recorded {
        method: request.method().clone(),
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        host: authority.or(host).unwrap_or_default(),
        version: request.version(),
        headers: request.headers().clone(),
        body: Bytes::new(),
        trailers: None,
        connection,
    }
}

async fn record(request: Request<Incoming>, connection: usize) -> Recorded {
    let mut recorded = head(&request, connection);
    if let Ok(body) = request.into_body().collect().await {
        recorded.trailers = body.trailers().cloned();
        recorded.body = body.to_bytes();
    }
    recorded
}

/// An app that begins its answer to `/slow` at once, says so, and ends it when it is told; it answers all else at once.
pub async fn slow_app(done: watch::Receiver<bool>) -> (Origin, mpsc::Receiver<()>) {
    let (started, starts) = mpsc::channel(16);
    let app = Origin::scripted(move |request| {
        let (mut done, started) = (done.clone(), started.clone());
        async move {
            if request.uri().path() != "/slow" {
                return Response::new(empty());
            }
            let (frames, body) = stream();
            tokio::spawn(async move {
                let _ = frames.send(Ok(Frame::data(Bytes::from("begin ")))).await;
                let _ = started.send(()).await;
                let _ = done.wait_for(|done| *done).await;
                let _ = frames.send(Ok(Frame::data(Bytes::from("end")))).await;
            });
            Response::new(body)
        }
    })
    .await;
    (app, starts)
}
