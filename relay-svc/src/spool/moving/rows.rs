//! Rows of one table, copied in batches, and counted at the end.

use rusqlite::{Connection, types::ValueRef};
use sqlx::Row as _;

use super::{
    MOVING, MoveError,
    catalog::{Table, quoted},
    destination::{Destination, server},
};
use crate::spool::age;

/// A batch has so many octets, and what the last row has above it.
const BATCH_OCTETS: usize = 4 * 1024 * 1024;
/// And so many rows.
const BATCH_ROWS: usize = 10_000;

/// Rows in the binary format of COPY (PostgreSQL, "COPY", Binary Format).
pub(super) struct Batch {
    octets: Vec<u8>,
    rows: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut octets = b"PGCOPY\n\xff\r\n\0".to_vec();
        // Flags, and the length of an extension that is not there.
        octets.extend_from_slice(&[0; 8]);
        Self { octets, rows: 0 }
    }

    pub(super) fn begin_row(&mut self, columns: usize) {
        self.rows += 1;
        let columns = i16::try_from(columns).unwrap_or(i16::MAX);
        self.octets.extend_from_slice(&columns.to_be_bytes());
    }

    pub(super) fn column(&mut self, octets: Option<&[u8]>) {
        let length = octets.map_or(-1, |octets| i32::try_from(octets.len()).unwrap_or(i32::MAX));
        self.octets.extend_from_slice(&length.to_be_bytes());
        self.octets.extend_from_slice(octets.unwrap_or_default());
    }

    fn value(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.column(None),
            ValueRef::Integer(number) => self.column(Some(&number.to_be_bytes())),
            ValueRef::Blob(octets) => self.column(Some(octets)),
            // PostgreSQL knows no NUL in a text, and nothing but UTF-8.
            ValueRef::Text(octets) => {
                let text = String::from_utf8_lossy(octets).replace('\0', "\u{fffd}");
                self.column(Some(text.as_bytes()));
            }
            // No column of ours has the type.
            ValueRef::Real(number) => self.column(Some(&number.to_be_bytes())),
        }
    }

    fn is_full(&self) -> bool {
        self.octets.len() >= BATCH_OCTETS || self.rows >= BATCH_ROWS
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.octets.extend_from_slice(&(-1_i16).to_be_bytes());
        self.octets
    }
}

/// Copies all rows, and lets the server go on with its numbers behind those that were ever given.
pub(super) async fn copy(
    source: &Connection,
    table: &Table,
    destination: &mut Destination,
) -> Result<(), MoveError> {
    if table.name == "meta" {
        return copy_meta(source, destination).await;
    }
    let (name, columns) = (table.quoted(), table.list());
    let into = format!("COPY {name} ({columns}) FROM STDIN (FORMAT binary)");
    let mut statement = source.prepare(&format!("SELECT {columns} FROM {name}"))?;
    let mut rows = statement.query([])?;
    let mut batch = Batch::new();
    while let Some(row) = rows.next()? {
        batch.begin_row(table.columns.len());
        for place in 0..table.columns.len() {
            batch.value(row.get_ref(place)?);
        }
        if batch.is_full() {
            let full = std::mem::replace(&mut batch, Batch::new());
            put(destination, &into, full).await?;
        }
    }
    put(destination, &into, batch).await?;
    number_on(source, table, destination).await
}

async fn put(destination: &mut Destination, into: &str, batch: Batch) -> Result<(), MoveError> {
    destination.batch().await?;
    destination.copy_in(into, batch.finish()).await?;
    destination.commit().await
}

/// Some of its rows are there from the start, such as those that are locked.
async fn copy_meta(source: &Connection, destination: &mut Destination) -> Result<(), MoveError> {
    destination.batch().await?;
    let sql = age::KEEP.replace('?', "$");
    for (key, value) in meta(source)? {
        let sql = sql.clone();
        let keep = async |connection: &mut sqlx::PgConnection| {
            let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(key).bind(value);
            query.execute(connection).await.map(drop)
        };
        destination
            .within(std::time::Duration::from_secs(60), keep)
            .await?;
    }
    destination.commit().await
}

fn meta(source: &Connection) -> Result<Vec<(String, String)>, MoveError> {
    let mut statement = source.prepare("SELECT key, value FROM meta ORDER BY key")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

async fn number_on(
    source: &Connection,
    table: &Table,
    destination: &mut Destination,
) -> Result<(), MoveError> {
    let Some(column) = &table.numbered else {
        return Ok(());
    };
    let given = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?1";
    let given: i64 = source.query_row(given, [&table.name], |row| row.get(0))?;
    let (name, number) = (table.quoted(), quoted(column));
    let newest = format!("SELECT coalesce(max({number}), 0) FROM {name}");
    let newest: i64 = source.query_row(&newest, [], |row| row.get(0))?;
    let highest = given.max(newest);
    if highest == 0 {
        return Ok(());
    }
    let sql = format!(
        "SELECT setval(pg_get_serial_sequence('{}', '{column}'), {highest})",
        table.name
    );
    destination.number(sql).await.map(drop)
}

/// Whether as many rows are there as were here.
pub(super) async fn verify(
    source: &Connection,
    tables: &[Table],
    destination: &mut Destination,
) -> Result<(), MoveError> {
    for table in tables {
        let sql = format!("SELECT count(*) FROM {}", table.quoted());
        if table.name == "meta" {
            verify_meta(source, destination).await?;
            continue;
        }
        let here: i64 = source.query_row(&sql, [], |row| row.get(0))?;
        let there = destination.number(sql).await?;
        if here != there {
            let what = format!("{}: {there} rows of {here}", table.name);
            return Err(MoveError::NotTheSame(what));
        }
    }
    Ok(())
}

async fn verify_meta(source: &Connection, destination: &mut Destination) -> Result<(), MoveError> {
    let sql = format!("SELECT key, value FROM meta WHERE key <> '{MOVING}'");
    let rows = destination.look(sql, None).await?;
    let to = destination.name().to_owned();
    let mut there = std::collections::BTreeMap::new();
    for row in &rows {
        let read = || Ok((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
        let (key, value) = read().map_err(|error| server(&to, error))?;
        there.insert(key, value);
    }
    for (key, value) in meta(source)? {
        if there.get(&key) != Some(&value) {
            return Err(MoveError::NotTheSame(format!("meta: {key}")));
        }
    }
    Ok(())
}
