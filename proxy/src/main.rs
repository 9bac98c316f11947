//! `leno-proxy`, the sidecar.

use std::process::ExitCode;

use clap::Parser;
use leno_proxy::cli::Cli;

/// Measured against the system's: less CPU per request, and memory goes back after a burst.
#[cfg(not(leno_system_allocator))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
