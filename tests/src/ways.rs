//! The same text by every way in: what a transcript sends by DATA, sent in chunks and by LMTP.
//!
//! Where a chunk ends is said before it, so there is no end of data to be malformed: a text with a bare newline or a NUL is
//! refused at the chunk that shows it, its octets are consumed, and the session goes on. What is refused there is found by a
//! model of its own, [`fault`].

use crate::transcript::{Drives, Entry, Fact, Mark, Speaker, Transcript};

const QUIT: &str = "QUIT";
const FAREWELL: &str = "221 2.0.0 relay.test closing connection";

/// How a text comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By DATA.
    Data,
    /// As one chunk.
    Chunk,
    /// In chunks of one octet each.
    Octets,
}

/// A server transcript with one DATA whose text is one `C\` mark, by all ways but its own. Nothing, if it is none.
pub fn by_other_ways(transcript: &Transcript) -> Vec<Transcript> {
    let Some((at, text)) = data(transcript) else {
        return Vec::new();
    };
    let mut made = Vec::new();
    for lmtp in [false, true] {
        for way in [Way::Data, Way::Chunk, Way::Octets] {
            let mut by = match way {
                Way::Data if !lmtp => continue,
                Way::Data => transcript.clone(),
                Way::Chunk => in_chunks(transcript, at, &text, text.len()),
                Way::Octets => in_chunks(transcript, at, &text, 1),
            };
            if lmtp {
                speak_lmtp(&mut by);
            }
            let protocol = if lmtp { "LMTP" } else { "SMTP" };
            let name = format!("{} ({way:?} of {protocol})", transcript.path.display());
            by.path = name.into();
            made.push(by);
        }
    }
    made
}

/// Where DATA stands in the session, and what is said behind its 354.
fn data(transcript: &Transcript) -> Option<(usize, Vec<u8>)> {
    if transcript.drives() != Drives::Server {
        return None;
    }
    let said = |entry: &Entry| entry.mark == Mark::Line(Speaker::Client, "DATA".to_owned());
    let at = transcript.session.iter().position(said)?;
    match transcript.session.get(at + 2).map(|entry| &entry.mark) {
        Some(Mark::Bytes(Speaker::Client, text)) => Some((at, text.clone())),
        _ => None,
    }
}

/// The transcript with `text` in chunks of `size` octets in place of all that begins with its DATA, and a QUIT.
fn in_chunks(transcript: &Transcript, at: usize, text: &[u8], size: usize) -> Transcript {
    let line = transcript.session[at].line;
    let mut by = transcript.clone();
    by.session.truncate(at);
    let fault = fault(text);
    let mut end = 0;
    for chunk in text.chunks(size) {
        let start = end;
        end += chunk.len();
        let last = if end == text.len() { " LAST" } else { "" };
        let mut said = format!("BDAT {}{last}\r\n", chunk.len()).into_bytes();
        said.extend_from_slice(chunk);
        let answer = match fault {
            Some((known, _)) if known <= start => {
                "503 5.5.1 an earlier chunk was refused, send RSET".to_owned()
            }
            Some((known, what)) if known <= end => {
                format!("550 5.5.2 message refused: {what} in the data")
            }
            _ if last.is_empty() => format!("250 2.0.0 {} octets received", chunk.len()),
            _ => "250 2.0.0 OK, queued as 1".to_owned(),
        };
        let marks = [
            Mark::Bytes(Speaker::Client, said),
            Mark::Line(Speaker::Server, answer),
        ];
        by.session.extend(marks.map(|mark| Entry { line, mark }));
    }
    let farewell = [
        Mark::Line(Speaker::Client, QUIT.to_owned()),
        Mark::Line(Speaker::Server, FAREWELL.to_owned()),
    ];
    by.session.extend(farewell.map(|mark| Entry { line, mark }));
    by.then = then(transcript, text, fault.map(|(_, what)| what));
    by
}

/// What is true behind the chunks: the message as it was sent, octet for octet, or why there is none.
fn then(transcript: &Transcript, text: &[u8], fault: Option<&str>) -> Vec<Fact> {
    let line = transcript.then.first().map_or(0, |fact| fact.line);
    let texts = match fault {
        Some(what) => vec![format!("aborted: {what} in the data")],
        None => {
            let envelope = transcript.then.first().map(|fact| fact.text.clone());
            let text = String::from_utf8_lossy(text).into_owned();
            let lines = text.lines().map(|line| format!("| {line}"));
            envelope.into_iter().chain(lines).collect()
        }
    };
    texts.into_iter().map(|text| Fact { line, text }).collect()
}

/// What must not be in a text (RFC 5321 2.3.8, RFC 5322 2.3), and after how many octets that is known.
pub fn fault(text: &[u8]) -> Option<(usize, &'static str)> {
    for (at, byte) in text.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| text[before]);
        if before == Some(b'\r') && *byte != b'\n' {
            return Some((at + 1, "bare <CR>"));
        }
        match byte {
            b'\n' if before != Some(b'\r') => return Some((at + 1, "bare <LF>")),
            0 => return Some((at + 1, "<NUL>")),
            _ => {}
        }
    }
    text.ends_with(b"\r").then_some((text.len(), "bare <CR>"))
}

/// The transcript with LHLO in place of EHLO (RFC 2033), and without ETRN, which is not asked of a mailbox server. It has one
/// recipient, so its replies are as many.
fn speak_lmtp(transcript: &mut Transcript) {
    let line = transcript.given.first().map_or(0, |fact| fact.line);
    let given = ["lmtp", "etrn off"].map(|text| Fact {
        line,
        text: text.to_owned(),
    });
    transcript.given.extend(given);
    let etrn = Mark::Line(Speaker::Server, "250 ETRN".to_owned());
    transcript.session.retain(|entry| entry.mark != etrn);
    for entry in &mut transcript.session {
        match &mut entry.mark {
            Mark::Line(Speaker::Client, text) if text.starts_with("EHLO ") => {
                text.replace_range(..4, "LHLO");
            }
            Mark::Line(Speaker::Server, text) if text == "250-CHUNKING" => {
                text.replace_range(3..4, " ");
            }
            Mark::Line(Speaker::Server, text) if text.starts_with("220 ") => {
                *text = text.replace(" ESMTP", " LMTP");
            }
            _ => {}
        }
    }
    for fact in &mut transcript.then {
        if fact.text.starts_with("message from ") {
            fact.text.push_str(" with LMTP");
        }
    }
}
