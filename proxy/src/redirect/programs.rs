//! The programs that set the rules: found, fed and waited for, with a deadline.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::RedirectError;

/// Longer than `iptables` waits for its lock; a kernel that takes longer than this will not come back.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where these programs are when an image's PATH forgot them.
const ALSO: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Most of what a program complains of that is passed on.
const MOST_WORDS: usize = 2048;

/// Where legacy iptables keeps its lock.
const LOCK: &str = "/run/xtables.lock";

/// A program with its arguments and what it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// Its name.
    pub(super) program: &'static str,
    /// Its arguments.
    pub(super) arguments: &'static [&'static str],
    /// Its input.
    pub(super) input: String,
}

/// Whether the image has it.
pub(super) fn exists(program: &str) -> bool {
    find(program).is_some()
}

impl Call {
    /// Runs it: what it printed.
    pub(super) async fn run(&self) -> Result<String, RedirectError> {
        let path = find(self.program).ok_or(RedirectError::Missing { program: self.program })?;
        let cannot = |source| RedirectError::Run { call: self.to_string(), source };
        let output = match tokio::time::timeout(PATIENCE, output(&path, self)).await {
            Ok(output) => output.map_err(cannot)?,
            Err(_) => return Err(RedirectError::Slow { call: self.to_string(), patience: PATIENCE }),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint = complaint.trim().chars().take(MOST_WORDS).collect::<String>().replace('\n', "; ");
        Err(RedirectError::Refused { call: self.to_string(), status: output.status, complaint })
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.program)?;
        self.arguments.iter().try_for_each(|argument| write!(formatter, " {argument}"))
    }
}

async fn output(path: &Path, call: &Call) -> std::io::Result<Output> {
    let mut command = Command::new(path);
    command.args(call.arguments).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // In a container whose root is read-only there is nobody else to lock out.
    if std::fs::File::options().create(true).append(true).open(LOCK).is_err() {
        command.env("XTABLES_LOCKFILE", "/dev/null");
    }
    let mut child = command.spawn()?;
    let input = child.stdin.take();
    let feed = async {
        if let Some(mut input) = input {
            // A program that ends before it has read all says why with its status.
            let _ = input.write_all(call.input.as_bytes()).await;
        }
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    output
}

fn find(program: &str) -> Option<PathBuf> {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(OsString::from(":"));
    path.push(ALSO);
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}
