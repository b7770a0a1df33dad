//! The `Received` field: writing ours (RFC 5321 4.4), and counting those that are there (RFC 5321 6.3).

use std::net::IpAddr;

use crate::path::{Domain, ForwardPath};

/// What our `Received` field says.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The name the client gave in EHLO or HELO.
    pub from: &'a [u8],
    /// The client's address.
    pub peer: IpAddr,
    /// Our host name.
    pub by: &'a str,
    /// What [`crate::server::ServerSession::protocol`] says, such as `ESMTPS` (RFC 3848).
    pub protocol: &'a str,
    /// The id of the message in the spool.
    pub id: &'a str,
    /// The recipient, if the message has only one: more would tell blind recipients of each other (RFC 5321 7.2).
    pub recipient: Option<&'a ForwardPath>,
    /// Date and time in the form of RFC 5322 3.3.
    pub date: &'a str,
}

/// Our `Received` field, folded, with its final CRLF.
///
/// A client name that is no domain is left out in favour of the address: the grammar has no place for it.
pub fn received_line(received: &Received<'_>) -> Vec<u8> {
    let literal = match received.peer.to_canonical() {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    };
    let from = match Domain::parse(received.from) {
        Ok(domain) => domain.to_string(),
        Err(_) => literal.clone(),
    };
    let Received {
        by,
        protocol,
        id,
        date,
        ..
    } = received;
    let recipient = match received.recipient {
        Some(path) => format!("\r\n\tfor <{path}>"),
        None => String::new(),
    };
    format!(
        "Received: from {from} ({literal})\r\n\tby {by} with {protocol} id {id}{recipient};\r\n\t{date}\r\n"
    )
    .into_bytes()
}

const NAME: &[u8] = b"received";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scan {
    /// So many octets of a line were read, and all fit the name.
    Name(usize),
    /// Behind the name, in white space before the colon (RFC 5322 4.5).
    Space,
    /// In a line that is not, or no longer, of interest.
    Rest,
    /// Behind a CR at the start of a line.
    EmptyCr,
    Ended,
}

/// Counts the `Received` fields of a message and finds the end of its header section, in pieces of any size.
///
/// The header section ends at the first empty line; a message without one is all header. Lines end in CRLF.
#[derive(Clone, Copy, Debug)]
pub struct HeaderScan {
    scan: Scan,
    received: usize,
    header_bytes: u64,
    eight_bit: bool,
}

impl Default for HeaderScan {
    fn default() -> HeaderScan {
        HeaderScan::new()
    }
}

impl HeaderScan {
    /// A scan at the start of a message.
    pub fn new() -> HeaderScan {
        HeaderScan {
            scan: Scan::Name(0),
            received: 0,
            header_bytes: 0,
            eight_bit: false,
        }
    }

    /// How many `Received` fields were seen.
    pub fn received(&self) -> usize {
        self.received
    }

    /// Whether the header section so far has octets above 127 (RFC 6532 3).
    pub fn eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// Whether the empty line behind the header section was seen.
    pub fn ended(&self) -> bool {
        self.scan == Scan::Ended
    }

    /// Octets of the header section so far, the empty line not included.
    pub fn header_bytes(&self) -> u64 {
        self.header_bytes
    }

    /// Reads the next piece of the message.
    pub fn feed(&mut self, mut piece: &[u8]) {
        while let Some((byte, rest)) = piece.split_first() {
            match self.scan {
                Scan::Ended => return,
                Scan::Rest => {
                    let line = memchr::memchr(b'\n', piece).map_or(piece.len(), |at| at + 1);
                    if piece[line - 1] == b'\n' {
                        self.scan = Scan::Name(0);
                    }
                    self.header_bytes += line as u64;
                    self.eight_bit |= !piece[..line].is_ascii();
                    piece = &piece[line..];
                }
                _ => {
                    self.byte(*byte);
                    piece = rest;
                }
            }
        }
    }

    fn byte(&mut self, byte: u8) {
        self.header_bytes += 1;
        self.eight_bit |= !byte.is_ascii();
        self.scan = match (self.scan, byte) {
            (Scan::EmptyCr, b'\n') => {
                self.header_bytes -= 2;
                Scan::Ended
            }
            (Scan::Name(0), b'\r') => Scan::EmptyCr,
            (_, b'\n') => Scan::Name(0),
            (Scan::Name(8) | Scan::Space, b':') => {
                self.received += 1;
                Scan::Rest
            }
            (Scan::Name(8) | Scan::Space, b' ' | b'\t') => Scan::Space,
            (Scan::Name(at), _) if NAME.get(at) == Some(&byte.to_ascii_lowercase()) => {
                Scan::Name(at + 1)
            }
            _ => Scan::Rest,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_follows_the_grammar() {
        let path = ForwardPath::parse(b"a@b.example").unwrap();
        let mut received = Received {
            from: b"client.example",
            peer: "192.0.2.1".parse().unwrap(),
            by: "relay.test",
            protocol: "ESMTP",
            id: "17",
            recipient: Some(&path),
            date: "Thu, 21 May 1998 05:33:29 -0700",
        };
        assert_eq!(
            String::from_utf8(received_line(&received)).unwrap(),
            "Received: from client.example ([192.0.2.1])\r\n\tby relay.test with ESMTP id 17\r\n\tfor <a@b.example>;\r\n\tThu, 21 May 1998 05:33:29 -0700\r\n"
        );
        received.recipient = None;
        received.from = b"not_a_domain";
        received.peer = "::ffff:192.0.2.1".parse().unwrap();
        assert!(
            received_line(&received).starts_with(b"Received: from [192.0.2.1] ([192.0.2.1])\r\n")
        );
        received.peer = "2001:db8::1".parse().unwrap();
        assert!(received_line(&received).starts_with(b"Received: from [IPv6:2001:db8::1] ("));
    }

    #[test]
    fn only_fields_of_the_header_section_count() {
        let message = b"Received: a\r\n\tReceived: folded\r\nrECEIVED : b\r\nReceived-SPF: c\r\nX: Received: d\r\nReceive: e\r\n\r\nReceived: f\r\n";
        let header = message.len() - b"\r\nReceived: f\r\n".len();
        for piece in [1, 2, 5, 1000] {
            let mut scan = HeaderScan::new();
            for piece in message.chunks(piece) {
                scan.feed(piece);
            }
            assert_eq!(
                (scan.received(), scan.ended(), scan.header_bytes()),
                (2, true, header as u64)
            );
        }
        let mut open = HeaderScan::new();
        open.feed(b"Subject: no end\r\n");
        assert!(!open.ended());
        let mut empty = HeaderScan::new();
        empty.feed(b"\r\n");
        assert!(empty.ended() && empty.header_bytes() == 0);
    }
}
