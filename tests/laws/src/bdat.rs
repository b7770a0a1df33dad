//! Laws of BDAT at the server, against a model that knows every answer: how many octets are consumed, which replies come,
//! and what is stored.
//!
//! An input: an octet of switches, three for the sizes of pieces, then operations. The first octet of each says which, and
//! the model is told what it means; the session sees commands. So the laws are exact where those of `server_session` take
//! the server's word.

use std::sync::Arc;

use linkmail_smtp::{AbortReason, Fault, Reply, ServerConfig, ServerSession, ServerStep, replies};

use crate::input::{Input, cut, shown};
use crate::reference;

/// The largest message.
const LIMIT: u64 = 40;
/// The most recipients.
const RECIPIENTS: usize = 3;
/// So many mistakes, and so many refusals by the shell, are answered.
const ERRORS: usize = 20;
const REFUSALS: usize = 50;
/// Fewer commands than a session may have without a message.
const OPERATIONS: usize = 300;

/// What the client does.
#[derive(Clone, Debug)]
enum Operation {
    Mail,
    Rcpt {
        is_refused: bool,
    },
    /// A chunk; `begin` is the shell's answer to the first of a message, `end` that to the last.
    Bdat {
        size: u64,
        octets: Vec<u8>,
        last: bool,
        begin: u16,
        end: u16,
    },
    Malformed(&'static str),
    Rset,
    Noop,
}

const SIZES: [u64; 8] = [
    LIMIT,
    LIMIT + 1,
    u64::MAX,
    u64::MAX - 1,
    1 << 63,
    1 << 32,
    u64::MAX - LIMIT,
    u64::MAX - 7,
];
const MALFORMED: [&str; 6] = [
    "BDAT\r\n",
    "BDAT LAST\r\n",
    "BDAT 1 2\r\n",
    "BDAT 18446744073709551616 LAST\r\n",
    "BDAT 99999999999999999999999\r\n",
    "BDAT +1 LAST\r\n",
];

impl Operation {
    fn read(input: &mut Input<'_>) -> Operation {
        let kind = input.byte();
        match kind {
            0..0x20 => Operation::Mail,
            0x20..0x48 => Operation::Rcpt { is_refused: false },
            0x48..0x50 => Operation::Rcpt { is_refused: true },
            0x50..0x58 => Operation::Rset,
            0x58..0x5c => Operation::Noop,
            0x5c..0x60 => {
                Operation::Malformed(MALFORMED[usize::from(input.byte()) % MALFORMED.len()])
            }
            _ => {
                let length = input.byte();
                let code = |choice: u8, good| [good, good, 451, 554][usize::from(choice & 3)];
                let (size, octets) = match length {
                    0..0xe0 => {
                        let octets = input.octets(usize::from(length % 48)).to_vec();
                        (octets.len() as u64, octets)
                    }
                    // A size that is told and never comes, but for some octets.
                    _ => (
                        SIZES[usize::from(length & 7)],
                        input.octets(usize::from(length >> 3 & 3)).to_vec(),
                    ),
                };
                let answers = input.byte();
                Operation::Bdat {
                    size,
                    octets,
                    last: kind & 1 == 1,
                    begin: code(answers >> 2 & answers >> 4, 354),
                    end: code(answers & answers >> 6, 250),
                }
            }
        }
    }

    fn write(&self, wire: &mut Vec<u8>) {
        match self {
            Operation::Mail => wire.extend_from_slice(b"MAIL FROM:<a@a.example>\r\n"),
            Operation::Rcpt { is_refused: false } => {
                wire.extend_from_slice(b"RCPT TO:<b@b.example>\r\n")
            }
            Operation::Rcpt { is_refused: true } => {
                wire.extend_from_slice(b"RCPT TO:<no@b.example>\r\n")
            }
            Operation::Rset => wire.extend_from_slice(b"RSET\r\n"),
            Operation::Noop => wire.extend_from_slice(b"NOOP\r\n"),
            Operation::Malformed(line) => wire.extend_from_slice(line.as_bytes()),
            Operation::Bdat {
                size, octets, last, ..
            } => {
                let end = if *last { " LAST" } else { "" };
                wire.extend_from_slice(format!("BDAT {size}{end}\r\n").as_bytes());
                wire.extend_from_slice(octets);
            }
        }
    }
}

/// What comes of the operations.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    replies: Vec<u16>,
    /// Messages that were given out whole, with the number of their recipients.
    stored: Vec<(usize, String)>,
    aborted: Vec<AbortReason>,
}

/// The server as the documents have it (RFC 3030 2, RFC 2033 4.2).
#[derive(Default)]
struct Model {
    lmtp: bool,
    account: Account,
    open: Option<Open>,
    lost: Option<Lost>,
    errors: usize,
    refusals: usize,
    is_over: bool,
    /// Answers of the shell, in the order of its questions.
    begins: Vec<u16>,
    ends: Vec<u16>,
}

#[derive(Default)]
struct Open {
    recipients: usize,
    text: Option<Vec<u8>>,
}

/// A transaction that a chunk was refused in.
struct Lost {
    recipients: usize,
    first: u16,
}

impl Model {
    fn reply(&mut self, code: u16) {
        self.account.replies.push(code);
    }

    fn error(&mut self, code: u16) {
        self.errors += 1;
        if self.errors > ERRORS {
            self.close(421, AbortReason::TooManyErrors);
        } else {
            self.reply(code);
        }
    }

    fn close(&mut self, code: u16, reason: AbortReason) {
        self.abort(reason);
        self.reply(code);
        self.is_over = true;
    }

    fn abort(&mut self, reason: AbortReason) {
        if self.open.take().is_some() {
            self.account.aborted.push(reason);
        }
    }

    fn run(&mut self, operation: &Operation) {
        match operation {
            Operation::Mail if self.open.is_some() => self.error(503),
            Operation::Mail => {
                self.lost = None;
                self.open = Some(Open::default());
                self.reply(250);
            }
            Operation::Rcpt { is_refused } => self.rcpt(*is_refused),
            Operation::Rset => {
                self.abort(AbortReason::Reset);
                self.lost = None;
                self.reply(250);
            }
            Operation::Noop => self.reply(250),
            Operation::Malformed(_) => {
                self.errors += 1;
                self.close(521, AbortReason::BadFraming);
            }
            Operation::Bdat {
                size,
                octets,
                last,
                begin,
                end,
            } => {
                let refusal = self.refusal(*size, octets, *last, *begin);
                if self.is_over {
                    return;
                }
                if *size != octets.len() as u64 {
                    // All that is left belongs to the chunk.
                    self.is_over = true;
                    return;
                }
                self.end_of_chunk(refusal, *last, *end);
            }
        }
    }

    fn rcpt(&mut self, is_refused: bool) {
        let is_behind_loss = self.lost.is_some();
        match &mut self.open {
            None if is_behind_loss => self.reply(503),
            None => self.error(503),
            Some(open) if open.text.is_some() => self.error(503),
            Some(open) if open.recipients >= RECIPIENTS => self.reply(452),
            Some(_) if is_refused => {
                self.refusals += 1;
                if self.refusals > REFUSALS {
                    self.close(421, AbortReason::TooManyErrors);
                } else {
                    self.reply(550);
                }
            }
            Some(open) => {
                open.recipients += 1;
                self.reply(250);
            }
        }
    }

    /// The code that the chunk is refused with, and whether it counts as a mistake.
    fn refusal(&mut self, size: u64, octets: &[u8], last: bool, begin: u16) -> Option<(u16, bool)> {
        let Some(open) = &mut self.open else {
            return match &self.lost {
                Some(lost) if lost.first / 100 == 4 => Some((lost.first, false)),
                Some(_) => Some((503, false)),
                None => Some((503, true)),
            };
        };
        let recipients = open.recipients;
        let (code, reason) = if recipients == 0 {
            (if self.lmtp { 503 } else { 554 }, AbortReason::NoRecipients)
        } else {
            let is_first = open.text.is_none();
            let text = open.text.get_or_insert_default();
            if text.len() as u128 + u128::from(size) > u128::from(LIMIT) {
                (552, AbortReason::TooLarge)
            } else {
                if is_first {
                    self.begins.push(begin);
                }
                text.extend_from_slice(octets);
                match reference::fault(text) {
                    _ if is_first && begin != 354 => (begin, AbortReason::Refused),
                    // A CR at the end may find its LF in the next chunk.
                    Some((Fault::BareCr, at)) if at + 1 == text.len() && !last => return None,
                    Some((fault, _)) => (550, AbortReason::BadBody(fault)),
                    None => return None,
                }
            }
        };
        self.abort(reason);
        self.lost = Some(Lost {
            recipients,
            first: code,
        });
        Some((code, false))
    }

    fn end_of_chunk(&mut self, refusal: Option<(u16, bool)>, last: bool, end: u16) {
        let recipients = match (&self.open, &self.lost) {
            (Some(open), _) => open.recipients,
            (None, Some(lost)) => lost.recipients.max(1),
            (None, None) => 1,
        };
        let answers = if self.lmtp && last { recipients } else { 1 };
        match refusal {
            Some((code, true)) => self.error(code),
            Some((code, false)) => {
                for _ in 0..answers {
                    self.reply(code);
                }
            }
            None if last => {
                let text = self
                    .open
                    .take()
                    .and_then(|open| open.text)
                    .unwrap_or_default();
                self.account
                    .stored
                    .push((recipients, shown(&reference::ended(&text))));
                self.ends.push(end);
                for _ in 0..answers {
                    self.reply(end);
                }
            }
            None => self.reply(250),
        }
    }
}

/// The laws, over one input.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let switches = input.byte();
    let sizes = input.octets(3);
    let mut model = Model {
        lmtp: switches & 1 == 1,
        ..Model::default()
    };
    let hello: &[u8] = if model.lmtp {
        b"LHLO a.example\r\n"
    } else {
        b"EHLO a.example\r\n"
    };
    let mut wire = hello.to_vec();
    model.account.replies.extend([220, 250]);
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        let operation = Operation::read(&mut input);
        operation.write(&mut wire);
        model.run(&operation);
        if model.is_over {
            break;
        }
    }
    // A quit, whose reply proves that the chunks before it were consumed to their last octet and not beyond.
    wire.extend_from_slice(b"QUIT\r\n");
    if model.is_over {
        model.abort(AbortReason::ClientLeft);
    } else {
        model.close(221, AbortReason::Quit);
    }
    for pieces in [
        vec![wire.as_slice()],
        cut(&wire, sizes),
        wire.chunks(1).collect(),
    ] {
        let account = serve(&model, &pieces);
        assert_eq!(account, model.account, "{}", shown(&wire));
    }
}

/// Plays the shell, which answers as the model knows.
fn serve(model: &Model, pieces: &[&[u8]]) -> Account {
    let mut session = ServerSession::new(Arc::new(ServerConfig {
        hostname: "relay.test".into(),
        size_limit: LIMIT,
        max_recipients: RECIPIENTS,
        lmtp: model.lmtp,
        chunking: true,
        ..ServerConfig::default()
    }));
    let (mut begins, mut ends) = (model.begins.iter(), model.ends.iter());
    let mut pieces = pieces.iter();
    let mut account = Account::default();
    let mut written = Vec::new();
    let (mut recipients, mut body) = (0, Vec::new());
    loop {
        match session.step() {
            ServerStep::Write(bytes) => written.extend(bytes),
            ServerStep::Read => match pieces.next() {
                Some(piece) => session.receive(piece),
                None => session.end_of_input(),
            },
            ServerStep::Mail { .. } => {
                (recipients, body) = (0, Vec::new());
                session.answer(replies::sender_ok());
            }
            ServerStep::Recipient { forward_path, .. } => {
                if forward_path.to_string().starts_with("no@") {
                    session.answer(replies::no_such_user());
                } else {
                    recipients += 1;
                    session.answer(replies::recipient_ok());
                }
            }
            ServerStep::BeginData => {
                let code = begins
                    .next()
                    .expect("a first chunk that may begin a message");
                session.answer(Reply::new(*code, None, "begin"));
            }
            ServerStep::Body(bytes) => {
                body.extend(bytes);
                assert!(body.len() as u64 <= LIMIT + 2, "more than is taken");
            }
            ServerStep::EndOfData => {
                account.stored.push((recipients, shown(&body)));
                let code = ends.next().expect("the end of a message");
                session.answer(Reply::new(*code, None, "end"));
            }
            ServerStep::Abort(reason) => account.aborted.push(reason),
            ServerStep::Close => break,
            step => panic!("{step:?}"),
        }
    }
    let text = String::from_utf8(written).expect("ASCII");
    let lasts = text.lines().filter(|line| line.as_bytes()[3] == b' ');
    account.replies = lasts
        .map(|line| line[..3].parse().expect("a code"))
        .collect();
    account
}
