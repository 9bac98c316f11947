//! `leno schema`: JSON Schemas of all that Leno reads, for editors.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use leno_config::rules::schema;
use serde_json::Value;

use super::failure::Failure;

/// Of files with documents of all kinds.
const RULES: &str = "leno";
/// Of the bootstrap file of a proxy.
const BOOTSTRAP: &str = "bootstrap";

/// `leno schema`
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "\
An editor with the YAML language server reads the schema that the first line of a file names:
  # yaml-language-server: $schema=schemas/leno.json        rules of any kind
  # yaml-language-server: $schema=schemas/bootstrap.json   the bootstrap of a proxy")]
pub(crate) struct Arguments {
    /// VirtualService, …; `bootstrap` for that of a proxy; without it all kinds of rules in one schema
    kind: Option<String>,
    /// Directory that all schemas are written to, KIND.json each
    #[arg(long, value_name = "DIR", conflicts_with = "kind")]
    output: Option<PathBuf>,
}

/// Prints one schema or writes all.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Some(directory) = &arguments.output else {
        let wanted = arguments.kind.as_deref().unwrap_or(RULES);
        let found = all().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let (_, schema) = found.ok_or_else(|| Failure::usage(unknown(wanted)))?;
        writeln!(std::io::stdout(), "{schema:#}")?;
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory `{}`", directory.display()))
        .map_err(Failure::usage)?;
    let mut written = 0;
    for (name, schema) in all() {
        let path = directory.join(format!("{name}.json"));
        std::fs::write(&path, format!("{schema:#}\n")).with_context(|| format!("cannot write `{}`", path.display()))?;
        written += 1;
    }
    writeln!(anstream::stderr(), "{written} schemas in {}", directory.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Every schema by its name.
fn all() -> impl Iterator<Item = (&'static str, Value)> {
    let kinds = schema::kinds().filter_map(|kind| Some((kind, schema::of_kind(kind)?)));
    kinds.chain([(RULES, schema::of_any_kind()), (BOOTSTRAP, leno_proxy::bootstrap::schema())])
}

fn unknown(wanted: &str) -> anyhow::Error {
    let names = schema::kinds().chain([RULES, BOOTSTRAP]).collect::<Vec<_>>().join(", ");
    anyhow!("Leno does not read `{wanted}`; there are schemas of {names}")
}
