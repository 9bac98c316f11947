//! A child process whose log is kept, and shown when the test fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::wait::{PATIENCE, eventually_within};

/// A process that ends with the value. When the test is failing, its log is printed then.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`; stdout and stderr go to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("cannot write a log");
        let child = command
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("cannot share a log"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), log: log.to_owned(), child }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has written until now.
    pub fn log(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Fails the test when it has ended.
    pub fn must_be_running(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} ended: {status}", self.name);
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends SIGKILL and waits: what a crash looks like.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by its name.
    pub fn signal(&self, signal: &str) {
        // The standard library can only kill; the shell has the rest built in.
        let pid = self.pid().to_string();
        let status = Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, signal, &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send SIG{signal} to {} ({pid})", self.name);
    }

    /// Waits until it ends by itself: how, and how long that took.
    pub async fn ended(&mut self) -> (ExitStatus, Duration) {
        self.ended_within(PATIENCE).await
    }

    /// The same, for a process that has more to do than anything may take otherwise.
    pub async fn ended_within(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        let started = Instant::now();
        let (child, name) = (&mut self.child, &self.name);
        let status = eventually_within(limit, &format!("{name} ends"), async || {
            child.try_wait().ok().flatten().ok_or_else(|| "it is running".to_owned())
        })
        .await;
        (status, started.elapsed())
    }

    /// The most memory it ever held, in bytes (`VmHWM`).
    pub fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory it holds, in bytes (`VmRSS`).
    pub fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the status has its memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("memory is a number of KiB");
        kib * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- log of {} ----\n{}----", self.name, self.log());
        }
    }
}
