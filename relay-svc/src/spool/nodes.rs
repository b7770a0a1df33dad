//! What is held for whom, and the requests for its release.
//!
//! A request is one row: its number, and the place in the spool up to which it asks. So it costs the same for one held
//! message as for a million, it is durable before it is answered, and what comes in meanwhile waits for the next one. It
//! is over when every message up to that place has been tried; a newer request that came meanwhile has a higher number,
//! and stays open.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Spool, SpoolError, look};
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
    pub async fn know_nodes(&self, nodes: Vec<Node>, now: Stamp) -> Result<(), SpoolError> {
        self.write(move |connection| {
            nodes
                .iter()
                .try_for_each(|node| know(connection, node, now))
        })
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
            .read(move |connection| {
                let mut held = Vec::new();
                for node in nodes_of(connection, scope)? {
                    if may(&node) {
                        held.extend(held_for(connection, node)?);
                    }
                }
                Ok(held)
            })
            .await?;
        for part in held.chunks(REQUESTS) {
            let part: Vec<(Node, i64)> = part.iter().map(|h| (h.node.clone(), h.newest)).collect();
            self.write(move |connection| {
                part.iter()
                    .try_for_each(|(node, newest)| request(connection, node, *newest, now))
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
        self.read(move |connection| {
            let mut open = connection.prepare_cached(
                "SELECT seq, node FROM nodes INDEXED BY nodes_open WHERE requested > done AND seq > ?1 \
                 ORDER BY seq LIMIT ?2",
            )?;
            let mut rows = open.query(params![after, limit])?;
            let (mut nodes, mut place, mut count) = (Vec::new(), after, 0);
            while let Some(row) = rows.next()? {
                (place, count) = (row.get(0)?, count + 1);
                nodes.extend(node(&row.get::<_, String>(1)?));
            }
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
        self.read(move |connection| {
            let found = connection
                .prepare_cached(sql)?
                .query_row([node.as_str()], |row| {
                    Ok(ReleaseRequest {
                        number: row.get(0)?,
                        upto: row.get(1)?,
                    })
                });
            Ok(found.optional()?)
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
        let sql = "UPDATE nodes SET done = max(done, ?2), last_release = ?3 WHERE node = ?1";
        self.write(move |connection| {
            connection
                .prepare_cached(sql)?
                .execute(params![node.as_str(), request.number, how])?;
            Ok(())
        })
        .await
    }

    /// One node, if it is known.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn node(&self, node: Node) -> Result<Option<HeldNode>, SpoolError> {
        self.read(move |connection| {
            let sql = format!("{NODE} WHERE node = ?1");
            let mut found = connection.prepare_cached(&sql)?;
            let mut rows = found.query([node.as_str()])?;
            rows.next()?.map(|row| facts(connection, row)).transpose()
        })
        .await
    }

    /// Nodes in the order in which they became known, behind a place. One whose row is damaged is left out, with a log line.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn nodes(&self, after: i64, limit: u32) -> Result<Vec<HeldNode>, SpoolError> {
        self.read(move |connection| {
            let sql = format!("{NODE} WHERE seq > ?1 ORDER BY seq LIMIT ?2");
            let mut found = connection.prepare_cached(&sql)?;
            let mut rows = found.query(params![after, limit])?;
            let mut nodes = Vec::new();
            while let Some(row) = rows.next()? {
                match facts(connection, row) {
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

    /// Forgets nodes that nothing is held for and that were of no use since `before`, some at a time: a route that takes
    /// every sub-domain would otherwise remember each one that ever got mail. Those that `stays` says so of are looked at
    /// again when they are as old once more.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_nodes(
        &self,
        stays: impl Fn(&Node) -> bool + Send + 'static,
        before: Stamp,
        now: Stamp,
    ) -> Result<(), SpoolError> {
        self.write(move |connection| {
            let mut old = connection.prepare_cached(
                "SELECT node FROM nodes INDEXED BY nodes_seen WHERE seen_ms < ?1 AND requested = done AND NOT EXISTS \
                 (SELECT 1 FROM recipients INDEXED BY recipients_held WHERE hop = 'hold:' || node AND state = 6) LIMIT 1000",
            )?;
            let names = old.query_map([before.0], |row| row.get::<_, String>(0))?;
            let names = names.collect::<Result<Vec<String>, _>>()?;
            let mut delete = connection.prepare_cached("DELETE FROM nodes WHERE node = ?1")?;
            for name in names {
                match node(&name).filter(&stays) {
                    Some(node) => know(connection, &node, now)?,
                    None => drop(delete.execute([name])?),
                }
            }
            Ok(())
        })
        .await
    }
}

const NODE: &str =
    "SELECT seq, node, requested_ms, requested > done AS releasing, last_release FROM nodes";

/// Makes sure that there is a row for the node.
pub(super) fn know(connection: &Connection, node: &Node, now: Stamp) -> Result<(), SpoolError> {
    connection
        .prepare_cached(
            "INSERT INTO nodes (node, reversed, seen_ms) VALUES (?1, ?2, ?3) \
             ON CONFLICT (node) DO UPDATE SET seen_ms = max(seen_ms, ?3)",
        )?
        .execute(params![node.as_str(), node.reversed(), now.0])?;
    Ok(())
}

fn nodes_of(connection: &Connection, scope: NodeScope) -> Result<Vec<Node>, SpoolError> {
    let top = match scope {
        NodeScope::One(node) => return Ok(vec![node]),
        NodeScope::AtOrBelow(node) => node.reversed(),
    };
    // The full stop is followed by the slash: what begins with `example.branch.` lies between the two.
    let mut below = connection.prepare_cached(
        "SELECT node FROM nodes WHERE reversed = ?1 OR (reversed > ?1 || '.' AND reversed < ?1 || '/')",
    )?;
    let names = below.query_map([top], |row| row.get::<_, String>(0))?;
    let mut nodes = Vec::new();
    for name in names {
        nodes.extend(node(&name?));
    }
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
fn held_for(connection: &Connection, node: Node) -> Result<Option<HeldFor>, SpoolError> {
    let hop = NextHop::Hold(node.clone()).to_string();
    let (messages, newest): (i64, Option<i64>) = connection
        .prepare_cached(
            "SELECT count(*), max(seq) FROM (SELECT DISTINCT seq FROM recipients INDEXED BY recipients_held \
             WHERE hop = ?1 AND state = 6)",
        )?
        .query_row([&hop], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(newest.map(|newest| HeldFor {
        node,
        messages: look::unsigned(messages),
        newest,
    }))
}

fn request(
    connection: &Connection,
    node: &Node,
    newest: i64,
    now: Stamp,
) -> Result<(), SpoolError> {
    know(connection, node, now)?;
    connection
        .prepare_cached(
            "UPDATE nodes SET requested = requested + 1, requested_ms = ?2, upto = max(upto, ?3) \
             WHERE node = ?1",
        )?
        .execute(params![node.as_str(), now.0, newest])?;
    Ok(())
}

fn facts(connection: &Connection, row: &Row<'_>) -> Result<HeldNode, SpoolError> {
    let name: String = row.get(1)?;
    let node = node(&name).ok_or_else(|| SpoolError::Damaged(format!("node {name:?}")))?;
    let hop = NextHop::Hold(node.clone()).to_string();
    let (messages, bytes, oldest): (i64, i64, Option<i64>) = connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(size), 0), min(accepted_ms) FROM messages WHERE seq IN \
             (SELECT seq FROM recipients INDEXED BY recipients_held WHERE hop = ?1 AND state = 6)",
        )?
        .query_row([hop], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(HeldNode {
        seq: row.get(0)?,
        node,
        messages: look::unsigned(messages),
        bytes: look::unsigned(bytes),
        oldest: oldest.map(Stamp),
        requested: row.get::<_, Option<i64>>(2)?.map(Stamp),
        releasing: row.get(3)?,
        last_release: row.get(4)?,
    })
}

/// A node as the spool keeps it.
pub(super) fn node(name: &str) -> Option<Node> {
    name.parse().ok().map(|domain| Node::of(&domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_damaged_node_does_not_hide_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let known = ["one.example", "two.example"].map(|name| node(name).unwrap());
        spool.know_nodes(known.to_vec(), Stamp(0)).await.unwrap();
        let other = Connection::open(folder.path().join("spool.sqlite")).unwrap();
        let damage = "UPDATE nodes SET node = 'a b' WHERE node = 'one.example'";
        assert_eq!(other.execute(damage, []).unwrap(), 1);
        let left = spool.nodes(0, 9).await.unwrap();
        let left: Vec<_> = left.iter().map(|held| held.node.as_str()).collect();
        assert_eq!(left, ["two.example"]);
    }
}
