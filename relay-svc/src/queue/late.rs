//! What becomes of mail by time alone, with no attempt: the sender is told that it is late, or it is given up.
//!
//! Three clocks, for three promises. A sender's own deadline (RFC 2852) runs by the clock by which mail is due, also while
//! the line is down and while the relay does not run. How long mail has been here, for [`Lateness::warn_after`] and
//! [`Lateness::line_gone`], is counted by the clock of the spool, which runs only while the relay does. Backoff and [`super::RetryPolicy::expire`] count what was waited between attempts.

use std::time::Duration;

use linkmail_smtp::{ByMode, DeliverBy, dsn::Notify};

/// What a site wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lateness {
    /// The sender is told once that a recipient has been waiting for so long; nothing: never.
    pub warn_after: Option<Duration>,
    /// A recipient that has been waiting for so long is given up, whether its line was ever there or not.
    pub line_gone: Duration,
}

impl Lateness {
    /// For held mail, whose site decides when it comes: waiting is not late, and [`super::RetryPolicy::hold`] ends it.
    #[must_use]
    pub fn of_held(self) -> Self {
        Self {
            warn_after: None,
            line_gone: Duration::MAX,
        }
    }
}

/// A recipient that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// What passed since the message was accepted, with the time for which the relay did not run.
    pub spent: Duration,
    /// How long the recipient has been waiting for its next hop, by the clock of the spool.
    pub waited: Duration,
    /// What the sender gave the delivery, as it was accepted.
    pub deliver_by: Option<DeliverBy>,
    /// Which reports the sender wants.
    pub notify: Option<Notify>,
    /// That this recipient is late is on record.
    pub is_noted: bool,
    /// There is nobody to tell: the reverse path is null.
    pub null_sender: bool,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Waits,
    /// It is late, which the sender is told; it goes on.
    TellLate,
    /// It is late, and nobody is to be told; it goes on.
    NoteLate,
    /// Give up: it is past the time by which the sender wanted it delivered or returned (5.4.7).
    TooLate,
    /// Give up: its line did not return (5.4.7).
    LineGone,
}

/// Whether "late" may be told: it was asked for, or nothing was said (RFC 3461 5.2.5).
#[must_use]
pub fn delay_may_be_told(notify: Option<Notify>) -> bool {
    notify.is_none_or(|asked| asked.delay)
}

impl Waiting {
    fn left(&self) -> Option<DeliverBy> {
        self.deliver_by.map(|by| by.after(self.spent))
    }

    /// What is to be done.
    #[must_use]
    pub fn judge(&self, limits: &Lateness) -> Verdict {
        if self.left().is_some_and(DeliverBy::is_lost) {
            return Verdict::TooLate;
        }
        if self.waited >= limits.line_gone {
            return Verdict::LineGone;
        }
        if self.is_noted || !(self.is_past_notice() || self.is_past_warning(limits)) {
            return Verdict::Waits;
        }
        if self.null_sender || !delay_may_be_told(self.notify) {
            return Verdict::NoteLate;
        }
        Verdict::TellLate
    }

    /// The time of mode N is over here. Where it was when the message came, a host before us has told.
    fn is_past_notice(&self) -> bool {
        let asked = self
            .deliver_by
            .filter(|by| by.mode() == ByMode::Notify && by.seconds() > 0);
        asked.is_some() && self.left().is_some_and(|left| left.seconds() <= 0)
    }

    fn is_past_warning(&self, limits: &Lateness) -> bool {
        limits.warn_after.is_some_and(|warn| self.waited >= warn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const LIMITS: Lateness = Lateness {
        warn_after: Some(Duration::from_secs(4 * 3600)),
        line_gone: Duration::from_secs(30 * 86_400),
    };

    fn waiting(waited: Duration, by: &str, notify: &str) -> Waiting {
        Waiting {
            spent: waited,
            waited,
            deliver_by: DeliverBy::parse(by.as_bytes()),
            notify: Notify::parse(notify.as_bytes()),
            is_noted: false,
            null_sender: false,
        }
    }

    #[test]
    fn late_is_told_once_and_only_to_who_wants_it() {
        let late = |notify| waiting(4 * HOUR, "", notify);
        for (notify, verdict) in [
            ("", Verdict::TellLate),
            ("DELAY", Verdict::TellLate),
            ("FAILURE,DELAY", Verdict::TellLate),
            ("FAILURE", Verdict::NoteLate),
            ("SUCCESS", Verdict::NoteLate),
            ("NEVER", Verdict::NoteLate),
        ] {
            assert_eq!(late(notify).judge(&LIMITS), verdict, "{notify}");
        }
        let told = Waiting {
            is_noted: true,
            ..late("")
        };
        let nobody = Waiting {
            null_sender: true,
            ..late("")
        };
        assert_eq!(told.judge(&LIMITS), Verdict::Waits);
        assert_eq!(nobody.judge(&LIMITS), Verdict::NoteLate);
        let never = Lateness {
            warn_after: None,
            ..LIMITS
        };
        assert_eq!(late("").judge(&never), Verdict::Waits);
        assert_eq!(late("").judge(&LIMITS.of_held()), Verdict::Waits);
    }

    #[test]
    fn a_line_that_never_returns_ends_it() {
        let month = 30 * 24 * HOUR;
        assert_eq!(
            waiting(month, "", "NEVER").judge(&LIMITS),
            Verdict::LineGone
        );
        let shortly = Waiting {
            spent: 365 * 24 * HOUR,
            ..waiting(month.saturating_sub(HOUR), "", "NEVER")
        };
        assert_eq!(
            shortly.judge(&LIMITS),
            Verdict::NoteLate,
            "a rest is no wait for the line"
        );
        assert_eq!(
            waiting(month, "", "").judge(&LIMITS.of_held()),
            Verdict::Waits
        );
    }

    #[test]
    fn the_sender_s_own_time_runs_while_the_relay_does_not() {
        let at = |by, minutes: u64, waited: u64| {
            let one = Waiting {
                spent: Duration::from_secs(minutes * 60),
                ..waiting(Duration::from_secs(waited * 60), by, "")
            };
            one.judge(&LIMITS)
        };
        for (by, minutes, waited, verdict) in [
            ("600;R", 9, 0, Verdict::Waits),
            ("600;R", 10, 0, Verdict::TooLate),
            ("600;N", 9, 9, Verdict::Waits),
            ("600;N", 10, 0, Verdict::TellLate),
            // A host before us has told.
            ("-600;N", 10, 0, Verdict::Waits),
            ("0;N", 10, 0, Verdict::Waits),
        ] {
            assert_eq!(at(by, minutes, waited), verdict, "{by} {minutes} {waited}");
        }
        // It is what the sender set: it is lost before the site's own limit is asked.
        let both = waiting(60 * 24 * HOUR, "600;R", "NEVER");
        assert_eq!(both.judge(&LIMITS), Verdict::TooLate);
    }
}
