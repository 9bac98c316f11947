//! The programs under test: found beside the running test, and never older than their sources.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the workspace")
}

/// The control plane and command line.
pub fn leno() -> &'static Path {
    static LENO: OnceLock<PathBuf> = OnceLock::new();
    LENO.get_or_init(|| find("leno"))
}

/// The sidecar.
pub fn leno_proxy() -> &'static Path {
    static LENO_PROXY: OnceLock<PathBuf> = OnceLock::new();
    LENO_PROXY.get_or_init(|| find("leno-proxy"))
}

/// `target/PROFILE`, where this test's own program stands in `deps`.
pub(crate) fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a program");
    test.ancestors().nth(2).expect("a test stands in target/PROFILE/deps").to_owned()
}

fn find(name: &str) -> PathBuf {
    let program = target().join(name);
    let built = modified(&program).unwrap_or_else(|| {
        panic!(
            "{} is not there; `cargo test --workspace` builds the programs before it runs these tests",
            program.display()
        )
    });
    // Cargo writes beside each program what it was made from.
    let sources = std::fs::read_to_string(program.with_extension("d")).expect("cargo writes NAME.d beside a program");
    for source in made_from(&sources) {
        let newer = modified(&source).is_none_or(|changed| changed > built);
        assert!(
            !newer,
            "{} is older than {}: these tests would test yesterday's program; run `cargo test --workspace`",
            program.display(),
            source.display()
        );
    }
    program
}

/// The prerequisites of a makefile rule; a space in a path is written `\ `.
fn made_from(rule: &str) -> Vec<PathBuf> {
    let sources = rule.split_once(": ").map_or("", |(_, sources)| sources).trim();
    let separated = sources.replace("\\ ", "\0");
    separated.split(' ').filter(|path| !path.is_empty()).map(|path| PathBuf::from(path.replace('\0', " "))).collect()
}

fn modified(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it wrote on stdout.
    pub stdout: String,
    /// What it wrote on stderr.
    pub stderr: String,
}

/// Runs `leno` in the root of the workspace until it ends, with `stdin` as its input.
pub fn run_leno(arguments: &[&str], stdin: &str) -> Outcome {
    let mut child = Command::new(leno())
        .args(arguments)
        .current_dir(workspace())
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cannot start leno");
    let mut input = child.stdin.take().expect("stdin is a pipe");
    let text = stdin.to_owned();
    // A child that does not read ends the pipe, which is its right.
    let writer = std::thread::spawn(move || drop(std::io::Write::write_all(&mut input, text.as_bytes())));
    let output = child.wait_with_output().expect("cannot wait for leno");
    let _ = writer.join();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_makefile_rule_names_its_sources() {
        let sources = made_from("/t/debug/leno: /a/main.rs /a/with\\ space.rs /b/lib.rs\n");
        assert_eq!(sources, ["/a/main.rs", "/a/with space.rs", "/b/lib.rs"].map(PathBuf::from));
    }
}
