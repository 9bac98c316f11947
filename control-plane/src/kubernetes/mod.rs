//! Kubernetes, where this control plane runs in or beside a cluster. Nothing else in Leno knows `kube`.
//!
//! [`client`]: how the API server is reached.

#[allow(dead_code)] // What asks questions comes with the watches.
pub(crate) mod client;
