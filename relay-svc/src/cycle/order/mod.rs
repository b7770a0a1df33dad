//! The order of a cycle: what is done next, given what has happened. Pure, with time as an argument.
//!
//! dial → forward until idle, and ask each provider to release meanwhile → receive until quiet → ask once more if anything was
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
    Forward {
        /// Whether the providers are asked meanwhile, on connections of their own.
        and_ask: bool,
    },
    /// Ask every provider to release.
    Ask,
    /// Wait for mail, or for mail to forward.
    Receive {
        /// Until then.
        until: Instant,
    },
    /// Bring down what a dial that failed may have left of a line.
    TakeDown,
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
    /// A dial failed, and may have left half a line.
    Doubtful,
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
    /// Whether it is others' turn: mail kept coming for long.
    stretched: bool,
    last_forward: Option<Instant>,
    /// When the first message went out whose bounce the last request came too early for.
    unasked: Option<Instant>,
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
            stretched: false,
            last_forward: None,
            unasked: None,
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
        self.line = Line::Doubtful;
        self.paused_until = Some(now + self.plan.dial_pause);
        self.dial_errors.push(reason);
    }

    /// Nothing is left of the line that did not come up.
    pub(super) fn taken_down(&mut self) {
        self.line = Line::Down;
    }

    /// Mail waits to go out.
    pub(super) fn mail_waits(&mut self) {
        self.waiting = true;
    }

    /// Nothing was due, and no session was opened. If nothing is queued at all, a session that broke has left nothing behind.
    pub(super) fn nothing_to_forward(&mut self, is_empty: bool) {
        self.waiting = false;
        if is_empty {
            self.forward_failures = 0;
            self.forward_error = None;
        }
    }

    /// Nothing is due any more; `sent` messages went out.
    pub(super) fn forwarded(&mut self, sent: u32, now: Instant) {
        self.waiting = false;
        self.went_out(sent, now);
        // Idle without having sent anything, after a failure, only means that the failure put the mail off.
        if sent > 0 {
            self.forward_failures = 0;
            self.forward_error = None;
        }
        self.attempted = true;
    }

    /// More is due, after a long stretch of forwarding: the providers have their turn before it goes on.
    pub(super) fn stretched(&mut self, sent: u32, now: Instant) {
        self.went_out(sent, now);
        self.attempted = true;
        self.stretched = self.plan.asks;
    }

    /// More is due, and another session is needed for it; `sent` messages went out.
    pub(super) fn needs_another_session(&mut self, sent: u32, now: Instant) {
        self.went_out(sent, now);
        self.attempted = true;
        self.forward_failures = 0;
    }

    /// Forwarding failed after `sent` messages; `progressed` if anything came off the queue, sent or not. A missing
    /// line is not an attempt.
    pub(super) fn forward_failed(
        &mut self,
        sent: u32,
        progressed: bool,
        reason: String,
        missing: bool,
        now: Instant,
    ) {
        self.forward_failures = if progressed {
            0
        } else {
            self.forward_failures + 1
        };
        self.attempted |= !missing;
        self.went_out(sent, now);
        self.forward_error = Some(reason);
    }

    fn went_out(&mut self, sent: u32, now: Instant) {
        if sent > 0 {
            self.last_forward = Some(now);
            self.unasked.get_or_insert(now);
        }
    }

    /// Every provider was asked, and the last answer came at `now`; `failures` are those requests that were refused or not
    /// answered, `before` the messages that had arrived before the first. To be told before what went out beside it.
    pub(super) fn asked(
        &mut self,
        announced: Announced,
        failures: Vec<String>,
        answered: bool,
        now: Instant,
        before: u32,
    ) {
        self.asks += 1;
        self.attempted |= answered;
        self.asked = Some(Asked {
            at: now,
            announced,
            before,
        });
        self.received = false;
        self.stretched = false;
        // Of what went out in the last moment the bounce cannot have been there yet.
        self.unasked = self
            .last_forward
            .filter(|at| *at + self.plan.bounce_wait > now);
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
            Line::Doubtful => Action::TakeDown,
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
        if self.waiting && self.forward_failures < FORWARD_FAILURES && !self.stretched {
            // What waits on the other side need not wait for what waits here.
            let and_ask = self.plan.asks && self.asked.is_none();
            return Action::Forward { and_ask };
        }
        if self.stretched {
            return Action::Ask;
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
        let bounce_at = self.unasked.map(|at| at + self.plan.bounce_wait);
        match bounce_at {
            Some(at) if self.asks < ASKS && asked.announced != Announced::Refused => {
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

    /// How it went, once it has ended.
    #[must_use]
    pub(super) fn ending(&self) -> Ending {
        let failures = self.forward_error.iter().chain(&self.ask_errors);
        let reason = each_once(failures.clone());
        let (outcome, error) = if self.stopping {
            (Outcome::Interrupted, "the relay was stopped".to_owned())
        } else if self.line == Line::Down || (!self.attempted && !reason.is_empty()) {
            (
                Outcome::LineMissing,
                each_once(self.dial_errors.iter().chain(failures)),
            )
        } else if reason.is_empty() {
            // A redial that was followed by a line, and a session that was followed by another, are no failure.
            (Outcome::Complete, reason)
        } else {
            (Outcome::Incomplete, reason)
        };
        let pause = outcome == Outcome::LineMissing || self.forward_error.is_some();
        Ending {
            outcome,
            error,
            pause,
        }
    }
}

/// How a cycle went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    /// In a word.
    pub(super) outcome: Outcome,
    /// Why it is not complete.
    pub(super) error: String,
    /// Whether the next one is to wait: the way out failed. A provider that refuses to release does not hold up
    /// what goes out.
    pub(super) pause: bool,
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
