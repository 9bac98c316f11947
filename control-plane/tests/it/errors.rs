//! What a person reads, and what a script sees, when something cannot be done.

use std::net::TcpListener;

use crate::ports::free_port;
use crate::process::leno;

/// What is called, the exit code, and how the only line on stderr begins.
type Row<'a> = (&'a [&'a str], i32, &'a str);

fn run(rows: &[Row<'_>]) {
    for (arguments, code, begins) in rows {
        let output = leno().args(*arguments).env("RUST_BACKTRACE", "1").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with(&format!("error: {begins}")), "{arguments:?}: {stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{arguments:?}: {stderr}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
}

#[test]
fn an_error_is_one_line_and_an_exit_code() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let cannot_reach = format!("cannot reach the control plane at {nobody} (is `leno serve` running?");
    run(&[
        (&["explain", "GET", "http://x", "-f", "/nope"], 2, "cannot read `/nope`: No such file or directory"),
        (&["explain", "GET", "https://x", "-f", "."], 2, "`https` is not HTTP in clear text"),
        (&["validate", "-f", "/nope"], 2, "cannot read `/nope`: No such file or directory"),
        (&["demo", "--once", "--rules", "/nope"], 2, "there are no rules at /nope"),
        (
            &["serve", "--rules", ".", "--xds-address", "0.0.0.0:0"],
            2,
            "0.0.0.0:0 can be reached from other machines and what is served there is neither encrypted nor authenticated;",
        ),
        (&["status", "--address", "https://x"], 2, "--address has the form http://HOST:PORT, not `https://x`"),
        (&["status", "--address", "http://x"], 2, "--address names a port"),
        (&["status", "--address", &nobody], 3, &cannot_reach),
    ]);
}

#[test]
fn a_port_that_is_taken_is_a_failure_with_its_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let begins = format!("cannot listen on {address}; choose another --xds-address, or port 0 for a free one: ");
    run(&[(&["serve", "--rules", ".", "--xds-address", &address, "--http-address", "127.0.0.1:0"], 1, &begins)]);
}

#[test]
fn arguments_that_clap_refuses_end_with_2_as_well() {
    for arguments in [&["explain"][..], &["serve", "--rules", ".", "--xds-address", "nowhere"], &["nonsense"]] {
        let output = leno().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
