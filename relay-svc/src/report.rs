//! Delivery status notifications: what the sender is told of recipients that were given up, and of those that were handed
//! on to a server which tells nobody, where the sender asked for it. Pure.
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
use linkmail_smtp::{
    Mailbox, Reply,
    dsn::{EnvelopeId, OriginalRecipient},
};

use crate::clock::Stamp;

/// Of the returned header at most so many octets.
pub const HEADER_LIMIT: usize = 32 * 1024;

/// What became of a recipient, for the report (RFC 3464 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was given up.
    Failed,
    /// It was handed on to a server that sends no reports of success (RFC 3461 6.2.7).
    Relayed,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Relayed => "relayed",
        }
    }
}

/// What is told of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What became of it.
    pub action: Action,
    /// Who.
    pub address: Mailbox,
    /// The recipient as the sender wrote it (RFC 3464 2.3.1), if it said.
    pub original: Option<OriginalRecipient>,
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

impl Told {
    /// A recipient that the next hop refused for good.
    #[must_use]
    pub fn refused(address: Mailbox, reply: &Reply, remote: String) -> Self {
        let status = match reply.enhanced {
            Some(enhanced) => format!("{}.{}.{}", enhanced.0, enhanced.1, enhanced.2),
            None => "5.0.0".to_owned(),
        };
        Self {
            action: Action::Failed,
            original: None,
            address,
            status,
            diagnostic: Diagnostic::Smtp(reply.to_string()),
            remote,
            attempted: true,
        }
    }

    /// A recipient that was handed on to a server which does not tell of success.
    #[must_use]
    pub fn relayed(address: Mailbox, reply: &Reply, remote: String) -> Self {
        Self {
            action: Action::Relayed,
            status: "2.0.0".to_owned(),
            ..Self::refused(address, reply, remote)
        }
    }

    /// The same with the recipient as the sender wrote it.
    #[must_use]
    pub fn with_original(self, original: Option<OriginalRecipient>) -> Self {
        Self { original, ..self }
    }

    /// A recipient whose attempts failed for too long (RFC 3463 X.4.7).
    #[must_use]
    pub fn expired(address: Mailbox, last: Diagnostic, remote: String) -> Self {
        Self {
            action: Action::Failed,
            original: None,
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
    /// The sender's own name for the message (RFC 3464 2.2.1).
    pub envelope_id: Option<&'a EnvelopeId>,
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
pub fn write(subject: &Subject<'_>, told: &[Told], now: Stamp) -> Result<Vec<u8>, ReportError> {
    let wrong = |error: &dyn std::fmt::Display| ReportError(error.to_string());
    let boundary = format!("=_{}", uuid::Uuid::new_v4().as_simple());
    let report_type =
        format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"");
    let parts = MultiPart::builder()
        .header(ContentType::parse(&report_type).map_err(|error| wrong(&error))?)
        .build()
        .singlepart(part("text/plain; charset=us-ascii", words(subject, told))?)
        .singlepart(part("message/delivery-status", fields(subject, told, now))?)
        .singlepart(part("text/rfc822-headers", header_of(subject.head))?);
    let auto =
        HeaderName::new_from_ascii("Auto-Submitted".to_owned()).map_err(|error| wrong(&error))?;
    let message = Message::builder()
        .from(LettreMailbox::new(
            Some("Mail Delivery System".to_owned()),
            address(subject.postmaster),
        ))
        .raw_header(to(subject.sender)?)
        .subject(if any_failed(told) {
            "Undelivered mail returned to sender"
        } else {
            "Your message was handed on"
        })
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

/// The field To. An address with octets above 127 stands there as it is, which SMTPUTF8 carries (RFC 6532 3.2): lettre would
/// encode it as if it were a phrase.
fn to(sender: &Mailbox) -> Result<HeaderValue, ReportError> {
    let name = HeaderName::new_from_ascii("To".to_owned());
    let name = name.map_err(|error| ReportError(error.to_string()))?;
    let text = sender.to_string();
    Ok(HeaderValue::dangerous_new_pre_encoded(
        name,
        text.clone(),
        text,
    ))
}

/// The recipient's type and address (RFC 3464 2.3.2); with octets above 127 in the form that stands in ASCII (RFC 6533 3).
fn final_recipient(address: &Mailbox) -> String {
    let utf8 = OriginalRecipient::parse(&[b"utf-8;", &*address.to_bytes()].concat(), true);
    match utf8 {
        Some(recipient) if !address.is_ascii() => recipient.encode(false),
        _ => format!("rfc822; {address}"),
    }
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

fn any_failed(told: &[Told]) -> bool {
    told.iter().any(|one| one.action == Action::Failed)
}

fn words(subject: &Subject<'_>, told: &[Told]) -> String {
    let mut text = format!("This is the mail relay {}.\r\n", subject.hostname);
    let sections = [
        (
            Action::Failed,
            "Your message could not be delivered to the recipients below. It will not be tried again.",
        ),
        (
            Action::Relayed,
            "Your message was handed on for the recipients below, to a server that will not report that it arrived.",
        ),
    ];
    for (action, what) in sections {
        let mut of_it = told.iter().filter(|one| one.action == action).peekable();
        if of_it.peek().is_some() {
            text.push_str(&format!("\r\n{what}\r\n"));
        }
        for one in of_it {
            let said = match &one.diagnostic {
                Diagnostic::Smtp(reply) => format!("{} said: {reply}", one.remote),
                Diagnostic::Words(words) => words.clone(),
            };
            let said = one_line(&said);
            text.push_str(&format!("\r\n<{}>:\r\n    {said}\r\n", one.address));
        }
    }
    text.push_str("\r\nThe header of the message is attached.\r\n");
    ascii(&text)
}

fn fields(subject: &Subject<'_>, told: &[Told], now: Stamp) -> String {
    let mut text = format!("Reporting-MTA: dns; {}\r\n", subject.hostname);
    if let Some(id) = subject.envelope_id {
        text.push_str(&format!("Original-Envelope-Id: {}\r\n", id.as_str()));
    }
    text.push_str(&format!("Arrival-Date: {}\r\n", subject.arrived.rfc2822()));
    for one in told {
        text.push_str("\r\n");
        if let Some(original) = &one.original {
            // Decoded (RFC 3461 6.3), unless ASCII has no other form of it.
            let written = match original.address().is_ascii() {
                true => original.to_string(),
                false => original.encode(false),
            };
            text.push_str(&format!("Original-Recipient: {written}\r\n"));
        }
        text.push_str(&format!(
            "Final-Recipient: {}\r\nAction: {}\r\nStatus: {}\r\n",
            final_recipient(&one.address),
            one.action.as_str(),
            one.status
        ));
        if let Diagnostic::Smtp(reply) = &one.diagnostic {
            text.push_str(&format!(
                "Remote-MTA: dns; {}\r\nDiagnostic-Code: smtp; {}\r\n",
                one.remote,
                one_line(reply)
            ));
        }
        if one.attempted {
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
            envelope_id: None,
            head,
        };
        let refused = Reply::new(
            550,
            Some(linkmail_smtp::Enhanced(5, 1, 1)),
            "no such\u{e9} user",
        );
        let failures = [
            Told::refused(
                mailbox("nobody@else.example"),
                &refused,
                "mail.isp.example:25".into(),
            ),
            Told::expired(
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
    fn what_was_asked_for_stands_in_the_report_and_success_is_told_as_relayed() {
        let (postmaster, sender) = (
            mailbox("MAILER-DAEMON@relay.branch.example"),
            Mailbox::parse_utf8("j\u{f6}rg@branch.example".as_bytes()).unwrap(),
        );
        let id = EnvelopeId::new("an id").unwrap();
        let subject = Subject {
            hostname: "relay.branch.example",
            postmaster: &postmaster,
            sender: &sender,
            arrived: Stamp(1_795_458_600_000),
            envelope_id: Some(&id),
            head: b"Subject: x\r\n\r\n",
        };
        let taken = Reply::new(250, None, "queued as 1");
        let odd = Mailbox::parse_utf8("ren\u{e9}@else.example".as_bytes()).unwrap();
        let told = [Told::relayed(odd, &taken, "mail.isp.example".into())
            .with_original(OriginalRecipient::parse(b"rfc822;r+2B@else.example", false))];
        let text = write(&subject, &told, Stamp(1_795_458_660_000)).unwrap();
        let text = String::from_utf8(text).unwrap();
        for expected in [
            "To: j\u{f6}rg@branch.example\r\n",
            "Subject: Your message was handed on\r\n",
            "Original-Envelope-Id: an id\r\n",
            "Original-Recipient: rfc822;r+@else.example\r\n",
            "Final-Recipient: utf-8;ren\\x{E9}@else.example\r\nAction: relayed\r\nStatus: 2.0.0\r\n",
            "Diagnostic-Code: smtp; 250 queued as 1\r\n",
            "a server that will not report that it arrived",
        ] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
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
