//! Which build this is: the same words for `leno`, `leno-proxy` and their metrics.

/// As in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit; `debug` in debug builds and `unknown` where nothing said it.
pub const REVISION: &str = env!("LENO_REVISION");

/// For which machine it was compiled.
pub const TARGET: &str = env!("LENO_TARGET");

/// Which compiler made it.
pub const RUSTC: &str = env!("LENO_RUSTC");

/// What encrypts.
pub const TLS: &str = "rustls on aws-lc-rs";

/// What `-V` says behind the program's name.
pub const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("LENO_REVISION"), ")");

/// What `--version` says behind the program's name.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nrevision  ",
    env!("LENO_REVISION"),
    "\ntarget    ",
    env!("LENO_TARGET"),
    "\nrustc     ",
    env!("LENO_RUSTC"),
    "\nTLS       rustls on aws-lc-rs"
);
