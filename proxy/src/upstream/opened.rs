//! The connections that this process has opened, by both their ends, so that it knows one that comes back to it.
//!
//! Where the rules of redirection do not spare the proxy's user, what the proxy sends is redirected to the proxy, which
//! sends it again: two sockets more in each round, until there are none left. The addresses alone do not show it, since
//! each round goes to the right destination; but both ends of a connection together name exactly one.
//!
//! Only a proxy that captures what leaves the pod looks, so only such a proxy remembers: a lock for each connection that is
//! opened, none for a request.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// From where to where.
type Ends = (SocketAddr, SocketAddr);

/// What is remembered; shared by all workers. As large as there are connections.
#[derive(Debug, Default)]
pub struct Opened {
    wanted: AtomicBool,
    ends: Mutex<HashSet<Ends, foldhash::fast::RandomState>>,
}

/// One connection is remembered until this is dropped.
#[derive(Debug)]
pub struct Noted {
    opened: Arc<Opened>,
    ends: Ends,
}

impl Opened {
    /// Whether connections are to be remembered from now on.
    pub fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Whether they are.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Remembers a connection, before its peer can have accepted it. `None`: nobody wants to know.
    pub fn note(self: &Arc<Self>, from: SocketAddr, to: SocketAddr) -> Option<Box<Noted>> {
        if !self.is_wanted() {
            return None;
        }
        let ends = (without_zone(from), without_zone(to));
        self.all().insert(ends);
        Some(Box::new(Noted { opened: Arc::clone(self), ends }))
    }

    /// Whether such a connection is open, or about to be.
    pub fn contains(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.all().contains(&(without_zone(from), without_zone(to)))
    }

    fn all(&self) -> MutexGuard<'_, HashSet<Ends, foldhash::fast::RandomState>> {
        // A set is whole after a panic as well.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.opened.all().remove(&self.ends);
    }
}

/// The kernel names the zone of an address at one end only.
fn without_zone(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_while_it_lasts_and_only_by_both_its_ends() {
        let address = |text: &str| -> SocketAddr { text.parse().expect(text) };
        let (from, to) = (address("10.0.0.5:40000"), address("10.0.0.9:80"));
        let opened = Arc::new(Opened::default());
        assert!(opened.note(from, to).is_none(), "nobody wants to know");
        opened.want(true);
        let noted = opened.note(from, to);
        assert!(opened.contains(from, to) && opened.contains(address("[::ffff:10.0.0.5]:40000"), to));
        assert!(!opened.contains(from, address("10.0.0.9:81")) && !opened.contains(to, from));
        drop(noted);
        assert!(!opened.contains(from, to));
    }
}
