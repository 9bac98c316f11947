//! One proxy, as the control plane sees it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ir::Locality;

/// Who a proxy says it is. In xDS this travels as the node: its id, its locality and its metadata.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Node {
    /// Name of the workload's instance (a pod's name).
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Name of the workload (a deployment's name).
    pub workload: String,
    /// Its labels; they decide which services it belongs to and which rules select it.
    pub labels: BTreeMap<String, String>,
    /// Where it runs.
    pub locality: Locality,
    /// How traffic reaches it.
    pub interception: Interception,
}

impl Node {
    /// `sidecar~IP~NAME.NAMESPACE~NAMESPACE.svc.cluster.local` (Istio's form).
    pub fn id(&self) -> String {
        let Self { name, ip, namespace, .. } = self;
        format!("sidecar~{ip}~{name}.{namespace}~{namespace}.svc.{}", crate::defaults::CLUSTER_DOMAIN)
    }
}

/// How traffic reaches the proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interception {
    /// The app calls the proxy's listeners by their addresses.
    #[default]
    None,
    /// Connections are redirected to it.
    Redirect,
    /// Connections are redirected to it with their source address kept.
    Tproxy,
}

impl Interception {
    /// Whether connections come to the proxy that were meant for others.
    pub fn captures(self) -> bool {
        match self {
            Self::Redirect | Self::Tproxy => true,
            Self::None => false,
        }
    }

    /// As node metadata `INTERCEPTION_MODE` says it.
    pub fn as_metadata(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Redirect => "REDIRECT",
            Self::Tproxy => "TPROXY",
        }
    }

    /// From node metadata; anything unknown is Istio's default, `REDIRECT`.
    pub fn from_metadata(text: &str) -> Self {
        match text {
            "NONE" => Self::None,
            "TPROXY" => Self::Tproxy,
            _ => Self::Redirect,
        }
    }
}
