//! `DestinationRule`: how a service is called once a route has chosen it.
//!
//! Fields and names are those of Istio's `networking/v1alpha3/destination_rule.proto`.

use std::collections::BTreeMap;

use super::common::{message, words};
use super::{DurationText, LabelSelector, PortSelector};

/// An annotation of a DestinationRule that chooses what Istio's schema has no word for; Istio ignores it.
pub const LOAD_BALANCER_ANNOTATION: &str = "leno.mesh/load-balancer";
/// Its one value: by latency of late and requests in flight, in place of a `simple` policy.
pub const PEAK_EWMA: &str = "PEAK_EWMA";

message! {
    /// How a service is called.
    pub struct DestinationRule {
        /// A service; a short name stands in the namespace of the rule, `*.example.com` is allowed.
        pub host: String,
        /// For the whole service.
        pub traffic_policy: Option<TrafficPolicy>,
        /// Named groups of endpoints.
        pub subsets: Vec<Subset>,
        /// Namespaces that see it; empty: all.
        pub export_to: Vec<String>,
        /// Only for these clients.
        pub workload_selector: Option<LabelSelector>,
    }

    /// A named group of endpoints.
    pub struct Subset {
        /// As destinations name it.
        pub name: String,
        /// All of them are on the endpoint.
        pub labels: BTreeMap<String, String>,
        /// Replaces the rule's, block by block.
        pub traffic_policy: Option<TrafficPolicy>,
    }

    /// How endpoints are called.
    pub struct TrafficPolicy {
        /// Which endpoint.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// How many connections and requests.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// Which endpoints are left out for a while.
        pub outlier_detection: Option<OutlierDetection>,
        /// Encryption.
        pub tls: Option<ClientTlsSettings>,
        /// For one port; replaces the rest for it.
        pub port_level_settings: Vec<PortTrafficPolicy>,
        /// Bytes inside HTTP CONNECT.
        pub tunnel: Option<TunnelSettings>,
        /// Say who the client is before the first byte.
        pub proxy_protocol: Option<ProxyProtocol>,
        /// Retries as a share of requests.
        pub retry_budget: Option<RetryBudget>,
    }

    /// How endpoints are called on one port.
    pub struct PortTrafficPolicy {
        /// Which.
        pub port: Option<PortSelector>,
        /// Which endpoint.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// How many connections and requests.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// Which endpoints are left out for a while.
        pub outlier_detection: Option<OutlierDetection>,
        /// Encryption.
        pub tls: Option<ClientTlsSettings>,
    }

    /// Bytes inside HTTP CONNECT.
    pub struct TunnelSettings {
        /// `CONNECT` (default) or `POST`.
        pub protocol: Option<String>,
        /// Where the tunnel ends.
        pub target_host: String,
        /// Where the tunnel ends.
        pub target_port: Option<u32>,
    }

    /// The PROXY protocol.
    pub struct ProxyProtocol {
        /// Which.
        pub version: Option<ProxyProtocolVersion>,
    }

    /// Retries as a share of requests.
    pub struct RetryBudget {
        /// Percent of active and pending requests; 20 by default.
        pub percent: Option<f64>,
        /// Always allowed; 3 by default.
        pub min_retry_concurrency: Option<u32>,
    }

    /// Which endpoint is called; `simple` or `consistentHash`.
    pub struct LoadBalancerSettings {
        /// By a simple policy.
        pub simple: Option<SimpleLb>,
        /// By a hash of the request.
        pub consistent_hash: Option<ConsistentHashLb>,
        /// By where endpoints are.
        pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        /// Deprecated: `warmup.duration`.
        pub warmup_duration_secs: Option<DurationText>,
        /// New endpoints get their share slowly.
        pub warmup: Option<WarmupConfiguration>,
    }

    /// New endpoints get their share slowly.
    pub struct WarmupConfiguration {
        /// How long.
        pub duration: Option<DurationText>,
        /// Share at the start, percent; 10 by default.
        pub minimum_percent: Option<f64>,
        /// 1 (default): along a line.
        pub aggression: Option<f64>,
    }

    /// By a hash of one thing in the request.
    pub struct ConsistentHashLb {
        /// A header.
        pub http_header_name: Option<String>,
        /// A cookie.
        pub http_cookie: Option<HttpCookie>,
        /// The caller's address.
        pub use_source_ip: Option<bool>,
        /// A query parameter.
        pub http_query_parameter_name: Option<String>,
        /// On a ring (default).
        pub ring_hash: Option<RingHash>,
        /// With Maglev's table.
        pub maglev: Option<Maglev>,
        /// Deprecated: `ringHash.minimumRingSize`.
        pub minimum_ring_size: Option<u64>,
    }

    /// A cookie to hash by.
    pub struct HttpCookie {
        /// Its name.
        pub name: String,
        /// Its path attribute.
        pub path: Option<String>,
        /// Its life; 0: the session. Present: it is made where it is missing.
        pub ttl: Option<DurationText>,
        /// More attributes of a cookie that is made.
        pub attributes: Vec<HttpCookieAttribute>,
    }

    /// An attribute of a cookie.
    pub struct HttpCookieAttribute {
        /// Its name.
        pub name: String,
        /// Its value.
        pub value: Option<String>,
    }

    /// A hash ring.
    pub struct RingHash {
        /// 1 024 by default.
        pub minimum_ring_size: Option<u64>,
    }

    /// Maglev's table.
    pub struct Maglev {
        /// A prime; 65 537 by default.
        pub table_size: Option<u64>,
    }

    /// By where endpoints are; one of `distribute`, `failover` and `failoverPriority`, the last two together.
    pub struct LocalityLoadBalancerSetting {
        /// Shares.
        pub distribute: Vec<LocalityDistribute>,
        /// Where to when a region fails.
        pub failover: Vec<LocalityFailover>,
        /// Labels that make an endpoint nearer, most important first.
        pub failover_priority: Vec<String>,
        /// Absent: as the mesh says.
        pub enabled: Option<bool>,
    }

    /// Shares of traffic from one place.
    pub struct LocalityDistribute {
        /// `region/zone/subzone`, with `*` at the end.
        pub from: String,
        /// Place to percent; the sum is 100.
        pub to: BTreeMap<String, u32>,
    }

    /// Where to when a region fails.
    pub struct LocalityFailover {
        /// Region.
        pub from: String,
        /// Region.
        pub to: String,
    }

    /// How many connections and requests.
    pub struct ConnectionPoolSettings {
        /// Of connections.
        pub tcp: Option<TcpSettings>,
        /// Of requests.
        pub http: Option<HttpSettings>,
    }

    /// Connections.
    pub struct TcpSettings {
        /// At once.
        pub max_connections: Option<i32>,
        /// 10 s by default.
        pub connect_timeout: Option<DurationText>,
        /// Probes on idle connections.
        pub tcp_keepalive: Option<TcpKeepalive>,
        /// However busy it is.
        pub max_connection_duration: Option<DurationText>,
        /// For TCP, 1 h by default.
        pub idle_timeout: Option<DurationText>,
    }

    /// Probes on idle connections; absent: the system's.
    pub struct TcpKeepalive {
        /// So many unanswered end a connection.
        pub probes: Option<u32>,
        /// Idle time before the first.
        pub time: Option<DurationText>,
        /// Between two.
        pub interval: Option<DurationText>,
    }

    /// Requests.
    pub struct HttpSettings {
        /// That wait for a connection.
        pub http1_max_pending_requests: Option<i32>,
        /// Under way, HTTP/1.1 as well.
        pub http2_max_requests: Option<i32>,
        /// 1: no keep-alive.
        pub max_requests_per_connection: Option<i32>,
        /// Under way.
        pub max_retries: Option<i32>,
        /// Of a connection without requests; 1 h by default.
        pub idle_timeout: Option<DurationText>,
        /// Whether HTTP/1.1 is carried as HTTP/2.
        pub h2_upgrade_policy: Option<H2UpgradePolicy>,
        /// Speak what the client spoke.
        pub use_client_protocol: Option<bool>,
        /// On one HTTP/2 connection.
        pub max_concurrent_streams: Option<i32>,
    }

    /// Which endpoints are left out for a while.
    pub struct OutlierDetection {
        /// Deprecated: `consecutiveGatewayErrors`.
        pub consecutive_errors: Option<i32>,
        /// Local errors (connect, reset, timeout) are counted apart.
        pub split_external_local_origin_errors: Option<bool>,
        /// So many local errors in a row.
        pub consecutive_local_origin_failures: Option<u32>,
        /// So many 502, 503, 504 in a row.
        pub consecutive_gateway_errors: Option<u32>,
        /// So many 5xx in a row; 5 by default, 0: off.
        #[serde(rename = "consecutive5xxErrors")]
        pub consecutive_5xx_errors: Option<u32>,
        /// Between two looks; 10 s by default.
        pub interval: Option<DurationText>,
        /// First ejection; 30 s by default.
        pub base_ejection_time: Option<DurationText>,
        /// Percent of endpoints that may be out; 10 by default.
        pub max_ejection_percent: Option<i32>,
        /// Percent; below it, all endpoints are used.
        pub min_health_percent: Option<i32>,
        /// Statuses that count in place of 5xx.
        pub outlier_detection_http_error_codes: Vec<u32>,
    }

    /// Encryption toward endpoints.
    pub struct ClientTlsSettings {
        /// How.
        pub mode: Option<ClientTlsMode>,
        /// File; for `MUTUAL`.
        pub client_certificate: Option<String>,
        /// File; for `MUTUAL`.
        pub private_key: Option<String>,
        /// File; absent: the system's roots.
        pub ca_certificates: Option<String>,
        /// A secret in place of the files.
        pub credential_name: Option<String>,
        /// Names that the server may have.
        pub subject_alt_names: Vec<String>,
        /// Server name.
        pub sni: Option<String>,
        /// Do not verify the server.
        pub insecure_skip_verify: Option<bool>,
        /// File with revoked certificates.
        pub ca_crl: Option<String>,
    }
}

words! {
    /// Simple policies.
    pub enum SimpleLb {
        /// As `LEAST_REQUEST`.
        #[default]
        Unspecified = "UNSPECIFIED",
        /// Deprecated: as `LEAST_REQUEST`.
        LeastConn = "LEAST_CONN",
        /// At random.
        Random = "RANDOM",
        /// To the address that was called.
        Passthrough = "PASSTHROUGH",
        /// In turn.
        RoundRobin = "ROUND_ROBIN",
        /// The one with fewer requests under way, of two.
        LeastRequest = "LEAST_REQUEST",
    }

    /// Whether HTTP/1.1 is carried as HTTP/2.
    pub enum H2UpgradePolicy {
        /// As the mesh says.
        #[default]
        Default = "DEFAULT",
        /// Never.
        DoNotUpgrade = "DO_NOT_UPGRADE",
        /// Always.
        Upgrade = "UPGRADE",
    }

    /// Encryption toward endpoints.
    pub enum ClientTlsMode {
        /// None.
        #[default]
        Disable = "DISABLE",
        /// The server shows a certificate.
        Simple = "SIMPLE",
        /// Both do, with files.
        Mutual = "MUTUAL",
        /// Both do, with the mesh's identities.
        IstioMutual = "ISTIO_MUTUAL",
    }

    /// Versions of the PROXY protocol.
    pub enum ProxyProtocolVersion {
        /// As text.
        #[default]
        V1 = "V1",
        /// As bytes.
        V2 = "V2",
    }
}
