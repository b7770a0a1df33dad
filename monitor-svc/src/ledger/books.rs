//! Rows as types, inside one transaction or look-up.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};

use super::{JOURNAL_KEPT, LedgerError};
use crate::{
    clock::Stamp,
    names::{MonitorName, ProbeId},
    probe::{Probe, Token},
    standing::Standing,
};

/// The tables, as one transaction sees them.
pub(super) struct Books<'c> {
    pub(super) connection: &'c Connection,
}

impl<'c> Books<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection }
    }

    /// One value of one row, if there is one.
    pub(super) fn one<T: rusqlite::types::FromSql>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Option<T>, LedgerError> {
        Ok(self
            .connection
            .prepare_cached(sql)?
            .query_row(parameters, |row| row.get(0))
            .optional()?)
    }

    pub(super) fn execute(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<usize, LedgerError> {
        Ok(self.connection.prepare_cached(sql)?.execute(parameters)?)
    }

    /// The probes that a query finds, by their records.
    pub(super) fn probes(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<Probe>, LedgerError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(parameters)?;
        let mut probes = Vec::new();
        while let Some(row) = rows.next()? {
            probes.push(from_json(&row.get::<_, String>(0)?)?);
        }
        Ok(probes)
    }

    pub(super) fn standing(&self, monitor: &MonitorName) -> Result<Option<Standing>, LedgerError> {
        let json: Option<String> = self.one(
            "SELECT record FROM monitors WHERE name = ?1",
            [monitor.as_str()],
        )?;
        json.map(|json| from_json(&json)).transpose()
    }

    pub(super) fn known(&self, monitor: &MonitorName) -> Result<Standing, LedgerError> {
        self.standing(monitor)?
            .ok_or_else(|| LedgerError::Damaged(format!("monitor {monitor} is missing")))
    }

    pub(super) fn keep(&self, standing: &Standing) -> Result<(), LedgerError> {
        self.execute(
            "INSERT INTO monitors (name, record) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET record = ?2",
            params![standing.name.as_str(), to_json(standing)?],
        )?;
        Ok(())
    }

    pub(super) fn probe(&self, id: ProbeId) -> Result<Option<Probe>, LedgerError> {
        let json: Option<String> =
            self.one("SELECT record FROM probes WHERE id = ?1", [id.to_string()])?;
        json.map(|json| from_json(&json)).transpose()
    }

    pub(super) fn known_probe(&self, id: ProbeId) -> Result<Probe, LedgerError> {
        self.probe(id)?
            .ok_or_else(|| LedgerError::Damaged(format!("probe {id} is missing")))
    }

    pub(super) fn probe_of(&self, token: Token) -> Result<Option<Probe>, LedgerError> {
        let json: Option<String> = self.one(
            "SELECT record FROM probes WHERE token = ?1",
            [token.to_string()],
        )?;
        json.map(|json| from_json(&json)).transpose()
    }

    pub(super) fn newest_probe(&self, monitor: &MonitorName) -> Result<Option<Probe>, LedgerError> {
        let sql = "SELECT record FROM probes WHERE monitor = ?1 ORDER BY seq DESC LIMIT 1";
        Ok(self.probes(sql, [monitor.as_str()])?.pop())
    }

    pub(super) fn add_probe(&self, probe: &Probe) -> Result<(), LedgerError> {
        self.execute(
            "INSERT INTO probes (id, monitor, token, open, created_ms, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                probe.id.to_string(),
                probe.monitor.as_str(),
                probe.token.to_string(),
                probe.is_open(),
                probe.created.0,
                to_json(probe)?
            ],
        )?;
        Ok(())
    }

    pub(super) fn keep_probe(&self, probe: &Probe) -> Result<(), LedgerError> {
        self.execute(
            "UPDATE probes SET open = ?2, record = ?3 WHERE id = ?1",
            params![probe.id.to_string(), probe.is_open(), to_json(probe)?],
        )?;
        Ok(())
    }

    /// Writes a change into the journal, as it stands now.
    pub(super) fn note(
        &self,
        standing: &Standing,
        probe: Option<&Probe>,
        event: &str,
        now: Stamp,
    ) -> Result<(), LedgerError> {
        let probe = probe.map(to_json).transpose()?;
        self.execute(
            "INSERT INTO journal (at_ms, monitor, event, standing, probe) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![now.0, standing.name.as_str(), event, to_json(standing)?, probe],
        )?;
        let revision = self.connection.last_insert_rowid();
        self.execute(
            "DELETE FROM journal WHERE revision <= ?1",
            [revision - JOURNAL_KEPT],
        )?;
        Ok(())
    }

    /// The newest revision of the journal; 0 while it is empty.
    pub(super) fn newest_revision(&self) -> Result<i64, LedgerError> {
        Ok(self
            .one("SELECT coalesce(max(revision), 0) FROM journal", [])?
            .unwrap_or(0))
    }
}

pub(super) fn to_json<T: Serialize>(record: &T) -> Result<String, LedgerError> {
    serde_json::to_string(record).map_err(|error| LedgerError::Damaged(error.to_string()))
}

pub(super) fn from_json<T: DeserializeOwned>(json: &str) -> Result<T, LedgerError> {
    serde_json::from_str(json).map_err(|error| LedgerError::Damaged(error.to_string()))
}
