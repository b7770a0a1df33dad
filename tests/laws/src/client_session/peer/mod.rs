//! The peer of the client: hears commands and messages by rules of its own, and asserts what it hears.
//!
//! It answers each command once, as the input says; each reply carries its number, so that it can be told from others in an
//! outcome. It may lie; [`Peer::is_honest`] says whether it kept to the protocol.

mod answers;

use std::collections::VecDeque;

use linkmail_smtp::data::DataState;
use linkmail_smtp::{Protocol, TlsUse};

use super::Setup;
use crate::input::{Input, find, shown};
use crate::reference;

/// What the client said: numbers of a message, and of a recipient in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client_session) enum Said {
    Connect,
    Hello { extended: bool },
    StartTls,
    Auth,
    Reset,
    Mail(usize),
    Rcpt(usize, usize),
    Data(usize),
    Chunk(usize),
    End(usize),
    Etrn,
    Quit,
}

impl Said {
    fn is_chunk(&self) -> bool {
        matches!(self, Said::Chunk(_))
    }
}

/// A reply that was given.
#[derive(Clone, Debug)]
pub(in crate::client_session) struct Answer {
    pub(in crate::client_session) said: Said,
    pub(in crate::client_session) code: u16,
}

impl Answer {
    pub(in crate::client_session) fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }
}

/// What the peer does when it is read from.
pub(in crate::client_session) enum Given {
    Bytes(Vec<u8>),
    Close,
    Silence,
    /// The line is lost, and the peer has not closed it.
    Lost,
}

enum Hears {
    Commands,
    Response,
    Content,
    Chunk { left: usize, last: bool },
}

pub(in crate::client_session) struct Peer<'a> {
    setup: &'a Setup<'a>,
    script: Input<'a>,
    buffer: Vec<u8>,
    hears: Hears,
    pending: VecDeque<Said>,
    /// Every reply, in order; its place is its number.
    pub(in crate::client_session) answers: Vec<Answer>,
    /// Messages whose end was heard.
    pub(in crate::client_session) ended: Vec<usize>,
    /// What is being heard was written as a secret.
    in_secret: bool,
    message: Option<usize>,
    content: Vec<u8>,
    /// A transaction may be open here.
    may_linger: bool,
    encrypted: bool,
    greeted: bool,
    /// The extensions of the last EHLO, as bits of the offers.
    offered: u8,
    logged_in: bool,
    pub(in crate::client_session) is_honest: bool,
    /// Something was said that has no number.
    pub(in crate::client_session) said_more: bool,
    /// And that behind the last answer.
    said_behind: bool,
    gone: bool,
}

const PIPELINING: u8 = 1;
const CHUNKING: u8 = 2;
const SIZE: u8 = 4;
const EIGHT_BIT: u8 = 8;
const STARTTLS: u8 = 16;
const SMALL: u8 = 32;

impl<'a> Peer<'a> {
    pub(in crate::client_session) fn new(setup: &'a Setup<'a>) -> Peer<'a> {
        Peer {
            setup,
            script: setup.script.clone(),
            buffer: Vec::new(),
            hears: Hears::Commands,
            pending: VecDeque::from([Said::Connect]),
            answers: Vec::new(),
            ended: Vec::new(),
            in_secret: false,
            message: None,
            content: Vec::new(),
            may_linger: false,
            encrypted: setup.config.tls == TlsUse::Active,
            greeted: false,
            offered: 0,
            logged_in: false,
            is_honest: true,
            said_more: false,
            said_behind: false,
            gone: false,
        }
    }

    /// Takes what the client wrote; `in_secret` as a secret.
    pub(in crate::client_session) fn hear(&mut self, bytes: &[u8], in_secret: bool) {
        let is_over = self.setup.batch == 1 && self.is_lmtp() && self.refused_last(Said::is_chunk);
        assert!(!is_over, "{} behind a refused chunk", shown(bytes));
        self.in_secret = in_secret;
        self.buffer.extend_from_slice(bytes);
        while self.hear_next() {}
    }

    fn hear_next(&mut self) -> bool {
        match self.hears {
            Hears::Commands | Hears::Response => self.hear_line(),
            Hears::Content => {
                let data = reference::decode(&self.buffer);
                assert_eq!(data.fault, None, "{}", shown(&self.buffer));
                if data.state == DataState::Open {
                    return false;
                }
                assert_eq!(data.state, DataState::Ended);
                self.buffer.drain(..data.consumed);
                self.content = data.body;
                self.hears = Hears::Commands;
                self.may_linger = false;
                self.end();
                true
            }
            Hears::Chunk { left, last } => {
                let count = left.min(self.buffer.len());
                self.content.extend(self.buffer.drain(..count));
                let left = left - count;
                self.hears = Hears::Chunk { left, last };
                if left > 0 {
                    return false;
                }
                self.hears = Hears::Commands;
                if last {
                    self.end();
                } else {
                    self.say(Said::Chunk(self.message.expect("a message")));
                }
                true
            }
        }
    }

    fn end(&mut self) {
        let number = self.message.expect("a message");
        let content = std::mem::take(&mut self.content);
        let message = &self.setup.messages[number];
        // A dot alone ends a message for which no recipient was taken.
        if !content.is_empty() || self.took_recipient(number) {
            assert_eq!(
                reference::fault(&message.octets),
                None,
                "a bad message is sent"
            );
            let whole = reference::ended(&message.octets);
            assert_eq!(content, whole, "message {number} was changed");
        }
        self.ended.push(number);
        self.say(Said::End(number));
    }

    fn hear_line(&mut self) -> bool {
        let is_newline = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        let Some(end) = self.buffer.iter().position(is_newline) else {
            return false;
        };
        let rest = &self.buffer[end..];
        assert!(
            rest.starts_with(b"\r\n"),
            "a bare newline in {}",
            shown(&self.buffer)
        );
        let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
        assert!(line.len() <= 510);
        if matches!(self.hears, Hears::Response) {
            assert!(self.in_secret, "a login for all to see");
            self.hears = Hears::Commands;
            self.say(Said::Auth);
            return true;
        }
        let line = String::from_utf8(line).expect("ASCII");
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        self.command(verb, argument);
        true
    }

    /// RFC 2920 3.1: whether a command may come now.
    fn in_turn(&self) -> bool {
        let ends_group = |said: &Said| {
            !matches!(
                said,
                Said::Reset | Said::Mail(_) | Said::Rcpt(..) | Said::Chunk(_) | Said::End(_)
            )
        };
        self.pending.is_empty() || self.offers(PIPELINING) && !self.pending.iter().any(ends_group)
    }

    fn is_lmtp(&self) -> bool {
        self.setup.config.protocol == Protocol::Lmtp
    }

    /// Whether the last answer refuses such a thing.
    fn refused_last(&self, is_such: impl Fn(&Said) -> bool) -> bool {
        let last = self.answers.last();
        last.is_some_and(|last| is_such(&last.said) && matches!(last.code / 100, 4 | 5))
    }

    /// Whether the replies that are awaited may be miscounted for those to another message.
    fn may_miscount(&self) -> bool {
        let has_many = |said: &Said| match said {
            Said::End(number) => self.setup.messages[*number].recipients > 1,
            said => said.is_chunk(),
        };
        self.is_lmtp() && self.pending.iter().any(has_many)
    }

    fn offers(&self, what: u8) -> bool {
        self.offered & what != 0
    }

    fn command(&mut self, verb: &str, argument: &str) {
        assert!(
            self.in_turn(),
            "{verb} before {:?} was answered",
            self.pending
        );
        let is_behind = matches!(verb, "RSET" | "MAIL" | "ETRN") && self.may_miscount();
        assert!(!is_behind, "{verb} rides behind {:?}", self.pending);
        assert!(
            self.greeted || matches!(verb, "EHLO" | "LHLO" | "HELO"),
            "{verb}"
        );
        let needs_tls = self.setup.config.tls == TlsUse::Required && !self.encrypted;
        let is_harmless = matches!(verb, "EHLO" | "LHLO" | "HELO" | "STARTTLS" | "QUIT");
        assert!(!needs_tls || is_harmless, "{verb} in clear");
        let needs_login = self.setup.config.authenticate && !self.logged_in;
        assert!(
            !needs_login || is_harmless || verb == "AUTH",
            "{verb} before the login"
        );
        let said = match verb {
            "EHLO" | "LHLO" | "HELO" => {
                assert_eq!(self.is_lmtp(), verb == "LHLO");
                self.greeted = true;
                Said::Hello {
                    extended: verb != "HELO",
                }
            }
            "STARTTLS" => {
                assert!(self.offers(STARTTLS) && !self.encrypted);
                Said::StartTls
            }
            "AUTH" => {
                assert!(self.in_secret, "a login for all to see");
                Said::Auth
            }
            "RSET" => {
                self.may_linger = false;
                Said::Reset
            }
            "MAIL" => self.mail(argument),
            "RCPT" => {
                let address = argument.strip_prefix("TO:<r").expect("a recipient");
                let (number, rest) = address.split_once('.').expect("a number");
                let at = rest.strip_suffix("@b.example>").expect("a recipient");
                let number = number.parse().expect("a number");
                assert_eq!(self.message, Some(number));
                Said::Rcpt(number, at.parse().expect("a number"))
            }
            "DATA" => Said::Data(self.message.expect("a message")),
            "BDAT" => {
                assert!(self.offers(CHUNKING));
                let (size, last) = match argument.split_once(' ') {
                    Some((size, "LAST")) => (size, true),
                    _ => (argument, false),
                };
                let left = size.parse().expect("a size");
                self.hears = Hears::Chunk { left, last };
                return;
            }
            "ETRN" => Said::Etrn,
            "QUIT" => Said::Quit,
            _ => panic!("{verb}"),
        };
        self.say(said);
    }

    fn mail(&mut self, argument: &str) -> Said {
        assert!(
            !self.may_linger,
            "MAIL behind a transaction that may be open"
        );
        let path = argument.strip_prefix("FROM:<m").expect("a sender");
        let (number, rest) = path.split_once("@a.example>").expect("a sender");
        let number: usize = number.parse().expect("a number");
        let message = &self.setup.messages[number];
        assert_eq!(rest.contains(" SIZE="), self.offers(SIZE));
        let eight_bit = self.offers(EIGHT_BIT) && message.eight_bit;
        assert_eq!(rest.contains(" BODY=8BITMIME"), eight_bit);
        assert!(self.offers(EIGHT_BIT) || !message.eight_bit);
        self.message = Some(number);
        self.content.clear();
        self.may_linger = true;
        Said::Mail(number)
    }

    fn say(&mut self, said: Said) {
        self.pending.push_back(said);
    }

    /// Whether the client may begin the handshake: 220 was the last word.
    pub(in crate::client_session) fn tls_may_start(&mut self) -> bool {
        let last = self.answers.last();
        let may = last.is_some_and(|last| last.said == Said::StartTls && last.code == 220);
        self.encrypted = true;
        self.greeted = false;
        self.offered = 0;
        may && self.pending.is_empty() && !self.said_behind
    }

    /// Whether it may refuse while it is sent a body: when nothing else is left to be said.
    pub(in crate::client_session) fn interrupts(&mut self) -> bool {
        if !self.pending.is_empty() {
            return false;
        }
        self.is_honest = false;
        self.said_more = true;
        true
    }

    fn took_recipient(&self, number: usize) -> bool {
        self.answers.iter().any(|answer| {
            matches!(answer.said, Said::Rcpt(of, _) if of == number) && answer.is_positive()
        })
    }

    fn took(&self, said: Said) -> bool {
        let is_it = |answer: &Answer| answer.said == said;
        self.answers
            .iter()
            .rfind(|a| is_it(a))
            .is_some_and(Answer::is_positive)
    }
}

/// The number of the reply whose text this is.
pub(in crate::client_session) fn number(text: &str) -> Option<usize> {
    let start = find(text.as_bytes(), b"#")?;
    text[start + 1..].split_once(';')?.0.parse().ok()
}
