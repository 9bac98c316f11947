//! `leno-proxy redirect`: the kernel hands the proxy what a pod's containers say and hear.
//!
//! Runs once in a pod's network namespace before anything else does, as root with CAP_NET_ADMIN, and ends; the proxy
//! itself has no privilege. Afterwards every new TCP connection that leaves the pod arrives at the proxy's port 15001,
//! and every one that reaches the pod at 15006, with its original destination beside it (SO_ORIGINAL_DST); UDP, and DNS
//! over TCP, go where they went.
//!
//! ```text
//!  app ──► 10.96.0.7:80 ─── outbound rules ──► proxy:15001 ──(as user 1337)──► endpoint
//!  peer ─► 10.0.3.7:9080 ── inbound rules ───► proxy:15006 ──(from 127.0.0.6)──► app
//! ```
//!
//! What to do is one model, [`rules`], pure and the same for everybody; [`nft`] and [`iptables`] write it down.
//! Programs carry it out ([`backend`]) and not netlink messages of our own: the text that `redirect print` shows is
//! then all there is, and whoever debugs a node reads it back with the tools they have. The image of the set-up
//! container must hence have `nft`, or `iptables` with its `-nft-` or `-legacy-` programs.
//!
//! * **Idempotent:** applying twice is applying once, other settings replace the old ones, and rules that another
//!   backend left are cleared.
//! * **Atomic:** `nft` takes both families in one transaction; iptables takes one each, and the first is put back when
//!   the second fails. What was there is there when `apply` fails, and its exit code keeps the pod from starting
//!   without capture.
//! * **Ours alone:** tables called `leno`, or chains called `LENO_…` with the two jumps that lead there, and the
//!   address `::6` ([`address`]). Nothing else is touched, by `remove` neither.

mod address;
mod backend;
mod iptables;
mod nft;
mod programs;
mod rules;
mod settings;

use std::io::Write;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use clap::{Args, Subcommand};

use backend::{Backend, Wanted};
use programs::{Call, exists};
use rules::{Family, rules};
pub use settings::{BackendChoice, Flags, Ipv6};

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

/// Why nothing was captured.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// Not for us.
    #[error(
        "setting rules needs {capability}, which this process has not: run it as root (runAsUser: 0) and give the \
         container the capabilities NET_ADMIN and NET_RAW"
    )]
    Forbidden {
        /// What is missing.
        capability: &'static str,
    },
    /// The image lacks a program.
    #[error(
        "there is no program {program}: install the package nftables or iptables in the image, or choose another \
         --backend"
    )]
    Missing {
        /// Its name.
        program: &'static str,
    },
    /// A program cannot be run.
    #[error("cannot run `{call}`")]
    Run {
        /// With its arguments.
        call: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program does not end.
    #[error("`{call}` has not ended within {patience:?}; is another program holding iptables' lock?")]
    Slow {
        /// With its arguments.
        call: String,
        /// How long it had.
        patience: Duration,
    },
    /// A program could not do it.
    #[error("`{call}` failed ({status}): {complaint}")]
    Refused {
        /// With its arguments.
        call: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        complaint: String,
    },
    /// The address for calls to the app.
    #[error("cannot give ::6 to the loopback device; where the pod has no IPv6, say --ipv6 off")]
    Address(#[source] std::io::Error),
    /// No backend works.
    #[error("no backend works here: {}", .0.join("; "))]
    None(Vec<String>),
    /// The proxy's runtime.
    #[error("cannot start")]
    Start(#[source] std::io::Error),
}

/// `leno-proxy redirect …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set the rules, in place of those of an earlier apply
    Apply(Apply),
    /// Remove the rules, whichever backend set them
    Remove(Remove),
    /// Show what apply would run, as a shell script
    Print(Flags),
}

/// Flags of `apply`.
#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    flags: Flags,
    /// Show what would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
}

/// Flags of `remove`.
#[derive(Debug, Args)]
pub struct Remove {
    /// Show what would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
}

impl Command {
    /// Does what the command says; `Err`: the exit code and why.
    pub fn run(self) -> Result<(), (ExitCode, String)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(&RedirectError::Start(error)))?;
        let said = match self {
            Self::Print(flags) | Self::Apply(Apply { flags, dry_run: true }) => {
                let flags = checked(flags)?;
                runtime.block_on(print(&flags))
            }
            Self::Apply(Apply { flags, dry_run: false }) => {
                let flags = checked(flags)?;
                runtime.block_on(apply(&flags))
            }
            Self::Remove(Remove { dry_run }) => runtime.block_on(remove(dry_run)),
        };
        let said = said.map_err(|error| failed(&error))?;
        // Nobody is left to tell when stdout is closed.
        let _ = std::io::stdout().write_all(said.as_bytes());
        Ok(())
    }
}

fn checked(flags: Flags) -> Result<Flags, (ExitCode, String)> {
    match flags.check() {
        Ok(()) => Ok(flags),
        Err(reason) => Err((ExitCode::from(2), reason)),
    }
}

fn failed(error: &RedirectError) -> (ExitCode, String) {
    (ExitCode::FAILURE, chain(error))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

async fn apply(flags: &Flags) -> Result<String, RedirectError> {
    permitted(flags.backend)?;
    let wanted = wanted(flags);
    let six = captures_six(&wanted);
    let had_six = captured_six().await?;
    let added = six && address::add().map_err(RedirectError::Address)?;
    let backend = match install(flags.backend, &wanted).await {
        Ok(backend) => backend,
        Err(error) => {
            if added {
                // The reason for which it failed says more.
                let _ = address::remove();
            }
            return Err(error);
        }
    };
    for other in Backend::ALL.into_iter().filter(|other| *other != backend) {
        other.clear().await?;
    }
    if had_six && !six {
        address::remove().map_err(RedirectError::Address)?;
    }
    let families = if six { "IPv4 and IPv6" } else { "IPv4" };
    let (out, inwards) = (flags.outbound_port, flags.inbound_port);
    Ok(format!("captured with {backend}: outbound to port {out}, inbound to port {inwards}, {families}\n"))
}

async fn install(choice: BackendChoice, wanted: &Wanted) -> Result<Backend, RedirectError> {
    let mut failures = Vec::new();
    for backend in Backend::allowed(choice) {
        match backend.install(wanted).await {
            Ok(()) => return Ok(*backend),
            Err(error) if choice == BackendChoice::Auto => failures.push(chain(&error)),
            Err(error) => return Err(error),
        }
    }
    Err(RedirectError::None(failures))
}

async fn remove(dry_run: bool) -> Result<String, RedirectError> {
    permitted(BackendChoice::Auto)?;
    let mut said = String::new();
    for backend in Backend::ALL {
        let mut there = Vec::new();
        for family in [Family::V4, Family::V6] {
            if backend.has_something(family).await? {
                there.push((family, None));
            }
        }
        if there.is_empty() {
            continue;
        }
        let six = there.iter().any(|(family, _)| *family == Family::V6);
        if dry_run {
            backend.calls(&there).await?.iter().for_each(|call| said.push_str(&shell(call)));
            said.push_str(if six { "ip -6 address delete ::6/128 dev lo\n" } else { "" });
            continue;
        }
        backend.clear().await?;
        if six {
            address::remove().map_err(RedirectError::Address)?;
        }
        said.push_str(&format!("removed the rules set with {backend}\n"));
    }
    Ok(if said.is_empty() { "# there are no rules of ours\n".to_owned() } else { said })
}

async fn print(flags: &Flags) -> Result<String, RedirectError> {
    let wanted = wanted(flags);
    let allowed = Backend::allowed(flags.backend);
    let mut said = String::new();
    let (backend, calls) = match permitted(flags.backend) {
        Ok(()) => {
            let backend = first_that_could(allowed, &wanted).await?;
            (backend, backend.calls(&wanted).await?)
        }
        Err(_) => {
            said.push_str("# without CAP_NET_ADMIN nobody sees what is there: for a pod without rules of ours\n");
            let installed = allowed.iter().copied().find(|backend| exists(backend.program()));
            let backend = installed.or(allowed.first().copied()).unwrap_or(Backend::Nft);
            (backend, backend.first_calls(&wanted))
        }
    };
    said.push_str(&format!("# with {backend}\n"));
    if captures_six(&wanted) {
        said.push_str("ip -6 address replace ::6/128 dev lo nodad\n");
    } else if captured_six().await.unwrap_or(false) {
        said.push_str("ip -6 address delete ::6/128 dev lo\n");
    }
    calls.iter().for_each(|call| said.push_str(&shell(call)));
    for other in Backend::ALL.into_iter().filter(|other| *other != backend) {
        for family in [Family::V4, Family::V6] {
            if other.has_something(family).await.unwrap_or(false) {
                other.calls(&vec![(family, None)]).await?.iter().for_each(|call| said.push_str(&shell(call)));
            }
        }
    }
    Ok(said)
}

async fn first_that_could(allowed: &[Backend], wanted: &Wanted) -> Result<Backend, RedirectError> {
    let mut failures = Vec::new();
    for backend in allowed {
        match backend.check(wanted).await {
            Ok(()) => return Ok(*backend),
            Err(error) => failures.push(chain(&error)),
        }
    }
    Err(RedirectError::None(failures))
}

fn shell(call: &Call) -> String {
    format!("{call} <<'RULES'\n{}RULES\n", call.input)
}

/// What shall be of each family that the kernel has. Not to capture IPv6 takes away what an earlier apply captured.
fn wanted(flags: &Flags) -> Wanted {
    let mut wanted = vec![(Family::V4, Some(rules(flags, Family::V4)))];
    // One line for each address of this network namespace; no such file: a kernel without IPv6.
    let addresses = std::fs::read_to_string("/proc/self/net/if_inet6");
    let (exists, used) = (addresses.is_ok(), addresses.is_ok_and(|addresses| !addresses.trim().is_empty()));
    let captured = match flags.ipv6 {
        Ipv6::On => true,
        Ipv6::Auto => used,
        Ipv6::Off => false,
    };
    if captured || exists {
        wanted.push((Family::V6, captured.then(|| rules(flags, Family::V6))));
    }
    wanted
}

fn captures_six(wanted: &Wanted) -> bool {
    wanted.iter().any(|(family, rules)| *family == Family::V6 && rules.is_some())
}

/// Whether IPv6 is captured now.
async fn captured_six() -> Result<bool, RedirectError> {
    for backend in Backend::ALL {
        if backend.has_something(Family::V6).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Says early, and in words, what the programs would say late and in numbers.
fn permitted(choice: BackendChoice) -> Result<(), RedirectError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    // Where it cannot be told, the programs will tell.
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(u64::MAX);
    if effective & (1 << CAP_NET_ADMIN) == 0 {
        return Err(RedirectError::Forbidden { capability: "CAP_NET_ADMIN" });
    }
    if choice == BackendChoice::IptablesLegacy && effective & (1 << CAP_NET_RAW) == 0 {
        return Err(RedirectError::Forbidden { capability: "CAP_NET_RAW" });
    }
    Ok(())
}
