//! Capture: the kernel hands a pod's connections to its proxy.
//!
//! Only packets count, not the text of rules: [`packets`] sets rules with `leno-proxy redirect` in network namespaces
//! ([`network`]: two pods and a node between them) and looks where connections arrive, with every backend that the
//! kernel has, over IPv4 and IPv6; [`lifecycle`] applies, replaces, fails and removes;
//! [`whole`] has real proxies behind the rules, and [`greeting`] a server that speaks first.

mod greeting;
mod lifecycle;
pub(crate) mod network;
mod packets;
mod whole;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use leno_tests::skip;

use network::{Network, Pod, Server, Who};

/// An address of a service: nobody has it, and the node does not route it.
const SERVICE_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const SERVICE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10);

/// What sets rules, with a program that it needs.
const BACKENDS: [(&str, &str); 3] =
    [("nft", "nft"), ("iptables-nft", "iptables-nft-restore"), ("iptables-legacy", "iptables-legacy-restore")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Four,
    Six,
}

/// Two pods with servers that say who they are.
struct Stage {
    /// Its rules are set; stands alone, without a proxy.
    a: Pod,
    /// Has no rules.
    b: Pod,
    _servers: Vec<Server>,
    _network: Network,
}

impl Stage {
    /// `None` after saying why there can be none.
    fn start(what: &str, program: &str) -> Option<Self> {
        let network = Network::new().and_then(|network| match network::has(program) {
            true => Ok(network),
            false => Err(format!("there is no program {program}")),
        });
        let network = match network {
            Ok(network) => network,
            Err(why) => {
                skip(what, &why);
                return None;
            }
        };
        let (a, b) = (network.pod(0), network.pod(1));
        let mut servers = Vec::new();
        let names =
            [("outbound", 15001), ("inbound", 15006), ("app", 8080), ("dns", 53), ("ssh", 22), ("stats", 15020)];
        for pod in [&a, &b] {
            for (name, port) in names {
                let name = format!("{} {name}", pod.name());
                servers.push(pod.serve(&name, (Ipv4Addr::UNSPECIFIED, port).into()));
                servers.push(pod.serve(&name, (Ipv6Addr::UNSPECIFIED, port).into()));
            }
        }
        for (name, port) in [("a other outbound", 16001), ("a other inbound", 16006), ("a foreign", 17000)] {
            servers.push(a.serve(name, (Ipv4Addr::UNSPECIFIED, port).into()));
            servers.push(a.serve(name, (Ipv6Addr::UNSPECIFIED, port).into()));
        }
        Some(Self { a, b, _servers: servers, _network: network })
    }

    /// Runs `leno-proxy redirect …` in pod a, which must go well: what it printed.
    fn redirect(&self, arguments: &[&str]) -> String {
        let outcome = self.a.redirect(arguments);
        assert_eq!(outcome.code, 0, "redirect {arguments:?}: {}", outcome.stderr);
        outcome.stdout
    }

    /// Where a connection from `from` to `to` arrives: the name of the server, or why there is none.
    ///
    /// `from` is `a` or `b`: an app there; `a's proxy`, `a's group` (another user, the proxy's group) or `a's inbound`
    /// (the proxy, from the address from which it calls the app). `to` is `a`, `b`, `loopback` or `service` and a port.
    fn arrives(&self, version: Version, from: &str, to: &str) -> String {
        let to = self.address(version, to);
        let (pod, who, source) = match from {
            "a" => (&self.a, Who::App, None),
            "a's proxy" => (&self.a, Who::Proxy, None),
            "a's group" => (&self.a, Who::ProxyGroup, None),
            "a's inbound" => (&self.a, Who::Proxy, Some(inbound_source(version))),
            "b" => (&self.b, Who::App, None),
            other => panic!("nobody is called {other}"),
        };
        let heard = match pod.ask(who, source, to) {
            Ok(heard) => heard,
            Err(error) => return format!("nobody: {:?}", error.kind()),
        };
        let (name, original) = heard.split_once(" for ").unwrap();
        let captured = name.ends_with("outbound") || name.ends_with("inbound");
        if captured {
            assert_eq!(original, to.to_string(), "the original destination of {from} to {to}");
        }
        name.to_owned()
    }

    fn address(&self, version: Version, to: &str) -> SocketAddr {
        let (host, port) = to.split_once(':').unwrap();
        let port: u16 = port.parse().unwrap();
        match (host, version) {
            ("a", Version::Four) => (self.a.v4(), port).into(),
            ("a", Version::Six) => (self.a.v6(), port).into(),
            ("b", Version::Four) => (self.b.v4(), port).into(),
            ("b", Version::Six) => (self.b.v6(), port).into(),
            ("loopback", Version::Four) => (Ipv4Addr::LOCALHOST, port).into(),
            ("loopback", Version::Six) => (Ipv6Addr::LOCALHOST, port).into(),
            ("service", Version::Four) => (SERVICE_V4, port).into(),
            ("service", Version::Six) => (SERVICE_V6, port).into(),
            (other, Version::Four | Version::Six) => panic!("nobody is called {other}"),
        }
    }

    /// Each of `expected` is who calls whom and where that arrives, on both versions.
    fn expect(&self, what: &str, expected: &[(&str, &str, &str)]) {
        for version in [Version::Four, Version::Six] {
            self.expect_of(version, what, expected);
        }
    }

    fn expect_of(&self, version: Version, what: &str, expected: &[(&str, &str, &str)]) {
        let found = expected.iter().map(|(from, to, _)| (*from, *to, self.arrives(version, from, to)));
        let found: Vec<_> = found.collect();
        let expected: Vec<_> = expected.iter().map(|(from, to, name)| (*from, *to, (*name).to_owned())).collect();
        assert_eq!(found, expected, "{what}, {version:?}");
    }
}

fn inbound_source(version: Version) -> std::net::IpAddr {
    match version {
        Version::Four => Ipv4Addr::new(127, 0, 0, 6).into(),
        Version::Six => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
    }
}
