//! Files that are wrong, with the exact words; and what is right.

use linkmail_service::config::Document;

use super::*;
use crate::probe::Proof;

const MINUTE: Duration = Duration::from_secs(60);

const GOOD: &str = r#"state = "/s"
[[monitor]]
name = "isp"
link = "isp"
recipient = "nobody@isp.example"
reverse_path = "probe-*@branch.example"
"#;

/// What is wrong with a text, one error a line.
fn wrong(text: &str) -> String {
    let document = match Document::parse("monitor.toml", text) {
        Ok(document) => document,
        Err(errors) => return errors.to_string(),
    };
    match read::finish(&document) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

fn right(text: &str) -> Config {
    read::finish(&Document::parse("monitor.toml", text).unwrap()).unwrap()
}

#[test]
fn six_lines_are_enough() {
    let config = right(GOOD);
    let monitor = &config.monitors[0];
    let minutes = [
        monitor.thresholds.interval,
        monitor.thresholds.interval_unwell,
        monitor.thresholds.warn_after,
        monitor.thresholds.alert_after,
        monitor.late_after,
    ]
    .map(|time| time.as_secs() / 60);
    assert_eq!(minutes, [15, 5, 30, 60, 30]);
    assert_eq!((monitor.wanted, monitor.dial), (Proof::RoundTrip, true));
    assert_eq!(config.relay.address.to_string(), "127.0.0.1:7025");
    assert_eq!(config.relay.consumer, "monitor-svc");
    assert_eq!(config.grpc.listen.to_string(), "127.0.0.1:7026");
    assert!(config.webhook.is_none());
}

#[test]
fn every_key_is_read() {
    let text = GOOD.to_owned()
        + r#"interval = "1m"
interval_unwell = "30s"
warn_after = "5m"
alert_after = "9m"
late_after = "2m"
proof = "outbound"
dial = false
longest_wait = "2m"
[relay]
address = "relay.branch.example:7025"
consumer = "second"
[grpc]
listen = "0.0.0.0:7026"
allow = ["10.1.0.0/16"]
[telemetry]
otlp = "http://127.0.0.1:4317"
log = "debug"
[webhook]
url = "https://pager.example/hook?key=1"
"#;
    let config = right(&text);
    let monitor = &config.monitors[0];
    assert_eq!(monitor.thresholds.warn_after, 5 * MINUTE);
    assert_eq!(monitor.late_after, 2 * MINUTE);
    assert_eq!((monitor.wanted, monitor.dial), (Proof::Outbound, false));
    assert_eq!(
        config.relay.address.to_string(),
        "relay.branch.example:7025"
    );
    assert_eq!(config.relay.consumer, "second");
    assert_eq!(config.grpc.allow.len(), 1);
    assert_eq!(config.telemetry.log, "debug");
    let url = config.webhook.unwrap().to_string();
    assert_eq!(url, "https://pager.example/hook?key=1");
}

/// A line that is added to the good file, and what is said of it.
#[test]
fn what_is_wrong_is_told_with_its_line_and_what_would_be_right() {
    let rows = [
        (
            "interval = \"1h\"",
            "7: monitor[0].interval: not shorter than warn_after (30m): PROVEN would end before the next probe",
        ),
        (
            "alert_after = \"30m\"",
            "7: monitor[0].alert_after: not longer than warn_after (30m): WARNING would never be reached",
        ),
        (
            "interval_unwell = \"10ms\"",
            "7: monitor[0].interval_unwell: expected at least 1s",
        ),
        (
            "late_after = \"0s\"",
            "7: monitor[0].late_after: expected at least 1s",
        ),
        (
            "proof = \"both\"",
            "7: monitor[0].proof: unknown proof \"both\"; one of round_trip, outbound",
        ),
        (
            "dial = false",
            "2: monitor[0].longest_wait: missing; with dial = false it is required: the longest time that the link is left without a cycle",
        ),
        (
            "dial = false\nlongest_wait = \"30m\"\nalert_after = \"80m\"\nwarn_after = \"75m\"",
            "",
        ),
        (
            "dial = false\nlongest_wait = \"30m\"\nalert_after = \"80m\"\nwarn_after = \"74m\"",
            "10: monitor[0].warn_after: warn_after (74m) is too short with dial = false: a probe waits up to longest_wait for its cycle and again for the report's; expected at least 2 × longest_wait + interval = 75m",
        ),
        (
            "longest_wait = \"30m\"",
            "7: monitor[0].longest_wait: has no meaning with dial = true: a probe then asks for a cycle; leave it out, or set dial = false",
        ),
        (
            "intervall = \"1m\"",
            "7: monitor[0].intervall: unknown key \"intervall\"; did you mean \"interval\"?",
        ),
        ("[webhook]", "7: webhook.url: missing; this key is required"),
        (
            "[webhook]\nurl = \"ftp://x.example/\"",
            "8: webhook.url: \"ftp://x.example/\" is not a web address; expected one such as \"https://pager.example/hook\"",
        ),
        (
            "[webhook]\nurl = \"/hook\"",
            "8: webhook.url: \"/hook\" is not a web address; expected one such as \"https://pager.example/hook\"",
        ),
        (
            "[webhook]\nurl = \"https://me:secret@x.example/\"",
            "8: webhook.url: a name and a password in the address are not sent; leave them out",
        ),
        (
            "[relay]\naddress = \"relay.branch.example\"",
            "8: relay.address: expected an address such as \"relay.example:7025\", \"127.0.0.1:7025\" or \"unix:/run/linkmail.sock\", found \"relay.branch.example\"",
        ),
        (
            "[relay]\nconsumer = \"a b\"",
            "8: relay.consumer: \"a b\" is not a consumer: 1 to 63 letters, digits and hyphens",
        ),
        (
            "[grpc]\nlisten = \"0.0.0.0:7026\"",
            "8: grpc.listen: 0.0.0.0:7026 can be reached from other hosts: name those that may connect in grpc.allow, or listen on loopback or a Unix socket",
        ),
    ];
    for (line, expected) in rows {
        let expected = if expected.is_empty() {
            String::new()
        } else {
            format!("monitor.toml:{expected}")
        };
        assert_eq!(wrong(&format!("{GOOD}{line}\n")), expected, "{line}");
    }
}

/// A value of the good file that is replaced, and what is said of it.
#[test]
fn values_that_are_none_are_told() {
    let rows = [
        (
            "name = \"isp\"",
            "name = \"is p\"",
            "3: monitor[0].name: \"is p\" is not a monitor name: 1 to 63 letters, digits and hyphens",
        ),
        (
            "link = \"isp\"",
            "",
            "2: monitor[0].link: missing; this key is required",
        ),
        (
            "nobody@",
            "nobody",
            "5: monitor[0].recipient: \"nobodyisp.example\" is not an address: ",
        ),
        (
            "probe-*@",
            "probe@",
            "6: monitor[0].reverse_path: \"probe@branch.example\": it has no *, where the token goes; expected an address with one *, such as \"probe-*@branch.example\"",
        ),
        (
            "probe-*@",
            "p*-*@",
            "6: monitor[0].reverse_path: \"p*-*@branch.example\": it has more than one *; expected",
        ),
        (
            "state = \"/s\"",
            "",
            "1: state: missing; this key is required",
        ),
    ];
    for (from, to, expected) in rows {
        let told = wrong(&GOOD.replace(from, to));
        let first = told.lines().next().unwrap_or_default();
        let expected = format!("monitor.toml:{expected}");
        assert!(first.starts_with(&expected), "{to}: {told}");
    }
}

#[test]
fn monitors_differ_in_name_and_reverse_path() {
    let second = GOOD
        .replace("state = \"/s\"\n", "")
        .replace("probe-", "PROBE-");
    let told = wrong(&format!("{GOOD}{second}"));
    let expected = "monitor.toml:8: monitor[1].name: a monitor named \"isp\" is there already\n\
                    monitor.toml:11: monitor[1].reverse_path: PROBE-*@branch.example is the reverse path of another monitor";
    assert_eq!(told, expected);
}

#[test]
fn a_file_without_monitors_is_told_so() {
    let told = wrong("state = \"/s\"\n");
    assert!(
        told.contains("monitor: missing; at least one [[monitor]] is required"),
        "{told}"
    );
}
