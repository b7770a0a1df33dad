//! Body files of a folder go when no row names them any more, but not while a backup is being made of it: what the backup
//! copies is named by the rows of a moment that has passed.
//!
//! A backup is a process of its own. It holds the lock in [`FILE`] alone, and whoever removes a file shares it for that
//! moment. What stayed behind for a backup goes with the next file that is removed, or when the relay tidies up; after a
//! crash by the sweep at start.
//!
//! May touch: the state folder.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

/// In the state folder. Left in place it means nothing.
pub(super) const FILE: &str = "backup.lock";
/// Removals that are under way are waited for so long.
const WAIT: Duration = Duration::from_secs(5);
/// And looked at again after this.
const PAUSE: Duration = Duration::from_millis(5);

/// While it lives no body file of the folder is removed.
pub(super) struct Hold {
    _lock: File,
}

impl Hold {
    /// `None`: somebody else holds them.
    pub(super) fn take(state: &Path) -> io::Result<Option<Self>> {
        let lock = File::create(state.join(FILE))?;
        let begun = Instant::now();
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self { _lock: lock })),
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < WAIT => {
                    std::thread::sleep(PAUSE);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Runs `remove` unless a backup is being made.
pub(super) fn unless_held<T>(
    state: &Path,
    remove: impl FnOnce() -> Result<T, super::SpoolError>,
) -> Result<Option<T>, super::SpoolError> {
    let lock = File::create(state.join(FILE))?;
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => remove().map(Some),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// So many names are kept of files that stayed behind; those above are swept at the next start.
const LEFT: usize = 100_000;

/// What removes the body files of a folder. Cheap to clone.
#[derive(Clone)]
pub(super) struct Removals {
    state: PathBuf,
    left: Arc<Mutex<Vec<String>>>,
}

impl Removals {
    pub(super) fn new(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
            left: Arc::default(),
        }
    }

    /// Removes a file that no row names, and what stayed behind before; later, if a backup is being made.
    pub(super) async fn remove(&self, file: &str) {
        {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            if left.len() < LEFT {
                left.push(file.to_owned());
            }
        }
        self.tidy().await;
    }

    /// Removes what stayed behind, unless a backup is being made.
    pub(super) async fn tidy(&self) {
        let all = self.clone();
        let removed = tokio::task::spawn_blocking(move || unless_held(&all.state, || all.go()));
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%error, "spool: a body that no message names stays for now");
        }
    }

    fn go(&self) -> Result<(), super::SpoolError> {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        for file in left {
            // It is gone, or the sweep at the next start meets the same.
            let _ = fs::remove_file(self.state.join("bodies").join(file));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_removed_while_a_backup_holds_it_and_all_of_it_later() {
        let state = tempfile::tempdir().unwrap();
        let bodies = state.path().join("bodies");
        fs::create_dir(&bodies).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(bodies.join(name), name).unwrap();
        }
        let removals = Removals::new(state.path());
        let hold = Hold::take(state.path()).unwrap().unwrap();
        removals.remove("a").await;
        removals.tidy().await;
        assert!(bodies.join("a").exists());
        drop(hold);
        removals.remove("b").await;
        let left: Vec<_> = fs::read_dir(&bodies).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(bodies.join("c").exists());
    }

    #[test]
    fn one_backup_at_a_time_and_removals_go_side_by_side() {
        let state = tempfile::tempdir().unwrap();
        let within = unless_held(state.path(), || unless_held(state.path(), || Ok(())));
        assert!(matches!(within, Ok(Some(Some(())))));
        let hold = Hold::take(state.path()).unwrap();
        assert!(hold.is_some());
        assert!(Hold::take(state.path()).unwrap().is_none());
    }
}
