//! What Leno writes about itself for other programs: completions for shells, pages for `man`, schemas for editors.

mod schemas;

use std::path::Path;
use std::process::Command;

use leno_tests::{feed, leno_proxy, run_leno};

use crate::skip::skip;

/// Every command that a person is shown, from `leno help` itself.
fn commands(of: &[&str]) -> Vec<String> {
    let help = run_leno(&[of, &["--help"]].concat(), "");
    let listed =
        help.stdout.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

/// Runs a checker over a text; `None` after saying that it is not there.
fn check(checker: &str, arguments: &[&str], text: &str) -> Option<String> {
    match feed(Command::new(checker).args(arguments), text) {
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            let state = if output.status.success() { "" } else { "it failed\n" };
            Some(format!("{state}{words}"))
        }
        Err(error) => {
            skip(checker, &error.to_string());
            None
        }
    }
}

#[test]
fn completions_know_every_command_and_bash_takes_them() {
    let names = commands(&[]);
    assert!(names.len() > 8 && names.contains(&"status".to_owned()), "{names:?}");
    for shell in ["bash", "zsh", "fish"] {
        let leno = run_leno(&["completion", shell], "");
        assert_eq!(leno.code, 0, "{}", leno.stderr);
        for name in &names {
            assert!(leno.stdout.contains(name.as_str()), "{name} is not in the completion of {shell}");
        }
        let proxy = run_leno(&["completion", shell, "--program", "leno-proxy"], "");
        for flag in ["node-name", "control-plane-address", "drain"] {
            assert!(proxy.stdout.contains(flag), "--{flag} is not in the completion of {shell}");
        }
        if shell == "bash" {
            for script in [&leno.stdout, &proxy.stdout] {
                let said = check("bash", &["-n"], script);
                assert!(said.as_deref().unwrap_or_default().is_empty(), "{said:?}");
            }
        }
    }
}

#[test]
fn every_command_has_a_page_that_roff_takes_without_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let written = run_leno(&["man", "--output", directory.path().to_str().unwrap()], "");
    assert_eq!(written.code, 0, "{}", written.stderr);
    let mut pages = vec!["leno.1".to_owned(), "leno-proxy.1".to_owned(), "leno-proxy-run.1".to_owned()];
    for name in commands(&[]) {
        pages.extend(commands(&[&name]).iter().map(|inner| format!("leno-{name}-{inner}.1")));
        pages.push(format!("leno-{name}.1"));
    }
    for page in &pages {
        let text = read(&directory.path().join(page));
        let said = check("groff", &["-man", "-ww", "-z"], &text);
        assert!(said.as_deref().unwrap_or_default().is_empty(), "{page}: {said:?}");
    }
    let run = read(&directory.path().join("leno-proxy-run.1"));
    assert!(run.contains("control\\-plane\\-address") && run.contains("LENO_DRAIN"), "its flags and variables: {run}");
    assert_eq!(run_leno(&["man"], "").stdout, read(&directory.path().join("leno.1")), "without a directory: the first");
}

#[test]
fn the_version_says_of_what_and_by_what_it_was_built() {
    let short = run_leno(&["version", "--short"], "");
    assert_eq!(short.stdout.trim(), env!("CARGO_PKG_VERSION"));
    let build: serde_json::Value = serde_json::from_str(&run_leno(&["version", "-o", "json"], "").stdout).unwrap();
    let long = run_leno(&["--version"], "").stdout;
    for key in ["version", "revision", "target", "rustc", "tls"] {
        let word = build[key].as_str().unwrap_or_default();
        assert!(!word.is_empty() && long.contains(word), "{key}: {build} in {long}");
    }
    let target = build["target"].as_str().unwrap();
    assert!(target.starts_with(std::env::consts::ARCH) && target.contains(std::env::consts::OS), "{target}");
    let proxy = Command::new(leno_proxy()).arg("--version").output().unwrap();
    assert_eq!(
        String::from_utf8(proxy.stdout).unwrap(),
        long.replace("leno ", "leno-proxy "),
        "one build, one version"
    );
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
