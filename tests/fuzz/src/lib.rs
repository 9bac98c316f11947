//! What must hold for *any* bytes that come from the wire or a file.
//!
//! A target is a function of bytes that panics where its property does not hold. The same functions run in two ways:
//!
//! * `cargo test --workspace` runs each over its corpus (`corpus/TARGET/`) and over some thousand inputs made of it with a
//!   fixed seed, within a second or so: what was found once stays found.
//! * `tests/fuzz/run [TARGET] [SECONDS]` runs them under libFuzzer, on stable Rust: coverage leads it to what nobody thought of.
//!
//! No target is content with a function that returns. Where there are two readers of something, they must agree; where there
//! is a writer, what it writes must be read as it was meant; where somebody decides, an independent and slower
//! statement of the rule decides too. The independent readers (`strict`, `hello`) are written from the RFCs, in other words
//! than the code they judge.

mod hello;
mod input;
mod mutate;
mod strict;
mod targets;
mod wire;

pub use mutate::Mutations;

/// A property and where it is looked for.
#[derive(Debug)]
pub struct Target {
    /// Also the name of the corpus.
    pub name: &'static str,
    /// What holds, as a sentence.
    pub property: &'static str,
    /// Panics where it does not hold.
    pub check: fn(&[u8]),
    /// Pieces of which inputs are made.
    pub words: &'static [&'static str],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    targets::detection::TARGET,
    targets::sanitize::TARGET,
    targets::path::TARGET,
    targets::http2_to_http1::TARGET,
    targets::client_hello::TARGET,
    targets::spiffe_id::TARGET,
    targets::jwt::TARGET,
    targets::xds::TARGET,
    targets::rules::TARGET,
    targets::snapshot::TARGET,
    targets::saved_rules::TARGET,
    targets::log_format::TARGET,
    targets::original_destination::TARGET,
    targets::peer_words::TARGET,
    targets::trace_context::TARGET,
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
