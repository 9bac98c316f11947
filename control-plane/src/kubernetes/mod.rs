//! Kubernetes, where this control plane runs in or beside a cluster. Nothing else in Leno knows `kube`.
//!
//! ```text
//! client ──┬─ watches ── watch (a task per kind) ──┐ objects: what is kept of each
//!          │                                       └─▶ registry ──▶ documents, endpoints (source::kubernetes)
//!          └─ replica ──┬─ leader: which of several control planes writes
//!                       ├─ secrets ──▶ the roots that they share ──▶ roots: in every namespace with sidecars (namespaces)
//!                       ├─ token_review: who holds a token of a service account
//!                       └─ webhook: what the API server asks
//! ```

pub(crate) mod client;
pub(crate) mod counts;
pub(crate) mod crd;
pub(crate) mod injected;
pub(crate) mod leader;
pub(crate) mod namespaces;
pub(crate) mod objects;
pub(crate) mod others;
pub(crate) mod registry;
pub(crate) mod replica;
pub(crate) mod roots;
pub(crate) mod secrets;
pub(crate) mod status;
pub(crate) mod token_review;
pub(crate) mod watch;
pub(crate) mod watches;
pub(crate) mod webhook;
