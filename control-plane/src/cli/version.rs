//! `leno version`

use std::process::ExitCode;

use leno_proxy::version::{LONG, REVISION, RUSTC, TARGET, TLS, VERSION};

use super::Output;
use super::failure::Failure;

/// `leno version`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// The number alone
    #[arg(long)]
    short: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Prints the version.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let text = if arguments.short { format!("{VERSION}\n") } else { format!("leno {LONG}\n") };
    let build = serde_json::json!({
        "version": VERSION,
        "revision": REVISION,
        "target": TARGET,
        "rustc": RUSTC,
        "tls": TLS,
    });
    arguments.output.print(&build, |_| text)?;
    Ok(ExitCode::SUCCESS)
}
