//! Word of every change below some paths, as far as the file system tells.
//!
//! Events only say *when to look*: some changes send none at all (a network file system, a directory that was replaced
//! while it was watched), so whoever waits here looks every [`POLL`] anyway and compares contents. Then it does not
//! matter whether an editor writes in place, renames a new file over the old one, or Kubernetes swaps the link under a
//! mounted volume.
//!
//! A single file is watched through its directory, of which only its own name counts, and the names that Kubernetes puts
//! beside it (`..data`): whoever logs into the same directory wakes nobody.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;
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
    /// How many events counted.
    touched: watch::Sender<u64>,
    seen: watch::Receiver<u64>,
    /// Gone when the file system has no events for us; then polling alone has to do.
    watcher: Option<RecommendedWatcher>,
}

impl FileEvents {
    /// Watches files and directories. They need not exist yet.
    pub fn watch(paths: Vec<PathBuf>) -> Self {
        let (touched, seen) = watch::channel(0);
        let mut events = Self { paths, touched, seen, watcher: None };
        events.watch_again();
        events
    }

    /// What is watched.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Until something is touched, or the deadline: either way the next thing is a look at the files.
    pub async fn wait(&mut self, deadline: Instant) {
        let _ = tokio::time::timeout_at(deadline, self.seen.changed()).await;
    }

    /// To be called after a change: what was watched may have been replaced by what is there now.
    pub fn watch_again(&mut self) {
        let watched: Vec<Watched> = self.paths.iter().map(|path| Watched::of(path)).collect();
        let (touched, heard) = (self.touched.clone(), watched.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| is_a_change(event.kind) && heard.iter().any(|watched| watched.concerns(&event)))
            {
                touched.send_modify(|count| *count = count.wrapping_add(1));
            }
        });
        self.watcher = watcher.ok().map(|mut watcher| {
            for one in &watched {
                let (path, mode) = match one {
                    Watched::File { directory, .. } => (directory, RecursiveMode::NonRecursive),
                    Watched::Tree(path) => (path, RecursiveMode::Recursive),
                };
                // What is not there (yet) is found by polling.
                let _ = watcher.watch(path, mode);
            }
            watcher
        });
    }
}

/// What is watched for one of the paths.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    /// A file that is replaced by another of the same name is seen in its directory only.
    File { directory: PathBuf, name: OsString },
    /// Everything below a directory.
    Tree(PathBuf),
}

impl Watched {
    fn of(path: &Path) -> Self {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if path.is_file() => {
                let directory = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                Self::File { directory: directory.to_owned(), name: name.to_owned() }
            }
            (Some(_) | None, _) => Self::Tree(path.to_owned()),
        }
    }

    /// An event that names nothing (some were lost) concerns everybody.
    fn concerns(&self, event: &Event) -> bool {
        event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(|path| self.holds(path))
    }

    fn holds(&self, path: &Path) -> bool {
        match self {
            Self::Tree(root) => path.starts_with(root),
            Self::File { directory, name } => match path.file_name() {
                _ if path == directory => true,
                Some(found) if path.parent() == Some(directory) => {
                    found == name || found.as_encoded_bytes().starts_with(b"..")
                }
                Some(_) | None => false,
            },
        }
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
    /// Longer than any event takes, on a busy machine too.
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_file_is_concerned_by_its_own_name_and_those_of_kubernetes() {
        let file = Watched::File { directory: "/identity".into(), name: "own.pem".into() };
        let (tree, here) = (Watched::Tree("/rules".into()), Watched::File { directory: ".".into(), name: "a".into() });
        for (watched, path, expected) in [
            (&file, "/identity/own.pem", true),
            (&file, "/identity/..data", true),
            (&file, "/identity/..2026_01_31_12_00_00.1", true),
            (&file, "/identity", true),
            (&file, "/identity/access.log", false),
            (&file, "/identity/.own.pem.swp", false),
            (&file, "/identity/below/own.pem", false),
            (&file, "/other/own.pem", false),
            (&tree, "/rules/a.yaml", true),
            (&tree, "/rules/below/a.yaml", true),
            (&tree, "/rules", true),
            (&tree, "/rules2/a.yaml", false),
            (&here, "./a", true),
            (&here, "./b", false),
        ] {
            let event = Event::new(EventKind::Any).add_path(path.into());
            assert_eq!(watched.concerns(&event), expected, "{watched:?}: {path}");
        }
        assert!(file.concerns(&Event::new(EventKind::Any)), "an event that names nothing");
    }

    fn deadline() -> Instant {
        Instant::now() + LONG
    }

    #[tokio::test]
    async fn a_busy_file_beside_a_watched_one_wakes_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let (own, log) = (directory.path().join("own.pem"), directory.path().join("access.log"));
        std::fs::write(&own, "1").unwrap();
        let mut events = FileEvents::watch(vec![own.clone()]);
        for line in 0..200 {
            std::fs::write(&log, line.to_string()).unwrap();
        }
        // Events come in order: once this one is here, those above have been heard.
        std::fs::write(&own, "2").unwrap();
        let begun = Instant::now();
        events.wait(deadline()).await;
        assert!(begun.elapsed() < LONG, "its own change wakes");
        assert!(*events.touched.borrow() < 10, "{} wakes", *events.touched.borrow());
    }

    #[tokio::test]
    async fn the_link_that_kubernetes_swaps_is_a_change() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (version, text) in [("..1", "old"), ("..2", "new")] {
            std::fs::create_dir(path(version)).unwrap();
            std::fs::write(path(version).join("own.pem"), text).unwrap();
        }
        symlink("..1", path("..data")).unwrap();
        symlink("..data/own.pem", path("own.pem")).unwrap();
        let mut events = FileEvents::watch(vec![path("own.pem")]);
        symlink("..2", path("..data_tmp")).unwrap();
        std::fs::rename(path("..data_tmp"), path("..data")).unwrap();
        let begun = Instant::now();
        events.wait(deadline()).await;
        assert!(begun.elapsed() < LONG);
        assert_eq!(std::fs::read_to_string(path("own.pem")).unwrap(), "new");
    }
}
