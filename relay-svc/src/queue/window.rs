//! Messages too large for a link at any time: they wait for the hours that are kept for them.
//!
//! Hours are those of the site's own clock, as people say them: the zone, and so the change to and from summer time, is the
//! caller's, who gives local time. An hour that a change leaves out does not open; one that it repeats is open twice.

use std::str::FromStr;

use jiff::civil::{DateTime, Time, Weekday};

/// The days of a week and the hours of a day: `22:00-06:00`, `sat,sun 00:00-24:00`, `mon-fri 20:00-06:00`. Hours past
/// midnight belong to the day on which they began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Monday first.
    days: [bool; 7],
    /// Minutes since midnight, below 1440.
    from: u16,
    /// Minutes it is open, from 1 to 1440.
    minutes: u16,
}

/// Why a text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no window; write \"22:00-06:00\", \"sat,sun 00:00-24:00\" or \"mon-fri 20:00-06:00\""
)]
pub struct WindowError(String);

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: u16 = 24 * 60;

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text).ok_or_else(|| WindowError(text.to_owned()))
    }
}

fn read(text: &str) -> Option<Window> {
    let (days, hours) = match text.split_once(' ') {
        Some((days, hours)) => (read_days(days)?, hours),
        None => ([true; 7], text),
    };
    let (from, to) = hours.split_once('-')?;
    let (from, to) = (minute_of(from)?, minute_of(to)?);
    if from == DAY || from == to {
        return None;
    }
    let minutes = if to > from {
        to - from
    } else {
        to + DAY - from
    };
    Some(Window {
        days,
        from,
        minutes,
    })
}

/// `mon`, `mon-fri`, and lists of them with commas. `sat-mon` goes over the end of the week.
fn read_days(text: &str) -> Option<[bool; 7]> {
    let number = |word: &str| DAYS.iter().position(|day| *day == word);
    let mut days = [false; 7];
    for item in text.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (mut day, last) = (number(first)?, number(last)?);
        days[day] = true;
        while day != last {
            day = (day + 1) % 7;
            days[day] = true;
        }
    }
    Some(days)
}

/// `HH:MM`, up to `24:00`.
fn minute_of(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two = |text: &str| {
        let is_two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_two.then(|| text.parse::<u16>().ok()).flatten()
    };
    let at = two(hour)? * 60 + two(minute).filter(|minute| *minute < 60)?;
    (at <= DAY).then_some(at)
}

impl Window {
    /// Whether it is open at this local time.
    #[must_use]
    pub fn is_open(&self, now: DateTime) -> bool {
        let minute = now.hour().unsigned_abs() as u16 * 60 + now.minute().unsigned_abs() as u16;
        let today = day_of(now.weekday());
        let since = minute.checked_sub(self.from);
        let is_today = self.days[today] && since.is_some_and(|since| since < self.minutes);
        let is_from_yesterday =
            self.days[(today + 6) % 7] && minute + DAY - self.from < self.minutes;
        is_today || is_from_yesterday
    }

    /// When it opens next, or this time if it is open. None beyond the end of the calendar.
    #[must_use]
    pub fn opens(&self, now: DateTime) -> Option<DateTime> {
        if self.is_open(now) {
            return Some(now);
        }
        let (hour, minute) = (self.from / 60, self.from % 60);
        let at = Time::new(hour.try_into().ok()?, minute.try_into().ok()?, 0, 0).ok()?;
        let mut day = now.date();
        for _ in 0..=7 {
            let opening = day.to_datetime(at);
            if self.days[day_of(day.weekday())] && opening >= now {
                return Some(opening);
            }
            day = day.tomorrow().ok()?;
        }
        None
    }
}

fn day_of(day: Weekday) -> usize {
    usize::from(day.to_monday_zero_offset().unsigned_abs())
}

/// What a link does with large messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oversize {
    /// A message of more octets is one.
    pub above: u64,
    /// When such a message may go, in the site's local time.
    pub windows: Vec<Window>,
}

impl Oversize {
    /// Whether such a message may go at this local time.
    #[must_use]
    pub fn is_open(&self, now: DateTime) -> bool {
        self.windows.iter().any(|window| window.is_open(now))
    }

    /// When such a message may go at the earliest: now, or when a window opens.
    #[must_use]
    pub fn opens(&self, now: DateTime) -> Option<DateTime> {
        self.windows.iter().filter_map(|one| one.opens(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use jiff::{ToSpan, civil::date};

    use super::*;

    fn window(text: &str) -> Window {
        text.parse().unwrap()
    }

    /// 2026-11-23 is a Monday.
    fn at(day: i8, hour: i8, minute: i8) -> DateTime {
        date(2026, 11, 22 + day).at(hour, minute, 0, 0)
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in [
            "",
            "22:00",
            "22-06",
            "22:00-22:00",
            "24:00-06:00",
            "22:60-06:00",
            "25:00-06:00",
            "2:00-06:00",
            "22:00-24:01",
            "xyz 22:00-06:00",
            "mon,, 22:00-06:00",
            "mon- 22:00-06:00",
            "mon 22:00 - 06:00",
            "Mon 22:00-06:00",
            "+1:00-06:00",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_it_began() {
        let nights = window("mon-thu,sat 22:00-06:30");
        for (when, is_open) in [
            (at(1, 0, 0), false),
            (at(1, 21, 59), false),
            (at(1, 22, 0), true),
            (at(2, 6, 29), true),
            (at(2, 6, 30), false),
            (at(5, 6, 0), true),
            (at(5, 22, 0), false),
            (at(6, 3, 0), false),
            (at(6, 23, 0), true),
            (at(7, 3, 0), true),
            (at(7, 23, 0), false),
        ] {
            assert_eq!(nights.is_open(when), is_open, "{when}");
        }
        assert!(window("sun-mon 00:00-24:00").is_open(at(7, 23, 59)));
        assert!(!window("sun-mon 00:00-24:00").is_open(at(2, 0, 0)));
        assert!(window("00:00-24:00").is_open(at(3, 12, 0)));
    }

    /// Against a walk over all minutes of two weeks.
    #[test]
    fn it_opens_when_it_is_said_to() {
        for text in [
            "22:00-06:00",
            "wed 10:00-10:01",
            "sat,sun 00:00-24:00",
            "sun 23:59-00:01",
        ] {
            let one = window(text);
            let mut next = None;
            for minute in (0..14 * 24 * 60_i64).rev() {
                let now = at(1, 0, 0) + minute.minutes();
                if one.is_open(now) {
                    next = Some(now);
                }
                // Of the last week the walk has not seen all that comes.
                if minute < 7 * 24 * 60 {
                    assert_eq!(one.opens(now), next, "{text} at {now}");
                }
            }
        }
    }

    #[test]
    fn of_several_windows_any_may_be_open_and_the_next_counts() {
        let link = Oversize {
            above: 1000,
            windows: vec![window("22:00-06:00"), window("sat 12:00-13:00")],
        };
        assert!(!link.is_open(at(1, 12, 0)) && link.is_open(at(1, 22, 0)));
        assert!(link.is_open(at(6, 12, 30)) && !link.is_open(at(7, 12, 30)));
        assert_eq!(link.opens(at(1, 23, 0)), Some(at(1, 23, 0)));
        assert_eq!(link.opens(at(1, 12, 0)), Some(at(1, 22, 0)));
        assert_eq!(link.opens(at(6, 7, 0)), Some(at(6, 12, 0)));
    }
}
