//! What a returned delivery report says (RFC 3464). Pure, and never fails: what cannot be read is empty.
//!
//! Limits: of a report the first [`READ_LIMIT`] octets are read, of a field the first [`FIELD_LIMIT`] characters. The
//! fields of the first recipient count: a probe has one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mail_parser::{MessageParser, MimeHeaders};

/// Octets of a report that are read; the relay gives no more.
pub const READ_LIMIT: usize = 256 * 1024;
/// Characters of a field that are kept.
pub const FIELD_LIMIT: usize = 500;

/// The fields of a report that are looked at; empty where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounce {
    /// Who wrote it (2.2.2), without its type.
    pub reporting_mta: String,
    /// `failed`, `delayed`, … (2.3.3), lower-case.
    pub action: String,
    /// Such as `5.1.1` (2.3.4).
    pub status: String,
    /// The type of the diagnostic code (2.3.6), `smtp` for a reply, lower-case.
    pub diagnostic_type: String,
    /// The diagnostic code behind its type.
    pub diagnostic: String,
    /// Who gave the reply (2.3.5), without its type.
    pub remote_mta: String,
}

impl Bounce {
    /// Reads a message. A parser that panics has read nothing.
    #[must_use]
    pub fn read(message: &[u8]) -> Self {
        let message = &message[..message.len().min(READ_LIMIT)];
        let read = catch_unwind(AssertUnwindSafe(|| {
            let parsed = MessageParser::default().parse(message)?;
            let mut parts = parsed.parts.iter();
            let status = parts.find(|part| part.is_content_type("message", "delivery-status"))?;
            Some(Self::of_fields(&String::from_utf8_lossy(status.contents())))
        }));
        read.ok().flatten().unwrap_or_default()
    }

    /// The first of each field counts, over the blocks of the message and of its recipients.
    fn of_fields(text: &str) -> Self {
        let mut bounce = Self::default();
        for line in unfold(text).lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let (kind, rest) = value.split_once(';').unwrap_or(("", value));
            let slots: &mut [(&mut String, &str)] = match name.trim().to_ascii_lowercase().as_str()
            {
                "reporting-mta" => &mut [(&mut bounce.reporting_mta, rest)],
                "action" => &mut [(&mut bounce.action, value)],
                "status" => &mut [(&mut bounce.status, value)],
                "remote-mta" => &mut [(&mut bounce.remote_mta, rest)],
                "diagnostic-code" => &mut [
                    (&mut bounce.diagnostic_type, kind),
                    (&mut bounce.diagnostic, rest),
                ],
                _ => &mut [],
            };
            for (slot, value) in slots {
                if slot.is_empty() {
                    **slot = one_line(value);
                }
            }
        }
        bounce.action.make_ascii_lowercase();
        bounce.diagnostic_type.make_ascii_lowercase();
        // A comment may follow: "5.1.1 (bad mailbox)".
        let code = bounce.status.split_whitespace().next().unwrap_or_default();
        bounce.status = code.to_owned();
        bounce
    }

    /// Whether it tells that a host refused the recipient by SMTP, and not all mail of ours: by a status of the recipient's
    /// address or mailbox (RFC 3463 X.1, X.2) or of its domain, which has no route there (X.4.4). Without an enhanced code
    /// the reply decides: 550, 551 and 553 are what RFC 5321 4.2.2 has for a mailbox.
    #[must_use]
    pub fn refuses_the_recipient(&self) -> bool {
        self.diagnostic_type == "smtp"
            && match self.status.as_str() {
                "5.0.0" => mailbox_reply(&self.diagnostic),
                status => of_recipient(status),
            }
    }
}

/// 5.1.7 and 5.1.8 are of the sender's address: who gives them takes no mail of ours.
fn of_recipient(status: &str) -> bool {
    let recipient = status.starts_with("5.1.") || status.starts_with("5.2.") || status == "5.4.4";
    recipient && !["5.1.7", "5.1.8"].contains(&status)
}

/// Whether a reply without a status of its own, or with one of the recipient, refuses a mailbox.
fn mailbox_reply(reply: &str) -> bool {
    let mut words = reply.split([' ', '-']);
    let mailbox = words
        .next()
        .is_some_and(|code| ["550", "551", "553"].contains(&code));
    let first = words.next().unwrap_or_default();
    mailbox && (!is_status(first) || first == "5.0.0" || of_recipient(first))
}

/// RFC 3463 2: three numbers.
fn is_status(word: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    word.split('.').count() == 3 && word.split('.').all(number)
}

/// Continued lines become one (RFC 5322 2.2.3).
fn unfold(text: &str) -> String {
    text.replace("\r\n", "\n")
        .replace("\n ", " ")
        .replace("\n\t", " ")
}

fn one_line(text: &str) -> String {
    let trimmed = text.trim().chars().take(FIELD_LIMIT);
    trimmed
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTFIX: &str = "From: MAILER-DAEMON@isp.example\r\nTo: probe@branch.example\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/report; report-type=delivery-status; boundary=\"x\"\r\n\r\n\
        --x\r\nContent-Type: text/plain\r\n\r\nStatus: 9.9.9\r\n\
        --x\r\nContent-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n\r\n\
        Reporting-MTA: dns; mail.isp.example\r\nX-Postfix-Queue-ID: 4AC\r\nArrival-Date: Mon, 23 Nov 2026 18:30:00 +0000\r\n\r\n\
        Final-Recipient: rfc822; no-such-user@isp.example\r\nAction: Failed\r\nStatus: 5.1.1 (no mailbox)\r\n\
        Remote-MTA: dns; mx.isp.example\r\nDiagnostic-Code: SMTP; 550 5.1.1\r\n\t<no-such-user@isp.example>: unknown\r\n\r\n\
        Final-Recipient: rfc822; other@isp.example\r\nAction: failed\r\nStatus: 5.2.2\r\n\
        --x\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: Probe\r\n--x--\r\n";

    #[test]
    fn the_fields_of_a_report_are_found() {
        let bounce = Bounce::read(POSTFIX.as_bytes());
        let expected = Bounce {
            reporting_mta: "mail.isp.example".into(),
            action: "failed".into(),
            status: "5.1.1".into(),
            diagnostic_type: "smtp".into(),
            diagnostic: "550 5.1.1 <no-such-user@isp.example>: unknown".into(),
            remote_mta: "mx.isp.example".into(),
        };
        assert_eq!(bounce, expected);
        assert!(bounce.refuses_the_recipient());
    }

    #[test]
    fn the_recipient_was_refused_only_if_the_report_says_just_that() {
        for (status, kind, diagnostic, refused) in [
            ("5.1.1", "smtp", "550 5.1.1 no such user", true),
            ("5.1.10", "smtp", "556 5.1.10 null MX", true),
            ("5.2.1", "smtp", "550 5.2.1 mailbox disabled", true),
            ("5.4.4", "smtp", "550 5.4.4 no route to this domain", true),
            ("5.0.0", "smtp", "550 no such user", true),
            ("5.0.0", "smtp", "551 not here", true),
            ("5.0.0", "smtp", "553-no 553 such user", true),
            ("5.0.0", "smtp", "550 5.0.0 no", true),
            // A smart host that takes no mail of ours.
            ("5.7.1", "smtp", "550 5.7.1 you are blocked", false),
            ("5.7.0", "smtp", "530 5.7.0 authentication required", false),
            ("5.7.1", "smtp", "550 5.7.1 relaying denied", false),
            ("5.7.1", "smtp", "554 5.7.1 after the data", false),
            ("5.1.7", "smtp", "553 5.1.7 sender's address", false),
            ("5.1.8", "smtp", "553 5.1.8 sender's domain", false),
            ("5.3.4", "smtp", "552 5.3.4 too long", false),
            ("5.0.0", "smtp", "554 transaction failed", false),
            ("5.0.0", "smtp", "530 authentication required", false),
            ("5.0.0", "smtp", "550 5.7.1 relaying denied", false),
            ("5.0.0", "smtp", "550-5.7.1 relaying denied", false),
            ("5.0.0", "smtp", "", false),
            // Time ran out, whatever the last reply was.
            ("5.4.7", "smtp", "450 4.2.0 later", false),
            ("5.4.7", "smtp", "550 5.1.1 no such user", false),
            ("4.4.7", "smtp", "", false),
            ("5.4.7", "", "", false),
            ("4.1.1", "smtp", "450 4.1.1 not now", false),
            ("5.1.1", "x-unix", "550 5.1.1 no such user", false),
            ("5.1.1", "", "", false),
            ("", "smtp", "550 no such user", false),
        ] {
            let bounce = Bounce {
                status: status.into(),
                diagnostic_type: kind.into(),
                diagnostic: diagnostic.into(),
                ..Bounce::default()
            };
            let given = bounce.refuses_the_recipient();
            assert_eq!(given, refused, "{status} {kind} {diagnostic}");
        }
    }

    /// Whatever comes, something bounded comes out: here every prefix of a report, and reports with octets changed.
    #[test]
    fn what_cannot_be_read_is_empty() {
        for message in [&b""[..], b"\0\0\0", b"Subject: x\r\n\r\nhello\r\n"] {
            assert_eq!(Bounce::read(message), Bounce::default());
        }
        let octets = POSTFIX.as_bytes();
        for end in 0..octets.len() {
            let _ = Bounce::read(&octets[..end]);
            let mut damaged = octets.to_vec();
            damaged[end] ^= 0x55;
            let _ = Bounce::read(&damaged);
        }
        let long = POSTFIX.replace("5.1.1 (no", &"9".repeat(100_000));
        assert_eq!(Bounce::read(long.as_bytes()).status.len(), FIELD_LIMIT);
    }

    /// Shapes that make parsers slow or deep; each is read in milliseconds.
    #[test]
    fn what_is_made_to_hurt_does_not() {
        let part = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
        let nested: String = (0..3000)
            .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
            .collect();
        for message in [
            nested,
            "Content-Type: message/rfc822\r\n\r\n".repeat(6000),
            format!("{part}{}", "--b\r\n\r\n".repeat(40_000)),
            format!("From: {}\r\n\r\n", "<(".repeat(125_000)),
            format!("Subject: {}\r\n\r\n", "=?utf-8?q?a?=".repeat(19_000)),
            format!("Content-Type: a/b; {}\r\n\r\n", "a*0*=x;".repeat(35_000)),
        ] {
            assert_eq!(Bounce::read(message.as_bytes()), Bounce::default());
        }
    }
}
