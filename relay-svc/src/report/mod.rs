//! Delivery status notifications: what the sender is told of recipients that were given up, of those that are late, and of
//! those that were handed on to a server which tells nobody, where the sender asked for it. Pure.
//!
//! A `multipart/report` (RFC 6522) of a text for people, a `message/delivery-status` (RFC 3464) and the header of the
//! returned message, without its body: the sender has that. Where a failure is told of, the sender asked for it (`RET=FULL`,
//! RFC 3461 4.3) and [`returns_whole`] allows it, the message comes back whole. It goes from the null reverse path, so that
//! it is never answered (RFC 5321 6.1).
//!
//! Limits: of the returned header at most [`HEADER_LIMIT`] octets; octets above 127 in it become `?`, and a message with
//! such octets is not returned whole, so that the report crosses every next hop.

mod told;

use lettre::{
    address::Address,
    message::{
        Body, Mailbox as LettreMailbox, Message, MultiPart, SinglePart,
        header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue},
    },
};
use linkmail_smtp::{
    Mailbox,
    dsn::{EnvelopeId, OriginalRecipient, Ret},
};

use crate::{clock::Stamp, names::NextHop};

pub use told::{Action, Diagnostic, Host, LastWord, Told, Tried, relay_is_told};

/// Of the returned header at most so many octets.
pub const HEADER_LIMIT: usize = 32 * 1024;
/// A message above so many octets is not returned whole (RFC 3461 6.2 leaves the bound to us).
pub const WHOLE_LIMIT: u64 = 1024 * 1024;

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
    /// By when the sender wanted it delivered (RFC 2852 5).
    pub deliver_by: Option<Stamp>,
    /// The start of the message, with its header.
    pub head: &'a [u8],
}

/// Why a report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the report cannot be written: {0}")]
pub struct ReportError(String);

/// What is known of a message that may be returned whole.
#[derive(Debug, Clone, Copy)]
pub struct Original {
    /// How much of it the sender wants back (RFC 3461 4.3).
    pub ret: Option<Ret>,
    /// Its octets.
    pub size: u64,
    /// Whether there are octets above 127 among them.
    pub eight_bit: bool,
}

/// Whether a report that goes to a next hop returns the message whole: of a failure alone, where the sender asked for it,
/// for a message up to [`WHOLE_LIMIT`] that crosses every host, and not over a line that somebody pays for: the site's own,
/// or that of a site whose mail is held.
#[must_use]
pub fn returns_whole(original: Original, told: &[Told], hop: &NextHop) -> bool {
    let is_dear = matches!(
        hop,
        NextHop::Link(_) | NextHop::Oversize(_) | NextHop::Hold(_)
    );
    let is_small = original.size <= WHOLE_LIMIT && !original.eight_bit;
    original.ret == Some(Ret::Full) && is_small && !is_dear && any_failed(told)
}

/// Writes the report, with the header of the message.
///
/// # Errors
/// The mail library refuses a part; never seen, and then the failure is logged instead.
pub fn write(subject: &Subject<'_>, told: &[Told], now: Stamp) -> Result<Vec<u8>, ReportError> {
    let header = part("text/rfc822-headers", header_of(subject.head))?;
    let words = words(subject, told, "The header of the message is attached.");
    compose(subject, words, told, header, now)
}

/// Writes what stands before and behind the message in a report that returns it whole.
///
/// # Errors
/// As [`write()`].
pub fn write_around(
    subject: &Subject<'_>,
    told: &[Told],
    now: Stamp,
) -> Result<(Vec<u8>, Vec<u8>), ReportError> {
    let place = format!("=_{}", uuid::Uuid::new_v4().as_simple());
    let returned = part("message/rfc822", place.clone())?;
    let words = words(subject, told, "The message is attached.");
    let text = compose(subject, words, told, returned, now)?;
    let mut rest = text.windows(place.len());
    let at = rest.position(|octets| octets == place.as_bytes());
    let at = at.ok_or_else(|| ReportError("the place of the message is gone".to_owned()))?;
    Ok((text[..at].to_vec(), text[at + place.len()..].to_vec()))
}

fn compose(
    subject: &Subject<'_>,
    words: String,
    told: &[Told],
    returned: SinglePart,
    now: Stamp,
) -> Result<Vec<u8>, ReportError> {
    let wrong = |error: &dyn std::fmt::Display| ReportError(error.to_string());
    let boundary = format!("=_{}", uuid::Uuid::new_v4().as_simple());
    let report_type =
        format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"");
    let parts = MultiPart::builder()
        .header(ContentType::parse(&report_type).map_err(|error| wrong(&error))?)
        .build()
        .singlepart(part("text/plain; charset=us-ascii", words)?)
        .singlepart(part("message/delivery-status", fields(subject, told, now))?)
        .singlepart(returned);
    let auto =
        HeaderName::new_from_ascii("Auto-Submitted".to_owned()).map_err(|error| wrong(&error))?;
    let message = Message::builder()
        .from(LettreMailbox::new(
            Some("Mail Delivery System".to_owned()),
            address(subject.postmaster),
        ))
        .raw_header(to(subject.sender)?)
        .subject(title(told))
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

/// The worst that it tells of.
fn title(told: &[Told]) -> &'static str {
    if any_failed(told) {
        "Undelivered mail returned to sender"
    } else if told.iter().any(|one| one.action == Action::Delayed) {
        "Your message is late and still being tried"
    } else {
        "Your message was handed on"
    }
}

fn any_failed(told: &[Told]) -> bool {
    told.iter().any(|one| one.action == Action::Failed)
}

fn words(subject: &Subject<'_>, told: &[Told], attached: &str) -> String {
    let mut text = format!("This is the mail relay {}.\r\n", subject.hostname);
    let sections = [
        (
            Action::Failed,
            "Your message could not be delivered to the recipients below. It will not be tried again.",
        ),
        (
            Action::Delayed,
            "Your message could not be delivered to the recipients below yet. It goes on being tried: you need not send it again. You will be told if it is given up.",
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
            if let Some(until) = one.until {
                let until = until.rfc2822();
                text.push_str(&format!("    It is tried until {until}.\r\n"));
            }
        }
    }
    text.push_str(&format!("\r\n{attached}\r\n"));
    ascii(&text)
}

fn fields(subject: &Subject<'_>, told: &[Told], now: Stamp) -> String {
    let mut text = format!("Reporting-MTA: dns; {}\r\n", subject.hostname);
    if let Some(id) = subject.envelope_id {
        text.push_str(&format!("Original-Envelope-Id: {}\r\n", id.as_str()));
    }
    text.push_str(&format!("Arrival-Date: {}\r\n", subject.arrived.rfc2822()));
    if let Some(by) = subject.deliver_by {
        text.push_str(&format!("Deliver-By-Date: {}\r\n", by.rfc2822()));
    }
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
        let tried = match one.tried {
            Tried::Now => Some(now),
            Tried::At(stamp) => Some(stamp),
            Tried::Never => None,
        };
        let dates = [
            ("Last-Attempt-Date", tried),
            ("Will-Retry-Until", one.until),
        ];
        for (name, date) in dates {
            if let Some(date) = date {
                text.push_str(&format!("{name}: {}\r\n", date.rfc2822()));
            }
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
mod tests;
