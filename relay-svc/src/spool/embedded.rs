//! The embedded engine: SQLite in a folder, for this process alone.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{
    SpoolError, age, body,
    db::Db,
    moving,
    removal::{self, Removals},
    room::Room,
    schema, writer,
};

/// How many look-ups run at once, each on a connection of its own that is kept open.
const READERS: usize = 4;

pub(super) struct Embedded {
    folder: PathBuf,
    pub(super) room: Room,
    pub(super) removals: Removals,
    pub(super) writer: writer::Writer,
    readers: Arc<Mutex<Vec<Connection>>>,
    /// A turn for each look-up; it ends with the look-up, also when nobody waits for that any more. The lock of the folder
    /// is held for the life of the process, and by a look-up that outlives its handle.
    turns: Arc<Semaphore>,
    lock: Arc<File>,
}

/// Makes the folder, and takes it for this process while the file is open.
pub(super) fn lock(folder: &Path) -> Result<File, SpoolError> {
    let unusable = |source| SpoolError::Folder {
        path: folder.to_owned(),
        source,
    };
    fs::create_dir_all(folder.join("bodies")).map_err(unusable)?;
    let lock = File::create(folder.join("lock")).map_err(unusable)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| SpoolError::InUse {
            path: folder.to_owned(),
        },
    )?;
    Ok(lock)
}

impl Embedded {
    /// Opens the spool in `folder`, making it if it is missing, and sweeps what a crash left.
    pub(super) fn open(folder: &Path, reserve: u64) -> Result<(Self, age::SpoolClock), SpoolError> {
        let lock = lock(folder)?;
        if !schema::exists(folder) && body::any(folder)? {
            return Err(SpoolError::DatabaseGone {
                path: folder.to_owned(),
            });
        }
        let connection = schema::open(folder)?;
        let db = Db::Sqlite(&connection);
        moving::refuse_moved(&db, folder)?;
        removal::unless_held(folder, || body::sweep(folder, &db))?;
        let clock = age::SpoolClock::resume(&db)?;
        let writer = writer::Writer::start(folder, connection, reserve)?;
        let embedded = Self {
            folder: folder.to_owned(),
            room: Room::new(folder, reserve),
            removals: Removals::new(folder),
            writer,
            readers: Arc::default(),
            turns: Arc::new(Semaphore::new(READERS)),
            lock: Arc::new(lock),
        };
        Ok((embedded, clock))
    }

    pub(super) fn bodies(&self) -> PathBuf {
        self.folder.join("bodies")
    }

    /// Runs a look-up on a read connection, off the runtime's own threads. Its statements are one transaction: they see the
    /// same, and pages that one of them has read are there for the next.
    pub(super) async fn read<T, F>(&self, look_up: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: FnOnce(&Db<'_>) -> Result<T, SpoolError> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| SpoolError::Closed)?;
        let (readers, lock) = (Arc::clone(&self.readers), Arc::clone(&self.lock));
        let folder = self.folder.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _held = (turn, lock);
            let kept = readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match kept {
                Some(connection) => connection,
                None => schema::open_reader(&folder)?,
            };
            let transaction = connection.unchecked_transaction()?;
            let result = look_up(&Db::Sqlite(&transaction));
            // Nothing was written: to roll back is to end it.
            drop(transaction);
            let readers = readers.lock();
            readers
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            result
        });
        task.await.map_err(|_| SpoolError::Closed)?
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns once nobody uses the spool of `folder`: its lock goes with its last handle, which its threads may hold for a
    /// moment.
    pub(in crate::spool) async fn unlocked(folder: &Path) {
        let lock = File::create(folder.join("lock")).unwrap();
        let (freed, free) = tokio::sync::oneshot::channel();
        // Not a thread of the runtime: it would be waited for at the end of a test that fails here.
        std::thread::spawn(move || {
            let taken = rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive);
            drop(lock);
            let _ = freed.send(taken);
        });
        let taken = tokio::time::timeout(std::time::Duration::from_secs(5), free).await;
        taken.expect("the spool is still in use").unwrap().unwrap();
    }
}
