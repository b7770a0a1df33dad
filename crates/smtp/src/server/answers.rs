//! What the shell's answers do to the session.

use crate::parameters::MailParameters;
use crate::reply::{Reply, Severity};

use super::{
    AbortReason, AuthAnswer, MAX_REFUSALS, Open, Receiving, ServerSession, ServerStep, Stage,
};

impl ServerSession {
    /// Answers the step that asked. Without an open question nothing happens.
    ///
    /// MAIL is accepted and a recipient counted on 2yz, data begins on 3yz. After 421 and 521 the session closes. A refusal
    /// for good that is one too many is replaced by 421. To AUTH it is a refusal, whatever its code.
    pub fn answer(&mut self, reply: Reply) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        let is_positive = reply.is_positive();
        match asked {
            ServerStep::Mail { parameters, .. } if is_positive => self.begin(&parameters),
            ServerStep::Recipient { .. } if is_positive => {
                if let Some(open) = &mut self.open {
                    open.recipients += 1;
                }
                self.counts.idle_commands = self.counts.idle_commands.saturating_sub(1);
            }
            // 459 says "not allowed" with a code that is not for good (RFC 1985 5.3).
            ServerStep::Mail { .. } | ServerStep::Recipient { .. } | ServerStep::Etrn(_) => {
                self.counts.refusals += usize::from(reply.refuses());
            }
            ServerStep::BeginData if matches!(self.stage, Stage::Chunk(_)) => {
                return self.first_chunk(reply);
            }
            ServerStep::BeginData if reply.severity() == Severity::Intermediate => {
                self.stage = Stage::Data(Receiving::default());
            }
            ServerStep::EndOfData => return self.end_message(&reply),
            ServerStep::Auth { .. } | ServerStep::AuthResponse(_) => {
                return self.auth_answered(AuthAnswer::Refused(reply));
            }
            _ => {}
        }
        if reply.closes() {
            self.close_with(&reply, AbortReason::Refused);
        } else if self.counts.refusals > MAX_REFUSALS {
            self.too_many_errors();
        } else {
            self.reply(&reply);
        }
    }

    /// Answers [`ServerStep::Auth`] and [`ServerStep::AuthResponse`].
    pub fn answer_auth(&mut self, answer: AuthAnswer) {
        let is_asked = matches!(
            self.asked,
            Some(ServerStep::Auth { .. } | ServerStep::AuthResponse(_))
        );
        if is_asked {
            self.asked = None;
            self.auth_answered(answer);
        }
    }

    fn begin(&mut self, parameters: &MailParameters) {
        #[cfg(linkmail_planted_bug = "server_session")]
        let kept = self.lost.take().map_or(0, |lost| lost.recipients);
        self.lost = None;
        self.open = Some(Open {
            smtputf8: parameters.smtputf8,
            ..Open::default()
        });
        #[cfg(linkmail_planted_bug = "server_session")]
        if let Some(open) = &mut self.open {
            open.recipients = kept;
        }
    }

    /// The message is taken or not; the transaction is over. LMTP says it for each recipient (RFC 2033 4.2).
    fn end_message(&mut self, reply: &Reply) {
        let recipients = self.open.take().map_or(1, |open| open.recipients);
        if reply.is_positive() {
            self.counts.idle_commands = 0;
        }
        let count = if self.config.lmtp { recipients } else { 1 };
        for _ in 0..count {
            if reply.closes() {
                return self.close_with(reply, AbortReason::Refused);
            }
            self.reply(reply);
        }
        self.is_verdict = true;
    }
}
