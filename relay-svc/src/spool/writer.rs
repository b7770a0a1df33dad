//! The one writer of the embedded engine: a thread that commits together what waits together.
//!
//! While one commit syncs, further changes gather in the channel; the next transaction takes them all. Each change
//! runs in a savepoint, so one that fails takes nothing else with it, and its caller alone hears of it. Callers
//! hear after the commit. A commit that fails for anything but a full disk ends the process: after a failed sync
//! nobody knows what is on the disk, and nothing may be acknowledged any more.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, ffi};
use tokio::sync::oneshot;

use super::{SpoolError, checkpoint::Checkpoints};

/// At most this many changes share a commit, which bounds how long the first of them waits.
const BATCH: usize = 256;

/// The exit status after a failed sync: `EX_IOERR` of sysexits.
const EXIT_IO: i32 = 74;
/// The exit status after a defect of our own: `EX_SOFTWARE`.
const EXIT_SOFTWARE: i32 = 70;

/// Tells the caller, once the commit is done (true) or was rolled back for a full disk (false).
type Finish = Box<dyn FnOnce(bool) + Send>;
/// A change: does its work, and says whether it is to be kept.
type Change = Box<dyn FnOnce(&Connection) -> (bool, Finish) + Send>;

pub(super) struct Writer {
    changes: Sender<Change>,
}

impl Writer {
    /// Starts the thread. It ends when the last handle is gone and all changes are committed.
    pub(super) fn start(
        folder: &Path,
        connection: Connection,
        reserve: u64,
    ) -> Result<Self, SpoolError> {
        let mut checkpoints = Checkpoints::start(folder, &connection, reserve)?;
        let (changes, waiting) = mpsc::channel();
        thread::Builder::new()
            .name("spool-writer".into())
            .spawn(move || {
                let written = catch_unwind(AssertUnwindSafe(|| {
                    write_all(&connection, &waiting, &mut checkpoints);
                }));
                if written.is_err() {
                    // Without its writer the relay could neither accept nor record anything.
                    tracing::error!("spool: the writer failed by a defect of its own");
                    std::process::exit(EXIT_SOFTWARE);
                }
            })?;
        Ok(Self { changes })
    }

    pub(super) async fn run<T, F>(&self, change: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, SpoolError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let boxed: Change = Box::new(move |connection| {
            let result = change(connection);
            let keep = result.is_ok();
            let finish: Finish = Box::new(move |committed| {
                let lost = keep && !committed;
                // The caller may have gone; the change stands all the same.
                let _ = answer.send(if lost { Err(SpoolError::Full) } else { result });
            });
            (keep, finish)
        });
        self.changes.send(boxed).map_err(|_| SpoolError::Closed)?;
        // A batch that a full disk ended before this change had its turn. Any other end of the writer ends the process.
        answered.await.map_err(|_| SpoolError::Full)?
    }
}

fn write_all(connection: &Connection, waiting: &Receiver<Change>, checkpoints: &mut Checkpoints) {
    while let Ok(first) = waiting.recv() {
        let mut finishes = Vec::new();
        match commit_batch(connection, first, waiting, &mut finishes) {
            Ok(()) => {
                let changes = finishes.len();
                finishes.into_iter().for_each(|finish| finish(true));
                checkpoints.committed(changes, connection);
            }
            Err(error) if is_full(&error) => {
                tracing::error!(error = %error, "spool: the disk is full");
                finishes.into_iter().for_each(|finish| finish(false));
            }
            Err(error) => sync_failed(&error.into()),
        }
    }
}

/// Ends the process: after a failed sync nobody knows what is on the disk, and the next one would say nothing of it.
pub(super) fn sync_failed(error: &SpoolError) -> ! {
    tracing::error!(%error, "spool: a sync failed; nothing can be acknowledged any more");
    std::process::exit(EXIT_IO)
}

fn commit_batch(
    connection: &Connection,
    first: Change,
    waiting: &Receiver<Change>,
    finishes: &mut Vec<Finish>,
) -> rusqlite::Result<()> {
    let transaction = begin(connection)?;
    let mut next = Some(first);
    while let Some(change) = next.take() {
        transaction.execute_batch("SAVEPOINT change")?;
        let (keep, finish) = change(&transaction);
        finishes.push(finish);
        if transaction.is_autocommit() {
            // A full disk can make SQLite roll back by itself, and all that came before goes with it.
            return Err(rusqlite::Error::SqliteFailure(
                ffi::Error::new(ffi::SQLITE_FULL),
                None,
            ));
        }
        if !keep {
            transaction.execute_batch("ROLLBACK TO change")?;
        }
        transaction.execute_batch("RELEASE change")?;
        if finishes.len() < BATCH {
            next = waiting.try_recv().ok();
        }
    }
    transaction.commit()
}

/// An immediate transaction; it rolls back by itself when it is dropped without a commit. Somebody with a tool of his
/// own may hold the database: he is waited for.
fn begin(connection: &Connection) -> rusqlite::Result<Transaction<'_>> {
    loop {
        match Transaction::new_unchecked(connection, TransactionBehavior::Immediate) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                tracing::warn!("spool: another program holds the database; waiting for it");
            }
            begun => return begun,
        }
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull))
}
