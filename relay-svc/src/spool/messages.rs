//! What is stored of a message and its recipients, as types.

use std::{sync::Arc, time::Duration};

use linkmail_smtp::{
    DeliverBy, Mailbox, PeerId, Priority, ReversePath,
    dsn::{EnvelopeId, Notify, OriginalRecipient, Ret},
};

use super::{SpoolError, Tick, history::PastAttempt, requests::RequestKey};
use crate::{
    clock::Stamp,
    names::{CycleId, LinkName, MessageId, NextHop},
    queue::Settlement,
};

/// How a message came to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// By SMTP.
    Smtp,
    /// By `SubmitMessage`.
    Grpc,
    /// Written by the relay itself.
    Report,
}

impl Origin {
    /// The word for it, in the spool and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Grpc => "grpc",
            Self::Report => "report",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, SpoolError> {
        [Self::Smtp, Self::Grpc, Self::Report]
            .into_iter()
            .find(|origin| origin.as_str() == text)
            .ok_or_else(|| SpoolError::Damaged(format!("origin {text:?}")))
    }
}

/// A recipient of a message that is to be accepted.
#[derive(Debug, Clone)]
pub struct NewRecipient {
    /// The address, as the client wrote it.
    pub address: Mailbox,
    /// Its next hop.
    pub hop: NextHop,
    /// What the sender asked for.
    pub wish: RecipientWish,
}

/// What the sender asks for a message (RFC 3461, 6710, 2852), and is passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageWish {
    /// How much of the message a report is to return.
    pub ret: Option<Ret>,
    /// The sender's own name for it.
    pub envelope_id: Option<EnvelopeId>,
    /// How urgent it is, as far as its client may say that (RFC 6710).
    pub priority: Priority,
    /// The time that the sender gives the delivery (RFC 2852), as it was accepted.
    pub deliver_by: Option<DeliverBy>,
}

/// What the sender asks to be told of a recipient (RFC 3461), and is passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecipientWish {
    /// Which reports are wanted; of failure if nothing is said.
    pub notify: Option<Notify>,
    /// The recipient as the sender wrote it.
    pub original: Option<OriginalRecipient>,
}

impl RecipientWish {
    /// Whether the sender wants to hear that the recipient was given up (RFC 3461 4.1).
    #[must_use]
    pub fn wants_failure(&self) -> bool {
        self.notify.is_none_or(|notify| notify.failure)
    }

    /// Whether the sender wants to hear that the message arrived.
    #[must_use]
    pub fn wants_success(&self) -> bool {
        self.notify.is_some_and(|notify| notify.success)
    }
}

/// Under which id another relay hands a message over. What it handed over before is not taken again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// Who hands it over: ids of one peer mean nothing for another.
    pub peer: String,
    /// Its id.
    pub id: PeerId,
}

/// A message that is to be accepted, apart from its body.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its identity.
    pub id: MessageId,
    /// The reverse path.
    pub reverse_path: ReversePath,
    /// The recipients; at least one.
    pub recipients: Vec<NewRecipient>,
    /// How it came.
    pub origin: Origin,
    /// The link it came over.
    pub link: Option<LinkName>,
    /// The cycle during which it came over that link.
    pub cycle: Option<CycleId>,
    /// W3C `traceparent` of its creation; empty if there is none.
    pub traceparent: String,
    /// When it was received.
    pub accepted: Stamp,
    /// The identity of the call that brought it.
    pub request: Option<RequestKey>,
    /// What the sender asked for.
    pub wish: MessageWish,
    /// Whether its header needs SMTPUTF8 (RFC 6532).
    pub utf8_header: bool,
    /// The id that another relay gave it.
    pub handover: Option<Handover>,
}

/// A message that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its identity: that of the first call if this one was a repeat.
    pub id: MessageId,
    /// Octets of the body.
    pub size: u64,
}

/// The state of a recipient. The numbers stand in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub enum RecipientState {
    /// Waits for its next attempt, or for the line.
    Queued = 1,
    /// Accepted by the next hop.
    Delivered = 2,
    /// Refused for good, and the sender was told.
    Bounced = 3,
    /// Refused for good, with nobody to tell.
    Discarded = 4,
    /// Cannot be sent; kept for an operator.
    SetAside = 5,
    /// Kept until its site asks for it.
    Held = 6,
    /// Kept by an operator until it is released.
    OnHold = 7,
}

impl RecipientState {
    /// That of a recipient whose next hop this is.
    pub(super) fn waiting_for(hop: &NextHop) -> Self {
        match hop {
            NextHop::Hold(_) => Self::Held,
            NextHop::Link(_)
            | NextHop::Oversize(_)
            | NextHop::Smtp(_)
            | NextHop::Mx(_)
            | NextHop::Report => Self::Queued,
        }
    }

    pub(super) fn read(number: i64) -> Result<Self, SpoolError> {
        [
            Self::Queued,
            Self::Delivered,
            Self::Bounced,
            Self::Discarded,
            Self::SetAside,
            Self::Held,
            Self::OnHold,
        ]
        .into_iter()
        .find(|state| *state as i64 == number)
        .ok_or_else(|| SpoolError::Damaged(format!("recipient state {number}")))
    }
}

/// A message of which some recipients are due for one next hop.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its place in the spool.
    pub seq: i64,
    /// Its identity.
    pub id: MessageId,
    /// The reverse path.
    pub reverse_path: ReversePath,
    /// Octets of the body.
    pub size: u64,
    /// Whether the body has octets above 127.
    pub eight_bit: bool,
    /// How it came.
    pub origin: Origin,
    /// The link it came over.
    pub link: Option<LinkName>,
    /// When it was accepted.
    pub accepted: Stamp,
    /// W3C `traceparent` of its creation.
    pub traceparent: String,
    /// What the sender asked for.
    pub wish: MessageWish,
    /// Whether its header needs SMTPUTF8 (RFC 6532).
    pub utf8_header: bool,
    /// When the time of the sender ends, if it is set one.
    pub deadline: Option<Tick>,
    /// The recipients that are due; at least one.
    pub recipients: Vec<DueRecipient>,
}

impl Due {
    /// What passed since it was accepted, where the sender set a time.
    #[must_use]
    pub fn spent(&self, now: Tick) -> Duration {
        let given = self.wish.deliver_by.map_or(0, DeliverBy::seconds).max(0);
        let given = Duration::from_secs(u64::from(given.unsigned_abs()));
        // It ends so long behind its beginning.
        let end = self.deadline.unwrap_or(now.plus(given));
        now.plus(given).since(end)
    }

    /// What is left of the time that the sender set (RFC 2852 4.1.4.1).
    #[must_use]
    pub fn left(&self, now: Tick) -> Option<DeliverBy> {
        self.wish.deliver_by.map(|by| by.after(self.spent(now)))
    }
}

/// A recipient that is due.
#[derive(Debug, Clone)]
pub struct DueRecipient {
    /// Its place in the envelope.
    pub idx: i64,
    /// The address.
    pub address: Mailbox,
    /// Counted attempts so far.
    pub attempts: u32,
    /// So many of them had been counted when the backoff began anew.
    pub attempts_before: u32,
    /// Time that passed between them.
    pub waited: Duration,
    /// The last of them, by the clock of the spool.
    pub tried: Option<Duration>,
    /// When it became due.
    pub due: Tick,
    /// Since when it waits for its next hop, by the clock of the spool.
    pub since: Duration,
    /// That it is late is on record.
    pub is_late: bool,
    /// The last reply or error; empty if there was none.
    pub last_reply: String,
    /// What the sender asked for.
    pub wish: RecipientWish,
}

/// What became of one recipient of a message.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The recipient's place in the envelope.
    pub idx: i64,
    /// What is to be recorded.
    pub settlement: Settlement,
    /// Who gave it.
    pub by: Arc<GivenBy>,
}

/// Who gave an outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenBy {
    /// The host that was spoken to, as RFC 3464 2.1.2 names it; empty: none was.
    pub host: String,
    /// The operator who ended it; empty: it was an attempt, or its time was over.
    pub operator: String,
}

/// What waits for a next hop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages that are due, counted up to the given cap.
    pub due: u64,
    /// Since when the longest of them is due.
    pub oldest_due: Option<Tick>,
    /// When the next one becomes due that is not yet.
    pub next_due: Option<Tick>,
}

/// A recipient as it stands.
#[derive(Debug, Clone)]
pub struct RecipientRow {
    /// The address, as text.
    pub address: String,
    /// Its state.
    pub state: RecipientState,
    /// Its next hop.
    pub hop: String,
    /// Counted attempts.
    pub attempts: u32,
    /// The next attempt, while queued, by the wall clock if that is not set until then.
    pub due: Stamp,
    /// The last reply or error.
    pub last_reply: String,
    /// When it got its outcome, by the wall clock.
    pub settled: Option<Stamp>,
    /// Who was spoken to then; empty: nobody.
    pub host: String,
    /// What happened before, oldest first; only where one message is looked up.
    pub history: Vec<PastAttempt>,
}

/// A message as it stands, without its body.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Its place in the spool.
    pub seq: i64,
    /// Its identity.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted: Stamp,
    /// The reverse path.
    pub reverse_path: ReversePath,
    /// How it came.
    pub origin: Origin,
    /// The link it came over.
    pub link: Option<String>,
    /// The cycle during which it came.
    pub cycle: Option<CycleId>,
    /// Octets of the body.
    pub size: u64,
    /// W3C `traceparent` of its creation.
    pub traceparent: String,
    /// Its recipients, in the order of the envelope.
    pub recipients: Vec<RecipientRow>,
}

/// Which messages are listed.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListFilter {
    /// Only those after this place in the spool.
    pub after: i64,
    /// Only those with a recipient in this state.
    pub state: Option<RecipientState>,
    /// At most so many.
    pub limit: u32,
}
