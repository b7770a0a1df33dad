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
    /// The relay gave the probe up: it never went out. That closes the probe.
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
        Origin::Relay if report.bounce.is_smtp_refusal() => Verdict::Proves(Proof::Outbound),
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

    #[test]
    fn each_report_proves_what_it_can() {
        let isp = || Origin::Smtp(Some(link("isp")));
        let other = || Origin::Smtp(Some(link("other")));
        let refused = ("5.1.1", "smtp");
        let expired = ("5.4.7", "smtp");
        let round_trip = Verdict::Proves(Proof::RoundTrip);
        let outbound = Verdict::Proves(Proof::Outbound);
        let rejected = Verdict::Rejected;
        let (open, none) = (Some(probe(Fate::Open, false)), None);
        let used = Some(probe(Fate::Returned, true));
        let (lost, failed) = (
            Some(probe(Fate::Lost, false)),
            Some(probe(Fate::Failed, false)),
        );
        // Probe, null sender, origin, what the report says, verdict.
        let rows = [
            (&open, true, isp(), refused, round_trip),
            // What a report says of itself is nothing to go by.
            (&open, true, isp(), expired, round_trip),
            (&open, true, isp(), ("", ""), round_trip),
            (&open, true, other(), refused, outbound),
            (&open, true, Origin::Relay, refused, outbound),
            (&open, true, Origin::Relay, expired, Verdict::NotSent),
            (&open, true, Origin::Relay, ("5.4.7", ""), Verdict::NotSent),
            (&open, true, Origin::Relay, ("", ""), Verdict::NotSent),
            (
                &open,
                true,
                Origin::Smtp(None),
                refused,
                rejected(Reason::NotOverTheLink),
            ),
            (
                &open,
                true,
                Origin::Other,
                refused,
                rejected(Reason::NotOverTheLink),
            ),
            (
                &open,
                false,
                isp(),
                refused,
                rejected(Reason::SenderNotNull),
            ),
            (&used, true, isp(), refused, rejected(Reason::UsedToken)),
            (
                &used,
                true,
                Origin::Relay,
                refused,
                rejected(Reason::UsedToken),
            ),
            (
                &used,
                false,
                isp(),
                refused,
                rejected(Reason::SenderNotNull),
            ),
            (&lost, true, isp(), refused, rejected(Reason::UnknownToken)),
            (
                &failed,
                true,
                isp(),
                refused,
                rejected(Reason::UnknownToken),
            ),
            (&none, true, isp(), refused, rejected(Reason::UnknownToken)),
            (&none, false, isp(), refused, rejected(Reason::UnknownToken)),
        ];
        for (number, (probe, null_sender, origin, (status, kind), verdict)) in
            rows.into_iter().enumerate()
        {
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
            assert_eq!(
                judge(&report, probe.as_ref(), &link("isp")),
                verdict,
                "row {number}"
            );
        }
    }
}
