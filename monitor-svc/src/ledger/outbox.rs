//! Notices that wait for the channel.

use rusqlite::params;

use super::{
    Ledger, LedgerError,
    books::{Books, to_json},
};
use crate::{
    clock::Stamp,
    notify::{Notice, Waiting},
};

/// Puts a notice into the outbox, in the transaction of its change.
pub(super) fn add(
    books: &Books<'_>,
    notice: &Notice,
    traceparent: &str,
    now: Stamp,
) -> Result<(), LedgerError> {
    books.execute(
        "INSERT INTO outbox (monitor, created_ms, next_ms, attempts, notice, traceparent) VALUES (?1, ?2, ?2, 0, ?3, ?4)",
        params![notice.monitor, now.0, to_json(notice)?, traceparent],
    )?;
    Ok(())
}

impl Ledger {
    /// The oldest waiting notice of each monitor, oldest first, due or not: what is behind it waits for it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn waiting(&self) -> Result<Vec<Waiting>, LedgerError> {
        self.read(|books| {
            let mut statement = books.connection.prepare_cached(
                "SELECT seq, monitor, notice ->> 'id', created_ms, next_ms, attempts, notice, traceparent FROM outbox \
                 WHERE seq IN (SELECT min(seq) FROM outbox GROUP BY monitor) ORDER BY seq",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(Waiting {
                    seq: row.get(0)?,
                    monitor: row.get(1)?,
                    id: row.get(2)?,
                    created: Stamp(row.get(3)?),
                    next: Stamp(row.get(4)?),
                    attempts: row.get(5)?,
                    body: row.get(6)?,
                    traceparent: row.get(7)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// A notice was taken, or is given up.
    ///
    /// # Errors
    /// The database refuses; the notice will be sent once more.
    pub async fn told(&self, seq: i64) -> Result<(), LedgerError> {
        self.write(move |books| {
            books.execute("DELETE FROM outbox WHERE seq = ?1", [seq])?;
            Ok(())
        })
        .await
    }

    /// A notice was not taken, and is tried again.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn postpone(&self, seq: i64, next: Stamp) -> Result<(), LedgerError> {
        self.write(move |books| {
            books.execute(
                "UPDATE outbox SET attempts = attempts + 1, next_ms = ?2 WHERE seq = ?1",
                params![seq, next.0],
            )?;
            Ok(())
        })
        .await
    }
}
