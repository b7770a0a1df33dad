//! Routing queued mail anew when the configuration changed: its routes, or how large mail may be for a link.

use std::time::Duration;

use linkmail_smtp::Mailbox;

use super::{
    RecipientState, SizeLimits, Spool, SpoolError, age, db::Db, look::unsigned, nodes,
    store::millis,
};
use crate::{names::NextHop, route::Routes};

/// What is said of mail that was set aside for want of a route. It is queued again when there is one.
const NO_ROUTE: &str = "no route takes this domain any more";

impl Spool {
    /// Routes queued mail anew if the routes changed since the last time, or the [limits](Spool::limit_sizes) of links; says
    /// how many recipients moved. Mail that no route takes any more is set aside, where it can be seen, until one does.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn reroute(&self, routes: Routes) -> Result<u64, SpoolError> {
        let (clock, limits) = (self.clock(), self.size_limits());
        self.write(move |db| reroute(db, (&routes, &limits), clock))
            .await
    }
}

/// So many recipients are looked at in one go.
const PAGE: usize = 1000;

fn reroute(
    db: &Db<'_>,
    (routes, limits): (&Routes, &SizeLimits),
    clock: Duration,
) -> Result<u64, SpoolError> {
    let print = routes.fingerprint() + &limits.fingerprint();
    db.lock("SELECT 1 FROM meta WHERE key = 'rerouting' FOR UPDATE", &[])?;
    let known = "SELECT value FROM meta WHERE key = 'routes'";
    let known: Option<String> = db.row(known, &[], |row| row.get(0))?;
    if known.as_deref() == Some(print.as_str()) {
        return Ok(0);
    }
    let queued = "SELECT r.seq, r.idx, r.address, r.hop, r.state, m.size FROM recipients r JOIN messages m ON m.seq = r.seq \
                  WHERE (r.seq, r.idx) > (?2, ?3) AND (r.state IN (1, 6) OR (r.state = 5 AND r.last_reply = ?1)) \
                  ORDER BY r.seq, r.idx LIMIT ?4";
    let update = "UPDATE recipients SET hop = ?3, state = ?4, last_reply = ?5, since_ms = ?6 \
                  WHERE seq = ?1 AND idx = ?2 AND state = ?7 AND hop = ?8";
    let (mut moved, mut place) = (0, (0, -1));
    loop {
        let behind = [
            NO_ROUTE.into(),
            place.0.into(),
            place.1.into(),
            (PAGE as i64).into(),
        ];
        let page = db.query(queued, &behind, |row| {
            Ok(Waiting {
                place: (row.get(0)?, row.get(1)?),
                address: row.get(2)?,
                hop: row.get(3)?,
                state: row.get(4)?,
                size: unsigned(row.get(5)?),
            })
        })?;
        for waiting in &page {
            place = waiting.place;
            let Some((hop, state, why)) = waiting.moves(routes, limits) else {
                continue;
            };
            if let Some(NextHop::Hold(node)) = &hop {
                nodes::know(db, node, clock)?;
            }
            let (seq, idx) = (place.0.into(), place.1.into());
            let hop = hop.map_or_else(|| waiting.hop.clone(), |hop| hop.to_string());
            moved += db.execute(
                update,
                &[
                    seq,
                    idx,
                    (&hop).into(),
                    state.into(),
                    why.into(),
                    millis(clock).into(),
                    waiting.state.into(),
                    (&waiting.hop).into(),
                ],
            )?;
        }
        if page.len() < PAGE {
            break;
        }
    }
    db.execute(age::KEEP, &["routes".into(), (&print).into()])?;
    Ok(moved)
}

/// A recipient that waits, or was set aside for want of a route.
struct Waiting {
    place: (i64, i64),
    address: Vec<u8>,
    hop: String,
    state: i64,
    size: u64,
}

impl Waiting {
    /// Where it goes by these routes, if not where it waits, in which state, and why. Without a route it stays.
    fn moves(
        &self,
        routes: &Routes,
        limits: &SizeLimits,
    ) -> Option<(Option<NextHop>, i64, &'static str)> {
        let address = Mailbox::parse_utf8(&self.address).ok()?;
        let aside = RecipientState::SetAside as i64;
        let Some(route) = routes.find(&address) else {
            return Some((None, aside, NO_ROUTE));
        };
        let next = limits.hop(route.target.hop(&address), self.size);
        let state = RecipientState::waiting_for(&next) as i64;
        (self.state == aside || next.to_string() != self.hop).then_some((Some(next), state, ""))
    }
}
