//! The program `leno` from outside: real processes, real sockets.
#![allow(clippy::unwrap_used)] // Helpers of tests.

mod agent;
mod ca;
mod client;
mod envoy;
mod envoy_balance;
mod envoy_limits;
mod envoy_mtls;
mod errors;
mod memory;
mod process;
#[path = "../../../config/tests/real_envoy/mod.rs"]
mod real_envoy;
mod serve;
#[path = "../../../config/tests/skip/mod.rs"]
mod skip;
