//! Routing queued mail anew when the configuration changed.

use linkmail_smtp::Mailbox;
use rusqlite::{Connection, OptionalExtension, params};

use super::{RecipientState, Spool, SpoolError, nodes, store::millis};
use crate::{clock::Stamp, names::NextHop, route::Routes};

/// What is said of mail that was set aside for want of a route. It is queued again when there is one.
const NO_ROUTE: &str = "no route takes this domain any more";

impl Spool {
    /// Routes queued mail anew if the routes changed since the last time; says how many recipients moved. Mail that no
    /// route takes any more is set aside, where it can be seen, until one does.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn reroute(&self, routes: Routes, now: Stamp) -> Result<u64, SpoolError> {
        let clock = millis(self.clock());
        self.write(move |connection| reroute(connection, &routes, now, clock))
            .await
    }
}

fn reroute(
    connection: &Connection,
    routes: &Routes,
    now: Stamp,
    clock: i64,
) -> Result<u64, SpoolError> {
    let print = routes.fingerprint();
    let known: Option<String> = connection
        .prepare_cached("SELECT value FROM meta WHERE key = 'routes'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if known.as_deref() == Some(print.as_str()) {
        return Ok(0);
    }
    let mut queued = connection.prepare(
        "SELECT seq, idx, address, hop, state FROM recipients WHERE state IN (1, 6) OR (state = 5 AND last_reply = ?1)",
    )?;
    let mut rows = queued.query([NO_ROUTE])?;
    let mut changes = Vec::new();
    while let Some(row) = rows.next()? {
        let address: Vec<u8> = row.get(2)?;
        let Ok(address) = Mailbox::parse_utf8(&address) else {
            continue;
        };
        let (hop, state): (String, i64) = (row.get(3)?, row.get(4)?);
        let change = match routes
            .find(&address)
            .map(|route| route.target.hop(&address))
        {
            Some(next) if next.to_string() != hop || state == 5 => {
                if let NextHop::Hold(node) = &next {
                    nodes::know(connection, node, now)?;
                }
                let state = RecipientState::waiting_for(&next);
                (next.to_string(), state as i64, "")
            }
            Some(_) => continue,
            None => (hop, 5, NO_ROUTE),
        };
        changes.push((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, change));
    }
    let sql = "UPDATE recipients SET hop = ?3, state = ?4, last_reply = ?5, since_ms = ?6 WHERE seq = ?1 AND idx = ?2";
    let mut update = connection.prepare(sql)?;
    let mut moved = 0;
    for (seq, idx, (hop, state, why)) in changes {
        moved += update.execute(params![seq, idx, hop, state, why, clock])? as u64;
    }
    connection.execute(
        "INSERT OR REPLACE INTO meta (key, value) VALUES ('routes', ?1)",
        [print],
    )?;
    Ok(moved)
}
