//! Our parser and decoder beside those of `smtp-proto` 0.2.5: both take the same and read the same in it, or the difference
//! is one that is listed in [`known`], with its reason and an example. Anything else fails.
//!
//! `smtp-proto` is an oracle, not the judge: where it differs, the standards decide.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod known;
mod lines;

use std::path::Path;

use known::{KNOWN, known};
use lines::{is_plain, ours, theirs};
use linkmail_laws::reference;
use linkmail_smtp::DataDecoder;
use linkmail_smtp::data::DataState;
use linkmail_tests::transcript::{Mark, Speaker};
use linkmail_tests::{Transcript, transcripts_below};
use proptest::prelude::*;
use smtp_proto::request::receiver::DataReceiver;

fn agree(line: &[u8]) -> Result<(), String> {
    let (ours, theirs) = (ours(line), theirs(line));
    let text = String::from_utf8_lossy(line);
    if is_plain(&text) && (ours == "-" || theirs != ours) {
        return Err(format!("{text:?} is plain; ours: {ours}; theirs: {theirs}"));
    }
    if ours == theirs || known(line, &ours, &theirs).is_some() {
        return Ok(());
    }
    Err(format!(
        "{:?}; ours: {ours}; theirs: {theirs}",
        line.escape_ascii().to_string()
    ))
}

#[test]
fn each_known_difference_has_its_example() {
    for (difference, line, expected, oracle) in KNOWN {
        assert_eq!(ours(line.as_bytes()), *expected, "ours of {line}");
        assert_eq!(theirs(line.as_bytes()), *oracle, "theirs of {line}");
        if expected != oracle {
            assert_eq!(
                known(line.as_bytes(), expected, oracle),
                Some(*difference),
                "{line}"
            );
        }
    }
}

/// The list excuses nothing else.
#[test]
fn what_is_not_listed_is_a_failure() {
    for (line, ours, theirs) in [
        ("DATA", "-", "DATA"),
        ("BDAT 12", "BDAT 12", "BDAT 13"),
        ("BDAT 12 LAST", "BDAT 12", "BDAT 12 LAST"),
        ("RCPT TO:<a@b.example>", "-", "RCPT a@b.example"),
        ("RCPT TO:<a@b.example>", "RCPT a@b.example", "-"),
        (
            "RCPT TO:<a@b.example>",
            "RCPT c@b.example",
            "RCPT a@b.example",
        ),
        ("MAIL FROM:<>  SIZE=1", "MAIL  SIZE=1", "MAIL  SIZE=2"),
        ("ETRN b.example", "ETRN b.example", "-"),
        ("FOO", "-", "NOOP"),
    ] {
        assert_eq!(known(line.as_bytes(), ours, theirs), None, "{line}");
    }
}

/// Every command line of the transcripts, and of the corpus.
#[test]
fn the_lines_of_transcripts_and_corpus_are_read_alike() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for path in transcripts_below(&tests.join("transcripts")).unwrap() {
        for entry in Transcript::read(&path).unwrap().session {
            if let Mark::Line(Speaker::Client, line) = entry.mark {
                lines.push(line.into_bytes());
            }
        }
    }
    for entry in std::fs::read_dir(tests.join("fuzz/corpus/server_session")).unwrap() {
        let input = std::fs::read(entry.unwrap().path()).unwrap();
        let stream = input.get(12..).unwrap_or_default();
        lines.extend(
            stream
                .split(|byte| *byte == b'\n')
                .map(|line| line.trim_ascii_end().to_vec()),
        );
    }
    let failures: Vec<String> = lines
        .iter()
        .filter(|line| line.len() < 2000)
        .filter_map(|line| agree(line).err())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let is_plain = |line: &&Vec<u8>| is_plain(&String::from_utf8_lossy(line));
    assert!(lines.iter().filter(is_plain).count() > 500);
}

const WORDS: &[&str] = &[
    "EHLO",
    "HELO",
    "MAIL",
    "RCPT",
    "DATA",
    "BDAT",
    "RSET",
    "QUIT",
    "NOOP",
    "VRFY",
    "ETRN",
    "STARTTLS",
    "AUTH",
    "mail",
    "Rcpt",
    " ",
    " ",
    " ",
    "  ",
    "FROM:",
    "TO:",
    "from:",
    "<",
    ">",
    "<>",
    ":",
    "=",
    "+",
    "a",
    "b.example",
    "a@b.example",
    "<a@b.example>",
    "<a.b@c.example>",
    "<@d.example:a@b.example>",
    "<\"a b\"@c.example>",
    "<postmaster>",
    "@",
    ".",
    "[127.0.0.1]",
    "[IPv6:::1]",
    "SIZE=10",
    "SIZE=",
    "SIZE",
    "BODY=8BITMIME",
    "BODY=7BIT",
    "SMTPUTF8",
    "RET=HDRS",
    "ENVID=x",
    "NOTIFY=NEVER",
    "NOTIFY=SUCCESS,FAILURE",
    "ORCPT=rfc822;a@b.example",
    "AUTH=<>",
    "LAST",
    "0",
    "12",
    "18446744073709551615",
    "-1",
    "PLAIN",
    "\u{e9}",
    "\t",
    "\"",
    "\\",
];

/// Lines that are right, or nearly.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let envelope = (
        prop::sample::select(&["MAIL FROM:", "RCPT TO:", "MAIL FROM: ", "rcpt to:"][..]),
        prop::sample::select(WORDS),
        prop::collection::vec(
            (
                prop::sample::select(&[" ", "  ", ""][..]),
                prop::sample::select(WORDS),
            ),
            0..3,
        ),
    )
        .prop_map(|(verb, path, rest)| {
            let rest: String = rest
                .iter()
                .flat_map(|(space, word)| [*space, *word])
                .collect();
            format!("{verb}{path}{rest}").into_bytes()
        });
    let any = prop::collection::vec(prop::sample::select(WORDS), 0..6)
        .prop_map(|words| words.concat().into_bytes());
    prop_oneof![envelope, any]
}

fn tricky() -> impl Strategy<Value = Vec<u8>> {
    let words: &[&[u8]] = &[
        b"\r\n",
        b"\r\n.",
        b".",
        b"\r",
        b"\n",
        b"a",
        b"\0",
        b"\r\n.\r\n",
        b"text",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..30)
        .prop_map(|words| words.concat())
}

/// Primed with the CRLF of DATA, which it does not know to be a line's end otherwise.
fn their_data(wire: &[u8], is_primed: bool) -> (bool, usize, Vec<u8>) {
    let mut receiver = DataReceiver::new();
    if is_primed {
        receiver.ingest(&mut b"\r\n".iter(), &mut Vec::new());
    }
    let (mut bytes, mut body) = (wire.iter(), Vec::new());
    let ended = receiver.ingest(&mut bytes, &mut body);
    (ended, wire.len() - bytes.as_slice().len(), body)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn command_lines_are_read_alike(line in line()) {
        prop_assert!(agree(&line).is_ok(), "{}", agree(&line).unwrap_err());
    }

    /// Theirs carries bare newlines and NUL on, and does not know a malformed end; for the rest both are the same.
    #[test]
    fn data_is_read_alike(wire in tricky()) {
        let mut body = Vec::new();
        let mut decoder = DataDecoder::new();
        let decoded = decoder.decode(&wire, &mut body);
        let (ended, consumed, their_body) = their_data(&wire, true);
        match decoded.state {
            DataState::Ended => {
                prop_assert!(ended);
                prop_assert_eq!(decoded.consumed, consumed);
                if decoder.fault().is_none() {
                    prop_assert_eq!(body, their_body);
                }
            }
            DataState::Open => prop_assert!(!ended),
            DataState::Malformed => prop_assert!(!ended || consumed >= decoded.consumed),
        }
    }
}

#[test]
fn known_differences_of_data() {
    // Not primed, an empty message has no end, and its first dot stays stuffed.
    assert_eq!(their_data(b".\r\n", false), (false, 3, b".\r\n".to_vec()));
    assert_eq!(their_data(b"..a\r\n.\r\n", false).2, b"..a\r\n");
    // Bare newlines and NUL are carried on.
    for bad in [&b"a\nb\r\n.\r\n"[..], b"a\rb\r\n.\r\n", b"a\0b\r\n.\r\n"] {
        assert_eq!(their_data(bad, true), (true, 8, bad[..5].to_vec()));
        assert!(reference::decode(bad).fault.is_some());
    }
    // A malformed end is text.
    assert_eq!(their_data(b"a\n.\nb\r\n.\r\n", true).2, b"a\n.\nb\r\n");
    assert_eq!(
        reference::decode(b"a\n.\nb\r\n.\r\n").state,
        DataState::Malformed
    );
    // Drained between CR and LF of the end, it leaves a CR that nobody sent.
    let mut receiver = DataReceiver::new();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    receiver.ingest(&mut b"hi\r\n.\r".iter(), &mut first);
    assert!(receiver.ingest(&mut b"\n".iter(), &mut second));
    assert_eq!(first, b"hi\r\n\r");
}
