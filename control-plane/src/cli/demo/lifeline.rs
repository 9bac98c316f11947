//! Children that end with the process that started them.
//!
//! A child of the demo holds the reading end of a pipe as its stdin; nobody ever writes to it. When the demo ends, in
//! whatever way, the kernel closes the other end, and the child ends as well. Unlike a process group it needs no
//! terminal, and unlike a signal on the parent's death it needs no `unsafe`.

use std::io::Read as _;

/// Set in the environment of a child that has such a stdin.
pub(super) const VARIABLE: &str = "LENO_LIFELINE";

/// Ends this process, with success, when its stdin closes, if it was started so; returns at once. For `main`.
pub(crate) fn hold() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let watch = || {
        let mut buffer = [0; 64];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut buffer), Ok(read) if read > 0) {}
        std::process::exit(0);
    };
    if let Err(error) = std::thread::Builder::new().name("lifeline".to_owned()).spawn(watch) {
        tracing::warn!(%error, "cannot watch stdin; this process will outlive the one that started it");
    }
}
