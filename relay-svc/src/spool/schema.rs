//! The tables of the embedded engine, and how an older spool becomes a newer one.

use std::{path::Path, time::Duration};

use linkmail_service::sqlite::{self, MigrateError};
use rusqlite::{Connection, OpenFlags};

use super::SpoolError;

/// The file in the state folder.
pub(super) const FILE: &str = "spool.sqlite";

/// Each entry takes a spool from its index to the next version. An entry that was released is never edited.
const MIGRATIONS: [&str; 5] = [
    r"
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE messages (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           BLOB NOT NULL UNIQUE,
    accepted_ms  INTEGER NOT NULL,
    reverse_path BLOB NOT NULL,          -- empty: the null reverse path
    origin       TEXT NOT NULL,          -- smtp, grpc, report
    link         TEXT,                   -- the link it came over
    cycle        BLOB,                   -- the cycle during which it came
    size         INTEGER NOT NULL,       -- octets of the body
    eight_bit    INTEGER NOT NULL,
    hash         BLOB NOT NULL,          -- SHA-256 of the body
    body_file    TEXT,                   -- in bodies/; NULL: the body is in the table bodies
    traceparent  TEXT NOT NULL,          -- the creation context; empty: none
    done_ms      INTEGER                 -- when the last recipient got its outcome; the body is gone then
) STRICT;
CREATE INDEX messages_file ON messages (body_file) WHERE body_file IS NOT NULL;
CREATE INDEX messages_done ON messages (done_ms) WHERE done_ms IS NOT NULL;

CREATE TABLE bodies (
    seq     INTEGER PRIMARY KEY REFERENCES messages (seq) ON DELETE CASCADE,
    content BLOB NOT NULL
) STRICT;

CREATE TABLE recipients (
    seq        INTEGER NOT NULL REFERENCES messages (seq) ON DELETE CASCADE,
    idx        INTEGER NOT NULL,
    address    BLOB NOT NULL,
    hop        TEXT NOT NULL,
    state      INTEGER NOT NULL,         -- RecipientState
    due_ms     INTEGER NOT NULL,         -- next attempt, while queued
    attempts   INTEGER NOT NULL DEFAULT 0,
    waited_ms  INTEGER NOT NULL DEFAULT 0, -- between counted attempts
    tried_ms   INTEGER,                  -- the last counted attempt
    last_reply TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (seq, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX recipients_due ON recipients (hop, due_ms, seq) WHERE state = 1;
CREATE INDEX recipients_state ON recipients (state, seq);

CREATE TABLE requests (
    id         BLOB PRIMARY KEY,
    target     BLOB NOT NULL,            -- the message or cycle that the first call made
    digest     BLOB NOT NULL,            -- of the call's arguments
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_age ON requests (created_ms);

CREATE TABLE cycles (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         BLOB NOT NULL UNIQUE,
    link       TEXT NOT NULL,
    ended_ms   INTEGER,
    complete   INTEGER NOT NULL DEFAULT 0,
    record     TEXT NOT NULL             -- JSON of cycle::Record
) STRICT;
CREATE INDEX cycles_link ON cycles (link, seq);
CREATE INDEX cycles_complete ON cycles (link, ended_ms) WHERE complete = 1;

CREATE TABLE journal (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms    INTEGER NOT NULL,
    link     TEXT NOT NULL,
    event    TEXT NOT NULL,
    record   TEXT NOT NULL
) STRICT;
",
    r"
-- The reading of the spool's own clock when the recipient came to its next hop; see spool/age.rs.
ALTER TABLE recipients ADD COLUMN since_ms INTEGER NOT NULL DEFAULT 0;
-- A row names its file only while the file is to be kept.
UPDATE messages SET body_file = NULL WHERE done_ms IS NOT NULL;

CREATE INDEX recipients_held ON recipients (hop, seq) WHERE state = 6;
CREATE INDEX recipients_held_since ON recipients (since_ms, seq, hop) WHERE state = 6;
CREATE INDEX recipients_report ON recipients (seq) WHERE hop = 'report';
CREATE INDEX recipients_unread ON recipients (seq) WHERE hop = 'report' AND state = 1;
CREATE INDEX recipients_unread_since ON recipients (since_ms) WHERE hop = 'report' AND state = 1;

CREATE TABLE nodes (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    node         TEXT NOT NULL UNIQUE,
    reversed     TEXT NOT NULL UNIQUE,   -- example.branch: what is below a domain is one stretch of the index
    seen_ms      INTEGER NOT NULL,       -- mail came for it, or it was asked for
    requested    INTEGER NOT NULL DEFAULT 0, -- the number of the newest request
    requested_ms INTEGER,
    upto         INTEGER NOT NULL DEFAULT 0, -- it asks for messages up to this place
    done         INTEGER NOT NULL DEFAULT 0, -- the number of the newest request that is over
    last_release TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX nodes_open ON nodes (seq) WHERE requested > done;
CREATE INDEX nodes_seen ON nodes (seen_ms);
",
    r"
-- What the sender asked for (RFC 3461); NULL: nothing.
ALTER TABLE messages ADD COLUMN ret TEXT;          -- FULL, HDRS
ALTER TABLE messages ADD COLUMN envelope_id TEXT;  -- as xtext
ALTER TABLE messages ADD COLUMN utf8_header INTEGER NOT NULL DEFAULT 0; -- it needs SMTPUTF8 (RFC 6532)
ALTER TABLE recipients ADD COLUMN notify TEXT;     -- NEVER, or a list of SUCCESS, FAILURE, DELAY
ALTER TABLE recipients ADD COLUMN original TEXT;   -- type;xtext
-- Attempts whose reply was lost.
ALTER TABLE recipients ADD COLUMN doubts INTEGER NOT NULL DEFAULT 0;

-- What other relays handed over under an id of theirs, so that a repeat is recognised (docs/xlinkmail.md).
CREATE TABLE repeats (
    peer     TEXT NOT NULL,
    id       BLOB NOT NULL,
    address  BLOB NOT NULL,
    message  BLOB NOT NULL,            -- the identity that the message got here
    since_ms INTEGER NOT NULL,         -- the reading of the spool's own clock
    PRIMARY KEY (peer, id, address)
) STRICT, WITHOUT ROWID;
CREATE INDEX repeats_since ON repeats (since_ms);
",
    r"
-- MTA-STS policies of domains (RFC 8461 5.1): a restart must not take one back.
CREATE TABLE policies (
    domain  TEXT PRIMARY KEY,
    entry   TEXT NOT NULL,             -- JSON of outbound::direct::sts::kept::Entry
    ends_ms INTEGER NOT NULL           -- of no more use then
) STRICT, WITHOUT ROWID;
CREATE INDEX policies_ends ON policies (ends_ms);
",
    r"
ALTER TABLE messages ADD COLUMN priority INTEGER NOT NULL DEFAULT 0; -- -9 to 9 (RFC 6710), as it was accepted
ALTER TABLE messages ADD COLUMN deliver_by TEXT;     -- the value of BY= (RFC 2852); its time began at accepted_ms
ALTER TABLE messages ADD COLUMN deadline_ms INTEGER; -- when it ends, by the clock by which mail is due; NULL once all is done
CREATE INDEX messages_deadline ON messages (deadline_ms) WHERE deadline_ms IS NOT NULL;

ALTER TABLE recipients ADD COLUMN late_ms INTEGER;   -- when it was found late, and the sender told if that was wanted
-- So many attempts had been counted when the backoff began anew.
ALTER TABLE recipients ADD COLUMN attempts_before INTEGER NOT NULL DEFAULT 0;
-- What goes first, in the order of the index: the priority with its sign turned, then who has the turn (queue/order.rs).
ALTER TABLE recipients ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recipients ADD COLUMN lane INTEGER NOT NULL DEFAULT 0;
DROP INDEX recipients_due;
CREATE INDEX recipients_turn ON recipients (hop, rank, lane, due_ms, seq) WHERE state = 1;

-- What was a time of the wall clock is a reading of the spool's own: due_ms of its second hand, the others of its first
-- (spool/age.rs).
INSERT OR IGNORE INTO meta (key, value) VALUES ('clock_ms', '0');
UPDATE recipients SET
    due_ms = c.value + min(due_ms - c.now, 14400000),
    tried_ms = CASE WHEN tried_ms IS NULL THEN NULL ELSE c.value END
    FROM (SELECT CAST(value AS INTEGER) AS value, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS now
          FROM meta WHERE key = 'clock_ms') AS c
    WHERE state IN (1, 5, 6);
UPDATE messages SET done_ms = c.value
    FROM (SELECT CAST(value AS INTEGER) AS value FROM meta WHERE key = 'clock_ms') AS c WHERE done_ms IS NOT NULL;
UPDATE requests SET created_ms = c.value
    FROM (SELECT CAST(value AS INTEGER) AS value FROM meta WHERE key = 'clock_ms') AS c;
UPDATE nodes SET seen_ms = c.value
    FROM (SELECT CAST(value AS INTEGER) AS value FROM meta WHERE key = 'clock_ms') AS c;

ALTER TABLE recipients ADD COLUMN settled_ms INTEGER; -- when it got its outcome, by the wall clock
ALTER TABLE recipients ADD COLUMN host TEXT NOT NULL DEFAULT ''; -- who was spoken to then
-- What was tried again, and what operators did; the newest 100 of each recipient (spool/history.rs).
CREATE TABLE attempts (
    seq      INTEGER NOT NULL REFERENCES messages (seq) ON DELETE CASCADE,
    idx      INTEGER NOT NULL,
    number   INTEGER NOT NULL,         -- 1, 2, 3 ... of the recipient
    at_ms    INTEGER NOT NULL,         -- by the wall clock
    outcome  TEXT NOT NULL,            -- deferred, in_doubt, held, released, ...
    host     TEXT NOT NULL,            -- who was spoken to; empty: nobody
    reply    TEXT NOT NULL,
    operator TEXT NOT NULL,            -- who did it; empty: it was an attempt
    PRIMARY KEY (seq, idx, number)
) STRICT, WITHOUT ROWID;
",
];

/// Whether there is a database.
pub(super) fn exists(folder: &Path) -> bool {
    folder.join(FILE).exists()
}

/// The write-ahead log is cut to this after a checkpoint.
const LOG_BYTES: i64 = 64 * 1024 * 1024;

/// Opens the database for the writer thread, and brings its tables to this program's version.
pub(super) fn open(folder: &Path) -> Result<Connection, SpoolError> {
    let path = folder.join(FILE);
    let mut connection = sqlite::open(&path, LOG_BYTES).map_err(|error| SpoolError::Folder {
        path: folder.to_owned(),
        source: std::io::Error::other(error.to_string()),
    })?;
    sqlite::migrate(&mut connection, &MIGRATIONS).map_err(|error| match error {
        MigrateError::TooNew { found, known } => SpoolError::TooNew { path, found, known },
        MigrateError::Damaged(_) => SpoolError::Damaged(error.to_string()),
        MigrateError::Database(error) => error.into(),
    })?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// More than there are statements: each is prepared once for a connection.
const STATEMENTS: usize = 128;

/// Opens a database that is there for writing, beside the connection of the writer thread.
pub(super) fn open_beside(folder: &Path) -> Result<Connection, SpoolError> {
    Ok(sqlite::open(&folder.join(FILE), LOG_BYTES)?)
}

/// Opens the database for look-ups.
pub(super) fn open_reader(folder: &Path) -> Result<Connection, SpoolError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(folder.join(FILE), flags)?;
    sqlite::keep_plans(&connection)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Opens a copy of the database, which nobody else uses, for look-ups.
pub(super) fn open_copy(path: &Path) -> Result<Connection, SpoolError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(path, flags)?)
}

/// Whether the tables are of a version that this program knows.
pub(super) fn known(connection: &Connection, path: &Path) -> Result<(), SpoolError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    match found {
        1.. if found <= known => Ok(()),
        ..=0 => Err(SpoolError::Damaged(format!("schema version {found}"))),
        _ => Err(SpoolError::TooNew {
            path: path.join(FILE),
            found,
            known,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_of_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open(folder.path()).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("written by a newer version (schema 99; this one knows 5)"),
            "{error}"
        );
    }

    #[test]
    fn a_spool_of_the_first_version_becomes_one_of_this() {
        let folder = tempfile::tempdir().unwrap();
        let mut old = sqlite::open(&folder.path().join(FILE), LOG_BYTES).unwrap();
        sqlite::migrate(&mut old, &MIGRATIONS[..1]).unwrap();
        for (seq, done, file) in [(1, None, Some("kept")), (2, Some(5), Some("gone"))] {
            let sql = "INSERT INTO messages (seq, id, accepted_ms, reverse_path, origin, size, eight_bit, hash, body_file, \
                       traceparent, done_ms) VALUES (?1, ?1, 0, x'', 'smtp', 0, 0, x'', ?3, '', ?2)";
            let row = rusqlite::params![seq.to_string().into_bytes(), done, file];
            let sql = sql.replace("VALUES (?1, ?1", &format!("VALUES ({seq}, ?1"));
            old.execute(&sql, row).unwrap();
        }
        drop(old);
        let new = open(folder.path()).unwrap();
        let mut files = new
            .prepare("SELECT body_file FROM messages ORDER BY seq")
            .unwrap();
        let files = files.query_map([], |row| row.get(0)).unwrap();
        let files: Vec<Option<String>> = files.map(Result::unwrap).collect();
        assert_eq!(files, [Some("kept".to_owned()), None]);
    }
}
