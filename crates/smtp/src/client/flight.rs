//! Sending transactions in flight: what may begin, and what of the newest goes out next.

use crate::data::{DataEncoder, TextCheck};
use crate::deliver_by::DeliverBy;
use crate::reply::{Enhanced, Reply};

use super::content::{Content, Streaming};
use super::flying::{Fate, Fault, Flying, Progress};
use super::{Awaited, ClientSession, ClientStep, Protocol, Transaction};

/// How much may be under way without an outcome. A message alone may be larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlightLimits {
    /// Messages.
    pub messages: usize,
    /// Octets of their content.
    pub bytes: u64,
}

impl Default for FlightLimits {
    fn default() -> FlightLimits {
        FlightLimits {
            messages: 100,
            bytes: 1024 * 1024,
        }
    }
}

/// What may be ordered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Messages, at least one.
    pub messages: usize,
    /// Octets of content; the first message may be larger.
    pub bytes: u64,
}

/// 553 5.6.7: the server has no SMTPUTF8, and the address or header has no other form (RFC 6531 3.2).
pub(super) fn not_utf8() -> Reply {
    let text = "non-ASCII address or header, and the server does not offer SMTPUTF8";
    Reply::new(553, Enhanced(5, 6, 7), text)
}

impl ClientSession {
    /// How much may be ordered now beyond what has no outcome yet; nothing when the session is over, is not ready, or has
    /// carried as many messages as the server takes in one (RFC 9422 4.1), also if it said so only now.
    pub fn room(&self) -> Option<Room> {
        let offered = self.capabilities.as_ref()?;
        if self.closed.is_some()
            || !self.is_ready()
            || self.has_enough
            || self.orders_etrn_or_quit()
        {
            return None;
        }
        let ordered = self.orders.iter().filter_map(|order| match order {
            super::Order::Transmit(_, transaction, _) => Some(transaction.size),
            super::Order::Ask(_) | super::Order::Etrn(_) | super::Order::Quit => None,
        });
        let flying = self.flying.iter().map(|flying| flying.transaction.size);
        let (messages, bytes) = ordered
            .chain(flying)
            .fold((0, 0), |(count, sum), size| (count + 1, sum + size));
        let most = match (offered.pipelining, offered.chunking) {
            (true, true) => self.config.flight.messages.max(1),
            // One is on its way, and the next rides with its end: more would only wait here.
            (true, false) => 2,
            (false, _) => 1,
        };
        let left = match offered.limits.mail_max {
            None => most,
            Some(max) => {
                let begun = self.begun + (messages - self.flying.len()) as u64;
                usize::try_from(max.saturating_sub(begun)).unwrap_or(most)
            }
        };
        let room = Room {
            messages: most.saturating_sub(messages).min(left),
            bytes: self.config.flight.bytes.saturating_sub(bytes),
        };
        (room.messages > 0 && (room.bytes > 0 || messages == 0)).then_some(room)
    }

    /// Whether the server takes no further message in this session, although it is in order (RFC 9422 4.1).
    pub fn is_exhausted(&self) -> bool {
        let max = self.capabilities.as_ref().and_then(|c| c.limits.mail_max);
        self.has_enough || max.is_some_and(|max| self.begun >= max)
    }

    fn orders_etrn_or_quit(&self) -> bool {
        self.orders
            .iter()
            .any(|order| !matches!(order, super::Order::Transmit(..)))
    }

    /// Whether the newest transaction is not wholly sent.
    pub(super) fn is_sending(&self) -> bool {
        self.flying
            .back()
            .is_some_and(|last| last.progress != Progress::Sent)
    }

    /// Whether another transaction may begin beside those that are in flight.
    pub(super) fn may_begin(&self) -> bool {
        let bytes: u64 = self.flying.iter().map(|f| f.transaction.size).sum();
        self.flying.is_empty()
            || self.flying.len() < self.config.flight.messages && bytes < self.config.flight.bytes
    }

    /// Whether a server of LMTP may have another number of replies to the newest transaction than the one that is awaited.
    pub(super) fn replies_may_miscount(&self) -> bool {
        let may = |last: &Flying| last.in_chunks || last.transaction.recipients.len() > 1;
        self.config.protocol == Protocol::Lmtp && self.flying.back().is_some_and(may)
    }

    /// Whether something of an earlier transaction may still be at the server when the next command comes.
    pub(super) fn may_linger(&self) -> bool {
        // Behind a dot the server has forgotten the transaction, whatever it answers (RFC 5321 4.1.1.4).
        self.must_reset || (self.chunking() && !self.flying.is_empty())
    }

    /// Starts a transaction; or answers in the server's place when it is known what the answer would be.
    pub(super) fn begin(&mut self, number: u64, transaction: Transaction, content: Content) {
        let mut check = TextCheck::new();
        let faulty = match &content {
            Content::Whole(octets) => check.feed(octets).and_then(|()| check.finish()).err(),
            Content::Streamed => None,
        };
        let mut flying = Flying {
            number,
            fates: vec![Fate::Unanswered; transaction.recipients.len()],
            ends_line: check.ends_line(),
            transaction,
            content,
            progress: Progress::Mail,
            mail_refused: false,
            unanswered: 0,
            in_chunks: false,
            end_sent: false,
            end_at: 0,
            verdict: None,
            put_off: None,
            fault: faulty.map(Fault::Body),
        };
        flying.verdict = self.answer_for_the_server(&flying.transaction);
        if !self
            .capabilities
            .as_ref()
            .is_some_and(|offered| offered.smtp_utf8)
        {
            flying.refuse_utf8();
        }
        if flying.fault.is_some() || flying.verdict.is_some() || flying.all_refused() {
            self.steps
                .push_back(ClientStep::Transaction(flying.number, flying.outcome()));
            return;
        }
        self.begun += 1;
        let linger = self.may_linger();
        self.flying.push_back(flying);
        if linger {
            self.must_reset = false;
            self.command(b"RSET", Awaited::Reset);
        }
    }

    /// What the server would say to this message, going by what it offers.
    fn answer_for_the_server(&self, transaction: &Transaction) -> Option<Reply> {
        let offered = self.capabilities.as_ref()?;
        match offered.size_limit() {
            // RFC 1870 6.1: larger than the limit is refused for good.
            Some(limit) if transaction.size > limit => {
                let text = format!("message larger than the {limit} octets the server takes");
                return Some(Reply::new(552, Enhanced(5, 3, 4), text));
            }
            _ => {}
        }
        let is_final = self.config.protocol == Protocol::Lmtp;
        let refusal = |by: DeliverBy| by.refusal(offered.deliver_by, is_final);
        if let Some(reply) = transaction.deliver_by.and_then(refusal) {
            return Some(reply);
        }
        if transaction.needs_utf8() && !offered.smtp_utf8 {
            return Some(not_utf8());
        }
        if transaction.eight_bit && !offered.eight_bit_mime {
            // RFC 6152 3: it would have to be converted, which we never do.
            let text = "message has octets above 127 and the server does not offer 8BITMIME";
            return Some(Reply::new(554, Enhanced(5, 6, 3), text));
        }
        None
    }

    /// Sends the next part of the newest transaction; false when it has to wait.
    pub(super) fn send_on(&mut self) -> bool {
        let may_follow = self.awaited.is_empty() || self.pipelining();
        if !may_follow || self.streaming.is_some() {
            return false;
        }
        let Some(last) = self.flying.back_mut() else {
            return false;
        };
        let recipients = last.transaction.recipients.len();
        match last.progress {
            Progress::Mail => {
                last.progress = Progress::Rcpt(0);
                let line = self.mail_line();
                self.command(&line, Awaited::Mail);
            }
            Progress::Rcpt(_) if last.mail_refused => self.give_up_envelope(),
            Progress::Rcpt(at) => {
                last.progress = if at + 1 < recipients {
                    Progress::Rcpt(at + 1)
                } else {
                    Progress::Content
                };
                if matches!(last.fates.get(at), Some(Fate::Refused(_))) {
                    return true;
                }
                match last.transaction.recipients.get(at).cloned() {
                    None => self.give_up_envelope(),
                    Some(recipient) => {
                        let line = self.rcpt_line(&recipient);
                        self.command(&line, Awaited::Rcpt(at));
                    }
                }
            }
            Progress::Content => return self.send_content(),
            Progress::Body | Progress::Sent => return false,
        }
        true
    }

    /// The envelope is sent: what comes behind it?
    fn send_content(&mut self) -> bool {
        let (chunking, pipelining) = (self.chunking(), self.pipelining());
        let Some(last) = self.flying.back_mut() else {
            return false;
        };
        if last.all_answered() && !last.any_taken() {
            self.give_up_envelope();
            return true;
        }
        let rides_along = pipelining
            && match last.content {
                Content::Whole(_) => true,
                // DATA is small; what it announces comes after 354.
                Content::Streamed => !chunking,
            };
        if !rides_along && !last.all_answered() {
            return false;
        }
        if !chunking {
            last.progress = Progress::Body;
            self.command(b"DATA", Awaited::Data);
            return true;
        }
        match std::mem::replace(&mut last.content, Content::Streamed) {
            Content::Whole(octets) => {
                let ends_line = last.ends_line;
                self.send_whole(&octets, ends_line);
            }
            Content::Streamed => {
                last.progress = Progress::Body;
                self.streaming = Some(Streaming::Chunked(TextCheck::new()));
            }
        }
        true
    }

    /// 354 came: the content follows, or a dot alone if no recipient was taken.
    pub(super) fn send_dotted(&mut self) {
        let Some(last) = self.flying.back_mut() else {
            return;
        };
        if !last.any_taken() {
            return self.command(b".", Awaited::EmptyEnd);
        }
        let content = std::mem::replace(&mut last.content, Content::Streamed);
        self.streaming = Some(Streaming::Dotted(DataEncoder::new()));
        if let Content::Whole(octets) = content {
            // It was found to be good when the transaction began.
            let sent = self.body(&octets).and_then(|()| self.end_body());
            debug_assert!(sent.is_ok());
        }
    }

    /// Every recipient was refused before the content: something of the transaction may linger at the server.
    fn give_up_envelope(&mut self) {
        self.must_reset = true;
        if let Some(last) = self.flying.back_mut() {
            last.progress = Progress::Sent;
        }
        self.conclude();
    }

    /// The message that is being sent is not sent to its end.
    pub(super) fn give_up_sending(&mut self, fault: Fault) {
        self.must_reset = true;
        if let Some(last) = self.flying.back_mut() {
            last.progress = Progress::Sent;
            last.fault = Some(fault);
        }
        self.conclude();
    }

    /// The end of data of the newest transaction goes out.
    pub(super) fn end_sent(&mut self) {
        let end_at = self.given_out + self.output.len() as u64;
        if let Some(last) = self.flying.back_mut() {
            last.progress = Progress::Sent;
            last.end_sent = true;
            last.end_at = end_at;
        }
    }

    /// The session dies with these ends of data still in its hands: the server cannot have their messages.
    pub(super) fn take_back_unwritten_ends(&mut self) {
        let unwritten = self.awaited.iter().rev().take(self.unwritten);
        let count = unwritten
            .filter(|awaited| **awaited == Awaited::End)
            .count();
        let ended = self
            .flying
            .iter_mut()
            .rev()
            .filter(|flying| flying.end_sent);
        for flying in ended.take(count) {
            flying.end_sent = false;
        }
        let written = self.given_out.saturating_sub(self.left_over);
        for flying in &mut self.flying {
            flying.end_sent &= flying.end_at <= written;
        }
    }

    /// Notes that a reply will come for what was just written.
    pub(super) fn await_reply(&mut self, awaited: Awaited) {
        use Awaited as A;
        if self.awaited.is_empty() {
            // What was refused before says nothing about what is sent now.
            self.last_was_refusal = false;
        }
        self.awaited.push_back(awaited);
        self.unwritten += 1;
        if let A::Mail | A::Rcpt(_) | A::Data | A::Chunk | A::End | A::EmptyEnd = awaited
            && let Some(last) = self.flying.back_mut()
        {
            last.unanswered += 1;
            last.in_chunks |= awaited == A::Chunk;
        }
    }

    /// Gives the outcome of the oldest transactions that are sent and answered.
    pub(super) fn conclude(&mut self) {
        while let Some(flying) = self.flying.pop_front() {
            if flying.progress != Progress::Sent || flying.unanswered > 0 {
                self.flying.push_front(flying);
                return;
            }
            self.steps
                .push_back(ClientStep::Transaction(flying.number, flying.outcome()));
        }
    }
}
