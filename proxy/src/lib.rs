//! The data plane: one small process beside every workload.
//!
//! Modules in the order in which a request meets them; `ARCHITECTURE.md` walks through the life of one.

// Nothing that a peer sends or a file says ends a task. What is true by construction says so: `#[expect(…, reason)]`.
// Where bytes are read, numbers do not overflow either: the modules under `arithmetic_side_effects`, here and below.
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

pub mod admin;
pub mod attempt;
pub mod body;
pub mod bootstrap;
pub mod cli;
pub mod cluster;
pub mod control_plane;
pub mod dns;
pub mod downstream;
pub mod error;
pub mod explain;
pub mod file_events;
pub mod forward;
mod forwarding;
pub mod handover;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod headers;
pub mod identity;
pub mod logging;
pub mod memory;
pub mod nest;
pub mod overload;
pub mod pod;
pub mod policy;
pub mod prepare;
pub mod process;
pub mod random;
pub mod rarely;
pub mod redirect;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod relay;
pub mod reply;
pub mod request;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod route;
pub mod rule_files;
pub mod sanitize;
pub mod source;
pub mod stage;
pub mod state;
pub mod stream_limits;
pub mod telemetry;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod tls;
pub mod upstream;
pub mod version;
pub mod worker;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod xds;
