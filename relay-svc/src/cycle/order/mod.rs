//! The order of a cycle: what is done next, given what has happened. Pure, with time as an argument.
//!
//! dial → forward until idle → ask each provider to release → receive until quiet → ask once more if anything was
//! forwarded since (or so shortly before that its bounce cannot have been there yet) → receive → hang up. Mail that
//! arrives meanwhile is forwarded whenever nothing else must be waited for. Asking does not depend on forwarding: a
//! smart host that refuses our mail does not keep the provider's mail away.

use std::time::Duration;

use tokio::time::Instant;

use super::Outcome;

/// So many failed attempts at forwarding without progress end it for this cycle. One that sent something first, such as
/// to a host that takes so many messages per connection, is just followed by another session.
const FORWARD_FAILURES: u32 = 2;
/// So often one cycle asks at most: mail that keeps coming is forwarded, and released in the next cycle.
const ASKS: u32 = 20;

/// What a cycle may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Tries at bringing the line up.
    pub(super) dial_attempts: u32,
    /// The pause between them.
    pub(super) dial_pause: Duration,
    /// Whether there is anyone to ask.
    pub(super) asks: bool,
    /// Receiving ends when nothing came for so long.
    pub(super) quiet: Duration,
    /// Receiving ends after so long.
    pub(super) receive_at_most: Duration,
    /// So long after the last forwarded message its bounce may be there.
    pub(super) bounce_wait: Duration,
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Try to bring the line up.
    Dial,
    /// Wait before the next try.
    Pause {
        /// Until then.
        until: Instant,
    },
    /// Send what is due.
    Forward,
    /// Ask every provider to release.
    Ask,
    /// Wait for mail, or for mail to forward.
    Receive {
        /// Until then.
        until: Instant,
    },
    /// Bring the line down.
    HangUp,
    /// It is over.
    End,
}

/// What a provider expects to send, as far as it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announced {
    /// Every request was refused or not answered: asking again gives nothing else.
    Refused,
    /// Nothing will come (251).
    Nothing,
    /// So many messages (253).
    Messages(u32),
    /// It did not say (250, 252).
    Unknown,
}

impl Announced {
    /// Of two requests together.
    #[must_use]
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Refused, known) | (known, Self::Refused) => known,
            (Self::Nothing, known) | (known, Self::Nothing) => known,
            (Self::Messages(a), Self::Messages(b)) => Self::Messages(a.saturating_add(b)),
            _ => Self::Unknown,
        }
    }
}

/// What has arrived over the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inflow {
    /// Messages so far.
    pub(super) messages: u32,
    /// Transactions under way.
    pub(super) open: u32,
    /// When something last happened.
    pub(super) last: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    announced: Announced,
    /// Messages that had arrived before.
    before: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Down,
    Up,
    Hung,
}

/// The state of one cycle.
#[derive(Debug)]
pub(super) struct Order {
    plan: Plan,
    line: Line,
    dials: u32,
    paused_until: Option<Instant>,
    waiting: bool,
    forward_failures: u32,
    last_forward: Option<Instant>,
    asks: u32,
    asked: Option<Asked>,
    inflow: Inflow,
    received: bool,
    stopping: bool,
    attempted: bool,
    dial_errors: Vec<String>,
    /// Why the last attempt at forwarding failed; one that sends something and ends well makes it forgotten.
    forward_error: Option<String>,
    /// Which requests of the last round failed.
    ask_errors: Vec<String>,
}

impl Order {
    /// A cycle that begins.
    #[must_use]
    pub(super) fn new(plan: Plan, now: Instant) -> Self {
        Self {
            plan,
            line: Line::Down,
            dials: 0,
            paused_until: None,
            waiting: true,
            forward_failures: 0,
            last_forward: None,
            asks: 0,
            asked: None,
            inflow: Inflow {
                messages: 0,
                open: 0,
                last: now,
            },
            received: false,
            stopping: false,
            attempted: false,
            dial_errors: Vec::new(),
            forward_error: None,
            ask_errors: Vec::new(),
        }
    }

    /// The line is up.
    pub(super) fn dialled(&mut self) {
        self.dials += 1;
        self.line = Line::Up;
    }

    /// The line did not come up.
    pub(super) fn dial_failed(&mut self, reason: String, now: Instant) {
        self.dials += 1;
        self.paused_until = Some(now + self.plan.dial_pause);
        self.dial_errors.push(reason);
    }

    /// Mail waits to go out.
    pub(super) fn mail_waits(&mut self) {
        self.waiting = true;
    }

    /// Nothing is due any more; `sent` messages went out.
    pub(super) fn forwarded(&mut self, sent: u32, now: Instant) {
        self.waiting = false;
        self.attempted = true;
        // Idle without having sent anything, after a failure, only means that the failure put the mail off.
        if sent > 0 {
            self.last_forward = Some(now);
            self.forward_failures = 0;
            self.forward_error = None;
        }
    }

    /// Forwarding failed after `sent` messages. A missing line is not an attempt.
    pub(super) fn forward_failed(
        &mut self,
        sent: u32,
        reason: String,
        missing: bool,
        now: Instant,
    ) {
        self.forward_failures = if sent > 0 {
            0
        } else {
            self.forward_failures + 1
        };
        self.attempted |= !missing;
        if sent > 0 {
            self.last_forward = Some(now);
        }
        self.forward_error = Some(reason);
    }

    /// Every provider was asked; `failures` are those requests that were refused or not answered.
    pub(super) fn asked(
        &mut self,
        announced: Announced,
        failures: Vec<String>,
        answered: bool,
        now: Instant,
    ) {
        self.asks += 1;
        self.attempted |= answered;
        self.asked = Some(Asked {
            at: now,
            announced,
            before: self.inflow.messages,
        });
        self.received = false;
        self.ask_errors = failures;
    }

    /// Something arrived, or is arriving.
    pub(super) fn arrived(&mut self, inflow: Inflow) {
        self.inflow = inflow;
    }

    /// The relay is stopping: nothing more is begun.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    /// The line is down again.
    pub(super) fn hung_up(&mut self) {
        self.line = Line::Hung;
    }

    /// What is done next.
    pub(super) fn next(&mut self, now: Instant) -> Action {
        match self.line {
            Line::Hung => Action::End,
            Line::Down if self.stopping || self.dials >= self.plan.dial_attempts => Action::End,
            Line::Down => match self.paused_until {
                Some(until) if until > now => Action::Pause { until },
                _ => Action::Dial,
            },
            Line::Up if self.stopping => Action::HangUp,
            Line::Up => self.on_line(now),
        }
    }

    fn on_line(&mut self, now: Instant) -> Action {
        if self.waiting && self.forward_failures < FORWARD_FAILURES {
            return Action::Forward;
        }
        let Some(asked) = self.asked else {
            return if self.plan.asks {
                Action::Ask
            } else {
                Action::HangUp
            };
        };
        if !self.received {
            if let Some(until) = self.receive_until(&asked, now) {
                return Action::Receive { until };
            }
            self.received = true;
        }
        // What was forwarded before this moment may have a bounce that the last request came too early for.
        let bounce_at = self.last_forward.map(|at| at + self.plan.bounce_wait);
        match bounce_at {
            Some(at)
                if asked.at < at && self.asks < ASKS && asked.announced != Announced::Refused =>
            {
                if at > now {
                    Action::Receive { until: at }
                } else {
                    Action::Ask
                }
            }
            // A transaction that began in the last moment is not cut off.
            _ if self.inflow.open > 0 && now < asked.at + self.plan.receive_at_most => {
                Action::Receive {
                    until: asked.at + self.plan.receive_at_most,
                }
            }
            _ => Action::HangUp,
        }
    }

    /// Until when mail is waited for; nothing if it is all there.
    fn receive_until(&self, asked: &Asked, now: Instant) -> Option<Instant> {
        let last = asked.at + self.plan.receive_at_most;
        if now >= last {
            return None;
        }
        if self.inflow.open > 0 {
            return Some(last);
        }
        let came = self.inflow.messages.saturating_sub(asked.before);
        match asked.announced {
            Announced::Nothing | Announced::Refused => return None,
            Announced::Messages(count) if came >= count => return None,
            Announced::Messages(_) | Announced::Unknown => {}
        }
        let quiet = self.inflow.last.max(asked.at) + self.plan.quiet;
        (now < quiet).then_some(quiet.min(last))
    }

    /// How it went, once it has ended, and why it did not go well.
    #[must_use]
    pub(super) fn outcome(&self) -> (Outcome, String) {
        let failures = self.forward_error.iter().chain(&self.ask_errors);
        if self.stopping {
            return (Outcome::Interrupted, "the relay was stopped".to_owned());
        }
        if self.line == Line::Down || !self.attempted {
            return (
                Outcome::LineMissing,
                each_once(self.dial_errors.iter().chain(failures)),
            );
        }
        // A redial that was followed by a line, and a session that was followed by another, are no failure of the cycle.
        let reason = each_once(failures);
        if reason.is_empty() {
            (Outcome::Complete, reason)
        } else {
            (Outcome::Incomplete, reason)
        }
    }
}

fn each_once<'a>(reasons: impl Iterator<Item = &'a String>) -> String {
    let mut told: Vec<&str> = Vec::new();
    for reason in reasons {
        if !told.contains(&reason.as_str()) {
            told.push(reason);
        }
    }
    told.join("; ")
}

#[cfg(test)]
mod tests;
