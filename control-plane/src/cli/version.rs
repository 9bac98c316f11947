//! `leno version`

use std::process::ExitCode;

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
    let version = env!("CARGO_PKG_VERSION");
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let text = if arguments.short { format!("{version}\n") } else { format!("leno {version} ({target})\n") };
    arguments.output.print(&serde_json::json!({ "version": version, "target": target }), |_| text)?;
    Ok(ExitCode::SUCCESS)
}
