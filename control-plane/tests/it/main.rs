//! The program `leno` from outside: real processes, real sockets.

mod client;
mod envoy;
mod memory;
mod process;
mod serve;
