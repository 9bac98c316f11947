//! Leno's data plane.

pub mod state;
pub mod xds;
