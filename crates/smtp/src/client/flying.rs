//! One transaction in flight: how far it is sent, what is known of each recipient, and what became of them.

use crate::data::BadBody;
use crate::reply::Reply;

use super::content::Content;
use super::flight::not_utf8;
use super::{CloseReason, RecipientOutcome, Transaction, TransactionOutcome};

/// How far a transaction is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Mail,
    Rcpt(usize),
    /// The envelope is sent, of the content nothing.
    Content,
    /// DATA or chunks are sent, and not all of the content.
    Body,
    Sent,
}

/// What is known of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Unanswered,
    Taken,
    Refused(Reply),
    /// LMTP answers for each recipient (RFC 2033 4.2).
    Accepted(Reply),
}

/// Why a message is not sent to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Body(BadBody),
    Source(String),
}

/// A transaction that was begun.
#[derive(Debug)]
pub(super) struct Flying {
    pub(super) number: u64,
    pub(super) transaction: Transaction,
    pub(super) content: Content,
    /// Whether the content ends in CRLF; known of whole content.
    pub(super) ends_line: bool,
    pub(super) progress: Progress,
    pub(super) mail_refused: bool,
    /// For each recipient: whether the server took it, or what became of it.
    pub(super) fates: Vec<Fate>,
    /// Replies that are awaited.
    pub(super) unanswered: usize,
    /// A chunk was sent that is not the last.
    pub(super) in_chunks: bool,
    /// The end of data is on its way to the server.
    pub(super) end_sent: bool,
    /// How many octets were given out with it.
    pub(super) end_at: u64,
    /// The reply that all recipients share that were not refused before.
    pub(super) verdict: Option<Reply>,
    /// The server takes it in another session, for this reason.
    pub(super) put_off: Option<Reply>,
    pub(super) fault: Option<Fault>,
}

impl Flying {
    pub(super) fn any_taken(&self) -> bool {
        self.fates.contains(&Fate::Taken)
    }

    pub(super) fn all_answered(&self) -> bool {
        !self.fates.contains(&Fate::Unanswered)
    }

    /// Refuses the recipients that a server without SMTPUTF8 cannot be told of (RFC 6531 3.2).
    pub(super) fn refuse_utf8(&mut self) {
        for (fate, recipient) in self.fates.iter_mut().zip(&self.transaction.recipients) {
            if !recipient.path.is_ascii() {
                *fate = Fate::Refused(not_utf8());
            }
        }
    }

    pub(super) fn all_refused(&self) -> bool {
        self.fates
            .iter()
            .all(|fate| matches!(fate, Fate::Refused(_)))
    }

    /// Refuses, by the same reply, every recipient that is not refused yet.
    pub(super) fn refuse_rest(&mut self, reply: &Reply) {
        for fate in &mut self.fates {
            if matches!(fate, Fate::Unanswered | Fate::Taken) {
                *fate = Fate::Refused(reply.clone());
            }
        }
    }

    /// The outcome when everything was answered: whoever is not refused yet shares the fate of the last reply.
    pub(super) fn outcome(self) -> TransactionOutcome {
        if let Some(reply) = self.put_off {
            return TransactionOutcome::not_tried(&self.transaction, &CloseReason::Refused(reply));
        }
        let last = self
            .verdict
            .unwrap_or_else(crate::replies::no_valid_recipients);
        let shared = || match &self.fault {
            Some(Fault::Body(bad)) => RecipientOutcome::BadBody(*bad),
            Some(Fault::Source(why)) => {
                RecipientOutcome::NotTried(CloseReason::Abandoned(why.clone()))
            }
            None if last.is_positive() => RecipientOutcome::Accepted(last.clone()),
            None => RecipientOutcome::Refused(last.clone()),
        };
        TransactionOutcome {
            recipients: self
                .fates
                .into_iter()
                .map(|fate| match fate {
                    Fate::Refused(reply) => RecipientOutcome::Refused(reply),
                    Fate::Accepted(reply) => RecipientOutcome::Accepted(reply),
                    Fate::Taken | Fate::Unanswered => shared(),
                })
                .collect(),
        }
    }

    /// The outcome when the session ended in between; `refused` says that the server let it be known that it takes
    /// nothing more. Without a word of that, and behind a recipient that it took, its last refusal may have been of another
    /// recipient, and the message be there.
    pub(super) fn outcome_of_loss(self, refused: bool, reason: &CloseReason) -> TransactionOutcome {
        if let Some(reply) = self.put_off {
            return TransactionOutcome::not_tried(&self.transaction, &CloseReason::Refused(reply));
        }
        let is_told = matches!(reason, CloseReason::Refused(_));
        let is_taken = self.fates.iter().any(|fate| matches!(fate, Fate::Taken));
        let in_doubt = self.end_sent && (!refused || (is_taken && !is_told));
        let verdict = self.verdict.filter(|reply| !reply.is_positive());
        TransactionOutcome {
            recipients: self
                .fates
                .into_iter()
                .map(|fate| match (fate, &verdict, &self.fault) {
                    (Fate::Refused(reply), _, _) => RecipientOutcome::Refused(reply),
                    (Fate::Accepted(reply), _, _) => RecipientOutcome::Accepted(reply),
                    (_, _, Some(Fault::Body(bad))) => RecipientOutcome::BadBody(*bad),
                    (_, Some(reply), None) => RecipientOutcome::Refused(reply.clone()),
                    (_, None, None) if in_doubt => RecipientOutcome::InDoubt,
                    _ => RecipientOutcome::NotTried(reason.clone()),
                })
                .collect(),
        }
    }
}
