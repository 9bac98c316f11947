//! Bytes both ways.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leno_config::ir::ListenerProtocol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cluster::InFlight;
use crate::policy::enforce;
use crate::state::snapshot::Handler;
use crate::upstream::connect::connect;

use super::{Connection, draining};

/// Endpoints that are tried when connecting fails.
const MAX_ENDPOINTS: usize = 3;
/// One direction's buffer.
const BUFFER: usize = 16 * 1024;

pub(super) async fn serve(connection: &Connection, stream: TcpStream) {
    let Some((upstream, idle, in_flight)) = open(connection).await else { return };
    let relay = relay(stream, upstream, idle);
    tokio::select! {
        ended = relay => {
            if let Err(error) = ended {
                tracing::debug!(peer = %connection.peer, %error, "the connection ended");
            }
        }
        // Nobody can be asked to finish in TCP: what is under way goes on until the process's drain time is over.
        () = async { draining(connection).await; std::future::pending().await } => {}
    }
    drop(in_flight);
}

/// A connection to an endpoint of the listener's cluster, if policy lets the caller have one.
async fn open(connection: &Connection) -> Option<(TcpStream, Option<Duration>, InFlight)> {
    let view = connection.listener.view();
    if !enforce::admit(connection, &view) {
        return None;
    }
    let (Handler::Tcp(targets), ListenerProtocol::Tcp(route)) =
        (&view.listener.handler, &view.listener.config.protocol)
    else {
        return None;
    };
    let worker = &connection.worker;
    let cluster = targets.choose(&worker.random).and_then(|chosen| view.view.clusters.get(chosen.cluster?))?;
    let mut tried = Vec::new();
    while tried.len() < MAX_ENDPOINTS {
        let endpoint = cluster.pick(&worker.random, &tried)?;
        if view.view.shared.is_own_outbound(endpoint.address) {
            tracing::warn!(address = %endpoint.address, "refused to connect to an outbound listener of this very proxy");
            return None;
        }
        let in_flight = endpoint.begin();
        let stats = &cluster.shared.stats;
        match connect(endpoint.address, cluster.shared.config.connect_timeout).await {
            Ok(stream) => {
                stats.connections.fetch_add(1, Ordering::Relaxed);
                return Some((stream, route.idle_timeout, in_flight));
            }
            Err(error) => {
                stats.connect_failures.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(address = %endpoint.address, %error, "cannot connect");
                tried.push(Arc::clone(&endpoint));
            }
        }
    }
    None
}

/// Copies both ways until both have ended, or neither has moved a byte for `idle`. The end of one direction is passed
/// on and the other goes on (half-close).
pub(super) async fn relay<A, B>(one: A, other: B, idle: Option<Duration>) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let last = std::cell::Cell::new(Instant::now());
    let (mut one_read, mut one_write) = tokio::io::split(one);
    let (mut other_read, mut other_write) = tokio::io::split(other);
    let both = async {
        let there = copy(&mut one_read, &mut other_write, &last);
        let back = copy(&mut other_read, &mut one_write, &last);
        tokio::try_join!(there, back).map(|_| ())
    };
    let Some(idle) = idle else { return both.await };
    tokio::select! {
        ended = both => ended,
        () = silence(&last, idle) => Err(io::Error::new(io::ErrorKind::TimedOut, "no byte for the idle timeout")),
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    last: &std::cell::Cell<Instant>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        last.set(Instant::now());
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
    }
}

async fn silence(last: &std::cell::Cell<Instant>, idle: Duration) {
    loop {
        let end = last.get() + idle;
        if end <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}
