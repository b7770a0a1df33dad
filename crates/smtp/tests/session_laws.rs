//! Laws of both sessions: how the input is cut into pieces changes nothing, and no input whatever makes them panic,
//! loop, or leave a transaction without an end.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use linkmail_smtp::{
    Asked, ClientConfig, ClientSession, ClientStep, Content, Enhanced, ForwardPath, Reply,
    ReversePath, ServerConfig, ServerSession, ServerStep, Transaction, replies,
};
use proptest::prelude::*;

const COMMANDS: &[&[u8]] = &[
    b"EHLO a.example\r\n",
    b"HELO a.example\r\n",
    b"MAIL FROM:<a@a.example> SIZE=10\r\n",
    b"MAIL FROM:<> SIZE=100000\r\n",
    b"RCPT TO:<b@b.example>\r\n",
    b"RCPT TO:<refused@b.example>\r\n",
    b"DATA\r\n",
    b"Subject: x\r\n\r\nbody\r\n.\r\n",
    b"a line that is rather longer than the limit of this test allows\r\n",
    b"..\r\n",
    b".\r\n",
    b".\n",
    b"bad\nline\r\n",
    b"nul\0\r\n",
    b"RSET\r\n",
    b"ETRN b.example\r\n",
    b"BDAT 11\r\nfirst chunk",
    b"BDAT 8\r\nRSET\r\n\r\n",
    b"BDAT 9 LAST\r\n.\r\nlast\r\n",
    b"BDAT 4 LAST\r\nnone",
    b"BDAT 0 LAST\r\n",
    b"BDAT 5\r\na\nb\0\r",
    b"BDAT 2 LAST\r\nc\r",
    b"BDAT 50\r\n0123456789012345678901234567890123456789012345678\r",
    b"BDAT 18446744073709551615 LAST\r\n",
    b"BDAT some\r\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
    b"GET / HTTP/1.1\r\n",
    b"\r",
    b"\xff",
];

const REPLIES: &[&[u8]] = &[
    b"220 s.example\r\n",
    b"250-s.example\r\n250-SIZE 1000\r\n250 PIPELINING\r\n",
    b"250-s.example\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
    b"250-s.example\r\n250 CHUNKING\r\n",
    b"250 2.1.0 OK\r\n",
    b"250-2.0.0 first\r\n250 2.0.0 last\r\n",
    b"354 go\r\n",
    b"450 4.2.0 later\r\n",
    b"550 5.1.1 no\r\n",
    b"421 4.3.2 down\r\n",
    b"221 bye\r\n",
    b"250-",
    b"nonsense\r\n",
    b"250 x\n",
];

fn input(words: &'static [&'static [u8]], max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(words), 0..max).prop_map(|words| words.concat())
}

fn pieces(bytes: &[u8], size: usize) -> Vec<&[u8]> {
    bytes.chunks(size.max(1)).collect()
}

/// Everything a server session did: what it wrote, and its other steps. The data of a transaction that is aborted
/// is left out: how much of it was given out before is a matter of the pieces.
#[derive(Debug, Default, PartialEq)]
struct ServerRun {
    written: Vec<u8>,
    steps: Vec<ServerStep>,
}

impl ServerRun {
    fn push(&mut self, step: ServerStep) {
        match (step, self.steps.last_mut()) {
            (ServerStep::Body(more), Some(ServerStep::Body(body))) => body.extend(more),
            (ServerStep::Abort(reason), Some(ServerStep::Body(_))) => {
                self.steps.pop();
                self.steps.push(ServerStep::Abort(reason));
            }
            (step, _) => self.steps.push(step),
        }
    }
}

fn serve(pieces: &[&[u8]]) -> ServerRun {
    let mut session = ServerSession::new(Arc::new(ServerConfig {
        hostname: "relay.test".into(),
        size_limit: 60,
        max_recipients: 3,
        etrn: true,
        chunking: true,
        ..ServerConfig::default()
    }));
    let mut run = ServerRun::default();
    let mut pieces = pieces.iter();
    for _ in 0..100_000 {
        match session.step() {
            ServerStep::Write(bytes) => run.written.extend(bytes),
            ServerStep::Read => match pieces.next() {
                Some(piece) => session.receive(piece),
                None => session.end_of_input(),
            },
            ServerStep::Close => return run,
            step => {
                let reply = match &step {
                    ServerStep::Mail { .. } => replies::sender_ok(),
                    ServerStep::Recipient { forward_path, .. }
                        if forward_path.to_string().starts_with("refused") =>
                    {
                        replies::no_such_user()
                    }
                    ServerStep::Recipient { .. } => replies::recipient_ok(),
                    ServerStep::BeginData => replies::start_data(),
                    ServerStep::EndOfData => replies::message_accepted("1"),
                    ServerStep::Etrn(node) => replies::nothing_held(node),
                    _ => Reply::new(250, Enhanced(2, 0, 0), "unused"),
                };
                if step.asks() {
                    session.answer(reply);
                }
                run.push(step);
            }
        }
    }
    panic!("the session does not end");
}

fn transaction() -> Transaction {
    let path = |text: &str| ForwardPath::parse(text.as_bytes()).expect("a path");
    Transaction {
        reverse_path: ReversePath::parse(b"a@a.example").expect("a path"),
        recipients: vec![path("b@b.example").into(), path("c@c.example").into()],
        size: 11,
        ..Transaction::default()
    }
}

fn send(pieces: &[&[u8]]) -> (Vec<u8>, Vec<ClientStep>) {
    let mut session = ClientSession::new(ClientConfig {
        hostname: "client.test".into(),
        ..ClientConfig::default()
    });
    let asked = || ForwardPath::parse(b"d@d.example").expect("a path");
    session.ask(asked());
    session.transmit(
        transaction(),
        Content::Whole(b"Subject: whole\r\n".to_vec()),
    );
    session.transmit(transaction(), Content::Streamed);
    session.ask(asked());
    session.transmit(transaction(), Content::Whole(b"no end".to_vec()));
    session.etrn("b.example".parse().expect("a node"));
    session.quit();
    let mut written = Vec::new();
    let mut steps = Vec::new();
    let mut pieces = pieces.iter();
    for _ in 0..100_000 {
        match session.step() {
            ClientStep::Write(bytes) => written.extend(bytes),
            ClientStep::Read(_) | ClientStep::Ready => match pieces.next() {
                Some(piece) => session.receive(piece),
                None => session.end_of_input(),
            },
            ClientStep::SendBody(_) => {
                session.body(b".dot\r\nline\r\n").expect("a good body");
                session.end_body().expect("a good body");
            }
            step @ ClientStep::Closed(_) => {
                steps.push(step);
                return (written, steps);
            }
            step => steps.push(step),
        }
    }
    panic!("the session does not end");
}

/// The client at our own server: what that replied, the codes that questions were answered with, and how many messages were
/// taken.
fn converse(client: &mut ClientSession, chunking: bool) -> (String, Vec<u16>, usize) {
    let mut server = ServerSession::new(Arc::new(ServerConfig {
        chunking,
        max_recipients: 3,
        ..ServerConfig::default()
    }));
    let (mut replies, mut answers, mut taken) = (Vec::new(), Vec::new(), 0);
    for _ in 0..100_000 {
        match client.step() {
            ClientStep::Write(bytes) => server.receive(&bytes),
            ClientStep::SendBody(_) => {
                client.body(b"streamed\r\n").expect("a good body");
                client.end_body().expect("a good body");
            }
            ClientStep::Asked(Asked::Answer(reply) | Asked::NotAsked(reply)) => {
                answers.push(reply.code)
            }
            ClientStep::Closed(_) => {
                let replies = String::from_utf8(replies).expect("text");
                return (replies, answers, taken);
            }
            ClientStep::Read(_) => loop {
                match server.step() {
                    ServerStep::Write(bytes) => {
                        client.receive(&bytes);
                        replies.extend(bytes);
                    }
                    ServerStep::Mail { .. } => server.answer(replies::sender_ok()),
                    ServerStep::Recipient { forward_path, .. } => {
                        let is_known = !forward_path.to_string().starts_with("refused");
                        let refusal = replies::no_such_user;
                        server.answer(if is_known {
                            replies::recipient_ok()
                        } else {
                            refusal()
                        });
                    }
                    ServerStep::BeginData => server.answer(replies::start_data()),
                    ServerStep::EndOfData => {
                        taken += 1;
                        server.answer(replies::message_accepted("1"));
                    }
                    ServerStep::Read => break,
                    ServerStep::Close => {
                        client.end_of_input();
                        break;
                    }
                    _ => {}
                }
            },
            _ => {}
        }
    }
    panic!("the session does not end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_server_does_not_depend_on_the_pieces(input in input(COMMANDS, 30), size in 1_usize..40) {
        let whole = serve(&[&input]);
        prop_assert_eq!(&whole, &serve(&pieces(&input, 1)));
        prop_assert_eq!(&whole, &serve(&pieces(&input, size)));
    }

    #[test]
    fn each_transaction_at_the_server_ends_once(input in input(COMMANDS, 40)) {
        let mut open = false;
        for step in serve(&[&input]).steps {
            match step {
                ServerStep::Mail { .. } => { prop_assert!(!open); open = true; }
                ServerStep::EndOfData | ServerStep::Abort(_) => { prop_assert!(open); open = false; }
                ServerStep::Recipient { .. } | ServerStep::BeginData | ServerStep::Body(_) => prop_assert!(open),
                _ => prop_assert!(!open),
            }
        }
        prop_assert!(!open);
    }

    /// A reply that comes before its command is written belongs to no command, so whole replies are the coarsest pieces.
    #[test]
    fn the_client_does_not_depend_on_the_pieces(replies in prop::collection::vec(prop::sample::select(REPLIES), 0..24), size in 1_usize..9) {
        let whole = send(&replies);
        let cut = |size: usize| replies.iter().flat_map(|reply| pieces(reply, size)).collect::<Vec<_>>();
        prop_assert_eq!(&whole, &send(&cut(1)));
        prop_assert_eq!(&whole, &send(&cut(size)));
    }

    #[test]
    fn each_transaction_of_the_client_has_one_outcome(input in input(REPLIES, 24)) {
        let (_, steps) = send(&[&input]);
        let outcomes: Vec<_> = steps.iter().filter_map(|step| match step {
            ClientStep::Transaction(_, outcome) => Some(outcome.recipients.len()),
            _ => None,
        }).collect();
        prop_assert_eq!(outcomes, vec![2, 2, 2]);
        let asked = |step: &&ClientStep| matches!(step, ClientStep::Asked(_));
        prop_assert!(steps.iter().filter(asked).count() <= 2);
    }

    /// Questions and messages in any order, at our own server: no command is out of order, each message is taken from its
    /// own sender by its own recipients, and each question has the answer for its recipient.
    #[test]
    fn questions_and_messages_do_not_mix(chunking: bool, orders in prop::collection::vec((0_u8..3, any::<bool>()), 0..12)) {
        let mut client = ClientSession::new(ClientConfig { hostname: "client.test".into(), ..ClientConfig::default() });
        let (mut sent, mut expected) = (0, Vec::new());
        for (kind, is_known) in &orders {
            let path = if *is_known { &b"b@b.example"[..] } else { b"refused@b.example" };
            let path = ForwardPath::parse(path).expect("a path");
            if *kind == 0 {
                client.ask(path);
                expected.push(if *is_known { 250 } else { 550 });
            } else {
                let content = if *kind == 1 { Content::Whole(b"whole\r\n".to_vec()) } else { Content::Streamed };
                client.transmit(Transaction { recipients: vec![path.into()], ..transaction() }, content);
                sent += usize::from(*is_known);
            }
        }
        client.quit();
        let (replies, answers, taken) = converse(&mut client, chunking);
        prop_assert_eq!(answers, expected);
        prop_assert_eq!(taken, sent);
        prop_assert!(!replies.contains("\r\n503 5.5.1 sender already given"), "{}", replies);
    }
}
