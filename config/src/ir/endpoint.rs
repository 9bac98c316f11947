//! The members of a cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Serialize, Serializer};

use super::{ClusterName, Invalid, Port};
use crate::identity::SpiffeId;

/// The members of one cluster, by locality.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Endpoints {
    /// Whose members.
    pub cluster: ClusterName,
    /// In the order of the wire.
    pub localities: Vec<LocalityEndpoints>,
    /// How much of a priority's healthy share counts as enough, in percent (Envoy: 140).
    pub overprovisioning: u32,
}

impl Endpoints {
    /// Envoy's overprovisioning factor.
    pub const OVERPROVISIONING: u32 = 140;

    /// All members, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }
}

/// The members in one place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocalityEndpoints {
    /// Which place.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// Share among localities of a priority, where the cluster asks for it; `None`: nothing beside localities that have one.
    pub weight: Option<u32>,
    /// The members.
    pub endpoints: Vec<Endpoint>,
}

/// Region, zone and subzone; empty where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub subzone: String,
}

impl Locality {
    /// Reads Istio's `region/zone/subzone`, of which the later parts may be missing.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { region: next(), zone: next(), subzone: next() }
    }
}

/// One member: the peer's inbound listener.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Share among the members of its locality, 1 to 2³²-1 in total.
    pub weight: u32,
    /// What the control plane says of it.
    pub health: Health,
    /// It speaks mesh mTLS (label `security.istio.io/tlsMode: istio`).
    pub mesh_tls: bool,
    /// Its expected SPIFFE ID, where known.
    pub identity: Option<SpiffeId>,
    /// Labels, for subsets and telemetry.
    pub labels: BTreeMap<String, String>,
    /// The workload that it is an instance of, for telemetry; `None`: nobody says.
    pub workload: Option<WorkloadName>,
}

/// Name of a workload (a deployment, a WorkloadEntry).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)]
pub struct WorkloadName {
    pub name: String,
    pub namespace: String,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A name to resolve, for [`super::Discovery::Dns`].
    Name {
        /// The DNS name.
        host: String,
        /// The port.
        port: Port,
    },
}

impl Address {
    /// An IP address or DNS name with a port.
    pub fn new(host: &str, port: u16) -> Result<Self, Invalid> {
        let port = Port::new(port).ok_or_else(|| Invalid::new("a port is between 1 and 65535, this is 0"))?;
        match host.parse() {
            Ok(ip) => Ok(Self::Socket(SocketAddr::new(ip, port.get()))),
            Err(_) if host.is_empty() => Err(Invalid::new("an address is not empty")),
            Err(_) => Ok(Self::Name { host: host.to_owned(), port }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the control plane says of an endpoint (Envoy's HealthStatus).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Health {
    Unknown,
    Healthy,
    Unhealthy,
    Draining,
    Timeout,
    Degraded,
}

impl Health {
    /// Whether requests may go there.
    pub fn is_usable(self) -> bool {
        match self {
            Self::Unknown | Self::Healthy | Self::Degraded => true,
            Self::Unhealthy | Self::Draining | Self::Timeout => false,
        }
    }
}
