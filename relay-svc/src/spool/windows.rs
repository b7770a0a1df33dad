//! The windows of cycles in a database that replicas share: what comes over a link by any replica is counted to the cycle of
//! the link's keeper.
//!
//! The keeper opens a window under its lease: who takes mail over the link looks for it. A replica counts what it took in a
//! row of its own, as a total, so that a report may come twice; the keeper sums the rows of the others. When it closes, the
//! messages that were committed in it are counted themselves: what a replica took and had not told before it died is among
//! them.
//!
//! On SQLite nothing is asked and nothing is kept.

use std::{collections::HashMap, time::Duration};

use super::{Engine, Spool, SpoolError, db::Db, leases::now, look::unsigned, store::millis};
use crate::names::{CycleId, LinkName};

/// Transactions that are under way with a replica that said nothing for so long are over: it is gone.
const GONE: Duration = Duration::from_secs(15);

/// A window that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCycle {
    /// The link it receives over.
    pub link: LinkName,
    /// The cycle.
    pub cycle: CycleId,
    /// The span of the window.
    pub traceparent: String,
}

/// What came in a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Came {
    /// Messages.
    pub messages: u32,
    /// Their octets.
    pub bytes: u64,
    /// Transactions that are under way.
    pub open: u32,
    /// So often something happened: a transaction began, went on or ended.
    pub stirs: u64,
}

/// What replicas know of the windows.
#[derive(Debug, Clone, Default)]
pub struct Exchanged {
    /// Those that are open.
    pub open: Vec<OpenCycle>,
    /// What came in each by other replicas than this.
    pub elsewhere: HashMap<CycleId, Came>,
}

/// Windows whose lease is good.
macro_rules! open {
    ($more:literal) => {
        concat!(
            "SELECT w.link, w.cycle, w.trace FROM windows w JOIN leases l ON l.name = w.lease AND l.token = w.token \
             WHERE l.expires_ms > ",
            now!(),
            $more
        )
    };
}

impl Spool {
    /// Whether other replicas may use it too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.inner.engine, Engine::Shared(_))
    }

    /// Opens the window of a cycle for the other replicas, under the lease of its link's keeper.
    ///
    /// # Errors
    /// The database cannot be written, or the lease is lost.
    pub async fn open_window(&self, window: OpenCycle) -> Result<(), SpoolError> {
        let Some(held) = self.lease.clone() else {
            return Ok(());
        };
        let sql = "INSERT INTO windows (cycle, link, trace, lease, token) VALUES (?1, ?2, ?3, ?4, ?5) \
                   ON CONFLICT (cycle) DO NOTHING";
        self.write(move |db| {
            let (lease, token) = held.name_and_token();
            let row = [
                window.cycle.as_bytes().into(),
                window.link.as_str().into(),
                (&window.traceparent).into(),
                lease.into(),
                token.into(),
            ];
            // One that was not closed, such as when the database was away, says nothing of this one.
            let before = "DELETE FROM windows WHERE link = ?1 AND cycle <> ?2";
            db.execute(
                before,
                &[window.link.as_str().into(), window.cycle.as_bytes().into()],
            )?;
            db.execute(sql, &row).map(drop)
        })
        .await
    }

    /// Closes it; says what came in it by any replica, messages and octets. `None` where this process is the only one.
    ///
    /// # Errors
    /// The database cannot be written, or the lease is lost.
    pub async fn close_window(&self, cycle: CycleId) -> Result<Option<(u32, u64)>, SpoolError> {
        if !self.is_shared() {
            return Ok(None);
        }
        let close = "DELETE FROM windows WHERE cycle = ?1";
        let count = "SELECT count(*), CAST(coalesce(sum(size), 0) AS BIGINT) FROM messages WHERE cycle = ?1";
        self.write(move |db| {
            db.execute(close, &[cycle.as_bytes().into()])?;
            db.row(count, &[cycle.as_bytes().into()], |row| {
                Ok((row.get(0)?, unsigned(row.get(1)?)))
            })
        })
        .await
    }

    /// The window that another replica has open over a link.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn window_over(&self, link: &LinkName) -> Result<Option<OpenCycle>, SpoolError> {
        if !self.is_shared() {
            return Ok(None);
        }
        let link = link.clone();
        self.read(move |db| Ok(open_windows(db, Some(&link))?.pop()))
            .await
    }

    /// Tells what came here in windows of others, as totals, and gives what is known of all windows; what came elsewhere
    /// only for those that we have open.
    ///
    /// # Errors
    /// The database cannot be read or written.
    pub async fn exchange_arrivals(
        &self,
        here: Vec<(CycleId, Came)>,
        ours: Vec<CycleId>,
    ) -> Result<Exchanged, SpoolError> {
        let Engine::Shared(shared) = &self.inner.engine else {
            return Ok(Exchanged::default());
        };
        let owner = shared.owner.clone();
        if !here.is_empty() {
            let owner = owner.clone();
            self.write(move |db| {
                here.iter()
                    .try_for_each(|(cycle, came)| tell(db, cycle, &owner, came))
            })
            .await?;
        }
        self.read(move |db| {
            let mut elsewhere = HashMap::new();
            for cycle in &ours {
                elsewhere.insert(*cycle, came_elsewhere(db, cycle, &owner)?);
            }
            let open = open_windows(db, None)?;
            Ok(Exchanged { open, elsewhere })
        })
        .await
    }
}

fn open_windows(db: &Db<'_>, over: Option<&LinkName>) -> Result<Vec<OpenCycle>, SpoolError> {
    let mut open = Vec::new();
    let (sql, link) = match over {
        Some(link) => (open!(" AND w.link = ?1 ORDER BY w.cycle"), link.as_str()),
        None => (open!(" AND ?1 = '' ORDER BY w.cycle"), ""),
    };
    db.each(sql, &[link.into()], |row| {
        let link = LinkName::parse(&row.get::<String>(0)?);
        let cycle = CycleId::from_bytes(&row.get::<Vec<u8>>(1)?);
        let traceparent = row.get(2)?;
        let named = link.ok().zip(cycle);
        open.extend(named.map(|(link, cycle)| OpenCycle {
            link,
            cycle,
            traceparent,
        }));
        Ok(())
    })?;
    Ok(open)
}

/// Nothing, once the window is closed.
fn tell(db: &Db<'_>, cycle: &CycleId, owner: &str, came: &Came) -> Result<(), SpoolError> {
    let sql = concat!(
        "INSERT INTO arrivals (cycle, owner, messages, bytes, open, stirs, at_ms) \
         SELECT cycle, CAST(?2 AS TEXT), CAST(?3 AS BIGINT), CAST(?4 AS BIGINT), CAST(?5 AS BIGINT), CAST(?6 AS BIGINT), ",
        now!(),
        " FROM windows WHERE cycle = ?1 ON CONFLICT (cycle, owner) DO UPDATE SET messages = excluded.messages, \
         bytes = excluded.bytes, open = excluded.open, stirs = excluded.stirs, at_ms = excluded.at_ms"
    );
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let row = [
        cycle.as_bytes().into(),
        owner.into(),
        came.messages.into(),
        signed(came.bytes).into(),
        came.open.into(),
        signed(came.stirs).into(),
    ];
    db.execute(sql, &row).map(drop)
}

fn came_elsewhere(db: &Db<'_>, cycle: &CycleId, owner: &str) -> Result<Came, SpoolError> {
    let sql = concat!(
        "SELECT CAST(coalesce(sum(messages), 0) AS BIGINT), CAST(coalesce(sum(bytes), 0) AS BIGINT), \
         CAST(coalesce(sum(CASE WHEN at_ms > ",
        now!(),
        " - ?3 THEN open ELSE 0 END), 0) AS BIGINT), CAST(coalesce(sum(stirs), 0) AS BIGINT) \
         FROM arrivals WHERE cycle = ?1 AND owner <> ?2"
    );
    let of = [cycle.as_bytes().into(), owner.into(), millis(GONE).into()];
    let came = db.row(sql, &of, |row| {
        Ok(Came {
            messages: row.get(0)?,
            bytes: unsigned(row.get(1)?),
            open: row.get(2)?,
            stirs: unsigned(row.get(3)?),
        })
    })?;
    Ok(came.unwrap_or_default())
}
