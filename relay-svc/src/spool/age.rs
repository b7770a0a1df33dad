//! The spool's own clock: the time that the relay has run on this spool, over restarts.
//!
//! What is held, or waits for a reader, is given up by this clock. A step of the wall clock does not move it, and while
//! the relay does not run nothing can be fetched, so nothing ages either. Kept every minute by whoever sweeps; a crash
//! takes back at most what was not kept.

use std::time::{Duration, Instant};

use super::{Spool, SpoolError, db::Db};

const KEY: &str = "clock_ms";
/// Keeps a value of `meta`.
pub(super) const KEEP: &str = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";

pub(super) struct SpoolClock {
    before: Duration,
    since: Instant,
}

impl SpoolClock {
    /// Goes on where the process before left it.
    pub(super) fn resume(db: &Db<'_>) -> Result<Self, SpoolError> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        let kept: Option<String> = db.row(sql, &[KEY.into()], |row| row.get(0))?;
        // An unreadable value starts anew: what waits then waits longer, and nothing is given up early.
        let ms = kept.and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self {
            before: Duration::from_millis(ms),
            since: Instant::now(),
        })
    }

    pub(super) fn reading(&self) -> Duration {
        self.before + self.since.elapsed()
    }
}

impl Spool {
    /// What the spool's clock reads.
    #[must_use]
    pub fn clock(&self) -> Duration {
        self.inner.clock.reading()
    }

    /// Keeps the reading for the next process.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn keep_clock(&self) -> Result<(), SpoolError> {
        let reading = self.clock().as_millis().to_string();
        self.write(move |db| db.execute(KEEP, &[KEY.into(), (&reading).into()]).map(drop))
            .await
    }
}
