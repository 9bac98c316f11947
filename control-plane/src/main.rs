//! Leno's control plane and command line.

// Nothing that a peer sends or a file says ends a task. What is true by construction says so: `#[expect(…, reason)]`.
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::get_unwrap,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod ads;
mod board;
mod ca;
#[expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unreachable,
    reason = "what an operator starts and reads: no peer, and a demo of our own"
)]
mod cli;
mod figures;
mod follow;
mod generation;
mod http;
mod inject;
#[expect(clippy::indexing_slicing, reason = "members of objects that are made here")]
mod install;
mod kubernetes;
mod metrics;
mod percent;
mod relay;
mod snapshot;
mod source;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use cli::failure::Failure;
use leno_proxy::version;

#[cfg(not(leno_system_allocator))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A service mesh that reads Istio's rules
#[derive(Debug, Parser)]
#[command(name = "leno", version = version::SHORT, long_version = version::LONG)]
#[command(propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    /// Colour in the output
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try everything out: a small bookshop with sidecars, on this machine
    Demo(cli::demo::Arguments),
    /// Say everything that is wrong with rules, before anything reads them
    Validate(cli::validate::Arguments),
    /// Say where a request would go, by which rule, and why not by another
    Explain(cli::explain::Arguments),
    /// Put sidecars into the pods of Kubernetes resources, on their way to `kubectl apply -f -`
    Inject(cli::inject::Arguments),
    /// Take them out again
    Uninject(cli::uninject::Arguments),
    /// Run the control plane: watch rules and push them to proxies
    Serve(cli::serve::Arguments),
    /// Keep a certificate fresh for a real Envoy, as files that it watches (SDS)
    Agent(Box<cli::agent::Arguments>),
    /// Show which proxy holds what, and what is wrong with the rules
    #[command(visible_aliases = ["proxy-status", "ps"])]
    Status(cli::status::Arguments),
    /// Show what a proxy holds: listeners, routes, clusters, endpoints, certificates
    #[command(visible_aliases = ["proxy-config", "pc"])]
    Config(cli::config::Arguments),
    /// Show or change what a running program logs
    #[command(subcommand)]
    Logs(cli::logs::Command),
    /// Gather what somebody needs who is to help, redacted, in one file
    BugReport(cli::bug_report::Arguments),
    /// Say what is not well with this machine, the control plane and the proxies, and what to type next
    Check(cli::check::Arguments),
    /// Show how workloads and services are doing: success, requests per second, latencies
    Stat(cli::stat::Arguments),
    /// Show what each rule does with its requests, and splits as they are written and as they come out
    Routes(cli::routes::Arguments),
    /// Show who talks to whom, as whom, and how it is secured
    Edges(cli::edges::Arguments),
    /// Show requests and connections live, as they end
    Tap(Box<cli::tap::Arguments>),
    /// Show what is asked of whom right now: counts, best, worst and last latency, success
    Top(Box<cli::top::Arguments>),
    /// Make tokens by which processes without Kubernetes say who they are
    #[command(subcommand)]
    Token(cli::token::Command),
    /// Look after the certificate authority
    #[command(subcommand)]
    Ca(cli::ca::Command),
    /// Print what a Kubernetes cluster needs, for `kubectl apply -f -`
    Install(cli::install::Arguments),
    /// Print what takes the control plane out of a cluster again, for `kubectl delete -f -`
    Uninstall(cli::install::Removal),
    /// Print JSON Schemas of rules and bootstraps, for editors
    Schema(cli::schema::Arguments),
    /// Print what a shell needs to complete the command line
    Completion(cli::completion::Arguments),
    /// Print the manual pages
    Man(cli::man::Arguments),
    /// Print the version
    Version(cli::version::Arguments),
    /// A small service that says who it is and what it was asked, for the demo
    #[command(hide = true)]
    Echo(cli::echo::Arguments),
    /// The data plane, as `leno-proxy` runs it
    #[command(hide = true, subcommand)]
    Proxy(leno_proxy::cli::Command),
}

fn main() -> ExitCode {
    cli::demo::hold_lifeline();
    let arguments = Arguments::parse();
    match arguments.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    let ended = run(arguments.command);
    ended.unwrap_or_else(|failure| {
        // `leno … | head` has read what it wanted.
        if failure.is_closed_pipe() {
            return ExitCode::SUCCESS;
        }
        // Where even stderr is gone there is nobody left to tell.
        let _ = writeln!(anstream::stderr(), "error: {failure}");
        failure.exit_code()
    })
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Demo(arguments) => cli::demo::run(arguments),
        Command::Validate(arguments) => cli::validate::run(&arguments),
        Command::Explain(arguments) => cli::explain::run(&arguments),
        Command::Inject(arguments) => cli::inject::run(&arguments),
        Command::Uninject(arguments) => cli::uninject::run(&arguments),
        Command::Serve(arguments) => cli::serve::run(arguments),
        Command::Agent(arguments) => cli::agent::run(*arguments),
        Command::Status(arguments) => cli::status::run(&arguments),
        Command::Config(arguments) => cli::config::run(&arguments),
        Command::Logs(command) => cli::logs::run(&command),
        Command::BugReport(arguments) => cli::bug_report::run(&arguments),
        Command::Check(arguments) => cli::check::run(&arguments),
        Command::Stat(arguments) => cli::stat::run(&arguments),
        Command::Routes(arguments) => cli::routes::run(&arguments),
        Command::Edges(arguments) => cli::edges::run(&arguments),
        Command::Tap(arguments) => cli::tap::run(&arguments),
        Command::Top(arguments) => cli::top::run(&arguments),
        Command::Token(command) => cli::token::run(&command),
        Command::Ca(command) => cli::ca::run(&command),
        Command::Install(arguments) => cli::install::run(&arguments),
        Command::Uninstall(removal) => cli::install::remove(&removal),
        Command::Schema(arguments) => cli::schema::run(&arguments),
        Command::Completion(arguments) => cli::completion::run(&arguments, Arguments::command(), proxy()),
        Command::Man(arguments) => cli::man::run(&arguments, Arguments::command(), proxy()),
        Command::Version(arguments) => cli::version::run(&arguments),
        Command::Echo(arguments) => cli::echo::run(arguments),
        Command::Proxy(command) => Ok(command.run()),
    }
}

/// The command line of `leno-proxy`.
fn proxy() -> clap::Command {
    leno_proxy::cli::Cli::command()
}
