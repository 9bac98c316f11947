//! The command line of `leno-proxy`, which `leno proxy` shares.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bootstrap::{Bootstrap, Flags};
use crate::logging::{self, Colour};
use crate::pod::call::{self, CallError};
use crate::process::{self, Begin};
use crate::{redirect, version};

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
    /// Have the kernel hand a pod's connections to the proxy
    #[command(subcommand)]
    Redirect(Box<redirect::Command>),
}

/// Flags of `run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    flags: Flags,
    /// Take over from the proxy that runs with the same state directory: its sockets, with whoever waits in them, its state
    /// and its place at the control plane. It drains (--drain-after-upgrade) and exits with 0 once this one serves; it
    /// goes on as before if this one cannot. Where none runs, start as usual
    #[arg(long, env = "LENO_UPGRADE")]
    upgrade: bool,
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
            Self::Redirect(command) => match command.run() {
                Ok(()) => ExitCode::SUCCESS,
                Err((code, words)) => say(code, &words),
            },
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
        let begin = if self.upgrade { Begin::Upgrade } else { Begin::Afresh };
        if self.upgrade && bootstrap.state.is_none() {
            return fail(2, "--upgrade needs --state: the running proxy is found in its state directory");
        }
        match process::run(bootstrap, begin) {
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
    say(ExitCode::from(code), message)
}

fn say(code: ExitCode, message: &str) -> ExitCode {
    use std::io::Write;
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "leno-proxy: {message}");
    code
}
