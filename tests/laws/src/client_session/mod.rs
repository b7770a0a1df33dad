//! Laws of the client session.
//!
//! - Each transaction that was ordered has one outcome, with a fate for each recipient.
//! - A recipient is accepted only if the peer took the sender, the recipient and the whole message in its place, and said
//!   so; with a peer that keeps to the protocol, also if. A refusal is that of a command of the same transaction.
//! - A message that the peer heard to its end is not tried only if the peer said 421, or closed right behind an error.
//! - What is written is as `peer` demands it: nothing but a greeting in clear where TLS is required, a message only as
//!   it is, no command before its turn. By LMTP nothing rides behind a message of several recipients or chunks, and
//!   nothing comes behind a refused chunk.
//! - No secret is in a Write. Nothing comes behind Closed. The pieces in which replies come do not matter.
//!
//! An input: five octets that choose, for each message two and its content, then one octet for each reply of the peer.

mod outcomes;
mod peer;

use std::collections::BTreeMap;

use linkmail_smtp::{
    ClientConfig, ClientSession, ClientStep, Content, FlightLimits, ForwardPath, Protocol,
    Recipient, ReversePath, TlsUse, Transaction, TransactionOutcome,
};

use crate::input::{Input, find};
use peer::{Given, Peer};

/// What nobody may see; its base64 stands behind it.
const SECRET: &[u8] = b"\0user\0secret";
const SECRET_ENCODED: &[u8] = b"AHVzZXIAc2VjcmV0";

/// A message that is ordered.
#[derive(Clone, Debug)]
struct Message {
    recipients: usize,
    octets: Vec<u8>,
    /// The size of its pieces, if it is streamed.
    piece: Option<usize>,
    eight_bit: bool,
    /// Its source fails behind so many pieces.
    fails: Option<usize>,
}

/// What an input chooses.
#[derive(Clone, Debug)]
struct Setup<'a> {
    config: ClientConfig,
    offers: u8,
    /// So many replies come in one piece.
    batch: usize,
    messages: Vec<Message>,
    /// ETRN is ordered behind so many messages.
    etrn: Option<usize>,
    /// A refusal comes while the body is sent, at this piece.
    interrupted: Option<usize>,
    script: Input<'a>,
}

impl<'a> Setup<'a> {
    fn read(mut input: Input<'a>) -> Setup<'a> {
        let (first, flight, offers) = (input.byte(), input.byte(), input.byte());
        let (count, order) = (input.byte(), input.byte());
        let bit = |bit: u8| first >> bit & 1 == 1;
        let config = ClientConfig {
            hostname: "client.test".into(),
            protocol: if bit(0) {
                Protocol::Lmtp
            } else {
                Protocol::Smtp
            },
            tls: match first >> 1 & 3 {
                0 => TlsUse::Never,
                1 => TlsUse::IfOffered,
                2 => TlsUse::Required,
                _ => TlsUse::Active,
            },
            authenticate: bit(3),
            flight: FlightLimits {
                messages: 1 + usize::from(flight & 7),
                bytes: [1 << 20, 1, 40, 100][usize::from(flight >> 3 & 3)],
            },
        };
        let messages = (0..1 + count % 4).map(|_| message(&mut input)).collect();
        Setup {
            config,
            offers,
            batch: 1 + usize::from(first >> 4 & 3),
            messages,
            etrn: (order & 7 < 5)
                .then_some(usize::from(order & 7))
                .filter(|_| bit(7)),
            interrupted: (order >> 3 & 3 == 3).then_some(usize::from(order >> 5)),
            script: input,
        }
    }
}

fn message(input: &mut Input<'_>) -> Message {
    let (shape, length) = (input.byte(), input.byte());
    let octets = input.octets(usize::from(length & 63)).to_vec();
    Message {
        recipients: 1 + usize::from(shape & 3),
        piece: (shape >> 2 & 1 == 1).then_some(1 + usize::from(length >> 6)),
        eight_bit: !octets.is_ascii(),
        octets,
        fails: (shape >> 3 & 3 == 3).then_some(usize::from(shape >> 5)),
    }
}

impl Message {
    fn transaction(&self, number: usize) -> Transaction {
        let sender = format!("m{number}@a.example");
        let path = |at| format!("r{number}.{at}@b.example");
        Transaction {
            reverse_path: ReversePath::parse(sender.as_bytes()).expect("a path"),
            recipients: (0..self.recipients)
                .map(|at| ForwardPath::parse(path(at).as_bytes()).expect("a path"))
                .map(Recipient::from)
                .collect(),
            size: self.octets.len() as u64,
            eight_bit: self.eight_bit,
            ..Transaction::default()
        }
    }
}

/// What a session did.
#[derive(Debug, PartialEq)]
struct Run {
    heard: Vec<u8>,
    outcomes: BTreeMap<u64, TransactionOutcome>,
    has_babbled: bool,
}

/// The laws, over one input.
pub fn check(input: &[u8]) {
    let setup = Setup::read(Input::new(input));
    let whole = drive(&setup, usize::MAX);
    // What comes unasked, in one piece with an answer or behind it, is not the same to anyone.
    if setup.batch == 1 && !whole.has_babbled {
        assert_eq!(whole, drive(&setup, 1), "the pieces matter");
        assert_eq!(whole, drive(&setup, 7), "the pieces matter");
    }
}

/// Orders everything, and plays the shell and the peer; replies come in pieces of `size`.
fn drive(setup: &Setup<'_>, size: usize) -> Run {
    let mut session = ClientSession::new(setup.config.clone());
    let mut peer = Peer::new(setup);
    let mut run = Run {
        heard: Vec::new(),
        outcomes: BTreeMap::new(),
        has_babbled: false,
    };
    for number in 0..=setup.messages.len() {
        if setup.etrn == Some(number) {
            session.etrn("b.example".parse().expect("a node"));
        }
        if let Some(message) = setup.messages.get(number) {
            let content = match message.piece {
                None => Content::Whole(message.octets.clone()),
                Some(_) => Content::Streamed,
            };
            session.transmit(message.transaction(number), content);
        }
    }
    session.quit();
    let mut unread: Vec<u8> = Vec::new();
    let mut bodies = Bodies::default();
    for _ in 0..20_000 {
        match session.step() {
            ClientStep::Write(bytes) => {
                assert!(!bytes.is_empty());
                let is_secret = |octets: &[u8]| find(octets, SECRET_ENCODED).is_some();
                // A message may say it by chance.
                let says_it = setup
                    .messages
                    .iter()
                    .any(|message| is_secret(&message.octets));
                assert!(says_it || !is_secret(&bytes), "a secret for all to see");
                peer.hear(&bytes, false);
                run.heard.extend(bytes);
            }
            ClientStep::WriteSecret(bytes) => {
                peer.hear(&bytes, true);
                run.heard.extend(bytes);
            }
            ClientStep::Read(_) => read(&mut session, &mut peer, &mut unread, size),
            ClientStep::StartTls => {
                assert!(unread.is_empty() && peer.tls_may_start(), "octets in clear");
                session.tls_started();
            }
            ClientStep::Authenticate => session.auth("PLAIN", Some(SECRET)),
            ClientStep::AuthChallenge(_) => session.auth_response(SECRET),
            ClientStep::Authenticated => {}
            ClientStep::SendBody(number) => {
                let interrupts =
                    unread.is_empty() && bodies.is_at(setup, number) && peer.interrupts();
                bodies.send(setup, &mut session, interrupts, number);
            }
            ClientStep::Transaction(number, outcome) => {
                let other = run.outcomes.insert(number, outcome);
                assert_eq!(other, None, "two outcomes of {number}");
            }
            ClientStep::Asked(_) => panic!("nothing is asked"),
            ClientStep::Etrn(_) => assert!(setup.etrn.is_some()),
            ClientStep::Ready => panic!("orders are left"),
            ClientStep::Closed(reason) => {
                session.receive(b"250 more\r\n");
                session.end_of_input();
                session.time_out();
                assert_eq!(session.step(), ClientStep::Closed(reason));
                outcomes::check(setup, &peer, &run.outcomes);
                run.has_babbled = peer.said_more;
                return run;
            }
        }
    }
    panic!("the session does not end");
}

/// The peer's next words, or what else it does.
fn read(session: &mut ClientSession, peer: &mut Peer<'_>, unread: &mut Vec<u8>, size: usize) {
    if unread.is_empty() {
        match peer.give() {
            Given::Bytes(bytes) => *unread = bytes,
            Given::Close => return session.end_of_input(),
            Given::Silence => return session.time_out(),
            Given::Lost => return session.line_lost(),
        }
    }
    let rest = unread.split_off(size.min(unread.len()));
    session.receive(&std::mem::replace(unread, rest));
}

/// How far the bodies that are streamed are sent.
#[derive(Default)]
struct Bodies {
    sent: BTreeMap<u64, usize>,
}

impl Bodies {
    /// Whether the next piece is the one that is interrupted.
    fn is_at(&self, setup: &Setup<'_>, number: u64) -> bool {
        setup.interrupted == Some(self.sent.get(&number).copied().unwrap_or(0))
    }

    fn send(
        &mut self,
        setup: &Setup<'_>,
        session: &mut ClientSession,
        interrupts: bool,
        number: u64,
    ) {
        let message = &setup.messages[number as usize];
        let size = message.piece.unwrap_or(usize::MAX);
        let count = self.sent.entry(number).or_default();
        if interrupts {
            session.receive(b"552 5.3.4 unasked\r\n");
            *count += 1;
            return;
        }
        let piece = message.octets.chunks(size).nth(*count);
        *count += 1;
        match piece {
            _ if message.fails.is_some_and(|at| at < *count) => session.abandon_body("gone"),
            Some(piece) => {
                let _ = session.body(piece);
            }
            None => {
                let _ = session.end_body();
            }
        }
    }
}
