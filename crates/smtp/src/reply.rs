//! An SMTP reply: code, enhanced code and text (RFC 5321 4.2, RFC 3463, RFC 2034).

use std::fmt;

/// The longest reply line that is written, without its CRLF (RFC 5321 4.5.3.1.5).
const MAX_LINE: usize = 510;

/// An enhanced status code, `class.subject.detail` (RFC 3463 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl Enhanced {
    /// Reads `2.1.5`; the class is 2, 4 or 5 and each further number has at most three digits.
    pub fn parse(bytes: &[u8]) -> Option<Enhanced> {
        let mut parts = bytes.split(|byte| *byte == b'.');
        let class = match parts.next()? {
            b"2" => 2,
            b"4" => 4,
            b"5" => 5,
            _ => return None,
        };
        let subject = short_number(parts.next()?)?;
        let detail = short_number(parts.next()?)?;
        match parts.next() {
            None => Some(Enhanced(class, subject, detail)),
            Some(_) => None,
        }
    }
}

fn short_number(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        digits
            .iter()
            .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')),
    )
}

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What the first digit of a reply code says (RFC 5321 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// 2yz: done.
    Positive,
    /// 3yz: go on, more is expected.
    Intermediate,
    /// 4yz: not now; the same may succeed later.
    Transient,
    /// 5yz, and every code outside 200 to 499: not at all.
    Permanent,
}

/// One reply, of one or more lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    /// The three-digit code.
    pub code: u16,
    /// The enhanced code, if one stood in front of the text and its class fits the code.
    pub enhanced: Option<Enhanced>,
    /// The text of each line, without code, enhanced code and CRLF. Never empty.
    pub lines: Vec<Vec<u8>>,
}

impl Reply {
    /// A reply with a text; a line feed in the text starts a further line of the reply.
    pub fn new(code: u16, enhanced: impl Into<Option<Enhanced>>, text: impl AsRef<str>) -> Reply {
        Reply {
            code,
            enhanced: enhanced.into(),
            lines: text
                .as_ref()
                .split('\n')
                .map(|line| line.trim_end_matches('\r').as_bytes().to_vec())
                .collect(),
        }
    }

    /// What the code says about the command it answers.
    pub fn severity(&self) -> Severity {
        match self.code {
            200..=299 => Severity::Positive,
            300..=399 => Severity::Intermediate,
            400..=499 => Severity::Transient,
            _ => Severity::Permanent,
        }
    }

    /// Whether the command was done.
    pub fn is_positive(&self) -> bool {
        self.severity() == Severity::Positive
    }

    /// Whether the command was refused for what it asks: 5yz, and 459, which says so to ETRN (RFC 1985 5.3).
    pub fn refuses(&self) -> bool {
        self.severity() == Severity::Permanent || self.code == 459
    }

    /// Whether who sends this reply closes the connection behind it: 421 (RFC 5321 3.8), 521 (RFC 7504 3).
    pub fn closes(&self) -> bool {
        matches!(self.code, 421 | 521)
    }

    /// The text of all lines in one, for people; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        let lines: Vec<_> = self
            .lines
            .iter()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        lines.join(" ")
    }

    /// Appends the reply as it goes on the wire.
    ///
    /// A control byte in the text becomes `?`, so that no text can end a line, and a line is cut at 512 octets.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let last = self.lines.len().saturating_sub(1);
        for (index, text) in self.lines.iter().enumerate() {
            let start = out.len();
            let separator = if index == last { ' ' } else { '-' };
            out.extend_from_slice(format!("{:03}{separator}", self.code).as_bytes());
            if let Some(enhanced) = self.enhanced {
                out.extend_from_slice(format!("{enhanced} ").as_bytes());
            }
            out.extend(
                text.iter()
                    .map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }),
            );
            out.truncate(start + MAX_LINE);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// `250 2.0.0 OK`, several lines joined by spaces.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        let text = self.text();
        if text.is_empty() {
            Ok(())
        } else {
            write!(f, " {text}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn several_lines_carry_the_code_on_each() {
        let reply = Reply::new(550, Enhanced(5, 1, 1), "no such user\nask postmaster");
        assert_eq!(
            encoded(&reply),
            "550-5.1.1 no such user\r\n550 5.1.1 ask postmaster\r\n"
        );
        assert_eq!(reply.to_string(), "550 5.1.1 no such user ask postmaster");
        assert_eq!(reply.severity(), Severity::Permanent);
    }

    #[test]
    fn no_text_ends_a_line_early_or_makes_it_too_long() {
        let mut reply = Reply::new(250, None, "a\rb\0c");
        assert_eq!(encoded(&reply), "250 a?b?c\r\n");
        reply.lines = vec![b"x\r\n250 y".to_vec()];
        assert_eq!(encoded(&reply), "250 x??250 y\r\n");
        assert_eq!(encoded(&Reply::new(250, None, "x".repeat(2000))).len(), 512);
    }

    #[test]
    fn enhanced_codes_are_short_and_of_three_classes() {
        assert_eq!(Enhanced::parse(b"4.7.123"), Some(Enhanced(4, 7, 123)));
        for text in ["3.0.0", "2.0", "2.0.0.0", "2.0.1234", "2..0", "2.0.x", ""] {
            assert_eq!(Enhanced::parse(text.as_bytes()), None, "{text}");
        }
    }
}
