//! Records what became of recipients, with the report that tells the sender of those that were given up.
//!
//! An outcome that is not recorded would send the message again. Those that a full disk keeps out are held here, by
//! next hop, and nothing more is begun for that hop before they are recorded; so there are never more of them than the
//! flights of its sessions have transactions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use linkmail_smtp::Mailbox;
use opentelemetry::{Context, KeyValue};

use super::{
    forward::{Forwarder, Tally},
    in_hand::Hand,
    sender_report::{Report, failure, relayed},
};
use crate::{
    clock::Stamp,
    names::HostPort,
    queue::{self, History, Outcome, Settlement, Spread},
    report::{self, Told},
    spool::{Due, DueRecipient, GivenBy, Settled, SpoolError},
};

/// Outcomes that are not recorded yet, by next hop. Cheap to clone.
#[derive(Clone, Default)]
pub struct Unrecorded {
    waiting: Arc<Mutex<HashMap<String, Vec<Record>>>>,
    /// Held while they are recorded: who goes on then finds them on record.
    recording: Arc<tokio::sync::Mutex<()>>,
}

/// Outcomes of one message, and the report that belongs to them.
#[derive(Clone)]
struct Record {
    seq: i64,
    settled: Vec<Settled>,
    report: Option<Report>,
    /// Keeps the message in hand: until this is recorded the spool says that it is still to be sent.
    _hand: Option<Arc<Hand>>,
}

/// One attempt at a message, over however many transactions.
pub(super) struct Attempt {
    pub(super) message: Due,
    hop: String,
    /// Who was spoken to, or was to be; or the operator who ends it.
    by: Arc<GivenBy>,
    pub(super) span: Context,
    /// Where the sender's report goes; nowhere for the null reverse path, or a domain without a route.
    pub(super) sender: Option<Mailbox>,
    bounced: Vec<Settled>,
    told: Vec<Told>,
    tally: Tally,
    parts_left: usize,
    hand: Option<Arc<Hand>>,
}

/// The recipients of one transaction.
pub(super) struct Part {
    /// Their places among those of the message.
    recipients: Vec<usize>,
    /// What the host answers for that takes it.
    pub(super) takes: report::Host,
    /// Why the source of the message failed, if it did.
    pub(super) fault: Option<SpoolError>,
}

impl Unrecorded {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Record>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// The recipients at these places of the message.
    pub(super) fn of(recipients: Vec<usize>) -> Part {
        Part {
            recipients,
            takes: report::Host::default(),
            fault: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.recipients.len()
    }
}

impl Attempt {
    /// At all recipients at once. `host` is who was spoken to, or was to be.
    pub(super) fn new(message: Due, hop: String, host: &str, span: Context) -> Self {
        Self {
            sender: message.reverse_path.mailbox().cloned(),
            message,
            hop,
            by: Arc::new(GivenBy {
                host: HostPort::mta_name(host),
                operator: String::new(),
            }),
            span,
            bounced: Vec::new(),
            told: Vec::new(),
            tally: Tally::default(),
            parts_left: 1,
            hand: None,
        }
    }

    /// An operator ends it.
    pub(super) fn ended_by(self, operator: &str) -> Self {
        let by = GivenBy {
            operator: operator.to_owned(),
            ..GivenBy::clone(&self.by)
        };
        Self {
            by: Arc::new(by),
            ..self
        }
    }

    /// In so many parts, for a message that is in hand.
    pub(super) fn in_parts(self, parts: usize, hand: Hand) -> Self {
        Self {
            parts_left: parts,
            hand: Some(Arc::new(hand)),
            ..self
        }
    }

    /// All of its recipients, as one part.
    pub(super) fn whole(&self) -> Part {
        Part::of((0..self.message.recipients.len()).collect())
    }
}

impl Forwarder {
    /// Records the outcomes of one part; with the last part, those that are given up, all with one report. Gives the
    /// tally of all recipients then.
    pub(super) async fn settle(
        &self,
        attempt: &mut Attempt,
        part: &Part,
        outcomes: &[Outcome],
    ) -> Result<Option<Tally>, SpoolError> {
        let mut settled = self.judge(attempt, part, outcomes);
        let at = Stamp::now();
        attempt.parts_left = attempt.parts_left.saturating_sub(1);
        let is_last = attempt.parts_left == 0;
        // Success is told with the part that it is of, failure with the last part: each with the outcomes it tells of.
        let is_due = |told: &mut Told| is_last || told.action == report::Action::Relayed;
        let told: Vec<Told> = attempt.told.extract_if(.., is_due).collect();
        if is_last {
            settled.append(&mut attempt.bounced);
        }
        let report = self.report(attempt, &told, at).await;
        if !settled.is_empty() {
            self.record(attempt, settled, report).await?;
        }
        Ok(is_last.then_some(attempt.tally))
    }

    /// What is to be recorded at once of a part; what is given up is noted for the report.
    fn judge(&self, attempt: &mut Attempt, part: &Part, outcomes: &[Outcome]) -> Vec<Settled> {
        let clock = self.spool.clock();
        let untold = self.report_to(attempt).is_none();
        let spread = Spread::of_route(&self.hostname, &attempt.hop);
        let deliver_by = attempt.message.wish.deliver_by;
        let mut settled = Vec::new();
        let Attempt {
            message,
            bounced,
            told,
            tally,
            by,
            ..
        } = attempt;
        for (place, outcome) in part.recipients.iter().zip(outcomes) {
            let Some(recipient) = message.recipients.get(*place) else {
                continue;
            };
            let history = History {
                attempts: recipient.attempts,
                before: recipient.attempts_before,
                waited: recipient.waited,
                tried: recipient.tried,
            };
            let settlement = queue::settle(history, outcome, &self.retry, spread, untold, clock);
            let Some(settlement) = settlement else {
                tally.untried += 1;
                continue;
            };
            let idx = recipient.idx;
            match &settlement {
                Settlement::Delivered { .. } => {
                    tally.delivered += 1;
                    let spoken = (part, deliver_by);
                    told.extend(relayed(recipient, outcome, spoken, &by.host));
                }
                Settlement::Retry { .. } => tally.deferred += 1,
                // No attempt gives that.
                Settlement::Late { .. } => {}
                Settlement::Discarded { .. } => tally.refused += 1,
                Settlement::SetAside { .. } => tally.set_aside += 1,
                Settlement::Bounced { reply } => {
                    tally.refused += 1;
                    if recipient.wish.wants_failure() {
                        told.push(failure(recipient, outcome, reply, &by.host));
                    }
                    let by = Arc::clone(by);
                    bounced.push(Settled {
                        idx,
                        settlement,
                        by,
                    });
                    continue;
                }
            }
            let by = Arc::clone(by);
            settled.push(Settled {
                idx,
                settlement,
                by,
            });
        }
        settled
    }

    /// Records what a full disk has kept out before.
    ///
    /// # Errors
    /// The spool cannot be written.
    pub async fn record_leftovers(&self, hop: &str) -> Result<(), SpoolError> {
        let _recording = self.unrecorded.recording.lock().await;
        loop {
            let next = {
                let mut waiting = self.unrecorded.lock();
                waiting.get_mut(hop).and_then(Vec::pop)
            };
            match next {
                Some(record) => self.write(hop, record).await?,
                None => return Ok(()),
            }
        }
    }

    pub(super) async fn record(
        &self,
        attempt: &Attempt,
        settled: Vec<Settled>,
        report: Option<Report>,
    ) -> Result<(), SpoolError> {
        let record = Record {
            seq: attempt.message.seq,
            settled,
            report,
            _hand: attempt.hand.clone(),
        };
        let done = self.store(&record).await;
        let now = Stamp::now();
        for each in &record.settled {
            let mut recipients = attempt.message.recipients.iter();
            let recipient = recipients.find(|recipient| recipient.idx == each.idx);
            let Some(recipient) = recipient else { continue };
            let outcome = match matches!(done, Err(SpoolError::LeaseLost)) {
                true => in_doubt(&each.settlement),
                false => outcome(&each.settlement),
            };
            if let Some(outcome) = outcome {
                self.note(&attempt.message, recipient, outcome, now);
            }
        }
        self.keep(&attempt.hop, record, done).await
    }

    async fn write(&self, hop: &str, record: Record) -> Result<(), SpoolError> {
        let done = self.store(&record).await;
        self.keep(hop, record, done).await
    }

    /// What could not be recorded now waits. What may not be recorded any more is counted: another replica has taken the
    /// message over, and sends it again.
    async fn keep(
        &self,
        hop: &str,
        record: Record,
        done: Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
        if matches!(done, Err(SpoolError::Full | SpoolError::Unavailable(_))) {
            let mut waiting = self.unrecorded.lock();
            waiting.entry(hop.to_owned()).or_default().push(record);
        } else if matches!(done, Err(SpoolError::LeaseLost)) {
            let doubtful = |each: &Settled| in_doubt(&each.settlement).map(|_| each.idx);
            let doubtful: Vec<i64> = record.settled.iter().filter_map(doubtful).collect();
            if let Err(error) = self.spool.count_doubts(record.seq, doubtful).await {
                tracing::warn!(seq = record.seq, %error, "attempts in doubt are not counted");
            }
        }
        done
    }

    async fn store(&self, record: &Record) -> Result<(), SpoolError> {
        let returns_whole = record.report.as_ref().is_some_and(Report::returns_whole);
        match self.store_with(record, returns_whole).await {
            // An outcome does not depend on whether the file of its report can be written.
            Err(SpoolError::Io(error)) if returns_whole => {
                tracing::error!(%error, "a report returns only the header");
                self.store_with(record, false).await
            }
            done => done,
        }
    }

    async fn store_with(&self, record: &Record, whole: bool) -> Result<(), SpoolError> {
        let report = match &record.report {
            None => None,
            Some(report) => {
                let draft = self.draft(record.seq, report, whole).await?;
                Some((draft, report.message.clone()))
            }
        };
        let settled = record.settled.clone();
        self.spool.settle(record.seq, settled, report).await
    }

    /// One line per outcome, the message's identity first.
    fn note(
        &self,
        message: &Due,
        recipient: &DueRecipient,
        (outcome, reply): (&'static str, &str),
        now: Stamp,
    ) {
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
        if outcome == DELIVERED {
            let waited = now.since(message.accepted).as_secs_f64();
            self.instruments.queue_duration.record(waited, &labels);
        }
    }
}

/// What a delivery is called where outcomes are told.
const DELIVERED: &str = "delivered";

/// What an outcome is called, and the reply that caused it; nothing for what is none.
fn outcome(settlement: &Settlement) -> Option<(&'static str, &str)> {
    Some(match settlement {
        Settlement::Delivered { reply } => (DELIVERED, reply),
        Settlement::Retry {
            in_doubt: true,
            reply,
            ..
        } => ("in_doubt", reply),
        Settlement::Retry { reply, .. } => ("deferred", reply),
        Settlement::Bounced { reply } => ("bounced", reply),
        Settlement::Discarded { reply } => ("discarded", reply),
        Settlement::SetAside { reason } => ("set_aside", reason),
        Settlement::Late { .. } => return None,
    })
}

/// The same once nothing may be recorded any more: what the next hop has, or may have, is in doubt, and the rest is nothing.
fn in_doubt(settlement: &Settlement) -> Option<(&'static str, &str)> {
    match settlement {
        Settlement::Delivered { reply }
        | Settlement::Retry {
            in_doubt: true,
            reply,
            ..
        } => Some(("in_doubt", reply)),
        _ => None,
    }
}
