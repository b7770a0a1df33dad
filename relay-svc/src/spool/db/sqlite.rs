//! SQLite under the port. A statement is prepared once for each connection and kept.

use rusqlite::{
    Connection, Statement, ToSql,
    types::{ToSqlOutput, ValueRef},
};

use super::{Column, Row, Value};
use crate::spool::SpoolError;

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(octets) => ValueRef::Blob(octets),
        }))
    }
}

pub(super) fn column<'r>(
    row: &'r rusqlite::Row<'_>,
    place: usize,
) -> Result<Column<'r>, SpoolError> {
    Ok(match row.get_ref(place)? {
        ValueRef::Null => Column::Null,
        ValueRef::Integer(number) => Column::Int(number),
        ValueRef::Blob(octets) => Column::Blob(octets),
        ValueRef::Text(octets) => match std::str::from_utf8(octets) {
            Ok(text) => Column::Text(text),
            Err(_) => Column::Blob(octets),
        },
        ValueRef::Real(_) => {
            return Err(SpoolError::Damaged(format!(
                "column {place} holds a fraction"
            )));
        }
    })
}

fn bind(statement: &mut Statement<'_>, parameters: &[Value<'_>]) -> rusqlite::Result<()> {
    for (place, value) in (1..).zip(parameters) {
        statement.raw_bind_parameter(place, value)?;
    }
    Ok(())
}

pub(super) fn execute(
    connection: &Connection,
    sql: &str,
    parameters: &[Value<'_>],
) -> Result<u64, SpoolError> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, parameters)?;
    Ok(statement.raw_execute()? as u64)
}

pub(super) fn insert(
    connection: &Connection,
    sql: &str,
    parameters: &[Value<'_>],
) -> Result<i64, SpoolError> {
    execute(connection, sql, parameters)?;
    Ok(connection.last_insert_rowid())
}

pub(super) fn each(
    connection: &Connection,
    sql: &str,
    parameters: &[Value<'_>],
    mut take: impl FnMut(&Row<'_>) -> Result<(), SpoolError>,
) -> Result<(), SpoolError> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, parameters)?;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        take(&Row::Sqlite(row))?;
    }
    Ok(())
}

pub(super) fn row<T>(
    connection: &Connection,
    sql: &str,
    parameters: &[Value<'_>],
    read: impl FnOnce(&Row<'_>) -> Result<T, SpoolError>,
) -> Result<Option<T>, SpoolError> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, parameters)?;
    let mut rows = statement.raw_query();
    match rows.next()? {
        Some(row) => read(&Row::Sqlite(row)).map(Some),
        None => Ok(None),
    }
}
