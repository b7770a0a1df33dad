//! The port between the spool and its database: every statement of the spool is written once, and runs on either engine.
//!
//! The dialect is what both know, with parameters `?1`, `?2` and so on, and two hints for SQLite's planner: `INDEXED BY` and
//! the unary `+`. For PostgreSQL `postgres_session` translates parameters and leaves the hints out. Flags are integers, texts are
//! compared by their octets.
//!
//! Rows are handed out one by one, and what a column holds is read where it lies. SQLite gives a row when it is asked for
//! the next; PostgreSQL has sent them all by then, so a statement without a bound on its rows has a `LIMIT`.
//!
//! May touch: databases. Must not touch: what rows mean.

mod postgres;
mod postgres_schema;
mod postgres_session;
mod sqlite;

use rusqlite::Connection;

use super::SpoolError;
pub(super) use postgres::Pool;
pub(super) use postgres_schema::migrate;

/// What is bound to a parameter.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// Nothing.
    Null,
    /// A number, a flag, a time in milliseconds.
    Int(i64),
    /// Text.
    Text(&'a str),
    /// Octets.
    Blob(&'a [u8]),
}

/// What a column holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column<'r> {
    /// Nothing.
    Null,
    /// A number or a flag.
    Int(i64),
    /// Text.
    Text(&'r str),
    /// Octets.
    Blob(&'r [u8]),
}

/// A row of an answer.
pub(super) enum Row<'r> {
    /// SQLite's, before the next one is asked for.
    Sqlite(&'r rusqlite::Row<'r>),
    /// PostgreSQL's.
    Postgres(&'r sqlx::postgres::PgRow),
}

/// What a database said that the spool cannot go on from.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL, with its SQLSTATE.
    #[error("{message} ({code})")]
    Postgres {
        /// The SQLSTATE; empty if the library said it.
        code: String,
        /// In words.
        message: String,
    },
}

impl DatabaseError {
    /// Whether a change met another one, and is to be run again: serialization_failure, deadlock_detected,
    /// lock_not_available, unique_violation.
    fn met_another(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres { code, .. } => {
                ["40001", "40P01", "55P03", "23505"].contains(&code.as_str())
            }
        }
    }
}

/// A connection to the database, or a transaction on it.
pub(super) enum Db<'c> {
    /// SQLite, of this process alone.
    Sqlite(&'c Connection),
    /// PostgreSQL, which others use too.
    Postgres(&'c postgres_session::Session<'c>),
}

/// What can be read from a column.
pub(super) trait FromColumn: Sized {
    /// `None` if the column holds something else.
    fn from_column(column: Column<'_>) -> Option<Self>;
}

impl Row<'_> {
    /// What the column at this place holds, counted from 0.
    ///
    /// # Errors
    /// It is something else: the row is damaged.
    pub(super) fn get<T: FromColumn>(&self, place: usize) -> Result<T, SpoolError> {
        let column = match self {
            Self::Sqlite(row) => sqlite::column(row, place)?,
            Self::Postgres(row) => postgres_session::column(row, place)?,
        };
        T::from_column(column)
            .ok_or_else(|| SpoolError::Damaged(format!("column {place} holds {column:?}")))
    }
}

impl Db<'_> {
    /// Runs a statement; says how many rows it changed.
    pub(super) fn execute(
        &self,
        sql: &'static str,
        parameters: &[Value<'_>],
    ) -> Result<u64, SpoolError> {
        match self {
            Self::Sqlite(connection) => sqlite::execute(connection, sql, parameters),
            Self::Postgres(session) => session.execute(sql, parameters),
        }
    }

    /// Inserts one row into a table that numbers its rows in the column `number`; says which number it got.
    pub(super) fn insert(
        &self,
        sql: &'static str,
        number: &'static str,
        parameters: &[Value<'_>],
    ) -> Result<i64, SpoolError> {
        match self {
            Self::Sqlite(connection) => sqlite::insert(connection, sql, parameters),
            Self::Postgres(session) => match session.fetch(sql, number, parameters)?.first() {
                Some(row) => Row::Postgres(row).get(0),
                None => Err(SpoolError::Damaged("a row without a number".into())),
            },
        }
    }

    /// Hands out the rows of an answer, one by one.
    pub(super) fn each(
        &self,
        sql: &'static str,
        parameters: &[Value<'_>],
        take: impl FnMut(&Row<'_>) -> Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
        match self {
            Self::Sqlite(connection) => sqlite::each(connection, sql, parameters, take),
            Self::Postgres(session) => {
                postgres_session::each(&session.fetch(sql, "", parameters)?, take)
            }
        }
    }

    /// What is read of each row.
    pub(super) fn query<T>(
        &self,
        sql: &'static str,
        parameters: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T, SpoolError>,
    ) -> Result<Vec<T>, SpoolError> {
        let mut found = Vec::new();
        self.each(sql, parameters, |row| {
            found.push(read(row)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// What is read of the first row, if there is one.
    pub(super) fn row<T>(
        &self,
        sql: &'static str,
        parameters: &[Value<'_>],
        read: impl FnOnce(&Row<'_>) -> Result<T, SpoolError>,
    ) -> Result<Option<T>, SpoolError> {
        match self {
            Self::Sqlite(connection) => sqlite::row(connection, sql, parameters, read),
            Self::Postgres(session) => {
                let rows = session.fetch(sql, "", parameters)?;
                rows.first()
                    .map(|row| read(&Row::Postgres(row)))
                    .transpose()
            }
        }
    }

    /// The one value of an answer of one row, such as a count.
    pub(super) fn value<T: FromColumn>(
        &self,
        sql: &'static str,
        parameters: &[Value<'_>],
    ) -> Result<T, SpoolError> {
        self.row(sql, parameters, |row| row.get(0))?
            .ok_or_else(|| SpoolError::Damaged("an answer without a row".into()))
    }

    /// Locks the rows that a `FOR UPDATE` names until the end of the change; says whether there was one. SQLite has one
    /// writer: nothing is to be locked there, and nothing is asked.
    pub(super) fn lock(
        &self,
        sql: &'static str,
        parameters: &[Value<'_>],
    ) -> Result<bool, SpoolError> {
        match self {
            Self::Sqlite(_) => Ok(true),
            Self::Postgres(_) => self.exists(sql, parameters),
        }
    }

    /// Whether an earlier run of the same change may have been committed, unknown to us.
    pub(super) fn may_be_done(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(session) => session.may_be_done(),
        }
    }

    /// Whether there is a row.
    pub(super) fn exists(
        &self,
        sql: &'static str,
        parameters: &[Value<'_>],
    ) -> Result<bool, SpoolError> {
        Ok(self.row(sql, parameters, |_| Ok(()))?.is_some())
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Int(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Self::Int(flag.into())
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(octets: &'a [u8]) -> Self {
        Self::Blob(octets)
    }
}

impl<'a> From<&'a Vec<u8>> for Value<'a> {
    fn from(octets: &'a Vec<u8>) -> Self {
        Self::Blob(octets)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(octets: &'a [u8; N]) -> Self {
        Self::Blob(octets)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl FromColumn for i64 {
    fn from_column(column: Column<'_>) -> Option<Self> {
        match column {
            Column::Int(number) => Some(number),
            _ => None,
        }
    }
}

impl FromColumn for u32 {
    fn from_column(column: Column<'_>) -> Option<Self> {
        i64::from_column(column).and_then(|number| Self::try_from(number).ok())
    }
}

impl FromColumn for bool {
    fn from_column(column: Column<'_>) -> Option<Self> {
        i64::from_column(column).map(|number| number != 0)
    }
}

impl FromColumn for String {
    fn from_column(column: Column<'_>) -> Option<Self> {
        match column {
            Column::Text(text) => Some(text.to_owned()),
            _ => None,
        }
    }
}

impl FromColumn for Vec<u8> {
    fn from_column(column: Column<'_>) -> Option<Self> {
        match column {
            Column::Blob(octets) => Some(octets.to_owned()),
            _ => None,
        }
    }
}

impl<T: FromColumn> FromColumn for Option<T> {
    fn from_column(column: Column<'_>) -> Option<Self> {
        match column {
            Column::Null => Some(None),
            column => T::from_column(column).map(Some),
        }
    }
}
