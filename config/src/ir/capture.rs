//! Connections that were meant for somebody else and redirected to the proxy.
//!
//! The kernel keeps where such a connection wanted to go (`SO_ORIGINAL_DST`). One socket takes all of them
//! ([`Intake::Capture`]) and hands each to whom its destination belongs, the narrower first: the listener of exactly that
//! address, then the one of its port at `0.0.0.0` or `[::]`, of the same direction. What belongs to nobody stays with the
//! socket's own listener, which so is the catch-all.
//!
//! **Outbound**, these are listeners of their own without a socket ([`Intake::Handed`], Envoy's `bind_to_port: false`),
//! so that one more service costs one more resource. **Inbound**, they are [`CapturedPort`]s inside the one listener
//! (Envoy: filter chains by `destination_port`), as Istio has it. Envoy looks a destination up among the listeners of both
//! directions: a listener `0.0.0.0_9080` for calls *out* would take what comes *in* for a port that the workload did not
//! declare, past all its policies.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use super::{AccessLogs, Authorization, Direction, Listener, ListenerProtocol, MtlsMode, Port, ServerTls};

/// How connections come to a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Intake {
    /// Over sockets of its own; it serves all of them.
    #[default]
    Bound,
    /// Over sockets of its own, to which connections are redirected. Each goes to whom its original destination belongs,
    /// and only what belongs to nobody is served here (Envoy's `use_original_dst`, or its listener filter
    /// `original_dst`).
    Capture,
    /// From the listener that captures in its direction. Its addresses are those that callers meant; there is no socket
    /// (Envoy's `bind_to_port: false`).
    Handed,
}

impl Intake {
    /// Whether it has sockets.
    pub fn has_sockets(self) -> bool {
        match self {
            Self::Bound | Self::Capture => true,
            Self::Handed => false,
        }
    }

    /// Whether there is nothing to say about it.
    pub(super) fn is_bound(&self) -> bool {
        *self == Self::Bound
    }
}

/// What a listener that captures does with connections to one port, whatever their address.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CapturedPort {
    /// Whether callers come with a certificate of the mesh.
    pub mtls: MtlsMode,
    /// TLS for callers who are not of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<ServerTls>>,
    /// Who may do what.
    pub authorization: Authorization,
    /// What is logged.
    #[serde(skip_serializing_if = "AccessLogs::is_empty")]
    pub access_logs: AccessLogs,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
}

impl Listener {
    /// Its ports as listeners to which it hands connections, at `0.0.0.0` and `[::]`: the data path need know no other
    /// kind. They are called [`port_name`](Self::port_name).
    pub fn handed_ports(&self) -> impl Iterator<Item = Self> {
        let any = |ip: IpAddr, port: Port| SocketAddr::new(ip, port.get());
        self.ports.iter().map(move |(&port, captured)| {
            let CapturedPort { mtls, tls, authorization, access_logs, protocol } = captured.clone();
            Self {
                name: self.port_name(port),
                address: any(Ipv4Addr::UNSPECIFIED.into(), port),
                additional_addresses: vec![any(Ipv6Addr::UNSPECIFIED.into(), port)],
                direction: self.direction,
                intake: Intake::Handed,
                ports: BTreeMap::new(),
                mtls,
                tls,
                authorization,
                access_logs,
                protocol,
            }
        })
    }

    /// What one of its ports is called, as a listener and among Envoy's filter chains: `inbound_0.0.0.0_9080`.
    pub fn port_name(&self, port: Port) -> String {
        let direction = match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        format!("{direction}_0.0.0.0_{port}")
    }

    /// All addresses, the first one first.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.address).chain(self.additional_addresses.iter().copied())
    }

    /// What is spoken on it, and on each of its ports.
    pub fn protocols(&self) -> impl Iterator<Item = &ListenerProtocol> {
        std::iter::once(&self.protocol).chain(self.ports.values().map(|port| &port.protocol))
    }

    /// How callers come in, on it and on each of its ports.
    pub fn modes(&self) -> impl Iterator<Item = MtlsMode> {
        std::iter::once(self.mtls).chain(self.ports.values().map(|port| port.mtls))
    }
}
