//! How both daemons keep a SQLite database: nothing committed is lost, and an older one becomes a newer one.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, config::DbConfig};

/// Somebody with a tool of his own may hold the database for so long.
const BUSY: Duration = Duration::from_secs(5);

/// Why the tables cannot be brought to this program's version.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// They were written by a newer version.
    #[error("schema {found}; this one knows {known}")]
    TooNew {
        /// The schema version that was found.
        found: i64,
        /// The newest schema version that this program knows.
        known: i64,
    },
    /// The version is none.
    #[error("schema version {0}")]
    Damaged(i64),
    /// The database refused.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
}

/// Opens a database for writing, making it if it is missing: WAL, and every commit synced (`synchronous=FULL`). The log is
/// cut to `journal_bytes` after a checkpoint.
///
/// # Errors
/// The file cannot be made, or is no database.
pub fn open(path: &Path, journal_bytes: i64) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    // Before the first page is written; without effect on a database that is there.
    connection.pragma_update(None, "page_size", 8192)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "journal_size_limit", journal_bytes)?;
    // What a savepoint may have to take back is kept in memory, not in a file of its own.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    keep_plans(&connection)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Has the plan of a statement depend on its text alone. Otherwise SQLite, which is built with STAT4, plans a kept statement
/// anew each time that other values are bound to it.
///
/// # Errors
/// The library does not know how.
pub fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    let on = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true);
    on.map(drop)
}

/// Brings the tables to this program's version, each step in a transaction of its own. A step takes a database from its
/// index to the next version; one that was released is never edited.
///
/// # Errors
/// The tables are of a newer version, or a step failed; what was done before it stays.
pub fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<(), MigrateError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(MigrateError::TooNew { found, known });
    }
    let first = usize::try_from(found).map_err(|_| MigrateError::Damaged(found))?;
    for (version, step) in (1_i64..).zip(steps).skip(first) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [&str; 2] = ["CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y"];

    #[test]
    fn steps_are_taken_once_and_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = open(&folder.path().join("x.sqlite"), 1024).unwrap();
        migrate(&mut connection, &STEPS[..1]).unwrap();
        migrate(&mut connection, &STEPS).unwrap();
        migrate(&mut connection, &STEPS).unwrap();
        connection
            .execute("INSERT INTO a VALUES (1, 2)", [])
            .unwrap();
        let error = migrate(&mut connection, &STEPS[..1]).unwrap_err();
        assert!(matches!(error, MigrateError::TooNew { found: 2, known: 1 }));
        connection.pragma_update(None, "user_version", -1).unwrap();
        let error = migrate(&mut connection, &STEPS).unwrap_err();
        assert!(matches!(error, MigrateError::Damaged(-1)));
    }
}
