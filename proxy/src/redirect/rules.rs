//! Which connections go to the proxy: pure, the same for every backend and both families.
//!
//! The order is that of `istio-iptables`, which has been through every corner of this: the first rule that matches a
//! connection decides. What each is for stands beside it. Only the first packet of a connection meets them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::settings::{Flags, Ports, Ranges};

/// Where the proxy's connections to its own app come from, so that the rules know them (Istio's addresses).
pub(super) const INBOUND_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6; unlike 127.0.0.6 it has to be given to the loopback device first.
pub(super) const INBOUND_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

const DNS: u16 = 53;

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Rules of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// For connections that reach the pod.
    pub(super) inbound: Vec<Rule>,
    /// For connections that begin in the pod, also those that stay in it.
    pub(super) outbound: Vec<Rule>,
}

/// What happens to a TCP connection for which all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// All of these; none: every connection.
    pub(super) when: Vec<Condition>,
    /// What then.
    pub(super) then: Verdict,
}

/// Something about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// It goes to this port.
    Port(u16),
    /// It stays in the pod.
    OverLoopback,
    /// It comes from here.
    From(IpNet),
    /// It goes there.
    To(IpNet),
    /// It does not go there.
    NotTo(IpNet),
    /// A process of this user began it.
    User(u32),
    /// A process of another user began it.
    NotUser(u32),
    /// A process of this group began it.
    Group(u32),
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes where it was going.
    Pass,
    /// It goes to this port of the proxy.
    Redirect(u16),
}

/// The rules of `family` that do what `flags` say.
pub(super) fn rules(flags: &Flags, family: Family) -> Rules {
    Rules { inbound: inbound(flags), outbound: outbound(flags, family) }
}

fn inbound(flags: &Flags) -> Vec<Rule> {
    let mut rules: Vec<Rule> = flags.exclude_inbound_ports.iter().map(|port| pass([Condition::Port(port)])).collect();
    let to_proxy = Verdict::Redirect(flags.inbound_port);
    match &flags.include_inbound_ports {
        Ports::All => rules.push(Rule { when: Vec::new(), then: to_proxy }),
        Ports::These(ports) => {
            rules.extend(ports.iter().map(|port| Rule { when: vec![Condition::Port(port)], then: to_proxy }));
        }
    }
    rules
}

fn outbound(flags: &Flags, family: Family) -> Vec<Rule> {
    let (loopback, source) = match family {
        Family::V4 => (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(INBOUND_SOURCE_V4)),
        Family::V6 => (IpAddr::from(Ipv6Addr::LOCALHOST), IpAddr::from(INBOUND_SOURCE_V6)),
    };
    let loopback = IpNet::from(loopback);
    let (uid, gid) = (flags.proxy_uid, flags.proxy_gid);
    let mut rules = Vec::new();
    // Names are looked up past the proxy, over TCP as over UDP, unless somebody asks for it.
    if !flags.include_outbound_ports.contains(DNS) {
        rules.push(pass([Condition::Port(DNS)]));
    }
    rules.extend(flags.exclude_outbound_ports.iter().map(|port| pass([Condition::Port(port)])));
    // The proxy hands the app what came in.
    rules.push(pass([Condition::OverLoopback, Condition::From(source.into())]));
    // The app calls its own service and the proxy picked this very pod: that is a call that comes in.
    rules.push(Rule {
        when: vec![Condition::OverLoopback, Condition::NotTo(loopback), Condition::User(uid)],
        then: Verdict::Redirect(flags.inbound_port),
    });
    // Containers of a pod talk to each other past the proxy, by the pod's address too.
    if !includes_loopback(&flags.include_outbound_ranges) {
        rules.push(pass([Condition::OverLoopback, Condition::NotUser(uid)]));
    }
    // The proxy's own connections, or they would come back to it for ever.
    rules.push(pass([Condition::User(uid)]));
    rules.push(pass([Condition::Group(gid)]));
    rules.push(pass([Condition::To(loopback)]));
    let ours = |range: &IpNet| matches!((range, family), (IpNet::V4(_), Family::V4) | (IpNet::V6(_), Family::V6));
    rules.extend(flags.exclude_outbound_ranges.iter().filter(ours).map(|range| pass([Condition::To(range)])));
    let to_proxy = |condition| Rule { when: vec![condition], then: Verdict::Redirect(flags.outbound_port) };
    rules.extend(flags.include_outbound_ports.iter().map(|port| to_proxy(Condition::Port(port))));
    match &flags.include_outbound_ranges {
        Ranges::All => rules.push(Rule { when: Vec::new(), then: Verdict::Redirect(flags.outbound_port) }),
        Ranges::These(ranges) => {
            rules.extend(ranges.iter().filter(ours).map(|range| to_proxy(Condition::To(range))));
        }
    }
    rules
}

/// Whoever names an address of the loopback device among the ranges wants it captured.
fn includes_loopback(ranges: &Ranges) -> bool {
    match ranges {
        Ranges::All => false,
        Ranges::These(ranges) => ranges.iter().any(|range| range.addr().is_loopback()),
    }
}

fn pass<const N: usize>(when: [Condition; N]) -> Rule {
    Rule { when: when.to_vec(), then: Verdict::Pass }
}
