//! Large bodies in a shared database: in pieces, each a row, written while they come in and before a message names them.
//!
//! What no message names is removed: by whoever dropped its draft, or by the sweep once it is a day old.

use std::{io, sync::Arc};

use super::{
    Engine, Spool, SpoolError,
    db::{Db, Pool},
};

/// A body that no message names is older than any that still comes in, in milliseconds.
const OLD_MS: i64 = 86_400_000;

/// A body of which pieces are written. Dropped before it is kept, it is removed.
pub(super) struct PartChunks {
    pool: Arc<Pool>,
    name: String,
    written: i64,
    kept: bool,
}

impl PartChunks {
    pub(super) async fn begin(pool: Arc<Pool>) -> Result<Self, SpoolError> {
        let name = uuid::Uuid::new_v4().as_simple().to_string();
        let row = name.clone();
        let sql = "INSERT INTO large_bodies (name, created_ms) VALUES \
                   (?1, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)) ON CONFLICT (name) DO NOTHING";
        pool.change(move |db| db.execute(sql, &[(&row).into()]))
            .await?;
        Ok(Self {
            pool,
            name,
            written: 0,
            kept: false,
        })
    }

    pub(super) async fn push(&mut self, piece: Vec<u8>) -> Result<(), SpoolError> {
        let (name, n) = (self.name.clone(), self.written);
        let sql = "INSERT INTO body_chunks (name, n, content) VALUES (?1, ?2, ?3) ON CONFLICT (name, n) DO NOTHING";
        self.pool
            .change(move |db| db.execute(sql, &[(&name).into(), n.into(), (&piece).into()]))
            .await?;
        self.written += 1;
        Ok(())
    }

    /// It is whole: a message names it from now on.
    pub(super) fn keep(mut self) -> String {
        self.kept = true;
        self.name.clone()
    }
}

impl Drop for PartChunks {
    fn drop(&mut self) {
        if !self.kept {
            let (pool, name) = (Arc::clone(&self.pool), self.name.clone());
            let runtime = pool.runtime().clone();
            runtime.spawn(async move { remove(&pool, name).await });
        }
    }
}

/// A body that stays behind all the same is swept.
pub(super) async fn remove(pool: &Arc<Pool>, name: String) {
    let sql = "DELETE FROM large_bodies WHERE name = ?1";
    let _ = pool
        .change(move |db| db.execute(sql, &[(&name).into()]))
        .await;
}

/// A body that is read piece by piece.
pub(super) struct Chunks {
    pool: Arc<Pool>,
    name: String,
    next: i64,
}

impl Chunks {
    pub(super) fn new(pool: Arc<Pool>, name: String) -> Self {
        Self {
            pool,
            name,
            next: 0,
        }
    }

    /// Empty behind the last.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, SpoolError> {
        let (name, n) = (self.name.clone(), self.next);
        let sql = "SELECT content FROM body_chunks WHERE name = ?1 AND n = ?2";
        let piece = self
            .pool
            .look_up(move |db| db.row(sql, &[(&name).into(), n.into()], |row| row.get(0)));
        self.next += 1;
        Ok(piece.await?.unwrap_or_default())
    }
}

/// Makes sure, while a message that names it is stored, that no sweep took it.
pub(super) fn lock(db: &Db<'_>, name: &str) -> Result<(), SpoolError> {
    if db.lock(
        "SELECT 1 FROM large_bodies WHERE name = ?1 FOR UPDATE",
        &[name.into()],
    )? {
        return Ok(());
    }
    let gone = "the body was swept before its message came";
    Err(io::Error::new(io::ErrorKind::TimedOut, gone).into())
}

impl Spool {
    /// Removes large bodies that no message names and no draft can be writing any more, some at a time. In a folder that
    /// was done at start, but for what stayed behind for a backup.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn sweep_bodies(&self) -> Result<u64, SpoolError> {
        if let Engine::Embedded(embedded) = &self.inner.engine {
            embedded.removals.tidy().await;
            return Ok(0);
        }
        let old = "SELECT name FROM large_bodies WHERE created_ms < \
                   CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) - ?1 AND NOT EXISTS \
                   (SELECT 1 FROM messages WHERE body_file = name) ORDER BY created_ms LIMIT 100 FOR UPDATE SKIP LOCKED";
        // Asked again now that it is locked: a message that came meanwhile names it.
        let sql = "DELETE FROM large_bodies WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM messages WHERE body_file = ?1)";
        self.write(move |db| {
            let mut swept = 0;
            for name in db.query(old, &[OLD_MS.into()], |row| row.get::<String>(0))? {
                swept += db.execute(sql, &[(&name).into()])?;
            }
            Ok(swept)
        })
        .await
    }
}
