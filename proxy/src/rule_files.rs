//! Rule files as they stand on disk, and word of every change.
//!
//! What counts as a change is the *contents*: the names and bytes of all rule files below the given paths. Events of
//! the file system only say when to look ([`file_events`](crate::file_events)).
//!
//! A change is handed out once the files were quiet for [`QUIET`], at the latest [`PATIENCE`] after the first: a copy of
//! a directory is one change, and so is an editor that truncates a file and then writes it. The caller may call some
//! changes urgent (endpoints that come and go); those are handed out as soon as two looks at the files agree.

use std::path::PathBuf;
use std::time::Duration;

use leno_config::rules::{self, ReadError, SourceText};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use crate::file_events::FileEvents;
pub use crate::file_events::{PATIENCE, POLL, QUIET};

/// Between the two looks that have to agree before an urgent change is handed out.
const SECOND_LOOK: Duration = Duration::from_millis(10);

/// Files and directories of rules under watch.
pub struct RuleFiles {
    events: FileEvents,
    /// The newest contents that were handed out; `None` before the first.
    seen: Option<u128>,
    /// When the change that was handed out last was first seen.
    noticed: Option<Instant>,
}

/// All rule files at one time, or why they could not be read.
pub type Look = Result<Vec<SourceText>, ReadError>;

impl RuleFiles {
    /// Watches files and directories. They need not exist yet.
    pub fn watch(paths: Vec<PathBuf>) -> Self {
        Self { events: FileEvents::watch(paths), seen: None, noticed: None }
    }

    /// The files as they are, at the first call; afterwards the files after the next change, once they are at rest or
    /// `is_urgent` says that these contents should not wait. An error is a state like any other: it is handed out once.
    pub async fn next(&mut self, mut is_urgent: impl FnMut(&[SourceText]) -> bool) -> Look {
        let is_first = self.seen.is_none();
        let mut newest = self.changed().await;
        let noticed = Instant::now();
        self.noticed = Some(noticed);
        let latest = noticed + PATIENCE;
        while !is_first && Instant::now() < latest {
            let urgent = newest.as_ref().is_ok_and(|texts| is_urgent(texts));
            let rest = if urgent { SECOND_LOOK } else { QUIET };
            match self.changed_until(latest.min(Instant::now() + rest)).await {
                Some(newer) => newest = newer,
                None => break,
            }
        }
        newest
    }

    /// When the change that was handed out last was first seen, before the files came to rest; `None` before the first.
    pub fn noticed(&self) -> Option<std::time::Instant> {
        self.noticed.map(Instant::into_std)
    }

    async fn changed(&mut self) -> Look {
        loop {
            if let Some(look) = self.look().await {
                return look;
            }
            self.events.wait(Instant::now() + POLL).await;
        }
    }

    /// `None` where nothing has changed until then.
    async fn changed_until(&mut self, deadline: Instant) -> Option<Look> {
        loop {
            self.events.wait(deadline).await;
            let look = self.look().await;
            if look.is_some() || Instant::now() >= deadline {
                return look;
            }
        }
    }

    /// The files, if they differ from what was handed out last.
    async fn look(&mut self) -> Option<Look> {
        let paths = self.events.paths().to_vec();
        let look = tokio::task::spawn_blocking(move || rules::read(&paths)).await;
        let look = look.unwrap_or_else(|failed| {
            Err(ReadError::Io { path: "the rules".to_owned(), source: std::io::Error::other(failed) })
        });
        let fingerprint = Some(fingerprint(&look));
        if self.seen == fingerprint {
            return None;
        }
        self.events.watch_again();
        self.seen = fingerprint;
        Some(look)
    }
}

fn fingerprint(look: &Look) -> u128 {
    let mut hash = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&bytes.len().to_le_bytes());
        hash.update(bytes);
    };
    match look {
        Ok(texts) => {
            for SourceText { name, text } in texts {
                part(name.as_bytes());
                part(text);
            }
        }
        Err(error) => {
            part(b"error");
            part(error.to_string().as_bytes());
        }
    }
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn next(files: &mut RuleFiles) -> Look {
        tokio::time::timeout(SOON, files.next(|_| false)).await.expect("a change is seen")
    }

    fn texts(look: Look) -> Vec<String> {
        look.unwrap().into_iter().map(|source| String::from_utf8(source.text).unwrap()).collect()
    }

    #[tokio::test]
    async fn the_first_look_is_handed_out_at_once_and_each_change_after_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.yaml"), "one").unwrap();
        let mut files = RuleFiles::watch(vec![directory.path().into()]);
        assert_eq!(texts(next(&mut files).await), ["one"]);
        fs::write(directory.path().join("a.yaml"), "two").unwrap();
        assert_eq!(texts(next(&mut files).await), ["two"]);
        fs::create_dir(directory.path().join("deeper")).unwrap();
        fs::write(directory.path().join("deeper/b.yaml"), "three").unwrap();
        assert_eq!(texts(next(&mut files).await), ["two", "three"]);
    }

    #[tokio::test]
    async fn a_renamed_file_and_a_swapped_link_are_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (version, text) in [("..1", "old"), ("..2", "new")] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("rules.yaml"), text).unwrap();
        }
        std::os::unix::fs::symlink("..1", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/rules.yaml", path("rules.yaml")).unwrap();
        let mut files = RuleFiles::watch(vec![directory.path().into()]);
        assert_eq!(texts(next(&mut files).await), ["old"]);
        std::os::unix::fs::symlink("..2", path("..data_tmp")).unwrap();
        fs::rename(path("..data_tmp"), path("..data")).unwrap();
        assert_eq!(texts(next(&mut files).await), ["new"]);
        fs::write(path(".written"), "newest").unwrap();
        fs::rename(path(".written"), path("rules.yaml")).unwrap();
        assert_eq!(texts(next(&mut files).await), ["newest"]);
    }

    #[tokio::test]
    async fn a_single_file_that_is_replaced_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, temporary) = (directory.path().join("a.yaml"), directory.path().join("b"));
        fs::write(&file, "one").unwrap();
        let mut files = RuleFiles::watch(vec![file.clone()]);
        assert_eq!(texts(next(&mut files).await), ["one"]);
        for text in ["two", "three"] {
            fs::write(&temporary, text).unwrap();
            fs::rename(&temporary, &file).unwrap();
            assert_eq!(texts(next(&mut files).await), [text]);
        }
    }

    #[tokio::test]
    async fn a_vanished_directory_is_an_error_once_and_its_return_a_change() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("rules");
        let mut files = RuleFiles::watch(vec![directory.clone()]);
        assert!(next(&mut files).await.is_err());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a.yaml"), "here").unwrap();
        assert_eq!(texts(next(&mut files).await), ["here"]);
        fs::remove_dir_all(&directory).unwrap();
        while next(&mut files).await.is_ok() {}
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a.yaml"), "again").unwrap();
        assert_eq!(texts(next(&mut files).await), ["again"]);
    }

    #[tokio::test]
    async fn an_urgent_change_does_not_wait_for_quiet() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = RuleFiles::watch(vec![directory.path().into()]);
        assert!(next(&mut files).await.unwrap().is_empty());
        fs::write(directory.path().join("a.yaml"), "urgent").unwrap();
        let mut asked = Vec::new();
        let look = files.next(|texts| {
            asked.push(texts.len());
            true
        });
        assert_eq!(texts(tokio::time::timeout(SOON, look).await.unwrap()), ["urgent"]);
        assert!(asked.contains(&1));
    }
}
