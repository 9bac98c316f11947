//! Why a resource is not accepted, and where in it the reason stands.
//!
//! The readers know only their own message. An error gains its path on the way up ([`Within`]), so that a resource
//! which is accepted, and nearly all are, pays nothing for it.

use std::collections::HashMap;

use super::pb;
use crate::ir;

/// A resource that Leno does not take: text for the operator of the control plane, sent as NACK.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {field}: {reason}")]
pub struct Refusal {
    /// Name of the resource; in angle brackets where it has none.
    pub resource: String,
    /// Path of the field, in Envoy's names: `virtual_hosts[2].routes[0].route.cluster_header`.
    pub field: String,
    /// What is wrong with it and what would do.
    pub reason: String,
}

/// What a reader of this module returns.
pub(super) type Result<T> = std::result::Result<T, Problem>;

/// A refusal on its way up: the path so far, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    path: String,
    reason: String,
}

impl Problem {
    /// What is wrong with `field` of the message at hand; an empty `field` is the message itself.
    pub(super) fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { path: field.to_owned(), reason: reason.into() }
    }

    /// A field that changes behaviour and that Leno has nothing for.
    pub(super) fn unsupported(field: &str) -> Self {
        Self::new(field, "Leno does not support this field; leave it unset")
    }

    /// A field without which the message means nothing.
    pub(super) fn missing(field: &str) -> Self {
        Self::new(field, "is required")
    }

    /// With the name of the resource, ready to be sent.
    pub(super) fn of(self, resource: &str) -> Refusal {
        Refusal { resource: resource.to_owned(), field: self.path, reason: self.reason }
    }

    pub(super) fn prefixed(self, field: &str) -> Self {
        let path = match (field.is_empty(), self.path.is_empty()) {
            (true, _) => self.path,
            (_, true) => field.to_owned(),
            _ => format!("{field}.{}", self.path),
        };
        Self { path, ..self }
    }
}

impl From<ir::Invalid> for Problem {
    fn from(invalid: ir::Invalid) -> Self {
        Self::new("", invalid.0)
    }
}

/// Adds to the path of a problem.
pub(super) trait Within<T> {
    /// The problem stands in `field`.
    fn within(self, field: &str) -> Result<T>;
    /// The problem stands in `field[index]`.
    fn within_item(self, field: &str, index: usize) -> Result<T>;
}

impl<T, E: Into<Problem>> Within<T> for std::result::Result<T, E> {
    fn within(self, field: &str) -> Result<T> {
        self.map_err(|problem| problem.into().prefixed(field))
    }

    fn within_item(self, field: &str, index: usize) -> Result<T> {
        self.map_err(|problem| problem.into().prefixed(&format!("{field}[{index}]")))
    }
}

/// Reads a repeated field.
pub(super) fn each<M, T>(field: &str, items: Vec<M>, read: impl Fn(M) -> Result<T>) -> Result<Vec<T>> {
    items.into_iter().enumerate().map(|(index, item)| read(item).within_item(field, index)).collect()
}

/// The value of a field that has to be there.
pub(super) fn required<T>(field: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Problem::missing(field))
}

/// A text that has to be there.
pub(super) fn nonempty(field: &str, value: String) -> Result<String> {
    if value.is_empty() { Err(Problem::missing(field)) } else { Ok(value) }
}

/// Refuses the first of `fields` that is set.
pub(super) fn unsupported(fields: &[(&str, &dyn IsSet)]) -> Result<()> {
    match fields.iter().find(|(_, value)| value.is_set()) {
        Some((field, _)) => Err(Problem::unsupported(field)),
        None => Ok(()),
    }
}

/// Whether a field differs from what it is when nobody writes it.
pub(super) trait IsSet {
    /// Whether it does.
    fn is_set(&self) -> bool;
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

impl IsSet for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for u32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> IsSet for HashMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

/// Whether a wrapped bool is there and true.
pub(super) fn is_true(value: &Option<pb::protobuf::BoolValue>) -> bool {
    value.as_ref().is_some_and(|value| value.value)
}

/// Whether a wrapped bool is there and false.
pub(super) fn is_false(value: &Option<pb::protobuf::BoolValue>) -> bool {
    value.as_ref().is_some_and(|value| !value.value)
}
