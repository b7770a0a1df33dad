//! A message that has arrived, as it is told, and what its header says.

use std::{net::SocketAddr, path::PathBuf};

use serde::Serialize;

/// A message that was accepted. As JSON it is one line of the receiver's standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arrival {
    /// Where it came in.
    pub listener: SocketAddr,
    /// Who brought it.
    pub peer: SocketAddr,
    /// Where reports about it go; empty is the null reverse path.
    pub reverse_path: String,
    /// Its accepted recipients, as they were written.
    pub recipients: Vec<String>,
    /// Octets, before dot-stuffing.
    pub size: u64,
    /// Its Message-ID with the brackets; empty if it has none.
    pub message_id: String,
    /// Its Subject as it was written; empty if it has none.
    pub subject: String,
    /// When it was accepted, in milliseconds since 1970.
    pub received_ms: i64,
    /// The file that it is kept in, if a folder was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// What a receiver tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A message was accepted; its client has not heard 250 yet.
    Arrived(Arrival),
    /// A recipient was refused by a [`super::Refusal`]. Not told when whoever listens is slow.
    Refused {
        /// The recipient, as it was written.
        recipient: String,
        /// The reply that was given.
        reply: String,
    },
}

/// The header of a message while it comes in: its first octets up to the empty line, at most [`Header::LIMIT`].
#[derive(Debug, Default)]
pub(super) struct Header {
    octets: Vec<u8>,
    complete: bool,
}

impl Header {
    /// What stands behind so many octets is not looked at.
    const LIMIT: usize = 64 * 1024;

    /// Takes the next octets of the message.
    pub(super) fn feed(&mut self, octets: &[u8]) {
        if self.complete {
            return;
        }
        let room = Self::LIMIT - self.octets.len();
        // The empty line may lie across two pieces.
        let seen = self.octets.len().saturating_sub(3);
        self.octets
            .extend_from_slice(&octets[..octets.len().min(room)]);
        let end = self.octets[seen..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            self.octets.truncate(seen + end + 2);
        }
        self.complete = end.is_some() || self.octets.len() == Self::LIMIT;
    }

    /// The body of the first field of that name, unfolded (RFC 5322 2.2.3) and trimmed; empty if there is none. Octets
    /// that are not UTF-8 are replaced.
    pub(super) fn field(&self, name: &str) -> String {
        let text = String::from_utf8_lossy(&self.octets);
        let mut lines = text.split("\r\n").take_while(|line| !line.is_empty());
        let first = lines.find_map(|line| {
            let (found, body) = line.split_once(':')?;
            found
                .trim_end()
                .eq_ignore_ascii_case(name)
                .then(|| body.to_owned())
        });
        let Some(mut body) = first else {
            return String::new();
        };
        for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
            body.push_str(line);
        }
        body.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"Received: from a\r\n\tby b\r\nSUBJECT: one\r\n two\r\n\
        Subject: second\r\nMessage-ID: <1@b.example>\r\n\r\nX-In-Body: no\r\n";

    #[test]
    fn fields_are_found_however_the_octets_were_cut() {
        for cut in 0..MESSAGE.len() {
            let mut header = Header::default();
            header.feed(&MESSAGE[..cut]);
            header.feed(&MESSAGE[cut..]);
            assert_eq!(header.field("subject"), "one two", "{cut}");
            assert_eq!(header.field("Message-ID"), "<1@b.example>", "{cut}");
            assert_eq!(header.field("X-In-Body"), "", "{cut}");
        }
    }

    #[test]
    fn an_endless_header_is_not_kept() {
        let mut header = Header::default();
        for _ in 0..100 {
            header.feed(&[b'x'; 4096]);
        }
        assert_eq!(header.octets.len(), Header::LIMIT);
    }
}
