//! The transcript file: what is given, the session, and what is true then.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linkmail_smtp::transcript::escape;

use crate::player::Failure;

/// Who says a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// `C`
    Client,
    /// `S`
    Server,
}

impl Speaker {
    fn letter(self) -> char {
        match self {
            Speaker::Client => 'C',
            Speaker::Server => 'S',
        }
    }
}

/// Which of our sides a file is played against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drives {
    /// The server session; the file's client lines are the script.
    Server,
    /// The client session; the file's server lines are the script.
    Client,
    /// One after the other.
    Both,
}

/// What a line of the session means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `C:` or `S:`, a line; CRLF is added.
    Line(Speaker, String),
    /// `C\` or `S\`, bytes; nothing is added.
    Bytes(Speaker, Vec<u8>),
    /// `C~` or `S~`, a regular expression for a whole line of the side that is driven.
    Pattern(Speaker, String),
    /// `C# N octets of data`: message data of that size with its end.
    Data(usize),
    /// `C# N octets of chunk`: what follows a BDAT of that size.
    Chunk(usize),
    /// `!tls`: the handshake that STARTTLS was answered 220 for.
    Tls,
    /// `!close`: the scripted side closes the connection.
    Close,
    /// `!lost`: the connection is lost, and neither side has closed it.
    Lost,
    /// `!closed`: the driven side has closed the connection.
    Closed,
    /// `!wait 5m`: so much time passes.
    Wait(Duration, String),
    /// `# ...`
    Comment(String),
}

/// A line of the file that is not of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its number in the file, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// A line of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the file, from 1.
    pub line: usize,
    /// What it means.
    pub mark: Mark,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// Where it was read from.
    pub path: PathBuf,
    /// The lines in front of the first section.
    pub header: Vec<String>,
    /// `-- given --`
    pub given: Vec<Fact>,
    /// `-- session --`
    pub session: Vec<Entry>,
    /// `-- then --`
    pub then: Vec<Fact>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Header,
    Given,
    Session,
    Then,
}

impl Transcript {
    /// Reads a file. Errors: it cannot be read, or a line is not of the format.
    pub fn read(path: &Path) -> Result<Transcript, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::unreadable(path, &error.to_string()))?;
        Transcript::parse(path, &text)
    }

    /// Reads the text of a file. Errors: a line is not of the format, or there is no session.
    pub fn parse(path: &Path, text: &str) -> Result<Transcript, Failure> {
        let mut transcript = Transcript {
            path: path.to_owned(),
            header: Vec::new(),
            given: Vec::new(),
            session: Vec::new(),
            then: Vec::new(),
        };
        let mut section = Section::Header;
        for (index, text) in text.lines().enumerate() {
            let line = index + 1;
            match text {
                "-- given --" => section = Section::Given,
                "-- session --" => section = Section::Session,
                "-- then --" => section = Section::Then,
                "" => {}
                _ => transcript.take(section, line, text)?,
            }
        }
        if transcript.session.is_empty() {
            return Err(Failure::format(
                path,
                1,
                "a session of one line at least",
                "",
            ));
        }
        Ok(transcript)
    }

    fn take(&mut self, section: Section, line: usize, text: &str) -> Result<(), Failure> {
        let fact = || Fact {
            line,
            text: text.to_owned(),
        };
        match section {
            Section::Header if text.starts_with('#') => self.header.push(text.to_owned()),
            Section::Header => {
                return Err(Failure::format(
                    &self.path,
                    line,
                    "a comment, or `-- session --`",
                    text,
                ));
            }
            Section::Given => self.given.push(fact()),
            Section::Then => self.then.push(fact()),
            Section::Session => {
                let mark = parse_mark(text).ok_or_else(|| {
                    let marks = "one of C: C\\ C~ C# S: S\\ S~ !tls !close !lost !closed !wait #";
                    Failure::format(&self.path, line, marks, text)
                })?;
                self.session.push(Entry { line, mark });
            }
        }
        Ok(())
    }

    /// Which sides it is played against: `drives: server` (the default), `client` or `both` in its given part.
    pub fn drives(&self) -> Drives {
        let value = self
            .given
            .iter()
            .find_map(|fact| fact.text.strip_prefix("drives: "));
        match value {
            Some("client") => Drives::Client,
            Some("both") => Drives::Both,
            _ => Drives::Server,
        }
    }

    /// What is to be true at one side: of a file that drives both, the outcomes are the client's and the rest the server's.
    pub fn then_of(&self, speaker: Speaker) -> Vec<&Fact> {
        let is_client = |fact: &Fact| {
            ["recipient ", "etrn ", "closed: ", "logged in"]
                .iter()
                .any(|start| fact.text.starts_with(start))
        };
        self.then
            .iter()
            .filter(|fact| {
                self.drives() != Drives::Both || is_client(fact) == (speaker == Speaker::Client)
            })
            .collect()
    }

    /// Whether it plays without a socket alone: time passes, the line is lost, or `pure: REASON` says why.
    pub fn is_pure(&self) -> bool {
        let mut marks = self.session.iter().map(|entry| &entry.mark);
        let mut given = self.given.iter();
        marks.any(|mark| matches!(mark, Mark::Wait(..) | Mark::Lost))
            || given.any(|fact| fact.text.starts_with("pure: "))
    }

    /// Whether TLS is there before the greeting.
    pub fn begins_with_tls(&self) -> bool {
        let mut given = self.given.iter();
        given.any(|fact| fact.text == "tls from the start")
    }

    /// A failure at a line of this file.
    pub fn failure(&self, line: usize, expected: &str, got: &str) -> Failure {
        Failure::format(&self.path, line, expected, got)
    }
}

fn parse_mark(text: &str) -> Option<Mark> {
    match text {
        "!tls" => return Some(Mark::Tls),
        "!close" => return Some(Mark::Close),
        "!lost" => return Some(Mark::Lost),
        "!closed" => return Some(Mark::Closed),
        _ => {}
    }
    if let Some(time) = text.strip_prefix("!wait ") {
        return parse_duration(time).map(|duration| Mark::Wait(duration, time.to_owned()));
    }
    if text.starts_with('#') {
        return Some(Mark::Comment(text.to_owned()));
    }
    let speaker = match text.chars().next()? {
        'C' => Speaker::Client,
        'S' => Speaker::Server,
        _ => return None,
    };
    let kind = text.chars().nth(1)?;
    let rest = &text[2..];
    let rest = match rest.strip_prefix(' ') {
        Some(rest) => rest,
        None if rest.is_empty() => rest,
        None => return None,
    };
    match kind {
        ':' => Some(Mark::Line(speaker, rest.to_owned())),
        '\\' => unescape(rest).map(|bytes| Mark::Bytes(speaker, bytes)),
        '~' => Some(Mark::Pattern(speaker, rest.to_owned())),
        '#' if speaker == Speaker::Client => {
            let (number, what) = rest.split_once(" octets of ")?;
            let octets = number.parse().ok()?;
            match what {
                "data" => Some(Mark::Data(octets)),
                "chunk" => Some(Mark::Chunk(octets)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Reads `90s`, `5m` or `2h`.
fn parse_duration(text: &str) -> Option<Duration> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    let number: u64 = text[..text.len() - 1].parse().ok()?;
    Some(Duration::from_secs(number * unit))
}

/// Undoes `\r`, `\n`, `\t`, `\\`, `\"`, `\0` and `\xHH`.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'"' => b'"',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                u8::from_str_radix(digits, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Line(speaker, text) if text.is_empty() => write!(f, "{}:", speaker.letter()),
            Mark::Line(speaker, text) => write!(f, "{}: {text}", speaker.letter()),
            Mark::Bytes(speaker, bytes) => write!(f, "{}\\ {}", speaker.letter(), escape(bytes)),
            Mark::Pattern(speaker, pattern) => write!(f, "{}~ {pattern}", speaker.letter()),
            Mark::Data(octets) => write!(f, "C# {octets} octets of data"),
            Mark::Chunk(octets) => write!(f, "C# {octets} octets of chunk"),
            Mark::Tls => f.write_str("!tls"),
            Mark::Close => f.write_str("!close"),
            Mark::Lost => f.write_str("!lost"),
            Mark::Closed => f.write_str("!closed"),
            Mark::Wait(_, time) => write!(f, "!wait {time}"),
            Mark::Comment(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.header {
            writeln!(f, "{line}")?;
        }
        if !self.given.is_empty() {
            writeln!(f, "-- given --")?;
        }
        for fact in &self.given {
            writeln!(f, "{}", fact.text)?;
        }
        writeln!(f, "-- session --")?;
        for entry in &self.session {
            writeln!(f, "{}", entry.mark)?;
        }
        if !self.then.is_empty() {
            writeln!(f, "-- then --")?;
        }
        for fact in &self.then {
            writeln!(f, "{}", fact.text)?;
        }
        Ok(())
    }
}
