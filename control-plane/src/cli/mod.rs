//! The commands, one file each.

pub(crate) mod demo;
pub(crate) mod echo;
pub(crate) mod explain;
pub(crate) mod failure;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod validate;
pub(crate) mod version;
