//! Files of the authority: replaced as a whole, and readable by whom they are for.

use std::fs::Permissions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Longest file that is read; chains and keys are a few KiB.
const MAX_FILE: u64 = 1 << 20;

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} `{}`: {reason}", path.display())]
pub(crate) struct FileError {
    what: &'static str,
    path: PathBuf,
    reason: std::io::Error,
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// The owner alone (0600).
    Owner,
    /// Everybody (0644).
    Everybody,
}

/// The contents; `None`: there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let bounded = || {
        if std::fs::metadata(path)?.len() > MAX_FILE {
            return Err(std::io::Error::other(format!("it is longer than {MAX_FILE} bytes")));
        }
        std::fs::read(path)
    };
    match bounded() {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(FileError { what: "read", path: path.to_owned(), reason }),
    }
}

/// The contents of a file that has to be there.
pub(crate) fn read_present(path: &Path) -> Result<Vec<u8>, FileError> {
    let missing = || FileError { what: "read", path: path.to_owned(), reason: ErrorKind::NotFound.into() };
    read(path)?.ok_or_else(missing)
}

/// Replaces a file: a reader sees the old contents or the new.
pub(crate) fn write(path: &Path, contents: &[u8], readers: Readers) -> Result<(), FileError> {
    let written = beside(path, contents, readers).and_then(|file| file.persist(path).map_err(|error| error.error));
    written.map(drop).map_err(|reason| FileError { what: "write", path: path.to_owned(), reason })
}

/// Writes a file unless there is one already, whoever else tries at the same time. Tells whether it did.
pub(crate) fn create(path: &Path, contents: &[u8], readers: Readers) -> Result<bool, FileError> {
    let written =
        beside(path, contents, readers).and_then(|file| file.persist_noclobber(path).map_err(|error| error.error));
    match written {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(reason) => Err(FileError { what: "write", path: path.to_owned(), reason }),
    }
}

/// Gives a file another's place and name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(|reason| FileError { what: "replace", path: to.to_owned(), reason })
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(FileError { what: "remove", path: path.to_owned(), reason: error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a directory that only its owner may enter. Those above it are made as usual.
pub(crate) fn private_directory(path: &Path) -> Result<(), FileError> {
    let above = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let made = above.and_then(|()| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path));
    made.map_err(|reason| FileError { what: "make the directory", path: path.to_owned(), reason })
}

/// Whether others than the owner may read it; `false` where that cannot be told.
pub(crate) fn is_exposed(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

fn beside(path: &Path, contents: &[u8], readers: Readers) -> std::io::Result<NamedTempFile> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(directory)?;
    // Set on the open file, since what a new file may be is cut by the umask; it begins as 0600.
    file.as_file().set_permissions(Permissions::from_mode(match readers {
        Readers::Owner => 0o600,
        Readers::Everybody => 0o644,
    }))?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_readers_they_are_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deeper/key");
        private_directory(path.parent().unwrap()).unwrap();
        for (readers, mode, exposed) in [(Readers::Owner, 0o600, false), (Readers::Everybody, 0o644, true)] {
            write(&path, b"text", readers).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(is_exposed(&path), exposed);
        }
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_first_who_creates_a_file_wins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(read(&path).unwrap().is_none() && read_present(&path).is_err());
        assert!(create(&path, b"one", Readers::Owner).unwrap());
        assert!(!create(&path, b"two", Readers::Owner).unwrap());
        assert_eq!(read(&path).unwrap().unwrap(), b"one");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }
}
