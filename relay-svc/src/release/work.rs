//! How far a request was carried out, from turn to turn. Pure but for the clock of its deadline.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    outbound::{Drained, End, Left, Stop, Tally, worse},
    spool::{ReleaseRequest, SpoolError},
};

/// A site that asked and cannot be reached is tried for so long.
const PATIENCE: Duration = Duration::from_secs(600);
/// The pauses between tries to reach a site: from the first, doubling, to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How far a request was carried out, from turn to turn.
pub(super) struct Work {
    pub(super) request: ReleaseRequest,
    /// Messages of which not every recipient was tried.
    pub(super) left: Left,
    pub(super) tally: Tally,
    pause: Duration,
    /// When it is given up; nothing while the site is reached.
    deadline: Option<Instant>,
}

/// How the sessions of a turn came to their end.
#[derive(Debug)]
pub(super) enum Ended {
    /// Nothing is left of what was asked for.
    AllTried,
    /// There is more, and it is others' turn.
    Stretched,
    /// The site is not there, or a session ended early.
    Lost(String),
    /// The relay stops.
    Stopped,
}

/// What the sessions of a turn did together.
#[derive(Debug, Default)]
pub(super) struct Came {
    tally: Tally,
    /// Places whose turn did not come.
    pub(super) untried: Vec<i64>,
    /// The worst reason for which one of them stopped; nothing when none came about.
    stop: Option<Stop>,
    /// Why the first of those did not come about that did not.
    failed: Option<End>,
}

impl Came {
    /// A session has sent what it could.
    pub(super) fn ended(&mut self, drained: Drained) {
        self.tally.add(&drained.tally);
        self.untried.extend(drained.untried);
        self.stop = Some(match self.stop.take() {
            None => drained.stop,
            Some(stop) => worse(stop, drained.stop),
        });
    }

    /// A session did not come about. Beside one that did it says nothing of the site: many take so many at once.
    pub(super) fn failed(&mut self, end: End) {
        self.failed.get_or_insert(end);
    }
}

impl Work {
    pub(super) fn new(request: ReleaseRequest) -> Self {
        Self {
            request,
            left: Left::default(),
            tally: Tally::default(),
            pause: PAUSE.0,
            deadline: None,
        }
    }

    /// The site says that it is there.
    pub(super) fn renewed(self) -> Self {
        Self {
            pause: PAUSE.0,
            deadline: None,
            ..self
        }
    }

    /// The pause before the next turn.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE.1);
        pause
    }

    /// Whether it is too late for another try to reach the site, which was not reached now.
    pub(super) fn is_over_behind_a_pause(&mut self) -> bool {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + PATIENCE);
        now + self.pause >= deadline
    }

    /// Takes over what the sessions of a turn did, and what they left: that has its turn in the next one.
    pub(super) fn ended(&mut self, came: Came, left: Left) -> Result<Ended, SpoolError> {
        self.tally.add(&came.tally);
        self.left = left;
        let is_left = !self.left.again.is_empty();
        let Some(stop) = came.stop else {
            let end = came.failed.map(|end| end.to_string());
            let end = end.unwrap_or_else(|| "no session came about".to_owned());
            return Ok(Ended::Lost(end));
        };
        match stop {
            Stop::Idle if !is_left => Ok(Ended::AllTried),
            Stop::Exhausted if !came.tally.moved() => {
                Ok(Ended::Lost("takes no message in a session".to_owned()))
            }
            Stop::Idle | Stop::Stretch | Stop::Exhausted => Ok(Ended::Stretched),
            // Many hosts take so many messages in one session, and say so by ending it.
            Stop::Ended(_) if came.tally.progressed() => Ok(Ended::Stretched),
            Stop::Ended(end) => Ok(Ended::Lost(end.to_string())),
            Stop::Cancelled => Ok(Ended::Stopped),
            // Bodies that cannot be read now stay held, and their site asks again; what is behind them has its turn.
            Stop::Spool(SpoolError::Io(_)) if !is_left => Ok(Ended::Stretched),
            Stop::Spool(error) => Err(error),
        }
    }

    /// What was done, in words.
    pub(super) fn account(&self) -> String {
        let Tally {
            sent,
            deferred,
            refused,
            ..
        } = self.tally;
        format!("{sent} sent, {deferred} deferred, {refused} refused")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> Work {
        Work::new(ReleaseRequest { number: 1, upto: 9 })
    }

    fn drained(sent: u32, untried: &[i64], stop: Stop) -> Drained {
        Drained {
            tally: Tally {
                sent,
                delivered: sent,
                ..Tally::default()
            },
            stop,
            last: None,
            untried: untried.to_vec(),
        }
    }

    fn left(again: &[i64]) -> Left {
        Left {
            again: again.to_vec(),
            after: 9,
        }
    }

    fn end(reason: &str) -> End {
        End::Failed(reason.to_owned())
    }

    #[test]
    fn a_session_that_is_turned_away_beside_others_is_no_failure() {
        let (mut work, mut came) = (work(), Came::default());
        came.failed(end("421 too many connections"));
        came.ended(drained(2, &[], Stop::Idle));
        came.failed(end("421 too many connections"));
        came.ended(drained(3, &[], Stop::Idle));
        assert!(matches!(work.ended(came, left(&[])), Ok(Ended::AllTried)));
        assert_eq!(work.account(), "5 sent, 0 deferred, 0 refused");
    }

    #[test]
    fn what_one_session_left_keeps_the_request_open_whatever_the_others_say() {
        let (mut work, mut came) = (work(), Came::default());
        came.ended(drained(0, &[], Stop::Idle));
        came.ended(drained(0, &[4, 7], Stop::Ended(end("lost"))));
        came.ended(drained(0, &[], Stop::Idle));
        assert_eq!(came.untried, [4, 7]);
        assert!(
            matches!(work.ended(came, left(&[4, 7])), Ok(Ended::Lost(reason)) if reason == "lost")
        );
        assert_eq!(work.left, left(&[4, 7]));

        let enough = Stop::Ended(end("421 enough for this session"));
        for stop in [Stop::Idle, Stop::Exhausted, Stop::Stretch, enough] {
            let mut came = Came::default();
            came.ended(drained(1, &[4], stop));
            assert!(matches!(work.ended(came, left(&[4])), Ok(Ended::Stretched)));
        }
        let unreadable = || Stop::Spool(SpoolError::Io(std::io::Error::other("no")));
        let mut came = Came::default();
        came.ended(drained(1, &[], unreadable()));
        assert!(work.ended(came, left(&[4])).is_err(), "others wait yet");
        let mut came = Came::default();
        came.ended(drained(1, &[], unreadable()));
        let ended = work.ended(came, left(&[]));
        assert!(
            matches!(ended, Ok(Ended::Stretched)),
            "there may be more behind"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_site_is_given_up_ten_minutes_after_it_was_first_not_reached() {
        let mut work = work();
        // It waited for its turn for longer.
        tokio::time::advance(PATIENCE * 2).await;
        assert!(!work.is_over_behind_a_pause());
        tokio::time::advance(PATIENCE).await;
        assert!(work.is_over_behind_a_pause());
        assert!(!work.renewed().is_over_behind_a_pause());
    }

    #[test]
    fn a_site_without_a_session_or_that_takes_nothing_is_not_reached() {
        let mut work = work();
        let mut came = Came::default();
        came.failed(end("refused"));
        assert!(
            matches!(work.ended(came, left(&[])), Ok(Ended::Lost(reason)) if reason == "refused")
        );
        let mut came = Came::default();
        came.ended(drained(0, &[], Stop::Exhausted));
        assert!(matches!(work.ended(came, left(&[])), Ok(Ended::Lost(_))));
    }
}
