//! `leno uninject`: the way back from `leno inject`.

use std::io::Write as _;
use std::process::ExitCode;

use super::failure::Failure;
use super::inject::{Input, name};

/// `leno uninject`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    input: Input,
}

/// Takes sidecars out and prints. Where one cannot be taken out, nothing goes out.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (text, done) = arguments.input.read()?.uninject();
    let mut stderr = anstream::stderr();
    for (owner, outcome) in &done {
        let name = name(owner);
        match outcome {
            Ok(true) => writeln!(stderr, "{name}: sidecar taken out")?,
            Ok(false) => writeln!(stderr, "{name}: has no sidecar")?,
            Err(problems) => writeln!(stderr, "error: {name}: {problems}")?,
        }
    }
    if done.iter().any(|(_, outcome)| outcome.is_err()) {
        return Ok(ExitCode::FAILURE);
    }
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
