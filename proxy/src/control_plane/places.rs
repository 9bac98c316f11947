//! The replicas of a control plane, and which one is tried first.
//!
//! An operator may name several addresses, and a host name may stand for several (a headless Service, for example). All
//! replicas hold the same, so it does not matter which one a proxy speaks to, only that it is another one when the last
//! is gone and that a thousand proxies do not all choose the same: they begin anywhere, and the one that was used last
//! comes last. The versions that the proxy holds go along, so that the next replica sends what has changed and no more.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::Address;

/// Most socket addresses that are tried for one connection.
const MOST: usize = 16;
/// For TCP, where there is another one to try: a node that went away does not answer at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is remembered between two connections.
#[derive(Debug, Default)]
pub(super) struct Places {
    last: Mutex<Option<SocketAddr>>,
}

/// A connection, and whose it is.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) stream: TcpStream,
    pub(super) address: Address,
    pub(super) peer: SocketAddr,
}

impl Places {
    /// Connects to one of these, which are at least one. The error is that of the last one that was tried.
    #[expect(clippy::expect_used, reason = "the caller has at least one address: it was given one")]
    pub(super) async fn connect(&self, addresses: &[Address]) -> Result<Reached, (Address, io::Error)> {
        let (mut candidates, mut failure) = (Vec::new(), None);
        for address in addresses {
            match lookup_host((address.host(), address.port())).await {
                Ok(found) => candidates.push(found.map(|at| (address.clone(), at)).collect()),
                Err(error) => failure = Some((address.clone(), error)),
            }
        }
        let last = *self.last();
        let candidates = order(candidates, last, RandomState::new().hash_one(0));
        let count = candidates.len();
        for (index, (address, peer)) in candidates.into_iter().enumerate() {
            let connected = match index + 1 < count {
                true => timeout(PATIENCE, TcpStream::connect(peer)).await.unwrap_or_else(|_| Err(late())),
                // Whoever waits for the whole has a deadline.
                false => TcpStream::connect(peer).await,
            };
            match connected {
                Ok(stream) => {
                    *self.last() = Some(peer);
                    return Ok(Reached { stream, address, peer });
                }
                Err(error) => failure = Some((address, error)),
            }
        }
        let nobody = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let named = addresses.first().cloned().expect("invariant: there is an address");
        Err(failure.unwrap_or_else(|| (named, nobody())))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<SocketAddr>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "nobody answers")
}

/// The order in which candidates are tried: any, by the random number, but the one that was used last at the end. What a
/// name stands for stays sorted by families, since the system puts first what is likely to work (RFC 6724).
fn order(names: Vec<Vec<(Address, SocketAddr)>>, last: Option<SocketAddr>, random: u64) -> Vec<(Address, SocketAddr)> {
    let mut names: Vec<_> = names.into_iter().map(|found| of_name(found, random)).collect();
    turn(&mut names, random);
    let mut all: Vec<_> = names.into_iter().flatten().collect();
    all.truncate(MOST);
    // Stable: the others keep their order.
    all.sort_by_key(|(_, at)| Some(*at) == last);
    all
}

fn of_name(found: Vec<(Address, SocketAddr)>, random: u64) -> Vec<(Address, SocketAddr)> {
    let first_is_v4 = found.first().is_some_and(|(_, at)| at.is_ipv4());
    let (mut first, mut second): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, at)| at.is_ipv4() == first_is_v4);
    turn(&mut first, random >> 16);
    turn(&mut second, random >> 16);
    first.append(&mut second);
    first
}

/// Begins somewhere else.
fn turn<T>(all: &mut [T], random: u64) {
    if let Ok(count @ 1..) = u64::try_from(all.len()) {
        all.rotate_left(usize::try_from(random % count).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::net::TcpListener;

    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).expect(text)
    }

    #[test]
    fn proxies_begin_anywhere_and_the_one_that_was_used_last_comes_last() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let name = |ips: &[&str]| -> Vec<_> {
            ips.iter().map(|ip| (address("https://leno.leno-system.svc:15012"), at(ip))).collect()
        };
        let found =
            || vec![name(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "[2001:db8::1]:1"]), name(&["10.1.0.1:1"])];
        let mut firsts = BTreeSet::new();
        for random in 0..(3 << 16) {
            let order: Vec<_> = order(found(), Some(at("10.0.0.2:1")), random).into_iter().map(|(_, at)| at).collect();
            assert_eq!((order.len(), order[4]), (5, at("10.0.0.2:1")));
            let place = |text: &str| order.iter().position(|it| *it == at(text)).unwrap();
            assert!(place("10.0.0.1:1") < place("[2001:db8::1]:1"), "families stay together: {order:?}");
            firsts.insert(order[0]);
        }
        assert_eq!(firsts.len(), 3, "{firsts:?}");
        assert_eq!(order(vec![name(&["10.0.0.1:1"])], Some(at("10.0.0.1:1")), 7).len(), 1, "better than none");
        assert!(order(vec![vec![]], None, 7).is_empty());
    }

    #[tokio::test]
    async fn the_next_connection_goes_to_another_replica_and_past_one_that_is_gone() {
        let (one, other) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = |listener: &TcpListener| listener.local_addr().unwrap();
        let addresses = [at(&gone), at(&one), at(&other)].map(|at| address(&format!("http://{at}")));
        drop(gone);
        let places = Places::default();
        let mut before = None;
        for _ in 0..16 {
            let reached = places.connect(&addresses).await.unwrap();
            assert_ne!(Some(reached.peer), before, "there is another one");
            assert_eq!(reached.stream.peer_addr().unwrap(), reached.peer);
            before = Some(reached.peer);
        }
        drop((one, other));
        let (_, error) = places.connect(&addresses).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
