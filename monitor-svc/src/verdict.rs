//! What a report proves. Pure.
//!
//! A report proves something once, for the probe whose token its recipient carries. What it proves follows from how it
//! came to the relay, which the relay knows, and not from what it says of itself.

use crate::{
    bounce::Bounce,
    clock::Stamp,
    names::LinkName,
    probe::{Fate, Probe, Proof},
};

/// How a report came to the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Over SMTP; with a link, over that link, from beyond.
    Smtp(Option<LinkName>),
    /// The relay wrote it itself.
    Relay,
    /// In any other way.
    Other,
}

/// A report, as the relay gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `reports/{report}`.
    pub name: String,
    /// When it reached the relay, by the relay's clock.
    pub accepted: Stamp,
    /// Whether its reverse path is null, as that of a bounce is.
    pub null_sender: bool,
    /// Whom it is for.
    pub recipients: Vec<String>,
    /// How it came.
    pub origin: Origin,
    /// `links/{link}/cycles/{cycle}` during which it came; empty: during none.
    pub cycle: String,
    /// W3C `traceparent` of the span in which it came; empty: none.
    pub traceparent: String,
    /// What it says.
    pub bounce: Bounce,
}

/// Why a report proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No probe that is awaited has this token.
    UnknownToken,
    /// The probe has its report: this is another one.
    UsedToken,
    /// A bounce has the null reverse path, and this has another.
    SenderNotNull,
    /// It did not come from beyond a link.
    NotOverTheLink,
}

impl Reason {
    /// The word for it in metrics and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownToken => "unknown_token",
            Self::UsedToken => "used_token",
            Self::SenderNotNull => "sender_not_null",
            Self::NotOverTheLink => "not_over_the_link",
        }
    }

    /// A phrase for a person.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::UnknownToken => "no awaited probe has its token",
            Self::UsedToken => "its probe has a report already",
            Self::SenderNotNull => "its sender is not null",
            Self::NotOverTheLink => "it did not come over a link",
        }
    }
}

/// What is to be thought of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It proves this, and closes its probe.
    Proves(Proof),
    /// The relay gave the probe up, and nothing says that another one had gone out: time ran out, or the smart host takes
    /// no mail of ours. That closes the probe.
    NotSent,
    /// It proves nothing and changes nothing.
    Rejected(Reason),
}

impl Verdict {
    /// The word for it in metrics and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proves(proof) => proof.as_str(),
            Self::NotSent => "not_sent",
            Self::Rejected(reason) => reason.as_str(),
        }
    }
}

/// Judges a report for the probe whose token it carries, if there is one, over the monitor's link.
#[must_use]
pub fn judge(report: &Report, probe: Option<&Probe>, link: &LinkName) -> Verdict {
    let Some(probe) = probe else {
        return Verdict::Rejected(Reason::UnknownToken);
    };
    if !report.null_sender {
        return Verdict::Rejected(Reason::SenderNotNull);
    }
    if probe.returned.is_some() {
        return Verdict::Rejected(Reason::UsedToken);
    }
    if probe.fate != Fate::Open {
        return Verdict::Rejected(Reason::UnknownToken);
    }
    match &report.origin {
        Origin::Smtp(Some(over)) if over == link => Verdict::Proves(Proof::RoundTrip),
        // Our mail went out, and the answer came another way.
        Origin::Smtp(Some(_)) => Verdict::Proves(Proof::Outbound),
        Origin::Relay if report.bounce.refuses_the_recipient() => Verdict::Proves(Proof::Outbound),
        Origin::Relay => Verdict::NotSent,
        Origin::Smtp(None) | Origin::Other => Verdict::Rejected(Reason::NotOverTheLink),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names::MonitorName, probe::Returned};

    fn link(name: &str) -> LinkName {
        LinkName::parse(name).unwrap()
    }

    fn probe(fate: Fate, returned: bool) -> Probe {
        let monitor = MonitorName::parse("m").unwrap();
        let mut probe = Probe::new(monitor, String::new(), Stamp(0));
        probe.fate = fate;
        probe.returned = returned.then(|| Returned {
            name: "reports/first".into(),
            accepted: Stamp(1),
            cycle: String::new(),
            traceparent: String::new(),
            reporting_mta: String::new(),
            status: String::new(),
        });
        probe
    }

    fn over(name: &str) -> Origin {
        Origin::Smtp(Some(link(name)))
    }

    /// The verdict on a report that says `status` and `kind` of itself, for a monitor of the link `isp`.
    fn verdict(
        probe: Option<&Probe>,
        null_sender: bool,
        origin: Origin,
        (status, kind): (&str, &str),
    ) -> Verdict {
        let report = Report {
            name: "reports/1".into(),
            accepted: Stamp(1),
            null_sender,
            recipients: Vec::new(),
            origin,
            cycle: String::new(),
            traceparent: String::new(),
            bounce: Bounce {
                status: status.into(),
                diagnostic_type: kind.into(),
                ..Bounce::default()
            },
        };
        judge(&report, probe, &link("isp"))
    }

    const REFUSED: (&str, &str) = ("5.1.1", "smtp");
    const EXPIRED: (&str, &str) = ("5.4.7", "smtp");

    #[test]
    fn a_report_for_an_open_probe_proves_what_its_way_says() {
        let round_trip = Verdict::Proves(Proof::RoundTrip);
        let outbound = Verdict::Proves(Proof::Outbound);
        let elsewhere = Verdict::Rejected(Reason::NotOverTheLink);
        let open = probe(Fate::Open, false);
        for (origin, says, expected) in [
            (over("isp"), REFUSED, round_trip),
            // What a report says of itself is nothing to go by.
            (over("isp"), EXPIRED, round_trip),
            (over("isp"), ("", ""), round_trip),
            (over("other"), REFUSED, outbound),
            (Origin::Relay, REFUSED, outbound),
            (Origin::Relay, ("5.2.1", "smtp"), outbound),
            (Origin::Relay, ("5.7.1", "smtp"), Verdict::NotSent),
            (Origin::Relay, ("5.7.0", "smtp"), Verdict::NotSent),
            (Origin::Relay, ("5.0.0", "smtp"), Verdict::NotSent),
            (Origin::Relay, EXPIRED, Verdict::NotSent),
            (Origin::Relay, ("5.4.7", ""), Verdict::NotSent),
            (Origin::Relay, ("", ""), Verdict::NotSent),
            (Origin::Smtp(None), REFUSED, elsewhere),
            (Origin::Other, REFUSED, elsewhere),
        ] {
            let given = verdict(Some(&open), true, origin.clone(), says);
            assert_eq!(given, expected, "{origin:?} {says:?}");
        }
    }

    #[test]
    fn without_an_open_token_and_the_null_sender_nothing_is_proven() {
        use Reason::{SenderNotNull, UnknownToken, UsedToken};
        let [open, used, lost, failed] = [
            probe(Fate::Open, false),
            probe(Fate::Returned, true),
            probe(Fate::Lost, false),
            probe(Fate::Failed, false),
        ];
        for (probe, null_sender, origin, reason) in [
            (Some(&open), false, over("isp"), SenderNotNull),
            (Some(&used), true, over("isp"), UsedToken),
            (Some(&used), true, Origin::Relay, UsedToken),
            (Some(&used), false, over("isp"), SenderNotNull),
            (Some(&lost), true, over("isp"), UnknownToken),
            (Some(&failed), true, over("isp"), UnknownToken),
            (None, true, over("isp"), UnknownToken),
            (None, false, over("isp"), UnknownToken),
        ] {
            let given = verdict(probe, null_sender, origin, REFUSED);
            let fate = probe.map(|probe| probe.fate);
            assert_eq!(given, Verdict::Rejected(reason), "{fate:?} {null_sender}");
        }
    }
}
