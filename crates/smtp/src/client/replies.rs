//! The client session reading replies: each one belongs to the oldest command that has none.

use crate::reply::{Enhanced, Reply, Severity};

use super::flying::{Fate, Flying, Progress};
use super::{Asked, Awaited, ClientSession, ClientStep, CloseReason, Protocol};

impl ClientSession {
    /// Takes one reply. 421 is an answer to the command it is for and ends the session (RFC 5321 3.8).
    pub(super) fn reply(&mut self, reply: Reply) {
        self.replies_read += 1;
        self.last_was_refusal =
            matches!(reply.severity(), Severity::Transient | Severity::Permanent);
        // What came in one piece with an answer is no answer to what is said because of it.
        if self.awaited.len() <= self.unwritten {
            return self.unasked(reply);
        }
        let Some(awaited) = self.awaited.pop_front() else {
            return;
        };
        if let Some(refusal) = self.reset_refused.take()
            && reply.code != 421
        {
            return self.protocol_error("RSET was refused", &refusal);
        }
        let last = (reply.code == 421).then(|| reply.clone());
        match awaited {
            Awaited::Greeting => self.greeted(reply),
            Awaited::Ehlo => self.answer_to_ehlo(reply),
            Awaited::Helo => self.answer_to_helo(reply),
            Awaited::StartTls => self.answer_to_starttls(reply),
            Awaited::Auth => self.answer_to_auth(reply),
            Awaited::Reset => self.answer_to_reset(reply),
            Awaited::AskedSender => self.answer_to_sender(reply),
            Awaited::AskedRecipient => self.asked(Asked::Answer(reply)),
            Awaited::Etrn => self.steps.push_back(ClientStep::Etrn(reply)),
            Awaited::Quit => self.die(CloseReason::Quit),
            Awaited::Mail
            | Awaited::Rcpt(_)
            | Awaited::Data
            | Awaited::Chunk
            | Awaited::End
            | Awaited::EmptyEnd => self.answer_in_transaction(awaited, reply),
        }
        if let Some(last) = last {
            self.die(CloseReason::Refused(last));
        }
    }

    /// A reply that no command asked for: 421 ends the session, a refusal of the data that is being sent ends that too.
    fn unasked(&mut self, reply: Reply) {
        let is_refusal = matches!(reply.severity(), Severity::Transient | Severity::Permanent);
        if reply.code == 421 {
            self.die(CloseReason::Refused(reply));
        } else if is_refusal && (self.streaming.is_some() || self.awaited.contains(&Awaited::End)) {
            if let Some(oldest) = self.flying.front_mut() {
                oldest.refuse_rest(&reply);
            }
            self.die(CloseReason::Refused(reply));
        } else {
            self.protocol_error("a reply that no command asked for", &reply);
        }
    }

    pub(super) fn protocol_error(&mut self, what: &str, reply: &Reply) {
        self.die(CloseReason::Protocol(format!("{what}: {reply}")));
    }

    /// Without RSET the next message could go out under the last one's sender (seen with Exim), so its refusal is final: by a
    /// close behind it nothing more was taken, and any other answer behind it cannot be trusted.
    fn answer_to_reset(&mut self, reply: Reply) {
        if reply.is_positive() || reply.code == 421 {
            return;
        }
        if self.awaited.is_empty() {
            self.protocol_error("RSET was refused", &reply);
        } else {
            self.reset_refused = Some(reply);
        }
    }

    fn answer_in_transaction(&mut self, awaited: Awaited, reply: Reply) {
        let Some(oldest) = self.flying.front_mut() else {
            return;
        };
        oldest.unanswered = oldest.unanswered.saturating_sub(1);
        match awaited {
            Awaited::Mail => self.answer_to_mail(reply),
            Awaited::Rcpt(at) => self.answer_to_rcpt(at, reply),
            Awaited::Data => self.answer_to_data(reply),
            Awaited::Chunk => self.answer_to_chunk(reply),
            Awaited::End => self.answer_to_end(reply),
            _ => self.answer_to_empty_end(),
        }
        self.conclude();
    }

    fn answer_to_mail(&mut self, reply: Reply) {
        let Some(oldest) = self.flying.front_mut() else {
            return;
        };
        match reply.severity() {
            Severity::Positive => {}
            Severity::Intermediate => self.protocol_error("an answer to MAIL", &reply),
            Severity::Transient | Severity::Permanent => {
                oldest.mail_refused = true;
                oldest.refuse_rest(&reply);
                if self.has_accepted && is_about_the_session(&reply) {
                    oldest.put_off = Some(reply);
                    self.has_enough = true;
                }
            }
        }
    }

    fn answer_to_rcpt(&mut self, at: usize, reply: Reply) {
        #[cfg(linkmail_planted_bug = "client_session")]
        let at = if self.flying.len() > 1 { 0 } else { at };
        let Some(oldest) = self.flying.front_mut() else {
            return;
        };
        match reply.severity() {
            Severity::Positive if oldest.mail_refused => {
                // The server has a sender of its own, such as that of an earlier message: neither reply can be trusted.
                oldest.fates.fill(Fate::Unanswered);
                self.protocol_error("a recipient taken without its sender", &reply);
            }
            Severity::Positive => oldest.fates[at] = Fate::Taken,
            Severity::Intermediate => self.protocol_error("an answer to RCPT", &reply),
            Severity::Transient | Severity::Permanent if oldest.mail_refused => {}
            Severity::Transient | Severity::Permanent => {
                oldest.fates[at] = Fate::Refused(too_many_recipients_is_temporary(reply));
            }
        }
    }

    fn answer_to_data(&mut self, reply: Reply) {
        match reply.severity() {
            Severity::Intermediate => self.send_dotted(),
            Severity::Positive => self.protocol_error("an answer to DATA", &reply),
            Severity::Transient | Severity::Permanent => {
                self.must_reset = true;
                self.settle_oldest(reply);
            }
        }
    }

    /// A chunk that is not the last. A refusal decides for the message, and no more of it is sent. By LMTP nobody knows how
    /// many replies belong to it, so it ends the session.
    fn answer_to_chunk(&mut self, reply: Reply) {
        match reply.severity() {
            Severity::Positive => {}
            Severity::Intermediate => self.protocol_error("an answer to BDAT", &reply),
            Severity::Transient | Severity::Permanent => {
                let is_newest = self.flying.len() == 1;
                if is_newest {
                    self.streaming = None;
                }
                self.must_reset |= is_newest;
                self.settle_oldest(reply.clone());
                if self.config.protocol == Protocol::Lmtp {
                    self.die(CloseReason::Refused(reply));
                }
            }
        }
    }

    /// The end of data was answered. LMTP has an answer for each recipient that was taken, in their order (RFC 2033 4.2).
    fn answer_to_end(&mut self, reply: Reply) {
        if reply.severity() == Severity::Intermediate {
            // The end of data is out, and what came back says nothing about the message.
            return self.protocol_error("an answer to the end of data", &reply);
        }
        let by_recipient = self.config.protocol == Protocol::Lmtp;
        let refuses = !reply.is_positive();
        self.has_accepted |= !refuses;
        let Some(oldest) = self.flying.front_mut() else {
            return;
        };
        match oldest.fates.iter_mut().find(|fate| **fate == Fate::Taken) {
            Some(fate) if by_recipient => {
                *fate = if refuses {
                    Fate::Refused(reply)
                } else {
                    Fate::Accepted(reply)
                };
                if oldest.any_taken() {
                    oldest.unanswered += 1;
                    self.awaited.push_front(Awaited::End);
                }
            }
            _ => {
                // A chunk that came before may have decided already.
                oldest.verdict.get_or_insert(reply);
            }
        }
        // After a refused chunk the transaction is still there (RFC 3030 2); nothing follows it in flight.
        self.must_reset |= refuses && self.flying.len() == 1 && self.chunking();
    }

    fn answer_to_empty_end(&mut self) {
        self.must_reset = true;
        self.settle_oldest(crate::replies::no_valid_recipients());
    }

    /// The oldest transaction is decided, and nothing more of it is sent.
    fn settle_oldest(&mut self, verdict: Reply) {
        if let Some(Flying {
            verdict: known,
            progress,
            ..
        }) = self.flying.front_mut()
        {
            known.get_or_insert(verdict);
            *progress = Progress::Sent;
        }
    }
}

/// 452 4.5.3 is about recipients (RFC 3463 3.6); said to MAIL behind other messages, as OpenSMTPD does behind a hundred, it is
/// about those, and the message is welcome in another session.
fn is_about_the_session(reply: &Reply) -> bool {
    reply.code == 452 && reply.enhanced == Some(Enhanced(4, 5, 3))
}

/// Servers after RFC 821 answer 552 to one recipient too many; RFC 5321 4.5.3.1.10 has it taken as 452. The text stays.
/// An enhanced code that names another cause, such as 5.2.2 (mailbox full) or 5.3.4 (message too large), is believed.
fn too_many_recipients_is_temporary(reply: Reply) -> Reply {
    let is_about_number = matches!(
        reply.enhanced,
        None | Some(Enhanced(_, 0, 0) | Enhanced(_, 5, 0 | 3))
    );
    if reply.code == 552 && is_about_number {
        Reply {
            code: 452,
            enhanced: Some(Enhanced(4, 5, 3)),
            lines: reply.lines,
        }
    } else {
        reply
    }
}
