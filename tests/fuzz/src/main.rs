//! One target under libFuzzer: `LENO_FUZZ_TARGET` says which, the arguments are libFuzzer's. See `tests/fuzz/run`.

#![no_main]
// The entry points that libFuzzer calls have names of their own; no code here is unsafe.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use leno_fuzz::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

/// The target that was asked for. Before the first input, so that a wrong name is a message and no finding.
fn choose() {
    let name = std::env::var("LENO_FUZZ_TARGET").unwrap_or_default();
    match leno_fuzz::target(&name) {
        Some(target) => drop(TARGET.set(target)),
        None => {
            let known = leno_fuzz::TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
            eprintln!("LENO_FUZZ_TARGET is `{name}`; there are {known}");
            std::process::exit(2);
        }
    }
}

libfuzzer_sys::fuzz_target!(init: choose(), |data: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.check)(data);
    }
});
