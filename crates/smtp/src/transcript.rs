//! A bounded record of a session in the form of the transcript tests (docs/transcripts.md).
//!
//! The daemons keep one per session and log it when the session fails, so that an incident becomes a test by copying it.
//! Message data is counted, not kept: no mail text reaches a log. Known limit: data that a client sends before it has its
//! 354 is recorded as command lines.

use std::collections::VecDeque;

use crate::data::{DataDecoder, DataState};

/// Octets of text that are kept from the start, and as many from the end.
const MAX_PART: usize = 32 * 1024;
/// A line longer than this is recorded in parts.
const MAX_LINE: usize = 1024;

#[derive(Debug)]
struct Data {
    decoder: DataDecoder,
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
}

impl Recorder {
    /// An empty record.
    pub fn new() -> Recorder {
        Recorder::default()
    }

    /// Records what the client sent. Behind a 354 it is data up to its end, of which only the size is kept.
    pub fn client(&mut self, bytes: &[u8]) {
        let rest = self.count_data(bytes);
        self.client.extend_from_slice(rest);
        let mut line = std::mem::take(&mut self.client);
        self.cut_lines(&mut line, 'C');
        self.client = line;
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
            if side == 'S' && line.starts_with(b"354 ") {
                self.data = Some(Data {
                    decoder: DataDecoder::new(),
                    octets: 0,
                });
            }
            read += length;
        }
        bytes.drain(..read);
    }

    fn line(&mut self, line: &[u8], side: char) {
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
mod tests {
    use super::*;

    #[test]
    fn a_session_reads_as_a_transcript() {
        let mut recorder = Recorder::new();
        recorder.server(b"220 relay.test ESMTP\r\n");
        recorder.client(b"EHLO a");
        recorder.client(b".example\r\nDATA\r\n");
        recorder.server(b"354 go\r\n");
        recorder.client(b"secret\r\n.");
        recorder.client(b"\r\nQU\x01IT\r\n");
        recorder.client(b"NOOP\nRSET\r\nha");
        recorder.mark("!close");
        assert_eq!(
            recorder.text(),
            "S: 220 relay.test ESMTP\nC: EHLO a.example\nC: DATA\nS: 354 go\nC# 8 octets of data\nC\\ QU\\x01IT\\r\\n\nC\\ NOOP\\n\nC: RSET\nC\\ ha\n!close\n"
        );
    }

    #[test]
    fn smuggling_shows_and_data_does_not() {
        let mut recorder = Recorder::new();
        recorder.server(b"354 go\r\n");
        recorder.client(b"secret\r\n.\nMAIL FROM:<>\r\n");
        assert_eq!(
            recorder.text(),
            "S: 354 go\n# 8 octets of data, then a malformed end\nC: MAIL FROM:<>\n"
        );
    }

    #[test]
    fn the_record_is_bounded_and_keeps_both_ends() {
        let mut recorder = Recorder::new();
        for number in 0..100_000 {
            recorder.client(format!("NOOP {number}\r\n").as_bytes());
        }
        recorder.client(&[b'x'; 1_000_000]);
        let text = recorder.text();
        assert!(text.len() < 2 * MAX_PART + 100, "{}", text.len());
        assert!(text.starts_with("C: NOOP 0\n"));
        assert!(text.contains(" octets of transcript left out\n"));
        assert!(text.trim_end().ends_with('x'));
    }
}
