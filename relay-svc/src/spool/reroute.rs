//! Routing queued mail anew when the configuration changed.

use linkmail_smtp::Mailbox;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Spool, SpoolError};
use crate::route::Routes;

impl Spool {
    /// Routes queued mail anew if the routes changed since the last time; says how many recipients moved.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn reroute(&self, routes: Routes) -> Result<u64, SpoolError> {
        self.write(move |connection| reroute(connection, &routes))
            .await
    }
}

fn reroute(connection: &Connection, routes: &Routes) -> Result<u64, SpoolError> {
    let print = routes.fingerprint();
    let known: Option<String> = connection
        .prepare_cached("SELECT value FROM meta WHERE key = 'routes'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if known.as_deref() == Some(print.as_str()) {
        return Ok(0);
    }
    let mut moved = 0;
    let mut queued =
        connection.prepare("SELECT seq, idx, address, hop FROM recipients WHERE state = 1")?;
    let mut change =
        connection.prepare("UPDATE recipients SET hop = ?3 WHERE seq = ?1 AND idx = ?2")?;
    let mut changes = Vec::new();
    let mut rows = queued.query([])?;
    while let Some(row) = rows.next()? {
        let (seq, idx, address, hop): (i64, i64, Vec<u8>, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let Ok(address) = Mailbox::parse(&address) else {
            continue;
        };
        match routes.find(address.domain()) {
            Some(route) if route.hop.to_string() != hop => {
                changes.push((seq, idx, route.hop.to_string()))
            }
            Some(_) => {}
            None => {
                tracing::warn!(recipient = %address, hop, "queued mail has no route any more; it keeps its old one")
            }
        }
    }
    for (seq, idx, hop) in changes {
        moved += change.execute(params![seq, idx, hop])? as u64;
    }
    connection.execute(
        "INSERT OR REPLACE INTO meta (key, value) VALUES ('routes', ?1)",
        [print],
    )?;
    Ok(moved)
}
