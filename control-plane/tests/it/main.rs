//! The program `leno` from outside: real processes, real sockets.
#![allow(clippy::unwrap_used)] // Helpers of tests.

mod client;
mod envoy;
mod errors;
mod memory;
mod process;
mod serve;
