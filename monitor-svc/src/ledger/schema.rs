//! The tables, and how an older ledger becomes a newer one.

use std::path::Path;

use linkmail_service::sqlite::{self, MigrateError};
use rusqlite::Connection;

use super::LedgerError;

/// The file in the state folder.
const FILE: &str = "ledger.sqlite";

/// Each entry takes a ledger from its index to the next version. An entry that was released is never edited.
const MIGRATIONS: [&str; 1] = [r"
CREATE TABLE monitors (
    name   TEXT PRIMARY KEY,
    record TEXT NOT NULL                 -- JSON of Standing
) STRICT;

CREATE TABLE probes (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    monitor    TEXT NOT NULL,
    token      TEXT NOT NULL UNIQUE,
    open       INTEGER NOT NULL,         -- 1 while its report is awaited
    created_ms INTEGER NOT NULL,
    record     TEXT NOT NULL             -- JSON of Probe
) STRICT;
CREATE INDEX probes_monitor ON probes (monitor, seq);
CREATE INDEX probes_open ON probes (created_ms) WHERE open = 1;
CREATE INDEX probes_age ON probes (created_ms);

CREATE TABLE reports (
    name    TEXT PRIMARY KEY,            -- of the relay: a report that comes again is the same one
    seen_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX reports_age ON reports (seen_ms);

CREATE TABLE outbox (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    monitor     TEXT NOT NULL,
    created_ms  INTEGER NOT NULL,
    next_ms     INTEGER NOT NULL,        -- the next attempt
    attempts    INTEGER NOT NULL,
    notice      TEXT NOT NULL,           -- JSON of Notice
    traceparent TEXT NOT NULL            -- of the change that it tells of
) STRICT;
CREATE INDEX outbox_monitor ON outbox (monitor, seq);

CREATE TABLE requests (
    id         TEXT PRIMARY KEY,
    monitor    TEXT NOT NULL,
    probe      TEXT NOT NULL,            -- the probe that the first call ran
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_age ON requests (created_ms);

CREATE TABLE journal (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms    INTEGER NOT NULL,
    monitor  TEXT NOT NULL,
    event    TEXT NOT NULL,
    standing TEXT NOT NULL,
    probe    TEXT                        -- the probe that the change is about
) STRICT;
"];

/// The write-ahead log is cut to this after a checkpoint.
const LOG_BYTES: i64 = 16 * 1024 * 1024;

/// Opens the database, and brings its tables to this program's version.
pub(super) fn open(folder: &Path) -> Result<Connection, LedgerError> {
    let path = folder.join(FILE);
    let mut connection = sqlite::open(&path, LOG_BYTES).map_err(|error| LedgerError::Folder {
        path: folder.to_owned(),
        source: std::io::Error::other(error.to_string()),
    })?;
    sqlite::migrate(&mut connection, &MIGRATIONS).map_err(|error| match error {
        MigrateError::TooNew { found, known } => LedgerError::TooNew { path, found, known },
        MigrateError::Damaged(_) => LedgerError::Damaged(error.to_string()),
        MigrateError::Database(error) => error.into(),
    })?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_of_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open(folder.path()).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("written by a newer version (schema 99; this one knows 1)"),
            "{error}"
        );
    }
}
