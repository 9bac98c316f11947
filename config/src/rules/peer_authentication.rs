//! `PeerAuthentication`: whether callers of a workload come with a certificate of the mesh.
//!
//! Fields and names are those of Istio's `security/v1beta1/peer_authentication.proto`.

use std::collections::BTreeMap;

use super::LabelSelector;
use super::common::{message, words};

message! {
    /// Whether callers come with a certificate of the mesh.
    pub struct PeerAuthentication {
        /// Which workloads of the namespace; absent or empty: all of them, in the root namespace all of the mesh.
        pub selector: Option<LabelSelector>,
        /// For all ports.
        pub mtls: Option<MutualTls>,
        /// For single ports of the workload, by their number. Needs a selector; `{}` is not the same as nothing.
        pub port_level_mtls: Option<BTreeMap<String, MutualTls>>,
    }

    /// How callers come in.
    pub struct MutualTls {
        /// How.
        pub mode: Option<MutualTlsMode>,
    }
}

words! {
    /// How callers come in.
    pub enum MutualTlsMode {
        /// As the namespace says, else the mesh, else `PERMISSIVE`.
        #[default]
        Unset = "UNSET",
        /// In clear text.
        Disable = "DISABLE",
        /// Either way.
        Permissive = "PERMISSIVE",
        /// With a certificate of the mesh.
        Strict = "STRICT",
    }
}

impl PeerAuthentication {
    /// The labels it asks for; none: it is for the whole namespace or mesh.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.selector.as_ref().map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty())
    }
}
