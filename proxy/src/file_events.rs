//! Word of every change below some paths, as far as the file system tells.
//!
//! Events only say *when to look*: some changes send none at all (a network file system, a directory that was replaced
//! while it was watched), so whoever waits here looks every [`POLL`] anyway and compares contents. Then it does not
//! matter whether an editor writes in place, renames a new file over the old one, or Kubernetes swaps the link under a
//! mounted volume.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The files are looked at that often even if nothing says that they changed.
pub const POLL: Duration = Duration::from_secs(2);
/// Without a change for so long, files are at rest.
pub const QUIET: Duration = Duration::from_millis(100);
/// Files that never come to rest are taken as they are after so long.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Files and directories under watch.
pub struct FileEvents {
    paths: Vec<PathBuf>,
    touched: Arc<Notify>,
    /// Gone when the file system has no events for us; then polling alone has to do.
    watcher: Option<RecommendedWatcher>,
}

impl FileEvents {
    /// Watches files and directories. They need not exist yet.
    pub fn watch(paths: Vec<PathBuf>) -> Self {
        let mut events = Self { paths, touched: Arc::default(), watcher: None };
        events.watch_again();
        events
    }

    /// What is watched.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Until something is touched, or the deadline: either way the next thing is a look at the files.
    pub async fn wait(&self, deadline: Instant) {
        let _ = tokio::time::timeout_at(deadline, self.touched.notified()).await;
    }

    /// To be called after a change: what was watched may have been replaced by what is there now.
    pub fn watch_again(&mut self) {
        let touched = Arc::clone(&self.touched);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_a_change(event.kind)) {
                touched.notify_one();
            }
        });
        self.watcher = watcher.ok().map(|mut watcher| {
            for path in &self.paths {
                // What is not there (yet) is found by polling.
                let _ = watcher.watch(watched(path), RecursiveMode::Recursive);
            }
            watcher
        });
    }
}

/// A file that is replaced by another of the same name is seen in its directory only.
fn watched(path: &Path) -> &Path {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match directory {
        Some(directory) if path.is_file() => directory,
        Some(_) | None => path,
    }
}

/// Reading is no change; if it were one, every look at the files would cause the next.
fn is_a_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_no_change() {
        use notify::event::{CreateKind, ModifyKind};
        let cases = [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), true),
            (EventKind::Create(CreateKind::Any), true),
            (EventKind::Modify(ModifyKind::Any), true),
            (EventKind::Any, true),
        ];
        for (kind, expected) in cases {
            assert_eq!(is_a_change(kind), expected, "{kind:?}");
        }
    }
}
