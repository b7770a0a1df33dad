//! Asking whether the server takes mail for a recipient: a transaction that ends before its message. The sender is the null
//! one (RFC 5321 4.5.5), so that no mail can come of it.

use crate::path::ForwardPath;
use crate::reply::Reply;

use super::flight::not_utf8;
use super::{Awaited, ClientSession, ClientStep, Order};

/// What came of the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It could not be asked: the server does not take the sender, or cannot be told such an address.
    NotAsked(Reply),
    /// The reply to the recipient.
    Answer(Reply),
}

impl ClientSession {
    /// Orders the question whether mail for a recipient is taken. What came of it comes as [`ClientStep::Asked`], unless the
    /// session ends first.
    pub fn ask(&mut self, recipient: ForwardPath) {
        self.orders.push_back(Order::Ask(recipient));
    }

    /// Nothing is awaited when this begins, and nothing else until it is over.
    pub(super) fn begin_asking(&mut self, recipient: ForwardPath) {
        if std::mem::take(&mut self.must_reset) {
            self.command(b"RSET", Awaited::Reset);
            self.orders.push_front(Order::Ask(recipient));
            return;
        }
        let offered = self.capabilities.as_ref();
        let mail: &[u8] = match recipient.is_ascii() {
            true => b"MAIL FROM:<>",
            false if offered.is_some_and(|offered| offered.smtp_utf8) => b"MAIL FROM:<> SMTPUTF8",
            false => return self.asked(Asked::NotAsked(not_utf8())),
        };
        self.asking = Some(recipient);
        self.command(mail, Awaited::AskedSender);
    }

    pub(super) fn answer_to_sender(&mut self, reply: Reply) {
        match self.asking.take() {
            Some(recipient) if reply.is_positive() => {
                let line = [b"RCPT TO:<".as_slice(), &recipient.to_bytes(), b">"].concat();
                self.must_reset = true;
                self.asking = Some(recipient);
                self.command(&line, Awaited::AskedRecipient);
            }
            _ => self.asked(Asked::NotAsked(reply)),
        }
    }

    pub(super) fn asked(&mut self, asked: Asked) {
        self.asking = None;
        self.steps.push_back(ClientStep::Asked(asked));
    }
}
