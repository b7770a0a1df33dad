//! Records what became of recipients, with the report that tells the sender of those that were given up.
//!
//! An outcome that is not recorded would send the message again. Those that a full disk keeps out are held here, by
//! next hop, and nothing more is sent to that hop before they are recorded; so there are never more of them than one
//! message has transactions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use linkmail_smtp::{ForwardPath, Mailbox, ReversePath, Severity};
use opentelemetry::{Context, KeyValue};

use super::forward::{Forwarder, Tally};
use crate::{
    clock::Stamp,
    names::{HostPort, MessageId},
    policy::Admitted,
    queue::{self, History, Outcome, Settlement},
    report::{self, Diagnostic, Failure},
    spool::{Due, DueRecipient, NewMessage, NewRecipient, Origin, Settled, SpoolError},
    telemetry,
};

/// Outcomes that are not recorded yet, by next hop. Cheap to clone.
#[derive(Clone, Default)]
pub struct Unrecorded {
    waiting: Arc<Mutex<HashMap<String, Vec<Record>>>>,
}

/// Outcomes of one message, and the report that belongs to them.
#[derive(Clone)]
struct Record {
    seq: i64,
    settled: Vec<Settled>,
    report: Option<(Vec<u8>, NewMessage)>,
    at: Stamp,
}

/// One attempt at a message, over however many transactions.
pub(super) struct Attempt<'a> {
    message: &'a Due,
    hop: &'a str,
    remote: String,
    span: Context,
    /// Where the sender's report goes; nowhere for the null reverse path, or a domain without a route.
    sender: Option<Mailbox>,
    bounced: Vec<Settled>,
    failures: Vec<Failure>,
}

impl<'a> Attempt<'a> {
    /// `host` is who was spoken to, or was to be.
    pub(super) fn new(message: &'a Due, hop: &'a str, host: &str, span: Context) -> Self {
        Self {
            message,
            hop,
            remote: HostPort::mta_name(host),
            span,
            sender: message.reverse_path.mailbox().cloned(),
            bounced: Vec::new(),
            failures: Vec::new(),
        }
    }
}

impl Forwarder {
    /// Records the outcomes of one transaction; those that are given up wait for [`Self::conclude`]. The tally counts
    /// recipients.
    pub(super) async fn settle(
        &self,
        attempt: &mut Attempt<'_>,
        recipients: &[&DueRecipient],
        outcomes: &[Outcome],
    ) -> Result<Tally, SpoolError> {
        let now = Stamp::now();
        let untold = self.report_to(attempt).is_none();
        let (mut tally, mut settled) = (Tally::default(), Vec::new());
        for (recipient, outcome) in recipients.iter().zip(outcomes) {
            let history = History {
                attempts: recipient.attempts,
                waited: recipient.waited,
                tried: recipient.tried,
            };
            let Some(settlement) = queue::settle(history, outcome, &self.retry, untold, now) else {
                tally.untried += 1;
                continue;
            };
            self.note(attempt.message, recipient, &settlement, now);
            let idx = recipient.idx;
            match &settlement {
                Settlement::Delivered { .. } => tally.sent += 1,
                Settlement::Retry { .. } => tally.deferred += 1,
                Settlement::Discarded { .. } => tally.refused += 1,
                Settlement::SetAside { .. } => tally.set_aside += 1,
                Settlement::Bounced { reply } => {
                    tally.refused += 1;
                    attempt
                        .failures
                        .push(failure(recipient, outcome, reply, &attempt.remote));
                    attempt.bounced.push(Settled { idx, settlement });
                    continue;
                }
            }
            settled.push(Settled { idx, settlement });
        }
        if !settled.is_empty() {
            let seq = attempt.message.seq;
            self.record(
                attempt.hop,
                Record {
                    seq,
                    settled,
                    report: None,
                    at: now,
                },
            )
            .await?;
        }
        Ok(tally)
    }

    /// Records the recipients that were given up, all with one report.
    pub(super) async fn conclude(&self, mut attempt: Attempt<'_>) -> Result<(), SpoolError> {
        let settled = std::mem::take(&mut attempt.bounced);
        if settled.is_empty() {
            return Ok(());
        }
        let at = Stamp::now();
        let report = self.report(&attempt, at).await;
        let record = Record {
            seq: attempt.message.seq,
            settled,
            report,
            at,
        };
        self.record(attempt.hop, record).await
    }

    /// Records what a full disk has kept out before.
    ///
    /// # Errors
    /// The spool cannot be written.
    pub async fn record_leftovers(&self, hop: &str) -> Result<(), SpoolError> {
        loop {
            let next = {
                let mut waiting = self
                    .unrecorded
                    .waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                waiting.get_mut(hop).and_then(Vec::pop)
            };
            match next {
                Some(record) => self.record(hop, record).await?,
                None => return Ok(()),
            }
        }
    }

    async fn record(&self, hop: &str, record: Record) -> Result<(), SpoolError> {
        let kept = record.clone();
        let done = self
            .spool
            .settle(record.seq, record.settled, record.report, record.at)
            .await;
        if matches!(done, Err(SpoolError::Full)) {
            let mut waiting = self
                .unrecorded
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            waiting.entry(hop.to_owned()).or_default().push(kept);
        }
        done
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
        tracing::info!(id = %message.id, recipient = %recipient.address, outcome, reply, "recipient settled");
        let direction = if message.link.is_some() {
            "inbound"
        } else {
            "outbound"
        };
        let labels = [
            KeyValue::new("direction", direction),
            KeyValue::new("outcome", outcome),
        ];
        self.instruments.deliveries.add(1, &labels);
        if matches!(settlement, Settlement::Delivered { .. }) {
            let waited = now.since(message.accepted).as_secs_f64();
            self.instruments.queue_duration.record(waited, &labels);
        }
    }

    /// Where a report to the sender would go.
    fn report_to(&self, attempt: &Attempt<'_>) -> Option<Admitted> {
        let sender = attempt.sender.clone()?;
        self.policy
            .recipient(&ForwardPath::Mailbox(sender), true)
            .ok()
    }

    /// The report of those recipients that were given up.
    async fn report(&self, attempt: &Attempt<'_>, now: Stamp) -> Option<(Vec<u8>, NewMessage)> {
        let (message, sender) = (attempt.message, attempt.sender.as_ref()?);
        let admitted = self.report_to(attempt)?;
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
        let text = match report::write(&subject, &attempt.failures, now) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(id = %message.id, %error, "no report");
                return None;
            }
        };
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
            traceparent: telemetry::to_text(&attempt.span),
            accepted: now,
            request: None,
        };
        tracing::info!(id = %new.id, about = %message.id, "report written");
        Some((text, new))
    }
}

fn failure(recipient: &DueRecipient, outcome: &Outcome, given_up: &str, remote: &str) -> Failure {
    let address = recipient.address.clone();
    let remote = remote.to_owned();
    match outcome {
        Outcome::Refused(reply) if reply.severity() == Severity::Permanent => {
            Failure::refused(address, reply, remote)
        }
        Outcome::Refused(reply) => {
            Failure::expired(address, Diagnostic::Smtp(reply.to_string()), remote)
        }
        Outcome::HeldTooLong(why) => Failure::held_too_long(address, why.clone(), remote),
        _ => Failure::expired(address, Diagnostic::Words(given_up.to_owned()), remote),
    }
}
