//! Laws of the server session.
//!
//! - The pieces in which the input comes do not matter, but for the two rules that the crate names.
//! - Each transaction ends once; data begins only where a recipient was accepted in it.
//! - Each command has its replies, and what stands in a message or a chunk is never taken for a command (`follow`).
//! - A message that is taken is the one that was sent.
//! - The id of a message is told to the shell only of a client that is a peer.
//! - No line that is written has more than 512 octets. Nothing comes behind Close. Memory does not grow with the input.
//!
//! An input: two octets of switches, one for the limits, three for the sizes of pieces, six for the shell's answers, then
//! what the client sends.

mod follow;

use std::sync::Arc;

use linkmail_smtp::{
    AuthAnswer, Enhanced, Reply, ServerConfig, ServerSession, ServerStep, replies,
};

use crate::input::{Input, cut, find};

/// The longest input that a session is given many times over.
const REPEATED: usize = 600;
/// No session may have more recipients in one message.
const MAX_RECIPIENTS: usize = 1000;

/// What an input chooses.
#[derive(Clone, Debug)]
struct Setup {
    config: ServerConfig,
    sizes: [u8; 3],
    answers: [u8; 6],
    ending: Ending,
    is_trusted: bool,
    repeats: bool,
}

/// How the session ends if the client does not end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    ClientLeaves,
    TimeOut,
    ShutDown,
}

impl Setup {
    fn read(input: &mut Input<'_>) -> Setup {
        let (first, second, limits) = (input.byte(), input.byte(), input.byte());
        let flag = |byte: u8, bit: u8| byte >> bit & 1 == 1;
        let mechanisms = |on: bool| {
            if on {
                vec!["PLAIN".to_owned()]
            } else {
                Vec::new()
            }
        };
        // One of four is strict, two know priorities, one of these a time of delivery.
        let extra = second >> 4 & 3;
        let config = ServerConfig {
            hostname: "relay.test".into(),
            size_limit: [60, 1000, 0, 25_000_000][usize::from(limits & 3)],
            max_recipients: [3, 1, 100, MAX_RECIPIENTS][usize::from(limits >> 2 & 3)],
            max_messages: (limits >> 4 & 3 == 1).then_some(2),
            max_idle_commands: if limits >> 6 == 1 { 8 } else { 1000 },
            max_auth_failures: 2,
            // Off in the seeds' first octet means the common thing: what is common is negated.
            lmtp: flag(first, 0),
            chunking: !flag(first, 1),
            etrn: !flag(first, 2),
            starttls: flag(first, 3),
            require_tls: flag(first, 4) && flag(first, 3),
            auth_in_clear: mechanisms(flag(first, 5)),
            auth_in_tls: mechanisms(flag(first, 5) || flag(first, 6)),
            require_auth: flag(first, 6) && flag(first, 7),
            dsn: flag(second, 0),
            smtputf8: flag(second, 1),
            xlinkmail: flag(second, 2),
            xlinkmail_by_login: limits >> 4 & 3 == 2,
            limits: flag(second, 3),
            mt_priority: matches!(extra, 1 | 2),
            deliver_by: (extra == 2).then_some(60),
            strict_pipelining: extra == 3,
        };
        let ending = match second >> 6 & 3 {
            2 => Ending::TimeOut,
            3 => Ending::ShutDown,
            _ => Ending::ClientLeaves,
        };
        Setup {
            config,
            ending,
            is_trusted: flag(second, 2) && flag(first, 7),
            repeats: limits >> 6 == 3,
            sizes: std::array::from_fn(|_| input.byte()),
            answers: std::array::from_fn(|_| input.byte()),
        }
    }

    /// Whether nothing is in the input that the two rules about pieces are for.
    fn is_blind_to_pieces(&self, stream: &[u8]) -> bool {
        let has_tls = find(&stream.to_ascii_uppercase(), b"STARTTLS").is_some();
        !(self.config.strict_pipelining || self.config.starttls && has_tls)
    }
}

/// A step that is no Write or Read, and what it was answered.
#[derive(Clone, Debug, PartialEq)]
struct Done {
    step: ServerStep,
    answers: Vec<u16>,
}

/// What a session did.
#[derive(Clone, Debug, Default, PartialEq)]
struct Run {
    written: Vec<u8>,
    /// Bodies in one piece, and without those of transactions that were aborted: how much of such a body was given out
    /// before is a matter of the pieces.
    steps: Vec<Done>,
}

impl Run {
    fn push(&mut self, step: ServerStep, answers: Vec<u16>) {
        match (step, self.steps.last_mut().map(|done| &mut done.step)) {
            (ServerStep::Body(more), Some(ServerStep::Body(body))) => body.extend(more),
            (step, last) => {
                if matches!(step, ServerStep::Abort(_)) && matches!(last, Some(ServerStep::Body(_)))
                {
                    self.steps.pop();
                }
                self.steps.push(Done { step, answers });
            }
        }
    }
}

/// The laws, over one input.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let setup = Setup::read(&mut input);
    let stream = input.rest();
    let whole = run(&setup, &[stream]);
    let pieces = cut(stream, &setup.sizes);
    let in_pieces = run(&setup, &pieces);
    if setup.is_blind_to_pieces(stream) {
        assert_eq!(whole, in_pieces, "the pieces matter");
    }
    if setup.repeats && !stream.is_empty() && stream.len() <= REPEATED {
        stays_small(&setup, stream);
    }
}

fn run(setup: &Setup, pieces: &[&[u8]]) -> Run {
    let run = drive(setup, pieces);
    each_transaction_ends_once(&run);
    follow::follow(setup, pieces, &run);
    run
}

/// The shell: its answers are those of the input in turn, and from then on positive.
struct Shell<'a> {
    answers: &'a [u8],
}

impl Shell<'_> {
    fn next(&mut self) -> u8 {
        match self.answers.split_first() {
            None => 0,
            Some((first, rest)) => {
                self.answers = rest;
                *first
            }
        }
    }

    /// Answers a step; gives the codes of what it said.
    fn answer(&mut self, session: &mut ServerSession, step: &ServerStep) -> Vec<u16> {
        let choice = self.next();
        if matches!(step, ServerStep::Auth { .. } | ServerStep::AuthResponse(_)) {
            let answer = match choice % 8 {
                0 | 1 => AuthAnswer::Challenge(vec![choice; usize::from(choice / 8)]),
                2 => AuthAnswer::Refused(replies::bad_credentials()),
                3 => AuthAnswer::Refused(replies::authentication_unavailable()),
                4 => AuthAnswer::Refused(Reply::new(421, None, "down")),
                _ => AuthAnswer::Accepted {
                    identity: "a".into(),
                },
            };
            session.answer_auth(answer);
            return Vec::new();
        }
        let good = match step {
            ServerStep::Mail { .. } => replies::sender_ok(),
            ServerStep::Recipient { .. } => replies::recipient_ok(),
            ServerStep::BeginData => replies::start_data(),
            ServerStep::EndOfData => replies::message_accepted("1"),
            _ => Reply::new(250, Enhanced(2, 0, 0), "started\nand more"),
        };
        let begins = matches!(step, ServerStep::BeginData);
        let reply = match choice % 16 {
            9 => Reply::new(450, Enhanced(4, 2, 0), "later"),
            10 => replies::no_such_user(),
            11 => Reply::new(421, Enhanced(4, 3, 2), "down"),
            12 => Reply::new(521, None, "no more"),
            13 => replies::spool_unavailable(),
            14 => Reply::new(459, Enhanced(4, 7, 1), "not for you"),
            15 if !begins => Reply::new(250, Enhanced(2, 0, 0), "\r\x00 long ".repeat(100)),
            _ => good,
        };
        let code = reply.code;
        session.answer(reply);
        vec![code]
    }
}

/// Gives the session its pieces, and does what it says.
fn drive(setup: &Setup, pieces: &[&[u8]]) -> Run {
    let mut session = ServerSession::new(Arc::new(setup.config.clone()));
    if setup.is_trusted {
        session.trust_peer();
    }
    let mut shell = Shell {
        answers: &setup.answers,
    };
    let mut run = Run::default();
    let mut pieces = pieces.iter();
    let mut has_ended = false;
    let most = 1000
        + 20 * pieces
            .as_slice()
            .iter()
            .map(|piece| piece.len())
            .sum::<usize>();
    for _ in 0..most {
        let step = session.step();
        match step {
            ServerStep::Write(bytes) => {
                assert!(!bytes.is_empty());
                run.written.extend(bytes);
            }
            ServerStep::Read => match pieces.next() {
                Some(piece) => session.receive(piece),
                None => {
                    assert!(!has_ended, "Read behind the end");
                    has_ended = true;
                    match setup.ending {
                        Ending::ClientLeaves => session.end_of_input(),
                        Ending::TimeOut => session.time_out(),
                        Ending::ShutDown => session.shut_down(),
                    }
                }
            },
            ServerStep::StartTls => {
                session.receive(b"MAIL FROM:<injected@a.example>\r\n");
                assert_eq!(session.step(), ServerStep::StartTls);
                session.tls_started();
                assert!(session.client_name().is_none() && session.identity().is_none());
                run.push(step, Vec::new());
            }
            ServerStep::Close => {
                session.receive(b"NOOP\r\n");
                session.time_out();
                assert_eq!(session.step(), ServerStep::Close);
                session.end_of_input();
                assert_eq!(session.step(), ServerStep::Close);
                return run;
            }
            step if step.asks() => {
                if let ServerStep::Mail { parameters, .. } = &step {
                    let config = &setup.config;
                    let by_login = config.xlinkmail_by_login && session.identity().is_some();
                    let is_peer = config.xlinkmail || setup.is_trusted || by_login;
                    assert!(is_peer || parameters.peer_id.is_none(), "{step:?}");
                }
                assert_eq!(session.step(), step, "an open question is asked again");
                let answers = shell.answer(&mut session, &step);
                run.push(step, answers);
            }
            step => run.push(step, Vec::new()),
        }
    }
    panic!("the session does not end");
}

fn is_positive(done: &Done) -> bool {
    done.answers.first().is_some_and(|code| code / 100 == 2)
}

fn each_transaction_ends_once(run: &Run) {
    let mut recipients = None;
    for done in &run.steps {
        match &done.step {
            ServerStep::Mail { .. } => {
                assert_eq!(recipients, None, "a transaction within another");
                recipients = is_positive(done).then_some(0);
            }
            ServerStep::Recipient { .. } => {
                let count = recipients.expect("a recipient outside of a transaction");
                recipients = Some(count + usize::from(is_positive(done)));
            }
            ServerStep::BeginData | ServerStep::Body(_) => {
                assert!(recipients.is_some_and(|count| count > 0), "{done:?}");
            }
            ServerStep::EndOfData => {
                assert!(recipients.take().is_some_and(|count| count > 0));
            }
            ServerStep::Abort(_) => {
                assert!(recipients.take().is_some(), "no transaction to abort");
            }
            ServerStep::Auth { .. } | ServerStep::Etrn(_) | ServerStep::StartTls => {
                assert_eq!(recipients, None, "{done:?} within a transaction");
            }
            _ => {}
        }
    }
    assert_eq!(recipients, None, "a transaction without an end");
}

/// The same input again and again: what the session holds does not grow. Its size is that of its description, in which an
/// octet takes up to five.
fn stays_small(setup: &Setup, stream: &[u8]) {
    const MOST: usize = 5 * (12 * 1024 + 16 * 1024 + 4 * 1024) + 8 * 1024;
    let mut session = ServerSession::new(Arc::new(setup.config.clone()));
    let mut shell = Shell {
        answers: &setup.answers,
    };
    let mut fed = 0;
    while fed < 80 * 1024 {
        match session.step() {
            ServerStep::Read => {
                if fed / 16384 != (fed + stream.len()) / 16384 {
                    let size = format!("{session:?}").len();
                    assert!(size <= MOST + 10 * stream.len(), "{size} behind {fed}");
                }
                session.receive(stream);
                fed += stream.len();
            }
            ServerStep::StartTls => session.tls_started(),
            ServerStep::Close => return,
            step if step.asks() => {
                shell.answer(&mut session, &step);
            }
            _ => {}
        }
    }
}
