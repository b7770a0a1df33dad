//! Plays a transcript line by line against one side, and says exactly where it went another way.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linkmail_smtp::transcript::escape;
use regex::bytes::Regex;
use thiserror::Error;

use crate::transcript::{Entry, Mark, Speaker, Transcript};

/// Where a transcript and what happened differ.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}:{line}\n  expected {expected}\n  got      {got}\n{so_far}", .path.display())]
pub struct Failure {
    /// The file.
    pub path: PathBuf,
    /// The line of the file, from 1.
    pub line: usize,
    /// What the file says.
    pub expected: String,
    /// What came instead.
    pub got: String,
    /// The session up to here.
    pub so_far: String,
}

impl Failure {
    pub(crate) fn format(path: &Path, line: usize, expected: &str, got: &str) -> Failure {
        Failure {
            path: path.to_owned(),
            line,
            expected: expected.to_owned(),
            got: got.to_owned(),
            so_far: String::new(),
        }
    }

    pub(crate) fn unreadable(path: &Path, error: &str) -> Failure {
        Failure::format(path, 0, "a file that can be read and written", error)
    }
}

/// One side of a session that is driven by the other side's lines.
pub trait Side {
    /// Who this side is.
    fn speaker(&self) -> Speaker;

    /// The other side says something.
    fn receive(&mut self, bytes: &[u8]);

    /// The other side closes the connection.
    fn end_of_input(&mut self);

    /// The connection is lost, and neither side has closed it. False: this side cannot be told.
    fn lose_line(&mut self) -> bool {
        false
    }

    /// Time passes. False: this side cannot be told.
    fn wait(&mut self, time: Duration) -> bool;

    /// The handshake is done. False: this side did not ask for one, or cannot do it here.
    fn start_tls(&mut self) -> bool {
        false
    }

    /// The next line this side says, with its CRLF; what is left without one at the end; nothing if it is silent.
    fn next_line(&mut self) -> Option<Vec<u8>>;

    /// A line that nobody expects, if this side says one.
    fn leftover(&mut self) -> Option<Vec<u8>> {
        self.next_line()
    }

    /// Whether this side has closed the connection, as far as was read.
    fn is_closed(&mut self) -> bool;

    /// Whether the other side may speak before all that this side said was read. A client waits for its replies, so it
    /// must not have said more than the file shows; a server answers a pipelined group while it is still coming.
    fn may_speak_ahead(&self) -> bool {
        self.speaker() == Speaker::Server
    }

    /// What is true afterwards, in the words of `-- then --`; none if that cannot be seen from here.
    fn facts(&mut self) -> Option<Vec<String>>;
}

struct Play<'a, S: Side> {
    transcript: &'a Transcript,
    side: &'a mut S,
    so_far: String,
    /// The end of the session was announced: by QUIT, `!close` or `!closed`.
    end_announced: bool,
}

/// Plays a transcript. Errors: the first difference.
pub fn play<S: Side>(transcript: &Transcript, side: &mut S) -> Result<(), Failure> {
    let mut play = Play {
        transcript,
        side,
        so_far: String::new(),
        end_announced: false,
    };
    for entry in &transcript.session {
        play.entry(entry)?;
        let _ = writeln!(play.so_far, "    {}", entry.mark);
    }
    play.end()
}

impl<S: Side> Play<'_, S> {
    fn entry(&mut self, entry: &Entry) -> Result<(), Failure> {
        match &entry.mark {
            Mark::Line(speaker, text) => {
                let line = [text.as_bytes(), b"\r\n"].concat();
                if *speaker == Speaker::Client && text.eq_ignore_ascii_case("QUIT") {
                    self.end_announced = true;
                }
                self.say(entry, *speaker, &line)
            }
            Mark::Bytes(speaker, bytes) => self.say(entry, *speaker, bytes),
            Mark::Pattern(speaker, pattern) => self.say_like(entry, *speaker, pattern),
            Mark::Data(octets) => self.data(entry, *octets),
            Mark::Chunk(octets) => self.chunk(entry, *octets),
            Mark::Tls => {
                if self.side.start_tls() {
                    Ok(())
                } else {
                    Err(self.failure(entry.line, "a side that starts TLS", "one that does not"))
                }
            }
            Mark::Close => {
                self.end_announced = true;
                self.side.end_of_input();
                Ok(())
            }
            Mark::Lost => {
                self.end_announced = true;
                match self.side.lose_line() {
                    true => Ok(()),
                    false => {
                        Err(self.failure(entry.line, "a side that is told", "one that is not"))
                    }
                }
            }
            Mark::Closed => {
                self.end_announced = true;
                self.check_closed(entry.line)
            }
            Mark::Wait(time, _) => {
                if self.side.wait(*time) {
                    Ok(())
                } else {
                    Err(self.failure(entry.line, "a side with a clock", "a side without one"))
                }
            }
            Mark::Comment(_) => Ok(()),
        }
    }

    fn say(&mut self, entry: &Entry, speaker: Speaker, bytes: &[u8]) -> Result<(), Failure> {
        if speaker != self.side.speaker() {
            self.check_turn(entry)?;
            self.side.receive(bytes);
            return Ok(());
        }
        let got = self.side.next_line();
        if got.as_deref() == Some(bytes) {
            Ok(())
        } else {
            Err(self.failure(entry.line, &entry.mark.to_string(), &self.shown(got)))
        }
    }

    fn say_like(&mut self, entry: &Entry, speaker: Speaker, pattern: &str) -> Result<(), Failure> {
        if speaker != self.side.speaker() {
            return Err(self.failure(
                entry.line,
                "a pattern for the driven side",
                "one for the script",
            ));
        }
        let regex = whole_line(pattern).map_err(|error| {
            self.failure(entry.line, "a regular expression", &error.to_string())
        })?;
        let got = self.side.next_line();
        if got.as_deref().is_some_and(|line| regex.is_match(line)) {
            Ok(())
        } else {
            Err(self.failure(entry.line, &entry.mark.to_string(), &self.shown(got)))
        }
    }

    /// Message data that was recorded by its size only: sends as much, or counts what comes.
    fn data(&mut self, entry: &Entry, octets: usize) -> Result<(), Failure> {
        if self.side.speaker() == Speaker::Server {
            let mut data = filler(octets);
            data.extend_from_slice(b".\r\n");
            self.side.receive(&data);
            return Ok(());
        }
        let mut count = 0;
        loop {
            let got = self.side.next_line();
            match got.as_deref() {
                Some(b".\r\n") if count == octets => return Ok(()),
                Some(b".\r\n") | None => {
                    let got = format!("{count} octets of data");
                    return Err(self.failure(entry.line, &entry.mark.to_string(), &got));
                }
                Some(line) => count += line.len() - usize::from(line.starts_with(b".")),
            }
        }
    }

    /// A chunk that was recorded by its size only: sends as much, or takes whole lines until as much came.
    fn chunk(&mut self, entry: &Entry, octets: usize) -> Result<(), Failure> {
        if self.side.speaker() == Speaker::Server {
            self.side.receive(&chunk_filler(octets));
            return Ok(());
        }
        let mut count = 0;
        while count < octets {
            match self.side.next_line() {
                Some(line) => count += line.len(),
                None => break,
            }
        }
        if count == octets {
            return Ok(());
        }
        let got = format!("{count} octets of chunk");
        Err(self.failure(entry.line, &entry.mark.to_string(), &got))
    }

    fn check_turn(&mut self, entry: &Entry) -> Result<(), Failure> {
        if self.side.may_speak_ahead() {
            return Ok(());
        }
        match self.side.leftover() {
            None => Ok(()),
            Some(line) => {
                let got = self.shown(Some(line));
                let expected = format!("silence before {}", entry.mark);
                Err(self.failure(entry.line, &expected, &got))
            }
        }
    }

    fn check_closed(&mut self, line: usize) -> Result<(), Failure> {
        if let Some(unread) = self.side.next_line() {
            let got = self.shown(Some(unread));
            return Err(self.failure(line, "!closed", &got));
        }
        if self.side.is_closed() {
            Ok(())
        } else {
            Err(self.failure(line, "!closed", "an open connection"))
        }
    }

    fn end(self) -> Result<(), Failure> {
        let last = self.transcript.session.last().map_or(0, |entry| entry.line);
        if let Some(unread) = self.side.leftover() {
            let got = self.shown(Some(unread));
            return Err(self.failure(last, "nothing more", &got));
        }
        if !self.end_announced && self.side.is_closed() {
            return Err(self.failure(last, "an open connection, or the mark !closed", "!closed"));
        }
        if let Some(facts) = self.side.facts() {
            self.compare(last, &facts)?;
        }
        Ok(())
    }

    fn compare(&self, last: usize, facts: &[String]) -> Result<(), Failure> {
        let expected = self.transcript.then_of(self.side.speaker());
        for index in 0..expected.len().max(facts.len()) {
            let (want, got) = (expected.get(index), facts.get(index));
            if want.map(|fact| &fact.text) != got {
                let line = want.map_or(last, |fact| fact.line);
                let want = want.map_or("nothing more in -- then --", |fact| &fact.text);
                let got = got.map_or("nothing more", |text| text);
                return Err(self.failure(line, want, got));
            }
        }
        Ok(())
    }

    fn shown(&self, line: Option<Vec<u8>>) -> String {
        line.map_or_else(
            || "nothing".to_owned(),
            |line| as_mark(self.side.speaker(), &line).to_string(),
        )
    }

    fn failure(&self, line: usize, expected: &str, got: &str) -> Failure {
        Failure {
            so_far: self.so_far.clone(),
            ..Failure::format(&self.transcript.path, line, expected, got)
        }
    }
}

/// So many octets of lines; one octet alone cannot be lines and becomes none.
pub(crate) fn filler(octets: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(octets + 3);
    while octets - data.len() > 2 {
        let text = (octets - data.len() - 2).min(70);
        // What remains behind this line must be nothing or room for a line end.
        let text = if octets - data.len() - text - 2 == 1 {
            text - 1
        } else {
            text
        };
        data.extend(std::iter::repeat_n(b'x', text));
        data.extend_from_slice(b"\r\n");
    }
    if octets - data.len() == 2 {
        data.extend_from_slice(b"\r\n");
    }
    data
}

/// The same for a chunk, which may be a single octet.
pub(crate) fn chunk_filler(octets: usize) -> Vec<u8> {
    let mut chunk = filler(octets);
    chunk.resize(octets, b'x');
    chunk
}

pub(crate) fn whole_line(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})\r\n$"))
}

pub(crate) fn as_mark(speaker: Speaker, line: &[u8]) -> Mark {
    match line.strip_suffix(b"\r\n") {
        Some(text) if text.iter().all(|byte| (32..127).contains(byte)) => {
            Mark::Line(speaker, escape(text).replace("\\\\", "\\"))
        }
        _ => Mark::Bytes(speaker, line.to_vec()),
    }
}
