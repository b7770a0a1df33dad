//! Delivery status notifications: what the sender is told of recipients that were given up. Pure.
//!
//! A `multipart/report` (RFC 6522) of a text for people, a `message/delivery-status` (RFC 3464) and the header of the
//! returned message: never its body, which the sender has and a dear line should not carry. It goes from the null
//! reverse path, so that it is never answered (RFC 5321 6.1).
//!
//! Limits: of the returned header at most [`HEADER_LIMIT`] octets; octets above 127 in it become `?`, so that the
//! report crosses every next hop.

use lettre::{
    address::Address,
    message::{
        Body, Mailbox as LettreMailbox, Message, MultiPart, SinglePart,
        header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue},
    },
};
use linkmail_smtp::{Mailbox, Reply};

use crate::clock::Stamp;

/// Of the returned header at most so many octets.
pub const HEADER_LIMIT: usize = 32 * 1024;

/// A recipient that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Who.
    pub address: Mailbox,
    /// RFC 3463, class 5.
    pub status: String,
    /// The reply or the error.
    pub diagnostic: Diagnostic,
    /// The host that gave it.
    pub remote: String,
    /// Whether an attempt led to it, at the time of the report.
    pub attempted: bool,
}

/// What was the last word on a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diagnostic {
    /// An SMTP reply.
    Smtp(String),
    /// Our own words: no reply came.
    Words(String),
}

impl Failure {
    /// A recipient that the next hop refused for good.
    #[must_use]
    pub fn refused(address: Mailbox, reply: &Reply, remote: String) -> Self {
        let status = match reply.enhanced {
            Some(enhanced) => format!("{}.{}.{}", enhanced.0, enhanced.1, enhanced.2),
            None => "5.0.0".to_owned(),
        };
        Self {
            address,
            status,
            diagnostic: Diagnostic::Smtp(reply.to_string()),
            remote,
            attempted: true,
        }
    }

    /// A recipient whose attempts failed for too long (RFC 3463 X.4.7).
    #[must_use]
    pub fn expired(address: Mailbox, last: Diagnostic, remote: String) -> Self {
        Self {
            address,
            status: "5.4.7".to_owned(),
            diagnostic: last,
            remote,
            attempted: true,
        }
    }

    /// A recipient whose message was held for too long: giving it up is no attempt.
    #[must_use]
    pub fn held_too_long(address: Mailbox, why: String, remote: String) -> Self {
        Self {
            attempted: false,
            ..Self::expired(address, Diagnostic::Words(why), remote)
        }
    }
}

/// What the report is about.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The relay's own name.
    pub hostname: &'a str,
    /// Who signs the report.
    pub postmaster: &'a Mailbox,
    /// The sender, who gets it.
    pub sender: &'a Mailbox,
    /// When the message was accepted.
    pub arrived: Stamp,
    /// The start of the message, with its header.
    pub head: &'a [u8],
}

/// Why a report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the report cannot be written: {0}")]
pub struct ReportError(String);

/// Writes the report.
///
/// # Errors
/// The mail library refuses a part; never seen, and then the failure is logged instead.
pub fn write(
    subject: &Subject<'_>,
    failures: &[Failure],
    now: Stamp,
) -> Result<Vec<u8>, ReportError> {
    let wrong = |error: &dyn std::fmt::Display| ReportError(error.to_string());
    let boundary = format!("=_{}", uuid::Uuid::new_v4().as_simple());
    let report_type =
        format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"");
    let parts = MultiPart::builder()
        .header(ContentType::parse(&report_type).map_err(|error| wrong(&error))?)
        .build()
        .singlepart(part(
            "text/plain; charset=us-ascii",
            words(subject, failures),
        )?)
        .singlepart(part(
            "message/delivery-status",
            fields(subject, failures, now),
        )?)
        .singlepart(part("text/rfc822-headers", header_of(subject.head))?);
    let auto =
        HeaderName::new_from_ascii("Auto-Submitted".to_owned()).map_err(|error| wrong(&error))?;
    let message = Message::builder()
        .from(LettreMailbox::new(
            Some("Mail Delivery System".to_owned()),
            address(subject.postmaster),
        ))
        .to(LettreMailbox::new(None, address(subject.sender)))
        .subject("Undelivered mail returned to sender")
        .date(now.system_time())
        .message_id(Some(format!(
            "<{}@{}>",
            uuid::Uuid::new_v4().as_simple(),
            subject.hostname
        )))
        .raw_header(HeaderValue::new(auto, "auto-replied".to_owned()))
        .envelope(envelope(subject)?)
        .multipart(parts)
        .map_err(|error| wrong(&error))?;
    Ok(message.formatted())
}

/// The envelope is kept beside the message; lettre wants one to be sure that the message could be sent.
fn envelope(subject: &Subject<'_>) -> Result<lettre::address::Envelope, ReportError> {
    lettre::address::Envelope::new(None, vec![address(subject.sender)])
        .map_err(|error| ReportError(error.to_string()))
}

/// Our own mailboxes are checked more strictly than lettre checks, and kept as they were written.
fn address(mailbox: &Mailbox) -> Address {
    Address::new_dangerous(
        String::from_utf8_lossy(mailbox.local()),
        String::from_utf8_lossy(mailbox.domain().as_bytes()),
    )
}

fn part(content_type: &str, text: String) -> Result<SinglePart, ReportError> {
    let content_type =
        ContentType::parse(content_type).map_err(|error| ReportError(error.to_string()))?;
    let body = Body::dangerous_pre_encoded(text.into_bytes(), ContentTransferEncoding::SevenBit);
    Ok(SinglePart::builder().header(content_type).body(body))
}

fn words(subject: &Subject<'_>, failures: &[Failure]) -> String {
    let mut text = format!(
        "This is the mail relay {}.\r\n\r\nYour message could not be delivered to the recipients below. It will not be \
         tried again.\r\nIts header is attached.\r\n",
        subject.hostname
    );
    for failure in failures {
        let said = match &failure.diagnostic {
            Diagnostic::Smtp(reply) => format!("{} said: {reply}", failure.remote),
            Diagnostic::Words(words) => words.clone(),
        };
        text.push_str(&format!(
            "\r\n<{}>:\r\n    {}\r\n",
            failure.address,
            one_line(&said)
        ));
    }
    ascii(&text)
}

fn fields(subject: &Subject<'_>, failures: &[Failure], now: Stamp) -> String {
    let mut text = format!(
        "Reporting-MTA: dns; {}\r\nArrival-Date: {}\r\n",
        subject.hostname,
        subject.arrived.rfc2822()
    );
    for failure in failures {
        text.push_str(&format!(
            "\r\nFinal-Recipient: rfc822; {}\r\nAction: failed\r\nStatus: {}\r\n",
            failure.address, failure.status
        ));
        if let Diagnostic::Smtp(reply) = &failure.diagnostic {
            text.push_str(&format!(
                "Remote-MTA: dns; {}\r\nDiagnostic-Code: smtp; {}\r\n",
                failure.remote,
                one_line(reply)
            ));
        }
        if failure.attempted {
            text.push_str(&format!("Last-Attempt-Date: {}\r\n", now.rfc2822()));
        }
    }
    ascii(&text)
}

/// The header section of the message, without the empty line that ends it.
fn header_of(head: &[u8]) -> String {
    let head = &head[..head.len().min(HEADER_LIMIT)];
    let mut text = String::new();
    for line in head.split(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        text.extend(line.iter().map(|octet| match octet {
            b'\t' | b' '..=b'~' => char::from(*octet),
            _ => '?',
        }));
        text.push_str("\r\n");
    }
    text
}

/// A reply of a foreign host on one line of bounded length.
fn one_line(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.chars().take(900).collect()
}

fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii() { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(head: &[u8]) -> String {
        let (postmaster, sender) = (
            mailbox("MAILER-DAEMON@relay.branch.example"),
            mailbox("\"odd name\"@branch.example"),
        );
        let subject = Subject {
            hostname: "relay.branch.example",
            postmaster: &postmaster,
            sender: &sender,
            arrived: Stamp(1_795_458_600_000),
            head,
        };
        let refused = Reply::new(
            550,
            Some(linkmail_smtp::Enhanced(5, 1, 1)),
            "no such\u{e9} user",
        );
        let failures = [
            Failure::refused(
                mailbox("nobody@else.example"),
                &refused,
                "mail.isp.example:25".into(),
            ),
            Failure::expired(
                mailbox("late@else.example"),
                Diagnostic::Words("connection refused".into()),
                "mail.isp.example:25".into(),
            ),
        ];
        String::from_utf8(write(&subject, &failures, Stamp(1_795_458_660_000)).unwrap()).unwrap()
    }

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_report_names_each_recipient_with_its_status_and_returns_only_the_header() {
        let text = report(
            b"Subject: gr\xc3\xbc\xc3\x9fe\r\nFrom: a@branch.example\r\n\r\nsecret body\r\n",
        );
        for expected in [
            "To: \"odd name\"@branch.example\r\n",
            "report-type=delivery-status",
            "Auto-Submitted: auto-replied\r\n",
            "Reporting-MTA: dns; relay.branch.example\r\nArrival-Date: Mon, 23 Nov 2026 18:30:00 +0000\r\n",
            "Final-Recipient: rfc822; nobody@else.example\r\nAction: failed\r\nStatus: 5.1.1\r\n",
            "Diagnostic-Code: smtp; 550 5.1.1 no such? user\r\n",
            "Final-Recipient: rfc822; late@else.example\r\nAction: failed\r\nStatus: 5.4.7\r\n",
            "Subject: gr????e\r\nFrom: a@branch.example\r\n",
        ] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
        assert!(!text.contains("secret"));
        assert!(text.is_ascii());
    }

    #[test]
    fn a_report_is_sendable_whatever_the_message_was() {
        for head in [
            &b""[..],
            b"no line end",
            b"A: b\rC\nD\0\r\n\r\n",
            &[0xff; 70_000],
        ] {
            let text = report(head).replace("\r\n", "");
            assert!(!text.contains(['\r', '\n', '\0']), "{text:?}");
        }
    }
}
