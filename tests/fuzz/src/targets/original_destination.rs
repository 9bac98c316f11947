//! Captured connections: the bytes are a direction, the addresses of a connection, where it was going, and what belongs to
//! the proxy. (The kernel's own structure is read by socket2; what is ours begins with the address in it.)

use std::net::{IpAddr, SocketAddr};

use leno_config::defaults::APP_SOURCES;
use leno_config::ir::Direction;
use leno_proxy::downstream::fuzzing::{Belongings, goes_on_to};

use crate::Target;
use crate::input::Input;

pub(crate) const TARGET: Target = Target {
    name: "original_destination",
    property: "a connection goes on exactly if it was redirected and cannot come back, however its addresses are spelt",
    check,
    words: &["\u{0}\u{0}", "\u{1}\u{1}"],
};

fn check(data: &[u8]) {
    let mut input = Input(data);
    let direction = if input.byte() & 1 == 0 { Direction::Outbound } else { Direction::Inbound };
    let (caller, local) = (input.address(), input.address());
    let original = (input.byte() % 8 != 0).then(|| input.address());
    let listeners = (0..input.byte() % 4).map(|_| plain(input.address())).collect();
    let opened = (0..input.byte() % 4).map(|_| (input.address(), plain(input.address()))).collect();
    let ours = Belongings { listeners, opened };
    let found = goes_on_to(direction, (caller, local), original, &ours);
    let expected = original.map(plain).filter(|meant| {
        let is_own = match direction {
            Direction::Outbound => ours.opened.contains(&(caller, *meant)),
            Direction::Inbound => APP_SOURCES.contains(&caller.ip()),
        };
        *meant != plain(local) && !is_own && !ours.listeners.contains(meant)
    });
    assert_eq!(found, expected, "{direction:?} {caller} at {local} to {original:?}");
    // Whether a socket of IPv6 or of IPv4 has accepted it makes no difference.
    for spelt in [plain, mapped] {
        let original = original.map(spelt);
        assert_eq!(goes_on_to(direction, (caller, spelt(local)), original, &ours), expected, "{original:?}");
    }
}

fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => SocketAddr::new(address.ip().to_canonical(), address.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}
