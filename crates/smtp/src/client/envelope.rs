//! The client session in a transaction: which commands go out together.

use crate::data::DataEncoder;
use crate::ehlo::SizeOffer;
use crate::reply::{Enhanced, Reply};

use super::{
    Awaited, ClientSession, ClientStep, CloseReason, RecipientOutcome, Transaction,
    TransactionOutcome,
};

/// The most commands of one group. Their replies are read before the next group is written.
const MAX_GROUP: usize = 100;

/// How far the envelope is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Mail,
    Rcpt(usize),
    Data,
    Sent,
}

/// The transaction that is under way.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) transaction: Transaction,
    pub(super) progress: Progress,
    pub(super) mail_refused: bool,
    /// For each recipient: whether the server took it, or what became of it.
    pub(super) fates: Vec<Fate>,
}

/// What is known of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Unanswered,
    Taken,
    Refused(Reply),
}

impl Current {
    pub(super) fn any_taken(&self) -> bool {
        self.fates.contains(&Fate::Taken)
    }

    /// Refuses, by the same reply, every recipient that is not refused yet.
    pub(super) fn refuse_rest(&mut self, reply: &Reply) {
        for fate in &mut self.fates {
            if !matches!(fate, Fate::Refused(_)) {
                *fate = Fate::Refused(reply.clone());
            }
        }
    }

    /// The outcome when everything was answered: whoever is not refused yet shares the fate of the last reply.
    pub(super) fn outcome(self, last: &Reply) -> TransactionOutcome {
        TransactionOutcome {
            recipients: self
                .fates
                .into_iter()
                .map(|fate| match fate {
                    Fate::Refused(reply) => RecipientOutcome::Refused(reply),
                    Fate::Taken | Fate::Unanswered if last.is_positive() => {
                        RecipientOutcome::Accepted(last.clone())
                    }
                    Fate::Taken | Fate::Unanswered => RecipientOutcome::Refused(last.clone()),
                })
                .collect(),
        }
    }

    /// The outcome when the session ended in between; `end_sent` says whether the end of data was given out for writing.
    pub(super) fn outcome_of_loss(
        self,
        end_sent: bool,
        reason: &CloseReason,
    ) -> TransactionOutcome {
        TransactionOutcome {
            recipients: self
                .fates
                .into_iter()
                .map(|fate| match fate {
                    Fate::Refused(reply) => RecipientOutcome::Refused(reply),
                    Fate::Taken if end_sent => RecipientOutcome::InDoubt,
                    Fate::Taken | Fate::Unanswered => RecipientOutcome::NotTried(reason.clone()),
                })
                .collect(),
        }
    }
}

impl ClientSession {
    /// Starts a transaction, or refuses it in the server's place when it is larger than the server takes (RFC 1870 6.1).
    pub(super) fn begin(&mut self, transaction: Transaction) {
        let limit = self
            .capabilities
            .as_ref()
            .and_then(|offered| offered.size_limit());
        let current = Current {
            fates: vec![Fate::Unanswered; transaction.recipients.len()],
            transaction,
            progress: Progress::Mail,
            mail_refused: false,
        };
        match limit {
            Some(limit) if current.transaction.size > limit => {
                let text = format!("message larger than the {limit} octets the server takes");
                let reply = Reply::new(552, Enhanced(5, 3, 4), text);
                let outcome = current.outcome(&reply);
                self.steps.push_back(ClientStep::Transaction(outcome));
            }
            _ => {
                self.current = Some(current);
                self.send_group();
            }
        }
    }

    /// Sends as many commands of the envelope as may go together, or ends the transaction if it is not worth going on.
    pub(super) fn send_group(&mut self) {
        let room = if self.pipelining() { MAX_GROUP } else { 1 };
        for sent in 0..room {
            let Some(current) = &mut self.current else {
                return;
            };
            let recipients = current.transaction.recipients.len();
            // What was answered by now may have ended it; within a group nothing was.
            let is_hopeless = current.mail_refused
                || (current.progress == Progress::Data && !current.any_taken());
            if sent == 0 && is_hopeless {
                return self.give_up_envelope();
            }
            match current.progress {
                Progress::Mail => {
                    current.progress = Progress::Rcpt(0);
                    let line = self.mail_line();
                    self.command(&line, Awaited::Mail);
                }
                Progress::Rcpt(at) if at < recipients => {
                    current.progress = if at + 1 < recipients {
                        Progress::Rcpt(at + 1)
                    } else {
                        Progress::Data
                    };
                    let path = current.transaction.recipients[at].to_bytes();
                    let line = [b"RCPT TO:<".as_slice(), &path, b">"].concat();
                    self.command(&line, Awaited::Rcpt(at));
                }
                Progress::Rcpt(_) => return self.give_up_envelope(),
                Progress::Data => {
                    current.progress = Progress::Sent;
                    return self.command(b"DATA", Awaited::Data);
                }
                Progress::Sent => return,
            }
        }
    }

    fn mail_line(&self) -> Vec<u8> {
        let Some(current) = &self.current else {
            return Vec::new();
        };
        let transaction = &current.transaction;
        let path = transaction.reverse_path.to_bytes();
        let mut line = [b"MAIL FROM:<".as_slice(), &path, b">"].concat();
        if let Some(offered) = &self.capabilities {
            if offered.size != SizeOffer::NotOffered {
                line.extend_from_slice(format!(" SIZE={}", transaction.size).as_bytes());
            }
            if offered.eight_bit_mime && transaction.eight_bit {
                line.extend_from_slice(b" BODY=8BITMIME");
            }
        }
        line
    }

    /// Every recipient was refused before DATA: the transaction is over, and something of it may linger at the server.
    fn give_up_envelope(&mut self) {
        self.must_reset = true;
        self.finish(&crate::replies::no_valid_recipients());
    }

    /// Delivers the outcome of the transaction, whose last reply this is.
    pub(super) fn finish(&mut self, last: &Reply) {
        if let Some(current) = self.current.take() {
            let outcome = current.outcome(last);
            self.steps.push_back(ClientStep::Transaction(outcome));
        }
    }

    /// The server awaits the message.
    pub(super) fn begin_body(&mut self) {
        self.encoder = Some(DataEncoder::new());
    }
}
