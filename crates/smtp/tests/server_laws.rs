//! Laws of the server session with its extensions: the pieces do not matter, each command has its reply, each transaction
//! ends once, and nothing said before TLS counts behind it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use linkmail_smtp::{
    AuthAnswer, ServerConfig, ServerSession, ServerStep, replies, server::AbortReason,
};
use proptest::prelude::*;

/// An envelope, so that messages are frequent: three commands.
const ENVELOPE: &[u8] = b"RSET\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n";

/// Whole commands, with their chunks; each is answered once in SMTP.
const WHOLE: &[&[u8]] = &[
    ENVELOPE,
    ENVELOPE,
    ENVELOPE,
    ENVELOPE,
    ENVELOPE,
    ENVELOPE,
    b"EHLO a.example\r\n",
    b"HELO a.example\r\n",
    b"MAIL FROM:<a@a.example> SIZE=10 RET=HDRS ENVID=x\r\n",
    b"MAIL FROM:<caf\xc3\xa9@a.example> SMTPUTF8\r\n",
    b"MAIL FROM:<> SIZE=100000\r\n",
    b"MAIL FROM:<> XLMID=0193a5c0-4b7e-7c3a-9f00-00000000002a\r\n",
    b"MAIL FROM:<refused@a.example>\r\n",
    b"RCPT TO:<b@b.example> NOTIFY=NEVER\r\n",
    b"RCPT TO:<b@b.example>\r\n",
    b"RCPT TO:<caf\xc3\xa9@b.example>\r\n",
    b"RCPT TO:<refused@b.example>\r\n",
    b"BDAT 11\r\nfirst chunk",
    b"BDAT 12 LAST\r\nRSET\r\nQUIT\r\n",
    b"BDAT 9 LAST\r\n.\r\nlast\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 3 LAST\r\nend",
    b"BDAT 4\r\na\nb\0",
    b"BDAT 2 LAST\r\nc\r",
    b"BDAT 70\r\n0123456789012345678901234567890123456789012345678901234567890123456789",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY b\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"AUTH PLAIN eA==\r\n",
    b"AUTH NONE\r\n",
    b"AUTH PLAIN bad\r\n",
];

/// What ends in the middle, is answered twice, or is not SMTP.
const OTHERS: &[&[u8]] = &[
    b"LHLO a.example\r\n",
    b"DATA\r\n",
    b"Subject: x\r\n\r\nbody\r\n.\r\n",
    b"bad\nline\r\n",
    b".\r\n",
    b"AUTH PLAIN\r\n",
    b"AGEAYg==\r\n",
    b"*\r\n",
    b"BDAT 18446744073709551615 LAST\r\n",
    b"BDAT some\r\n",
    b"QUIT\r\n",
    b"\r",
];

fn words(of: &[&'static [&'static [u8]]], max: usize) -> impl Strategy<Value = Vec<&'static [u8]>> {
    prop::collection::vec(prop::sample::select(of.concat()), 0..max)
}

fn config(lmtp: bool) -> ServerConfig {
    ServerConfig {
        hostname: "relay.test".into(),
        size_limit: 60,
        max_recipients: 3,
        lmtp,
        chunking: true,
        dsn: true,
        smtputf8: true,
        xlinkmail_by_login: true,
        starttls: true,
        auth_in_clear: vec!["PLAIN".into()],
        auth_in_tls: vec!["PLAIN".into()],
        max_auth_failures: 100,
        ..ServerConfig::default()
    }
}

/// What a session did: what it wrote, and its other steps. The data of a transaction that is aborted is left out: how
/// much of it was given out before is a matter of the pieces.
#[derive(Debug, Default, PartialEq)]
struct Run {
    written: Vec<u8>,
    steps: Vec<ServerStep>,
}

impl Run {
    fn push(&mut self, step: ServerStep) {
        match (step, self.steps.last_mut()) {
            (ServerStep::Body(more), Some(ServerStep::Body(body))) => body.extend(more),
            (step @ ServerStep::Abort(_), Some(ServerStep::Body(_))) => {
                self.steps.pop();
                self.steps.push(step);
            }
            (step, _) => self.steps.push(step),
        }
    }

    fn replies(&self) -> usize {
        let lines = self.written.split(|byte| *byte == b'\n');
        lines.filter(|line| line.get(3) == Some(&b' ')).count()
    }
}

/// Gives the session its pieces, does the handshake when asked, and stops at the end of the connection.
fn drive(session: &mut ServerSession, pieces: &[&[u8]]) -> Run {
    let mut run = Run::default();
    let mut pieces = pieces.iter();
    for _ in 0..100_000 {
        let step = session.step();
        match &step {
            ServerStep::Write(bytes) => run.written.extend(bytes),
            ServerStep::Read => match pieces.next() {
                Some(piece) => session.receive(piece),
                None => session.end_of_input(),
            },
            ServerStep::Close => return run,
            ServerStep::StartTls => {
                run.push(step);
                return run;
            }
            ServerStep::Auth { initial, .. } => match initial.as_deref() {
                None => session.answer_auth(AuthAnswer::Challenge(Vec::new())),
                Some(response) => answer_auth(session, response),
            },
            ServerStep::AuthResponse(response) => answer_auth(session, response),
            _ => {
                match &step {
                    ServerStep::Mail { parameters, .. }
                        if parameters.peer_id.is_some() && session.identity().is_none() =>
                    {
                        panic!("the id of a client that nobody knows")
                    }
                    ServerStep::Mail { reverse_path, .. }
                        if reverse_path.to_string().starts_with("refused") =>
                    {
                        session.answer(replies::relaying_denied());
                    }
                    ServerStep::Mail { .. } => session.answer(replies::sender_ok()),
                    ServerStep::Recipient { forward_path, .. }
                        if forward_path.to_string().starts_with("refused") =>
                    {
                        session.answer(replies::no_such_user());
                    }
                    ServerStep::Recipient { .. } => session.answer(replies::recipient_ok()),
                    ServerStep::BeginData => session.answer(replies::start_data()),
                    ServerStep::EndOfData => session.answer(replies::message_accepted("1")),
                    _ => {}
                }
                run.push(step);
            }
        }
    }
    panic!("the session does not end");
}

fn answer_auth(session: &mut ServerSession, response: &[u8]) {
    session.answer_auth(if response == b"\0a\0b" {
        AuthAnswer::Accepted {
            identity: "a".into(),
        }
    } else {
        AuthAnswer::Refused(replies::bad_credentials())
    });
}

fn serve(lmtp: bool, pieces: &[&[u8]]) -> Run {
    drive(&mut ServerSession::new(Arc::new(config(lmtp))), pieces)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_server_does_not_depend_on_the_pieces(
        lmtp: bool, words in words(&[WHOLE, OTHERS], 30), size in 1_usize..40,
    ) {
        let input = [b"EHLO a.example\r\n".as_slice(), &words.concat()].concat();
        let whole = serve(lmtp, &[&input]);
        for size in [1, size] {
            prop_assert_eq!(&whole, &serve(lmtp, &input.chunks(size).collect::<Vec<_>>()));
        }
    }

    #[test]
    fn each_transaction_ends_once_and_no_text_is_bad(lmtp: bool, words in words(&[WHOLE, OTHERS], 40)) {
        let (mut recipients, mut body) = (None, Vec::new());
        let hello = if lmtp { &b"LHLO a.example\r\n"[..] } else { b"EHLO a.example\r\n" };
        for step in serve(lmtp, &[hello, &words.concat()]).steps {
            match step {
                ServerStep::Mail { reverse_path, .. } => {
                    prop_assert_eq!(recipients, None);
                    recipients = (!reverse_path.to_string().starts_with("refused")).then_some(0);
                    body.clear();
                }
                ServerStep::Recipient { .. } => recipients = recipients.map(|count: usize| count + 1),
                ServerStep::BeginData => prop_assert!(recipients.is_some_and(|count| count > 0)),
                ServerStep::Body(bytes) => {
                    prop_assert!(recipients.is_some());
                    body.extend(bytes);
                }
                ServerStep::EndOfData => {
                    prop_assert!(recipients.take().is_some_and(|count| count > 0));
                    prop_assert!(body.is_empty() || body.ends_with(b"\r\n"));
                    let mut check = linkmail_smtp::data::TextCheck::new();
                    prop_assert!(check.feed(&body).is_ok() && check.finish().is_ok());
                }
                ServerStep::Abort(reason) => {
                    prop_assert!(recipients.take().is_some());
                    prop_assert!(reason != AbortReason::MalformedEnd);
                }
                _ => {}
            }
        }
        prop_assert_eq!(recipients, None);
    }

    /// Whatever comes, the session ends, and the pieces do not matter.
    #[test]
    fn damaged_input_is_read_the_same_way(
        lmtp: bool, words in words(&[WHOLE, OTHERS], 20), damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        size in 1_usize..40,
    ) {
        let mut input = [b"EHLO a.example\r\n".as_slice(), &words.concat()].concat();
        for (place, byte) in damage {
            let place = place % input.len();
            input[place] = byte;
        }
        let whole = serve(lmtp, &[&input]);
        for size in [1, size] {
            prop_assert_eq!(&whole, &serve(lmtp, &input.chunks(size).collect::<Vec<_>>()));
        }
    }

    /// No chunk is taken for a command, and none goes without an answer. So few commands turn nobody away.
    #[test]
    fn each_command_has_one_reply(words in words(&[WHOLE], 11)) {
        let run = serve(false, &[b"EHLO a.example\r\n", &words.concat()]);
        let of = |word: &&[u8]| if *word == ENVELOPE { 3 } else { 1 };
        prop_assert_eq!(run.replies(), 2 + words.iter().map(of).sum::<usize>());
    }

    /// RFC 3207 4.2: a session after STARTTLS is like one that spoke TLS from the start. Mistakes go on being counted, so
    /// there are too few of them here to end a session.
    #[test]
    fn nothing_said_before_tls_counts_behind_it(before in words(&[WHOLE], 5), behind in words(&[WHOLE], 6)) {
        let mut session = ServerSession::new(Arc::new(config(false)));
        let said = [before.concat().as_slice(), b"RSET\r\nEHLO a.example\r\nSTARTTLS\r\n"].concat();
        let run = drive(&mut session, &[&said]);
        prop_assert_eq!(run.steps.last(), Some(&ServerStep::StartTls));
        session.receive(b"MAIL FROM:<injected@a.example>\r\n");
        prop_assert_eq!(session.step(), ServerStep::StartTls);
        session.tls_started();
        let behind = behind.concat();
        let mut fresh = ServerSession::within_tls(Arc::new(config(false)));
        prop_assert!(matches!(fresh.step(), ServerStep::Write(_)));
        prop_assert_eq!(drive(&mut session, &[&behind]), drive(&mut fresh, &[&behind]));
    }
}

/// What was said, and what was asked in between, of a read with all of this.
fn told(octets: &[u8]) -> Vec<String> {
    let mut session = ServerSession::new(Arc::new(config(false)));
    let mut told = Vec::new();
    session.step();
    session.receive(octets);
    loop {
        let (name, answer) = match session.step() {
            ServerStep::Read => return told,
            ServerStep::Write(bytes) => {
                let text = String::from_utf8(bytes).unwrap();
                let codes: Vec<_> = text.lines().map(|line| &line[..3]).collect();
                told.push(codes.join(" "));
                continue;
            }
            ServerStep::Mail { .. } => ("MAIL", replies::sender_ok()),
            ServerStep::Recipient { .. } => ("RCPT", replies::recipient_ok()),
            ServerStep::BeginData => ("begin", replies::start_data()),
            ServerStep::EndOfData => ("end", replies::spool_unavailable()),
            _ => continue,
        };
        told.push(name.to_owned());
        session.answer(answer);
    }
}

#[test]
fn what_became_of_a_message_does_not_wait_for_the_next() {
    let message = [ENVELOPE, b"BDAT 3 LAST\r\nend"].concat();
    let hello = b"HELO a.example\r\n".as_slice();
    let too_large = [ENVELOPE, b"BDAT 70 LAST\r\n", &[b'x'; 70]].concat();
    let taken = ["MAIL", "RCPT", "begin", "end"];
    let first = [taken.as_slice(), &["250 250 250 250 451"]].concat();
    let next = [taken.as_slice(), &["250 250 250 451"]].concat();
    assert_eq!(
        told(&[hello, &message, &message].concat()),
        [first, next.clone()].concat()
    );
    let refused = ["MAIL", "RCPT", "250 250 250 250 552"].as_slice();
    assert_eq!(
        told(&[hello, &too_large, &message].concat()),
        [refused, &next].concat()
    );
}
