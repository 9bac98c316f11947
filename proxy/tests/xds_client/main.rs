//! The proxy's xDS client: what it accepts, what of it is in force, what it says to the server, and what survives.

// Clippy knows only functions marked as tests to be tests; these are their helpers.
#![allow(clippy::unwrap_used)]

mod accepted;
mod build;
mod disk;
mod property;
mod server;
mod session;
mod stream;
mod warming;
