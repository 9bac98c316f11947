//! Whom a captured connection belongs to, by where it was going.
//!
//! The narrower first: the listener at exactly that address, then the one at every address of its family on that port.
//! What belongs to nobody stays with the listener that captured it. The directions are apart: `0.0.0.0:9080` for calls
//! *out* must not take what comes *in*, past the policies of the workload.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use leno_config::ir::{Direction, Intake, Listener};

/// Listeners that are handed connections, each as a `T`, by what callers meant.
#[derive(Debug)]
pub struct Captured<T> {
    by_address: HashMap<(Direction, SocketAddr), T, foldhash::fast::RandomState>,
}

impl<T> Default for Captured<T> {
    fn default() -> Self {
        Self { by_address: HashMap::default() }
    }
}

impl<T: Clone> Captured<T> {
    /// Adds a listener if it is one of those. Of two at one address the first counts.
    pub fn add(&mut self, listener: &Listener, whose: &T) {
        match listener.intake {
            Intake::Handed => {}
            Intake::Bound | Intake::Capture => return,
        }
        for address in listener.addresses() {
            self.by_address.entry((listener.direction, address)).or_insert_with(|| whose.clone());
        }
    }

    /// Who takes a connection that was going to `meant`. `None`: nobody in particular.
    pub fn find(&self, direction: Direction, meant: SocketAddr) -> Option<&T> {
        if self.by_address.is_empty() {
            return None;
        }
        let anywhere = match meant.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let exactly = SocketAddr::new(meant.ip(), meant.port());
        let at = |address| self.by_address.get(&(direction, address));
        at(exactly).or_else(|| at(SocketAddr::new(anywhere, meant.port())))
    }
}

#[cfg(test)]
mod tests {
    use leno_config::ir::{ClusterName, ListenerProtocol, TcpRoute, WeightedClusters};

    use super::*;

    fn listener(direction: Direction, intake: Intake, addresses: &[&str]) -> Listener {
        let mut all = addresses.iter().map(|address| address.parse().expect("an address"));
        let route = TcpRoute {
            stat_prefix: String::new(),
            origin: None,
            clusters: WeightedClusters::single(ClusterName::new("a")),
            idle_timeout: None,
            hashes_source: false,
        };
        let first = all.next().expect("at least one");
        let listener = Listener::new(addresses.join(","), first, direction, ListenerProtocol::Tcp(route));
        Listener { intake, additional_addresses: all.collect(), ..listener }
    }

    #[test]
    fn a_connection_belongs_to_the_narrowest_listener_of_its_direction_and_family() {
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        let listeners = [
            listener(outbound, Intake::Capture, &["0.0.0.0:15001", "[::]:15001"]),
            listener(outbound, Intake::Bound, &["10.0.0.7:7000"]),
            listener(outbound, Intake::Handed, &["0.0.0.0:9080"]),
            listener(outbound, Intake::Handed, &["10.0.0.1:9080"]),
            listener(outbound, Intake::Handed, &["10.0.0.1:3306", "[2001:db8::1]:3306"]),
            listener(outbound, Intake::Handed, &["[::]:443"]),
            listener(inbound, Intake::Handed, &["0.0.0.0:8080", "[::]:8080"]),
        ];
        let mut captured = Captured::default();
        for listener in &listeners {
            captured.add(listener, &listener.name);
        }
        let rows = [
            (outbound, "10.0.0.1:9080", Some("10.0.0.1:9080")),
            (outbound, "10.0.0.2:9080", Some("0.0.0.0:9080")),
            (outbound, "[2001:db8::2]:9080", None),
            (outbound, "10.0.0.1:3306", Some("10.0.0.1:3306,[2001:db8::1]:3306")),
            (outbound, "[2001:db8::1]:3306", Some("10.0.0.1:3306,[2001:db8::1]:3306")),
            (outbound, "10.0.0.2:3306", None),
            (outbound, "[2001:db8::9]:443", Some("[::]:443")),
            (outbound, "10.0.0.1:443", None),
            (outbound, "10.0.0.1:8080", None),
            (inbound, "10.0.0.1:8080", Some("0.0.0.0:8080,[::]:8080")),
            (inbound, "[2001:db8::1]:8080", Some("0.0.0.0:8080,[::]:8080")),
            (inbound, "10.0.0.1:9080", None),
            (outbound, "10.0.0.9:15001", None),
            (outbound, "10.0.0.7:7000", None),
        ];
        for (direction, meant, expected) in rows {
            let found = captured.find(direction, meant.parse().expect("an address")).map(String::as_str);
            assert_eq!(found, expected, "{direction:?} {meant}");
        }
    }

    #[test]
    fn the_zone_of_an_address_is_not_a_part_of_it() {
        let mut captured = Captured::default();
        captured.add(&listener(Direction::Outbound, Intake::Handed, &["[fe80::1]:80"]), &());
        let meant = SocketAddr::V6(std::net::SocketAddrV6::new("fe80::1".parse().expect("an address"), 80, 0, 3));
        assert!(captured.find(Direction::Outbound, meant).is_some());
    }
}
