//! A model of the server that walks over what the client sent: where commands, messages and chunks are, and how many
//! replies each must have. What it cannot know (whether a command is allowed) it takes from the code of the reply.

use std::collections::{BTreeSet, VecDeque};

use linkmail_smtp::ServerStep;
use linkmail_smtp::data::DataState;

use super::{Done, Ending, Run, Setup};
use crate::input::{find, shown};
use crate::reference;

/// The longest command line and the longest response of AUTH, without CRLF.
const LINE: usize = 2048;
/// A longer line is not waited for to end: the session ends.
const SKIPPED: usize = 64 * 1024;
const RESPONSE: usize = 12286;

/// What the client may have sent more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transaction {
    None,
    Open,
    /// A chunk of it was refused.
    LostChunk,
}

struct Follow<'a> {
    setup: &'a Setup,
    stream: Vec<u8>,
    /// Where pieces end.
    ends: BTreeSet<usize>,
    at: usize,
    replies: VecDeque<String>,
    steps: VecDeque<&'a Done>,
    transaction: Transaction,
    recipients: usize,
    chunks: Option<Vec<u8>>,
    awaits_response: bool,
    over: bool,
}

/// Walks over the input along with what the session did.
pub(super) fn follow(setup: &Setup, pieces: &[&[u8]], run: &Run) {
    let mut end = 0;
    let ends = pieces.iter().map(|piece| {
        end += piece.len();
        end
    });
    let is_followed = |done: &&Done| !matches!(done.step, ServerStep::Abort(_));
    let mut model = Follow {
        setup,
        ends: ends.collect(),
        stream: pieces.concat(),
        at: 0,
        replies: replies(&run.written),
        steps: run.steps.iter().filter(is_followed).collect(),
        transaction: Transaction::None,
        recipients: 0,
        chunks: None,
        awaits_response: false,
        over: false,
    };
    assert_eq!(model.reply(), 220);
    while !model.over && model.advance() {}
    if !model.over && setup.ending != Ending::ClientLeaves {
        assert_eq!(model.reply(), 421);
    }
    let (replies, steps) = (&model.replies, &model.steps);
    assert!(replies.is_empty(), "replies to nothing: {replies:?}");
    assert!(steps.is_empty(), "steps without a command: {steps:?}");
}

/// The replies, each in the form of its last line; asserts that every line has the form of one.
fn replies(written: &[u8]) -> VecDeque<String> {
    let mut replies = VecDeque::new();
    let mut begun: Option<&[u8]> = None;
    for line in written.split_inclusive(|byte| *byte == b'\n') {
        assert!(line.len() <= 512, "a line of {} octets", line.len());
        let text = line.strip_suffix(b"\r\n").expect("a line ends in CRLF");
        assert!(!text.iter().any(u8::is_ascii_control), "{}", shown(text));
        let (code, rest) = text.split_at(3);
        assert!(code.iter().all(u8::is_ascii_digit), "{}", shown(text));
        assert!(begun.is_none_or(|first| first == code), "two codes");
        match rest.first() {
            Some(b'-') => begun = Some(code),
            Some(b' ') => {
                begun = None;
                replies.push_back(String::from_utf8_lossy(text).into_owned());
            }
            _ => panic!("not a reply: {}", shown(text)),
        }
    }
    assert!(begun.is_none(), "a reply without its last line");
    replies
}

impl Follow<'_> {
    /// The next reply, which must be there; the session is over behind one that says so.
    fn reply(&mut self) -> u16 {
        let behind = &self.stream[self.at.saturating_sub(80)..self.at];
        let Some(text) = self.replies.pop_front() else {
            panic!("no reply to what ends in {}", shown(behind));
        };
        let code = text[..3].parse().expect("a code");
        self.over = matches!(code, 221 | 421 | 521) || text.contains("closing connection");
        code
    }

    fn replies(&mut self, count: usize) {
        for _ in 0..count.max(1) {
            if !self.over {
                self.reply();
            }
        }
    }

    /// The next step, if it is of this kind.
    fn step(&mut self, is_it: fn(&ServerStep) -> bool) -> Option<Done> {
        let next = self.steps.front().filter(|done| is_it(&done.step))?;
        let done = (*next).clone();
        self.steps.pop_front();
        Some(done)
    }

    /// The next step, if it is of this kind and was answered with this code. Behind the last reply none is left that
    /// could belong to another command.
    fn asked(&mut self, code: u16, is_it: fn(&ServerStep) -> bool) -> Option<Done> {
        let next = self.steps.front()?;
        if self.over || next.answers == [code] {
            self.step(is_it)
        } else {
            None
        }
    }

    /// Whether LMTP answers for each recipient (RFC 2033 4.2).
    fn answers(&self) -> usize {
        if self.setup.config.lmtp {
            self.recipients
        } else {
            1
        }
    }

    fn forget(&mut self) {
        self.transaction = Transaction::None;
        self.recipients = 0;
        self.chunks = None;
    }

    /// One command with what belongs to it; false when no more of the input is complete.
    fn advance(&mut self) -> bool {
        let rest = &self.stream[self.at..];
        if rest.starts_with(&[0x16, 0x03]) {
            assert_eq!(self.reply(), 521);
            return false;
        }
        let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            return false;
        };
        match (rest[end], rest.get(end + 1)) {
            (b'\r', None) => return false,
            (b'\r', Some(b'\n')) => {}
            _ => {
                // Whatever else may be wrong with the line: a bare newline ends the session.
                assert_eq!(self.reply(), 500);
                self.over = true;
                return false;
            }
        }
        let line = rest[..end].to_vec();
        self.at += end + 2;
        let awaits_response = std::mem::take(&mut self.awaits_response);
        let longest = if awaits_response { RESPONSE } else { LINE };
        if line.len() > longest || line.contains(&0) {
            // RFC 3030 2: behind a line of BDAT that cannot be read stands its chunk.
            let is_bdat = line[..4.min(line.len())].eq_ignore_ascii_case(b"BDAT");
            let closes = is_bdat && !awaits_response && line.len() <= SKIPPED;
            let code = self.reply();
            let is_right = if closes {
                code == 521
            } else {
                matches!(code, 500 | 421)
            };
            assert!(is_right, "{code} to a bad line");
        } else if awaits_response {
            self.response();
        } else {
            self.command(&line);
        }
        true
    }

    fn command(&mut self, line: &[u8]) {
        let verb = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        let argument = line[verb.len()..].trim_ascii();
        match verb.to_ascii_uppercase().as_slice() {
            b"BDAT" if self.setup.config.chunking => self.bdat(argument),
            b"DATA" => self.data(),
            b"MAIL" => self.mail(line),
            b"RCPT" => self.rcpt(line),
            b"AUTH" => self.auth(),
            b"STARTTLS" => {
                let code = self.reply();
                if code == 220 {
                    // RFC 3207 4.1: what stands behind it in the same piece was not said under TLS.
                    assert!(self.ends.contains(&self.at), "injected octets are read");
                    assert_eq!(self.transaction, Transaction::None);
                    assert!(self.step(|step| *step == ServerStep::StartTls).is_some());
                    self.forget();
                }
            }
            b"ETRN" => {
                let code = self.reply();
                let asked = self.asked(code, |step| matches!(step, ServerStep::Etrn(_)));
                assert!(asked.is_some() || code / 100 != 2, "nobody was asked");
            }
            b"EHLO" | b"HELO" | b"LHLO" | b"RSET" => {
                if self.reply() == 250 {
                    self.forget();
                }
            }
            verb => {
                let code = self.reply();
                assert!(
                    !matches!(code, 354 | 334 | 235),
                    "{code} to {}",
                    shown(verb)
                );
            }
        }
    }

    fn mail(&mut self, line: &[u8]) {
        let code = self.reply();
        let was_open = self.transaction == Transaction::Open;
        let done = self.asked(code, |step| matches!(step, ServerStep::Mail { .. }));
        let done = done.filter(|_| !was_open);
        if !was_open {
            self.forget();
        }
        if let Some(ServerStep::Mail { reverse_path, .. }) = done.map(|done| done.step) {
            let path = reverse_path.to_bytes();
            assert!(path.is_empty() || find(line, &path).is_some());
            if code / 100 == 2 {
                self.transaction = Transaction::Open;
            }
        } else {
            assert_ne!(code / 100, 2, "a sender is taken that nobody asked about");
        }
    }

    fn rcpt(&mut self, line: &[u8]) {
        let code = self.reply();
        let done = self.asked(code, |step| matches!(step, ServerStep::Recipient { .. }));
        if let Some(ServerStep::Recipient { forward_path, .. }) = done.map(|done| done.step) {
            // The case of `postmaster` alone is not kept.
            let path = forward_path.to_bytes().to_ascii_lowercase();
            assert!(find(&line.to_ascii_lowercase(), &path).is_some());
            assert_eq!(self.transaction, Transaction::Open);
            self.recipients += usize::from(code / 100 == 2);
            assert!(self.recipients <= self.setup.config.max_recipients);
        } else {
            assert_ne!(
                code / 100,
                2,
                "a recipient is taken that nobody asked about"
            );
        }
    }

    fn auth(&mut self) {
        let code = self.reply();
        if matches!(code, 334 | 235 | 535 | 454 | 421) {
            let asked = self.step(|step| matches!(step, ServerStep::Auth { .. }));
            assert!(self.over || asked.is_some());
        }
        self.awaits_response = code == 334;
    }

    fn response(&mut self) {
        let code = self.reply();
        if matches!(code, 334 | 235 | 535 | 454 | 421) {
            let asked = self.step(|step| matches!(step, ServerStep::AuthResponse(_)));
            assert!(self.over || asked.is_some());
        }
        self.awaits_response = code == 334;
    }

    fn data(&mut self) {
        let code = self.reply();
        let begun = self.asked(code, |step| *step == ServerStep::BeginData);
        if code != 354 {
            return;
        }
        assert!(begun.is_some(), "data begins and nobody was asked");
        assert_eq!(self.transaction, Transaction::Open);
        assert!(self.recipients > 0 && self.chunks.is_none());
        let data = reference::decode(&self.stream[self.at..]);
        self.at += data.consumed;
        match data.state {
            DataState::Open => {
                self.over = self.replies.is_empty();
            }
            DataState::Malformed => assert_eq!(self.reply(), 521),
            DataState::Ended => {
                let is_too_large = data.body.len() as u64 > self.setup.config.size_limit;
                if is_too_large || data.fault.is_some() {
                    let code = self.reply();
                    assert_eq!(code, if is_too_large { 552 } else { 550 });
                    self.replies_behind_first();
                } else {
                    self.message(data.body);
                }
                self.forget();
            }
        }
    }

    fn replies_behind_first(&mut self) {
        if self.answers() > 1 {
            let more = self.answers() - 1;
            self.replies(more);
        }
    }

    /// The message is given out as it was sent, and answered as the shell says.
    fn message(&mut self, expected: Vec<u8>) {
        let body = self.step(|step| matches!(step, ServerStep::Body(_)));
        let body = match body.map(|done| done.step) {
            Some(ServerStep::Body(body)) => body,
            _ => Vec::new(),
        };
        assert_eq!(shown(&body), shown(&expected), "the message was changed");
        let end = self.step(|step| *step == ServerStep::EndOfData);
        let end = end.expect("the end of a message");
        for _ in 0..self.answers() {
            if self.over {
                return;
            }
            assert_eq!([self.reply()], end.answers[..]);
        }
    }

    fn bdat(&mut self, argument: &[u8]) {
        let Some((size, last)) = chunk(argument) else {
            let code = self.reply();
            assert!(self.over, "{code} to a chunk without a size");
            return;
        };
        let limit = u128::from(self.setup.config.size_limit);
        let before = self.chunks.as_ref().map_or(0, Vec::len) as u128;
        let is_open = self.transaction == Transaction::Open && self.recipients > 0;
        let fits = before + u128::from(size) <= limit;
        let mut is_taken = is_open && fits;
        if is_taken && self.chunks.is_none() {
            match self.step(|step| *step == ServerStep::BeginData) {
                Some(begun) => {
                    is_taken = begun.answers == [354];
                    if let [code @ (421 | 521)] = begun.answers[..] {
                        // The shell closes: the chunk is not waited for.
                        assert_eq!(self.reply(), code);
                        return;
                    }
                }
                None => {
                    // Only a session that ends does not ask.
                    self.reply();
                    assert!(self.over, "a chunk is taken that nobody asked about");
                    return;
                }
            }
        }
        let left = self.stream.len() - self.at;
        let is_whole = usize::try_from(size).is_ok_and(|size| size <= left);
        if !is_whole {
            // Whatever stands in it is no command. The session may have ended at the command or for its time.
            self.at = self.stream.len();
            if self.replies.len() > usize::from(self.setup.ending != Ending::ClientLeaves) {
                self.reply();
                assert!(self.over, "a reply within a chunk");
            }
            return;
        }
        let octets = self.stream[self.at..self.at + size as usize].to_vec();
        self.at += size as usize;
        self.end_of_chunk(&octets, last, is_taken);
    }

    fn end_of_chunk(&mut self, octets: &[u8], last: bool, is_taken: bool) {
        let mut text = self.chunks.take().unwrap_or_default();
        text.extend_from_slice(octets);
        let fault = reference::fault(&text);
        // A CR at the end of a chunk may find its LF in the next.
        let is_bad =
            fault.is_some_and(|(_, at)| last || !(at + 1 == text.len() && text[at] == b'\r'));
        if is_taken && !is_bad {
            if last {
                self.message(reference::ended(&text));
                self.forget();
            } else {
                let code = self.reply();
                assert!(self.over || code == 250, "{code} to a good chunk");
                self.chunks = Some(text);
            }
            return;
        }
        let count = match self.transaction {
            Transaction::None => 1,
            Transaction::Open | Transaction::LostChunk if last => self.answers(),
            _ => 1,
        };
        if self.transaction == Transaction::Open {
            self.transaction = Transaction::LostChunk;
        }
        let code = self.reply();
        assert_ne!(code / 100, 2, "a chunk of a lost message is taken");
        self.replies_of_lost(count);
    }

    fn replies_of_lost(&mut self, count: usize) {
        if count > 1 {
            self.replies(count - 1);
        }
    }
}

/// The size of a chunk and whether it is the last, by RFC 3030 2.
fn chunk(argument: &[u8]) -> Option<(u64, bool)> {
    let text = std::str::from_utf8(argument).ok()?;
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let size = words.next()?;
    if size.len() > 20 || !size.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some((size.parse().ok()?, last))
}
