//! What the control plane said, what of it is in force, and what of it survives a restart.

pub mod accepted;
pub mod disk;
pub mod warming;
