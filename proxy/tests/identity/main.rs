//! The proxy's own identity: what it takes for one, how it keeps it fresh, where it comes from and whom it believes.

// Clippy knows only functions marked as tests to be tests; these are their helpers.
#![allow(clippy::unwrap_used)]

mod answers;
mod authority;
mod ca;
mod control_plane;
mod files;
mod handshakes;
mod keeper;
mod store;
mod trust;
