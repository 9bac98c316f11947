//! The configuration in force.
//!
//! [`snapshot`] turns resources into what the request path runs on; building one is pure and carries over what was
//! learnt about endpoints.

pub mod enforced;
pub mod snapshot;
