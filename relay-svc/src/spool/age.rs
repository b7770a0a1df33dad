//! The spool's own clock, which no step of the wall clock moves.
//!
//! It has two hands. The first counts the time that the relay has run on this spool, over restarts: what was waited between
//! attempts, how long mail is held, how long reports wait for a reader. While the relay does not run nothing can be sent or
//! fetched, so nothing ages either. The second shows when mail is due ([`Tick`]): it also moves on while the relay does not
//! run, by what the wall clock says of that, up to [`LONGEST_REST`] at a time and only where it can be true.
//!
//! Kept every minute by whoever sweeps; a crash takes back at most what was not kept.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Engine, Spool, SpoolError, db::Db};
use crate::clock::Stamp;

const KEY: &str = "clock_ms";
/// What the second hand is ahead of the first.
const REST: &str = "rest_ms";
/// The time at the last reading that was kept: by the wall clock, or by that of the server of a database that replicas
/// share.
const AT: &str = "clock_at_ms";
/// Keeps a value of `meta`.
pub(super) const KEEP: &str = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";

/// Between two readings of a shared clock at most so much passes: a step of the server's clock moves it no further, and what
/// several replicas measure is not added up.
const LONGEST: Duration = Duration::from_secs(90);
/// A pause of the relay brings mail at most so much nearer to its next attempt, whatever the wall clock says.
pub(super) const LONGEST_REST: Duration = Duration::from_secs(24 * 3600);

/// A reading by which mail is due, in milliseconds; see [`Spool::tick`]. Below zero for what was due before the clock began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub i64);

impl Tick {
    /// Behind all others.
    pub const END: Self = Self(i64::MAX);

    /// What passed since `earlier`; nothing if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// So much later.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(super::store::millis(wait)))
    }

    /// When that is by the wall clock, if it is `now` there at this reading.
    pub(super) fn at_wall(self, reading: Self, now: Stamp) -> Stamp {
        now.plus(self.since(reading)).minus(reading.since(self))
    }
}

/// A reading of both hands, for a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// How long the relay has run.
    pub(super) clock: Duration,
    /// What is due now.
    pub(super) tick: Tick,
}

/// A reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Hands {
    /// The time that the relay has run.
    pub(super) ran: Duration,
    /// What is counted besides of the time that it has not.
    pub(super) rested: Duration,
}

pub(super) struct SpoolClock {
    /// A reading, and when it was that.
    read: Mutex<(Hands, Instant)>,
    longest: Duration,
}

impl SpoolClock {
    /// Goes on where the process before left it, or where the others are.
    pub(super) fn resume(db: &Db<'_>) -> Result<Self, SpoolError> {
        let (hands, longest) = match db {
            Db::Sqlite(_) => (rest(db, Stamp::now())?, Duration::MAX),
            Db::Postgres(_) => (join(db)?, LONGEST),
        };
        Ok(Self {
            read: Mutex::new((hands, Instant::now())),
            longest,
        })
    }

    pub(super) fn reading(&self) -> Hands {
        let (hands, at) = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        Hands {
            ran: hands.ran + at.elapsed().min(self.longest),
            ..hands
        }
    }

    /// Another reading was taken, by us or another replica.
    pub(super) fn set(&self, reading: Hands) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        *read = (reading, Instant::now());
    }
}

/// The reading that was kept last.
pub(super) fn kept(db: &Db<'_>) -> Result<Hands, SpoolError> {
    // An unreadable value starts anew: what waits then waits longer, and nothing is given up early.
    let read = |key| Ok::<_, SpoolError>(Duration::from_millis(number(db, key)?.unsigned_abs()));
    Ok(Hands {
        ran: read(KEY)?,
        rested: read(REST)?,
    })
}

fn number(db: &Db<'_>, key: &str) -> Result<i64, SpoolError> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    let kept: Option<String> = db.row(sql, &[key.into()], |row| row.get(0))?;
    Ok(kept.and_then(|text| text.parse().ok()).unwrap_or(0).max(0))
}

fn keep(db: &Db<'_>, hands: Hands, at: Option<i64>) -> Result<(), SpoolError> {
    let number = |time: Duration| time.as_millis().to_string();
    let values = [
        (AT, at.map(|at| at.to_string())),
        (KEY, Some(number(hands.ran))),
        (REST, Some(number(hands.rested))),
    ];
    for (key, value) in values {
        if let Some(value) = value {
            db.execute(KEEP, &[key.into(), (&value).into()])?;
        }
    }
    Ok(())
}

/// The reading at the start of a process that has the spool to itself: what it rested is counted once.
fn rest(db: &Db<'_>, now: Stamp) -> Result<Hands, SpoolError> {
    let (mut hands, at) = (kept(db)?, Stamp(number(db, AT)?));
    if !super::wall::is_plausible(now) {
        return Ok(hands);
    }
    // Only a time that can be was kept.
    if at.0 > 0 {
        hands.rested += now.since(at).min(LONGEST_REST);
    }
    keep(db, hands, Some(now.0))?;
    Ok(hands)
}

/// What passed by the server's clock since the reading that was kept last; and what it reads now.
fn passed(db: &Db<'_>) -> Result<(Duration, i64), SpoolError> {
    let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
    let (at, now) = (number(db, AT)?, db.value(sql, &[])?);
    // The first reading has none before it.
    let passed = if at > 0 {
        Stamp(now).since(Stamp(at))
    } else {
        Duration::ZERO
    };
    Ok((passed, now))
}

/// The reading at the start of a replica; the first of all begins it.
fn join(db: &Db<'_>) -> Result<Hands, SpoolError> {
    if number(db, AT)? == 0 {
        advance(db)?;
    }
    shared(db)
}

/// What a shared clock reads, seen from any replica.
pub(super) fn shared(db: &Db<'_>) -> Result<Hands, SpoolError> {
    let (mut hands, (passed, _)) = (kept(db)?, passed(db)?);
    hands.ran += passed.min(LONGEST);
    Ok(hands)
}

/// Moves a shared clock on by what passed since the last reading. What is beyond what replicas measure was a rest of all, or
/// a step of the server's clock.
fn advance(db: &Db<'_>) -> Result<Hands, SpoolError> {
    let sql = "SELECT 1 FROM meta WHERE key = ?1 FOR UPDATE";
    db.lock(sql, &[KEY.into()])?;
    let (mut hands, (passed, now)) = (kept(db)?, passed(db)?);
    hands.ran += passed.min(LONGEST);
    hands.rested += passed.saturating_sub(LONGEST).min(LONGEST_REST);
    keep(db, hands, Some(now))?;
    Ok(hands)
}

impl Spool {
    /// How long the relay has run on this spool.
    #[must_use]
    pub fn clock(&self) -> Duration {
        self.inner.clock.reading().ran
    }

    /// The reading by which mail is due now.
    #[must_use]
    pub fn tick(&self) -> Tick {
        self.now().tick
    }

    pub(super) fn now(&self) -> Now {
        let Hands { ran, rested } = self.inner.clock.reading();
        Now {
            clock: ran,
            tick: Tick(super::store::millis(ran + rested)),
        }
    }

    /// Keeps the reading for the next process.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn keep_clock(&self) -> Result<(), SpoolError> {
        let (ours, now) = (self.inner.clock.reading(), Stamp::now());
        // A time that cannot be is not one to measure a rest from.
        let at = super::wall::is_plausible(now).then_some(now.0);
        let reading = self.write(move |db| match db {
            Db::Postgres(_) => advance(db),
            Db::Sqlite(_) => keep(db, ours, at).map(|()| ours),
        });
        let reading = reading.await?;
        if let Engine::Shared(_) = &self.inner.engine {
            self.inner.clock.set(reading);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::place::Place;

    const DAY: Duration = Duration::from_secs(86_400);

    /// A spool that ran for an hour until `at`; how much its second hand moves when it starts at `now`.
    async fn rested(at: Stamp, now: Stamp) -> Duration {
        let spool = Place::folder().open().await;
        let hour = Hands {
            ran: Duration::from_secs(3600),
            rested: DAY,
        };
        let run = spool.write(move |db| {
            keep(db, hour, Some(at.0))?;
            let (first, again) = (rest(db, now)?, rest(db, now)?);
            assert_eq!(first, again, "a rest is counted once");
            assert_eq!(first.ran, hour.ran, "nothing ages in a rest");
            assert_eq!(kept(db)?, first);
            Ok(first.rested - hour.rested)
        });
        run.await.unwrap()
    }

    #[tokio::test]
    async fn a_rest_is_counted_once_and_only_as_far_as_it_can_be_true() {
        let (now, old) = (Stamp::now(), Stamp(1000));
        let ago = |rest: Duration| now.minus(rest);
        for (at, now, moved) in [
            (ago(Duration::from_secs(60)), now, Duration::from_secs(60)),
            (ago(20 * DAY), now, DAY),
            // Set back since, never kept, and a clock that starts in 1970.
            (now.plus(DAY), now, Duration::ZERO),
            (Stamp(0), now, Duration::ZERO),
            (now, old, Duration::ZERO),
        ] {
            assert_eq!(rested(at, now).await, moved, "{at:?} {now:?}");
        }
    }
}
