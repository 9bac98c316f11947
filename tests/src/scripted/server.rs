//! The servers: sockets, and what is done with them before anybody reads a request.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::book::{Attempt, Book};
use super::{http1, http2};

/// First byte of a TLS handshake.
const HANDSHAKE: u8 = 22;

/// Servers that share one book of attempts.
#[derive(Clone, Default)]
pub struct Fleet {
    book: Arc<Book>,
    /// With what TLS is ended, where a caller begins it.
    tls: Arc<Mutex<Option<TlsAcceptor>>>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

/// What a server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Reads requests and does what they say.
    Obeys,
    /// Nobody listens at the port, and nobody else can take it.
    Refuses,
    /// Ends each connection with a RST as soon as it is there.
    Resets,
    /// Nobody accepts, and the queue is full: connecting takes for ever.
    Ignores,
}

impl Fleet {
    /// A fleet without a server.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on, callers that begin with TLS are served with this certificate.
    pub fn has(&self, config: Arc<rustls::ServerConfig>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(TlsAcceptor::from(config));
    }

    /// One more server, on a port of its own.
    pub async fn server(&self, name: &str, manner: Manner) -> Upstream {
        let mut server = Upstream {
            name: name.to_owned(),
            manner,
            fleet: self.clone(),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            connections: Arc::default(),
            running: None,
        };
        server.start().await;
        server
    }

    /// All attempts of a run, in the order in which they came in.
    pub fn attempts(&self, run: &str) -> Vec<Attempt> {
        self.book.attempts(|attempt| attempt.run == run)
    }

    /// How many attempts at a run have begun.
    pub fn count(&self, run: &str) -> usize {
        self.book.count(run)
    }

    /// All attempts of all runs.
    pub fn all(&self) -> Vec<Attempt> {
        self.book.attempts(|_| true)
    }
}

/// A server of a fleet. It ends with the value.
pub struct Upstream {
    name: String,
    manner: Manner,
    fleet: Fleet,
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    running: Option<Running>,
}

/// What holds the port.
enum Running {
    Serving(JoinHandle<()>),
    Holding { _socket: TcpSocket },
    Full { _listener: TcpListener, _waiting: Vec<TcpStream> },
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Serving(task) = self {
            task.abort();
        }
    }
}

impl Upstream {
    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Ends it as a crash does: its port is closed and so are its connections.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Starts it again where it was.
    pub async fn start(&mut self) {
        self.kill();
        let socket = crate::wait::eventually("a server has its port again", async || self.bind()).await;
        self.address = socket.local_addr().expect("a bound socket has an address");
        self.running = Some(match self.manner {
            Manner::Refuses => Running::Holding { _socket: socket },
            Manner::Ignores => full(socket).await,
            Manner::Obeys | Manner::Resets => {
                let listener = socket.listen(1024).expect("a bound socket can listen");
                Running::Serving(tokio::spawn(self.serve(listener)))
            }
        });
    }

    fn bind(&self) -> Result<TcpSocket, String> {
        let bound = || -> io::Result<TcpSocket> {
            let socket = TcpSocket::new_v4()?;
            // Connections of its former life may still be closing.
            socket.set_reuseaddr(true)?;
            socket.bind(self.address)?;
            Ok(socket)
        };
        bound().map_err(|error| format!("{}: {error}", self.address))
    }

    fn serve(&self, listener: TcpListener) -> impl Future<Output = ()> + use<> {
        let (counter, manner) = (Arc::clone(&self.connections), self.manner);
        let (name, fleet): (Arc<str>, Fleet) = (self.name.as_str().into(), self.fleet.clone());
        async move {
            // They end with this future.
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while conversations.try_join_next().is_some() {}
                let number = counter.fetch_add(1, Ordering::Relaxed);
                if manner == Manner::Resets {
                    let _ = stream.set_zero_linger();
                    continue;
                }
                let visit = Visit { server: Arc::clone(&name), connection: number, book: Arc::clone(&fleet.book) };
                let tls = fleet.tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
                conversations.spawn(async move {
                    // A caller that leaves in the middle is nobody's fault here.
                    let _ = converse(stream, tls, visit).await;
                });
            }
        }
    }
}

/// A listener whose queue has no room: Linux then drops the packets that ask for a connection.
async fn full(socket: TcpSocket) -> Running {
    let listener = socket.listen(0).expect("a bound socket can listen");
    let address = listener.local_addr().expect("a listener has an address");
    let mut waiting = Vec::new();
    let patience = std::time::Duration::from_millis(200);
    while let Ok(Ok(stream)) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
        waiting.push(stream);
    }
    Running::Full { _listener: listener, _waiting: waiting }
}

/// Whose connection it is.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub(super) server: Arc<str>,
    pub(super) connection: usize,
    pub(super) book: Arc<Book>,
}

/// A connection in clear text or not, read ahead as far as it takes to know what is spoken.
pub(super) type Wire = BufReader<Either>;

/// The socket below, to be cut or written to past whoever owns the connection.
#[derive(Debug)]
pub(super) struct Socket {
    below: std::net::TcpStream,
    pub(super) is_plain: bool,
}

impl Socket {
    /// When the last handle goes, the caller gets a RST.
    pub(super) fn will_reset(&self) {
        let again = self.below.try_clone().and_then(TcpStream::from_std);
        let _ = again.and_then(|socket| socket.set_zero_linger());
    }

    /// Writes past TLS and HTTP.
    pub(super) fn write(&self, bytes: &[u8]) {
        let _ = io::Write::write_all(&mut &self.below, bytes);
    }
}

async fn converse(stream: TcpStream, tls: Option<TlsAcceptor>, visit: Visit) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    let is_tls = stream.peek(&mut first).await? == 1 && first[0] == HANDSHAKE;
    let stream = stream.into_std()?;
    let socket = Socket { below: stream.try_clone()?, is_plain: !is_tls };
    let stream = TcpStream::from_std(stream)?;
    let stream = match tls.filter(|_| is_tls) {
        Some(tls) => Either::Tls(Box::new(tls.accept(stream).await?)),
        None => Either::Plain(stream),
    };
    let mut wire = BufReader::with_capacity(64 << 10, stream);
    match wire.fill_buf().await?.starts_with(b"PRI") {
        true => http2::converse(wire, socket, visit).await,
        false => http1::converse(wire, &socket, &visit).await,
    }
}

/// In clear text, or not.
pub(super) enum Either {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Either {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Either {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
