//! `leno demo`: the canary of the bookshop, on this machine, in one command.
//!
//! ```text
//! demo ──▶ customers' sidecar ──▶ productpage's sidecar ──▶ productpage ──▶ its sidecar ──▶ sidecar of reviews v1 ──▶ reviews v1
//!               ▲  rules, endpoints (xDS)                       └──▶ sidecar of reviews v2 ──▶ …
//!          control plane ◀── the user's rules + where the processes are
//! ```
//!
//! Everything is a process of its own, started from this very program: the control plane (`serve`), seven sidecars
//! (`proxy run`) and seven small services (`echo`), on free ports of the loopback. What is expected is computed from the
//! rules as they stand on disk ([`expectation`]), what is observed comes from the answers ([`observation`]); nothing
//! knows in advance what the example says. The processes end with the demo, however it ends ([`lifeline`]).

mod bookshop;
mod encryption;
mod example;
mod expectation;
mod lifeline;
mod live;
mod load;
mod observation;
mod processes;
mod report;
mod targets;
mod topology;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use http::HeaderMap;

use bookshop::Bookshop;
use encryption::Encryption;
use expectation::Expectation;
use load::Order;
use report::Observed;
use topology::OBSERVED_CALLS;

use super::Output;
use super::failure::Failure;

pub(crate) use lifeline::hold as hold_lifeline;

/// Requests of `--once` when nothing else is said.
const REQUESTS: usize = 2000;
/// Of as many requests, one more is sent for each header that a rule asks for.
const ONE_BY_HEADER_IN: usize = 10;

/// `leno demo`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Directory with services and routes [default: examples/bookinfo, else a copy that the demo names]
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Number of requests [default: 2000 with --once, else until Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests: Option<u32>,
    /// Send the requests, check the observed split against the rules, and end with 0 or 1
    #[arg(long)]
    once: bool,
    /// Directory for proxies.json and control-plane.json, by which a Prometheus finds the demo (examples/prometheus)
    #[arg(long, value_name = "DIR")]
    targets: Option<PathBuf>,
    /// Form of what is printed on stdout
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the demo until it is done or interrupted.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = perform(&arguments) => outcome,
            signal = interrupted() => {
                signal?;
                progress("ending all processes");
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

async fn perform(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let scratch = tempfile::Builder::new().prefix("leno-demo-").tempdir().context("cannot create a directory")?;
    let rules = example::directory(arguments.rules.as_deref(), scratch.path()).map_err(Failure::usage)?;
    progress(&format!("rules: {}", rules.display()));
    progress("starting a control plane, seven sidecars and seven services …");
    let mut bookshop = Bookshop::open(rules, scratch.path()).await?;
    progress(&report::introduction(&bookshop, &program()));
    if let Some(directory) = &arguments.targets {
        targets::write(&bookshop, directory)?;
    }
    Ok(if arguments.once { once(&mut bookshop, arguments).await } else { live::run(&mut bookshop, arguments).await }?)
}

/// Sends a number of requests and compares what was observed with what the rules say.
async fn once(bookshop: &mut Bookshop, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let expectation = expectation::read(&bookshop.rules, &bookshop.caller().workload.node(), OBSERVED_CALLS)?;
    anyhow::ensure!(
        !expectation.services.is_empty(),
        "the rules declare none of the services that productpage calls (details and reviews, port {}); \
         start from examples/bookinfo/services.yaml",
        topology::SERVICE_PORT
    );
    let requests = arguments.requests.map_or(REQUESTS, |requests| requests.try_into().unwrap_or(usize::MAX));
    let mut observed = Observed::default();
    let mut encryption = Encryption::default();
    // The kinds one after the other, so that each has exactly its number of requests.
    for (kind, headers) in kinds(&expectation).into_iter().enumerate() {
        let count = if kind == 0 { requests } else { requests.div_ceil(ONE_BY_HEADER_IN) };
        let order = Order {
            to: bookshop.entry,
            kinds: vec![headers],
            count: Some(count),
            pause: Duration::ZERO,
            kind_of: |_, _| 0,
        };
        let (mut samples, _callers) = load::send(order);
        while let Some(mut sample) = samples.recv().await {
            sample.kind = kind;
            observed.add(&sample, &expectation);
        }
        if kind == 0 {
            encryption = Encryption::observe(bookshop).await?;
        }
    }
    let mut disagreements = observed.disagreements(&expectation);
    disagreements.extend(encryption.disagreements());
    disagreements.extend(bookshop.newly_dead().iter().map(ToString::to_string));
    let mut json = observed.as_json(&expectation);
    json["mtls"] = encryption.as_json();
    json["identities"] = bookshop.identities();
    let text = || format!("{}{}\n", observed.as_table(&expectation), encryption.summary());
    arguments.output.print(&json, |_| text())?;
    for disagreement in &disagreements {
        progress(&format!("not as the rules say: {disagreement}"));
    }
    if disagreements.is_empty() {
        progress("the observed split agrees with the rules");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

/// The kinds of request: without particular headers, and one for each header that a rule asks for.
fn kinds(expectation: &Expectation) -> Vec<HeaderMap> {
    let by_header = expectation.by_header.iter().map(|case| case.headers.clone());
    std::iter::once(HeaderMap::new()).chain(by_header).collect()
}

/// Ctrl-C or SIGTERM.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// How a person calls this program.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "leno".to_owned())
}

/// Data for the reader of stdout.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Something that a person wants to know on the way.
fn progress(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
