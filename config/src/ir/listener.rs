//! Where connections come in and what is done with them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{
    AccessLogs, Authorization, CapturedPort, Detection, Intake, JwtAuthentication, Port, RateLimit, RouteConfig,
    TcpRoute, TlsVersion, Tracing,
};

/// Addresses, and what is done with connections to them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listener {
    /// Unique in the proxy: `ADDRESS_PORT` when compiled from rules; `virtualOutbound` and `virtualInbound` where
    /// connections are captured (Istio's names).
    pub name: String,
    /// Where it listens, or, of [`Intake::Handed`], what callers meant. Of IPv6, `[::]` does not stand for IPv4 as well.
    pub address: SocketAddr,
    /// Further addresses of the same kind (Envoy's `additional_addresses`). An address family that the host lacks is
    /// none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_addresses: Vec<SocketAddr>,
    /// Which way its traffic flows.
    pub direction: Direction,
    /// How connections come to it.
    #[serde(skip_serializing_if = "Intake::is_bound")]
    pub intake: Intake,
    /// Ports whose captured connections are not for the rest of this listener; none but with [`Intake::Capture`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<Port, CapturedPort>,
    /// Whether callers come with a certificate of the mesh.
    pub mtls: MtlsMode,
    /// TLS for callers who are not of the mesh; only with [`MtlsMode::Disable`], and then nobody comes in without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<ServerTls>>,
    /// Who may do what; on TCP, conditions on HTTP never hold.
    pub authorization: Authorization,
    /// What is logged of its requests, or of its connections on TCP.
    #[serde(skip_serializing_if = "AccessLogs::is_empty")]
    pub access_logs: AccessLogs,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
}

impl Listener {
    /// A listener in clear text that lets everybody in and logs nothing, to be refined with struct update syntax.
    pub fn new(name: String, address: SocketAddr, direction: Direction, protocol: ListenerProtocol) -> Self {
        let (additional_addresses, intake, ports) = Default::default();
        let (mtls, tls, authorization, access_logs) = Default::default();
        Self {
            name,
            address,
            additional_addresses,
            direction,
            intake,
            ports,
            mtls,
            tls,
            authorization,
            access_logs,
            protocol,
        }
    }
}

/// TLS that a listener ends for callers who are not of the mesh (Istio's `tls` of a Sidecar's `ingress`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct ServerTls {
    /// File of the certificate that is shown; `None`: the credential's.
    pub certificate: Option<String>,
    /// File of its key.
    pub key: Option<String>,
    /// Name of the secret with what no file is named for.
    pub credential: Option<String>,
    /// Whose certificates callers show (`MUTUAL`); `None`: they show none.
    pub callers: Option<OutsideCallers>,
    /// Older versions are not spoken.
    pub min_version: TlsVersion,
}

/// Callers with a certificate that is not the mesh's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct OutsideCallers {
    /// File with the roots that vouch for them; `None`: the credential's.
    pub roots: Option<String>,
    /// File of revocation lists.
    pub revoked: Option<String>,
    /// DNS and URI names, of which a certificate carries one; none: any name will do.
    pub subject_alt_names: Vec<String>,
}

/// How callers of a listener come in (Istio's PeerAuthentication).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MtlsMode {
    /// In clear text; a TLS handshake is passed on as bytes (TCP) or refused (HTTP).
    #[default]
    Disable,
    /// Either way, told apart by the first bytes. A TCP listener ends TLS only where the caller offers the mesh's ALPN:
    /// other handshakes are the app's.
    Permissive,
    /// With a certificate of the mesh.
    Strict,
}

/// Toward the own app, or away from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From other workloads to the own app.
    Inbound,
    /// From the own app to other workloads.
    Outbound,
}

/// What is spoken on a listener.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerProtocol {
    /// HTTP/1.1 or HTTP/2, told apart by the connection preface.
    Http(HttpManager),
    /// Bytes.
    Tcp(TcpRoute),
    /// Each connection tells.
    Detect(Box<Detection>),
}

impl ListenerProtocol {
    /// What becomes of requests, if it has any.
    pub fn http(&self) -> Option<&HttpManager> {
        match self {
            Self::Http(manager) => Some(manager),
            Self::Detect(detection) => detection.http.as_ref(),
            Self::Tcp(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn http_mut(&mut self) -> Option<&mut HttpManager> {
        match self {
            Self::Http(manager) => Some(manager),
            Self::Detect(detection) => detection.http.as_mut(),
            Self::Tcp(_) => None,
        }
    }

    /// All ways that bytes can go.
    pub fn tcp_routes(&self) -> impl Iterator<Item = &TcpRoute> {
        let (only, several) = match self {
            Self::Http(_) => (None, None),
            Self::Tcp(route) => (Some(route), None),
            Self::Detect(detection) => (None, Some(detection.tcp_routes())),
        };
        only.into_iter().chain(several.into_iter().flatten())
    }

    /// Changes all of them.
    pub(crate) fn tcp_routes_mut(&mut self, change: &mut dyn FnMut(&mut TcpRoute)) {
        match self {
            Self::Http(_) => {}
            Self::Tcp(route) => change(route),
            Self::Detect(detection) => detection.tcp_routes_mut(change),
        }
    }
}

/// How HTTP is handled on a listener (Envoy's HttpConnectionManager).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HttpManager {
    /// Names the listener in statistics.
    pub stat_prefix: String,
    /// Where its routes are.
    pub routes: RouteSource,
    /// `Upgrade` tokens, lower case, that pass (Istio: `websocket`). Others are answered with 403.
    pub upgrades: Vec<String>,
    /// Path canonicalisation before routing.
    pub path: PathNormalization,
    /// What becomes of header names with an underscore.
    pub underscores: UnderscoreNames,
    /// Which tokens are verified.
    pub jwt: JwtAuthentication,
    /// How often it may be asked, after authorization.
    pub rate_limits: Vec<RateLimit>,
    /// How long a request and its answer may last.
    pub streams: StreamLimits,
    /// Which requests become spans; `None`: none, and the headers of traces pass untouched.
    pub tracing: Option<Arc<Tracing>>,
}

/// How long one request and its answer may last. `None`: as long as they like (Istio).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StreamLimits {
    /// Without a byte of a body in either direction (Envoy's `stream_idle_timeout`).
    pub idle: Option<Duration>,
    /// All of it (`max_stream_duration`).
    pub longest: Option<Duration>,
}

/// Where a listener finds its routes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteSource {
    /// A route configuration of its own resource type (RDS).
    Named(String),
    /// Inside the listener.
    Inline(Arc<RouteConfig>),
}

/// What becomes of header names with an underscore. CGI and its heirs cannot tell `x_role` from `x-role`, so such a name
/// can be a way round a rule about the other (Envoy's `headers_with_underscores_action`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UnderscoreNames {
    /// They are names like others (Istio).
    #[default]
    Pass,
    /// The request goes on without them (profile `safe`).
    Drop,
    /// The request is answered with 400.
    Refuse,
}

/// What is done to a path before anything looks at it. Istio's default is BASE: dots resolved per RFC 3986, no
/// merging of slashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PathNormalization {
    /// Resolve `.` and `..`, decode unreserved escapes (Envoy `normalize_path`).
    pub dots: bool,
    /// `//` becomes `/` (Envoy `merge_slashes`).
    pub merge_slashes: bool,
}

impl PathNormalization {
    /// Istio's BASE.
    pub const BASE: Self = Self { dots: true, merge_slashes: false };
}
