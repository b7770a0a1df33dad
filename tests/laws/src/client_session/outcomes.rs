//! Whether the outcomes are what the peer said and heard.

use std::collections::BTreeMap;

use linkmail_smtp::{CloseReason, Protocol, RecipientOutcome, Reply, TransactionOutcome};

use super::peer::{Answer, Peer, Said, number};
use super::{Message, Setup};
use crate::reference;

/// Every outcome against the record of the peer.
pub(super) fn check(
    setup: &Setup<'_>,
    peer: &Peer<'_>,
    outcomes: &BTreeMap<u64, TransactionOutcome>,
) {
    assert_eq!(
        outcomes.len(),
        setup.messages.len(),
        "a transaction without outcome"
    );
    for (message, (at, outcome)) in setup.messages.iter().zip(outcomes) {
        assert_eq!(outcome.recipients.len(), message.recipients);
        for (recipient, fate) in outcome.recipients.iter().enumerate() {
            let place = Place {
                setup,
                peer,
                message,
                number: *at as usize,
                recipient,
            };
            place.check(fate);
        }
    }
}

struct Place<'a> {
    setup: &'a Setup<'a>,
    peer: &'a Peer<'a>,
    message: &'a Message,
    number: usize,
    recipient: usize,
}

impl Place<'_> {
    fn check(&self, fate: &RecipientOutcome) {
        let taken = self.taken();
        match fate {
            RecipientOutcome::Accepted(reply) => {
                let end = taken.unwrap_or_else(|| panic!("{self} was not taken: {reply}"));
                assert!(self.peer.answers[end].is_positive(), "{self}: {reply}");
                assert_eq!(number(&reply.text()), Some(end), "{self}: {reply}");
            }
            RecipientOutcome::Refused(reply) => self.is_refusal(reply),
            RecipientOutcome::InDoubt => {
                assert!(
                    self.peer.ended.contains(&self.number),
                    "{self} was not sent whole"
                );
            }
            RecipientOutcome::BadBody(bad) => {
                let fault = reference::fault(&self.message.octets);
                assert_eq!(fault, Some((bad.fault, bad.offset as usize)));
            }
            RecipientOutcome::NotTried(reason) => self.has_no_doubt(reason),
        }
        let is_taken = taken.is_some_and(|end| self.peer.answers[end].is_positive());
        if self.peer.is_honest && is_taken {
            let is_accepted = matches!(fate, RecipientOutcome::Accepted(_));
            assert!(is_accepted, "{self} was taken, and is {fate:?}");
        }
    }

    /// What the peer heard to its end it may have taken, unless it said that it takes nothing more.
    fn has_no_doubt(&self, reason: &CloseReason) {
        if !self.peer.ended.contains(&self.number) {
            return;
        }
        let last = self.peer.answers.last();
        let is_told = match reason {
            CloseReason::Refused(reply) => {
                reply.code == 421
                    || self.peer.said_more
                    || last.is_some_and(|last| !last.is_positive())
            }
            CloseReason::PeerClosed { .. } => {
                last.is_some_and(|last| matches!(last.code / 100, 4 | 5))
            }
            _ => false,
        };
        assert!(is_told, "{self} was sent whole, and is not tried: {reason}");
    }

    fn all(&self, said: Said) -> impl Iterator<Item = usize> {
        let answers = self.peer.answers.iter().enumerate();
        answers
            .filter(move |(_, answer)| answer.said == said)
            .map(|(at, _)| at)
    }

    fn took(&self, said: Said) -> bool {
        self.all(said).any(|at| self.peer.answers[at].is_positive())
    }

    /// The number of the reply that says what becomes of the message for this recipient, if the peer took it before.
    fn taken(&self) -> Option<usize> {
        let rcpt = |at| Said::Rcpt(self.number, at);
        if !self.took(Said::Mail(self.number)) || !self.took(rcpt(self.recipient)) {
            return None;
        }
        let rank = match self.setup.config.protocol {
            Protocol::Smtp => 0,
            Protocol::Lmtp => (0..self.recipient)
                .filter(|at| self.took(rcpt(*at)))
                .count(),
        };
        self.all(Said::End(self.number)).nth(rank)
    }

    /// A refusal is the answer to a command of this transaction, or the session's own.
    fn is_refusal(&self, reply: &Reply) {
        assert!(!reply.is_positive(), "{self} is refused by {reply}");
        let Some(answer) = number(&reply.text()) else {
            let is_ours = matches!(reply.code, 552 | 554);
            assert!(is_ours || self.peer.said_more, "{self}: {reply}");
            return;
        };
        let answer: &Answer = &self.peer.answers[answer];
        let is_of_it = match answer.said {
            Said::Mail(of) | Said::Data(of) | Said::Chunk(of) | Said::End(of) => of == self.number,
            Said::Rcpt(of, at) => (of, at) == (self.number, self.recipient),
            _ => false,
        };
        assert!(
            is_of_it,
            "{self} is refused by the answer to {:?}",
            answer.said
        );
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "recipient {} of message {}", self.recipient, self.number)
    }
}
