//! Cycles and the journal of their changes, in the same database as the mail.
//!
//! Each change of a cycle is a row of the journal with a revision that only grows, so that a watcher can resume
//! after a restart of either side. The newest [`JOURNAL_KEPT`] rows are kept, and the newest [`CYCLES_KEPT`] cycles
//! of each link.

use super::{
    Spool, SpoolError,
    calls::{self, CallId},
    db::Db,
    requests,
    requests::RequestKey,
};
use crate::{
    clock::Stamp,
    cycle::Record,
    names::{CycleId, LinkName},
};

const JOURNAL_KEPT: i64 = 5_000;
const CYCLES_KEPT: i64 = 10_000;

/// One change of a cycle.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// Grows with each change.
    pub revision: i64,
    /// What happened, in words.
    pub event: String,
    /// The cycle after it.
    pub record: Record,
}

/// What the journal holds after a revision.
#[derive(Debug, Clone)]
pub enum Since {
    /// The changes, oldest first, up to the limit.
    Entries(Vec<JournalEntry>),
    /// Some of them are no longer kept; this is the oldest revision that can be resumed from.
    Compacted {
        /// Pass this, or a later one.
        oldest: i64,
    },
}

impl Spool {
    /// Keeps a cycle that begins, with the identity of the call that started it. Whether that call is a repeat is asked
    /// first, of [`Self::repeated_cycle`]: a link has one keeper, so nothing comes between the two. `call` is the call if
    /// another replica handed it on, and is answered by this; says whether it was still waited for. If not, nothing is kept.
    ///
    /// # Errors
    /// The disk is full, or the request id was used before.
    pub async fn begin_cycle(
        &self,
        record: &Record,
        request: Option<RequestKey>,
        call: Option<CallId>,
    ) -> Result<bool, SpoolError> {
        let (record, clock) = (record.clone(), self.clock());
        let change = self.write(move |db| {
            if let Some(call) = call
                && !calls::starts(db, call, record.id)?
            {
                return Ok(None);
            }
            if let Some(key) = &request
                && !(db.may_be_done() && requests::find(db, key)?.is_some())
            {
                requests::remember(db, key, record.id.as_bytes(), clock)?;
            }
            let (id, link, json) = (
                record.id.as_bytes(),
                record.link.as_str(),
                to_json(&record)?,
            );
            db.execute(
                "INSERT INTO cycles (id, link, record) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING",
                &[id.into(), link.into(), (&json).into()],
            )?;
            trim(db, &record.link)?;
            let event = format!("started by {}", record.trigger.as_str());
            note(db, &record, &event, record.start).map(Some)
        });
        let revision = change.await?;
        if let Some(revision) = revision {
            self.inner.signals.journal_grew(revision);
        }
        Ok(revision.is_some())
    }

    /// What a call with this request id started, if it was made before.
    ///
    /// # Errors
    /// The database cannot be read, or the id was used with other arguments.
    pub async fn repeated_cycle(&self, request: RequestKey) -> Result<Option<CycleId>, SpoolError> {
        let target = self.read(move |db| requests::find(db, &request)).await?;
        Ok(target.and_then(|id| CycleId::from_bytes(&id)))
    }

    /// Keeps a cycle as it stands now, with a line of the journal.
    ///
    /// # Errors
    /// The disk is full.
    pub async fn save_cycle(
        &self,
        record: &Record,
        event: &str,
        now: Stamp,
    ) -> Result<(), SpoolError> {
        let (record, event) = (record.clone(), event.to_owned());
        let change = self.write(move |db| {
            let complete = record.outcome == Some(crate::cycle::Outcome::Complete);
            let (id, end) = (record.id.as_bytes(), record.end.map(|end| end.0));
            db.execute(
                "UPDATE cycles SET ended_ms = ?2, complete = ?3, record = ?4 WHERE id = ?1",
                &[
                    id.into(),
                    end.into(),
                    complete.into(),
                    (&to_json(&record)?).into(),
                ],
            )?;
            note(db, &record, &event, now)
        });
        let revision = change.await?;
        self.inner.signals.journal_grew(revision);
        Ok(())
    }

    /// One cycle, if it is kept.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn cycle(&self, id: CycleId) -> Result<Option<Record>, SpoolError> {
        self.read(move |db| {
            let sql = "SELECT record FROM cycles WHERE id = ?1";
            let json = db.row(sql, &[id.as_bytes().into()], |row| row.get::<String>(0))?;
            json.map(|json| from_json(&json)).transpose()
        })
        .await
    }

    /// Cycles of a link (or of all), newest first, each with its place; only those before a place.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn cycles(
        &self,
        link: Option<LinkName>,
        before: i64,
        limit: u32,
    ) -> Result<Vec<(i64, Record)>, SpoolError> {
        self.read(move |db| {
            let sql = match link {
                Some(_) => "SELECT seq, record FROM cycles WHERE link = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
                None => "SELECT seq, record FROM cycles WHERE ?1 = '' AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
            };
            let name = link.as_ref().map_or("", LinkName::as_str);
            let mut cycles = Vec::new();
            db.each(sql, &[name.into(), before.into(), limit.into()], |row| {
                let place: i64 = row.get(0)?;
                cycles.extend(readable(&row.get::<String>(1)?).map(|record| (place, record)));
                Ok(())
            })?;
            Ok(cycles)
        })
        .await
    }

    /// The cycles that have not ended: after a start, those that the process before left behind.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open_cycles(&self) -> Result<Vec<Record>, SpoolError> {
        self.read(|db| {
            let mut cycles = Vec::new();
            let sql = "SELECT record FROM cycles WHERE ended_ms IS NULL ORDER BY seq";
            db.each(sql, &[], |row| {
                cycles.extend(readable(&row.get::<String>(0)?));
                Ok(())
            })?;
            Ok(cycles)
        })
        .await
    }

    /// When the last complete cycle of a link ended.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn last_complete(&self, link: LinkName) -> Result<Option<Stamp>, SpoolError> {
        let sql = "SELECT max(ended_ms) FROM cycles WHERE link = ?1 AND complete = 1";
        let found: Option<i64> = self
            .read(move |db| db.value(sql, &[link.as_str().into()]))
            .await?;
        Ok(found.map(Stamp))
    }

    /// The newest revision of the journal; 0 while it is empty.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn newest_revision(&self) -> Result<i64, SpoolError> {
        let sql = "SELECT coalesce(max(revision), 0) FROM journal";
        self.read(move |db| db.value(sql, &[])).await
    }

    /// What the journal holds of a link (or of all) after a revision, with the revision up to which that is all.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn journal(
        &self,
        link: Option<LinkName>,
        after: i64,
        limit: u32,
    ) -> Result<Since, SpoolError> {
        self.read(move |db| {
            let oldest: Option<i64> = db.value("SELECT min(revision) FROM journal", &[])?;
            if oldest.is_some_and(|oldest| after.saturating_add(1) < oldest) {
                return Ok(Since::Compacted { oldest: oldest.unwrap_or(1) - 1 });
            }
            let name = link.as_ref().map_or("", LinkName::as_str);
            let sql = "SELECT revision, event, record FROM journal WHERE revision > ?1 AND (?2 = '' OR link = ?2) \
                       ORDER BY revision LIMIT ?3";
            let entries = db.query(sql, &[after.into(), name.into(), limit.into()], |row| {
                let record = from_json(&row.get::<String>(2)?)?;
                Ok(JournalEntry { revision: row.get(0)?, event: row.get(1)?, record })
            });
            Ok(Since::Entries(entries?))
        })
        .await
    }
}

pub(super) fn note(
    db: &Db<'_>,
    record: &Record,
    event: &str,
    now: Stamp,
) -> Result<i64, SpoolError> {
    let (link, json) = (record.link.as_str(), to_json(record)?);
    // Revisions are committed in their order: who reads on behind one misses none.
    db.lock("SELECT 1 FROM meta WHERE key = 'journal' FOR UPDATE", &[])?;
    let revision = db.insert(
        "INSERT INTO journal (at_ms, link, event, record) VALUES (?1, ?2, ?3, ?4)",
        "revision",
        &[now.0.into(), link.into(), event.into(), (&json).into()],
    )?;
    let old = revision - JOURNAL_KEPT;
    db.execute("DELETE FROM journal WHERE revision <= ?1", &[old.into()])?;
    Ok(revision)
}

fn trim(db: &Db<'_>, link: &LinkName) -> Result<(), SpoolError> {
    db.execute(
        "DELETE FROM cycles WHERE link = ?1 AND ended_ms IS NOT NULL AND seq <= \
         (SELECT seq FROM cycles WHERE link = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        &[link.as_str().into(), CYCLES_KEPT.into()],
    )
    .map(drop)
}

/// A row that cannot be read is passed over, and does not keep the rest from being seen.
fn readable(json: &str) -> Option<Record> {
    from_json(json)
        .inspect_err(|error| tracing::warn!(%error, "a cycle is passed over"))
        .ok()
}

fn to_json(record: &Record) -> Result<String, SpoolError> {
    serde_json::to_string(record).map_err(|error| SpoolError::Damaged(format!("cycle: {error}")))
}

fn from_json(json: &str) -> Result<Record, SpoolError> {
    serde_json::from_str(json).map_err(|error| SpoolError::Damaged(format!("cycle: {error}")))
}
