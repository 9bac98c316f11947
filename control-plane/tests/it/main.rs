//! The program `leno` from outside: real processes, real sockets.
#![allow(clippy::unwrap_used)] // Helpers of tests.

mod agent;
#[path = "../../../tests/src/anybody.rs"]
mod anybody;
mod ca;
mod client;
mod envoy;
#[path = "../../../config/tests/real_envoy/ads.rs"]
mod envoy_ads;
mod envoy_balance;
mod envoy_limits;
mod envoy_mtls;
mod errors;
mod memory;
#[allow(unreachable_pub)] // It is public where it comes from.
#[path = "../../../tests/src/ports.rs"]
mod ports;
mod process;
#[path = "../../../config/tests/real_envoy/mod.rs"]
mod real_envoy;
mod serve;
#[path = "../../../config/tests/skip/mod.rs"]
mod skip;
mod watched;
