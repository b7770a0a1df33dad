//! The `[[monitor]]` part of the file.

use std::{collections::BTreeSet, time::Duration};

use linkmail_service::config::{Document, Position, Table, choice};
use linkmail_smtp::Mailbox;

use super::Monitor;
use crate::{
    judge::Thresholds,
    names::{LinkName, MonitorName},
    probe::{Pattern, Proof},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A monitor as far as it could be read, and where the keys stand that must differ from those of others.
pub(super) struct ReadMonitor {
    pub(super) monitor: Option<Monitor>,
    name: (Option<MonitorName>, Position),
    reverse_path: (Option<Pattern>, Position),
}

pub(super) fn monitor(table: Table<'_>) -> ReadMonitor {
    let name = table.required_with("name", MonitorName::parse);
    let link = table.required_with("link", LinkName::parse);
    let recipient = table.required_with("recipient", recipient);
    let reverse_path = table.required_with("reverse_path", Pattern::parse);
    let thresholds = thresholds(&table);
    let late_after = at_least_a_second(&table, "late_after", thresholds.warn_after);
    let proofs = [
        ("round_trip", Proof::RoundTrip),
        ("outbound", Proof::Outbound),
    ];
    let wanted = table.parse_with("proof", |text| choice("proof", text, &proofs));
    let dial = table.or("dial", true);
    let longest_wait: Option<Duration> = table.optional("longest_wait");
    if dial {
        if table.has("longest_wait") {
            table.error(
                "longest_wait",
                "has no meaning with dial = true: a probe then asks for a cycle; leave it out, or set dial = false",
            );
        }
    } else {
        enough_time(&table, &thresholds, longest_wait);
    }
    let (name_at, path_at) = (table.position("name"), table.position("reverse_path"));
    table.finish();
    let monitor = || {
        Some(Monitor {
            name: name.clone()?,
            link: link?,
            recipient: recipient?,
            reverse_path: reverse_path.clone()?,
            thresholds,
            late_after,
            wanted: wanted.unwrap_or(Proof::RoundTrip),
            dial,
        })
    };
    ReadMonitor {
        monitor: monitor(),
        name: (name, name_at),
        reverse_path: (reverse_path, path_at),
    }
}

fn recipient(text: &str) -> Result<Mailbox, String> {
    Mailbox::parse(text.as_bytes()).map_err(|error| {
        format!("{text:?} is not an address: {error}; expected a user who does not exist at a domain that does")
    })
}

fn thresholds(table: &Table<'_>) -> Thresholds {
    let thresholds = Thresholds {
        interval: at_least_a_second(table, "interval", 15 * MINUTE),
        interval_unwell: at_least_a_second(table, "interval_unwell", 5 * MINUTE),
        warn_after: at_least_a_second(table, "warn_after", 30 * MINUTE),
        alert_after: at_least_a_second(table, "alert_after", 60 * MINUTE),
    };
    let (interval, warn, alert) = (
        ("interval", thresholds.interval),
        ("warn_after", thresholds.warn_after),
        ("alert_after", thresholds.alert_after),
    );
    ordered(table, warn, alert, "WARNING would never be reached");
    ordered(
        table,
        interval,
        warn,
        "PROVEN would end before the next probe",
    );
    thresholds
}

/// Two durations of which one must be longer. The error stands at the one that is in the file.
fn ordered(
    table: &Table<'_>,
    (short_key, short): (&str, Duration),
    (long_key, long): (&str, Duration),
    why: &str,
) {
    if long > short {
        return;
    }
    if table.has(long_key) {
        let short = words(short);
        table.error(
            long_key,
            format!("not longer than {short_key} ({short}): {why}"),
        );
    } else {
        let long = words(long);
        table.error(
            short_key,
            format!("not shorter than {long_key} ({long}): {why}"),
        );
    }
}

/// Without dialling, a probe goes out with the next cycle and its report comes with the one after.
fn enough_time(table: &Table<'_>, thresholds: &Thresholds, longest_wait: Option<Duration>) {
    let Some(longest_wait) = longest_wait else {
        if !table.has("longest_wait") {
            table.error(
                "longest_wait",
                "missing; with dial = false it is required: the longest time that the link is left without a cycle",
            );
        }
        return;
    };
    let least = longest_wait
        .saturating_mul(2)
        .saturating_add(thresholds.interval);
    for (key, value) in [
        ("warn_after", thresholds.warn_after),
        ("alert_after", thresholds.alert_after),
    ] {
        if value < least {
            let at = if table.has(key) { key } else { "longest_wait" };
            table.error(
                at,
                format!(
                    "{key} ({}) is too short with dial = false: a probe waits up to longest_wait for its cycle and again for the \
                     report's; expected at least 2 × longest_wait + interval = {}",
                    words(value),
                    words(least)
                ),
            );
        }
    }
}

fn at_least_a_second(table: &Table<'_>, key: &str, default: Duration) -> Duration {
    let value = table.or(key, default);
    if value < SECOND {
        table.error(key, "expected at least 1s");
    }
    value
}

/// A duration as the file would have it.
fn words(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, factor) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if ms >= factor && ms.is_multiple_of(factor) {
            return format!("{}{unit}", ms / factor);
        }
    }
    format!("{ms}ms")
}

/// A report is known by its monitor's reverse path, and everything by its monitor's name.
pub(super) fn once_each(document: &Document, monitors: &[ReadMonitor]) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for read in monitors {
        if let (Some(name), at) = &read.name
            && !names.insert(name.clone())
        {
            let again = format!("a monitor named {:?} is there already", name.as_str());
            document.error(at, again);
        }
        if let (Some(path), at) = &read.reverse_path
            && !paths.insert(path.to_string().to_ascii_lowercase())
        {
            let again = format!("{path} is the reverse path of another monitor");
            document.error(at, again);
        }
    }
}
