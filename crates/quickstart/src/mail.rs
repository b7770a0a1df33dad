//! The two messages of the quick start: one from the site to somebody outside, one from outside to the site.

use std::net::SocketAddr;

use lettre::{
    Message, SmtpTransport, Transport,
    address::{AddressError, Envelope},
    message::Mailbox,
};

/// Who writes at the site.
pub const ALICE: &str = "alice@branch.example";
/// Who writes outside.
pub const BOB: &str = "bob@remote.example";
/// The recipient of the probes, who does not exist.
pub const NOBODY: &str = "no-such-user@world.example";

/// A message that is to go through, byte for byte.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its Message-ID with the brackets.
    pub message_id: String,
    envelope: Envelope,
    content: Vec<u8>,
}

/// Why a message was not handed in.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// An address that is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A message that cannot be written.
    #[error(transparent)]
    Message(#[from] lettre::error::Error),
    /// The server did not take it.
    #[error("the message from {from} was not taken by {server}: {source}")]
    NotTaken {
        /// Who wrote it.
        from: &'static str,
        /// Who did not take it.
        server: SocketAddr,
        /// What it said.
        source: lettre::transport::smtp::Error,
    },
}

impl Letter {
    /// Writes a message.
    ///
    /// # Errors
    /// An address is none.
    pub fn write(from: &str, to: &str, subject: &str, text: &str) -> Result<Self, LetterError> {
        let message_id = format!("<{}@quickstart.example>", uuid::Uuid::new_v4());
        let message = Message::builder()
            .from(Mailbox::new(None, from.parse()?))
            .to(Mailbox::new(None, to.parse()?))
            .subject(subject)
            .message_id(Some(message_id.clone()))
            .body(text.to_owned())?;
        Ok(Self {
            message_id,
            envelope: message.envelope().clone(),
            content: message.formatted(),
        })
    }

    /// Hands it in by SMTP. Blocks; each step has a limit of lettre's.
    ///
    /// # Errors
    /// The server cannot be reached, or does not take it.
    pub fn hand_in(&self, from: &'static str, server: SocketAddr) -> Result<(), LetterError> {
        let transport = SmtpTransport::builder_dangerous(server.ip().to_string())
            .port(server.port())
            .build();
        // lettre writes one CRLF more than it is given.
        let content = self.content.strip_suffix(b"\r\n").unwrap_or(&self.content);
        let sent = transport.send_raw(&self.envelope, content);
        sent.map(drop).map_err(|source| LetterError::NotTaken {
            from,
            server,
            source,
        })
    }

    /// Whether what arrived is this message, byte for byte behind the trace fields that each relay puts in front
    /// (RFC 5321 4.4).
    #[must_use]
    pub fn came_through_in(&self, arrived: &[u8]) -> bool {
        let Some(in_front) = arrived.strip_suffix(self.content.as_slice()) else {
            return false;
        };
        let Ok(in_front) = std::str::from_utf8(in_front) else {
            return false;
        };
        let is_trace = |line: &str| line.starts_with("Received:") || line.starts_with([' ', '\t']);
        in_front.split_inclusive("\r\n").all(is_trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_came_through_only_behind_trace_fields_and_unchanged() {
        let letter = Letter::write(ALICE, BOB, "Hello", "One.\r\n.\r\nTwo.\r\n").unwrap();
        let content = letter.content.clone();
        assert!(content.ends_with(b"\r\n"));
        let behind = |front: &str| [front.as_bytes(), &content].concat();
        assert!(letter.came_through_in(&content));
        assert!(letter.came_through_in(&behind("Received: from a\r\n\tby b\r\nReceived: x\r\n")));
        assert!(!letter.came_through_in(&behind("X-Spam: no\r\n")));
        assert!(!letter.came_through_in(&[content.as_slice(), b"\r\n"].concat()));
        assert!(!letter.came_through_in(&content[1..]));
    }
}
