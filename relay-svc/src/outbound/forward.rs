//! Takes what is due for a next hop from the spool, sends it over a session, records each outcome.

use std::sync::Arc;

use linkmail_smtp::{ForwardPath, Mailbox, ReversePath, Transaction};
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, TraceContextExt},
};
use tokio_util::sync::CancellationToken;

use super::{End, Session};
use crate::{
    clock::Stamp,
    names::{MessageId, NextHop},
    policy::Policy,
    queue::{self, History, Outcome, RetryPolicy, Settlement},
    report::{self, Diagnostic, Failure},
    spool::{
        Draft, Due, DueRecipient, NewMessage, NewRecipient, Origin, Settled, Spool, SpoolError,
    },
    telemetry::{self, Instruments},
};

/// So many messages are looked up at once.
const BATCH: u32 = 50;
/// So many recipients go into one transaction: what every server must take (RFC 5321 4.5.3.1.8).
const RECIPIENTS: usize = 100;

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
}

/// Why forwarding stopped.
#[derive(Debug)]
pub enum Stop {
    /// Nothing is due any more.
    Idle,
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
        let mut tally = Tally::default();
        let stop = loop {
            let due = match self.spool.due(hop.to_string(), Stamp::now(), BATCH).await {
                Ok(due) if due.is_empty() => break Stop::Idle,
                Ok(due) => due,
                Err(error) => break Stop::Spool(error),
            };
            if let Some(stop) = self
                .send_all(due, session, parent, cancel, &mut tally, &mut progress)
                .await
            {
                break stop;
            }
        };
        Drained { tally, stop }
    }

    async fn send_all(
        &self,
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
            match self.send(&message, session, parent).await {
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
    pub async fn fail(&self, hop: &NextHop, reason: &str) -> Result<Tally, SpoolError> {
        let mut tally = Tally::default();
        for message in self.spool.due(hop.to_string(), Stamp::now(), BATCH).await? {
            let outcomes = vec![Outcome::Failed(reason.to_owned()); message.recipients.len()];
            let recipients: Vec<_> = message.recipients.iter().collect();
            tally.add(
                &self
                    .settle(
                        &message,
                        &recipients,
                        &outcomes,
                        hop.to_string(),
                        &Context::new(),
                    )
                    .await?,
            );
        }
        Ok(tally)
    }

    /// Sends one message to those of its recipients that are due.
    async fn send(
        &self,
        message: &Due,
        session: &mut Session,
        parent: &Context,
    ) -> Result<Tally, SpoolError> {
        let created = telemetry::from_text(&message.traceparent);
        let span = self.span(message, parent, &created);
        let mut tally = Tally::default();
        let recipients: Vec<&DueRecipient> = message.recipients.iter().collect();
        for part in recipients.chunks(RECIPIENTS) {
            let outcomes = match self.spool.body(message.seq).await {
                Ok(body) => {
                    session
                        .send(transaction(message, part), body)
                        .await
                        .outcomes
                }
                Err(error) => vec![Outcome::Unsendable(error.to_string()); part.len()],
            };
            let host = session.peer().to_string();
            tally.add(&self.settle(message, part, &outcomes, host, &span).await?);
        }
        let sent = tally.sent.min(1);
        let failed = (sent == 0).then(|| match tally {
            Tally { refused: 1.., .. } => ("refused", "refused for good".to_owned()),
            Tally { deferred: 1.., .. } => ("deferred", "to be tried again".to_owned()),
            _ => (
                "not_sent",
                "set aside, or the session ended before it".to_owned(),
            ),
        });
        let outcome = KeyValue::new(telemetry::DELIVERY, tally.outcome());
        span.span().set_attribute(outcome);
        telemetry::end(&span, failed);
        Ok(Tally {
            sent,
            sent_bytes: if sent == 1 { message.size } else { 0 },
            ..tally
        })
    }

    /// `send outbound`, linked to the message's creation; or, for what came over a link and goes to its
    /// destination at the site, `process inbound` in the trace in which it came.
    fn span(&self, message: &Due, parent: &Context, created: &Context) -> Context {
        let attributes = vec![
            KeyValue::new(telemetry::SYSTEM, "smtp"),
            KeyValue::new(telemetry::MESSAGE, message.id.to_string()),
            KeyValue::new(
                telemetry::SIZE,
                i64::try_from(message.size).unwrap_or(i64::MAX),
            ),
        ];
        if message.link.is_some() && created.has_active_span() {
            return telemetry::start("process inbound", SpanKind::Consumer, created, attributes);
        }
        let link = created.span().span_context().clone();
        telemetry::start_linked(
            "send outbound",
            SpanKind::Client,
            parent,
            attributes,
            Some(link),
        )
    }

    async fn settle(
        &self,
        message: &Due,
        recipients: &[&DueRecipient],
        outcomes: &[Outcome],
        remote: String,
        span: &Context,
    ) -> Result<Tally, SpoolError> {
        let now = Stamp::now();
        let null_sender = message.reverse_path == ReversePath::Null;
        let (mut tally, mut settled, mut failures) = (Tally::default(), Vec::new(), Vec::new());
        for (recipient, outcome) in recipients.iter().zip(outcomes) {
            let Some(settlement) =
                queue::settle(history(recipient), outcome, &self.retry, null_sender, now)
            else {
                continue;
            };
            self.note(message, recipient, &settlement, now);
            match &settlement {
                Settlement::Delivered { .. } => tally.sent += 1,
                Settlement::Retry { .. } => tally.deferred += 1,
                Settlement::Bounced { reply } => {
                    tally.refused += 1;
                    failures.push(failure(recipient, outcome, reply, &remote));
                }
                Settlement::Discarded { .. } => tally.refused += 1,
                Settlement::SetAside { .. } => {}
            }
            settled.push(Settled {
                idx: recipient.idx,
                settlement,
            });
        }
        let report = self.report(message, &failures, span, now).await?;
        if !settled.is_empty() {
            self.spool.settle(message.seq, settled, report, now).await?;
        }
        Ok(tally)
    }

    /// One line per outcome, the message's identity first.
    fn note(&self, message: &Due, recipient: &DueRecipient, settlement: &Settlement, now: Stamp) {
        let (outcome, reply) = match settlement {
            Settlement::Delivered { reply } => ("delivered", reply),
            Settlement::Retry { reply, .. } => ("deferred", reply),
            Settlement::Bounced { reply } => ("bounced", reply),
            Settlement::Discarded { reply } => ("discarded", reply),
            Settlement::SetAside { reason } => ("set_aside", reason),
        };
        let direction = if message.link.is_some() {
            "inbound"
        } else {
            "outbound"
        };
        tracing::info!(id = %message.id, recipient = %recipient.address, outcome, reply, "recipient settled");
        let labels = [
            KeyValue::new("direction", direction),
            KeyValue::new("outcome", outcome),
        ];
        self.instruments.deliveries.add(1, &labels);
        if matches!(settlement, Settlement::Delivered { .. }) {
            self.instruments
                .queue_duration
                .record(now.since(message.accepted).as_secs_f64(), &labels);
        }
    }

    /// The report of those recipients that were given up, ready to be stored with their outcome.
    async fn report(
        &self,
        message: &Due,
        failures: &[Failure],
        span: &Context,
        now: Stamp,
    ) -> Result<Option<(Draft, NewMessage)>, SpoolError> {
        let (Some(sender), false) = (message.reverse_path.mailbox(), failures.is_empty()) else {
            return Ok(None);
        };
        let admitted = match self
            .policy
            .recipient(&ForwardPath::Mailbox(sender.clone()), true)
        {
            Ok(admitted) => admitted,
            Err(_) => {
                tracing::warn!(id = %message.id, "no report: the sender's domain has no route");
                return Ok(None);
            }
        };
        let head = match self.spool.body(message.seq).await {
            Ok(body) => body.head(report::HEADER_LIMIT).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let subject = report::Subject {
            hostname: &self.hostname,
            postmaster: &self.postmaster,
            sender,
            arrived: message.accepted,
            head: &head,
        };
        let text = match report::write(&subject, failures, now) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(id = %message.id, %error, "no report");
                return Ok(None);
            }
        };
        let mut draft = self.spool.draft();
        draft.write(&text).await?;
        let new = NewMessage {
            id: MessageId::new(),
            reverse_path: ReversePath::Null,
            recipients: vec![NewRecipient {
                address: admitted.address,
                hop: admitted.hop,
            }],
            origin: Origin::Report,
            link: None,
            cycle: None,
            traceparent: telemetry::to_text(span),
            accepted: now,
            request: None,
        };
        tracing::info!(id = %new.id, about = %message.id, "report written");
        Ok(Some((draft, new)))
    }
}

impl Tally {
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

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.deferred += other.deferred;
        self.refused += other.refused;
    }
}

fn history(recipient: &DueRecipient) -> History {
    History {
        attempts: recipient.attempts,
        waited: recipient.waited,
        tried: recipient.tried,
    }
}

fn transaction(message: &Due, recipients: &[&DueRecipient]) -> Transaction {
    Transaction {
        reverse_path: message.reverse_path.clone(),
        recipients: recipients
            .iter()
            .map(|r| ForwardPath::Mailbox(r.address.clone()))
            .collect(),
        size: message.size,
        eight_bit: message.eight_bit,
    }
}

fn failure(recipient: &DueRecipient, outcome: &Outcome, given_up: &str, remote: &str) -> Failure {
    let address = recipient.address.clone();
    match outcome {
        Outcome::Refused(reply) if reply.severity() == linkmail_smtp::Severity::Permanent => {
            Failure::refused(address, reply, remote.to_owned())
        }
        Outcome::Refused(reply) => Failure::expired(
            address,
            Diagnostic::Smtp(reply.to_string()),
            remote.to_owned(),
        ),
        _ => Failure::expired(
            address,
            Diagnostic::Words(given_up.to_owned()),
            remote.to_owned(),
        ),
    }
}
