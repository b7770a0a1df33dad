//! The one writer of the embedded engine: a thread that commits together what waits together.
//!
//! While one commit syncs, further changes gather in the channel; the next transaction takes them all, and on a slow disk
//! waits a little for those that are on their way (`gather`). A change that fails takes nothing else with it, and its caller alone hears of it: what it had written by then is taken back with the whole
//! transaction, and the others are run once more, each in a savepoint. Savepoints for all would cost a copy of every page
//! that a change touches. Callers hear after the commit. A commit that fails for anything but a full disk ends the process:
//! after a failed sync nobody knows what is on the disk, and nothing may be acknowledged any more.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Instant,
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, ffi};
use tokio::sync::oneshot;

use super::{
    SpoolError,
    checkpoint::Checkpoints,
    gather::{Gather, Wait},
};

/// At most this many changes share a commit, which bounds how long the first of them waits.
const BATCH: usize = 256;

/// The exit status after a failed sync: `EX_IOERR` of sysexits.
const EXIT_IO: i32 = 74;
/// The exit status after a defect of our own: `EX_SOFTWARE`.
const EXIT_SOFTWARE: i32 = 70;

/// A change of which the writer need not know what it gives.
trait Change: Send {
    /// Runs it, anew if it was run before; says whether it is to be kept.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Tells the caller, once the commit is done (true) or was rolled back for a full disk (false).
    fn finish(self: Box<Self>, committed: bool);
}

struct Pending<T, F> {
    change: F,
    result: Option<Result<T, SpoolError>>,
    answer: oneshot::Sender<Result<T, SpoolError>>,
}

impl<T, F> Change for Pending<T, F>
where
    T: Send,
    F: Fn(&Connection) -> Result<T, SpoolError> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        self.result.insert((self.change)(connection)).is_ok()
    }

    fn finish(self: Box<Self>, committed: bool) {
        let result = match self.result {
            Some(Err(error)) => Err(error),
            Some(Ok(value)) if committed => Ok(value),
            Some(Ok(_)) | None => Err(SpoolError::Full),
        };
        // The caller may have gone; the change stands all the same.
        let _ = self.answer.send(result);
    }
}

pub(super) struct Writer {
    changes: Sender<Box<dyn Change>>,
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

    /// Runs a change; returns after it is committed and synced. It may be run more than once before that.
    pub(super) async fn run<T, F>(&self, change: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, SpoolError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let pending = Pending {
            change,
            result: None,
            answer,
        };
        self.changes
            .send(Box::new(pending))
            .map_err(|_| SpoolError::Closed)?;
        // Any end of the writer but that of the spool ends the process.
        answered.await.map_err(|_| SpoolError::Closed)?
    }
}

fn write_all(
    connection: &Connection,
    waiting: &Receiver<Box<dyn Change>>,
    checkpoints: &mut Checkpoints,
) {
    let (mut gather, mut next) = (Gather::default(), None);
    loop {
        let came_meanwhile = next.is_some();
        let Some(first) = next.take().or_else(|| waiting.recv().ok()) else {
            return;
        };
        let mut batch = Batch {
            changes: vec![first],
            came_meanwhile,
            wait: None,
            waiting,
        };
        let done = commit_batch(connection, &mut batch, &mut gather);
        // Before anybody hears of this commit: who is there now is not one of those.
        next = waiting.try_recv().ok();
        let changes = batch.changes;
        match done {
            Ok(()) => {
                let count = changes.len();
                changes.into_iter().for_each(|change| change.finish(true));
                checkpoints.committed(count, connection);
            }
            Err(error) if is_full(&error) => {
                tracing::error!(error = %error, "spool: the disk is full");
                changes.into_iter().for_each(|change| change.finish(false));
            }
            Err(error) => sync_failed(&error.into()),
        }
    }
}

/// Changes that are committed together.
struct Batch<'w> {
    changes: Vec<Box<dyn Change>>,
    /// The first of them came while the commit before ran.
    came_meanwhile: bool,
    /// Since there was no further one at once: how long one is waited for, and since when.
    wait: Option<(Wait, Instant)>,
    waiting: &'w Receiver<Box<dyn Change>>,
}

impl Batch<'_> {
    /// The change at this place, if it has so many or another one comes.
    fn change(&mut self, place: usize, gather: &Gather) -> Option<&mut Box<dyn Change>> {
        if place == self.changes.len() && place < BATCH {
            let another = self.another(gather);
            self.changes.extend(another);
        }
        self.changes.get_mut(place)
    }

    fn another(&mut self, gather: &Gather) -> Option<Box<dyn Change>> {
        if let Ok(change) = self.waiting.try_recv() {
            return Some(change);
        }
        let taken = self.changes.len();
        let begins = || (gather.wait(taken, self.came_meanwhile), Instant::now());
        let (wait, since) = self.wait.get_or_insert_with(begins);
        let left = wait.left(taken, since.elapsed())?;
        self.waiting.recv_timeout(left).ok()
    }
}

/// Ends the process: after a failed sync nobody knows what is on the disk, and the next one would say nothing of it.
pub(super) fn sync_failed(error: &SpoolError) -> ! {
    tracing::error!(%error, "spool: a sync failed; nothing can be acknowledged any more");
    std::process::exit(EXIT_IO)
}

/// Commits what is in `batch`, and what comes until that is done.
fn commit_batch(
    connection: &Connection,
    batch: &mut Batch<'_>,
    gather: &mut Gather,
) -> rusqlite::Result<()> {
    let transaction = begin(connection)?;
    let mut begun = 0;
    while let Some(change) = batch.change(begun, gather) {
        let before = transaction.total_changes();
        let keep = change.run(&transaction);
        still_open(&transaction)?;
        if !keep && transaction.total_changes() != before {
            transaction.rollback()?;
            return commit_apart(connection, &mut batch.changes);
        }
        begun += 1;
    }
    let began = Instant::now();
    transaction.commit()?;
    let wait = batch.wait.map(|(wait, _)| wait);
    gather.committed(wait, begun, began.elapsed());
    Ok(())
}

/// Runs each once more, in a savepoint: those that fail are taken back alone.
fn commit_apart(connection: &Connection, batch: &mut [Box<dyn Change>]) -> rusqlite::Result<()> {
    let transaction = begin(connection)?;
    for change in batch {
        transaction.execute_batch("SAVEPOINT change")?;
        let keep = change.run(&transaction);
        still_open(&transaction)?;
        if !keep {
            transaction.execute_batch("ROLLBACK TO change")?;
        }
        transaction.execute_batch("RELEASE change")?;
    }
    transaction.commit()
}

/// A full disk can make SQLite roll back by itself, and all that came before goes with it.
fn still_open(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    if transaction.is_autocommit() {
        let full = ffi::Error::new(ffi::SQLITE_FULL);
        return Err(rusqlite::Error::SqliteFailure(full, None));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::schema;

    /// A change that inserts a key, and fails behind that if it is told so.
    fn inserts(key: usize, fails: bool) -> (Box<dyn Change>, Answer) {
        let (answer, answered) = oneshot::channel();
        let change = move |connection: &Connection| {
            connection.execute("INSERT INTO meta VALUES (?1, '')", [key.to_string()])?;
            match fails {
                true => Err(SpoolError::Damaged("by intent".into())),
                false => Ok(key),
            }
        };
        let pending = Pending {
            change,
            result: None,
            answer,
        };
        (Box::new(pending), answered)
    }

    type Answer = oneshot::Receiver<Result<usize, SpoolError>>;

    /// Has the writer work through as many changes, of which these fail, and end; returns what they were told, and what is
    /// stored.
    fn written(changes: usize, failing: &[usize]) -> (Vec<Result<usize, SpoolError>>, Vec<usize>) {
        let folder = tempfile::tempdir().unwrap();
        let connection = schema::open(folder.path()).unwrap();
        connection.execute("DELETE FROM meta", []).unwrap();
        let mut checkpoints = Checkpoints::start(folder.path(), &connection, 0).unwrap();
        let (sender, waiting) = mpsc::channel();
        let mut answers = Vec::new();
        for key in 0..changes {
            let (change, answer) = inserts(key, failing.contains(&key));
            sender.send(change).ok().unwrap();
            answers.push(answer);
        }
        drop(sender);
        write_all(&connection, &waiting, &mut checkpoints);
        let told = answers
            .into_iter()
            .map(|mut answer| answer.try_recv().unwrap());
        let mut stored = connection
            .prepare("SELECT key FROM meta ORDER BY CAST(key AS INTEGER)")
            .unwrap();
        let keys = stored.query_map([], |row| row.get::<_, String>(0)).unwrap();
        (
            told.collect(),
            keys.map(|key| key.unwrap().parse().unwrap()).collect(),
        )
    }

    #[test]
    fn more_than_a_batch_is_written_once_each() {
        let (told, stored) = written(2 * BATCH + 3, &[]);
        let told: Vec<usize> = told.into_iter().map(Result::unwrap).collect();
        assert_eq!(told, (0..2 * BATCH + 3).collect::<Vec<_>>());
        assert_eq!(stored, told);
    }

    #[test]
    fn a_change_that_fails_half_done_is_taken_back_alone() {
        let (told, stored) = written(6, &[0, 3]);
        let kept: Vec<bool> = told.iter().map(Result::is_ok).collect();
        assert_eq!(kept, [false, true, true, false, true, true]);
        assert!(matches!(&told[3], Err(SpoolError::Damaged(why)) if why == "by intent"));
        assert_eq!(stored, [1, 2, 4, 5]);
    }
}
