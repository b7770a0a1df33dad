//! The embedded spool, moved into an empty PostgreSQL database.
//!
//! Which tables and columns there are is read from both databases, and they must be the same ([`catalog`]); rows are copied
//! in batches of bounded size ([`rows`]), bodies that lie in files piece by piece ([`bodies`]). At the end rows are counted on
//! both sides, and the server says the hash of each body that it has.
//!
//! While it runs, and after it was interrupted, a row `moving` in `meta` of the database keeps relays from starting on half a
//! spool; a move that is begun again empties the tables and starts over. At the end the row says `copied`; then the
//! embedded spool is marked as moved, under the same token; then the row goes. So at each moment at most one of the two can
//! be started on, and a move that was interrupted between the last steps ends when it is begun again.
//!
//! May touch: the state folder, the database. Must not touch: what rows mean, but for `meta` and where bodies are.

mod bodies;
mod catalog;
mod destination;
mod rows;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use sqlx::postgres::PgConnectOptions;

use super::{
    BackupError, Contents, SpoolError, age,
    db::{Db, Pool, migrate},
    embedded, schema,
};
use destination::{Begun, Destination};

/// Keys of `meta`: in the database while it is half a spool; in the embedded spool once it is none any more.
const MOVING: &str = "moving";
const MOVED: &str = "moved";

/// Why the spool was not moved. It is as it was then, unless the error says that it was moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// There is nothing to be moved.
    #[error("{0}: there is no spool.sqlite: expected the state folder of a relay")]
    NoSpool(PathBuf),
    /// It went elsewhere.
    #[error("{path}: this spool was moved to {to} before")]
    AlreadyMoved {
        /// The state folder.
        path: PathBuf,
        /// Where it is now.
        to: String,
    },
    /// There is a spool in the database.
    #[error(
        "{to}: {table} has rows: expected an empty database, or one of a move that was interrupted"
    )]
    NotEmpty {
        /// The database.
        to: String,
        /// A table.
        table: String,
    },
    /// Relays run on it.
    #[error("{0}: a relay uses this database: stop it first")]
    InUse(String),
    /// Somebody began another move into it.
    #[error("{0}: another move into this database was begun meanwhile")]
    Overtaken(String),
    /// The tables are not the same on both sides.
    #[error(
        "the databases do not fit each other: {0}; both sides must be of this version of relay-svc"
    )]
    Differ(String),
    /// What was copied is not what was to be copied.
    #[error("{0}: the copy is not what was moved; begin the move again")]
    NotTheSame(String),
    /// The server said no.
    #[error("{to}: {source}")]
    Server {
        /// The database.
        to: String,
        /// What it said.
        source: sqlx::Error,
    },
    /// The server said nothing.
    #[error("{0}: no answer in time; begin the move again")]
    TimedOut(String),
    /// The embedded spool cannot be read, or marked; or the tables of the database cannot be made.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A body cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl From<rusqlite::Error> for MoveError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Spool(error.into())
    }
}

impl From<BackupError> for MoveError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Spool(error) => Self::Spool(error),
            BackupError::File { path, source } => Self::File { path, source },
            other => Self::Spool(SpoolError::Damaged(other.to_string())),
        }
    }
}

/// Moves the spool of the state folder `state`, which no relay uses, into the empty database that `options` name and people
/// know as `to`. Says what there was; nothing, when an earlier move only had to be ended.
///
/// # Errors
/// See [`MoveError`].
pub async fn move_to(
    state: &Path,
    options: PgConnectOptions,
    to: &str,
) -> Result<Option<Contents>, MoveError> {
    if !schema::exists(state) {
        return Err(MoveError::NoSpool(state.to_owned()));
    }
    let _lock = embedded::lock(state)?;
    let source = schema::open(state)?;
    if let Some((token, place)) = mark(&source)? {
        let mut destination = Destination::connect(&options, to, token).await?;
        return match destination.end().await {
            Ok(true) => Ok(None),
            Ok(false) => Err(MoveError::AlreadyMoved {
                path: state.to_owned(),
                to: place,
            }),
            Err(error) => Err(error),
        };
    }
    make_tables(&options, to).await?;
    let token = uuid::Uuid::new_v4().as_simple().to_string();
    let mut destination = Destination::connect(&options, to, token).await?;
    let tables = catalog::tables(&source, &destination.columns().await?)?;
    match destination.begin(&tables).await? {
        Begun::Empty => {}
        Begun::Filled(table) => {
            let to = to.to_owned();
            return Err(MoveError::NotEmpty { to, table });
        }
        Begun::Used => return Err(MoveError::InUse(to.to_owned())),
    }
    let mut contents = Contents::default();
    contents.count(&source)?;
    for table in &tables {
        rows::copy(&source, table, &mut destination).await?;
    }
    bodies::copy(&source, state, &mut destination, &mut contents).await?;
    rows::verify(&source, &tables, &mut destination).await?;
    bodies::verify(&source, &mut destination, &mut contents).await?;
    destination.copied().await?;
    let value = format!("{} {to}", destination.token());
    source.execute(age::KEEP, [MOVED, &value])?;
    destination.end().await?;
    Ok(Some(contents))
}

async fn make_tables(options: &PgConnectOptions, to: &str) -> Result<(), MoveError> {
    let (pool, place) = (Pool::new(options.clone()), to.to_owned());
    let made = pool.change(move |db| migrate(db, &place)).await;
    pool.close().await;
    Ok(made?)
}

/// Under which token the embedded spool was moved, and where.
fn mark(source: &Connection) -> Result<Option<(String, String)>, SpoolError> {
    moved(&Db::Sqlite(source))
}

fn moved(db: &Db<'_>) -> Result<Option<(String, String)>, SpoolError> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    let value: Option<String> = db.row(sql, &[MOVED.into()], |row| row.get(0))?;
    Ok(value.map(|value| match value.split_once(' ') {
        Some((token, place)) => (token.to_owned(), place.to_owned()),
        None => (String::new(), value),
    }))
}

/// Whether a relay may start on the embedded spool.
pub(super) fn refuse_moved(db: &Db<'_>, folder: &Path) -> Result<(), SpoolError> {
    match moved(db)? {
        None => Ok(()),
        Some((_, to)) => Err(SpoolError::Moved {
            path: folder.to_owned(),
            to,
        }),
    }
}

/// Whether a relay may start on the database.
pub(super) fn refuse_half_moved(db: &Db<'_>, place: &str) -> Result<(), SpoolError> {
    let sql = "SELECT 1 FROM meta WHERE key = ?1";
    match db.exists(sql, &[MOVING.into()])? {
        false => Ok(()),
        true => Err(SpoolError::HalfMoved {
            place: place.to_owned(),
        }),
    }
}
