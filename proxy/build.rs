//! Tells the programs which commit, compiler and target they are made of.
//!
//! A commit changes with every commit, and whatever names it has to be compiled again. So only release builds look, by
//! asking git; where there is none (a tarball, a container without `.git`), `LENO_REVISION` of the environment says it,
//! and else it is `unknown`. Debug builds say `debug` and are left alone.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LENO_REVISION");
    let given = std::env::var("LENO_REVISION").ok().filter(|revision| is_revision(revision));
    let revision = given.unwrap_or_else(|| match std::env::var("PROFILE").as_deref() {
        Ok("release") => of_git().unwrap_or_else(|| "unknown".to_owned()),
        _ => "debug".to_owned(),
    });
    println!("cargo:rustc-env=LENO_REVISION={revision}");
    println!("cargo:rustc-env=LENO_TARGET={}", std::env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned()));
    println!("cargo:rustc-env=LENO_RUSTC={}", compiler().unwrap_or_else(|| "unknown".to_owned()));
}

/// The commit that is checked out, with a `+` where files differ from it.
fn of_git() -> Option<String> {
    // What git writes whenever another commit is checked out or made, also in a worktree.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| std::path::Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).filter(|commit| is_revision(commit))?;
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    Some(if is_changed { format!("{commit}+") } else { commit })
}

fn git(arguments: &[&str]) -> Option<String> {
    output(Command::new("git").args(arguments))
}

/// `1.95.0`
fn compiler() -> Option<String> {
    let version = output(Command::new(std::env::var_os("RUSTC")?).arg("--version"))?;
    version.split_whitespace().nth(1).map(str::to_owned)
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

/// It becomes part of a line and of a metric's label.
fn is_revision(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
}
