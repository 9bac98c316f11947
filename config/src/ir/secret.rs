//! What a control plane distributes for TLS: trust bundles. Certificates and keys never travel: each proxy makes its own.

use std::collections::BTreeMap;

use serde::Serialize;

/// A secret of the wire (SDS). Leno's control plane sends one, `ROOTCA`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// As TLS contexts refer to it.
    pub name: String,
    /// Who vouches for whom. A peer's chain must end in the bundle of its own trust domain; they are never mixed.
    pub bundles: BTreeMap<TrustDomain, TrustBundle>,
    /// Certificate revocation lists, PEM.
    pub revoked: Option<String>,
}

impl Secret {
    /// Istio's name of the mesh's roots.
    pub const ROOTS: &'static str = "ROOTCA";
    /// Istio's name of the own certificate; a proxy has it from its own identity, not from the wire.
    pub const OWN_CERTIFICATE: &'static str = "default";
}

/// Name of a trust domain, or empty: the proxy's own (a validation context without domains, as istiod sends it).
pub type TrustDomain = String;

/// The roots of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TrustBundle {
    /// Certificates, PEM, one after the other.
    pub roots: String,
}
