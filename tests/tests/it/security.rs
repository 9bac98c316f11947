//! SECURITY.md says what fails open and what closed. Each row names tests, and they are there.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use leno_tests::{Process, eventually, leno, leno_proxy, skip};
use regex::Regex;
use tempfile::TempDir;

#[test]
fn every_row_of_what_fails_open_or_closed_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let text = fs::read_to_string(root.join("SECURITY.md")).expect("SECURITY.md");
    let (_, table) = text.split_once("| event | what Leno does | shown by |\n|---|---|---|\n").expect("the table");
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 20, "{} rows", rows.len());
    let link = Regex::new(r"\[`(\w+)`\]\(([\w./-]+)\)").expect("a pattern");
    for row in rows {
        let event = row.split('|').nth(1).unwrap_or_default().trim();
        let named: Vec<_> = link.captures_iter(row).map(|found| found.extract::<2>().1).collect();
        assert!(!named.is_empty(), "`{event}` is shown by nothing");
        for [test, file] in named {
            let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{event}: {file}: {error}"));
            let is_test = source.split_once(&format!("fn {test}(")).is_some_and(|(before, _)| {
                let attribute = before.rfind("#[").and_then(|at| before.get(at..)).unwrap_or_default();
                attribute.starts_with("#[test]") || attribute.starts_with("#[tokio::test")
            });
            assert!(is_test, "{event}: there is no test `{test}` in {file}");
        }
    }
}

/// An ordinary user's number.
const NOBODY: u32 = 65_534;

/// The kernel gives what it shows of a process that must not be dumped to root alone: its owner can neither read its memory
/// nor trace it (`prctl(2)`, `PR_SET_DUMPABLE`).
#[tokio::test]
async fn the_memory_of_a_program_with_keys_is_hidden_even_from_its_own_user() {
    if !rustix::process::getuid().is_root() {
        return skip("memory hidden from its own user", "only root can start a program as somebody else");
    }
    let directory = TempDir::with_prefix("leno-test-").expect("a directory");
    let path = directory.path();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("for everybody");
    fs::create_dir(path.join("rules")).expect("a directory");
    let serve = |state: &str| {
        let rules = path.join("rules").display().to_string();
        let flags = ["serve", "--allow-empty", "--rules", &rules, "--state", state].map(str::to_owned);
        let ports = ["--xds-address", "--tls-address", "--http-address"];
        flags.into_iter().chain(ports.iter().flat_map(|port| [(*port).to_owned(), "127.0.0.1:0".to_owned()])).collect()
    };
    let run = |state: &str| -> Vec<String> {
        let rules = path.join("rules").display().to_string();
        ["run", "--rules", &rules, "--node-name", "a", "--admin", "127.0.0.1:0", "--state", state]
            .map(str::to_owned)
            .to_vec()
    };
    let rows: [(&Path, Vec<String>, u32); 4] = [
        (leno_proxy(), run("proxy"), 0),
        (leno_proxy(), [run("proxy-shown"), vec!["--dumpable".to_owned()]].concat(), NOBODY),
        (leno(), serve("plane"), 0),
        (leno(), [serve("plane-shown"), vec!["--dumpable".to_owned()]].concat(), NOBODY),
    ];
    for (program, arguments, owner) in rows {
        // The directory where programs are built is not for everybody.
        let name = program.file_name().expect("a program");
        let copy = path.join(name);
        if !copy.exists() {
            fs::copy(program, &copy).expect("a copy");
        }
        let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
        let mut command = Command::new("setpriv");
        command.current_dir(path).args(user).arg(&copy).args(&arguments);
        let process = Process::start(&name.to_string_lossy(), &mut command, &path.join("log"));
        eventually("the program is up", async || {
            let log = process.log();
            let is_up = ["ready ", "serving "].iter().any(|word| log.contains(word));
            if is_up { Ok(()) } else { Err(log) }
        })
        .await;
        let shown = fs::metadata(format!("/proc/{}/environ", process.pid())).expect("the process").uid();
        assert_eq!(shown, owner, "{} {arguments:?}", program.display());
        drop(process);
        fs::remove_file(path.join("log")).expect("removed");
    }
}
