//! `ServiceEntry`: a service that is written down rather than found.
//!
//! Fields and names are those of Istio's `networking/v1alpha3/service_entry.proto`.

use super::common::{message, words};
use super::{WorkloadEntry, WorkloadSelector};

message! {
    /// A service that is written down.
    pub struct ServiceEntry {
        /// Its names; `*.example.com` is allowed with `NONE`.
        pub hosts: Vec<String>,
        /// Virtual addresses, or networks.
        pub addresses: Vec<String>,
        /// Its ports.
        pub ports: Vec<ServicePort>,
        /// In the mesh or outside.
        pub location: Option<Location>,
        /// How its endpoints are found.
        pub resolution: Option<Resolution>,
        /// Its endpoints; not together with `workloadSelector`.
        pub endpoints: Vec<WorkloadEntry>,
        /// Its endpoints by labels.
        pub workload_selector: Option<WorkloadSelector>,
        /// Namespaces that see it; empty: all.
        pub export_to: Vec<String>,
        /// Identities that its endpoints may have.
        pub subject_alt_names: Vec<String>,
    }

    /// One port.
    pub struct ServicePort {
        /// As clients call it.
        pub number: Option<u32>,
        /// `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `MONGO`, `TCP`, `TLS`, …
        pub protocol: Option<String>,
        /// Unique in the service.
        pub name: String,
        /// At the endpoints; absent: `number`.
        pub target_port: Option<u32>,
    }
}

words! {
    /// In the mesh or outside.
    pub enum Location {
        /// Outside: no mTLS by default.
        #[default]
        MeshExternal = "MESH_EXTERNAL",
        /// Inside.
        MeshInternal = "MESH_INTERNAL",
    }

    /// How endpoints are found.
    pub enum Resolution {
        /// The client knows the address.
        #[default]
        None = "NONE",
        /// They are written down.
        Static = "STATIC",
        /// By name; all addresses are used.
        Dns = "DNS",
        /// By name; the first address is used for a new connection.
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        /// By the name in each request.
        DynamicDns = "DYNAMIC_DNS",
    }
}
