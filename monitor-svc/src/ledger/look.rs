//! Looking things up.

use rusqlite::params;

use super::{Ledger, LedgerError, books::from_json};
use crate::{
    clock::Stamp,
    names::{MonitorName, ProbeId},
    probe::Probe,
    standing::Standing,
};

/// A change, as it stood then.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// Its place; grows.
    pub revision: i64,
    /// When.
    pub at: Stamp,
    /// What happened, for a person.
    pub event: String,
    /// The monitor after it.
    pub standing: Standing,
    /// The probe that it is about.
    pub probe: Option<Probe>,
}

/// What the journal holds after a revision.
#[derive(Debug, Clone)]
pub enum Since {
    /// The changes, oldest first.
    Entries(Vec<JournalEntry>),
    /// Some of them are no longer kept; this is the oldest revision that can be resumed from.
    Compacted {
        /// Pass this, or a later one.
        oldest: i64,
    },
}

impl Ledger {
    /// What is known of a monitor, and its newest probe.
    ///
    /// # Errors
    /// It was never enrolled, or the database cannot be read.
    pub async fn standing(
        &self,
        monitor: MonitorName,
    ) -> Result<(Standing, Option<Probe>), LedgerError> {
        self.read(move |books| Ok((books.known(&monitor)?, books.newest_probe(&monitor)?)))
            .await
    }

    /// One probe, if it is kept.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn probe(&self, id: ProbeId) -> Result<Option<Probe>, LedgerError> {
        self.read(move |books| books.probe(id)).await
    }

    /// Probes of a monitor (or of all), newest first, each with its place; only those before a place.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn probes(
        &self,
        monitor: Option<MonitorName>,
        before: i64,
        limit: u32,
    ) -> Result<Vec<(i64, Probe)>, LedgerError> {
        self.read(move |books| {
            let sql = match monitor {
                Some(_) => "SELECT seq, record FROM probes WHERE monitor = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
                None => "SELECT seq, record FROM probes WHERE ?1 = '' AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
            };
            let name = monitor.as_ref().map_or("", MonitorName::as_str);
            let mut statement = books.connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![name, before, limit])?;
            let mut probes = Vec::new();
            while let Some(row) = rows.next()? {
                probes.push((row.get(0)?, from_json(&row.get::<_, String>(1)?)?));
            }
            Ok(probes)
        })
        .await
    }

    /// When the newest change was; 1970 while there is none.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn newest_time(&self) -> Result<Stamp, LedgerError> {
        self.read(|books| {
            let newest = books.one("SELECT coalesce(max(at_ms), 0) FROM journal", [])?;
            Ok(Stamp(newest.unwrap_or(0)))
        })
        .await
    }

    /// The newest revision of the journal; 0 while it is empty.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn newest_revision(&self) -> Result<i64, LedgerError> {
        self.read(|books| books.newest_revision()).await
    }

    /// What the journal holds of a monitor (or of all) after a revision.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn journal(
        &self,
        monitor: Option<MonitorName>,
        after: i64,
        limit: u32,
    ) -> Result<Since, LedgerError> {
        self.read(move |books| {
            let oldest: Option<i64> =
                books.one("SELECT coalesce(min(revision), 0) FROM journal", [])?;
            if let Some(oldest) = oldest.filter(|oldest| after.saturating_add(1) < *oldest) {
                return Ok(Since::Compacted { oldest: oldest - 1 });
            }
            let name = monitor.as_ref().map_or("", MonitorName::as_str);
            let mut statement = books.connection.prepare_cached(
                "SELECT revision, at_ms, event, standing, probe FROM journal \
                 WHERE revision > ?1 AND (?2 = '' OR monitor = ?2) ORDER BY revision LIMIT ?3",
            )?;
            let mut rows = statement.query(params![after, name, limit])?;
            let mut entries = Vec::new();
            while let Some(row) = rows.next()? {
                let probe: Option<String> = row.get(4)?;
                entries.push(JournalEntry {
                    revision: row.get(0)?,
                    at: Stamp(row.get(1)?),
                    event: row.get(2)?,
                    standing: from_json(&row.get::<_, String>(3)?)?,
                    probe: probe.map(|probe| from_json(&probe)).transpose()?,
                });
            }
            Ok(Since::Entries(entries))
        })
        .await
    }
}
