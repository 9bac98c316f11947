//! Opening a connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use leno_config::ir::TcpKeepalive;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use crate::cluster::limits::Overflow;
use crate::tls::server::HandshakeError;

use super::opened::{Noted, Opened};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system's answer.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The cluster's connect timeout.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The address from which the cluster is to be called is not one of this host.
    #[error("cannot call from {0}: {1}; `leno-proxy redirect apply` puts it on the loopback interface")]
    Source(IpAddr, #[source] io::Error),
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

/// How connections to the endpoints of one cluster are opened.
#[derive(Debug, Clone, Copy)]
pub struct Dial<'a> {
    /// For the TCP handshake.
    pub limit: Duration,
    /// TCP keep-alive probes.
    pub keepalive: Option<&'a TcpKeepalive>,
    /// From where: the one of the endpoint's family, else as the system chooses.
    pub sources: &'a [IpAddr],
    /// Where they are remembered.
    pub opened: &'a Arc<Opened>,
}

impl Dial<'_> {
    /// Connects, and remembers the connection for the loop guard where there is one.
    pub async fn to(self, address: SocketAddr) -> Result<(TcpStream, Option<Box<Noted>>), ConnectError> {
        let Self { limit, keepalive, sources, opened } = self;
        let source = sources.iter().copied().find(|source| source.is_ipv4() == address.is_ipv4());
        if source.is_none() && !opened.is_wanted() {
            return Ok((connect(address, limit, keepalive).await?, None));
        }
        let (stream, noted) = begin(address, source, opened)?;
        tokio::time::timeout(limit, stream.writable()).await.map_err(|_| ConnectError::TimedOut(limit))??;
        if let Some(error) = stream.take_error()? {
            return Err(error.into());
        }
        stream.set_nodelay(true)?;
        if let Some(keepalive) = keepalive {
            keep_alive(&stream, keepalive)?;
        }
        Ok((stream, noted))
    }
}

/// Begins to connect. What the system calls the near end is known before the far end can have answered.
fn begin(
    address: SocketAddr,
    source: Option<IpAddr>,
    opened: &Arc<Opened>,
) -> Result<(TcpStream, Option<Box<Noted>>), ConnectError> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(|error| ConnectError::Source(source, error))?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error.into()),
    }
    let from = socket.local_addr()?.as_socket();
    let noted = from.and_then(|from| opened.note(from, address));
    Ok((TcpStream::from_std(socket.into())?, noted))
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
    async fn a_connection_comes_from_where_the_cluster_says_and_is_remembered_while_it_is_open() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let opened = Arc::new(Opened::default());
        let from =
            |sources: &'static [&str]| -> Vec<IpAddr> { sources.iter().map(|ip| ip.parse().expect(ip)).collect() };
        for (sources, expected) in
            [(from(&["127.0.0.6", "::6"]), "127.0.0.6"), (from(&["::6"]), "127.0.0.1"), (from(&[]), "127.0.0.1")]
        {
            for wanted in [false, true] {
                opened.want(wanted);
                let limit = Duration::from_secs(10);
                let dial = Dial { limit, keepalive: None, sources: &sources, opened: &opened };
                let (stream, noted) = dial.to(address).await.expect("a connection");
                let local = stream.local_addr().expect("an address");
                let (_accepted, caller) = listener.accept().await.expect("accepted");
                assert_eq!((caller, caller.ip()), (local, expected.parse::<IpAddr>().expect("an address")));
                assert_eq!((noted.is_some(), opened.contains(caller, address)), (wanted, wanted), "{sources:?}");
                drop(noted);
                assert!(!opened.contains(caller, address));
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_opened_says_why() {
        let opened = Arc::new(Opened::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let closed = listener.local_addr().expect("an address");
        drop(listener);
        let sources: [IpAddr; 2] = ["127.0.0.6".parse().expect("one"), "192.0.2.6".parse().expect("one")];
        let dial = |at: usize| {
            let (limit, sources) = (Duration::from_secs(10), &sources[at..=at]);
            Dial { limit, keepalive: None, sources, opened: &opened }
        };
        let refused = dial(0).to(closed).await.expect_err("nobody listens");
        assert!(
            matches!(&refused, ConnectError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused),
            "{refused}"
        );
        let foreign = dial(1).to(closed).await.expect_err("not an address of this host").to_string();
        assert!(foreign.contains("192.0.2.6") && foreign.contains("redirect apply"), "{foreign}");
    }

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
