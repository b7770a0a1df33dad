//! The client session reading replies: each one belongs to the oldest command that has none.

use crate::ehlo::Capabilities;
use crate::reply::{Enhanced, Reply, Severity};

use super::envelope::Fate;
use super::{Awaited, ClientSession, ClientStep, CloseReason};

impl ClientSession {
    /// Takes one reply. 421 is an answer to the command it is for and ends the session (RFC 5321 3.8).
    pub(super) fn reply(&mut self, reply: Reply) {
        let Some(awaited) = self.awaited.pop_front() else {
            return self.unasked(reply);
        };
        let ends = reply.code == 421;
        let last = ends.then(|| reply.clone());
        match awaited {
            Awaited::Greeting => self.greeted(reply),
            Awaited::Ehlo => self.answer_to_ehlo(reply),
            Awaited::Helo => self.answer_to_helo(reply),
            Awaited::Reset => self.answer_to_reset(reply),
            Awaited::Mail => self.answer_to_mail(reply),
            Awaited::Rcpt(at) => self.answer_to_rcpt(at, reply),
            Awaited::Data => self.answer_to_data(reply),
            Awaited::DataEnd => self.answer_to_end(reply),
            Awaited::EmptyEnd => self.answer_to_empty_end(),
            Awaited::Etrn => self.steps.push_back(ClientStep::Etrn(reply)),
            Awaited::Quit => self.die(CloseReason::Quit),
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
        } else if self.encoder.is_some() && is_refusal {
            if let Some(current) = &mut self.current {
                current.refuse_rest(&reply);
            }
            self.die(CloseReason::Refused(reply));
        } else {
            self.protocol_error("a reply that no command asked for", &reply);
        }
    }

    fn protocol_error(&mut self, what: &str, reply: &Reply) {
        self.die(CloseReason::Protocol(format!("{what}: {reply}")));
    }

    fn greeted(&mut self, reply: Reply) {
        let is_welcome = reply.code == 220;
        self.greeting = Some(reply.clone());
        if is_welcome {
            let line = format!("EHLO {}", self.hostname);
            self.command(line.as_bytes(), Awaited::Ehlo);
        } else {
            self.die(CloseReason::Refused(reply));
        }
    }

    fn answer_to_ehlo(&mut self, reply: Reply) {
        match reply.severity() {
            Severity::Positive => self.capabilities = Some(Capabilities::from_reply(&reply)),
            Severity::Permanent => {
                let line = format!("HELO {}", self.hostname);
                self.command(line.as_bytes(), Awaited::Helo);
            }
            _ => self.die(CloseReason::Refused(reply)),
        }
    }

    fn answer_to_helo(&mut self, reply: Reply) {
        if reply.is_positive() {
            self.capabilities = Some(Capabilities::default());
        } else {
            self.die(CloseReason::Refused(reply));
        }
    }

    /// Without RSET the next message could go out under the last one's sender (seen with Exim), so its refusal is final.
    fn answer_to_reset(&mut self, reply: Reply) {
        if !reply.is_positive() {
            if reply.code == 421 {
                self.die(CloseReason::Refused(reply));
            } else {
                self.protocol_error("RSET was refused", &reply);
            }
        }
    }

    fn answer_to_mail(&mut self, reply: Reply) {
        let Some(current) = &mut self.current else {
            return;
        };
        match reply.severity() {
            Severity::Positive => {}
            Severity::Intermediate => self.protocol_error("an answer to MAIL", &reply),
            Severity::Transient | Severity::Permanent => {
                current.mail_refused = true;
                current.refuse_rest(&reply);
            }
        }
    }

    fn answer_to_rcpt(&mut self, at: usize, reply: Reply) {
        let Some(current) = &mut self.current else {
            return;
        };
        match reply.severity() {
            Severity::Positive if current.mail_refused => {
                // The server has a sender of its own, such as that of an earlier message: neither reply can be trusted.
                current.fates.fill(Fate::Unanswered);
                self.protocol_error("a recipient taken without its sender", &reply);
            }
            Severity::Positive => current.fates[at] = Fate::Taken,
            Severity::Intermediate => self.protocol_error("an answer to RCPT", &reply),
            Severity::Transient | Severity::Permanent if current.mail_refused => {}
            Severity::Transient | Severity::Permanent => {
                current.fates[at] = Fate::Refused(too_many_recipients_is_temporary(reply));
            }
        }
    }

    fn answer_to_data(&mut self, reply: Reply) {
        let Some(current) = &mut self.current else {
            return;
        };
        match reply.severity() {
            Severity::Intermediate if current.any_taken() => self.begin_body(),
            Severity::Intermediate => self.command(b".", Awaited::EmptyEnd),
            Severity::Positive => self.protocol_error("an answer to DATA", &reply),
            Severity::Transient | Severity::Permanent => {
                self.must_reset = true;
                self.finish(&reply);
            }
        }
    }

    fn answer_to_end(&mut self, reply: Reply) {
        match reply.severity() {
            Severity::Positive | Severity::Transient | Severity::Permanent => self.finish(&reply),
            Severity::Intermediate => {
                // The end of data is out, and what came back says nothing about the message.
                self.awaited.push_front(Awaited::DataEnd);
                self.protocol_error("an answer to the end of data", &reply);
            }
        }
    }

    fn answer_to_empty_end(&mut self) {
        self.must_reset = true;
        self.finish(&crate::replies::no_valid_recipients());
    }
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
