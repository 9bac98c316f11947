//! A line between two programs that is as bad as a test wants it: slow, unsteady, narrow, or cut.
//!
//! ```no_run
//! # use leno_tests::relay::{Faults, Relay};
//! # use std::time::Duration;
//! # async fn test(app: std::net::SocketAddr) {
//! let line = Relay::to(app, 7).await;
//! line.is(Faults { latency: Duration::from_millis(20), ..Faults::NONE });
//! line.cut(); // whatever is open
//! # }
//! ```
//!
//! What a line does is steered while bytes flow: every piece asks anew. Bytes keep their order, and those of two directions
//! do not wait for each other. A lost packet is not what a TCP peer sees, since its kernel sends it again: it sees
//! latency, or in the end a connection that is gone, and that is what `loss` is here.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::random::Random;

/// Pieces on the line at once, in each direction.
const ON_THE_WAY: usize = 1024;
/// Largest piece.
const PIECE: usize = 16 << 10;

/// How bad a line is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// How long a byte takes, in each direction.
    pub latency: Duration,
    /// Up to so much longer, at random.
    pub jitter: Duration,
    /// Of a thousand pieces, how many end their connection (with a RST on both sides).
    pub loss_per_mille: usize,
    /// Bytes in a second, in each direction; `None`: as many as come.
    pub bandwidth: Option<u64>,
    /// New connections are reset.
    pub refuses: bool,
}

impl Faults {
    /// A line without faults.
    pub const NONE: Self =
        Self { latency: Duration::ZERO, jitter: Duration::ZERO, loss_per_mille: 0, bandwidth: None, refuses: false };
}

/// A line to a server. It ends, with everything on it, with the value.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    faults: Mutex<Faults>,
    random: Mutex<Random>,
    /// Grows with every cut.
    cuts: watch::Sender<usize>,
    lost: AtomicU64,
    carried: AtomicU64,
}

impl Relay {
    /// A line to `server`, without faults at first; `seed` decides on loss and jitter.
    pub async fn to(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("cannot listen");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            faults: Mutex::new(Faults::NONE),
            random: Mutex::new(Random::new(seed)),
            cuts: watch::Sender::new(0),
            lost: AtomicU64::new(0),
            carried: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, server, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    /// Where it takes connections.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it is like that.
    pub fn is(&self, faults: Faults) {
        *self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Cuts what is open, with a RST on both sides.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Connections that were lost or cut.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Bytes that have arrived, in both directions.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn faults(&self) -> Faults {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn below(&self, bound: usize) -> usize {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).below(bound)
    }

    /// How long the next piece takes; `None`: it is lost.
    fn delay(&self, faults: &Faults) -> Option<Duration> {
        if faults.loss_per_mille > 0 && self.below(1000) < faults.loss_per_mille {
            return None;
        }
        let micros = usize::try_from(faults.jitter.as_micros()).expect("jitter is less than a year");
        let jitter = if micros == 0 { 0 } else { self.below(micros) };
        Some(faults.latency + Duration::from_micros(jitter.try_into().expect("usize fits u64")))
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, shared: Arc<Shared>) {
    // They end with this future.
    let mut lines = JoinSet::new();
    while let Ok((caller, _)) = listener.accept().await {
        while lines.try_join_next().is_some() {}
        lines.spawn(carry(caller, server, Arc::clone(&shared)));
    }
}

async fn carry(mut caller: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    if shared.faults().refuses {
        let _ = caller.set_zero_linger();
        return;
    }
    let Ok(mut app) = TcpStream::connect(server).await else {
        let _ = caller.set_zero_linger();
        return;
    };
    let _ = (caller.set_nodelay(true), app.set_nodelay(true));
    let mut cuts = shared.cuts.subscribe();
    let ended = {
        let ((from_caller, to_caller), (from_app, to_app)) = (caller.split(), app.split());
        let both = async {
            tokio::try_join!(one_way(from_caller, to_app, &shared), one_way(from_app, to_caller, &shared)).map(drop)
        };
        tokio::select! {
            ended = both => ended,
            _ = cuts.changed() => Err(io::ErrorKind::ConnectionReset.into()),
        }
    };
    if ended.is_err() {
        shared.lost.fetch_add(1, Ordering::Relaxed);
        let _ = (caller.set_zero_linger(), app.set_zero_linger());
    }
}

/// A piece and when it arrives.
type Due = (Instant, Bytes);

async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, shared: &Shared) -> io::Result<()> {
    let (sender, mut line) = mpsc::channel::<Due>(ON_THE_WAY);
    let reading = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let read = from.read(&mut buffer).await?;
            let faults = shared.faults();
            let delay = shared.delay(&faults).ok_or(io::ErrorKind::ConnectionReset)?;
            let piece = Bytes::copy_from_slice(&buffer[..read]);
            if sender.send((Instant::now() + delay, piece)).await.is_err() || read == 0 {
                return Ok::<_, io::Error>(());
            }
        }
    };
    let writing = async {
        while let Some((due, piece)) = line.recv().await {
            tokio::time::sleep_until(due).await;
            if piece.is_empty() {
                to.shutdown().await?;
                continue;
            }
            to.write_all(&piece).await?;
            let length = u64::try_from(piece.len()).expect("usize fits u64");
            shared.carried.fetch_add(length, Ordering::Relaxed);
            if let Some(bandwidth) = shared.faults().bandwidth {
                tokio::time::sleep(Duration::from_secs(1).mul_f64(length as f64 / bandwidth.max(1) as f64)).await;
            }
        }
        Ok(())
    };
    tokio::try_join!(reading, writing).map(drop)
}
