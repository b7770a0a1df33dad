//! The shared engine: a PostgreSQL database that replicas use together.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    DatabaseError, Engine, Inner, SpoolError, age, calls,
    db::{Db, Pool, migrate},
    moving,
};

/// What others commit is looked for so often. A hint: who works looks again by himself, too.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages get their places before they are committed: so many before the newest are looked at again.
const LATE: i64 = 100;
/// And so many times after the newest came.
const AGAIN: u32 = 5;

/// At the end, each of two steps gets so long.
const CLOSE: Duration = Duration::from_secs(3);

pub(super) struct Shared {
    pub(super) pool: Arc<Pool>,
    /// Whose leases are those of this process.
    pub(super) owner: String,
    /// What renews its leases, and gives them back.
    pub(super) renewals: TaskTracker,
}

impl Shared {
    pub(super) async fn open(
        options: PgConnectOptions,
    ) -> Result<(Self, age::SpoolClock), SpoolError> {
        let place = format!(
            "postgres://{}/{}",
            options.get_host(),
            options.get_database().unwrap_or_default()
        );
        let pool = Pool::new(options);
        let named = place.clone();
        let ready = move |db: &Db<'_>| {
            migrate(db, &named)?;
            moving::refuse_half_moved(db, &named)
        };
        let ready = pool.change(ready).await;
        ready.map_err(|error| at_start(error, place))?;
        let clock = pool.change(age::SpoolClock::resume).await?;
        let owner = uuid::Uuid::new_v4().to_string();
        let renewals = TaskTracker::new();
        let shared = Self {
            pool,
            owner,
            renewals,
        };
        Ok((shared, clock))
    }

    /// Waits, each time a few seconds at most, until leases that were dropped are given back, and until nothing is under
    /// way; nothing is begun any more then.
    pub(super) async fn close(&self) {
        self.renewals.close();
        let _ = timeout(CLOSE, self.renewals.wait()).await;
        let _ = timeout(CLOSE, self.pool.close()).await;
    }
}

/// What a server said at the first connection, with where that is and what would be right.
fn at_start(error: SpoolError, place: String) -> SpoolError {
    match error {
        SpoolError::Unavailable(reason) => SpoolError::Unavailable(format!("{place}: {reason}")),
        // invalid_authorization_specification and what is below it, invalid_catalog_name
        SpoolError::Database(DatabaseError::Postgres { code, message })
            if code.starts_with("28") || code == "3D000" =>
        {
            SpoolError::Refused {
                place,
                reason: message,
            }
        }
        error => error,
    }
}

/// What a look of the watcher found.
#[derive(Clone, Copy, Default)]
struct Newest {
    message: i64,
    revision: i64,
    /// So often an operator changed something.
    steered: i64,
    /// So many further looks see what came late.
    again: u32,
    /// Calls wait for a keeper.
    called: bool,
}

/// Wakes those whom commits of other replicas concern, until the spool is gone.
pub(super) async fn watch(spool: Weak<Inner>) {
    let mut seen = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = spool.upgrade() else {
            return;
        };
        let Engine::Shared(shared) = &inner.engine else {
            return;
        };
        let pool = Arc::clone(&shared.pool);
        match pool.look_up(move |db| look(db, seen)).await {
            Ok((newest, hops, clock)) => {
                if newest.called {
                    inner.signals.called();
                }
                inner.signals.wake(hops.iter().map(String::as_str));
                inner.signals.journal_grew(newest.revision);
                if seen.is_some_and(|seen: Newest| seen.steered != newest.steered) {
                    inner.signals.was_steered();
                }
                inner.clock.set(clock);
                seen = Some(newest);
            }
            Err(SpoolError::Closed) => return,
            Err(error) => tracing::warn!(%error, "the spool cannot be watched"),
        }
    }
}

/// What is newest, the next hops of the messages that came since, and the reading of the spool's clock.
fn look(
    db: &Db<'_>,
    seen: Option<Newest>,
) -> Result<(Newest, Vec<String>, age::Hands), SpoolError> {
    let sql = "SELECT (SELECT coalesce(max(seq), 0) FROM messages), (SELECT coalesce(max(revision), 0) FROM journal), \
               (SELECT coalesce(max(CAST(value AS BIGINT)), 0) FROM meta WHERE key = 'steered')";
    let newest = db.row(sql, &[], |row| {
        Ok(Newest {
            message: row.get(0)?,
            revision: row.get(1)?,
            steered: row.get(2)?,
            again: AGAIN,
            called: false,
        })
    })?;
    let mut newest = newest.unwrap_or_default();
    newest.called = calls::any(db)?;
    // What came before the first look may have come after others looked for themselves.
    let before = seen.unwrap_or(newest).message;
    if let Some(seen) = seen.filter(|seen| seen.message == newest.message) {
        newest.again = seen.again.saturating_sub(1);
    }
    let hops = if newest.again == 0 {
        Vec::new()
    } else {
        let sql = "SELECT DISTINCT hop FROM recipients WHERE seq > ?1 LIMIT 10000";
        db.query(sql, &[(before - LATE).into()], |row| row.get(0))?
    };
    Ok((newest, hops, age::shared(db)?))
}
