//! What a proxy understands: listeners, routes, clusters and endpoints, with every default applied and every name
//! resolved.
//!
//! Values of these types are valid by construction where a type can say so: a regular expression that is here
//! compiles, a set of weights has a total above zero, a header name is a header name. Both the compiler
//! ([`crate::compile`]) and the wire ([`crate::xds`]) build them through the same constructors, so that a proxy driven
//! by files and one driven by a foreign control plane run on the same promises.
//!
//! Everything serialises in a fixed order: [`version`] of a resource is a hash of that form, so two processes that
//! compile the same rules name the same versions.

mod access_log;
mod authorization;
mod capture;
mod cluster;
mod detection;
mod endpoint;
mod health;
mod jwt;
mod listener;
mod log_format;
mod log_operator;
mod log_time;
mod matcher;
mod origin;
mod policy;
mod rate_limit;
mod retry;
mod route;
mod secret;
mod separators;
mod tracing;
mod units;
mod virtual_host;

pub use access_log::*;
pub use authorization::*;
pub use capture::*;
pub use cluster::*;
pub use detection::*;
pub use endpoint::*;
pub use health::*;
pub use jwt::*;
pub use listener::*;
pub use log_format::*;
pub use log_operator::*;
pub use log_time::*;
pub use matcher::*;
pub use origin::*;
pub use policy::*;
pub use rate_limit::*;
pub use retry::*;
pub use route::*;
pub use secret::*;
pub use separators::*;
pub use tracing::*;
pub use units::*;
pub use virtual_host::*;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

/// A value that the IR refuses to hold. The text says what is wrong with the value, not where it stands: the caller
/// knows the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    /// An [`Invalid`] from anything that prints.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Everything one proxy holds: five kinds of resource, by name.
///
/// The order of the maps is part of the promise: dumps, versions and pushes come out the same in every process.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Resources {
    /// By listener name.
    pub listeners: BTreeMap<String, Arc<Listener>>,
    /// By route configuration name; a listener refers to it by [`RouteSource::Named`].
    pub routes: BTreeMap<String, Arc<RouteConfig>>,
    /// By cluster name.
    pub clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    /// By cluster name; present for clusters of [`Discovery::Eds`].
    pub endpoints: BTreeMap<ClusterName, Arc<Endpoints>>,
    /// By name; a TLS context refers to it.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// The version of a resource: 128 bits of xxh3 over its canonical JSON, in hex. Equal in every process for an equal
/// resource; bytes of the wire would not do, since protobuf maps have no order.
pub fn version<T: Serialize>(resource: &T) -> String {
    let canonical = serde_json::to_vec(resource).expect("invariant: an IR type serialises");
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&canonical))
}
