//! Which tables and columns there are on both sides, and whether they are the same.
//!
//! Tables that only replicas need stand in the shared database alone, and start empty.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::MoveError;

/// A table of both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    /// The column that the server numbers.
    pub(super) numbered: Option<String>,
}

impl Table {
    /// The columns as a list in a statement.
    pub(super) fn list(&self) -> String {
        let quoted: Vec<_> = self.columns.iter().map(|name| quoted(name)).collect();
        quoted.join(", ")
    }

    pub(super) fn quoted(&self) -> String {
        quoted(&self.name)
    }
}

/// A name in a statement of either side.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A column as the server knows it.
#[derive(Debug, Clone)]
pub(super) struct ServerColumn {
    pub(super) table: String,
    pub(super) column: String,
    pub(super) kind: String,
    pub(super) is_numbered: bool,
}

/// The tables of the embedded spool, each behind those that it refers to.
pub(super) fn tables(
    source: &Connection,
    server: &[ServerColumn],
) -> Result<Vec<Table>, MoveError> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite^_%' ESCAPE '^' ORDER BY name";
    let mut names = source.prepare(sql)?;
    let names = names.query_map([], |row| row.get::<_, String>(0))?;
    let mut tables = Vec::new();
    for name in names {
        tables.push(table(source, server, name?)?);
    }
    in_order(source, tables)
}

fn table(source: &Connection, server: &[ServerColumn], name: String) -> Result<Table, MoveError> {
    let there: BTreeMap<_, _> = server
        .iter()
        .filter(|one| one.table == name)
        .map(|one| (one.column.as_str(), one))
        .collect();
    if there.is_empty() {
        return Err(MoveError::Differ(format!("PostgreSQL has no table {name}")));
    }
    let mut columns =
        source.prepare("SELECT name, type FROM pragma_table_info(?1) ORDER BY cid")?;
    let columns = columns.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)));
    let columns: Vec<(String, String)> = columns?.collect::<Result<_, _>>()?;
    for (column, kind) in &columns {
        let expected = match kind.as_str() {
            "INTEGER" => "bigint",
            "TEXT" => "text",
            "BLOB" => "bytea",
            other => other,
        };
        match there.get(column.as_str()) {
            Some(one) if one.kind == expected => {}
            Some(one) => {
                let what = format!("{name}.{column} is {kind}, and {} in PostgreSQL", one.kind);
                return Err(MoveError::Differ(what));
            }
            None => {
                let what = format!("PostgreSQL has no column {name}.{column}");
                return Err(MoveError::Differ(what));
            }
        }
    }
    let here: BTreeSet<_> = columns.iter().map(|(column, _)| column.as_str()).collect();
    if let Some(more) = there.keys().find(|column| !here.contains(*column)) {
        let what = format!("PostgreSQL has a column {name}.{more} that the embedded spool has not");
        return Err(MoveError::Differ(what));
    }
    let numbered = there.values().find(|one| one.is_numbered);
    Ok(Table {
        numbered: numbered.map(|one| one.column.clone()),
        name,
        columns: columns.into_iter().map(|(column, _)| column).collect(),
    })
}

fn in_order(source: &Connection, mut tables: Vec<Table>) -> Result<Vec<Table>, MoveError> {
    let mut ordered: Vec<Table> = Vec::new();
    let mut parents = source.prepare("SELECT \"table\" FROM pragma_foreign_key_list(?1)")?;
    while !tables.is_empty() {
        let mut free = None;
        for (place, table) in tables.iter().enumerate() {
            let named = parents.query_map([&table.name], |row| row.get::<_, String>(0))?;
            let named: Vec<String> = named.collect::<Result<_, _>>()?;
            let waits = named.iter().any(|parent| {
                *parent != table.name && !ordered.iter().any(|done| done.name == *parent)
            });
            if !waits {
                free = Some(place);
                break;
            }
        }
        let Some(place) = free else {
            let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
            let what = format!("{} refer to each other", names.join(", "));
            return Err(MoveError::Differ(what));
        };
        ordered.push(tables.remove(place));
    }
    Ok(ordered)
}
