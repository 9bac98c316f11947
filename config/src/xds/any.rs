//! Messages inside messages: `google.protobuf.Any`.
//!
//! A message is known by its type, never by the name that stands beside it: so does Envoy, and control planes written by
//! hand call their filters what they like.

use prost::{Message, Name};

use super::pb;
use super::refusal::{Problem, Result};
use pb::protobuf::Any;

/// `message` with its type.
pub(super) fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Whether `any` holds an `M`.
pub(super) fn is<M: Name>(any: &Any) -> bool {
    type_name(any) == M::full_name()
}

/// The `M` in `any`; a problem where it is another type or no valid message.
pub(super) fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M> {
    if !is::<M>(any) {
        return Err(Problem::new("", format!("is a `{}`, not a `{}`", type_name(any), M::full_name())));
    }
    M::decode(any.value.as_slice())
        .map_err(|error| Problem::new("", format!("is not a valid `{}`: {error}", M::full_name())))
}

/// What follows the last slash of the type's URL, as protobuf says.
pub(super) fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// The `M` in `any`, or nothing where it is another type.
pub(super) fn unpack_if<M: Message + Name + Default>(any: &Any) -> Result<Option<M>> {
    if is::<M>(any) { unpack(any).map(Some) } else { Ok(None) }
}
