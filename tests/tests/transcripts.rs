//! Plays every transcript below `transcripts/` against our pure sessions, and checks that the player itself can fail.
//!
//! `UPDATE_EXPECT=1 cargo test -p linkmail-tests --test transcripts` rewrites what the files expect.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use linkmail_smtp::Recorder;
use linkmail_tests::client::PureClient;
use linkmail_tests::pure::PureServer;
use linkmail_tests::{Failure, Side, Transcript, play, play_file, socket, transcripts_below, ways};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts")
}

fn play_all(name: &str) {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let files = transcripts_below(&folder().join(name)).unwrap();
    assert!(!files.is_empty(), "no transcripts in {name}");
    let mut failures = Vec::new();
    for file in files {
        match play_file(&file, update) {
            Ok(()) => println!("ok      {}", file.display()),
            Err(failure) => {
                println!("FAILED  {}", file.display());
                failures.push(failure.to_string());
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn rfc() {
    play_all("rfc");
}

#[test]
fn server() {
    play_all("server");
}

#[test]
fn client() {
    play_all("client");
}

#[test]
fn smuggling() {
    play_all("smuggling");
}

/// What is refused by DATA is refused in chunks and by LMTP, and what is taken there is taken here.
#[test]
fn smuggling_by_other_ways() {
    let mut played = 0;
    for file in transcripts_below(&folder().join("smuggling")).unwrap() {
        for transcript in ways::by_other_ways(&Transcript::read(&file).unwrap()) {
            let mut server = PureServer::new(&transcript).unwrap();
            if let Err(failure) = play(&transcript, &mut server) {
                panic!("{failure}");
            }
            played += 1;
        }
    }
    assert_eq!(played, 5 * 16, "DATA stands in other files than before");
}

/// What is refused is not said either.
#[test]
fn smuggling_is_not_sent_by_any_way() {
    let mut played = 0;
    for file in transcripts_below(&folder().join("smuggling")).unwrap() {
        for transcript in ways::sent_by_every_way(&Transcript::read(&file).unwrap()).unwrap() {
            let mut client = PureClient::new(&transcript).unwrap();
            if let Err(failure) = play(&transcript, &mut client) {
                panic!("{failure}\n{transcript}");
            }
            played += 1;
        }
    }
    assert_eq!(played, 8 * 15);
}

#[test]
fn the_fault_is_told_where_it_is_known() {
    for (text, expected) in [
        ("a\r\nb\r\n", None),
        ("a\nb", Some(("bare <LF>", 1, 2))),
        ("\n", Some(("bare <LF>", 0, 1))),
        ("a\rb", Some(("bare <CR>", 1, 3))),
        ("a\r\r\n", Some(("bare <CR>", 1, 3))),
        ("a\r", Some(("bare <CR>", 1, 2))),
        ("a\0\n", Some(("<NUL>", 1, 2))),
    ] {
        let found = ways::fault(text.as_bytes());
        let found = found.map(|fault| (fault.what, fault.offset, fault.known));
        assert_eq!(found, expected, "{text:?}");
    }
}

#[test]
fn quirks() {
    play_all("quirks");
}

#[test]
fn every_transcript_is_in_a_folder_that_is_played() {
    let all = transcripts_below(&folder()).unwrap();
    let played: usize = ["rfc", "server", "client", "smuggling", "quirks"]
        .iter()
        .map(|name| transcripts_below(&folder().join(name)).unwrap().len())
        .sum();
    assert_eq!(all.len(), played);
    assert!(played >= 30, "{played}");
}

fn parse(text: &str) -> Result<Transcript, Failure> {
    Transcript::parse(Path::new("wrong.smtp"), text)
}

const GOOD: &str = "# wrong\n-- given --\nown b.example\n-- session --\nS: 220 relay.test ESMTP\nC: HELO a.example\nS: 250 relay.test\nC: QUIT\nS: 221 2.0.0 relay.test closing connection\n";

const BYE: &str = "221 2.0.0 relay.test closing connection";

/// What the player says of [`GOOD`] with `from` as `to`: the line, what was expected, what was there.
fn verdict(from: &str, to: &str) -> Option<(usize, String, String)> {
    assert!(GOOD.contains(from), "{from}");
    let result = parse(&GOOD.replace(from, to)).and_then(|transcript| {
        let mut server = PureServer::new(&transcript)?;
        play(&transcript, &mut server)
    });
    let failure = result.err()?;
    Some((failure.line, failure.expected, failure.got))
}

#[test]
fn a_good_transcript_passes() {
    assert_eq!(verdict("", ""), None);
}

#[test]
fn a_wrong_line_fails_where_it_stands() {
    let hello = "S: 250 relay.test";
    for (to, line, expected, got) in [
        ("S: 250 relay", 7, "S: 250 relay", hello),
        ("S~ 25 relay.*", 7, "S~ 25 relay.*", hello),
        ("S~ 250", 7, "S~ 250", hello),
        (
            "S: 250 relay.test\nS: 250 more",
            8,
            "S: 250 more",
            "nothing",
        ),
    ] {
        let expected = Some((line, expected.to_owned(), got.to_owned()));
        assert_eq!(verdict(hello, to), expected, "{to}");
    }
}

#[test]
fn a_wrong_end_fails_where_it_stands() {
    let (quit, bye) = ("C: QUIT\n", format!("S: {BYE}\n"));
    let said = bye.trim_end();
    let syntax = "S: 521 5.5.4 syntax: BDAT size [LAST], closing connection";
    let not_smtp = "C: GET /\nS: 521 5.5.1 not SMTP, closing connection\n";
    let open = "an open connection, or the mark !closed";
    let leave = format!("{quit}{bye}");
    let released = format!("{bye}-- then --\nrelease b.example\n");
    let rows: [(&str, &str, usize, &str, &str); 5] = [
        (&bye, "", 8, "nothing more", said),
        (quit, "C: BDAT some\n", 9, said, syntax),
        (&leave, "!closed\n", 8, "!closed", "an open connection"),
        (&leave, not_smtp, 9, open, "!closed"),
        (&bye, &released, 11, "release b.example", "nothing more"),
    ];
    for (from, to, line, expected, got) in rows {
        let expected = Some((line, expected.to_owned(), got.to_owned()));
        assert_eq!(verdict(from, to), expected, "{to}");
    }
}

#[test]
fn a_statement_that_is_not_known_fails_with_those_that_are() {
    let known = "one of: drives: | hostname | client | own | unknown | held | size_limit | max_recipients | max_messages | max_commands | etrn off | chunking off | offer | auth in | require | user | trusts | lmtp | tls from the start | pipelining strict | talks early | begin data | after data";
    let (line, expected, got) = verdict("own b.example", "owns b.example").unwrap();
    assert_eq!(
        (line, expected.as_str(), got.as_str()),
        (3, known, "owns b.example")
    );
}

#[test]
fn a_malformed_file_is_refused_at_its_line() {
    for (text, line) in [
        ("-- session --\nX: 1\n", 2),
        ("-- session --\nC:no space\n", 2),
        ("-- session --\nC\\ \\q\n", 2),
        ("-- session --\n!wait soon\n", 2),
        ("stray\n-- session --\nC: QUIT\n", 1),
        ("# nothing\n", 1),
    ] {
        assert_eq!(parse(text).unwrap_err().line, line, "{text}");
    }
}

#[test]
fn a_failure_shows_where_and_the_session_so_far() {
    let transcript = parse(&GOOD.replace("250 relay.test", "250 other")).unwrap();
    let mut server = PureServer::new(&transcript).unwrap();
    assert_eq!(
        play(&transcript, &mut server).unwrap_err().to_string(),
        "wrong.smtp:7\n  expected S: 250 other\n  got      S: 250 relay.test\n    S: 220 relay.test ESMTP\n    C: HELO a.example\n"
    );
}

/// A listener that says the right lines, or one wrong one, without reading what it is told in between.
fn scripted_server(lines: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut piece = [0; 1024];
        for (index, line) in lines.iter().enumerate() {
            if index > 0 && stream.read(&mut piece).unwrap() == 0 {
                return;
            }
            stream.write_all(line.as_bytes()).unwrap();
        }
    });
    address
}

#[test]
fn the_same_file_plays_over_a_socket() {
    let file = file_in_target();
    std::fs::write(&file, GOOD).unwrap();
    let good = scripted_server(&[
        "220 relay.test ESMTP\r\n",
        "250 relay.test\r\n",
        "221 2.0.0 relay.test closing connection\r\n",
    ]);
    socket::play(&file, good).unwrap();
    let wrong = scripted_server(&["220 relay.test ESMTP\r\n", "250 other.test\r\n"]);
    let failure = socket::play(&file, wrong).unwrap_err();
    assert_eq!(
        (failure.line, failure.got.as_str()),
        (7, "S: 250 other.test")
    );
    let chatty = scripted_server(&[
        "220 relay.test ESMTP\r\n",
        "250 relay.test\r\n",
        "221 2.0.0 relay.test closing connection\r\n250 more\r\n",
    ]);
    let failure = socket::play(&file, chatty).unwrap_err();
    assert_eq!(failure.expected, "nothing more");
}

fn file_in_target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("socket.smtp")
}

#[test]
fn a_recorded_session_plays_again() {
    let mut recorder = Recorder::new();
    let mut server = PureServer::new(&parse(GOOD).unwrap()).unwrap();
    for said in [
        "HELO a.example\r\nMAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n",
        "Subject: private\r\n\r\n..text\r\n.\r\n",
        "MAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\nBDAT 9\r\nprivate\r\nBDAT 0 LAST\r\n",
        "NO\0OP\r\nQUIT\r\n",
    ] {
        while let Some(line) = server.next_line() {
            recorder.server(&line);
        }
        recorder.client(said.as_bytes());
        server.receive(said.as_bytes());
    }
    while let Some(line) = server.next_line() {
        recorder.server(&line);
    }
    let record = recorder.text();
    assert!(record.contains("C# 27 octets of data\n"), "{record}");
    assert!(
        record.contains("C: BDAT 9\nC# 9 octets of chunk\n"),
        "{record}"
    );
    assert!(!record.contains("private"));
    let text = format!("-- given --\nown b.example\n-- session --\n{record}-- then --\n");
    let again = parse(&text).unwrap();
    let mut server = PureServer::new(&again).unwrap();
    let failure = play(&again, &mut server).unwrap_err();
    assert_eq!(failure.got, "message from <> to <b@b.example>", "{failure}");
}
