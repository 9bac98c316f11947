//! What the API server asks before it takes an object: whether a pod gets a sidecar, and whether a rule makes sense.
//!
//! ```text
//! API server ──HTTPS, 443 → 15017──▶ server ──▶ /inject    inject::admission: a JSON patch, or a refusal
//!     ▲                                 │  └───▶ /validate  validate: the words and codes of `leno validate`
//!     │ caBundle                        │ its certificate: certificate (every replica has its own)
//!     └── bundle (the leader) ◀── roots in the Secret leno-webhook, which the leader replaces in time
//! ```
//!
//! Every replica answers, so there is no state here; all of them issue their own serving certificate from the same root,
//! and no serving key leaves its process. The root follows the steps of the mesh's own ([`crate::ca::rotation`]), without
//! a person: the API server believes both roots before any certificate comes from the new one.

pub(crate) mod bundle;
pub(crate) mod certificate;
pub(crate) mod configurations;
pub(crate) mod injector;
mod review;
pub(crate) mod server;
pub(crate) mod validate;

#[cfg(test)]
mod tests;
