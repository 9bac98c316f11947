//! Every default that a rule may leave out, each with its source.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::ir::Fraction;

/// Istio: `connectionPool.tcp.connectTimeout`, from mesh configuration.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Istio and Envoy: `connectionPool.http.idleTimeout`.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Envoy: `tcp_proxy.idle_timeout`.
pub const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Istio's default retry policy, which every route has that says nothing else.
pub const RETRY_ATTEMPTS: u32 = 2;
/// Istio: 503 is not among the status codes any more.
pub const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
/// Envoy: first back-off interval.
pub const RETRY_BACKOFF_BASE: Duration = Duration::from_millis(25);
/// Envoy: the largest back-off interval is ten times the first.
pub const RETRY_BACKOFF_FACTOR: u32 = 10;
/// Envoy: an answer that asks for a longer wait is not waited for.
pub const RETRY_RATE_LIMITED_MAX: Duration = Duration::from_secs(300);
/// Istio: how often another endpoint than those already tried is looked for.
pub const HOST_SELECTION_ATTEMPTS: u32 = 5;
/// Istio: `outlierDetection.consecutive5xxErrors`.
pub const OUTLIER_CONSECUTIVE_5XX: u32 = 5;
/// Istio and Envoy: `outlierDetection.interval`.
pub const OUTLIER_INTERVAL: Duration = Duration::from_secs(10);
/// Istio and Envoy: `outlierDetection.baseEjectionTime`.
pub const OUTLIER_BASE_EJECTION: Duration = Duration::from_secs(30);
/// Envoy: an ejection never lasts longer.
pub const OUTLIER_MAX_EJECTION: Duration = Duration::from_secs(300);
/// Istio and Envoy: `outlierDetection.maxEjectionPercent`.
pub const OUTLIER_MAX_EJECTION_PERCENT: f64 = 10.0;
/// Istio: smallest hash ring.
pub const RING_MIN: u64 = 1024;
/// Envoy: largest hash ring.
pub const RING_MAX: u64 = 8 * 1024 * 1024;
/// Envoy: Maglev's table, a prime.
pub const MAGLEV_TABLE: u64 = 65_537;
/// Profile `safe`: `connectTimeout` (`safety.md`).
pub const SAFE_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Profile `safe`: a stream may be quiet for so long (`safety.md`; Envoy's own default).
pub const SAFE_STREAM_IDLE: Duration = Duration::from_secs(300);
/// Profile `safe`: connections, requests that wait and requests of a cluster (Envoy's own default).
pub const SAFE_LIMIT: u32 = 1024;
/// Istio: share and floor of `retryBudget`.
pub const RETRY_BUDGET_PERCENT: f64 = 20.0;
/// Istio: share and floor of `retryBudget`.
pub const RETRY_BUDGET_MIN: u32 = 3;
/// Istio: `warmup.minimumPercent`.
pub const WARMUP_MIN_PERCENT: f64 = 10.0;
/// Istio: the root namespace.
pub const ROOT_NAMESPACE: &str = "istio-system";
/// Istio: for one fetch of the keys of tokens.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);
/// Istio: between two fetches of the keys of tokens.
pub const JWKS_REFRESH: Duration = Duration::from_secs(20 * 60);
/// Istio: where nothing is said, one request in a hundred is traced.
pub const TRACE_SAMPLING: Fraction = Fraction::ONE_PERCENT;
/// OTLP: for one export.
pub const OTLP_TIMEOUT: Duration = Duration::from_secs(10);
/// OTLP over gRPC.
pub const OTLP_GRPC_PORT: u16 = 4317;
/// OTLP over HTTP …
pub const OTLP_HTTP_PORT: u16 = 4318;
/// … and where it takes spans.
pub const OTLP_PATH: &str = "/v1/traces";
/// Everywhere: names an app among the labels.
pub const APP_LABEL: &str = "app";
/// Envoy: tolerance for the times in tokens.
pub const JWT_CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Kubernetes: the service account of a workload that names none.
pub const SERVICE_ACCOUNT: &str = "default";
/// Istio: the trust domain.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// Kubernetes: the domain behind `NAMESPACE.svc`.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Kubernetes: where a document without a namespace stands.
pub const NAMESPACE: &str = "default";
/// Istio: where captured connections away from the app come in; without capture, the HTTP port for all hosts.
pub const OUTBOUND_PORT: u16 = 15001;
/// Istio: where captured connections to the app come in.
pub const INBOUND_PORT: u16 = 15006;
/// Istio: the proxy's own ports in a pod, for scraping, readiness and its metrics; they are never captured.
pub const POD_PORTS: [u16; 3] = [15020, 15021, 15090];
/// Istio: from where the own app is called, so that such a connection is not captured again.
pub const APP_SOURCES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)), IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))];
/// A proxy that cannot call the server meanwhile (Envoy) takes a silent caller for bytes after it. Leno never waits.
pub const DETECTION_SILENCE: Duration = Duration::from_millis(250);
/// Istio: ports without a declared protocol that are bytes all the same, since the server speaks first: SMTP, DNS, MySQL,
/// MongoDB.
pub const SERVER_FIRST_PORTS: [u16; 4] = [25, 53, 3306, 27017];
/// Istio: `Upgrade` tokens that pass.
pub const UPGRADES: &[&str] = &["websocket"];
/// Envoy: `no_traffic_interval` of a health check, while its cluster has never been called.
pub const HEALTH_IDLE_INTERVAL: Duration = Duration::from_secs(60);
/// Between two health checks of an endpoint.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(10);
/// For one health check.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// Failed health checks in a row that make an endpoint unhealthy.
pub const HEALTH_UNHEALTHY_THRESHOLD: u32 = 2;
/// Passed health checks in a row that make it healthy again.
pub const HEALTH_HEALTHY_THRESHOLD: u32 = 1;
/// Percent by which an interval may be longer, so that many proxies do not check at the same time.
pub const HEALTH_JITTER_PERCENT: u32 = 10;
