//! Reads replies from a stream of bytes (RFC 5321 4.2.1), whatever the pieces they come in.
//!
//! Strict where a reply could be attributed to the wrong command: only CRLF ends a line, one reply has one code, and
//! everything is bounded. A bare LF or CR in a reply is a protocol error, not a line end: in a pipelined group one reply
//! too many would say "accepted" about a message that was refused. Tolerant where nothing hangs on it: a code without
//! text, text in any bytes, lines longer than the 512 octets of RFC 5321 4.5.3.1.5.

use thiserror::Error;

use crate::reply::{Enhanced, Reply};

/// The longest line that is read, without its CRLF.
const MAX_LINE: usize = 4096;
/// The most lines of one reply.
const MAX_LINES: usize = 256;

/// Why what the server sent is not a reply.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// A line does not start with a code from 200 to 599 followed by a space, a hyphen or nothing.
    #[error("not an SMTP reply: {0:?}")]
    NotAReply(String),
    /// A carriage return or line feed stands alone.
    #[error("a reply with a bare CR or LF")]
    BareNewline,
    /// Two lines of one reply carry different codes.
    #[error("a reply with two codes, {0} and {1}")]
    MixedCodes(u16, u16),
    /// A line is longer than 4096 octets, or a reply has more than 256 lines.
    #[error("a reply that is too long")]
    TooLong,
}

/// Gathers bytes into replies.
#[derive(Debug, Default)]
pub struct ReplyReader {
    buffer: Vec<u8>,
    read: usize,
    partial: Option<Reply>,
}

impl ReplyReader {
    /// A reader that has received nothing.
    pub fn new() -> ReplyReader {
        ReplyReader::default()
    }

    /// Takes what the server sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether octets were received that are not read yet.
    pub fn has_unread(&self) -> bool {
        self.partial.is_some() || self.read < self.buffer.len()
    }

    /// The next complete reply, or nothing until more is received. Errors: [`ReplyError`]; no reply can be trusted after it.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, ReplyError> {
        while let Some(line) = self.next_line()? {
            let (code, is_last, text) = split_line(&line)?;
            let mut reply = match self.partial.take() {
                None => Reply {
                    code,
                    enhanced: None,
                    lines: Vec::new(),
                },
                Some(reply) if reply.code == code => reply,
                Some(reply) => return Err(ReplyError::MixedCodes(reply.code, code)),
            };
            reply.lines.push(text.to_vec());
            if is_last {
                extract_enhanced(&mut reply);
                return Ok(Some(reply));
            }
            if reply.lines.len() >= MAX_LINES {
                return Err(ReplyError::TooLong);
            }
            self.partial = Some(reply);
        }
        Ok(None)
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, ReplyError> {
        let unread = &self.buffer[self.read..];
        let Some(at) = memchr::memchr2(b'\r', b'\n', unread) else {
            return if unread.len() > MAX_LINE {
                Err(ReplyError::TooLong)
            } else {
                Ok(None)
            };
        };
        if at > MAX_LINE {
            return Err(ReplyError::TooLong);
        }
        match (unread[at], unread.get(at + 1)) {
            (b'\r', Some(b'\n')) => {
                let line = unread[..at].to_vec();
                self.read += at + 2;
                Ok(Some(line))
            }
            (b'\r', None) => Ok(None),
            _ => Err(ReplyError::BareNewline),
        }
    }
}

/// Code, whether it is the last line, and text.
fn split_line(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    let not_a_reply = || {
        let start = &line[..line.len().min(80)];
        ReplyError::NotAReply(String::from_utf8_lossy(start).into_owned())
    };
    let (digits, rest) = line.split_at_checked(3).ok_or_else(not_a_reply)?;
    if !digits.iter().all(u8::is_ascii_digit) || !(b'2'..=b'5').contains(&digits[0]) {
        return Err(not_a_reply());
    }
    let code = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match rest.split_first() {
        None => Ok((code, true, rest)),
        Some((b' ', text)) => Ok((code, true, text)),
        Some((b'-', text)) => Ok((code, false, text)),
        Some(_) => Err(not_a_reply()),
    }
}

/// Moves the enhanced code out of the text, if the first line has one whose class fits the reply code (RFC 2034 4).
fn extract_enhanced(reply: &mut Reply) {
    let Some((enhanced, _)) = reply.lines.first().and_then(|line| leading_enhanced(line)) else {
        return;
    };
    if u16::from(enhanced.0) != reply.code / 100 {
        return;
    }
    for line in &mut reply.lines {
        if let Some((same, text)) = leading_enhanced(line)
            && same == enhanced
        {
            *line = text.to_vec();
        }
    }
    reply.enhanced = Some(enhanced);
}

fn leading_enhanced(line: &[u8]) -> Option<(Enhanced, &[u8])> {
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let enhanced = Enhanced::parse(&line[..end])?;
    Some((enhanced, line[end..].strip_prefix(b" ").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<String>, ReplyError> {
        let mut whole = ReplyReader::new();
        whole.receive(bytes);
        let mut byte_by_byte = ReplyReader::new();
        let mut replies = Vec::new();
        while let Some(reply) = whole.next_reply()? {
            replies.push(reply);
        }
        let mut again = Vec::new();
        for byte in bytes {
            byte_by_byte.receive(&[*byte]);
            while let Some(reply) = byte_by_byte.next_reply()? {
                again.push(reply);
            }
        }
        assert_eq!(replies, again);
        Ok(replies.iter().map(Reply::to_string).collect())
    }

    #[test]
    fn takes_what_servers_send() {
        for (bytes, replies) in [
            (&b"250 2.0.0 OK\r\n"[..], vec!["250 2.0.0 OK"]),
            (b"250\r\n", vec!["250"]),
            (b"250 \r\n", vec!["250"]),
            (b"250-\r\n250\r\n", vec!["250  "]),
            (b"220 a\r\n250 b\r\n", vec!["220 a", "250 b"]),
            (
                b"550-5.1.1 no\r\n550 5.1.1 really\r\n",
                vec!["550 5.1.1 no really"],
            ),
            (
                b"550 2.1.1 class differs\r\n",
                vec!["550 2.1.1 class differs"],
            ),
            (b"450 4.2.0\r\n", vec!["450 4.2.0"]),
            (b"220 caf\xe9\r\n", vec!["220 caf\u{fffd}"]),
        ] {
            let replies: Vec<_> = replies.iter().map(|text| text.trim_end()).collect();
            let got = read(bytes).unwrap();
            let got: Vec<_> = got.iter().map(|text| text.trim_end()).collect();
            assert_eq!(got, replies);
        }
        let mut reader = ReplyReader::new();
        reader.receive(b"550 2.1.1 class differs\r\n");
        assert_eq!(reader.next_reply().unwrap().unwrap().enhanced, None);
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        for (bytes, error) in [
            (&b"250 a\n250 b\r\n"[..], ReplyError::BareNewline),
            (b"250 a\r250 b\r\n", ReplyError::BareNewline),
            (b"250-a\r\n550 b\r\n", ReplyError::MixedCodes(250, 550)),
            (b"hello\r\n", ReplyError::NotAReply("hello".into())),
            (b"25\r\n", ReplyError::NotAReply("25".into())),
            (b"250x\r\n", ReplyError::NotAReply("250x".into())),
            (b"150 no\r\n", ReplyError::NotAReply("150 no".into())),
        ] {
            assert_eq!(read(bytes), Err(error));
        }
        let mut endless = ReplyReader::new();
        endless.receive(&[b'2'; MAX_LINE + 1]);
        assert_eq!(endless.next_reply(), Err(ReplyError::TooLong));
        let many = b"250-x\r\n".repeat(MAX_LINES);
        assert_eq!(read(&many), Err(ReplyError::TooLong));
    }
}
