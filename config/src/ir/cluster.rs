//! A service as this proxy calls it.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ClusterName, Endpoints, Fraction, HealthCheck};

/// A group of endpoints that are called the same way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cluster {
    /// Unique in the proxy.
    pub name: ClusterName,
    /// The service that it is a part of, for telemetry; `None`: nobody says.
    pub service: Option<ServiceName>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How one of them is chosen.
    pub balance: Balance,
    /// What is spoken with them.
    pub protocol: UpstreamProtocol,
    /// For the TCP (and TLS) handshake. Istio: 10 s.
    pub connect_timeout: Duration,
    /// An idle connection in the pool is closed after it. Istio and Envoy: 1 h.
    pub idle_timeout: Option<Duration>,
    /// A connection is closed after so many requests; `None`: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// A connection takes no new requests after it; `None`: no limit. Bytes end with it.
    pub max_connection_duration: Option<Duration>,
    /// Requests at a time on one HTTP/2 connection; `None`: as many as the endpoint allows.
    pub max_concurrent_streams: Option<u32>,
    /// Limits, over which requests are refused (circuit breaking, first meaning).
    pub limits: Limits,
    /// Ejection of bad endpoints (circuit breaking, second meaning).
    pub outlier: Option<OutlierDetection>,
    /// Endpoints are asked whether they are well; `None`: nobody asks.
    pub health_check: Option<HealthCheck>,
    /// TCP keep-alive probes.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Connections come from the one of the endpoint's family; none: as the system chooses. Toward the own app these are
    /// [`APP_SOURCES`](crate::defaults::APP_SOURCES), by which the rules of redirection know such connections and leave
    /// them alone (Istio).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_addresses: Vec<IpAddr>,
    /// Encryption.
    pub tls: UpstreamTls,
    /// It is a service of the mesh (MESH_INTERNAL): connections in clear text are worth counting.
    pub mesh_internal: bool,
    /// Below this share of healthy endpoints, all are used; 0: never.
    pub panic_threshold: Fraction,
    /// Traffic ramps up to a new endpoint.
    pub slow_start: Option<SlowStart>,
    /// Requests spread by locality weights (`distribute`).
    pub locality_weighted: bool,
}

impl Cluster {
    /// A cluster with Istio's defaults, to be refined with struct update syntax.
    pub fn new(name: ClusterName, discovery: Discovery) -> Self {
        Self {
            name,
            service: None,
            discovery,
            balance: Balance::LeastRequest { choices: 2 },
            protocol: UpstreamProtocol::Http1,
            connect_timeout: crate::defaults::CONNECT_TIMEOUT,
            idle_timeout: Some(crate::defaults::POOL_IDLE_TIMEOUT),
            max_requests_per_connection: None,
            max_connection_duration: None,
            max_concurrent_streams: None,
            limits: Limits::default(),
            outlier: None,
            health_check: None,
            tcp_keepalive: None,
            source_addresses: Vec::new(),
            tls: UpstreamTls::Plain,
            mesh_internal: false,
            panic_threshold: Fraction::NONE,
            slow_start: None,
            locality_weighted: false,
        }
    }
}

/// Name of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServiceName {
    /// Full name.
    pub host: String,
    /// Short name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

/// Where endpoints come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// From a resource of their own; `None`: under the cluster's name.
    Eds {
        /// Name of the resource, where it is not the cluster's.
        service: Option<String>,
    },
    /// Written in the cluster.
    Static(Endpoints),
    /// Names, all of whose addresses are used (Envoy's STRICT_DNS).
    Dns(Endpoints),
    /// The address that the client meant before the connection was captured (Envoy's ORIGINAL_DST).
    OriginalDestination,
    /// The address that the request's host resolves to (Envoy's dynamic forward proxy).
    RequestHost,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The one with fewer requests in flight, of some chosen at random.
    LeastRequest {
        /// How many are compared; Envoy: 2.
        choices: u32,
    },
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// The one that is likely to answer soonest, by its latency of late and its requests in flight. Leno's own: Envoy
    /// takes LEAST_REQUEST.
    PeakEwma,
    /// Consistent hashing on a ring.
    RingHash {
        /// Smallest ring.
        min: u64,
        /// Largest ring.
        max: u64,
    },
    /// Consistent hashing with Maglev's table.
    Maglev {
        /// A prime below 5 000 011.
        table: u64,
    },
}

/// What is spoken upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// As the client came (`useClientProtocol`).
    AsDownstream,
    /// Bytes.
    Tcp,
}

/// Limits of a cluster. `None`: no limit (Istio's 2³²-1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Connections.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending: Option<u32>,
    /// Requests under way.
    pub requests: Option<u32>,
    /// Retries under way.
    pub retries: Option<u32>,
    /// Retries as a share of the active requests.
    pub retry_budget: Option<RetryBudget>,
}

/// Retries as a share of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetryBudget {
    /// Share of active and pending requests.
    pub share: Fraction,
    /// Always allowed.
    pub min_concurrency: u32,
}

/// When an endpoint is left out for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// So many 5xx in a row; `None`: off.
    pub consecutive_5xx: Option<u32>,
    /// So many 502, 503, 504 in a row; `None`: off.
    pub consecutive_gateway: Option<u32>,
    /// So many local errors (connect, reset, timeout) in a row, where they are counted apart.
    pub consecutive_local: Option<u32>,
    /// Local errors are counted apart.
    pub split_local: bool,
    /// Between two looks.
    pub interval: Duration,
    /// First ejection; grows with each.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// At most this share is out at a time.
    pub max_ejection_share: Fraction,
    /// Statuses that count instead of 5xx; empty: 5xx.
    pub status_codes: Vec<u16>,
    /// Who succeeds less often than the others is ejected; `None`: nobody is, as Istio has it.
    pub success_rate: Option<SuccessRate>,
    /// Who fails too often is ejected; `None`: nobody is.
    pub failure_percentage: Option<FailurePercentage>,
    /// One may be out, whatever the share is.
    pub always_eject_one: bool,
    /// A passed health check ends an ejection (Envoy).
    pub check_readmits: bool,
}

/// Ejection of endpoints whose success rate is far below that of the others: below mean − factor × standard deviation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SuccessRate {
    /// Of which errors.
    pub origins: Origins,
    /// With fewer endpoints that had enough requests, nobody is compared.
    pub min_hosts: u32,
    /// So many requests of an interval are enough.
    pub min_requests: u32,
    /// In thousandths; Envoy: 1900.
    pub factor: u32,
}

/// Ejection of endpoints that fail at least so many percent of their requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailurePercentage {
    /// Of which errors.
    pub origins: Origins,
    /// Percent, 0 to 100.
    pub threshold: u32,
    /// With fewer endpoints that had enough requests, nobody is ejected.
    pub min_hosts: u32,
    /// So many requests of an interval are enough.
    pub min_requests: u32,
}

/// Which errors a rate is made of. Local ones are told apart only with [`OutlierDetection::split_local`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origins {
    /// What endpoints answer (and, not split, all errors).
    External,
    /// What happens to connections.
    Local,
    /// Each apart.
    Both,
}

impl Origins {
    /// What endpoints answer is among them.
    pub fn external(self) -> bool {
        matches!(self, Self::External | Self::Both)
    }

    /// What happens to connections is among them.
    pub fn local(self) -> bool {
        matches!(self, Self::Local | Self::Both)
    }

    /// From the two answers; `None`: neither.
    pub fn new(external: bool, local: bool) -> Option<Self> {
        match (external, local) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::External),
            (false, true) => Some(Self::Local),
            (false, false) => None,
        }
    }
}

/// TCP keep-alive probes; `None`: the system's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// Encryption toward the endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamTls {
    /// Clear text.
    Plain,
    /// Mesh mTLS with endpoints that speak it, clear text with the others (Istio's auto-mTLS).
    Auto(MeshTls),
    /// Mesh mTLS always (`ISTIO_MUTUAL`).
    Mesh(MeshTls),
    /// TLS to the outside (`SIMPLE`), with an own certificate (`MUTUAL`).
    External(ExternalTls),
}

/// TLS between sidecars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeshTls {
    /// Server name, `outbound_.PORT_.SUBSET_.FQDN`.
    pub sni: String,
    /// SPIFFE IDs the peer may have, where the endpoint names none.
    pub identities: Vec<String>,
}

/// TLS to the outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct ExternalTls {
    /// Server name; `None`: the request's host.
    pub sni: Option<String>,
    /// Names the peer's certificate may carry.
    pub subject_alt_names: Vec<String>,
    /// Files with roots; `None`: the credential's, else the system's.
    pub roots: Option<String>,
    /// File of revocation lists; with one, every authority of a chain needs a list that is not out of date (Envoy).
    pub revoked: Option<String>,
    /// Own certificate file.
    pub certificate: Option<String>,
    /// Own key file.
    pub key: Option<String>,
    /// Secret with what no file is named for.
    pub credential: Option<Credential>,
    /// The peer is not verified.
    pub skip_verify: bool,
    /// Older versions are not spoken.
    pub min_version: TlsVersion,
}

/// A Kubernetes secret, by its name (`credentialName`). The proxy knows it as a directory of that name: secrets are mounted
/// where they are used, and no control plane reads them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Credential {
    /// Of the secret.
    pub name: String,
    /// Its certificate is shown as well; otherwise it is about roots alone.
    pub is_shown: bool,
}

impl Credential {
    /// Whether a text can be the name of a secret (RFC 1123), and so of a directory that is nowhere else.
    pub fn is_name(text: &str) -> bool {
        let is_label = |label: &str| {
            !label.starts_with('-')
                && !label.ends_with('-')
                && !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        text.len() <= 253 && text.split('.').all(is_label)
    }
}

/// A version of TLS that Leno speaks with the outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TlsVersion {
    /// 1.2, Istio's oldest.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// 1.3
    #[serde(rename = "1.3")]
    Tls13,
}

/// Traffic ramps up to a new endpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlowStart {
    /// How long.
    pub window: Duration,
    /// Curve; 1: linear.
    pub aggression: f64,
    /// First share.
    pub min_share: Fraction,
}
