//! The configuration in force.
//!
//! ```text
//! xDS ─▶ accepted (what the server said and we took) ─▶ warming (what is complete) ─▶ snapshot (what workers run on)
//! ```
//!
//! Building a [`snapshot`] is pure and carries over what was learnt about endpoints; [`disk`] keeps the last good state
//! for the next start; [`enforced`] knows what this version does not do.

#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod accepted;
pub mod captured;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod disk;
pub mod enforced;
pub mod snapshot;
pub mod warming;
