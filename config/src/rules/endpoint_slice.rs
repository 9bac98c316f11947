//! `discovery.k8s.io/v1 EndpointSlice` of Kubernetes. It has no `spec`: its fields stand beside `metadata`.

use std::collections::BTreeMap;

use super::common::message;

/// The label that says which service a slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

message! {
    /// Some endpoints of a service, named by the label [`SERVICE_NAME_LABEL`].
    pub struct EndpointSlice {
        /// `IPv4`, `IPv6` or `FQDN`.
        pub address_type: Option<String>,
        /// The endpoints.
        pub endpoints: Vec<SliceEndpoint>,
        /// The same for all endpoints.
        pub ports: Vec<EndpointPort>,
    }

    /// One endpoint.
    pub struct SliceEndpoint {
        /// All mean the same endpoint; the first counts.
        pub addresses: Vec<String>,
        /// Whether it may be called.
        pub conditions: Option<EndpointConditions>,
        /// A name of its own.
        pub hostname: Option<String>,
        /// The node that it runs on.
        pub node_name: Option<String>,
        /// What it is.
        pub target_ref: Option<ObjectReference>,
        /// Zone of its node.
        pub zone: Option<String>,
        /// Who should call it.
        pub hints: Option<EndpointHints>,
        /// Older labels of its node.
        pub deprecated_topology: BTreeMap<String, String>,
    }

    /// Whether an endpoint may be called.
    pub struct EndpointConditions {
        /// Absent: true.
        pub ready: Option<bool>,
        /// As `ready`, on its way out as well.
        pub serving: Option<bool>,
        /// On its way out.
        pub terminating: Option<bool>,
    }

    /// What an endpoint is.
    pub struct ObjectReference {
        /// Of the object.
        pub api_version: Option<String>,
        /// Of the object.
        pub kind: Option<String>,
        /// Of the object.
        pub name: Option<String>,
        /// Of the object.
        pub namespace: Option<String>,
        /// Of the object.
        pub uid: Option<String>,
        /// Of the object.
        pub resource_version: Option<String>,
        /// A part of the object.
        pub field_path: Option<String>,
    }

    /// Who should call an endpoint.
    pub struct EndpointHints {
        /// From these zones.
        pub for_zones: Vec<NamedPlace>,
        /// From these nodes.
        pub for_nodes: Vec<NamedPlace>,
    }

    /// A zone or a node by its name.
    pub struct NamedPlace {
        /// The name.
        pub name: String,
    }

    /// One port of all endpoints of a slice.
    pub struct EndpointPort {
        /// Name of the service's port.
        pub name: Option<String>,
        /// `TCP` (default), `UDP` or `SCTP`.
        pub protocol: Option<String>,
        /// At the endpoints.
        pub port: Option<u32>,
        /// What is spoken.
        pub app_protocol: Option<String>,
    }
}
