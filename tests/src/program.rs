//! The programs under test: found beside the running test, and never older than their sources.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
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
    for source in sources(&program) {
        // One that is gone now belongs to an older build.
        let newer = modified(&source).is_some_and(|changed| changed > built);
        assert!(
            !newer,
            "{} is older than {}: these tests would test yesterday's program; run `cargo test --workspace`",
            program.display(),
            source.display()
        );
    }
    program
}

/// What a program and our libraries were made from: the compiler writes it down beside each of its products.
fn sources(program: &Path) -> Vec<PathBuf> {
    let product = program.metadata().map(|metadata| metadata.ino()).ok();
    let products = std::fs::read_dir(target().join("deps")).expect("a test stands in target/PROFILE/deps");
    let notes = products.flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The program stands there under another name; a library is not its test program, which has more sources.
        let is_program = || path.with_extension("").metadata().is_ok_and(|metadata| Some(metadata.ino()) == product);
        let is_library = || path.with_file_name(format!("lib{name}")).with_extension("rlib").exists();
        let is_ours = name.starts_with("leno") && !name.starts_with("leno_tests");
        is_ours && name.ends_with(".d") && (is_program() || is_library())
    });
    notes.filter_map(|path| std::fs::read_to_string(path).ok()).flat_map(|rules| made_from(&rules)).collect()
}

/// The prerequisites in a makefile, which are relative to the workspace; a space in a path is written `\ `.
fn made_from(rules: &str) -> Vec<PathBuf> {
    let rules = rules.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(": "));
    let separated: Vec<String> = rules.map(|(_, sources)| sources.replace("\\ ", "\0")).collect();
    let paths = separated.iter().flat_map(|sources| sources.split(' ')).filter(|path| !path.is_empty());
    paths.map(|path| workspace().join(path.replace('\0', " "))).collect()
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
    let mut command = Command::new(leno());
    command.args(arguments).current_dir(workspace()).env("NO_COLOR", "1");
    let output = feed(&mut command, stdin).expect("cannot run leno");
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a program until it ends, with `stdin` as its input.
pub fn feed(command: &mut Command, stdin: &str) -> std::io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().expect("stdin is a pipe");
    let text = stdin.to_owned();
    // A child that does not read ends the pipe, which is its right.
    let writer = std::thread::spawn(move || drop(std::io::Write::write_all(&mut input, text.as_bytes())));
    let output = child.wait_with_output();
    let _ = writer.join();
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_makefile_names_its_sources() {
        let rules = "/t/deps/leno.d: a/main.rs /b/with\\ space.rs\n\na/main.rs:\n# env-dep:X=Y: z\n";
        assert_eq!(made_from(rules), [workspace().join("a/main.rs"), PathBuf::from("/b/with space.rs")]);
    }
}
