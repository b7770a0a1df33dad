//! Takes what is due for a next hop from the spool, and sends it over a session.

use std::{sync::Arc, time::Duration};

use linkmail_smtp::{ForwardPath, Mailbox, Transaction};
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, TraceContextExt},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    End, Session,
    settle::{Attempt, Unrecorded},
};
use crate::{
    clock::Stamp,
    names::NextHop,
    policy::Policy,
    queue::{Outcome, RetryPolicy},
    spool::{Due, DueRecipient, Spool, SpoolError},
    telemetry::{self, Instruments},
};

/// So many messages are looked up at once.
const BATCH: u32 = 50;
/// So many recipients go into one transaction: what every server must take (RFC 5321 4.5.3.1.8).
const RECIPIENTS: usize = 100;
/// Mail that keeps coming is forwarded without a break for so long; then it is others' turn.
const STRETCH: Duration = Duration::from_secs(300);

/// What all forwarding needs. Cheap to clone.
#[derive(Clone)]
pub struct Forwarder {
    /// Where the mail lies.
    pub spool: Spool,
    /// Routes, for the reports.
    pub policy: Arc<Policy>,
    /// When mail is tried again.
    pub retry: RetryPolicy,
    /// The relay's own name.
    pub hostname: Arc<str>,
    /// Who signs reports.
    pub postmaster: Mailbox,
    /// What is measured.
    pub instruments: Instruments,
    /// Outcomes that a full disk keeps from being recorded.
    pub unrecorded: Unrecorded,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that the next hop accepted for at least one recipient.
    pub sent: u32,
    /// Their octets.
    pub sent_bytes: u64,
    /// Recipients that are tried again.
    pub deferred: u32,
    /// Recipients that are given up.
    pub refused: u32,
    /// Recipients that cannot be sent to, for the stored content.
    pub set_aside: u32,
    /// Recipients whose turn did not come.
    pub untried: u32,
}

/// Why forwarding stopped.
#[derive(Debug)]
pub enum Stop {
    /// Nothing is due any more.
    Idle,
    /// More is due, and has been for minutes: it is others' turn.
    Stretch,
    /// The session ended.
    Ended(End),
    /// The relay is stopping.
    Cancelled,
    /// An outcome could not be recorded, or the spool not be read.
    Spool(SpoolError),
}

/// What was done, and why it stopped.
#[derive(Debug)]
pub struct Drained {
    /// What was done.
    pub tally: Tally,
    /// Why it stopped.
    pub stop: Stop,
}

impl Forwarder {
    /// Sends until nothing is due, including what arrives meanwhile. `progress` is told after each message.
    pub async fn drain(
        &self,
        hop: &NextHop,
        session: &mut Session,
        parent: &Context,
        cancel: &CancellationToken,
        mut progress: impl FnMut(&Tally),
    ) -> Drained {
        let hop = hop.to_string();
        let last = Instant::now() + STRETCH;
        let mut tally = Tally::default();
        // What was delivered and is not on record would be sent again: it is recorded first.
        let stop = loop {
            if let Err(error) = self.record_leftovers(&hop).await {
                break Stop::Spool(error);
            }
            let due = match self.spool.due(hop.clone(), Stamp::now(), BATCH).await {
                Ok(due) if due.is_empty() => break Stop::Idle,
                Ok(due) => due,
                Err(error) => break Stop::Spool(error),
            };
            let batch = self.send_all(
                &hop,
                due,
                session,
                parent,
                cancel,
                &mut tally,
                &mut progress,
            );
            if let Some(stop) = batch.await {
                break stop;
            }
            if Instant::now() >= last {
                break Stop::Stretch;
            }
        };
        Drained { tally, stop }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one loop of `drain`, whose state they are"
    )]
    async fn send_all(
        &self,
        hop: &str,
        due: Vec<Due>,
        session: &mut Session,
        parent: &Context,
        cancel: &CancellationToken,
        tally: &mut Tally,
        progress: &mut impl FnMut(&Tally),
    ) -> Option<Stop> {
        for message in due {
            if cancel.is_cancelled() {
                return Some(Stop::Cancelled);
            }
            match self.send(hop, &message, session, parent).await {
                Ok(done) => tally.add(&done),
                Err(error) => return Some(Stop::Spool(error)),
            }
            progress(tally);
            if let Some(end) = session.end() {
                return Some(Stop::Ended(end.clone()));
            }
        }
        None
    }

    /// Records a failed attempt for what is due first: the host refused before any message could be named.
    ///
    /// # Errors
    /// The spool cannot be read or written.
    pub async fn fail(&self, hop: &NextHop, host: &str, reason: &str) -> Result<Tally, SpoolError> {
        let hop = hop.to_string();
        self.record_leftovers(&hop).await?;
        let mut tally = Tally::default();
        for message in self.spool.due(hop.clone(), Stamp::now(), BATCH).await? {
            let outcomes = vec![Outcome::Failed(reason.to_owned()); message.recipients.len()];
            let mut attempt = Attempt::new(&message, &hop, host, Context::new());
            let recipients: Vec<_> = message.recipients.iter().collect();
            tally.add(&self.settle(&mut attempt, &recipients, &outcomes).await?);
            self.conclude(attempt).await?;
        }
        Ok(tally)
    }

    /// The same for held mail: an attempt that fails leaves it held.
    #[must_use]
    pub fn of_held(&self) -> Self {
        Self {
            retry: self.retry.of_held(),
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
            .map(|recipient| Outcome::HeldTooLong(why(recipient)))
            .collect();
        let mut attempt = Attempt::new(message, &hop, &self.hostname, Context::new());
        let recipients: Vec<_> = message.recipients.iter().collect();
        self.settle(&mut attempt, &recipients, &outcomes).await?;
        self.conclude(attempt).await
    }

    /// Sends one message to those of its recipients that are due.
    ///
    /// # Errors
    /// The spool cannot be read or written.
    pub async fn send(
        &self,
        hop: &str,
        message: &Due,
        session: &mut Session,
        parent: &Context,
    ) -> Result<Tally, SpoolError> {
        let created = telemetry::from_text(&message.traceparent);
        let span = self.span(message, parent, &created);
        let done = self.transact(hop, message, session, &span).await;
        let failed = match &done {
            Ok(tally) => {
                let outcome = KeyValue::new(telemetry::DELIVERY, tally.outcome());
                span.span().set_attribute(outcome);
                (tally.sent == 0)
                    .then(|| (tally.outcome(), "not accepted for any recipient".to_owned()))
            }
            Err(error) => Some(("spool", error.to_string())),
        };
        telemetry::end(&span, failed);
        done
    }

    /// One transaction for each hundred recipients.
    async fn transact(
        &self,
        hop: &str,
        message: &Due,
        session: &mut Session,
        span: &Context,
    ) -> Result<Tally, SpoolError> {
        let host = session.peer().host.clone();
        let mut attempt = Attempt::new(message, hop, &host, span.clone());
        let mut recipients_done = Tally::default();
        let recipients: Vec<&DueRecipient> = message.recipients.iter().collect();
        for part in recipients.chunks(RECIPIENTS) {
            let outcomes = match self.spool.body(message.seq).await {
                Ok(body) => session.send(transaction(message, part), body).await?,
                Err(error) if error.is_of_the_message() => {
                    vec![Outcome::Unsendable(error.to_string()); part.len()]
                }
                Err(error) => return Err(error),
            };
            recipients_done.add(&self.settle(&mut attempt, part, &outcomes).await?);
        }
        self.conclude(attempt).await?;
        let accepted = recipients_done.sent > 0;
        Ok(Tally {
            sent: u32::from(accepted),
            sent_bytes: if accepted { message.size } else { 0 },
            ..recipients_done
        })
    }

    /// `send outbound`, linked to the message's creation; or, for what came over a link and goes to its
    /// destination at the site, `process inbound` in the trace in which it came.
    fn span(&self, message: &Due, parent: &Context, created: &Context) -> Context {
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
        self.sent + self.refused + self.set_aside > 0
    }

    /// Of one message's recipients together.
    fn outcome(&self) -> &'static str {
        match (self.sent > 0, self.deferred > 0, self.refused > 0) {
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
        self.deferred += other.deferred;
        self.refused += other.refused;
        self.set_aside += other.set_aside;
        self.untried += other.untried;
    }
}

fn transaction(message: &Due, recipients: &[&DueRecipient]) -> Transaction {
    let path = |recipient: &&DueRecipient| ForwardPath::Mailbox(recipient.address.clone());
    Transaction {
        reverse_path: message.reverse_path.clone(),
        recipients: recipients.iter().map(path).collect(),
        size: message.size,
        eight_bit: message.eight_bit,
    }
}
