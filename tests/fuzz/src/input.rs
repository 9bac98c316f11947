//! Bytes as values: what a target takes off the front of its input, never running out (then it is zeros).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What is left of an input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// A number below `end`; 0 where `end` is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(u16::from_le_bytes(self.bytes())).checked_rem(end).unwrap_or_default()
    }

    /// An address out of few, so that two are often equal, or any.
    pub(crate) fn address(&mut self) -> SocketAddr {
        let port = [15001, 15006, 80, 0][usize::from(self.byte() % 4)];
        let ip: IpAddr = match self.byte() % 8 {
            0 => Ipv4Addr::LOCALHOST.into(),
            1 => Ipv4Addr::new(127, 0, 0, 6).into(),
            2 => Ipv4Addr::new(10, 0, 0, self.byte()).into(),
            3 => Ipv4Addr::new(10, 0, 0, self.byte()).to_ipv6_mapped().into(),
            4 => Ipv6Addr::LOCALHOST.into(),
            5 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
            6 => Ipv4Addr::from_octets(self.bytes()).into(),
            _ => Ipv6Addr::from_octets(self.bytes()).into(),
        };
        SocketAddr::new(ip, port)
    }

    /// The rest as lines, without their ends.
    pub(crate) fn lines(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|byte| *byte == b'\n')
    }
}
