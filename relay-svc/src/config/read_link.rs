//! The `[[link]]` part of the file.

use std::{path::Path, time::Duration};

use linkmail_service::config::{ByteSize, Document, Position, Table, choice};
use linkmail_smtp::{EtrnNode, FlightLimits};

use super::{
    Dequeue, Dial, Driver, Link, Triggers,
    read::{HOUR, MINUTE, SECOND, host, positive},
};
use crate::{
    names::{HostPort, LinkName},
    queue::window::{Oversize, WindowError},
};

/// What was read of one link: its name also when the rest is wrong, so that what refers to it is not blamed.
pub(super) struct ReadLink {
    pub(super) name: Option<LinkName>,
    pub(super) name_at: Position,
    pub(super) link: Option<Link>,
}

pub(super) fn link(document: &Document, table: Table<'_>) -> ReadLink {
    let name = table.required_with("name", LinkName::parse);
    let name_at = table.position("name");
    ReadLink {
        link: rest(document, table, name.clone()),
        name,
        name_at,
    }
}

fn rest(document: &Document, table: Table<'_>, name: Option<LinkName>) -> Option<Link> {
    let smart_host = table.required_with("smart_host", host);
    let fallback = if table.has("fallback") {
        table.required_list_with("fallback", "host", host)
    } else {
        Vec::new()
    };
    let connections = table.or("connections", 16);
    if connections == 0 {
        table.error("connections", "expected at least 1");
    }
    let flight = flight(&table);
    let oversize = oversize(&table);
    let dial = table.required_table("dial").and_then(dial);
    let dequeue: Vec<_> = table
        .tables("dequeue")
        .into_iter()
        .map(|entry| dequeue(entry, smart_host.as_ref()))
        .collect();
    let trigger = triggers(document, &table);
    let released_from = table.list("released_from");
    let quiet = positive(&table, "quiet", 10 * SECOND);
    let receive_at_most = positive(&table, "receive_at_most", HOUR);
    let bounce_wait = table.or("bounce_wait", 3 * SECOND);
    let redial_after = positive(&table, "redial_after", 2 * MINUTE);
    table.finish();
    Some(Link {
        name: name?,
        smart_host: smart_host?,
        fallback,
        connections,
        flight,
        oversize,
        dial: dial?,
        dequeue: dequeue.into_iter().collect::<Option<_>>()?,
        trigger,
        released_from,
        quiet,
        receive_at_most,
        bounce_wait,
        redial_after,
    })
}

fn flight(table: &Table<'_>) -> FlightLimits {
    let default = FlightLimits::default();
    let flight = FlightLimits {
        messages: table.or("flight_messages", default.messages),
        bytes: table.or("flight_bytes", ByteSize(default.bytes)).0,
    };
    if flight.messages == 0 {
        table.error("flight_messages", "expected at least 1");
    }
    if flight.bytes == 0 {
        table.error("flight_bytes", "expected at least 1B");
    }
    flight
}

/// A size and its hours go together: without hours such mail would wait until it is given up.
fn oversize(table: &Table<'_>) -> Option<Oversize> {
    let above: Option<ByteSize> = table.optional("oversize");
    let windows = if table.has("oversize_window") {
        table.required_list_with("oversize_window", "window", |text| {
            text.parse().map_err(|error: WindowError| error.to_string())
        })
    } else {
        Vec::new()
    };
    match (table.has("oversize"), table.has("oversize_window")) {
        (true, false) => table.error(
            "oversize",
            "oversize_window is missing: when may such mail go? For example [\"22:00-06:00\"]",
        ),
        (false, true) => table.error(
            "oversize_window",
            "oversize is missing: the size above which mail waits for these hours, such as \"2MB\"",
        ),
        _ => {}
    }
    if above == Some(ByteSize(0)) {
        table.error("oversize", "expected at least 1B");
    }
    Some(Oversize {
        above: above?.0,
        windows,
    })
}

fn dial(table: Table<'_>) -> Option<Dial> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Implicit,
        Command,
    }
    let kinds = [("implicit", Kind::Implicit), ("command", Kind::Command)];
    let kind = table.required_with("driver", |text| choice("driver", text, &kinds));
    let (driver, patience) = match kind {
        Some(Kind::Implicit) => (Some(Driver::Implicit), 90 * SECOND),
        Some(Kind::Command) => (command(&table), 30 * SECOND),
        None => {
            // The other keys belong to some driver: only the driver is wrong.
            ["up", "down", "timeout"].iter().for_each(|key| {
                table.has(key);
            });
            (None, 90 * SECOND)
        }
    };
    let patience = positive(&table, "patience", patience);
    let attempts = table.or("attempts", 3);
    if attempts == 0 {
        table.error("attempts", "expected at least 1");
    }
    let pause = table.or("pause", 10 * SECOND);
    table.finish();
    Some(Dial {
        driver: driver?,
        patience,
        attempts,
        pause,
    })
}

fn command(table: &Table<'_>) -> Option<Driver> {
    let program = |key: &str| -> Vec<String> {
        let words: Vec<String> = table.list(key);
        if let Some(first) = words.first() {
            if !Path::new(first).is_absolute() {
                table.error(
                    key,
                    format!("{first:?} is not an absolute path to a program"),
                );
            }
        } else if table.has(key) {
            table.error(
                key,
                "expected a program and its arguments, such as [\"/usr/bin/pon\", \"isp\"]",
            );
        }
        words
    };
    if !table.has("up") {
        table.error(
            "up",
            "missing; driver \"command\" needs the program that dials",
        );
    }
    let (up, down) = (program("up"), program("down"));
    let timeout = positive(table, "timeout", 120 * SECOND);
    Some(Driver::Command { up, down, timeout })
}

fn dequeue(table: Table<'_>, smart_host: Option<&HostPort>) -> Option<Dequeue> {
    let host = if table.has("host") {
        table.parse_with("host", host)
    } else {
        smart_host.cloned()
    };
    let nodes = table.required_list_with("etrn", "node", |text| {
        EtrnNode::parse(text.as_bytes()).map_err(|_| {
            format!("{text:?} is not a node of ETRN; expected a domain, @domain or #queue")
        })
    });
    table.finish();
    Some(Dequeue { host: host?, nodes })
}

fn triggers(document: &Document, link: &Table<'_>) -> Triggers {
    let mut triggers = Triggers::default();
    for (index, table) in link.tables("trigger").into_iter().enumerate() {
        let place = link.position_in("trigger", index);
        let mut keys = 0;
        if table.has("every") {
            keys += 1;
            once(&table, "every", &mut triggers.every, |t| {
                at_least_a_second(t, "every")
            });
        }
        if table.has("queued") {
            keys += 1;
            once(&table, "queued", &mut triggers.queued, |t| {
                t.optional("queued").filter(|n| at_least_one(t, *n))
            });
        }
        if table.has("oldest") {
            keys += 1;
            once(&table, "oldest", &mut triggers.oldest, |t| {
                t.optional("oldest")
            });
        }
        // A key that is none of these is reported as such.
        if keys > 1 || table.is_empty() {
            document.error(
                &place,
                "expected one of { every = \"30m\" }, { queued = 20 }, { oldest = \"10m\" }",
            );
        }
        table.finish();
    }
    triggers
}

fn once<T>(
    table: &Table<'_>,
    key: &str,
    slot: &mut Option<T>,
    read: impl Fn(&Table<'_>) -> Option<T>,
) {
    if slot.is_some() {
        table.error(key, format!("a link has one {key:?}"));
    }
    *slot = read(table).or(slot.take());
}

fn at_least_a_second(table: &Table<'_>, key: &str) -> Option<Duration> {
    let value: Duration = table.optional(key)?;
    if value < SECOND {
        table.error(key, "expected at least 1s");
    }
    Some(value)
}

fn at_least_one(table: &Table<'_>, number: u64) -> bool {
    if number == 0 {
        table.error("queued", "expected at least 1");
    }
    number > 0
}
