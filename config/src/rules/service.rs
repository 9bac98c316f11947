//! `v1/Service` of Kubernetes.

use std::collections::BTreeMap;

use super::NumberOrText;
use super::common::message;

message! {
    /// A service of Kubernetes. The mesh looks at ports, selector, addresses and type; the rest is read and kept.
    pub struct Service {
        /// `ClusterIP` (default), `NodePort`, `LoadBalancer` or `ExternalName`.
        pub r#type: Option<String>,
        /// Labels of its workloads.
        pub selector: BTreeMap<String, String>,
        /// Its ports.
        pub ports: Vec<KubernetesPort>,
        /// Its address, or `None` (headless).
        #[serde(rename = "clusterIP")]
        pub cluster_ip: Option<String>,
        /// Its addresses.
        #[serde(rename = "clusterIPs")]
        pub cluster_ips: Vec<String>,
        /// The name that it stands for (`ExternalName`).
        pub external_name: Option<String>,
        /// More addresses.
        #[serde(rename = "externalIPs")]
        pub external_ips: Vec<String>,
        /// `IPv4`, `IPv6`
        pub ip_families: Vec<String>,
        /// `SingleStack`, …
        pub ip_family_policy: Option<String>,
        /// `ClientIP` or `None`.
        pub session_affinity: Option<String>,
        /// How long.
        pub session_affinity_config: Option<SessionAffinityConfig>,
        /// Addresses before their workloads are ready.
        pub publish_not_ready_addresses: Option<bool>,
        /// `Cluster` or `Local`.
        pub internal_traffic_policy: Option<String>,
        /// `Cluster` or `Local`.
        pub external_traffic_policy: Option<String>,
        /// `PreferClose`, …
        pub traffic_distribution: Option<String>,
        /// For `externalTrafficPolicy: Local`.
        pub health_check_node_port: Option<u32>,
        /// For `LoadBalancer`.
        pub allocate_load_balancer_node_ports: Option<bool>,
        /// For `LoadBalancer`.
        pub load_balancer_class: Option<String>,
        /// For `LoadBalancer`.
        #[serde(rename = "loadBalancerIP")]
        pub load_balancer_ip: Option<String>,
        /// For `LoadBalancer`.
        pub load_balancer_source_ranges: Vec<String>,
    }

    /// One port of a service.
    pub struct KubernetesPort {
        /// Unique in the service; its beginning tells the protocol.
        pub name: Option<String>,
        /// `TCP` (default), `UDP` or `SCTP`.
        pub protocol: Option<String>,
        /// What is spoken.
        pub app_protocol: Option<String>,
        /// As clients call it.
        pub port: Option<u32>,
        /// At the workloads, by number or name; absent: `port`.
        pub target_port: Option<NumberOrText>,
        /// On every node.
        pub node_port: Option<u32>,
    }

    /// How long a client stays with an endpoint.
    pub struct SessionAffinityConfig {
        /// By its address.
        #[serde(rename = "clientIP")]
        pub client_ip: Option<ClientIpConfig>,
    }

    /// How long a client's address stays with an endpoint.
    pub struct ClientIpConfig {
        /// Seconds.
        pub timeout_seconds: Option<u32>,
    }
}
