//! What an attempt does to a recipient: delivered, tried again later, or given up. Pure.
//!
//! Permanent against transient is decided here and nowhere else. A line that is missing is not an attempt
//! (invariant 4): [`settle`] gives nothing to record for it.
//!
//! - `retry`: how long it waits.
//! - `late`: what time alone does: the sender is told, or it is given up.
//! - `order`: what goes first.
//! - `window`: what is too large for any hour.

pub mod late;
pub mod order;
mod retry;
pub mod window;

use std::time::Duration;

use linkmail_smtp::{Reply, Severity};

use crate::clock::Stamp;

pub use retry::{MAX_JITTER, RetryPolicy, Spread};

/// What an attempt gave for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop answers for it now.
    Delivered(Reply),
    /// The next hop answered 4xx or 5xx for this recipient.
    Refused(Reply),
    /// The session failed in a way that counts as an attempt: refused connection, 4xx or 5xx to the session itself,
    /// loss after the greeting. Never permanent.
    Failed(String),
    /// The body was sent and its reply was lost: it may be delivered, and is sent again.
    InDoubt(String),
    /// The line is missing, or the session ended before this recipient's turn: nothing was attempted.
    NotAttempted(String),
    /// The stored body cannot be sent.
    Unsendable(String),
    /// Its time is over, such as that of held mail; nothing was attempted. Given up.
    OutOfTime(String),
    /// An operator gives it up; nothing was attempted.
    Returned(String),
}

/// What has been recorded of a recipient before the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Counted attempts.
    pub attempts: u32,
    /// So many of them had been counted when the backoff began anew: the line came back, or somebody said "now".
    pub before: u32,
    /// Time that passed between counted attempts.
    pub waited: Duration,
    /// The last of them, by the clock of the spool.
    pub tried: Option<Duration>,
}

/// What is to be recorded of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The next hop answers for it.
    Delivered {
        /// The reply.
        reply: String,
    },
    /// It is tried again.
    Retry {
        /// After so long.
        wait: Duration,
        /// Counted attempts, with this one.
        attempts: u32,
        /// Time that passed between counted attempts.
        waited: Duration,
        /// When this attempt was, by the clock of the spool.
        tried: Duration,
        /// The message may be delivered all the same: its reply was lost.
        in_doubt: bool,
        /// The reply or error.
        reply: String,
    },
    /// Given up; the sender gets a report.
    Bounced {
        /// The reply or error.
        reply: String,
    },
    /// Given up with nobody to tell: the reverse path is null.
    Discarded {
        /// The reply or error.
        reply: String,
    },
    /// Late, and it goes on. Its sender was told, if that was wanted.
    Late {
        /// When that was found.
        at: Stamp,
    },
    /// Cannot be sent; kept for an operator.
    SetAside {
        /// What is wrong.
        reason: String,
    },
}

/// What is to be recorded after an attempt; nothing if there was none. `now` is a reading of the clock of the spool.
#[must_use]
pub fn settle(
    history: History,
    outcome: &Outcome,
    policy: &RetryPolicy,
    spread: Spread,
    null_sender: bool,
    now: Duration,
) -> Option<Settlement> {
    let give_up = |reply: String| {
        if null_sender {
            Settlement::Discarded { reply }
        } else {
            Settlement::Bounced { reply }
        }
    };
    Some(match outcome {
        Outcome::NotAttempted(_) => return None,
        Outcome::Unsendable(reason) => Settlement::SetAside {
            reason: reason.clone(),
        },
        Outcome::OutOfTime(reason) | Outcome::Returned(reason) => give_up(reason.clone()),
        Outcome::Delivered(reply) => Settlement::Delivered {
            reply: reply.to_string(),
        },
        Outcome::Refused(reply) if reply.severity() == Severity::Permanent => {
            give_up(reply.to_string())
        }
        Outcome::Refused(reply) => {
            later(history, reply.to_string(), (policy, spread), now, give_up)
        }
        Outcome::Failed(reason) => later(history, reason.clone(), (policy, spread), now, give_up),
        Outcome::InDoubt(reason) => {
            let reason = format!("in doubt, may be delivered twice: {reason}");
            let mut settlement = later(history, reason, (policy, spread), now, give_up);
            if let Settlement::Retry { in_doubt, .. } = &mut settlement {
                *in_doubt = true;
            }
            settlement
        }
    })
}

fn later(
    history: History,
    reply: String,
    (policy, spread): (&RetryPolicy, Spread),
    now: Duration,
    give_up: impl FnOnce(String) -> Settlement,
) -> Settlement {
    // Only what was scheduled counts as waiting: time without a line adds nothing to it.
    let steps = history.attempts.saturating_sub(history.before);
    let scheduled = if history.attempts == 0 {
        Duration::ZERO
    } else {
        // Behind a new beginning the first wait counts at most, so that beginning anew again and again does not keep
        // mail for ever.
        policy.wait(spread, steps)
    };
    let passed = history
        .tried
        .map_or(Duration::ZERO, |tried| now.saturating_sub(tried))
        .min(scheduled);
    let waited = history.waited.saturating_add(passed);
    let attempts = history.attempts.saturating_add(1);
    if waited >= policy.expire {
        return give_up(format!(
            "given up after {attempts} attempts; the last: {reply}"
        ));
    }
    Settlement::Retry {
        wait: policy.wait(spread, steps.saturating_add(1)),
        attempts,
        waited,
        tried: now,
        in_doubt: false,
        reply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        first: Duration::from_secs(300),
        longest: Duration::from_secs(7200),
        jitter: 20,
        expire: Duration::from_secs(5 * 86_400),
        hold: Duration::from_secs(14 * 86_400),
    };
    const NOW: Duration = Duration::from_secs(1_000_000);

    fn spread() -> Spread {
        Spread::of_route("relay.branch.example", "link:isp")
    }

    fn reply(code: u16) -> Reply {
        Reply::new(code, None, "said so")
    }

    #[test]
    fn a_permanent_refusal_bounces_and_that_of_a_null_sender_is_discarded() {
        let outcome = Outcome::Refused(reply(550));
        let settled = |null| settle(History::default(), &outcome, &POLICY, spread(), null, NOW);
        assert_eq!(
            settled(false),
            Some(Settlement::Bounced {
                reply: "550 said so".into()
            })
        );
        assert_eq!(
            settled(true),
            Some(Settlement::Discarded {
                reply: "550 said so".into()
            })
        );
    }

    #[test]
    fn a_missing_line_records_nothing() {
        let outcome = Outcome::NotAttempted("connect timed out".into());
        assert_eq!(
            settle(History::default(), &outcome, &POLICY, spread(), false, NOW),
            None
        );
    }

    #[test]
    fn a_recipient_is_given_up_after_its_attempts_failed_for_five_days_of_scheduled_waiting() {
        let mut history = History::default();
        let mut now = NOW;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match settle(
                history,
                &Outcome::Refused(reply(451)),
                &POLICY,
                spread(),
                false,
                now,
            )
            .unwrap()
            {
                Settlement::Retry {
                    wait,
                    attempts: counted,
                    waited,
                    tried,
                    ..
                } => {
                    assert_eq!(counted, attempts);
                    history = History {
                        attempts: counted,
                        waited,
                        tried: Some(tried),
                        ..history
                    };
                    now += wait;
                }
                Settlement::Bounced { reply } => {
                    assert!(
                        reply.starts_with(&format!(
                            "given up after {attempts} attempts; the last: 451"
                        )),
                        "{reply}"
                    );
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(now - NOW >= POLICY.expire);
        assert!(now - NOW < POLICY.expire + POLICY.longest * 12 / 10);
        assert!((55..=75).contains(&attempts), "{attempts}");
    }

    #[test]
    fn a_year_without_a_line_between_two_attempts_gives_nothing_up() {
        let history = History {
            attempts: 3,
            waited: Duration::from_secs(2100),
            tried: Some(NOW),
            ..History::default()
        };
        let year = NOW + Duration::from_secs(365 * 86_400);
        let settled = settle(
            history,
            &Outcome::Failed("connection refused".into()),
            &POLICY,
            spread(),
            false,
            year,
        );
        let Some(Settlement::Retry { waited, .. }) = settled else {
            panic!("{settled:?}")
        };
        assert_eq!(waited, Duration::from_secs(2100) + POLICY.wait(spread(), 3));
    }

    #[test]
    fn a_backoff_that_begins_anew_waits_as_at_first_and_still_ends() {
        let mut history = History {
            attempts: 9,
            before: 9,
            waited: Duration::from_secs(20_000),
            tried: Some(NOW),
        };
        let later = NOW + Duration::from_secs(86_400);
        let outcome = Outcome::Failed("connection refused".into());
        let settled = settle(history, &outcome, &POLICY, spread(), false, later);
        let Some(Settlement::Retry {
            wait,
            attempts,
            waited,
            ..
        }) = settled
        else {
            panic!("{settled:?}")
        };
        assert_eq!(attempts, 10);
        assert_eq!(wait, POLICY.wait(spread(), 1));
        assert_eq!(waited, history.waited + POLICY.wait(spread(), 1));
        history.waited = POLICY.expire - Duration::from_secs(1);
        let settled = settle(history, &outcome, &POLICY, spread(), false, later);
        assert!(matches!(settled, Some(Settlement::Bounced { .. })));
    }
}
