//! Opening a connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use leno_config::ir::TcpKeepalive;
use tokio::net::TcpStream;

use crate::cluster::limits::Overflow;
use crate::tls::server::HandshakeError;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system's answer.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The cluster's connect timeout.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// TCP is there, TLS is not.
    #[error("TLS: {0}")]
    Tls(#[from] HandshakeError),
}

/// Connects, at most for `limit`, with Nagle's algorithm off: a proxy passes small writes on at once.
pub async fn connect(
    address: SocketAddr,
    limit: Duration,
    keepalive: Option<&TcpKeepalive>,
) -> Result<TcpStream, ConnectError> {
    let stream =
        tokio::time::timeout(limit, TcpStream::connect(address)).await.map_err(|_| ConnectError::TimedOut(limit))??;
    stream.set_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        keep_alive(&stream, keepalive)?;
    }
    Ok(stream)
}

/// Has the system probe a silent peer; what is not written is at the system's values.
fn keep_alive(stream: &TcpStream, keepalive: &TcpKeepalive) -> io::Result<()> {
    let TcpKeepalive { probes, time, interval } = keepalive;
    let mut wanted = socket2::TcpKeepalive::new();
    if let Some(time) = time {
        wanted = wanted.with_time(*time);
    }
    if let Some(interval) = interval {
        wanted = wanted.with_interval(*interval);
    }
    if let Some(probes) = probes {
        wanted = wanted.with_retries(*probes);
    }
    let socket = socket2::SockRef::from(stream);
    socket.set_keepalive(true)?;
    socket.set_tcp_keepalive(&wanted)
}

/// Why a request has no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// None could be opened.
    #[error(transparent)]
    Failed(#[from] ConnectError),
    /// We did not try: a limit is reached.
    #[error(transparent)]
    Refused(#[from] Overflow),
}

/// Link-local addresses reach cloud metadata services: a request's host must not lead there, only a rule may.
pub fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keep_alive_is_what_the_rules_say() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (time, interval) = (Duration::from_secs(77), Duration::from_secs(11));
        let wanted = TcpKeepalive { probes: Some(4), time: Some(time), interval: Some(interval) };
        for (keepalive, expected) in [(None, false), (Some(&wanted), true), (Some(&TcpKeepalive::default()), true)] {
            let stream = connect(address, Duration::from_secs(10), keepalive).await.expect("a connection");
            assert_eq!(socket2::SockRef::from(&stream).keepalive().expect("an answer"), expected, "{keepalive:?}");
        }
        let stream = connect(address, Duration::from_secs(10), Some(&wanted)).await.expect("a connection");
        let socket = socket2::SockRef::from(&stream);
        assert_eq!(socket.tcp_keepalive_time().expect("an answer"), time);
        assert_eq!(socket.tcp_keepalive_interval().expect("an answer"), interval);
        assert_eq!(socket.tcp_keepalive_retries().expect("an answer"), 4);
    }
}
