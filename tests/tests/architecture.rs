//! The rules of ARCHITECTURE.md that can be read off the source: who may touch what, and what must stand in the
//! documents and the shipped example.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Every Rust file at or below a path, with its text up to its tests and without its comments.
fn sources(at: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut waiting = vec![top().join(at)];
    while let Some(path) = waiting.pop() {
        if path.is_dir() && path.ends_with("tests") {
            continue;
        }
        if path.is_dir() {
            waiting.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            files.push((
                path.display().to_string(),
                lines.collect::<Vec<_>>().join("\n"),
            ));
        }
    }
    assert!(!files.is_empty(), "no sources at {at}");
    files
}

/// What must not appear in a module, as regular expressions.
fn forbid(at: &str, forbidden: &[&str]) {
    for (file, code) in sources(at) {
        for pattern in forbidden {
            let found = Regex::new(pattern)
                .unwrap()
                .find(&code)
                .map(|found| found.as_str().to_owned());
            assert!(
                found.is_none(),
                "{file} must not touch {:?}",
                found.unwrap()
            );
        }
    }
}

/// Sockets, files, clocks, tasks: what pure code does without.
const IMPURE: [&str; 9] = [
    r"std::fs",
    r"std::io\b",
    r"tokio::(net|fs|process|io|spawn|select)",
    r"std::net::(Tcp|Udp)",
    r"rusqlite",
    r"Stamp::now",
    r"SystemTime::now",
    r"Instant::now",
    r"std::thread",
];

#[test]
fn pure_modules_touch_neither_the_world_nor_its_clock() {
    for module in [
        "policy",
        "route",
        "queue",
        "report/mod.rs",
        "report/told.rs",
        "names",
        "outbound/direct/demand.rs",
        "outbound/direct/turns.rs",
        "outbound/share.rs",
        "outbound/direct/sts/policy.rs",
        "outbound/direct/sts/kept.rs",
        "recipient_list.rs",
        "sender_map.rs",
        "inbound/pace.rs",
        "inbound/failures.rs",
        "inquiry/word.rs",
        "inquiry/answers.rs",
        "link/state.rs",
        "cycle/order",
        "cycle/schedule.rs",
        "cycle/record.rs",
    ] {
        forbid(&format!("relay-svc/src/{module}"), &IMPURE);
    }
    for module in [
        "judge.rs",
        "verdict.rs",
        "standing.rs",
        "bounce.rs",
        "probe",
        "notify/notice.rs",
        "names.rs",
    ] {
        forbid(&format!("monitor-svc/src/{module}"), &IMPURE);
    }
    for module in [
        "tls/dane.rs",
        "tls/pin.rs",
        "tls/x509.rs",
        "proxy_protocol.rs",
    ] {
        forbid(&format!("crates/service/src/{module}"), &IMPURE);
    }
    forbid("crates/smtp/src", &IMPURE);
    forbid(
        "crates/smtp/src",
        &[r"\btokio\b", r"\bInstant\b", r"SystemTime"],
    );
}

/// `crate::x` in any of the forms in which it can be used.
fn module(name: &str) -> String {
    // As a path, or as an item of the braces of `use crate::{…}` at the start of a line.
    format!(r"crate::{name}\b|use crate::\{{[^;]*?[\s{{]{name}(::|,|\}})")
}

#[test]
fn modules_meet_only_where_the_architecture_says() {
    let rules: [(&str, &[&str]); 10] = [
        (
            "operator",
            &["inbound", "inquiry", "release", "link", "cycle", "api"],
        ),
        (
            "inbound",
            &["queue", "outbound", "release", "link", "cycle", "api"],
        ),
        (
            "inquiry",
            &[
                "inbound", "spool", "queue", "release", "link", "cycle", "api", "arrivals",
            ],
        ),
        (
            "outbound",
            &[
                "inbound", "inquiry", "release", "link", "cycle", "api", "arrivals",
            ],
        ),
        (
            "spool",
            &["inbound", "outbound", "release", "link", "api", "policy"],
        ),
        ("link", &["inbound", "spool", "cycle", "api", "queue"]),
        ("cycle", &["inbound", "release", "api", "report"]),
        ("release", &["inbound", "link", "cycle", "api", "arrivals"]),
        ("api", &["inbound", "outbound", "release"]),
        (
            "policy",
            &["inbound", "outbound", "spool", "link", "cycle", "api"],
        ),
    ];
    for (at, forbidden) in rules {
        let patterns: Vec<String> = forbidden.iter().map(|name| module(name)).collect();
        forbid(
            &format!("relay-svc/src/{at}"),
            &patterns.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    assert!(
        Regex::new(&module("queue"))
            .unwrap()
            .is_match("use crate::{\n    names::X,\n    queue::Outcome,\n};")
    );
}

#[test]
fn modules_of_the_monitor_meet_only_where_the_architecture_says() {
    let rules: [(&str, &[&str]); 8] = [
        (
            "judge.rs",
            &["ledger", "notify", "probe", "relay", "run", "api"],
        ),
        ("verdict.rs", &["ledger", "notify", "relay", "run", "api"]),
        ("standing.rs", &["ledger", "notify", "relay", "run", "api"]),
        ("probe", &["ledger", "notify", "relay", "run", "api"]),
        ("notify", &["ledger", "relay", "run", "api"]),
        ("ledger", &["relay", "run", "api"]),
        ("relay", &["ledger", "notify", "run", "api"]),
        ("run", &["api", "commands"]),
    ];
    for (at, forbidden) in rules {
        let patterns: Vec<String> = forbidden.iter().map(|name| module(name)).collect();
        forbid(
            &format!("monitor-svc/src/{at}"),
            &patterns.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    forbid(
        "monitor-svc/src/ledger",
        &["tokio::net", "std::net", "tonic"],
    );
}

#[test]
fn wire_types_of_the_monitor_stop_at_its_rims() {
    for (file, code) in sources("monitor-svc/src") {
        let rim = ["/api/", "/commands/", "/relay/convert.rs", "/relay/grpc.rs"];
        if !rim.iter().any(|part| file.contains(part)) {
            assert!(
                !code.contains("linkmail_proto"),
                "{file} must not touch wire types"
            );
        }
    }
}

#[test]
fn wire_types_stop_at_the_api_and_the_commands() {
    for (file, code) in sources("relay-svc/src") {
        if !file.contains("/api/") && !file.contains("/commands/") {
            assert!(
                !code.contains("linkmail_proto"),
                "{file} must not touch wire types"
            );
        }
    }
}

#[test]
fn the_cycle_knows_no_smtp_syntax_and_the_spool_no_sockets() {
    forbid(
        "relay-svc/src/cycle",
        &["ClientSession", "ServerSession", "b\"MAIL", "\\\\r\\\\n"],
    );
    forbid("relay-svc/src/spool", &["tokio::net", "std::net", "tonic"]);
}

/// The keys that the reader of a configuration asks for.
fn keys(at: &str) -> BTreeSet<String> {
    let asked = Regex::new(
        r#"\b(?:required|optional|or|list|has|parse_with|required_with|list_or|list_with|required_list_with|table|tables|required_table|program|at_least_a_second\(\s*&?table,|positive\(\s*&?table,)(?:::<\w+>)?\(?\s*"(\w+)""#,
    )
    .unwrap();
    let mut keys = BTreeSet::new();
    for (_, code) in sources(at) {
        keys.extend(asked.captures_iter(&code).map(|found| found[1].to_owned()));
    }
    keys
}

/// Every key stands in the example and, in back quotes, in the document.
fn told(keys: BTreeSet<String>, example: &str, document: &str) {
    let (shown, told) = (
        fs::read_to_string(top().join(example)).unwrap(),
        fs::read_to_string(top().join(document)).unwrap(),
    );
    for key in keys {
        let used = Regex::new(&format!(r"(?m)(^|[\s#{{\[])({key}\s*=|\[?\[?{key}\]\]?)")).unwrap();
        assert!(used.is_match(&shown), "{key} is not in {example}");
        assert!(
            told.contains(&format!("`{key}`")),
            "{key} is not in {document}"
        );
    }
}

#[test]
fn every_configuration_key_is_in_the_example_and_in_the_documents() {
    let shared = keys("crates/service/src/settings.rs");
    assert_eq!(shared.len(), 5, "{shared:?}");
    let relay = &keys("relay-svc/src/config") | &shared;
    assert!(
        relay.len() > 35 && relay.contains("bounce_wait") && relay.contains("etrn"),
        "{relay:?}"
    );
    told(relay, "deploy/examples/relay.toml", "docs/configuration.md");
    let monitor = &keys("monitor-svc/src/config") | &shared;
    assert!(
        monitor.len() > 20 && monitor.contains("longest_wait") && monitor.contains("late_after"),
        "{monitor:?}"
    );
    told(
        monitor,
        "deploy/examples/monitor.toml",
        "docs/09-monitor.md",
    );
}

#[test]
fn the_shipped_examples_are_good() {
    let folder = top().join("deploy/examples");
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "toml") {
            checked += 1;
            let of_monitor = path.ends_with("monitor.toml");
            let wrong = if of_monitor {
                monitor_svc::config::load(&path).err()
            } else {
                relay_svc::config::load(&path).err()
            };
            assert!(wrong.is_none(), "{}", wrong.unwrap());
        }
    }
    assert!(checked > 0);
}

/// Every name that the pattern finds in the sources stands, in back quotes, in the document.
fn named(at: &str, pattern: &str, least: usize, document: &str) {
    let told = fs::read_to_string(top().join(document)).unwrap();
    let name = Regex::new(pattern).unwrap();
    let mut names = BTreeSet::new();
    for (_, code) in sources(at) {
        names.extend(name.captures_iter(&code).map(|found| found[1].to_owned()));
    }
    assert!(names.len() > least, "{names:?}");
    for name in names {
        assert!(
            told.contains(&format!("`{name}`")),
            "{name} is not in {document}"
        );
    }
}

#[test]
fn every_metric_and_attribute_is_in_the_documents() {
    named(
        "relay-svc/src",
        r#""((?:relay|messaging|server|error)\.[a-z_.]+)""#,
        25,
        "docs/07-telemetry.md",
    );
    named(
        "monitor-svc/src",
        r#""((?:monitor|relay|error)\.[a-z_.]+)""#,
        20,
        "docs/09-monitor.md",
    );
}

#[test]
fn every_call_of_the_contract_says_its_errors_and_every_field_its_role() {
    let rpc = Regex::new(r"(?m)((?:^\s*//.*\n)*)^\s*rpc (\w+)").unwrap();
    let request = Regex::new(r"(?s)message (\w+Request) \{(.*?)\n\}").unwrap();
    let field = Regex::new(r"(?m)((?:^\s*//.*\n)*)^\s*(?:repeated |optional )?[\w.]+ (\w+) = \d+;")
        .unwrap();
    for file in [
        "relay/v1/message",
        "relay/v1/cycle",
        "relay/v1/link",
        "relay/v1/node",
        "relay/v1/report",
        "monitor/v1/monitor",
        "monitor/v1/probe",
    ] {
        let path = top().join(format!("proto/linkmail/{file}_service.proto"));
        let text = fs::read_to_string(path).unwrap();
        for call in rpc.captures_iter(&text) {
            assert!(
                call[1].contains("Errors:"),
                "{file}: {} does not say its errors",
                &call[2]
            );
        }
        for message in request.captures_iter(&text) {
            for field in field.captures_iter(&message[2]) {
                let said = ["REQUIRED", "OPTIONAL"]
                    .iter()
                    .any(|word| field[1].contains(word));
                assert!(
                    said,
                    "{}.{} is neither REQUIRED nor OPTIONAL",
                    &message[1], &field[2]
                );
            }
        }
    }
}
