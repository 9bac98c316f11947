//! The wire: what is written is read back, what Leno lacks is refused by name, and no bytes do harm.

// Everything here is a test, its helpers included.
#![allow(clippy::unwrap_used)]

mod accepted;
mod access_logs;
mod envoy;
mod flavour;
mod garbage;
mod istiod;
mod messages;
#[path = "../real_envoy/mod.rs"]
mod real_envoy;
mod refusals;
mod round_trip;
#[path = "../skip/mod.rs"]
mod skip;
mod strategies;
