//! Kubernetes, where this control plane runs in or beside a cluster. Nothing else in Leno knows `kube`.
//!
//! ```text
//! client ── watches ── watch (a task per kind) ──┐ objects: what is kept of each
//!                                                └─▶ registry ──▶ documents, endpoints (source::kubernetes)
//! ```

pub(crate) mod client;
pub(crate) mod counts;
pub(crate) mod crd;
pub(crate) mod objects;
pub(crate) mod registry;
pub(crate) mod status;
pub(crate) mod watch;
pub(crate) mod watches;
