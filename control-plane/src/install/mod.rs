//! What a cluster is given: the control plane as manifests.
//!
//! `leno install` and the Helm chart read the same values and say the same; a test renders the chart with Go's templates
//! and compares object by object. Definitions of the kinds of rules are apart ([`crate::kubernetes::crd`]): they outlive
//! the control plane, and belong to whoever made them first.
//!
//! * [`values`]: what an operator may choose. * [`manifests`]: the objects. * [`permissions`]: what the control plane may
//!   do, and nothing else.

pub(crate) mod manifests;
pub(crate) mod permissions;
pub(crate) mod values;

#[cfg(test)]
mod tests;
