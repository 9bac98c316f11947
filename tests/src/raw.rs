//! Peers that speak bytes: for what no HTTP library would say, and for plain TCP.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wait::PATIENCE;

/// A server that treats each connection as the test says.
pub struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    /// Runs `treat` for every connection.
    pub async fn start<F>(treat: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("cannot listen");
        let address = listener.local_addr().expect("a listener has an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(treat(stream));
            }
        });
        Self { address, connections, task }
    }

    /// One that sends every byte back, and ends when its peer does.
    pub async fn echo() -> Self {
        Self::start(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
        .await
    }

    /// One that greets first, as databases do, and then sends every byte back.
    pub async fn greeting(words: &'static str) -> Self {
        Self::start(move |mut stream| async move {
            let (mut read, mut write) = stream.split();
            let _ = write.write_all(words.as_bytes()).await;
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await
    }

    /// One that reads a request head and closes the connection without a word.
    pub async fn closing() -> Self {
        Self::start(|mut stream| async move {
            let _ = read_head(&mut stream).await;
        })
        .await
    }

    /// One that reads a request head and says nothing until its peer goes.
    pub async fn silent() -> Self {
        Self::start(|mut stream| async move {
            let _ = read_head(&mut stream).await;
            let mut rest = [0; 1024];
            while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
        })
        .await
    }

    /// One that accepts a WebSocket upgrade and then sends every byte back; other requests are answered with 426. The
    /// frames are the peers' business.
    pub async fn websocket() -> Self {
        Self::start(|mut stream| async move {
            loop {
                let Ok(head) = read_head(&mut stream).await else { return };
                if head.to_ascii_lowercase().contains("upgrade: websocket") {
                    break;
                }
                let _ = stream.write_all(b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n").await;
            }
            let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            let _ = stream.write_all(switched.as_bytes()).await;
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
        .await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects, or fails the test.
pub async fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).await.unwrap_or_else(|why| panic!("{why}"))
}

/// Connects: the stream, or why there is none.
pub(crate) async fn try_connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| format!("{address} does not accept"))?;
    let stream = stream.map_err(|error| format!("cannot connect to {address}: {error}"))?;
    stream.set_nodelay(true).map_err(|error| format!("{address}: {error}"))?;
    Ok(stream)
}

/// Reads up to the empty line that ends a head; what follows stays in the stream.
pub async fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await?;
        head.push(byte);
        assert!(head.len() < 1 << 20, "a head of more than 1 MiB");
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Sends bytes and reads until the peer closes, for five seconds at most: what it answered.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    exchange_within(Duration::from_secs(5), address, bytes).await
}

/// The same, with another limit: [`PATIENCE`] where the peer is certain to close.
pub async fn exchange_within(limit: Duration, address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address).await;
    stream.write_all(bytes).await.expect("cannot send");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends `words` and reads as many bytes back.
pub async fn round_trip(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), words: &[u8]) -> Vec<u8> {
    stream.write_all(words).await.expect("cannot send");
    stream.flush().await.expect("cannot send");
    let mut back = vec![0; words.len()];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut back)).await;
    read.expect("no echo").expect("the echo broke off");
    back
}
