//! `leno token`: credentials for processes without Kubernetes.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use leno_config::rules::DurationText;

use super::failure::Failure;
use crate::ca::token::TokenKey;

/// `leno token …`
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a token by which one workload says who it is
    Create(Create),
}

/// `leno token create`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Create {
    /// State directory of `leno serve`; its key signs the token
    #[arg(long, value_name = "DIR", env = "LENO_STATE")]
    state: PathBuf,
    /// Namespace of the workload
    #[arg(long)]
    namespace: String,
    /// Service account of the workload
    #[arg(long)]
    service_account: String,
    /// How long the token is good; the workload renews its certificate without it
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    ttl: Duration,
    /// Where to write it, readable by its owner alone, in place of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Makes the token.
pub(crate) fn run(Command::Create(create): &Command) -> Result<ExitCode, Failure> {
    let key = TokenKey::open(&create.state)
        .with_context(|| format!("cannot use the key for tokens below `{}`", create.state.display()))?;
    let token = key
        .create(&create.namespace, &create.service_account, create.ttl, SystemTime::now())
        .map_err(Failure::usage)?;
    match &create.output {
        None => writeln!(anstream::stdout(), "{token}")?,
        Some(path) => {
            // An existing file keeps its mode, so one that others can read is replaced and not filled.
            let _ = std::fs::remove_file(path);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let written = file.and_then(|mut file| writeln!(file, "{token}"));
            written.with_context(|| format!("cannot write the token to `{}`", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `1h`, `90s`, `24h30m`; above zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = DurationText(text.to_owned()).parse().map_err(|invalid| invalid.to_string())?;
    if duration.is_zero() { Err("it has to be above zero".to_owned()) } else { Ok(duration) }
}
