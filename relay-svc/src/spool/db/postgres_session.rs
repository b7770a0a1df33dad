//! A connection to PostgreSQL while a change or a look-up uses it: statements, what is bound to them, what they give.

use std::{borrow::Cow, cell::RefCell, time::Duration};

use linkmail_service::tls::{Class, TlsError};
use sqlx::{
    AssertSqlSafe, Row as _, TypeInfo, ValueRef,
    encode::{Encode, IsNull},
    postgres::{
        PgArgumentBuffer, PgArguments, PgConnection, PgRow, PgTypeInfo, Postgres, types::Oid,
    },
};
use tokio::time::timeout;

use super::{Column, DatabaseError, Row, Value, postgres::Pool};
use crate::spool::SpoolError;

/// A statement may take so long, with its way there and back; the server ends it a little earlier.
const STATEMENT: Duration = Duration::from_secs(35);

/// A connection while a change or a look-up uses it.
pub(in crate::spool) struct Session<'c> {
    pub(super) pool: &'c Pool,
    pub(super) connection: RefCell<&'c mut PgConnection>,
    /// Whether an earlier run may have been committed.
    pub(super) again: bool,
}

impl Session<'_> {
    /// Whether an earlier run of the same change may have been committed.
    pub(super) fn may_be_done(&self) -> bool {
        self.again
    }

    pub(super) fn execute(
        &self,
        sql: &'static str,
        parameters: &[Value<'_>],
    ) -> Result<u64, SpoolError> {
        let query = self.query(sql, "", parameters)?;
        let mut connection = self.connection.borrow_mut();
        let done = query.execute(&mut **connection);
        let done = self.pool.runtime().block_on(timeout(STATEMENT, done));
        in_time(done)
            .map(|done| done.rows_affected())
            .map_err(failed)
    }

    /// All rows; `number` is a column to be given back.
    pub(super) fn fetch(
        &self,
        sql: &'static str,
        number: &'static str,
        parameters: &[Value<'_>],
    ) -> Result<Vec<PgRow>, SpoolError> {
        let query = self.query(sql, number, parameters)?;
        let mut connection = self.connection.borrow_mut();
        let rows = query.fetch_all(&mut **connection);
        let rows = self.pool.runtime().block_on(timeout(STATEMENT, rows));
        in_time(rows).map_err(failed)
    }

    /// Statements without parameters, one after the other.
    pub(super) fn plain(&self, sql: &'static str) -> Result<(), SpoolError> {
        let mut connection = self.connection.borrow_mut();
        let done = sqlx::raw_sql(sql).execute(&mut **connection);
        let done = self.pool.runtime().block_on(timeout(STATEMENT, done));
        in_time(done).map(drop).map_err(failed)
    }

    fn query(
        &self,
        sql: &'static str,
        number: &'static str,
        parameters: &[Value<'_>],
    ) -> Result<sqlx::query::Query<'static, Postgres, PgArguments>, SpoolError> {
        let mut arguments = PgArguments::default();
        for value in parameters {
            sqlx::Arguments::add(&mut arguments, *value).map_err(|error| refused(&error))?;
        }
        let text = self.pool.translated(sql, number);
        Ok(sqlx::query_with(AssertSqlSafe(text), arguments))
    }
}

impl sqlx::Type<Postgres> for Value<'_> {
    fn type_info() -> PgTypeInfo {
        // The server knows what it expects there.
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Value<'_> {
    fn encode_by_ref(
        &self,
        buffer: &mut PgArgumentBuffer,
    ) -> Result<IsNull, Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Int(number) => buffer.extend_from_slice(&number.to_be_bytes()),
            // PostgreSQL knows no NUL in a text.
            Self::Text(text) if text.contains('\0') => {
                buffer.extend_from_slice(text.replace('\0', "\u{fffd}").as_bytes());
            }
            Self::Text(text) => buffer.extend_from_slice(text.as_bytes()),
            Self::Blob(octets) => buffer.extend_from_slice(octets),
        }
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(match self {
            Self::Null => return None,
            Self::Int(_) => <i64 as sqlx::Type<Postgres>>::type_info(),
            Self::Text(_) => <str as sqlx::Type<Postgres>>::type_info(),
            Self::Blob(_) => <[u8] as sqlx::Type<Postgres>>::type_info(),
        })
    }
}

pub(super) fn column(row: &PgRow, place: usize) -> Result<Column<'_>, SpoolError> {
    let damaged = |what: String| SpoolError::Damaged(format!("column {place}: {what}"));
    let value = row.try_get_raw(place).map_err(failed)?;
    let kind = value.type_info().into_owned();
    let octets = row.try_get_unchecked::<Option<&[u8]>, _>(place);
    let Some(octets) = octets.map_err(failed)? else {
        return Ok(Column::Null);
    };
    let number = |octets: &[u8]| -> Option<i64> {
        Some(match *octets {
            [flag] => flag.into(),
            [a, b, c, d] => i32::from_be_bytes([a, b, c, d]).into(),
            _ => i64::from_be_bytes(octets.try_into().ok()?),
        })
    };
    match kind.name() {
        "INT8" | "INT4" | "BOOL" => number(octets)
            .map(Column::Int)
            .ok_or_else(|| damaged("no number".into())),
        "TEXT" => std::str::from_utf8(octets)
            .map(Column::Text)
            .map_err(|error| damaged(error.to_string())),
        "BYTEA" => Ok(Column::Blob(octets)),
        other => Err(damaged(format!("it is {other}"))),
    }
}

pub(super) fn each(
    rows: &[PgRow],
    mut take: impl FnMut(&Row<'_>) -> Result<(), SpoolError>,
) -> Result<(), SpoolError> {
    rows.iter().try_for_each(|row| take(&Row::Postgres(row)))
}

pub(super) fn in_time<T>(
    done: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>,
) -> Result<T, sqlx::Error> {
    done.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

fn refused(error: &dyn std::fmt::Display) -> SpoolError {
    SpoolError::Database(DatabaseError::Postgres {
        code: String::new(),
        message: error.to_string(),
    })
}

pub(super) fn failed(error: sqlx::Error) -> SpoolError {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().map_or_else(String::new, Cow::into_owned);
            let message = error.message().to_owned();
            match code.as_str() {
                // disk_full
                "53100" => SpoolError::Full,
                // Connections broken or refused, too many of them, a server that stops or starts, one that takes no changes.
                code if code.starts_with("08")
                    || code.starts_with("57P")
                    || ["53300", "25006", "25P03"].contains(&code) =>
                {
                    SpoolError::Unavailable(message)
                }
                _ => SpoolError::Database(DatabaseError::Postgres { code, message }),
            }
        }
        sqlx::Error::Io(error) => SpoolError::Unavailable(of_connection(error)),
        error @ (sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed) => {
            SpoolError::Unavailable(error.to_string())
        }
        error => refused(&error),
    }
}

/// A certificate that is not to be trusted is an error of the connection, too.
fn of_connection(error: std::io::Error) -> String {
    let text = error.to_string();
    let said = TlsError::from(error);
    match said.class() {
        Class::Untrusted => format!("{said}; check the host and sslrootcert of spool"),
        _ => text,
    }
}

/// The port's dialect as PostgreSQL has it: `$1` for `?1`, and no hints for SQLite's planner.
pub(super) fn translate(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut words = sql.split(' ');
    while let Some(word) = words.next() {
        if word == "INDEXED" {
            // BY, and the name of the index.
            let _ = (words.next(), words.next());
            continue;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        let hinted = word.strip_prefix('+').filter(|name| !name.is_empty());
        text.push_str(&hinted.unwrap_or(word).replace('?', "$"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_and_parameters_are_translated_and_nothing_else() {
        for (port, postgres) in [
            (
                "SELECT seq FROM recipients INDEXED BY recipients_due WHERE hop = ?1 AND +state = ?12",
                "SELECT seq FROM recipients WHERE hop = $1 AND state = $12",
            ),
            (
                "UPDATE nodes SET requested = requested + 1 WHERE node = 'hold:' || ?1",
                "UPDATE nodes SET requested = requested + 1 WHERE node = 'hold:' || $1",
            ),
        ] {
            assert_eq!(translate(port), postgres);
        }
    }
}
