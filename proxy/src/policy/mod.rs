//! What is done to a request besides sending it on, one file per policy.

pub mod cors;
