//! What is held for whom, and the requests for its release.
//!
//! A request is one row: its number, and the place in the spool up to which it asks. So it costs the same for one held
//! message as for a million, it is durable before it is answered, and what comes in meanwhile waits for the next one. It
//! is over when every message up to that place has been tried; a newer request that came meanwhile has a higher number,
//! and stays open.

use std::{collections::HashSet, time::Duration};

use super::{
    Spool, SpoolError,
    db::{Db, Row},
    look,
    store::millis,
};
use crate::{
    clock::Stamp,
    names::{NextHop, Node, NodeScope},
};

/// So many requests share a commit: nobody's 250 waits for a customer with many nodes.
const REQUESTS: usize = 200;

/// A node with what is held for it.
#[derive(Debug, Clone)]
pub struct HeldNode {
    /// Its place in the list.
    pub seq: i64,
    /// The node.
    pub node: Node,
    /// Messages that are held, released or not.
    pub messages: u64,
    /// Their octets.
    pub bytes: u64,
    /// When the oldest of them was accepted.
    pub oldest: Option<Stamp>,
    /// When it was last asked for.
    pub requested: Option<Stamp>,
    /// Whether that request is not over.
    pub releasing: bool,
    /// How the last release ended, in words.
    pub last_release: String,
}

impl HeldNode {
    /// One that nothing is known of.
    #[must_use]
    pub fn unheard_of(node: Node) -> Self {
        Self {
            seq: 0,
            node,
            messages: 0,
            bytes: 0,
            oldest: None,
            requested: None,
            releasing: false,
            last_release: String::new(),
        }
    }
}

/// A request that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseRequest {
    /// Its number; grows with each request for the node.
    pub number: i64,
    /// It asks for the messages up to this place.
    pub upto: i64,
}

impl Spool {
    /// The nodes whose release was requested since the last time, once there is one. A hint: the requests lie in the
    /// spool, and one waiter hears of them.
    pub async fn asked(&self) -> HashSet<Node> {
        self.inner.signals.asked().await
    }

    /// Makes these nodes known, before mail comes for them.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn know_nodes(&self, nodes: Vec<Node>) -> Result<(), SpoolError> {
        let clock = self.clock();
        self.write(move |db| nodes.iter().try_for_each(|node| know(db, node, clock)))
            .await
    }

    /// Asks for the release of all that is held now for the nodes that `may` admits; says how many messages that is.
    /// After `Ok` the request is durable, unless there was nothing to ask for. Looking and counting is done by a reader,
    /// and holds up nobody's commit.
    ///
    /// # Errors
    /// The database cannot be read or written; not every node is requested then.
    pub async fn request_release(
        &self,
        scope: NodeScope,
        may: impl Fn(&Node) -> bool + Send + 'static,
        now: Stamp,
    ) -> Result<u64, SpoolError> {
        let held = self
            .read(move |db| {
                let mut held = Vec::new();
                for node in nodes_of(db, &scope)? {
                    if may(&node) {
                        held.extend(held_for(db, node)?);
                    }
                }
                Ok(held)
            })
            .await?;
        let clock = self.clock();
        for part in held.chunks(REQUESTS) {
            let part: Vec<(Node, i64)> = part.iter().map(|h| (h.node.clone(), h.newest)).collect();
            self.write(move |db| {
                part.iter()
                    .try_for_each(|(node, newest)| request(db, node, *newest, (now, clock)))
            })
            .await?;
        }
        let pending = held.iter().map(|held| held.messages).sum();
        if pending > 0 {
            self.inner
                .signals
                .asked_for(held.into_iter().map(|held| held.node));
        }
        Ok(pending)
    }

    /// Nodes whose release was requested and is not over, behind a place in their list; and the place where it goes on, if
    /// there may be more.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open_releases(
        &self,
        after: i64,
        limit: u32,
    ) -> Result<(Vec<Node>, Option<i64>), SpoolError> {
        let sql = "SELECT seq, node FROM nodes INDEXED BY nodes_open WHERE requested > done AND seq > ?1 \
                   ORDER BY seq LIMIT ?2";
        self.read(move |db| {
            let (mut nodes, mut place, mut count) = (Vec::new(), after, 0);
            db.each(sql, &[after.into(), limit.into()], |row| {
                (place, count) = (row.get(0)?, count + 1);
                nodes.extend(node(&row.get::<String>(1)?));
                Ok(())
            })?;
            Ok((nodes, (count >= limit).then_some(place)))
        })
        .await
    }

    /// The newest request for a node, if it is not over.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn release_request(&self, node: Node) -> Result<Option<ReleaseRequest>, SpoolError> {
        let sql = "SELECT requested, upto FROM nodes WHERE node = ?1 AND requested > done";
        self.read(move |db| {
            db.row(sql, &[node.as_str().into()], |row| {
                Ok(ReleaseRequest {
                    number: row.get(0)?,
                    upto: row.get(1)?,
                })
            })
        })
        .await
    }

    /// The request, and those before it, are over; `how` says it in words.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn finish_release(
        &self,
        node: Node,
        request: ReleaseRequest,
        how: String,
    ) -> Result<(), SpoolError> {
        let sql = "UPDATE nodes SET done = CASE WHEN done > ?2 THEN done ELSE ?2 END, last_release = ?3 WHERE node = ?1";
        self.write(move |db| {
            let over = [node.as_str().into(), request.number.into(), (&how).into()];
            db.execute(sql, &over).map(drop)
        })
        .await
    }

    /// One node, if it is known.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn node(&self, node: Node) -> Result<Option<HeldNode>, SpoolError> {
        let sql = "SELECT seq, node, requested_ms, requested > done AS releasing, last_release FROM nodes WHERE node = ?1";
        self.read(move |db| {
            let found = db.row(sql, &[node.as_str().into()], NodeRow::read)?;
            found.map(|row| facts(db, row)).transpose()
        })
        .await
    }

    /// Nodes in the order in which they became known, behind a place. One whose row is damaged is left out, with a log line.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn nodes(&self, after: i64, limit: u32) -> Result<Vec<HeldNode>, SpoolError> {
        let sql = "SELECT seq, node, requested_ms, requested > done AS releasing, last_release FROM nodes WHERE seq > ?1 \
                   ORDER BY seq LIMIT ?2";
        self.read(move |db| {
            let mut nodes = Vec::new();
            for row in db.query(sql, &[after.into(), limit.into()], NodeRow::read)? {
                match facts(db, row) {
                    Ok(node) => nodes.push(node),
                    Err(SpoolError::Damaged(what)) => {
                        tracing::warn!(what, "spool: a damaged node is not listed");
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(nodes)
        })
        .await
    }

    /// Forgets nodes that nothing is held for and that were of no use for `age`, some at a time: a route that takes
    /// every sub-domain would otherwise remember each one that ever got mail. Those that `stays` says so of are looked at
    /// again when they are as old once more.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_nodes(
        &self,
        stays: impl Fn(&Node) -> bool + Send + 'static,
        age: Duration,
    ) -> Result<(), SpoolError> {
        let clock = self.clock();
        let Some(before) = clock.checked_sub(age).map(millis) else {
            return Ok(());
        };
        let old = "SELECT node FROM nodes INDEXED BY nodes_seen WHERE seen_ms <= ?1 AND requested = done AND NOT EXISTS \
                   (SELECT 1 FROM recipients INDEXED BY recipients_held WHERE hop = 'hold:' || node AND state = 6) LIMIT 1000";
        self.write(move |db| {
            for name in db.query(old, &[before.into()], |row| row.get::<String>(0))? {
                match node(&name).filter(&stays) {
                    Some(node) => know(db, &node, clock)?,
                    None => drop(db.execute(FORGET, &[(&name).into(), before.into()])?),
                }
            }
            Ok(())
        })
        .await
    }
}

/// Whoever knew it meanwhile, or asked for it, keeps it.
const FORGET: &str = "DELETE FROM nodes WHERE node = ?1 AND seen_ms <= ?2 AND requested = done";

/// Makes sure that there is a row for the node.
pub(super) fn know(db: &Db<'_>, node: &Node, clock: Duration) -> Result<(), SpoolError> {
    let sql = "INSERT INTO nodes (node, reversed, seen_ms) VALUES (?1, ?2, ?3) ON CONFLICT (node) DO UPDATE SET \
               seen_ms = CASE WHEN nodes.seen_ms > ?3 THEN nodes.seen_ms ELSE ?3 END";
    // Not each message for a node waits for the commit of the one before: that it was seen is known to the minute.
    let lately = millis(clock) - 60_000;
    let known = "SELECT 1 FROM nodes WHERE node = ?1 AND seen_ms > ?2";
    if db.exists(known, &[node.as_str().into(), lately.into()])? {
        return Ok(());
    }
    let reversed = node.reversed();
    db.execute(
        sql,
        &[
            node.as_str().into(),
            (&reversed).into(),
            millis(clock).into(),
        ],
    )
    .map(drop)
}

fn nodes_of(db: &Db<'_>, scope: &NodeScope) -> Result<Vec<Node>, SpoolError> {
    let top = match scope {
        NodeScope::One(node) => return Ok(vec![node.clone()]),
        NodeScope::AtOrBelow(node) => node.reversed(),
    };
    // The full stop is followed by the slash: what begins with `example.branch.` lies between the two.
    let below = "SELECT node FROM nodes WHERE reversed = ?1 OR (reversed > ?1 || '.' AND reversed < ?1 || '/')";
    let mut nodes = Vec::new();
    db.each(below, &[(&top).into()], |row| {
        nodes.extend(node(&row.get::<String>(0)?));
        Ok(())
    })?;
    Ok(nodes)
}

/// What is held for a node.
struct HeldFor {
    node: Node,
    messages: u64,
    /// The place of the newest.
    newest: i64,
}

/// What is held for a node, if anything is.
fn held_for(db: &Db<'_>, node: Node) -> Result<Option<HeldFor>, SpoolError> {
    let hop = NextHop::Hold(node.clone()).to_string();
    let sql = "SELECT count(*), max(seq) FROM (SELECT DISTINCT seq FROM recipients INDEXED BY recipients_held \
               WHERE hop = ?1 AND state = 6) AS held";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get::<Option<i64>>(1)?));
    let held = db.row(sql, &[(&hop).into()], read)?;
    Ok(held.and_then(|(messages, newest)| {
        Some(HeldFor {
            node,
            messages: look::unsigned(messages),
            newest: newest?,
        })
    }))
}

fn request(
    db: &Db<'_>,
    node: &Node,
    newest: i64,
    (now, clock): (Stamp, Duration),
) -> Result<(), SpoolError> {
    know(db, node, clock)?;
    let sql = "UPDATE nodes SET requested = requested + 1, requested_ms = ?2, \
               upto = CASE WHEN upto > ?3 THEN upto ELSE ?3 END WHERE node = ?1";
    db.execute(sql, &[node.as_str().into(), now.0.into(), newest.into()])
        .map(drop)
}

/// What the table says of a node.
struct NodeRow {
    seq: i64,
    name: String,
    requested: Option<i64>,
    releasing: bool,
    last_release: String,
}

impl NodeRow {
    fn read(row: &Row<'_>) -> Result<Self, SpoolError> {
        Ok(Self {
            seq: row.get(0)?,
            name: row.get(1)?,
            requested: row.get(2)?,
            releasing: row.get(3)?,
            last_release: row.get(4)?,
        })
    }
}

fn facts(db: &Db<'_>, row: NodeRow) -> Result<HeldNode, SpoolError> {
    let name = &row.name;
    let node = node(name).ok_or_else(|| SpoolError::Damaged(format!("node {name:?}")))?;
    let hop = NextHop::Hold(node.clone()).to_string();
    let sql = "SELECT count(*), CAST(coalesce(sum(size), 0) AS BIGINT), min(accepted_ms) FROM messages WHERE seq IN \
               (SELECT seq FROM recipients INDEXED BY recipients_held WHERE hop = ?1 AND state = 6)";
    let held = db.row(sql, &[(&hop).into()], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get::<Option<i64>>(2)?))
    })?;
    let (messages, bytes, oldest) = held.unwrap_or_default();
    Ok(HeldNode {
        seq: row.seq,
        node,
        messages: look::unsigned(messages),
        bytes: look::unsigned(bytes),
        oldest: oldest.map(Stamp),
        requested: row.requested.map(Stamp),
        releasing: row.releasing,
        last_release: row.last_release,
    })
}

/// A node as the spool keeps it.
pub(super) fn node(name: &str) -> Option<Node> {
    name.parse().ok().map(|domain| Node::of(&domain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::place::{Place, change, on_both};

    async fn a_damaged_node_does_not_hide_the_others(place: Place) {
        let spool = place.open().await;
        let known = ["one.example", "two.example"].map(|name| node(name).unwrap());
        spool.know_nodes(known.to_vec()).await.unwrap();
        let damage = "UPDATE nodes SET node = 'a b' WHERE node = 'one.example'";
        assert_eq!(change(&spool, damage).await, 1);
        let left = spool.nodes(0, 9).await.unwrap();
        let left: Vec<_> = left.iter().map(|held| held.node.as_str()).collect();
        assert_eq!(left, ["two.example"]);
    }
    on_both![a_damaged_node_does_not_hide_the_others];
}
