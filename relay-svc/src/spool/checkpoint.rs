//! Moves what is committed from the write-ahead log into the database, beside the writer.
//!
//! The writer goes on meanwhile: a checkpoint of this thread takes nothing that a commit waits for. What is committed
//! while it runs stays in the log; when little is left, the writer is asked to move that itself between two commits,
//! which takes it a few pages, and lets the log begin anew. If this thread does not keep up, the writer checkpoints at
//! [`LOG_PAGES`], so the log is bounded.
//!
//! May touch: the database, through a connection of its own.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread,
};

use rusqlite::Connection;

use super::{SpoolError, schema};

/// So many changes are committed between two checkpoints: some megabytes of the log.
const CHANGES: usize = 512;
/// The writer checkpoints by itself when the log has so many pages of 8 KiB.
const LOG_PAGES: u64 = 4096;
/// With so many pages left in the log behind a checkpoint, the writer can finish it in passing.
const FEW_PAGES: i64 = 256;

/// The writer's end.
pub(super) struct Checkpoints {
    due: SyncSender<()>,
    nearly_done: Arc<AtomicBool>,
    changes: usize,
}

impl Checkpoints {
    /// Starts the thread for the database in `folder`, whose writer has `connection`. It ends with the writer.
    /// Of `reserve`, the octets that stay free for the queue, the log takes a quarter at most: what it holds needs as much
    /// again in the database.
    pub(super) fn start(
        folder: &Path,
        connection: &Connection,
        reserve: u64,
    ) -> Result<Self, SpoolError> {
        let pages = match reserve / 4 / 8192 {
            0 => LOG_PAGES,
            pages => pages.clamp(64, LOG_PAGES),
        };
        connection.pragma_update(None, "wal_autocheckpoint", pages.cast_signed())?;
        let own = schema::open_beside(folder)?;
        let (due, wanted) = mpsc::sync_channel(1);
        let nearly_done = Arc::new(AtomicBool::new(false));
        let tells = Arc::clone(&nearly_done);
        thread::Builder::new()
            .name("spool-checkpoint".into())
            .spawn(move || {
                while wanted.recv().is_ok() {
                    match checkpoint(&own) {
                        Ok(left) => tells.store(left <= FEW_PAGES, Ordering::Release),
                        // The writer meets the same at its own, where it has its consequences.
                        Err(error) => tracing::warn!(%error, "spool: a checkpoint failed"),
                    }
                }
            })?;
        Ok(Self {
            due,
            nearly_done,
            changes: 0,
        })
    }

    /// So many changes were committed on the writer's connection.
    pub(super) fn committed(&mut self, changes: usize, connection: &Connection) {
        if self.nearly_done.swap(false, Ordering::AcqRel)
            && let Err(error) = checkpoint(connection)
        {
            tracing::warn!(%error, "spool: a checkpoint was not finished");
        }
        self.changes += changes;
        if self.changes >= CHANGES {
            match self.due.try_send(()) {
                Ok(()) => self.changes = 0,
                // One is waited for already.
                Err(TrySendError::Full(())) => {}
                Err(TrySendError::Disconnected(())) => {
                    tracing::error!("spool: nobody checkpoints beside the writer any more");
                }
            }
        }
    }
}

/// Moves what can be moved without waiting for anybody; says how many pages are left in the log.
fn checkpoint(connection: &Connection) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?;
    statement.query_row([], |row| {
        let (all, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(all - moved)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(connection: &Connection, rows: usize) {
        let content = vec![7_u8; 20_000];
        for _ in 0..rows {
            connection
                .execute(
                    "INSERT INTO meta VALUES (hex(randomblob(8)), hex(?1))",
                    [&content],
                )
                .unwrap();
        }
    }

    #[test]
    fn the_log_is_bounded_while_the_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let connection = schema::open(folder.path()).unwrap();
        let mut checkpoints = Checkpoints::start(folder.path(), &connection, 0).unwrap();
        let log = folder.path().join("spool.sqlite-wal");
        // Five times what the log may have.
        for _ in 0..10 {
            for _ in 0..40 {
                write(&connection, 20);
                checkpoints.committed(CHANGES, &connection);
            }
            let octets = std::fs::metadata(&log).unwrap().len();
            assert!(octets <= 48 << 20, "{octets} octets");
        }
    }

    #[test]
    fn a_reader_does_not_stop_a_checkpoint_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let connection = schema::open(folder.path()).unwrap();
        let reader = schema::open_reader(folder.path()).unwrap();
        write(&connection, 1);
        let reading = reader.unchecked_transaction().unwrap();
        let count = "SELECT count(*) FROM meta";
        reading
            .query_row(count, [], |row| row.get::<_, i64>(0))
            .unwrap();
        write(&connection, 10);
        assert!(checkpoint(&connection).unwrap() > 0);
        drop(reading);
        assert_eq!(checkpoint(&connection).unwrap(), 0);
    }
}
