//! Where lines leave the process: one thread for each sink, which may block as long as it likes.
//!
//! ```text
//! workers ─▶ a queue of batches, at most 4 MiB ─▶ the sink's thread ─▶ standard output or a file
//!                     │ full
//!                     └─▶ counted in leno_access_log_dropped_total
//! ```
//!
//! A blocked pipe, a full disk or a slow reader costs lines, never a request: whoever hands over a batch does not wait.
//! Each sink has a thread of its own, so that a pipe that nobody reads does not silence a file beside it.
//!
//! A file is opened when the first line comes, and again when its path no longer leads to it (renamed or removed: logrotate's `create`)
//! or on SIGUSR1. What a failed write has left of a line is ended before the next one, so that lines stay apart.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use leno_config::ir::LogSink;
use tokio::sync::{mpsc, oneshot};

use crate::telemetry::Quiet;

/// Bytes that wait for one sink.
const MOST_WAITING: usize = 4 * 1024 * 1024;
/// Batches that wait for one sink.
const QUEUE: usize = 4096;
/// A descriptor that somebody has made non-blocking is tried again after it.
const RETRY: Duration = Duration::from_millis(10);

/// Lines that are handed over together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Whole lines.
    pub bytes: Vec<u8>,
    /// How many.
    pub lines: u64,
}

/// Lines of the whole process.
#[derive(Debug, Default)]
pub struct Counts {
    /// Lines that have left it.
    pub written: AtomicU64,
    /// Lines that have not: too many waited, or the system would not take them.
    pub dropped: AtomicU64,
}

/// All sinks of a process.
#[derive(Debug)]
pub struct Hub {
    counts: Arc<Counts>,
    hostname: String,
    writers: Mutex<HashMap<LogSink, Weak<Writer>>>,
}

/// The near end of a sink.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Sender<Message>,
    waiting: Arc<AtomicUsize>,
    /// The file is to be opened anew.
    reopen: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Message {
    Lines(Batch),
    /// Something else than a line is to be looked at.
    Wake,
    /// To be answered when everything before it has been written.
    Flush(oneshot::Sender<()>),
}

impl Default for Hub {
    fn default() -> Self {
        // Linux; elsewhere `%HOSTNAME%` is missing.
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self { counts: Arc::default(), hostname: hostname.trim().to_owned(), writers: Mutex::default() }
    }
}

impl Hub {
    /// The sink's writer; it ends when nobody has it any more.
    pub fn writer(&self, sink: &LogSink) -> Arc<Writer> {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writers.get(sink).and_then(Weak::upgrade) {
            return writer;
        }
        writers.retain(|_, writer| writer.strong_count() > 0);
        let writer = Arc::new(Writer::start(sink.clone(), Arc::clone(&self.counts)));
        writers.insert(sink.clone(), Arc::downgrade(&writer));
        writer
    }

    /// What was written and what was dropped.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Of the machine.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Opens all files anew.
    pub fn reopen(&self) {
        for writer in self.all() {
            writer.reopen.store(true, Ordering::Relaxed);
            // A full queue wakes it just as well.
            let _ = writer.queue.try_send(Message::Wake);
        }
    }

    /// Waits until what was handed over has been written, at most for `patience`.
    pub async fn flush(&self, patience: Duration) {
        let flushed = async {
            for writer in self.all() {
                let (done, written) = oneshot::channel();
                // An error means that its thread has ended: there is nothing to wait for.
                if writer.queue.send(Message::Flush(done)).await.is_ok() {
                    let _ = written.await;
                }
            }
        };
        if tokio::time::timeout(patience, flushed).await.is_err() {
            tracing::warn!(?patience, "an access log takes no more; its last lines are lost");
        }
    }

    fn all(&self) -> Vec<Arc<Writer>> {
        let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        writers.values().filter_map(Weak::upgrade).collect()
    }
}

impl Writer {
    fn start(sink: LogSink, counts: Arc<Counts>) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE);
        let (waiting, reopen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let end = FarEnd {
            waiting: Arc::clone(&waiting),
            reopen: Arc::clone(&reopen),
            counts: Arc::clone(&counts),
            output: Output::new(sink),
        };
        let started = std::thread::Builder::new().name("leno-access-log".to_owned()).spawn(|| end.run(messages));
        if let Err(error) = started {
            tracing::error!(%error, "no thread for the access log: its lines are dropped");
        }
        Self { queue, waiting, reopen, counts }
    }

    /// Takes lines, or drops and counts them when too many wait. Never blocks.
    pub fn take(&self, batch: Batch) {
        let (bytes, lines) = (batch.bytes.len(), batch.lines);
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > MOST_WAITING || self.queue.try_send(Message::Lines(batch)).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

/// The sink's thread.
struct FarEnd {
    waiting: Arc<AtomicUsize>,
    reopen: Arc<AtomicBool>,
    counts: Arc<Counts>,
    output: Output,
}

impl FarEnd {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let quiet = Quiet::default();
        while let Some(message) = messages.blocking_recv() {
            if self.reopen.swap(false, Ordering::Relaxed) {
                self.output.close();
                let opened = self.output.opened().map(drop);
                self.note(opened, &quiet);
            }
            match message {
                Message::Lines(batch) => {
                    let written = self.output.write(&batch.bytes);
                    let lines = written.as_ref().map_or_else(|(lines, _)| *lines, |()| batch.lines);
                    self.counts.written.fetch_add(lines, Ordering::Relaxed);
                    self.counts.dropped.fetch_add(batch.lines.saturating_sub(lines), Ordering::Relaxed);
                    self.waiting.fetch_sub(batch.bytes.len(), Ordering::Relaxed);
                    self.note(written.map_err(|(_, error)| error), &quiet);
                }
                Message::Wake => {}
                // An error means that nobody waits any more.
                Message::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn note(&self, outcome: io::Result<()>, quiet: &Quiet) {
        if let Err(error) = outcome {
            let path = self.output.sink.path();
            quiet.spend(|| tracing::warn!(path, %error, "the access log cannot be written; its lines are dropped"));
        }
    }
}

/// An open sink.
struct Output {
    sink: LogSink,
    file: Option<Opened>,
    /// The last write has left a part of a line.
    torn: bool,
}

struct Opened {
    file: File,
    /// Device and number of a file that may be renamed; `None`: of what is not opened by its path.
    identity: Option<(u64, u64)>,
}

impl Output {
    fn new(sink: LogSink) -> Self {
        Self { sink, file: None, torn: false }
    }

    fn close(&mut self) {
        self.file = None;
    }

    /// Writes whole lines. An error comes with the number of those that were written all the same.
    fn write(&mut self, lines: &[u8]) -> Result<(), (u64, io::Error)> {
        let is_torn = self.torn;
        let file = self.opened().map_err(|error| (0, error))?;
        if is_torn {
            put(file, b"\n").map_err(|(_, error)| (0, error))?;
        }
        let outcome = put(file, lines);
        self.torn = false;
        outcome.map_err(|(written, error)| {
            let there = lines.get(..written).unwrap_or_default();
            self.torn = there.last().is_some_and(|last| *last != b'\n');
            // A file that fails is opened anew: it may be another one by then.
            self.close();
            (there.iter().filter(|byte| **byte == b'\n').count() as u64, error)
        })
    }

    fn opened(&mut self) -> io::Result<&mut File> {
        if self.file.as_ref().is_some_and(|opened| opened.is_elsewhere(self.sink.path())) {
            self.close();
        }
        let opened = match self.file.take() {
            Some(opened) => opened,
            None => Opened::new(&self.sink)?,
        };
        Ok(&mut self.file.insert(opened).file)
    }
}

impl Opened {
    fn new(sink: &LogSink) -> io::Result<Self> {
        let inherited = |descriptor: std::os::fd::OwnedFd| Self { file: File::from(descriptor), identity: None };
        match sink {
            // Not by path: a socket, as systemd has it, cannot be opened so.
            LogSink::Stdout => Ok(inherited(io::stdout().as_fd().try_clone_to_owned()?)),
            LogSink::Stderr => Ok(inherited(io::stderr().as_fd().try_clone_to_owned()?)),
            LogSink::File(path) => {
                let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
                let metadata = file.metadata()?;
                Ok(Self { file, identity: Some((metadata.dev(), metadata.ino())) })
            }
        }
    }

    /// Whether its path leads to another file now, or to none.
    fn is_elsewhere(&self, path: &str) -> bool {
        let Some(identity) = self.identity else { return false };
        std::fs::metadata(path).map_or(true, |metadata| (metadata.dev(), metadata.ino()) != identity)
    }
}

/// Writes all of it. An error comes with the number of bytes that were written.
fn put(file: &mut File, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(text: &str) -> Batch {
        Batch { bytes: text.as_bytes().to_vec(), lines: text.lines().count() as u64 }
    }

    fn file(directory: &tempfile::TempDir) -> (String, LogSink) {
        let path = directory.path().join("access.log").display().to_string();
        (path.clone(), LogSink::File(path))
    }

    const LONG: Duration = Duration::from_secs(60);

    fn counted(hub: &Hub) -> (u64, u64) {
        (hub.counts.written.load(Ordering::Relaxed), hub.counts.dropped.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_file_is_followed_when_it_is_renamed_or_removed_or_on_demand() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, sink) = file(&directory);
        let hub = Hub::default();
        let writer = hub.writer(&sink);
        writer.take(batch("one\n"));
        hub.flush(LONG).await;
        let kept = format!("{path}.1");
        std::fs::rename(&path, &kept).expect("renamed");
        writer.take(batch("two\n"));
        hub.flush(LONG).await;
        assert_eq!(std::fs::read_to_string(&kept).expect("the first"), "one\n");
        assert_eq!(std::fs::read_to_string(&path).expect("the second"), "two\n");
        std::fs::remove_file(&path).expect("removed");
        hub.reopen();
        hub.flush(LONG).await;
        assert_eq!(std::fs::read_to_string(&path).expect("opened without a line"), "");
        writer.take(batch("three\n"));
        hub.flush(LONG).await;
        assert_eq!(std::fs::read_to_string(&path).expect("the third"), "three\n");
        assert_eq!(counted(&hub), (3, 0));
    }

    #[tokio::test]
    async fn a_full_disk_drops_lines_and_counts_them() {
        let hub = Hub::default();
        let writer = hub.writer(&LogSink::File("/dev/full".to_owned()));
        writer.take(batch("one\ntwo\n"));
        hub.flush(LONG).await;
        assert_eq!(counted(&hub), (0, 2));
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_nobody_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        let hub = Hub::default();
        // Nobody has opened the other end: the thread blocks in `open`.
        let writer = hub.writer(&LogSink::File(path.display().to_string()));
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..8 * 1024 {
            writer.take(batch(&line));
        }
        let (written, dropped) = counted(&hub);
        assert_eq!(written, 0);
        assert!(dropped >= 4 * 1024, "{dropped}");
        assert!(writer.waiting.load(Ordering::Relaxed) <= MOST_WAITING);
        // Someone reads at last: what waited arrives.
        let read = std::thread::spawn(move || std::fs::read(path).expect("the pipe"));
        hub.flush(LONG).await;
        drop((writer, hub));
        let read = read.join().expect("a reader");
        assert_eq!(read.len() as u64, 1024 * (8 * 1024 - dropped));
    }

    #[test]
    fn what_is_left_of_a_line_is_ended_before_the_next() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, sink) = file(&directory);
        let mut output = Output::new(sink);
        output.torn = true;
        output.write(b"whole\n").expect("written");
        assert_eq!(std::fs::read_to_string(path).expect("a file"), "\nwhole\n");
    }
}
