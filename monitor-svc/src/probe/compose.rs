//! The message of a probe. Pure: the same probe gives the same octets, so that a repeated submission is one.

use lettre::{
    address::{Address, Envelope},
    message::{
        Body, Mailbox as LettreMailbox, Message, SinglePart,
        header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue},
    },
};
use linkmail_smtp::Mailbox;

use super::{Pattern, Probe};
use crate::names::LinkName;

/// Why a probe cannot be composed.
#[derive(Debug, thiserror::Error)]
#[error("the probe cannot be composed: {0}")]
pub struct ComposeError(String);

/// Writes the message of a probe over a link to the false user `to`. Lines end with CRLF; all octets are ASCII.
///
/// # Errors
/// The mail library refuses a part; never seen.
pub fn compose(
    probe: &Probe,
    pattern: &Pattern,
    to: &Mailbox,
    link: &LinkName,
) -> Result<Vec<u8>, ComposeError> {
    let wrong = |error: &dyn std::fmt::Display| ComposeError(error.to_string());
    let sender = pattern.address(probe.token);
    let sender = Mailbox::parse(sender.as_bytes()).map_err(|error| wrong(&error))?;
    let auto =
        HeaderName::new_from_ascii("Auto-Submitted".to_owned()).map_err(|error| wrong(&error))?;
    let part =
        SinglePart::builder()
            .header(ContentType::TEXT_PLAIN)
            .body(Body::dangerous_pre_encoded(
                words(probe, pattern, link).into_bytes(),
                ContentTransferEncoding::SevenBit,
            ));
    let envelope =
        Envelope::new(Some(address(&sender)), vec![address(to)]).map_err(|error| wrong(&error))?;
    let message = Message::builder()
        .from(LettreMailbox::new(
            Some("linkmail monitor".to_owned()),
            address(&sender),
        ))
        .to(LettreMailbox::new(None, address(to)))
        .subject(format!("Probe {} {}", probe.monitor, probe.id))
        .date(probe.created.system_time())
        .message_id(Some(format!("<{}@{}>", probe.id, pattern.domain())))
        .raw_header(HeaderValue::new(auto, "auto-generated".to_owned()))
        .envelope(envelope)
        .singlepart(part)
        .map_err(|error| wrong(&error))?;
    Ok(message.formatted())
}

/// Our own mailboxes are checked more strictly than lettre checks, and kept as they were written.
fn address(mailbox: &Mailbox) -> Address {
    Address::new_dangerous(
        String::from_utf8_lossy(mailbox.local()),
        String::from_utf8_lossy(mailbox.domain().as_bytes()),
    )
}

fn words(probe: &Probe, pattern: &Pattern, link: &LinkName) -> String {
    format!(
        "This is a probe of monitor-svc, sent by a program. Nobody reads the answer.\r\n\
         \r\n\
         Its recipient does not exist on purpose: the bounce proves that mail crosses\r\n\
         the link \"{link}\" out and back. If it reached a person, please tell\r\n\
         postmaster@{} that the address exists.\r\n\
         \r\n\
         Monitor: {}\r\n\
         Probe: {}\r\n",
        pattern.domain(),
        probe.monitor,
        probe.id
    )
}

#[cfg(test)]
mod tests {
    use linkmail_smtp::{DataEncoder, trace::HeaderScan};

    use super::*;
    use crate::{clock::Stamp, names::MonitorName};

    fn probe() -> (Probe, Pattern, Mailbox, LinkName) {
        (
            Probe::new(
                MonitorName::parse("branch").unwrap(),
                String::new(),
                Stamp(1_795_458_600_000),
            ),
            Pattern::parse("probe-*@branch.example").unwrap(),
            Mailbox::parse(b"no-such-user@isp.example").unwrap(),
            LinkName::parse("isp").unwrap(),
        )
    }

    #[test]
    fn a_probe_says_what_it_is_and_is_the_same_each_time() {
        let (probe, pattern, to, link) = probe();
        let octets = compose(&probe, &pattern, &to, &link).unwrap();
        assert_eq!(octets, compose(&probe, &pattern, &to, &link).unwrap());
        let text = String::from_utf8(octets).unwrap();
        for expected in [
            format!(
                "From: \"linkmail monitor\" <probe-{}@branch.example>\r\n",
                probe.token
            ),
            "To: no-such-user@isp.example\r\n".to_owned(),
            format!("Subject: Probe branch {}\r\n", probe.id),
            "Date: Mon, 23 Nov 2026 18:30:00 +0000\r\n".to_owned(),
            format!("Message-ID: <{}@branch.example>\r\n", probe.id),
            "Auto-Submitted: auto-generated\r\n".to_owned(),
            "postmaster@branch.example".to_owned(),
        ] {
            assert!(text.contains(&expected), "no {expected:?} in\n{text}");
        }
    }

    /// What the relay asks of a message that is submitted.
    #[test]
    fn a_probe_passes_the_rules_of_the_relay() {
        let (mut probe, pattern, to, link) = probe();
        probe.monitor = MonitorName::parse(&"m".repeat(63)).unwrap();
        let octets = compose(&probe, &pattern, &to, &link).unwrap();
        assert!(octets.ends_with(b"\r\n") && octets.is_ascii());
        DataEncoder::new().encode(&octets, &mut Vec::new()).unwrap();
        let mut scan = HeaderScan::new();
        scan.feed(&octets);
        assert_eq!(scan.received(), 0);
        let longest = octets.split(|octet| *octet == b'\n').map(<[u8]>::len).max();
        assert!(longest.unwrap() < 200, "{longest:?}");
    }
}
