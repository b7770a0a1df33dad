//! The folder of a quick start: its files, and what of the run before is left.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::scene::Ports;

/// The file that makes a folder ours, which no other program would write; it is locked while a run is at work.
const MARK: &str = "linkmail-quickstart";
/// What a run leaves, and the next one removes unless it goes on from there.
const REMAINS: [&str; 4] = ["provider", "edge", "monitor", "mail"];

/// Why there is no folder to work in.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another quick start is at work there.
    #[error("{0} is in use by another quick start; name another folder with --state")]
    InUse(PathBuf),
    /// The folder holds files that are not a quick start's.
    #[error("{0} holds something else; name a folder that is empty, or not there, with --state")]
    Foreign(PathBuf),
    /// The system refused.
    #[error("{path}: {source}")]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A folder of our own, locked.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens a folder, or makes it. Unless `keep`, what the run before left of mail, queues and history is removed; the
    /// ports stay.
    ///
    /// # Errors
    /// It is in use, is not ours, or cannot be written.
    pub fn open(path: &Path, keep: bool) -> Result<Self, FolderError> {
        let lock_file = path.join(MARK);
        let is_empty =
            |path: &Path| fs::read_dir(path).is_ok_and(|mut inside| inside.next().is_none());
        if path.exists() && !lock_file.exists() && !is_empty(path) {
            return Err(FolderError::Foreign(path.to_owned()));
        }
        done(path, fs::create_dir_all(path))?;
        let path = done(path, path.canonicalize())?;
        let lock = done(&lock_file, File::create(&lock_file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::InUse(path)),
            Err(TryLockError::Error(source)) => {
                return Err(FolderError::Refused {
                    path: lock_file,
                    source,
                });
            }
        }
        let folder = Self { path, _lock: lock };
        if !keep {
            for remains in REMAINS.map(|name| folder.file(name)) {
                if remains.exists() {
                    done(&remains, fs::remove_dir_all(&remains))?;
                }
            }
        }
        for name in ["mail/world", "mail/mailbox"] {
            let path = folder.file(name);
            done(&path, fs::create_dir_all(&path))?;
        }
        Ok(folder)
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, FolderError> {
        let path = self.file(name);
        done(&path, fs::write(&path, text))?;
        Ok(path)
    }

    /// The ports of the run before, if there was one.
    #[must_use]
    pub fn ports(&self) -> Option<Ports> {
        let text = fs::read_to_string(self.file("ports")).ok()?;
        Ports::beginning_at(text.trim().parse().ok()?)
    }

    /// Remembers the ports for the next run.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remember(&self, ports: Ports) -> Result<(), FolderError> {
        self.write("ports", &format!("{}\n", ports.first()))
            .map(drop)
    }
}

fn done<T>(path: &Path, result: io::Result<T>) -> Result<T, FolderError> {
    result.map_err(|source| FolderError::Refused {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_once_and_keeps_its_ports() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state");
        let ports = Ports::beginning_at(20_260).unwrap();
        let folder = Folder::open(&path, false).unwrap();
        assert_eq!(folder.ports(), None);
        folder.remember(ports).unwrap();
        fs::create_dir(folder.file("edge")).unwrap();
        assert!(matches!(
            Folder::open(&path, false),
            Err(FolderError::InUse(_))
        ));
        drop(folder);
        let folder = Folder::open(&path, true).unwrap();
        assert!(folder.file("edge").exists());
        drop(folder);
        let folder = Folder::open(&path, false).unwrap();
        assert!(!folder.file("edge").exists());
        assert_eq!(folder.ports(), Some(ports));
    }

    #[test]
    fn nothing_is_removed_from_a_folder_of_somebody_else() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("mail")).unwrap();
        // As in the state folder of a daemon.
        fs::write(place.path().join("lock"), "").unwrap();
        let opened = Folder::open(place.path(), false);
        assert!(matches!(opened, Err(FolderError::Foreign(_))));
        assert!(place.path().join("mail").exists());
    }
}
