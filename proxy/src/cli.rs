//! The command line of `leno-proxy`, which `leno proxy` shares.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bootstrap::{Bootstrap, Flags};
use crate::logging::{self, Colour};
use crate::pod::call::{self, CallError};
use crate::{process, version};

/// The sidecar of the Leno service mesh.
#[derive(Debug, Parser)]
#[command(name = "leno-proxy", version = version::SHORT, long_version = version::LONG, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy until SIGTERM, then drain
    Run(Box<Run>),
    /// Wait until the proxy of this pod is ready (for hooks and probes in an image without a shell)
    Wait(call::Wait),
    /// Ask the proxy of this pod to drain and exit, once the work of a Job is done
    Quit(call::Quit),
}

/// Flags of `run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    logging: logging::LogFlags,
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> ExitCode {
        self.command.run()
    }
}

impl Command {
    /// Does what the command says; 0 when it went well, 1 when it did not, 2 when it was asked wrongly, 3 when the proxy
    /// that is called cannot be reached.
    pub fn run(self) -> ExitCode {
        match self {
            Self::Run(run) => run.run(),
            Self::Wait(wait) => call(wait.run()),
            Self::Quit(quit) => call(quit.run()),
        }
    }
}

impl Run {
    fn run(self) -> ExitCode {
        logging::start(&self.logging, Colour::ByTerminal);
        let bootstrap = match Bootstrap::load(self.flags) {
            Ok(bootstrap) => bootstrap,
            Err(error) => return fail(2, &chain(&error)),
        };
        match process::run(bootstrap) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &format!("{error:#}")),
        }
    }
}

fn call(called: impl Future<Output = Result<(), CallError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("the system has no room for an event loop: {error}")),
    };
    match runtime.block_on(called) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error.to_string()),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn fail(code: u8, message: &str) -> ExitCode {
    use std::io::Write;
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "leno-proxy: {message}");
    ExitCode::from(code)
}
