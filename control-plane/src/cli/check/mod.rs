//! `leno check`: what is wrong, in the order in which a person would look, and what to type next.
//!
//! Each section is a question: is this machine fit (`--pre`), is the control plane well, do the proxies hold what they
//! should, is one proxy well (`--proxy`), are these rules right (`-f`). Nothing is changed and nothing is needed but what
//! is asked: `--pre` works where nothing runs. A check that fails ends with one command that can be typed as it stands.

mod control_plane;
mod holder;
mod machine;
mod proxies;
mod proxy;
mod report;
mod rules;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use leno_config::rules::DurationText;

use super::failure::Failure;
use super::status::age;
use report::{Form, Report, Section};

/// Between two looks with `--wait`.
const PAUSE: Duration = Duration::from_secs(1);
/// The server that was asked does not answer; as of [`Failure::unreachable`].
const UNREACHABLE: u8 = 3;

/// `leno check`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Before anything runs: is this machine fit?
    #[arg(long, conflicts_with_all = ["proxy", "wait"])]
    pre: bool,
    /// Of one proxy, by the HTTP address of its admin interface, in place of the control plane
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// HTTP address of the control plane
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15014", env = "LENO_STATUS_ADDRESS")]
    address: String,
    /// Rules to check as well; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "RULES")]
    files: Vec<PathBuf>,
    /// Look again until nothing is wrong, so long at most
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "5m")]
    wait: Option<String>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// Checks and prints. 0: nothing fails; 1: something does; 3: who was to be asked does not answer.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let patience = arguments.wait.as_ref().map(|text| DurationText(text.clone()).parse());
    let patience = patience.transpose().map_err(|invalid| Failure::usage(anyhow!("--wait: {}", invalid.0)))?;
    let deadline = Instant::now() + patience.unwrap_or_default().min(Duration::from_secs(86_400));
    let report = loop {
        let report = look(arguments)?;
        if !report.fails() || Instant::now() + PAUSE >= deadline {
            break report;
        }
        std::thread::sleep(PAUSE);
    };
    report.print(arguments.output)?;
    Ok(match (report.is_unreachable(), report.fails()) {
        (true, _) => ExitCode::from(UNREACHABLE),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    })
}

/// How long a certificate is good for: `23h59m`, and from two days on in whole days.
fn lasting(left: Duration) -> String {
    const DAY: u64 = 86_400;
    match left.as_secs() {
        seconds if seconds < 2 * DAY => age(left),
        seconds => format!("{} days", seconds / DAY),
    }
}

fn look(arguments: &Arguments) -> Result<Report, Failure> {
    let now = SystemTime::now();
    let mut sections: Vec<Section> = Vec::new();
    match &arguments.proxy {
        _ if arguments.pre => sections.extend(machine::before()),
        Some(proxy) => sections.push(proxy::section(proxy, now)?),
        None => {
            sections.push(machine::running());
            sections.extend(control_plane::sections(&arguments.address, now)?);
        }
    }
    if !arguments.files.is_empty() {
        sections.push(rules::section(&arguments.files));
    }
    Ok(Report::new(sections))
}
