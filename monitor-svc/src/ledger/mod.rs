//! What is durable: monitors, probes, seen reports, notices, the journal, and the identities of calls.
//!
//! Everything the monitor knows is here, so that it can be killed at any moment. Each step is one transaction and can be
//! repeated: a probe's token and its identities are committed before anything is sent, a report is acknowledged after its
//! verdict is committed, a notice is committed together with the change that it tells of.
//!
//! The engine is SQLite (WAL, `synchronous=FULL`) with one connection, used by one call at a time off the runtime's own
//! threads: a monitor writes a few rows a minute. One process at a time: the folder is locked.
//!
//! May touch: the state folder. Must not touch: sockets.
//!
//! Limits: a journal of [`JOURNAL_KEPT`] changes; probes for 90 days, but at least the newest 1,000 of each monitor.

mod books;
mod judging;
mod look;
mod outbox;
mod requests;
mod schema;
mod steps;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::watch;

pub use judging::{Changed, Matched};
pub use look::{JournalEntry, Since};
pub use requests::{RequestConflict, RequestKey};

use books::Books;

/// So many changes are kept for watchers that come back.
pub const JOURNAL_KEPT: i64 = 5000;

/// The exit status after a failed sync: `EX_IOERR` of sysexits.
const EXIT_IO: i32 = 74;

/// Why the ledger could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The state folder cannot be made or written to.
    #[error("{path}: cannot be used as the state folder: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the ledger.
    #[error("{path}: another monitor-svc is using this state folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The ledger was written by a newer version.
    #[error(
        "{path}: written by a newer version (schema {found}; this one knows {known}): upgrade monitor-svc"
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// The schema version that was found.
        found: i64,
        /// The newest schema version that this program knows.
        known: i64,
    },
    /// The disk is full; nothing was stored.
    #[error("the disk of the ledger is full")]
    Full,
    /// The database refused.
    #[error("ledger: {0}")]
    Database(rusqlite::Error),
    /// A stored row does not make sense, or is missing.
    #[error("ledger: damaged row: {0}")]
    Damaged(String),
    /// The same request id came for another monitor.
    #[error(transparent)]
    Request(#[from] RequestConflict),
    /// A look-up or a change ended by a defect.
    #[error("the ledger is closed")]
    Closed,
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Database(error),
        }
    }
}

/// The ledger of this process. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Mutex<Connection>,
    /// The newest revision of the journal that this process saw.
    grown: watch::Sender<i64>,
    #[cfg(test)]
    steps: Option<crate::world::Steps>,
    /// Held for the life of the process: the lock goes with the descriptor.
    _lock: File,
}

impl Ledger {
    /// Opens the ledger in `folder`, making it if it is missing.
    ///
    /// # Errors
    /// The folder cannot be used, another process uses it, or it was written by a newer version.
    pub fn open(folder: &Path) -> Result<Self, LedgerError> {
        let (connection, lock) = Self::take(folder)?;
        Ok(Self {
            inner: Arc::new(Inner {
                connection: Mutex::new(connection),
                grown: watch::Sender::new(0),
                #[cfg(test)]
                steps: None,
                _lock: lock,
            }),
        })
    }

    /// A ledger whose commits are steps of a simulated world. Processes die there, and the power stays on: nothing is
    /// synced, which takes most of the time of a test.
    #[cfg(test)]
    pub(crate) fn open_in(folder: &Path, steps: crate::world::Steps) -> Result<Self, LedgerError> {
        let (connection, lock) = Self::take(folder)?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        Ok(Self {
            inner: Arc::new(Inner {
                connection: Mutex::new(connection),
                grown: watch::Sender::new(0),
                steps: Some(steps),
                _lock: lock,
            }),
        })
    }

    fn take(folder: &Path) -> Result<(Connection, File), LedgerError> {
        let unusable = |source| LedgerError::Folder {
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(unusable)?;
        let lock = File::create(folder.join("lock")).map_err(unusable)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |_| LedgerError::InUse {
                path: folder.to_owned(),
            },
        )?;
        let connection = schema::open(folder)?;
        Ok((connection, lock))
    }

    /// Wakes each time something changed; holds the newest revision that this process wrote.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<i64> {
        self.inner.grown.subscribe()
    }

    /// Makes a change in a transaction of its own; returns after it is committed and synced.
    async fn write<T, F>(&self, change: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Books<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        #[cfg(test)]
        let step = match &self.inner.steps {
            Some(steps) => steps.before().await,
            None => 0,
        };
        let inner = Arc::clone(&self.inner);
        let task = tokio::task::spawn_blocking(move || {
            let mut connection = inner
                .connection
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let (result, revision) = commit(&mut connection, change)?;
            inner.grown.send_if_modified(|newest| {
                let grew = revision > *newest;
                *newest = revision.max(*newest);
                grew
            });
            Ok(result)
        });
        let done = task.await.map_err(|_| LedgerError::Closed)?;
        #[cfg(test)]
        if let Some(steps) = &self.inner.steps {
            steps.after(step).await;
        }
        done
    }

    /// Runs a look-up off the runtime's own threads.
    async fn read<T, F>(&self, look_up: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Books<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let task = tokio::task::spawn_blocking(move || {
            let connection = inner
                .connection
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            look_up(&Books::new(&connection))
        });
        task.await.map_err(|_| LedgerError::Closed)?
    }
}

/// Runs a change and commits it; gives the journal's newest revision too. A change that fails leaves nothing behind.
fn commit<T>(
    connection: &mut Connection,
    change: impl FnOnce(&Books<'_>) -> Result<T, LedgerError>,
) -> Result<(T, i64), LedgerError> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let books = Books::new(&transaction);
    let result = change(&books)?;
    let revision = books.newest_revision()?;
    match transaction.commit() {
        Ok(()) => Ok((result, revision)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) => {
            // After a failed sync nobody knows what is on the disk, and nothing may be told on the strength of it.
            tracing::error!(%error, "ledger: a commit failed; nothing can be recorded any more");
            std::process::exit(EXIT_IO);
        }
        Err(error) => Err(error.into()),
    }
}
