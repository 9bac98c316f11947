//! The demo's child processes: started, watched, and ended with it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::lifeline;

/// How long children may take to end after their lifeline is cut.
const FAREWELL: Duration = Duration::from_secs(1);
/// How much of a log is shown when a child has died.
const LAST_LINES: usize = 10;

/// The children, in the order of their start.
#[derive(Default)]
pub(super) struct Family {
    children: Vec<Child>,
}

/// One process of ours.
pub(super) struct Child {
    name: String,
    log: PathBuf,
    process: std::process::Child,
    mourned: bool,
}

impl Family {
    /// Starts this very program with other arguments, its log in `logs/NAME.log`.
    pub(super) fn start(&mut self, name: &str, logs: &Path, arguments: &[String]) -> anyhow::Result<&mut Child> {
        let program = std::env::current_exe().context("cannot find the program that is running")?;
        let log = logs.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let process = Command::new(&program)
            .args(arguments)
            .env(lifeline::VARIABLE, "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            // Ctrl-C at the terminal is for the demo, which then ends its children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} {}", program.display(), arguments.join(" ")))?;
        self.children.push(Child { name: name.to_owned(), log, process, mourned: false });
        Ok(self.children.last_mut().expect("invariant: one was just pushed"))
    }

    /// The obituaries of those that died since the last call: who, how, and its last words.
    pub(super) fn newly_dead(&mut self) -> Vec<Obituary> {
        let alive = self.children.iter_mut().filter(|child| !child.mourned);
        alive.filter_map(Child::obituary).collect()
    }

    /// Fails with the obituary when somebody died; for the time in which nobody may.
    pub(super) fn all_alive(&mut self) -> anyhow::Result<()> {
        match self.newly_dead().into_iter().next() {
            Some(obituary) => Err(anyhow::anyhow!("{obituary}")),
            None => Ok(()),
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.process.stdin.take());
        }
        let deadline = Instant::now() + FAREWELL;
        for child in &mut self.children {
            while matches!(child.process.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = child.process.kill();
            let _ = child.process.wait();
        }
    }
}

impl Child {
    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The first line of its stdout; to be asked once.
    pub(super) fn first_line(&mut self) -> anyhow::Result<String> {
        let stdout = self.process.stdout.take().context("the first line was already read")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() {
            let _ = self.process.wait();
            anyhow::bail!("{} ended before it said where it listens; its log:\n{}", self.name, last_lines(&self.log));
        }
        Ok(line)
    }

    fn obituary(&mut self) -> Option<Obituary> {
        let status = self.process.try_wait().ok().flatten()?;
        self.mourned = true;
        Some(Obituary { name: self.name.clone(), pid: self.pid(), status, last_words: last_lines(&self.log) })
    }
}

/// Who died, how, and the end of its log.
#[derive(Debug, thiserror::Error)]
#[error("{name} (process {pid}) ended: {status}; the end of its log:\n{last_words}")]
pub(super) struct Obituary {
    /// Name of the child.
    pub(super) name: String,
    /// Its process id.
    pub(super) pid: u32,
    /// How it ended.
    pub(super) status: ExitStatus,
    /// The end of its log, indented.
    pub(super) last_words: String,
}

fn last_lines(log: &Path) -> String {
    let Ok(text) = std::fs::read(log) else { return "    (no log)".to_owned() };
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return "    (empty)".to_owned();
    }
    let from = lines.len().saturating_sub(LAST_LINES);
    lines.iter().skip(from).map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
