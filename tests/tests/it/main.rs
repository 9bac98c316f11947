//! The end-to-end suites: one program, so that the harness is linked once.
//!
//! Each module is a subject; each test starts the processes it needs and shares nothing with the others.
#![allow(clippy::unwrap_used)] // A test may.

mod authorization;
mod changes;
mod cli;
mod connections;
mod demo;
mod drain;
mod examples;
mod explain;
mod foreign;
mod grpc;
mod identity;
mod jwt;
mod load;
mod local_replies;
mod matches;
mod mtls;
mod outages;
mod protocols;
mod proxyless;
mod pushes;
mod rotation;
mod routing;
mod split;
mod status;
mod streaming;
