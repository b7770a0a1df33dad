//! A time by which the sender wants a message delivered (DELIVERBY, RFC 2852), and what is to happen when it was not.
//!
//! The time is relative, so that clocks need not agree: whoever hands the message on says what is left of it
//! ([`DeliverBy::after`]). It is the sender's own deadline, and runs on whatever the line does.

use std::fmt;
use std::time::Duration;

use crate::ehlo::DeliverByOffer;
use crate::reply::{Enhanced, Reply};

/// The most that `BY=` can say, either way, in seconds (nine digits, RFC 2852 4).
const MOST: i64 = 999_999_999;

/// What happens to a message that was not delivered in time (RFC 2852 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByMode {
    /// `N`: the sender is told that it is late, and it goes on. Its time may be over already.
    Notify,
    /// `R`: it is returned as undeliverable. Its time is more than zero.
    Return,
}

/// The value of `BY=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliverBy {
    seconds: i32,
    mode: ByMode,
    trace: bool,
}

impl DeliverBy {
    /// None if the time has more than nine digits, or with [`ByMode::Return`] is not above zero.
    pub fn new(seconds: i32, mode: ByMode, trace: bool) -> Option<DeliverBy> {
        let by = DeliverBy {
            seconds,
            mode,
            trace,
        };
        let fits = i64::from(seconds).abs() <= MOST;
        (fits && !by.is_lost()).then_some(by)
    }

    /// Reads `[+-]seconds;mode[T]`, the mode in any case.
    pub fn parse(value: &[u8]) -> Option<DeliverBy> {
        let at = memchr::memchr(b';', value)?;
        let (time, how) = (&value[..at], &value[at + 1..]);
        let (sign, digits) = match time {
            [b'-', digits @ ..] => (-1, digits),
            [b'+', digits @ ..] => (1, digits),
            digits => (1, digits),
        };
        if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let seconds: i32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let (mode, trace) = match how.to_ascii_uppercase().as_slice() {
            b"N" => (ByMode::Notify, false),
            b"NT" => (ByMode::Notify, true),
            b"R" => (ByMode::Return, false),
            b"RT" => (ByMode::Return, true),
            _ => return None,
        };
        DeliverBy::new(sign * seconds, mode, trace)
    }

    /// What is left of it, in seconds. Not above zero: the time is over.
    pub fn seconds(self) -> i32 {
        self.seconds
    }

    /// What happens when it is over.
    pub fn mode(self) -> ByMode {
        self.mode
    }

    /// `T`: the sender is told of each relay that hands the message on (RFC 2852 4.1.4).
    pub fn is_traced(self) -> bool {
        self.trace
    }

    /// What is left once so much time was spent on it here (RFC 2852 4.1.4.1). It goes on below zero, for hosts behind us
    /// are to see that the sender was told.
    pub fn after(self, spent: Duration) -> DeliverBy {
        let spent = i64::try_from(spent.as_secs()).unwrap_or(MOST);
        let left = i64::from(self.seconds).saturating_sub(spent).max(-MOST);
        DeliverBy {
            seconds: i32::try_from(left).unwrap_or(i32::MIN),
            ..self
        }
    }

    /// The message may not be handed on any more: it is returned (RFC 2852 4.1.3).
    pub fn is_lost(self) -> bool {
        self.mode == ByMode::Return && self.seconds <= 0
    }

    /// Whether a server with this minimum takes it. With [`ByMode::Notify`] it does in any case.
    pub fn is_taken_with(self, minimum: u32) -> bool {
        self.mode == ByMode::Notify || i64::from(self.seconds) >= i64::from(minimum)
    }

    /// Why a message that is to be returned when it is late must not be handed to a server that offers this: nobody would
    /// return it (RFC 2852 4.1.4). `is_final`: the server is a mailbox server, so that handing it on is delivery
    /// (RFC 2033 4.2), and the time alone counts.
    pub fn refusal(self, offer: DeliverByOffer, is_final: bool) -> Option<Reply> {
        let refused = |text: String| Some(Reply::new(554, Enhanced(5, 4, 7), text));
        if self.is_lost() {
            return refused("the time by which it was to be delivered is over".to_owned());
        }
        match offer {
            DeliverByOffer::NotOffered if self.mode == ByMode::Return && !is_final => refused(
                "it is to be returned when late, and the server does not offer DELIVERBY"
                    .to_owned(),
            ),
            DeliverByOffer::Offered { minimum } if !self.is_taken_with(minimum) => {
                let left = self.seconds;
                refused(format!(
                    "{left} seconds are left, and the server takes no message with less than {minimum}"
                ))
            }
            _ => None,
        }
    }
}

/// The value of `BY=`.
impl fmt::Display for DeliverBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            ByMode::Notify => 'N',
            ByMode::Return => 'R',
        };
        let trace = if self.trace { "T" } else { "" };
        write!(f, "{};{mode}{trace}", self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(value: &str) -> DeliverBy {
        DeliverBy::parse(value.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_read_is_written_again() {
        for (written, again) in [
            ("120;R", "120;R"),
            ("+000000120;rt", "120;RT"),
            ("-999999999;N", "-999999999;N"),
            ("0;nT", "0;NT"),
            ("-0;N", "0;N"),
        ] {
            assert_eq!(by(written).to_string(), again);
            assert_eq!(by(again), by(written));
        }
        for written in [
            "",
            "120",
            ";R",
            "120;",
            "120;X",
            "120;RX",
            "120;TR",
            "120;R;T",
            "120; R",
            "--1;N",
            "1.5;N",
            "1000000000;N",
            "0000000001;N",
            "0;R",
            "-1;RT",
            "+;N",
            "12a;N",
        ] {
            assert_eq!(DeliverBy::parse(written.as_bytes()), None, "{written:?}");
        }
    }

    #[test]
    fn time_that_was_spent_is_taken_off_and_never_given_back() {
        let left = |value: &str, spent| by(value).after(Duration::from_millis(spent));
        assert_eq!(left("120;RT", 119_999).to_string(), "1;RT");
        assert!(!left("120;RT", 119_999).is_lost());
        assert!(left("120;RT", 120_000).is_lost());
        assert_eq!(left("120;N", 121_000).to_string(), "-1;N");
        assert!(!left("120;N", u64::MAX).is_lost());
        assert_eq!(left("-999999999;N", u64::MAX).to_string(), "-999999999;N");
    }

    #[test]
    fn a_message_to_be_returned_goes_to_no_server_that_would_not_return_it() {
        const NONE: DeliverByOffer = DeliverByOffer::NotOffered;
        let least = |minimum| DeliverByOffer::Offered { minimum };
        for (value, offer, is_final, is_refused) in [
            ("60;R", NONE, false, true),
            ("60;R", NONE, true, false),
            ("60;R", least(0), false, false),
            ("60;R", least(60), false, false),
            ("60;R", least(61), false, true),
            ("60;R", least(61), true, true),
            ("60;N", NONE, false, false),
            ("-60;N", least(61), false, false),
        ] {
            let refusal = by(value).refusal(offer, is_final);
            assert_eq!(refusal.is_some(), is_refused, "{value} {offer:?}");
        }
        let late = by("60;R").after(Duration::from_secs(60));
        assert!(late.refusal(least(0), true).is_some());
        assert!(late.refusal(NONE, true).is_some());
    }
}
