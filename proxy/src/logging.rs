//! Logs of the programs: lines on stderr, for people or for programs, as much as is wanted at the moment.
//!
//! Proxy and control plane share this. How much is logged is said per module, at the start (`--log-level`, `LENO_LOG`) and
//! later by `POST /logging`, which lasts until the process ends. There is no syntax beyond `MODULE=LEVEL`: what a regular
//! expression on a field could do is not worth its cost in a sidecar.
//!
//! What is not logged costs a load and a branch: `tracing` remembers for each place in the code whether it is on, and is
//! told anew when that changes.

mod levels;
mod page;

use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt as lines, reload};

pub use levels::{Levels, LevelsError};
pub use page::answer;

/// Flags of a program that logs.
#[derive(Debug, Clone, clap::Args)]
pub struct LogFlags {
    /// How much is logged: error, warn, info, debug, trace or off, also per module, as info,leno_proxy::xds=debug
    #[arg(long, value_name = "LEVELS", default_value = "info", env = "LENO_LOG")]
    pub log_level: Levels,
    /// Form of the log on stderr
    #[arg(long, value_enum, value_name = "FORM", default_value_t, env = "LENO_LOG_FORMAT")]
    pub log_format: Format,
}

/// The form of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: one JSON object a line
    Json,
}

/// Whether lines for people are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// On a terminal, unless the environment says otherwise (<https://no-color.org>, <https://bixense.com/clicolors>).
    ByTerminal,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The log of this process.
pub struct Log {
    levels: Mutex<Levels>,
    apply: Box<dyn Fn(Targets) -> Result<(), reload::Error> + Send + Sync>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("levels", &self.levels()).finish_non_exhaustive()
    }
}

/// What is logged, for `GET /logging?format=json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Of modules that are not named.
    pub level: String,
    /// By module; what is below a module is meant with it.
    pub modules: BTreeMap<String, String>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Begins to log, once per process.
pub fn start(flags: &LogFlags, colour: Colour) {
    let (filter, handle) = reload::Layer::new(flags.log_level.targets());
    let form: Box<dyn Layer<Registry> + Send + Sync> = match flags.log_format {
        Format::Text => {
            lines::layer().with_writer(std::io::stderr).with_target(false).with_ansi(colour.is_on()).boxed()
        }
        Format::Json => lines::layer().with_writer(std::io::stderr).json().boxed(),
    };
    // Set already: whoever did it decides.
    if tracing_subscriber::registry().with(form.with_filter(filter)).try_init().is_ok() {
        let apply = Box::new(move |targets| handle.reload(targets));
        let _ = LOG.set(Log { levels: Mutex::new(flags.log_level.clone()), apply });
    }
}

/// The log, in a process that has begun one.
pub fn current() -> Option<&'static Log> {
    LOG.get()
}

impl Colour {
    fn is_on(self) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
            Self::ByTerminal => {
                let says = |name: &str| std::env::var_os(name).is_some_and(|set| !set.is_empty() && set != "0");
                let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
                !says("NO_COLOR") && (says("CLICOLOR_FORCE") || std::io::stderr().is_terminal() && !is_dumb)
            }
        }
    }
}

impl Log {
    /// How much is logged now.
    pub fn levels(&self) -> Levels {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes how much is logged, as the query of `POST /logging` says it: `level=LEVEL` for everything (what was said of
    /// modules is forgotten, as in Envoy), `MODULE=LEVEL` for one module and what is below it. All of it or, when
    /// something is wrong, nothing.
    pub fn change<'q>(&self, pairs: impl Iterator<Item = (&'q str, &'q str)>) -> Result<Levels, LevelsError> {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let new = levels.changed(pairs)?;
        (self.apply)(new.targets()).map_err(|error| LevelsError::NotApplied(error.to_string()))?;
        *levels = new.clone();
        drop(levels);
        // At a level that is on unless all is off: who reads the log later sees why it changed.
        tracing::warn!("what is logged was changed by POST /logging: {new}");
        Ok(new)
    }
}
