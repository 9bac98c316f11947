//! The data plane: one small process beside every workload.
//!
//! Modules in the order in which a request meets them; `ARCHITECTURE.md` walks through the life of one.

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
pub mod relay;
pub mod reply;
pub mod request;
pub mod route;
pub mod rule_files;
pub mod sanitize;
pub mod source;
pub mod stage;
pub mod state;
pub mod stream_limits;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod version;
pub mod worker;
pub mod xds;
