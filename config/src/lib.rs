//! Everything Leno knows about configuration, and nothing about sockets.
//!
//! ```text
//! YAML ──rules──▶ typed documents ──mesh──▶ indexed mesh ──compile──▶ IR ◀──xds──▶ Envoy's messages
//! ```
//!
//! * [`rules`]: what a person writes, one file per kind, with the place of every value kept.
//! * [`diagnostic`]: findings with a code, a place, a reason and a remedy.
//! * [`validate`]: what is wrong across documents.
//! * [`mesh`]: all rules, services and workloads, indexed and immutable.
//! * [`compile`]: (mesh, which proxy) → [`ir`], with names resolved and defaults applied.
//! * [`ir`]: what a proxy understands; an invalid state cannot be built.
//! * [`xds`]: the IR as Envoy's xDS v3 messages, both ways.
//!
//! The crate is pure: no sockets, no clock, no threads. What reads the disk stands in [`rules::document`] alone.

// Whatever a person or a control plane writes ends in a finding or a refusal, and never in a panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::get_unwrap,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod compile;
pub mod defaults;
pub mod diagnostic;
pub mod identity;
pub mod ir;
pub mod mesh;
pub mod node;
pub mod rules;
pub mod validate;
pub mod xds;
