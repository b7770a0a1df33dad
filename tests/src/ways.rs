//! The same text by every way in, and out: what a transcript sends by DATA, sent in chunks and by LMTP, and by our client.
//!
//! Where a chunk ends is said before it, so there is no end of data to be malformed: a text with a bare newline or a NUL is
//! refused at the chunk that shows it, its octets are consumed, and the session goes on. What is refused there is found by a
//! model of its own, [`fault`].

use linkmail_smtp::transcript::escape;

use crate::player::Failure;
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
    let fault = fault(text).map(|fault| (fault.known, fault.what));
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

/// What must not be in a text (RFC 5321 2.3.8, RFC 5322 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In the words of the replies.
    pub what: &'static str,
    /// Which octet it is, from 0.
    pub offset: usize,
    /// After how many octets it is known.
    pub known: usize,
}

/// The first fault of a text.
pub fn fault(text: &[u8]) -> Option<Fault> {
    let found = |what, offset, known| {
        Some(Fault {
            what,
            offset,
            known,
        })
    };
    for (at, byte) in text.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| text[before]);
        if before == Some(b'\r') && *byte != b'\n' {
            return found("bare <CR>", at - 1, at + 1);
        }
        match byte {
            b'\n' if before != Some(b'\r') => return found("bare <LF>", at, at + 1),
            0 => return found("<NUL>", at, at + 1),
            _ => {}
        }
    }
    match text.strip_suffix(b"\r") {
        Some(rest) => found("bare <CR>", rest.len(), text.len()),
        None => None,
    }
}

/// Transcripts of our client that has to send the text of `transcript`: as a whole or as it is read, by DATA and in chunks, by
/// SMTP and LMTP. None of it may be said. Nothing, if the text is one that may.
pub fn sent_by_every_way(transcript: &Transcript) -> Result<Vec<Transcript>, Failure> {
    let found = data(transcript).and_then(|(_, text)| Some((fault(&text)?, text)));
    let Some((fault, text)) = found else {
        return Ok(Vec::new());
    };
    let mut made = Vec::new();
    for lmtp in [false, true] {
        for streamed in [false, true] {
            for chunking in [false, true] {
                let text = sending(&text, fault, [lmtp, streamed, chunking]);
                made.push(Transcript::parse(&transcript.path, &text)?);
            }
        }
    }
    Ok(made)
}

fn sending(text: &[u8], fault: Fault, [lmtp, streamed, chunking]: [bool; 3]) -> String {
    let bad = format!(
        "bad body: {} at octet {} of the message",
        fault.what, fault.offset
    );
    let hello = if lmtp { "LHLO" } else { "EHLO" };
    let protocol = if lmtp { "protocol lmtp\n" } else { "" };
    let how = if streamed { "streamed " } else { "" };
    let body = escape(text);
    let offered = if chunking {
        "250-PIPELINING\nS: 250 CHUNKING"
    } else {
        "250 PIPELINING"
    };
    let envelope = "C: MAIL FROM:<a@client.test>\nC: RCPT TO:<b@branch.example>\n";
    let answers = "S: 250 2.1.0 OK\nS: 250 2.1.5 OK\n";
    let quit = "C: QUIT\nS: 221 bye\n";
    // A body that is read as it goes is asked for once its envelope was taken; behind 354 only closing leaves it unsaid.
    let (session, end) = match (streamed, chunking) {
        (false, _) => (quit.to_owned(), "quit"),
        (true, true) => (format!("{envelope}{answers}{quit}"), "quit"),
        (true, false) => {
            let session = format!("{envelope}C: DATA\n{answers}S: 354 go\n!closed\n");
            (session, bad.as_str())
        }
    };
    format!(
        "-- given --\ndrives: client\n{protocol}\
        send <a@client.test> to <b@branch.example> {how}body \"{body}\"\nquit\n\
        -- session --\nS: 220 relay.test\nC: {hello} client.test\nS: 250-relay.test\nS: {offered}\n{session}\
        -- then --\nrecipient <b@branch.example> {bad}\nclosed: {end}\n"
    )
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
