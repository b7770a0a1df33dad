//! What becomes of mail by time alone, with no attempt: the sender is told that it is late, or it is given up.
//!
//! Three clocks, for three promises. A sender's own deadline (RFC 2852) runs by the wall, also while the line is down and
//! while the relay is; a wall clock that was set back does not give time back. How long mail has been here, for
//! [`Limits::warn_after`] and [`Limits::line_gone`], is counted by the clock of the spool, which runs only while the relay
//! does and does not jump. Backoff and [`super::RetryPolicy::expire`] count what was waited between attempts.

use std::time::Duration;

use linkmail_smtp::{ByMode, DeliverBy, dsn::Notify};

use crate::clock::Stamp;

/// What a site wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The sender is told once that a recipient has been waiting for so long; nothing: never.
    pub warn_after: Option<Duration>,
    /// A recipient that has been waiting for so long is given up, whether its line was ever there or not.
    pub line_gone: Duration,
}

impl Limits {
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
    /// When the message was accepted, by the wall.
    pub accepted: Stamp,
    /// How long the recipient has been waiting for its next hop, by the clock of the spool.
    pub waited: Duration,
    /// What the sender gave the delivery, as it was accepted.
    pub deliver_by: Option<DeliverBy>,
    /// Which reports the sender wants.
    pub notify: Option<Notify>,
    /// The sender was told that this recipient is late.
    pub is_told: bool,
    /// There is nobody to tell: the reverse path is null.
    pub null_sender: bool,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Waits,
    /// Tell the sender that it is late; it goes on.
    TellLate,
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
    /// What is left of the sender's time, for the next host (RFC 2852 4.1.4.1) and for [`Self::judge`].
    #[must_use]
    pub fn left(&self, now: Stamp) -> Option<DeliverBy> {
        let spent = now.since(self.accepted).max(self.waited);
        self.deliver_by.map(|by| by.after(spent))
    }

    /// What is to be done at this time.
    #[must_use]
    pub fn judge(&self, limits: &Limits, now: Stamp) -> Verdict {
        if self.left(now).is_some_and(DeliverBy::is_lost) {
            return Verdict::TooLate;
        }
        if self.waited >= limits.line_gone {
            return Verdict::LineGone;
        }
        let may_be_told = !self.is_told && !self.null_sender && delay_may_be_told(self.notify);
        if may_be_told && (self.is_past_notice(now) || self.is_past_warning(limits)) {
            return Verdict::TellLate;
        }
        Verdict::Waits
    }

    /// How long nothing changes: the earliest of what may come. For the next look at it.
    #[must_use]
    pub fn changes_in(&self, limits: &Limits, now: Stamp) -> Duration {
        if self.judge(limits, now) != Verdict::Waits {
            return Duration::ZERO;
        }
        let mut next = limits.line_gone.saturating_sub(self.waited);
        let may_be_told = !self.is_told && !self.null_sender && delay_may_be_told(self.notify);
        if let Some(warn) = limits.warn_after.filter(|_| may_be_told) {
            next = next.min(warn.saturating_sub(self.waited));
        }
        let left = self
            .left(now)
            .filter(|by| by.mode() == ByMode::Return || may_be_told);
        if let Some(seconds) = left.and_then(|by| u64::try_from(by.seconds()).ok())
            && seconds > 0
        {
            next = next.min(Duration::from_secs(seconds));
        }
        next
    }

    /// The time of mode N is over here. Where it was when the message came, a host before us has told.
    fn is_past_notice(&self, now: Stamp) -> bool {
        let asked = self
            .deliver_by
            .filter(|by| by.mode() == ByMode::Notify && by.seconds() > 0);
        asked.is_some() && self.left(now).is_some_and(|left| left.seconds() <= 0)
    }

    fn is_past_warning(&self, limits: &Limits) -> bool {
        limits.warn_after.is_some_and(|warn| self.waited >= warn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Stamp = Stamp(1_000_000_000_000);
    const LIMITS: Limits = Limits {
        warn_after: Some(Duration::from_secs(4 * 3600)),
        line_gone: Duration::from_secs(30 * 86_400),
    };

    fn waiting(waited: Duration, by: &str, notify: &str) -> Waiting {
        Waiting {
            accepted: NOW,
            waited,
            deliver_by: DeliverBy::parse(by.as_bytes()),
            notify: Notify::parse(notify.as_bytes()),
            is_told: false,
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
            ("FAILURE", Verdict::Waits),
            ("SUCCESS", Verdict::Waits),
            ("NEVER", Verdict::Waits),
        ] {
            assert_eq!(late(notify).judge(&LIMITS, NOW), verdict, "{notify}");
        }
        let told = Waiting {
            is_told: true,
            ..late("")
        };
        let nobody = Waiting {
            null_sender: true,
            ..late("")
        };
        for silent in [told, nobody] {
            assert_eq!(silent.judge(&LIMITS, NOW), Verdict::Waits);
        }
        let never = Limits {
            warn_after: None,
            ..LIMITS
        };
        assert_eq!(late("").judge(&never, NOW), Verdict::Waits);
        assert_eq!(late("").judge(&LIMITS.of_held(), NOW), Verdict::Waits);
    }

    #[test]
    fn a_line_that_never_returns_ends_it_however_the_wall_clock_was_set() {
        let month = 30 * 24 * HOUR;
        let year = NOW.plus(365 * 24 * HOUR);
        assert_eq!(
            waiting(month, "", "NEVER").judge(&LIMITS, NOW),
            Verdict::LineGone
        );
        for now in [NOW, NOW.minus(24 * HOUR), year] {
            let shortly = waiting(month.saturating_sub(HOUR), "", "NEVER");
            assert_eq!(shortly.judge(&LIMITS, now), Verdict::Waits);
        }
        assert_eq!(
            waiting(month, "", "").judge(&LIMITS.of_held(), NOW),
            Verdict::Waits
        );
    }

    #[test]
    fn the_sender_s_own_time_runs_while_the_relay_does_not() {
        let at = |by, minutes: u64, waited: u64| {
            let waited = Duration::from_secs(waited * 60);
            let now = NOW.plus(Duration::from_secs(minutes * 60));
            waiting(waited, by, "").judge(&LIMITS, now)
        };
        for (by, minutes, waited, verdict) in [
            ("600;R", 9, 0, Verdict::Waits),
            ("600;R", 10, 0, Verdict::TooLate),
            // The clock was set back behind the acceptance: the spool's still counts.
            ("600;R", 0, 10, Verdict::TooLate),
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
        assert_eq!(both.judge(&LIMITS, NOW), Verdict::TooLate);
    }

    #[test]
    fn nothing_changes_before_it_is_said_to_and_something_does_then() {
        let seconds = [0, 1, 599, 600, 601, 4 * 3600 - 1, 4 * 3600, 30 * 86_400 - 1];
        for by in ["", "600;R", "600;N", "20000;R", "20000;N", "-5;N"] {
            for notify in ["", "FAILURE", "NEVER"] {
                for waited in seconds {
                    let past = Duration::from_secs(waited);
                    let at = |more: Duration| {
                        let one = waiting(past + more, by, notify);
                        one.judge(&LIMITS, NOW.plus(past + more))
                    };
                    let one = waiting(past, by, notify);
                    let next = one.changes_in(&LIMITS, NOW.plus(past));
                    let now = at(Duration::ZERO);
                    assert_eq!(
                        next.is_zero(),
                        now != Verdict::Waits,
                        "{by} {notify} {waited}"
                    );
                    if let Some(before) = next.checked_sub(Duration::from_secs(1)) {
                        assert_eq!(at(before), Verdict::Waits, "{by} {notify} {waited}");
                        assert_ne!(at(next), Verdict::Waits, "{by} {notify} {waited}");
                    }
                }
            }
        }
    }
}
