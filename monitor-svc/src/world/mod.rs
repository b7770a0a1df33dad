//! A world for tests, in paused time: a relay with a line that comes and goes, people who are told, and a count of steps at
//! any of which everything can be killed.

mod people;
mod relay;
mod scene;
mod steps;

use std::time::Duration;

use linkmail_smtp::Mailbox;

use crate::{
    config::Monitor,
    judge::Thresholds,
    names::{LinkName, MonitorName},
    probe::{Pattern, Proof},
};

pub(crate) use people::People;
pub(crate) use relay::{BOUNCE_AFTER, CYCLE_TRACE, World};
pub(crate) use scene::{Process, START, Scene};
pub(crate) use steps::{Moment, Steps};

const MINUTE: Duration = Duration::from_secs(60);

/// A monitor with the defaults.
pub(crate) fn monitor() -> Monitor {
    Monitor {
        name: MonitorName::parse("branch").unwrap(),
        link: LinkName::parse("isp").unwrap(),
        recipient: Mailbox::parse(b"no-such-user@isp.example").unwrap(),
        reverse_path: Pattern::parse("probe-*@branch.example").unwrap(),
        thresholds: Thresholds {
            warn_after: 30 * MINUTE,
            alert_after: 60 * MINUTE,
            interval: 15 * MINUTE,
            interval_unwell: 5 * MINUTE,
        },
        late_after: 30 * MINUTE,
        wanted: Proof::RoundTrip,
        dial: true,
    }
}
