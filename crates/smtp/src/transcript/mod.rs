//! A bounded record of a session in the form of the transcript tests (docs/transcripts.md).
//!
//! The daemons keep one per session and log it when the session fails, so that an incident becomes a test by copying it.
//! Message data is counted, not kept: no mail text reaches a log. Neither do credentials: what stands behind a mechanism
//! in AUTH, and every line that answers a 334, is withheld. Known limits: data that a client sends before it has its 354
//! is recorded as command lines, and so are responses of an AUTH exchange that the server has refused already.

use std::collections::VecDeque;

use crate::data::{DataDecoder, DataState};
use crate::parameters::{decimal, words};

/// Octets of text that are kept from the start, and as many from the end.
const MAX_PART: usize = 32 * 1024;
/// A line longer than this is recorded in parts.
const MAX_LINE: usize = 1024;

/// What stands for octets that are not recorded.
const WITHHELD: &str = "[withheld]";

#[derive(Debug)]
struct Data {
    decoder: DataDecoder,
    octets: u64,
}

/// The chunk behind a BDAT (RFC 3030 2).
#[derive(Debug)]
struct Chunk {
    left: u64,
    octets: u64,
}

/// Records both directions of one session.
#[derive(Debug, Default)]
pub struct Recorder {
    first: String,
    last: VecDeque<String>,
    last_octets: usize,
    left_out: u64,
    client: Vec<u8>,
    server: Vec<u8>,
    data: Option<Data>,
    chunk: Option<Chunk>,
    /// Lines of the client are credentials, until the server says something else than 334.
    in_auth: bool,
    /// The line of the client that is being recorded in parts began with credentials.
    in_secret_line: bool,
}

impl Recorder {
    /// An empty record.
    pub fn new() -> Recorder {
        Recorder::default()
    }

    /// Records what the client sent. Behind a 354 it is data up to its end, and behind BDAT a chunk, of which only the
    /// size is kept.
    pub fn client(&mut self, bytes: &[u8]) {
        let mut rest = self.count_data(bytes);
        loop {
            rest = self.count_chunk(rest);
            if self.chunk.is_some() {
                return;
            }
            // Octets behind a chunk that begins in this piece are taken back out of the line buffer.
            self.client.extend_from_slice(rest);
            let mut lines = std::mem::take(&mut self.client);
            self.cut_lines(&mut lines, 'C');
            if self.chunk.is_none() {
                self.client = lines;
                return;
            }
            let taken = lines.len();
            rest = &rest[rest.len() - taken..];
        }
    }

    /// Records what the server sent.
    pub fn server(&mut self, bytes: &[u8]) {
        self.server.extend_from_slice(bytes);
        let mut line = std::mem::take(&mut self.server);
        self.cut_lines(&mut line, 'S');
        self.server = line;
    }

    /// Records a mark: `!close` when the peer closed the connection, or a comment that starts with `#`.
    pub fn mark(&mut self, mark: &str) {
        self.flush();
        self.push(format!("{mark}\n"));
    }

    /// The record so far. Parts of lines that have not ended yet are shown as bytes.
    pub fn text(&mut self) -> String {
        self.flush();
        let mut text = self.first.clone();
        if self.left_out > 0 {
            text.push_str(&format!(
                "# {} octets of transcript left out\n",
                self.left_out
            ));
        }
        text.extend(self.last.iter().map(String::as_str));
        text
    }

    /// Counts data at the start of `bytes`, if data is due, and gives what follows it.
    fn count_data<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(data) = &mut self.data else {
            return bytes;
        };
        let mut body = Vec::new();
        let decoded = data.decoder.decode(bytes, &mut body);
        data.octets += body.len() as u64;
        match decoded.state {
            DataState::Open => {}
            DataState::Ended => self.end_data(None),
            DataState::Malformed => self.end_data(Some("a malformed end")),
        }
        &bytes[decoded.consumed..]
    }

    /// Only whole data without a fault can be played again by its size; anything else becomes a comment.
    fn end_data(&mut self, how: Option<&str>) {
        let Some(data) = self.data.take() else {
            return;
        };
        let octets = data.octets;
        let fault = data.decoder.fault();
        self.push(match (fault, how) {
            (None, None) => format!("C# {octets} octets of data\n"),
            (None, Some(how)) => format!("# {octets} octets of data, then {how}\n"),
            (Some(fault), None) => format!("# {octets} octets of data, then a {fault}\n"),
            (Some(fault), Some(how)) => {
                format!("# {octets} octets of data, then a {fault}, then {how}\n")
            }
        });
    }

    /// Counts a chunk at the start of `bytes`, if one is due, and gives what follows it.
    fn count_chunk<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(chunk) = &mut self.chunk else {
            return bytes;
        };
        let count = usize::try_from(chunk.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        chunk.left -= count as u64;
        chunk.octets += count as u64;
        if chunk.left == 0 {
            self.end_chunk();
        }
        &bytes[count..]
    }

    /// Only a whole chunk can be played again by its size. Faults in it show in what it is answered with.
    fn end_chunk(&mut self) {
        let Some(chunk) = self.chunk.take() else {
            return;
        };
        let octets = chunk.octets;
        if chunk.left > 0 {
            self.push(format!("# {octets} octets of chunk, then no end\n"));
        } else if octets > 0 {
            self.push(format!("C# {octets} octets of chunk\n"));
        }
    }

    fn cut_lines(&mut self, bytes: &mut Vec<u8>, side: char) {
        let mut read = 0;
        loop {
            let rest = &bytes[read..];
            let end = memchr::memchr(b'\n', rest).map(|at| at + 1);
            let length = end.unwrap_or(rest.len()).min(MAX_LINE);
            if end.is_none() && rest.len() <= MAX_LINE {
                break;
            }
            let line = &rest[..length];
            self.line(line, side);
            read += length;
            match side {
                'S' => self.hear_server(line),
                _ if self.begins_chunk(line) => break,
                _ => {}
            }
        }
        bytes.drain(..read);
    }

    /// What the last line of a reply says about the client's next octets.
    fn hear_server(&mut self, line: &[u8]) {
        // A code may come without a text (RFC 5321 4.2).
        let is_last = !matches!(line.get(3), Some(b'-'));
        if is_last {
            self.in_auth = line.starts_with(b"334");
        }
        if is_last && line.starts_with(b"354") {
            self.data = Some(Data {
                decoder: DataDecoder::new(),
                octets: 0,
            });
        }
    }

    fn begins_chunk(&mut self, line: &[u8]) -> bool {
        let mut words = line.strip_suffix(b"\r\n").into_iter().flat_map(words);
        let is_bdat = words
            .next()
            .is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"));
        if let Some(left) = words
            .next()
            .and_then(decimal)
            .filter(|_| is_bdat && !self.in_auth)
        {
            self.chunk = Some(Chunk { left, octets: 0 });
        }
        self.chunk.is_some()
    }

    /// The line of the client with its credentials withheld, if it has any.
    fn withheld(&mut self, line: &[u8]) -> Option<String> {
        let goes_on = !line.ends_with(b"\n");
        let is_rest = std::mem::replace(&mut self.in_secret_line, false);
        let mut words = line
            .trim_ascii()
            .split(|byte| *byte == b' ')
            .filter(|word| !word.is_empty());
        let is_command = words
            .next()
            .is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH"));
        if is_rest || self.in_auth {
            self.in_secret_line = goes_on;
            self.in_auth = !goes_on;
            // A cancellation is no secret, and tells what follows.
            let is_cancel = !is_rest && line == b"*\r\n";
            return (!is_cancel).then(|| WITHHELD.to_owned());
        }
        if !is_command {
            return None;
        }
        // What a client pipelines behind AUTH may be its responses.
        self.in_auth = !goes_on;
        self.in_secret_line = goes_on;
        let mechanism = words.next().unwrap_or_default().escape_ascii().to_string();
        words.next().map(|_| format!("AUTH {mechanism} {WITHHELD}"))
    }

    fn line(&mut self, line: &[u8], side: char) {
        if side == 'C'
            && let Some(shown) = self.withheld(line)
        {
            return self.push(format!("C: {shown}\n"));
        }
        // A challenge, with its answer, is what a password can be guessed from.
        if side == 'S' && line.starts_with(b"334 ") && line != b"334 \r\n" {
            return self.push(format!("S: 334 {WITHHELD}\n"));
        }
        let text = line.strip_suffix(b"\r\n");
        match text {
            Some(text) if text.iter().all(|byte| (32..127).contains(byte)) => {
                let text = String::from_utf8_lossy(text);
                self.push(format!("{side}: {text}\n"));
            }
            _ => self.push(format!("{side}\\ {}\n", escape(line))),
        }
    }

    /// Ends what is half recorded.
    fn flush(&mut self) {
        self.end_data(Some("no end"));
        self.end_chunk();
        for (side, rest) in [
            ('C', std::mem::take(&mut self.client)),
            ('S', std::mem::take(&mut self.server)),
        ] {
            if !rest.is_empty() {
                self.line(&rest, side);
            }
        }
    }

    fn push(&mut self, line: String) {
        if self.last.is_empty() && self.first.len() + line.len() <= MAX_PART {
            self.first.push_str(&line);
            return;
        }
        self.last_octets += line.len();
        self.last.push_back(line);
        while self.last_octets > MAX_PART {
            let Some(oldest) = self.last.pop_front() else {
                break;
            };
            self.last_octets -= oldest.len();
            self.left_out += oldest.len() as u64;
        }
    }
}

/// Printable ASCII as it is, everything else as `\r`, `\n`, `\t`, `\\` or `\xHH`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            32..=126 => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests;
