//! The tables on PostgreSQL, and how an older spool becomes a newer one. The versions are those of `schema`.

use super::{Db, postgres_session::Session};
use crate::spool::SpoolError;

/// Each entry brings a spool to the version before it. An entry that was released is never edited.
const MIGRATIONS: [(i64, &str); 2] = [
    (4, include_str!("postgres_4.sql")),
    (5, include_str!("postgres_5.sql")),
];

/// The newest version that this program knows.
const KNOWN: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Brings the tables to this program's version, in the transaction of `db`. Replicas that start together take turns.
pub(in crate::spool) fn migrate(db: &Db<'_>, place: &str) -> Result<(), SpoolError> {
    let Db::Postgres(session) = db else {
        return Ok(());
    };
    session.plain("CREATE TABLE IF NOT EXISTS linkmail_schema (version BIGINT NOT NULL)")?;
    session.plain("LOCK TABLE linkmail_schema IN ACCESS EXCLUSIVE MODE")?;
    let newest = "SELECT coalesce(max(version), 0) FROM linkmail_schema";
    let found: i64 = db.value(newest, &[])?;
    if found > KNOWN {
        return Err(SpoolError::TooNew {
            path: place.into(),
            found,
            known: KNOWN,
        });
    }
    for (version, step) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        bring(session, step)?;
        let sql = "INSERT INTO linkmail_schema (version) VALUES (?1)";
        db.execute(sql, &[(*version).into()])?;
    }
    Ok(())
}

fn bring(session: &Session<'_>, step: &'static str) -> Result<(), SpoolError> {
    session.plain(step)
}
