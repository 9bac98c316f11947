//! What a person writes: Istio's kinds, Leno's own, and the two of Kubernetes that say what a service is.
//!
//! One file per kind, each a plain set of structs with Istio's names. Nothing in them is untyped, nothing is renamed
//! and nothing is defaulted: a document that is read and written again is the same document. Meaning comes later: what
//! is wrong with values is said by [`crate::validate`], what they amount to by [`crate::compile`].
//!
//! Places in the text are not kept in these structs: a finding names a path (`spec.http[2].route[0].weight`), and the
//! [`Document`] knows where that stands.
//!
//! ```text
//! files ──read──▶ texts ──split──▶ one document each ──yaml──▶ tree with places ──reader──▶ structs of the kind
//! ```

mod authorization_policy;
mod claim;
mod common;
mod destination_rule;
mod document;
mod endpoint_slice;
mod envelope;
mod health_check;
pub mod last_good;
mod mesh_config;
mod metadata;
mod parse;
mod path;
mod peer_authentication;
mod rate_limit;
mod reader;
mod request_authentication;
pub mod schema;
mod service;
mod service_entry;
mod sidecar;
mod virtual_service;
mod workload_entry;
mod yaml;

pub use authorization_policy::*;
pub use common::{
    Destination, DurationText, LabelSelector, Percent, PolicyTargetReference, PortSelector, StringMatch,
    WorkloadSelector,
};
pub use destination_rule::*;
pub use document::{Document, ReadError, ResourceId, Rule, SourceText, read};
pub use endpoint_slice::*;
pub use health_check::*;
pub use mesh_config::*;
pub use metadata::*;
pub use parse::{Parsed, parse, parse_object};
pub use path::Path;
pub use peer_authentication::*;
pub use rate_limit::*;
pub use request_authentication::*;
pub use service::*;
pub use service_entry::*;
pub use sidecar::*;
pub use virtual_service::*;
pub use workload_entry::*;

pub(crate) use claim::routed as routed_claim;
pub(crate) use envelope::is_dns_label;
pub(crate) use reader::{closest, listed};
pub(crate) use yaml::Aim;
