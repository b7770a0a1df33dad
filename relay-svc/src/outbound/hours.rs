//! The hours that a link keeps for large mail, by the clock on the wall: the rule is `queue::window`.
//!
//! Nothing else that waits goes by that clock, for it can be wrong: people mean the hours of their day here. While it cannot
//! be right, no hour has come.

use std::{sync::Arc, time::Duration};

use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::{clock::Stamp, queue::window::Oversize, spool};

/// The hours of one link, in the time zone of this machine: that of TZ, or of /etc/localtime. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hours(Arc<Oversize>);

impl Hours {
    /// The hours of a link.
    #[must_use]
    pub fn new(oversize: Oversize) -> Self {
        Self(Arc::new(oversize))
    }

    /// Whether large mail may go now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open_at(Stamp::now(), TimeZone::system())
    }

    /// In how long it may; none while the clock is wrong.
    #[must_use]
    pub fn opens_in(&self) -> Option<Duration> {
        self.opens_after(Stamp::now(), TimeZone::system())
    }

    fn is_open_at(&self, now: Stamp, zone: TimeZone) -> bool {
        on_the_wall(now, zone).is_some_and(|now| self.0.is_open(now.datetime()))
    }

    fn opens_after(&self, now: Stamp, zone: TimeZone) -> Option<Duration> {
        let now = on_the_wall(now, zone)?;
        let opening = self.0.opens(now.datetime())?;
        let opening = opening.to_zoned(now.time_zone().clone()).ok()?;
        // In the hour that is repeated an opening can stand before now.
        Some(Duration::try_from(now.duration_until(&opening)).unwrap_or_default())
    }
}

fn on_the_wall(now: Stamp, zone: TimeZone) -> Option<Zoned> {
    if !spool::is_plausible(now) {
        return None;
    }
    let now = Timestamp::from_millisecond(now.0).ok()?;
    Some(now.to_zoned(zone))
}

/// Tells whoever reads the log which time zone hours are in, if that is not known.
pub fn check_zone() {
    if let Err(error) = TimeZone::try_system() {
        tracing::warn!(%error, "the time zone of this machine is not known: the hours of large mail are UTC");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn hours() -> Hours {
        Hours::new(Oversize {
            above: 1,
            windows: vec!["22:00-06:00".parse().unwrap()],
        })
    }

    fn at(text: &str) -> Stamp {
        let time: Timestamp = text.parse().unwrap();
        Stamp(time.as_millisecond())
    }

    /// Two hours ahead of UTC in summer, one in winter.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn hours_are_those_of_the_time_zone() {
        for (now, open) in [
            ("2036-07-01T19:59:59Z", false),
            ("2036-07-01T20:00:00Z", true),
            ("2036-12-01T20:30:00Z", false),
            ("2036-12-01T21:00:00Z", true),
            ("2036-12-01T05:00:00Z", false),
        ] {
            assert_eq!(hours().is_open_at(at(now), berlin()), open, "{now}");
        }
        let wait = hours().opens_after(at("2036-12-01T20:30:00.5Z"), berlin());
        assert_eq!(wait, Some(Duration::from_millis(30 * 60_000 - 500)));
        let open = hours().opens_after(at("2036-12-01T22:00:00Z"), berlin());
        assert_eq!(open, Some(Duration::ZERO));
        // On the day on which summer time begins.
        let wait = hours().opens_after(at("2036-03-30T05:00:00Z"), berlin());
        assert_eq!(wait, Some(15 * HOUR));
    }

    #[test]
    fn no_hour_has_come_while_the_clock_cannot_be_right() {
        assert!(!hours().is_open_at(at("1970-01-01T23:00:00Z"), TimeZone::UTC));
        let wait = hours().opens_after(at("1970-01-01T12:00:00Z"), TimeZone::UTC);
        assert_eq!(wait, None);
    }
}
