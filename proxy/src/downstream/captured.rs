//! Connections that were redirected to us: where they were going, and who serves them.
//!
//! The kernel keeps where a redirected connection wanted to go (`SO_ORIGINAL_DST`, and `IP6T_SO_ORIGINAL_DST` for IPv6);
//! one system call asks for it. The connection is then the business of the listener that stands there
//! ([`crate::state::captured`]), on the very worker that accepted it. A listener that does not capture pays nothing.
//!
//! **The loop guard.** A proxy that is redirected to itself, or asked to call itself, would call itself for ever, with two
//! sockets more each time. Three kinds of connections are therefore closed at once:
//!
//! * nobody redirected it: somebody has dialled our port, which is no service;
//! * it was going to one of our own listeners: to call it on its behalf would bring it here again;
//! * it is our own. Toward others this happens where the rules of redirection do not spare the proxy's user; toward the
//!   app, where they do not spare the address from which the app is called ([`APP_SOURCES`]).
//!
//! Our own connection to a service of this very pod does come back, and may: away from the app by one door, to the app by
//! the other.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use leno_config::defaults::APP_SOURCES;
use leno_config::ir::Direction;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::telemetry::add;
use crate::worker::{ListenerHandle, Worker};

/// A connection on its way to somebody else.
#[derive(Debug)]
pub(super) struct Captive {
    /// Who serves it.
    pub(super) listener: Rc<ListenerHandle>,
    /// Where it was going.
    pub(super) meant: SocketAddr,
}

/// The same address, of IPv4 where it is one: a socket of IPv6 calls `10.0.0.1` `::ffff:10.0.0.1`.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
    }
}

/// Who serves a connection that a capturing listener has accepted at `local`; `None`: nobody, it is to be closed.
pub(super) fn hand_over(
    worker: &Worker,
    listener: &Rc<ListenerHandle>,
    stream: &TcpStream,
    (caller, local): (SocketAddr, SocketAddr),
) -> Option<Captive> {
    let view = listener.view();
    let config = &view.listener.config;
    let meant = original_destination(stream, local).map(canonical);
    let judged = judge(config.direction, (caller, local), meant.ok(), &Own { worker, snapshot: &view.view.shared });
    match judged {
        Ok(meant) => {
            let found = worker.captured(config.direction, meant);
            Some(Captive { listener: found.unwrap_or_else(|| Rc::clone(listener)), meant })
        }
        Err(refusal) => {
            refuse(worker, &config.name, caller, refusal);
            None
        }
    }
}

/// Where a connection was going before it was redirected. An error, or `local` itself: it was not.
fn original_destination(stream: &TcpStream, local: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let original = match canonical(local) {
        SocketAddr::V4(_) => socket.original_dst_v4()?,
        SocketAddr::V6(_) => socket.original_dst_v6()?,
    };
    original.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Why a connection to a capturing listener is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "nobody has redirected it: this port only serves what the rules of redirection send it, so call the service itself"
    )]
    NotRedirected,
    #[error("it was going to {0}, a listener of this very proxy, and would come back for ever")]
    ToOurselves(SocketAddr),
    #[error(
        "this very proxy has opened it toward {0}: the rules of redirection must leave alone what the proxy's user sends \
         (`leno-proxy redirect apply --proxy-uid`) and what comes from 127.0.0.6 and ::6"
    )]
    FromOurselves(SocketAddr),
}

/// What belongs to this proxy.
pub(super) trait Ours {
    /// Whether a connection to the address would reach one of its listeners.
    fn listens(&self, address: SocketAddr) -> bool;
    /// Whether it has opened a connection from one address to another.
    fn opened(&self, from: SocketAddr, to: SocketAddr) -> bool;
}

struct Own<'a> {
    worker: &'a Worker,
    snapshot: &'a crate::state::snapshot::Snapshot,
}

impl Ours for Own<'_> {
    fn listens(&self, address: SocketAddr) -> bool {
        self.snapshot.is_own(address)
    }

    fn opened(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.worker.opened.contains(from, to)
    }
}

/// The loop guard: where a connection goes on to.
pub(super) fn judge(
    direction: Direction,
    (caller, local): (SocketAddr, SocketAddr),
    meant: Option<SocketAddr>,
    ours: &impl Ours,
) -> Result<SocketAddr, Refusal> {
    let meant = meant.filter(|meant| *meant != canonical(local)).ok_or(Refusal::NotRedirected)?;
    let is_own = match direction {
        Direction::Outbound => ours.opened(caller, meant),
        Direction::Inbound => APP_SOURCES.contains(&caller.ip()),
    };
    match () {
        () if is_own => Err(Refusal::FromOurselves(meant)),
        () if ours.listens(meant) => Err(Refusal::ToOurselves(meant)),
        () => Ok(meant),
    }
}

#[cold]
fn refuse(worker: &Worker, listener: &str, peer: SocketAddr, refusal: Refusal) {
    let stats = &worker.stats;
    let count = match refusal {
        Refusal::NotRedirected => &stats.not_redirected,
        Refusal::ToOurselves(_) | Refusal::FromOurselves(_) => &stats.loops_refused,
    };
    add(count, 1);
    if worker.quiet.allows() {
        tracing::warn!(%listener, %peer, "closed a connection: {refusal}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect(text)
    }

    /// A proxy that listens on two ports and has called out once.
    struct Proxy;

    impl Ours for Proxy {
        fn listens(&self, to: SocketAddr) -> bool {
            [15001, 15006].contains(&to.port())
                && [address("10.0.0.5:1").ip(), address("[::1]:1").ip()].contains(&to.ip())
        }

        fn opened(&self, from: SocketAddr, to: SocketAddr) -> bool {
            (from, to) == (address("10.0.0.5:40000"), address("10.0.0.9:80"))
        }
    }

    #[test]
    fn what_would_go_round_in_a_circle_is_refused_and_nothing_else_is() {
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        let (from_us, to_us) = (Refusal::FromOurselves, Refusal::ToOurselves);
        let (out, within) = ("127.0.0.1:15001", "10.0.0.5:15006");
        let rows = [
            (outbound, "10.0.0.5:41000", out, Some("10.0.0.9:80"), Ok("10.0.0.9:80")),
            (outbound, "[::1]:41000", "[::1]:15001", Some("[2001:db8::9]:80"), Ok("[2001:db8::9]:80")),
            (outbound, "10.0.0.5:40000", out, Some("10.0.0.8:80"), Ok("10.0.0.8:80")),
            (outbound, "10.0.0.5:41000", out, None, Err(Refusal::NotRedirected)),
            (outbound, "127.0.0.1:41000", out, Some(out), Err(Refusal::NotRedirected)),
            (outbound, "127.0.0.1:41000", "[::ffff:127.0.0.1]:15001", Some(out), Err(Refusal::NotRedirected)),
            (outbound, "10.0.0.5:40000", out, Some("10.0.0.9:80"), Err(from_us(address("10.0.0.9:80")))),
            (outbound, "10.0.0.5:41000", out, Some("10.0.0.5:15006"), Err(to_us(address("10.0.0.5:15006")))),
            (outbound, "10.0.0.5:41000", out, Some("10.0.0.9:15006"), Ok("10.0.0.9:15006")),
            (inbound, "10.0.0.9:41000", within, Some("10.0.0.5:8080"), Ok("10.0.0.5:8080")),
            (inbound, "10.0.0.9:41000", within, Some("10.0.0.5:15001"), Err(to_us(address("10.0.0.5:15001")))),
            (inbound, "10.0.0.9:41000", within, Some(within), Err(Refusal::NotRedirected)),
            (inbound, "127.0.0.6:41000", within, Some("10.0.0.5:8080"), Err(from_us(address("10.0.0.5:8080")))),
            (inbound, "[::6]:41000", "[::1]:15006", Some("[::1]:8080"), Err(from_us(address("[::1]:8080")))),
            (inbound, "10.0.0.5:40000", within, Some("10.0.0.9:80"), Ok("10.0.0.9:80")),
        ];
        for (direction, caller, local, meant, expected) in rows {
            let judged = judge(direction, (address(caller), address(local)), meant.map(address), &Proxy);
            assert_eq!(judged, expected.map(address), "{direction:?} from {caller} at {local} to {meant:?}");
        }
    }

    #[test]
    fn an_address_of_ipv4_is_one_however_the_socket_calls_it() {
        for (given, expected) in [
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(canonical(address(given)), address(expected));
        }
    }

    #[tokio::test]
    async fn a_connection_that_nobody_has_redirected_was_going_where_it_arrived_or_nowhere() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(host).await else {
                println!("SKIPPED {host}: this host has no such address");
                continue;
            };
            let here = listener.local_addr().expect("an address");
            let (dialled, accepted) = tokio::join!(TcpStream::connect(here), listener.accept());
            let (_dialled, (stream, caller)) = (dialled.expect("connected"), accepted.expect("accepted"));
            let meant = original_destination(&stream, here).map(canonical).ok();
            assert_eq!(judge(Direction::Outbound, (caller, here), meant, &Proxy), Err(Refusal::NotRedirected));
        }
    }
}
