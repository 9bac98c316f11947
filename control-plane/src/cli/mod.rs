//! The commands, one file each.

pub(crate) mod explain;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod version;
