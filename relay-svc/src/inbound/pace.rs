//! How long a client is waited for. Pure: the time is an argument.
//!
//! Only waiting counts, never our own work. A client that is slow because its line is slow must pass; one that is slow
//! to hold a session must not.

use std::{fmt, time::Duration};

use linkmail_smtp::ServerPhase;
use tokio::time::Instant;

use crate::config::Limits;

/// Why a client is not waited for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slow {
    /// It said nothing for so long, or nothing that is a command.
    Silent(Duration),
    /// The average of a window of so long is too low.
    Dribbles(Duration),
    /// Its commands took so long, and led to no message.
    NoMessage(Duration),
    /// The session lasts so long.
    Session(Duration),
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(time) => write!(f, "silent for {time:?}"),
            Self::Dribbles(time) => write!(f, "too few octets in {time:?}"),
            Self::NoMessage(time) => write!(f, "no message in {time:?} of commands"),
            Self::Session(time) => write!(f, "a session of {time:?}"),
        }
    }
}

/// The account of one session.
#[derive(Debug)]
pub(super) struct Pace {
    limits: Limits,
    begun: Instant,
    /// When the client must have sent its next command. Octets that make no command do not move it.
    next_command: Option<Instant>,
    /// Waited for commands since the last message.
    commands: Duration,
    /// Waited for data in this window, and what came.
    data: (Duration, u64),
}

impl Pace {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            begun: now,
            next_command: None,
            commands: Duration::ZERO,
            data: (Duration::ZERO, 0),
        }
    }

    /// Until when the client is waited for now, and what it has failed to do then.
    pub(super) fn deadline(&mut self, phase: ServerPhase, now: Instant) -> (Instant, Slow) {
        let limits = self.limits;
        let whole = (
            self.begun + limits.session_time,
            Slow::Session(limits.session_time),
        );
        let (silent, more) = match phase {
            ServerPhase::Command => {
                let next = self
                    .next_command
                    .get_or_insert(now + limits.command_timeout);
                let left = limits.between_messages.saturating_sub(self.commands);
                let no_message = Slow::NoMessage(limits.between_messages);
                (
                    (*next, Slow::Silent(limits.command_timeout)),
                    Some((now + left, no_message)),
                )
            }
            ServerPhase::Data => {
                let window = limits.data_timeout;
                let (waited, octets) = self.data;
                let is_short = octets < self.fewest();
                let left = window.saturating_sub(waited);
                (
                    (now + window, Slow::Silent(window)),
                    is_short.then_some((now + left, Slow::Dribbles(window))),
                )
            }
        };
        let sooner = |one: (Instant, Slow), other: (Instant, Slow)| {
            if other.0 < one.0 { other } else { one }
        };
        sooner(more.into_iter().fold(silent, sooner), whole)
    }

    /// What a window of data must bring.
    fn fewest(&self) -> u64 {
        let window = self.limits.data_timeout.as_secs();
        self.limits.slowest.saturating_mul(window) / 60
    }

    /// Octets came after so much waiting.
    pub(super) fn received(&mut self, phase: ServerPhase, waited: Duration, octets: usize) {
        match phase {
            ServerPhase::Command => self.commands += waited,
            ServerPhase::Data => {
                self.data.0 += waited;
                self.data.1 += octets as u64;
                if self.data.0 >= self.limits.data_timeout {
                    self.data = (Duration::ZERO, 0);
                }
            }
        }
    }

    /// The session goes on with something else than waiting: a command was completed.
    pub(super) fn completed(&mut self) {
        self.next_command = None;
    }

    /// A message was taken.
    pub(super) fn message(&mut self) {
        self.commands = Duration::ZERO;
        self.data = (Duration::ZERO, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A client that sends so many octets so often: how long it is borne, and why not longer.
    fn borne(
        phase: ServerPhase,
        every: Duration,
        octets: usize,
        commands: bool,
    ) -> (Duration, Slow) {
        let begun = Instant::now();
        let mut pace = Pace::new(Limits::default(), begun);
        let mut now = begun;
        loop {
            let (end, slow) = pace.deadline(phase, now);
            if end <= now + every {
                return (end - begun, slow);
            }
            now += every;
            pace.received(phase, every, octets);
            if commands {
                pace.completed();
            }
        }
    }

    #[test]
    fn a_slow_line_is_borne_and_a_client_that_only_holds_the_session_is_not() {
        use ServerPhase::{Command, Data};
        let second = Duration::from_secs(1);
        let (five, hour, day) = (5 * MINUTE, 60 * MINUTE, 1440 * MINUTE);
        for (phase, every, octets, commands, end) in [
            // Commands: octets that make none, one now and then, and NOOP for ever.
            (Command, second, 1, false, (five, Slow::Silent(five))),
            (Command, 4 * MINUTE, 6, true, (hour, Slow::NoMessage(hour))),
            (Command, six(), 6, true, (five, Slow::Silent(five))),
            // Data: one octet a second is below, two are above, and bursts after four minutes are as good.
            (Data, second, 1, false, (five, Slow::Dribbles(five))),
            (Data, second, 2, false, (day, Slow::Session(day))),
            (Data, 4 * MINUTE, 1000, false, (day, Slow::Session(day))),
            (Data, 4 * MINUTE, 10, false, (five, Slow::Dribbles(five))),
        ] {
            let got = borne(phase, every, octets, commands);
            assert_eq!(got, end, "{phase:?} {every:?} {octets}");
        }
    }

    fn six() -> Duration {
        6 * MINUTE
    }

    #[test]
    fn a_message_begins_the_account_anew() {
        let now = Instant::now();
        let mut pace = Pace::new(Limits::default(), now);
        pace.received(ServerPhase::Command, 59 * MINUTE, 10);
        let left = |pace: &mut Pace| pace.deadline(ServerPhase::Command, now).0 - now;
        assert_eq!(left(&mut pace), MINUTE);
        pace.message();
        assert_eq!(left(&mut pace), 5 * MINUTE);
    }
}
