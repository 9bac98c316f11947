//! Opening a connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

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
pub async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectError> {
    let stream =
        tokio::time::timeout(limit, TcpStream::connect(address)).await.map_err(|_| ConnectError::TimedOut(limit))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Link-local addresses reach cloud metadata services: a request's host must not lead there, only a rule may.
pub fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_link_local()),
    }
}
