//! The spool's own clock: the time that the relay has run on this spool, over restarts.
//!
//! What is held, or waits for a reader, is given up by this clock. A step of the wall clock does not move it, and while
//! the relay does not run nothing can be fetched, so nothing ages either. Kept every minute by whoever sweeps; a crash
//! takes back at most what was not kept.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Engine, Spool, SpoolError, db::Db};

const KEY: &str = "clock_ms";
/// Keeps a value of `meta`.
pub(super) const KEEP: &str = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";

/// On a database that replicas share, the time of the server's clock at the last reading that was kept.
const AT: &str = "clock_at_ms";
/// Between two readings of a shared clock at most so much passes: a step of the server's clock moves it no further, and what
/// several replicas measure is not added up.
const LONGEST: Duration = Duration::from_secs(90);

pub(super) struct SpoolClock {
    /// A reading, and when it was that.
    read: Mutex<(Duration, Instant)>,
    longest: Duration,
}

impl SpoolClock {
    /// Goes on where the process before left it, or where the others are.
    pub(super) fn resume(db: &Db<'_>) -> Result<Self, SpoolError> {
        let longest = match db {
            Db::Sqlite(_) => Duration::MAX,
            Db::Postgres(_) => LONGEST,
        };
        Ok(Self {
            read: Mutex::new((kept(db)?, Instant::now())),
            longest,
        })
    }

    pub(super) fn reading(&self) -> Duration {
        let (reading, at) = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        reading + at.elapsed().min(self.longest)
    }

    /// Another reading was kept, by us or another replica.
    pub(super) fn set(&self, reading: Duration) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0 != reading {
            *read = (reading, Instant::now());
        }
    }
}

/// The reading that was kept last.
pub(super) fn kept(db: &Db<'_>) -> Result<Duration, SpoolError> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    let kept: Option<String> = db.row(sql, &[KEY.into()], |row| row.get(0))?;
    // An unreadable value starts anew: what waits then waits longer, and nothing is given up early.
    let ms = kept.and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Duration::from_millis(ms))
}

/// Moves a shared clock on by what passed since the last reading.
fn advance(db: &Db<'_>) -> Result<Duration, SpoolError> {
    db.lock(
        "SELECT 1 FROM meta WHERE key = ?1 FOR UPDATE",
        &[KEY.into()],
    )?;
    let sql = "SELECT value, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) FROM meta WHERE key = ?1";
    let read = db.row(sql, &[AT.into()], |row| {
        Ok((row.get::<String>(0)?, row.get::<i64>(1)?))
    })?;
    let (at, now) = read.unwrap_or_default();
    let longest = i64::try_from(LONGEST.as_millis()).unwrap_or(0);
    // The first reading has none before it.
    let passed = match at.parse::<i64>() {
        Ok(at) if at > 0 => now.saturating_sub(at).clamp(0, longest),
        _ => 0,
    };
    let reading = kept(db)? + Duration::from_millis(passed.unsigned_abs());
    for (key, value) in [
        (KEY, reading.as_millis().to_string()),
        (AT, now.to_string()),
    ] {
        db.execute(KEEP, &[key.into(), (&value).into()])?;
    }
    Ok(reading)
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
        let ours = self.clock();
        let reading = self.write(move |db| match db {
            Db::Postgres(_) => advance(db),
            Db::Sqlite(_) => {
                let reading = ours.as_millis().to_string();
                db.execute(KEEP, &[KEY.into(), (&reading).into()])?;
                Ok(ours)
            }
        });
        let reading = reading.await?;
        if let Engine::Shared(_) = &self.inner.engine {
            self.inner.clock.set(reading);
        }
        Ok(())
    }
}
