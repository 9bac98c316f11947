//! The data plane: one small process beside every workload.
//!
//! Modules in the order in which a request meets them; `ARCHITECTURE.md` walks through the life of one.

pub mod route;
