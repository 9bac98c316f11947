//! `leno version`

use std::io::Write as _;
use std::process::ExitCode;

use super::failure::Failure;

/// `leno version`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// The number alone
    #[arg(long)]
    short: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Prints the version.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let text = match arguments.output {
        Output::Text if arguments.short => version.to_owned(),
        Output::Text => format!("leno {version} ({target})"),
        Output::Json => serde_json::json!({ "version": version, "target": target }).to_string(),
    };
    writeln!(anstream::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}
