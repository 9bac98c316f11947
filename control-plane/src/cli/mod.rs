//! The commands, one file each.

pub(crate) mod agent;
mod ask;
mod authority;
mod breakers;
pub(crate) mod ca;
pub(crate) mod demo;
pub(crate) mod echo;
pub(crate) mod explain;
pub(crate) mod failure;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod validate;
pub(crate) mod version;

/// Form of what a command prints on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}
