//! What all forwarding needs, and the attempts that come to nothing before a session is there.

use std::{sync::Arc, time::Duration};

use linkmail_smtp::{FlightLimits, Mailbox};
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, TraceContextExt},
};

use super::{
    Hosts, InHand, Opener,
    settle::{Attempt, Unrecorded},
};
use crate::{
    names::NextHop,
    policy::Policy,
    queue::{Outcome, RetryPolicy, late::Lateness},
    spool::{Due, DueRecipient, Spool, SpoolError},
    telemetry::{self, Instruments},
};

/// So many messages are looked up at once.
const BATCH: u32 = 50;

/// What all forwarding needs. Cheap to clone.
#[derive(Clone)]
pub struct Forwarder {
    /// Where the mail lies.
    pub spool: Spool,
    /// Routes, for the reports.
    pub policy: Arc<Policy>,
    /// When mail is tried again.
    pub retry: RetryPolicy,
    /// When it is late.
    pub late: Lateness,
    /// The relay's own name.
    pub hostname: Arc<str>,
    /// Who signs reports.
    pub postmaster: Mailbox,
    /// How much one session may have under way.
    pub flight: FlightLimits,
    /// How hosts are spoken to.
    pub hosts: Hosts,
    /// What is measured.
    pub instruments: Instruments,
    /// Outcomes that a full disk keeps from being recorded.
    pub unrecorded: Unrecorded,
    /// What somebody is at work on.
    pub in_hand: InHand,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that the next hop accepted for at least one recipient.
    pub sent: u32,
    /// Their octets.
    pub sent_bytes: u64,
    /// Recipients that the next hop answers for.
    pub delivered: u32,
    /// Recipients that are tried again.
    pub deferred: u32,
    /// Recipients that are given up.
    pub refused: u32,
    /// Recipients that cannot be sent to, for the stored content.
    pub set_aside: u32,
    /// Recipients whose turn did not come.
    pub untried: u32,
}

impl Forwarder {
    /// Records a failed attempt for what is due first: the host refused before any message could be named.
    ///
    /// # Errors
    /// The spool cannot be read or written.
    pub async fn fail(&self, hop: &NextHop, host: &str, reason: &str) -> Result<Tally, SpoolError> {
        let hop = hop.to_string();
        self.record_leftovers(&hop).await?;
        let mut tally = Tally::default();
        for message in self
            .spool
            .due(hop.clone(), self.spool.tick(), BATCH)
            .await?
        {
            let outcomes = vec![Outcome::Failed(reason.to_owned()); message.recipients.len()];
            let attempt = Attempt::new(message, hop.clone(), host, Context::new());
            tally.add(&self.settle_whole(attempt, &outcomes).await?);
        }
        Ok(tally)
    }

    /// Opens sessions, each connect within `patience`; `parent` is the span of all.
    #[must_use]
    pub fn opener(&self, patience: Duration, flight: FlightLimits, parent: &Context) -> Opener {
        Opener {
            hostname: Arc::clone(&self.hostname),
            hosts: self.hosts.clone(),
            patience,
            within: None,
            flight,
            parent: parent.clone(),
        }
    }

    /// The same for held mail: an attempt that fails leaves it held.
    #[must_use]
    pub fn of_held(&self) -> Self {
        Self {
            retry: self.retry.of_held(),
            late: self.late.of_held(),
            ..self.clone()
        }
    }

    /// Gives up a message that was held for too long; its sender gets a report.
    ///
    /// # Errors
    /// The spool cannot be read or written.
    pub async fn give_up(
        &self,
        hop: &NextHop,
        message: &Due,
        reason: &str,
    ) -> Result<(), SpoolError> {
        let hop = hop.to_string();
        self.record_leftovers(&hop).await?;
        let why = |recipient: &DueRecipient| match recipient.last_reply.as_str() {
            "" => format!("{reason}; it was never tried"),
            last => format!("{reason}; the last attempt: {last}"),
        };
        let outcomes: Vec<_> = message
            .recipients
            .iter()
            .map(|recipient| Outcome::OutOfTime(why(recipient)))
            .collect();
        let attempt = Attempt::new(message.clone(), hop, &self.hostname, Context::new());
        self.settle_whole(attempt, &outcomes).await.map(|_| ())
    }

    /// Gives up a message for an operator; its sender gets a report that says why.
    ///
    /// # Errors
    /// The spool cannot be read or written.
    pub async fn return_to_sender(
        &self,
        hop: String,
        message: Due,
        why: &str,
        operator: &str,
    ) -> Result<Tally, SpoolError> {
        self.record_leftovers(&hop).await?;
        let outcomes = vec![Outcome::Returned(why.to_owned()); message.recipients.len()];
        let attempt = Attempt::new(message, hop, &self.hostname, Context::new());
        self.settle_whole(attempt.ended_by(operator), &outcomes)
            .await
    }

    async fn settle_whole(
        &self,
        mut attempt: Attempt,
        outcomes: &[Outcome],
    ) -> Result<Tally, SpoolError> {
        let whole = attempt.whole();
        let tally = self.settle(&mut attempt, &whole, outcomes).await?;
        Ok(tally.unwrap_or_default())
    }

    /// `send outbound`, linked to the message's creation; or, for what came over a link and goes to its
    /// destination at the site, `process inbound` in the trace in which it came.
    pub(super) fn span(&self, message: &Due, parent: &Context, created: &Context) -> Context {
        let size = i64::try_from(message.size).unwrap_or(i64::MAX);
        let attributes = vec![
            KeyValue::new(telemetry::SYSTEM, "smtp"),
            KeyValue::new(telemetry::MESSAGE, message.id.to_string()),
            KeyValue::new(telemetry::SIZE, size),
        ];
        if message.link.is_some() && created.has_active_span() {
            return telemetry::start("process inbound", SpanKind::Consumer, created, attributes);
        }
        let link = Some(created.span().span_context().clone());
        telemetry::start_linked("send outbound", SpanKind::Client, parent, attributes, link)
    }
}

impl Tally {
    /// Whether anything came off the queue, or out of its way.
    #[must_use]
    pub fn progressed(&self) -> bool {
        self.delivered + self.refused + self.set_aside > 0
    }

    /// Whether anything changed for any recipient.
    #[must_use]
    pub fn moved(&self) -> bool {
        self.progressed() || self.deferred > 0
    }

    /// Whether anything changed for any recipient since an earlier count.
    #[must_use]
    pub fn moved_since(&self, before: &Self) -> bool {
        let moved = |of: &Self| of.delivered + of.refused + of.set_aside + of.deferred;
        moved(self) > moved(before)
    }

    /// Of one message's recipients together.
    pub(super) fn outcome(&self) -> &'static str {
        match (self.delivered > 0, self.deferred > 0, self.refused > 0) {
            (true, false, false) => "delivered",
            (false, true, false) => "deferred",
            (false, false, true) => "refused",
            (false, false, false) => "not_sent",
            _ => "mixed",
        }
    }

    /// Adds what else was done.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.delivered += other.delivered;
        self.deferred += other.deferred;
        self.refused += other.refused;
        self.set_aside += other.set_aside;
        self.untried += other.untried;
    }
}
