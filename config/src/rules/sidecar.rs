//! `Sidecar`: which sockets a proxy opens and which services it knows.
//!
//! Fields and names are those of Istio's `networking/v1alpha3/sidecar.proto`, and of `gateway.proto` for TLS.

use super::common::{message, words};
use super::{ConnectionPoolSettings, Destination, WorkloadSelector};

message! {
    /// Which sockets a proxy opens and which services it knows.
    pub struct Sidecar {
        /// Which proxies; absent: all of the namespace (of the mesh in the root namespace).
        pub workload_selector: Option<WorkloadSelector>,
        /// Toward the own app.
        pub ingress: Vec<IngressListener>,
        /// Toward other services.
        pub egress: Vec<EgressListener>,
        /// For all of `ingress`.
        pub inbound_connection_pool: Option<ConnectionPoolSettings>,
        /// What becomes of unknown hosts.
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }

    /// A socket for others, with the app behind it.
    pub struct IngressListener {
        /// Number and protocol.
        pub port: Option<SidecarPort>,
        /// Address; absent: the node's.
        pub bind: Option<String>,
        /// How connections reach it.
        pub capture_mode: Option<CaptureMode>,
        /// The app: `127.0.0.1:PORT`, `0.0.0.0:PORT` or `unix:///path`.
        pub default_endpoint: Option<String>,
        /// Where clients that are no sidecars bring TLS.
        pub tls: Option<ServerTlsSettings>,
        /// Replaces `inboundConnectionPool`.
        pub connection_pool: Option<ConnectionPoolSettings>,
    }

    /// A socket for the own app, with the services behind it.
    pub struct EgressListener {
        /// Number and protocol; absent: whatever the services have.
        pub port: Option<SidecarPort>,
        /// Address; absent: loopback.
        pub bind: Option<String>,
        /// How connections reach it.
        pub capture_mode: Option<CaptureMode>,
        /// `namespace/host`; `.`: the own namespace, `*`: any, `~`: none.
        pub hosts: Vec<String>,
    }

    /// Number and protocol of a socket.
    pub struct SidecarPort {
        /// 0 only with a Unix socket.
        pub number: Option<u32>,
        /// `HTTP`, `HTTP2`, `GRPC`, `TCP`, …
        pub protocol: Option<String>,
        /// For statistics.
        pub name: Option<String>,
        /// Istio keeps it for gateways.
        pub target_port: Option<u32>,
    }

    /// What becomes of requests for unknown hosts.
    pub struct OutboundTrafficPolicy {
        /// Passed on or refused.
        pub mode: Option<OutboundTrafficMode>,
        /// Passed on to there.
        pub egress_proxy: Option<Destination>,
    }

    /// TLS as a server.
    pub struct ServerTlsSettings {
        /// Answer clear text with a redirect.
        pub https_redirect: Option<bool>,
        /// How.
        pub mode: Option<ServerTlsMode>,
        /// File.
        pub server_certificate: Option<String>,
        /// File.
        pub private_key: Option<String>,
        /// File, for clients' certificates.
        pub ca_certificates: Option<String>,
        /// File with revoked certificates.
        pub ca_crl: Option<String>,
        /// A secret in place of the files.
        pub credential_name: Option<String>,
        /// Secrets in place of the files.
        pub credential_names: Vec<String>,
        /// A secret with the roots for clients' certificates.
        pub ca_cert_credential_name: Option<String>,
        /// Several certificates.
        pub tls_certificates: Vec<TlsCertificate>,
        /// Names that clients may have.
        pub subject_alt_names: Vec<String>,
        /// Hashes of public keys that clients may have.
        pub verify_certificate_spki: Vec<String>,
        /// Hashes of certificates that clients may have.
        pub verify_certificate_hash: Vec<String>,
        /// Oldest version.
        pub min_protocol_version: Option<TlsProtocol>,
        /// Newest version.
        pub max_protocol_version: Option<TlsProtocol>,
        /// Names of cipher suites.
        pub cipher_suites: Vec<String>,
    }

    /// One certificate of several.
    pub struct TlsCertificate {
        /// File.
        pub server_certificate: Option<String>,
        /// File.
        pub private_key: Option<String>,
        /// File.
        pub ca_certificates: Option<String>,
    }
}

words! {
    /// How connections reach a socket.
    pub enum CaptureMode {
        /// As the proxy is set up.
        #[default]
        Default = "DEFAULT",
        /// Redirected.
        Iptables = "IPTABLES",
        /// By its address.
        None = "NONE",
    }

    /// What becomes of requests for unknown hosts.
    pub enum OutboundTrafficMode {
        /// Refused.
        #[default]
        RegistryOnly = "REGISTRY_ONLY",
        /// Passed on.
        AllowAny = "ALLOW_ANY",
    }

    /// TLS as a server.
    pub enum ServerTlsMode {
        /// By server name, not ended here.
        #[default]
        Passthrough = "PASSTHROUGH",
        /// With a certificate.
        Simple = "SIMPLE",
        /// Clients show one too.
        Mutual = "MUTUAL",
        /// By server name, which says the service.
        AutoPassthrough = "AUTO_PASSTHROUGH",
        /// With the mesh's identities.
        IstioMutual = "ISTIO_MUTUAL",
        /// Clients may show one.
        OptionalMutual = "OPTIONAL_MUTUAL",
    }

    /// Versions of TLS.
    pub enum TlsProtocol {
        /// As the proxy sees fit.
        #[default]
        Auto = "TLS_AUTO",
        /// 1.0
        V1_0 = "TLSV1_0",
        /// 1.1
        V1_1 = "TLSV1_1",
        /// 1.2
        V1_2 = "TLSV1_2",
        /// 1.3
        V1_3 = "TLSV1_3",
    }
}
