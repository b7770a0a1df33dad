//! Routing queued mail anew when the configuration changed: its routes, or how large mail may be for a link.
//!
//! In a spool that replicas share, what waits for a next hop is moved under the lease of that next hop: whoever sends to it is
//! asked for the lease, and ends what he has in hand first. So nothing is sent by the old route and the new one. It is looked
//! at each start, since another replica may have taken mail by other routes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use linkmail_smtp::Mailbox;
use tokio_util::sync::CancellationToken;

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

    /// The same in a spool that replicas share: waits until whoever sends what is to be moved has ended that.
    ///
    /// # Errors
    /// The database cannot be read or written.
    pub async fn reroute_shared(
        &self,
        routes: &Routes,
        cancel: &CancellationToken,
    ) -> Result<u64, SpoolError> {
        let limits = self.size_limits();
        let (by, sizes) = (routes.clone(), Arc::clone(&limits));
        let hops = self.read(move |db| moving(db, &by, &sizes)).await?;
        let mut moved = 0;
        for hop in hops {
            let Some(lease) = self.claim_from(&lease_of(&hop), cancel).await? else {
                break;
            };
            let (routes, limits, clock) = (routes.clone(), Arc::clone(&limits), self.clock());
            let spool = self.under(&lease);
            let moving =
                spool.write(move |db| move_waiting(db, (&routes, &limits), Some(&hop), clock));
            moved += moving.await?;
            lease.give_back().await;
        }
        let hops: Vec<String> = routes.hops().iter().map(ToString::to_string).collect();
        self.inner.signals.wake(hops.iter().map(String::as_str));
        Ok(moved)
    }
}

/// The lease of a next hop: the large mail of a link is under that of the link.
fn lease_of(hop: &str) -> String {
    match NextHop::parse_oversize(hop) {
        Some(link) => NextHop::Link(link).to_string(),
        None => hop.to_owned(),
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
    let moved = move_waiting(db, (routes, limits), None, clock)?;
    db.execute(age::KEEP, &["routes".into(), (&print).into()])?;
    Ok(moved)
}

/// The next hops of which something is to be moved.
fn moving(
    db: &Db<'_>,
    routes: &Routes,
    limits: &SizeLimits,
) -> Result<BTreeSet<String>, SpoolError> {
    let mut hops = BTreeSet::new();
    each_waiting(db, |waiting| {
        if !hops.contains(&waiting.hop) && waiting.moves(routes, limits).is_some() {
            hops.insert(waiting.hop.clone());
        }
        Ok(())
    })?;
    Ok(hops)
}

/// Moves what waits, for one next hop or for any.
fn move_waiting(
    db: &Db<'_>,
    (routes, limits): (&Routes, &SizeLimits),
    only: Option<&str>,
    clock: Duration,
) -> Result<u64, SpoolError> {
    let update = "UPDATE recipients SET hop = ?3, state = ?4, last_reply = ?5, since_ms = ?6 \
                  WHERE seq = ?1 AND idx = ?2 AND state = ?7 AND hop = ?8";
    let mut moved = 0;
    each_waiting(db, |waiting| {
        if only.is_some_and(|only| only != waiting.hop) {
            return Ok(());
        }
        let Some((hop, state, why)) = waiting.moves(routes, limits) else {
            return Ok(());
        };
        if let Some(NextHop::Hold(node)) = &hop {
            nodes::know(db, node, clock)?;
        }
        let (seq, idx) = waiting.place;
        let hop = hop.map_or_else(|| waiting.hop.clone(), |hop| hop.to_string());
        let row = [
            seq.into(),
            idx.into(),
            (&hop).into(),
            state.into(),
            why.into(),
            millis(clock).into(),
            waiting.state.into(),
            (&waiting.hop).into(),
        ];
        moved += db.execute(update, &row)?;
        Ok(())
    })?;
    Ok(moved)
}

/// Hands out what waits, some at a time, in the order of the spool.
fn each_waiting(
    db: &Db<'_>,
    mut take: impl FnMut(&Waiting) -> Result<(), SpoolError>,
) -> Result<(), SpoolError> {
    let queued = "SELECT r.seq, r.idx, r.address, r.hop, r.state, m.size FROM recipients r JOIN messages m ON m.seq = r.seq \
                  WHERE (r.seq, r.idx) > (?2, ?3) AND (+r.state IN (1, 6, 7) OR (+r.state = 5 AND r.last_reply = ?1)) \
                  ORDER BY r.seq, r.idx LIMIT ?4";
    let mut place = (0, -1);
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
            take(waiting)?;
        }
        if page.len() < PAGE {
            return Ok(());
        }
    }
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
        let on_hold = RecipientState::OnHold as i64;
        let Some(route) = routes.find(&address) else {
            let waits = self.state != aside && self.state != on_hold;
            return waits.then_some((None, aside, NO_ROUTE));
        };
        let next = limits.hop(route.target.hop(&address), self.size);
        let state = match self.state {
            // It stays on hold, wherever it goes.
            state if state == on_hold => on_hold,
            _ => RecipientState::waiting_for(&next) as i64,
        };
        (self.state == aside || next.to_string() != self.hop).then_some((Some(next), state, ""))
    }
}
