//! What a person writes: Istio's kinds, Leno's own, and the two of Kubernetes that say what a service is.
//!
//! One file per kind, each a plain set of structs with Istio's names. Nothing in them is untyped, nothing is renamed
//! and nothing is defaulted: a document that is read and written again is the same document. Meaning comes later: what
//! is wrong with values is said by [`crate::validate`], what they amount to by [`crate::compile`].
//!
//! Places in the text are not kept in these structs: a finding names a path (`spec.http[2].route[0].weight`), and the
//! document knows where that stands.

mod common;
mod destination_rule;
mod endpoint_slice;
mod mesh_config;
mod metadata;
mod service;
mod service_entry;
mod sidecar;
mod virtual_service;
mod workload_entry;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use common::{Destination, DurationText, LabelSelector, Percent, PortSelector, StringMatch, WorkloadSelector};
pub use destination_rule::*;
pub use endpoint_slice::*;
pub use mesh_config::*;
pub use metadata::*;
pub use service::*;
pub use service_entry::*;
pub use sidecar::*;
pub use virtual_service::*;
pub use workload_entry::*;

use crate::diagnostic::Place;

/// One document that was read.
#[derive(Debug, Clone)]
pub struct Document {
    /// Which resource it is.
    pub id: ResourceId,
    /// Where it starts.
    pub place: Place,
    /// What it says.
    pub rule: Rule,
    /// Its own YAML, as written.
    pub text: Arc<str>,
}

/// Names one resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResourceId {
    /// `VirtualService`, …
    pub kind: String,
    /// `default` where the document names none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A document by its kind.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // Each stands in a file of its own.
pub enum Rule {
    VirtualService(Resource<VirtualService>),
    DestinationRule(Resource<DestinationRule>),
    ServiceEntry(Resource<ServiceEntry>),
    WorkloadEntry(Resource<WorkloadEntry>),
    Sidecar(Resource<Sidecar>),
    MeshConfig(Resource<MeshConfig>),
    Service(Resource<Service>),
    EndpointSlice(Resource<EndpointSlice>),
}

impl Rule {
    /// Who it is.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::VirtualService(rule) => &rule.metadata,
            Self::DestinationRule(rule) => &rule.metadata,
            Self::ServiceEntry(rule) => &rule.metadata,
            Self::WorkloadEntry(rule) => &rule.metadata,
            Self::Sidecar(rule) => &rule.metadata,
            Self::MeshConfig(rule) => &rule.metadata,
            Self::Service(rule) => &rule.metadata,
            Self::EndpointSlice(rule) => &rule.metadata,
        }
    }
}
