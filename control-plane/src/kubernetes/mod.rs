//! Kubernetes, where this control plane runs in or beside a cluster. Nothing else in Leno knows `kube`.
//!
//! [`client`]: how the API server is reached. [`leader`]: which of several control planes writes. [`secrets`]: the roots
//! that they share. [`roots`]: the root in every namespace with sidecars. [`token_review`]: who holds a token of a
//! service account. [`webhook`]: what the API server asks.

#[allow(dead_code)] // What asks questions comes with the watches.
pub(crate) mod client;
#[allow(dead_code)] // `leno serve --kubernetes` starts them.
pub(crate) mod leader;
#[allow(dead_code)]
pub(crate) mod namespaces;
#[allow(dead_code)]
pub(crate) mod replica;
#[allow(dead_code)]
pub(crate) mod roots;
#[allow(dead_code)]
pub(crate) mod secrets;
#[allow(dead_code)]
pub(crate) mod token_review;
#[allow(dead_code)]
pub(crate) mod webhook;
