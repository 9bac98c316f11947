//! Where rules come from. Each source hands out the documents in force, whenever they change.

pub(crate) mod files;
