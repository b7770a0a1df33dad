//! Mail for `report` routes: it waits for a program to read and acknowledge it.
//!
//! A report is a message like any other; its recipients by the route `report` are queued until somebody acknowledges it,
//! and delivered then. Its body is kept as long as its row.

use std::time::Duration;

use linkmail_smtp::{Mailbox, ReversePath};

use super::{Origin, RecipientState, Spool, SpoolError, Tick, db::Db, look, store};
use crate::{
    clock::Stamp,
    names::{CycleId, LinkName, MessageId, NextHop},
};

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportState {
    /// Waits for a reader.
    Unacknowledged,
    /// Somebody has it.
    Acknowledged,
    /// Nobody fetched it in time.
    Expired,
}

/// A report as it stands, without its content.
#[derive(Debug, Clone)]
pub struct StoredReport {
    /// Its place in the spool.
    pub seq: i64,
    /// Its identity.
    pub id: MessageId,
    /// Its state.
    pub state: ReportState,
    /// When it was accepted.
    pub accepted: Stamp,
    /// The reverse path.
    pub reverse_path: ReversePath,
    /// The recipients that the route takes.
    pub recipients: Vec<String>,
    /// Octets of the message.
    pub size: u64,
    /// How it came.
    pub origin: Origin,
    /// The link it came over.
    pub link: Option<LinkName>,
    /// The cycle during which it came.
    pub cycle: Option<CycleId>,
    /// W3C `traceparent` of the span in which it came.
    pub traceparent: String,
    /// Who acknowledged it; empty unless somebody did.
    pub acknowledged_by: String,
}

impl Spool {
    /// Reports behind a place, oldest first; only those in a state, if one is given. One whose row is damaged is left out,
    /// with a log line.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn reports(
        &self,
        after: i64,
        state: Option<ReportState>,
        limit: u32,
    ) -> Result<Vec<StoredReport>, SpoolError> {
        self.read(move |db| list(db, after, state, limit)).await
    }

    /// Up to `limit` reports behind a place that nobody acknowledged and that have a recipient that `fits`, oldest first;
    /// and the place up to which that is all.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn unread(
        &self,
        after: i64,
        fits: impl Fn(&Mailbox) -> bool + Send + 'static,
        limit: usize,
    ) -> Result<(Vec<StoredReport>, i64), SpoolError> {
        self.read(move |db| unread(db, after, &fits, limit)).await
    }

    /// Those of these places whose reports nobody has acknowledged yet.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn still_unread(&self, seqs: Vec<i64>) -> Result<Vec<i64>, SpoolError> {
        let sql = "SELECT 1 FROM recipients INDEXED BY recipients_unread \
                   WHERE hop = 'report' AND state = 1 AND seq = ?1";
        self.read(move |db| {
            let mut still = Vec::new();
            for seq in &seqs {
                if db.exists(sql, &[(*seq).into()])? {
                    still.push(*seq);
                }
            }
            Ok(still)
        })
        .await
    }

    /// One report, if there is one of this identity.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn report(&self, id: MessageId) -> Result<Option<StoredReport>, SpoolError> {
        self.read(move |db| find(db, id)).await
    }

    /// Settles a report for good; gives it as it stands then. A repeat changes nothing.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn acknowledge(
        &self,
        id: MessageId,
        consumer: String,
    ) -> Result<Option<StoredReport>, SpoolError> {
        let clock = self.clock();
        let found = self
            .write(move |db| {
                let Some(report) = find(db, id)? else {
                    return Ok(None);
                };
                settle(db, report.seq, RecipientState::Delivered, &consumer, clock)?;
                find(db, id)
            })
            .await?;
        self.inner
            .signals
            .wake([NextHop::Report.to_string().as_str()]);
        Ok(found)
    }

    /// Gives up reports that nobody acknowledged for longer than `age` by the spool's clock; their identities.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn expire_reports(&self, age: Duration) -> Result<Vec<MessageId>, SpoolError> {
        let clock = self.clock();
        let Some(before) = clock.checked_sub(age) else {
            return Ok(Vec::new());
        };
        self.write(move |db| {
            let mut expired = Vec::new();
            for seq in waiting_since(db, before)? {
                let why = "nobody fetched it";
                settle(db, seq, RecipientState::Discarded, why, clock)?;
                // Also of a report that is too damaged to be read.
                let sql = "SELECT id FROM messages WHERE seq = ?1";
                let id: Vec<u8> = db.value(sql, &[seq.into()])?;
                expired.extend(MessageId::from_bytes(&id));
            }
            Ok(expired)
        })
        .await
    }
}

/// So many recipients are looked at in one go.
const PAGE: usize = 500;

fn unread(
    db: &Db<'_>,
    after: i64,
    fits: &impl Fn(&Mailbox) -> bool,
    limit: usize,
) -> Result<(Vec<StoredReport>, i64), SpoolError> {
    let sql = "SELECT seq, idx, address FROM recipients INDEXED BY recipients_unread \
               WHERE hop = 'report' AND state = 1 AND (seq, idx) > (?1, ?2) ORDER BY seq, idx LIMIT ?3";
    let (mut reports, mut seen): (Vec<StoredReport>, i64) = (Vec::new(), after);
    let mut place = (after, i64::MAX);
    loop {
        let behind = [place.0.into(), place.1.into(), (PAGE as i64).into()];
        let page = db.query(sql, &behind, |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<Vec<u8>>(2)?))
        })?;
        for (seq, idx, address) in &page {
            place = (*seq, *idx);
            let is_known = reports.last().is_some_and(|last| last.seq == *seq);
            if reports.len() >= limit && !is_known {
                return Ok((reports, seen));
            }
            seen = *seq;
            let wanted = Mailbox::parse_utf8(address).is_ok_and(|address| fits(&address));
            if !is_known && wanted {
                reports.extend(shown(db, *seq)?);
            }
        }
        if page.len() < PAGE {
            return Ok((reports, seen));
        }
    }
}

/// A report; nothing, and a log line, if its row is damaged.
fn shown(db: &Db<'_>, seq: i64) -> Result<Option<StoredReport>, SpoolError> {
    match load(db, seq) {
        Err(SpoolError::Damaged(what)) => {
            tracing::warn!(seq, what, "spool: a damaged report is not shown");
            Ok(None)
        }
        loaded => loaded,
    }
}

fn waiting_since(db: &Db<'_>, before: Duration) -> Result<Vec<i64>, SpoolError> {
    let sql = "SELECT DISTINCT seq FROM recipients INDEXED BY recipients_unread_since \
               WHERE hop = 'report' AND state = 1 AND since_ms <= ?1 LIMIT 1000";
    db.query(sql, &[store::millis(before).into()], |row| row.get(0))
}

fn settle(
    db: &Db<'_>,
    seq: i64,
    state: RecipientState,
    why: &str,
    clock: Duration,
) -> Result<(), SpoolError> {
    store::lock(db, seq)?;
    let sql = "UPDATE recipients SET state = ?2, last_reply = ?3 WHERE seq = ?1 AND hop = 'report' AND state = 1";
    db.execute(sql, &[seq.into(), (state as i64).into(), why.into()])?;
    store::close_if_done(db, seq, clock).map(drop)
}

fn find(db: &Db<'_>, id: MessageId) -> Result<Option<StoredReport>, SpoolError> {
    match look::place_of(db, id)? {
        Some(seq) => load(db, seq),
        None => Ok(None),
    }
}

fn list(
    db: &Db<'_>,
    after: i64,
    state: Option<ReportState>,
    limit: u32,
) -> Result<Vec<StoredReport>, SpoolError> {
    let sql = "SELECT DISTINCT seq FROM recipients INDEXED BY recipients_report \
               WHERE hop = 'report' AND seq > ?1 AND (?2 = 0 OR state = ?2) ORDER BY seq LIMIT ?3";
    let wanted = state.map_or(0, |state| recipients_of(state) as i64);
    let places = |after: i64, limit: u32| {
        db.query(sql, &[after.into(), wanted.into(), limit.into()], |row| {
            row.get(0)
        })
    };
    look::page(places, after, limit, |seq| shown(db, seq))
}

/// The state of the recipients of a report in this state.
fn recipients_of(state: ReportState) -> RecipientState {
    match state {
        ReportState::Unacknowledged => RecipientState::Queued,
        ReportState::Acknowledged => RecipientState::Delivered,
        ReportState::Expired => RecipientState::Discarded,
    }
}

/// A message as a report, if the route takes any of its recipients.
fn load(db: &Db<'_>, seq: i64) -> Result<Option<StoredReport>, SpoolError> {
    // When a report is due does not matter.
    let message = look::load(db, seq, (Tick::END, Stamp(0)))?;
    let hop = NextHop::Report.to_string();
    let mine = message.recipients.iter().filter(|row| row.hop == hop);
    let Some(first) = mine.clone().next() else {
        return Ok(None);
    };
    let any = |state| mine.clone().any(|row| row.state == state);
    let state = if any(RecipientState::Queued) {
        ReportState::Unacknowledged
    } else if any(RecipientState::Delivered) {
        ReportState::Acknowledged
    } else if any(RecipientState::Discarded) {
        ReportState::Expired
    } else {
        // Set aside: it is listed with the messages.
        return Ok(None);
    };
    let acknowledged = state == ReportState::Acknowledged;
    Ok(Some(StoredReport {
        seq,
        id: message.id,
        state,
        accepted: message.accepted,
        acknowledged_by: if acknowledged {
            first.last_reply.clone()
        } else {
            String::new()
        },
        recipients: message
            .recipients
            .iter()
            .filter(|row| row.hop == hop)
            .map(|row| row.address.clone())
            .collect(),
        reverse_path: message.reverse_path,
        size: message.size,
        origin: message.origin,
        link: message.link.and_then(|name| LinkName::parse(&name).ok()),
        cycle: message.cycle,
        traceparent: message.traceparent,
    }))
}
