//! What a log and a pin need of a certificate (RFC 5280 4.1): subject, validity, key. Verifies nothing.
//!
//! Reads certificates that nobody vouches for: everything is bounded by the octets that are there, and what cannot be read
//! is absent.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::clock::Stamp;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// The certificate of the other side, for logs and for policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The subject's name in the form of RFC 4514, such as `CN=mx.example,O=Example`; empty if it has none.
    pub subject: String,
    /// SHA-256 of the whole certificate, in small hexadecimal digits.
    pub fingerprint: String,
    /// SHA-256 of the public key (SubjectPublicKeyInfo): stays the same when only the certificate is renewed.
    pub key_fingerprint: Option<String>,
}

impl PeerCertificate {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let parts = Parts::read(certificate);
        Self {
            subject: parts
                .as_ref()
                .map(|parts| distinguished_name(parts.subject))
                .unwrap_or_default(),
            fingerprint: hex(&sha256(certificate)),
            key_fingerprint: parts.map(|parts| hex(&sha256(parts.key))),
        }
    }
}

pub(super) fn sha256(octets: &[u8]) -> [u8; 32] {
    Sha256::digest(octets).into()
}

pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Parts of a certificate, each with its tag and length unless said otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    /// Contents of the issuer's name, as a trust anchor wants it.
    pub(super) issuer: &'a [u8],
    /// The last moment at which it is good.
    pub(super) not_after: Option<Stamp>,
    /// Contents of the subject's name.
    pub(super) subject: &'a [u8],
    /// SubjectPublicKeyInfo.
    pub(super) key: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(super) fn read(certificate: &'a [u8]) -> Option<Self> {
        let (outer, _) = Element::read(certificate)?;
        let (signed, _) = Element::read(outer.of(SEQUENCE)?)?;
        let mut rest = signed.of(SEQUENCE)?;
        let mut next = || {
            let (element, after) = Element::read(rest)?;
            rest = after;
            Some(element)
        };
        // version [0] is absent in version 1; serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo.
        let first = next()?;
        if first.tag == VERSION {
            next()?;
        }
        next()?;
        let issuer = next()?.of(SEQUENCE)?;
        let not_after = elements(next()?.of(SEQUENCE)?).nth(1).and_then(time);
        let subject = next()?.of(SEQUENCE)?;
        let key = next()?;
        key.of(SEQUENCE)?;
        Some(Self {
            issuer,
            not_after,
            subject,
            key: key.whole,
        })
    }
}

/// The contents of a DER element with tag SEQUENCE; None for anything else.
pub(super) fn sequence(whole: &[u8]) -> Option<&[u8]> {
    Element::read(whole)?.0.of(SEQUENCE)
}

/// One DER element (X.690 8.1, 10.1), with one octet of tag.
#[derive(Debug, Clone, Copy)]
struct Element<'a> {
    tag: u8,
    contents: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// The first element, and what follows it.
    fn read(octets: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&tag, after) = octets.split_first()?;
        let (&first, after) = after.split_first()?;
        let (length, after) = if first < 0x80 {
            (usize::from(first), after)
        } else {
            let (digits, after) = after.split_at_checked(usize::from(first & 0x7f))?;
            if !(1..=4).contains(&digits.len()) {
                return None;
            }
            let length = digits
                .iter()
                .fold(0, |length, digit| length << 8 | usize::from(*digit));
            (length, after)
        };
        let (contents, rest) = after.split_at_checked(length)?;
        let whole = octets.get(..octets.len() - rest.len())?;
        Some((
            Self {
                tag,
                contents,
                whole,
            },
            rest,
        ))
    }

    fn of(&self, tag: u8) -> Option<&'a [u8]> {
        (self.tag == tag).then_some(self.contents)
    }
}

fn elements(mut octets: &[u8]) -> impl Iterator<Item = Element<'_>> {
    std::iter::from_fn(move || {
        let (element, rest) = Element::read(octets)?;
        octets = rest;
        Some(element)
    })
}

/// RFC 5280 4.1.2.5: UTC, to the second; two digits of a year below 50 are of this century.
fn time(element: Element<'_>) -> Option<Stamp> {
    let text = std::str::from_utf8(element.contents).ok()?;
    let text = match (element.tag, text.get(..2)?.parse::<u8>().ok()?) {
        (UTC_TIME, 0..50) => format!("20{text}"),
        (UTC_TIME, _) => format!("19{text}"),
        (GENERALIZED_TIME, _) => text.to_owned(),
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Stamp(time.timestamp().as_millisecond()))
}

/// RFC 4514 2: the last attribute first.
fn distinguished_name(contents: &[u8]) -> String {
    let mut attributes: Vec<String> = elements(contents)
        .filter_map(|set| set.of(SET))
        .flat_map(elements)
        .filter_map(|attribute| {
            let mut parts = elements(attribute.of(SEQUENCE)?);
            let oid = parts.next()?.of(OID)?;
            let value = parts.next()?;
            Some(format!(
                "{}={}",
                attribute_name(oid),
                escaped(value.contents)
            ))
        })
        .collect();
    attributes.reverse();
    attributes.join(",")
}

fn attribute_name(oid: &[u8]) -> String {
    let name = match oid {
        [0x55, 0x04, 3] => "CN",
        [0x55, 0x04, 6] => "C",
        [0x55, 0x04, 7] => "L",
        [0x55, 0x04, 8] => "ST",
        [0x55, 0x04, 10] => "O",
        [0x55, 0x04, 11] => "OU",
        oid => return format!("#{}", hex(oid)),
    };
    name.to_owned()
}

/// A name of the other side's choice must not break a line of the log, or look like another attribute.
fn escaped(value: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(value).chars() {
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => {
                text.push('\\');
                text.push(character);
            }
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_are_not_there_are_no_elements() {
        for octets in [
            &b""[..],
            b"\x30",
            b"\x30\x01",
            b"\x30\x80",
            b"\x30\x84\xff\xff\xff\xff\x00",
            b"\x30\x85\x00\x00\x00\x00\x01\x00",
        ] {
            assert!(Element::read(octets).is_none(), "{octets:?}");
            assert!(Parts::read(octets).is_none(), "{octets:?}");
        }
        let (element, rest) = Element::read(b"\x30\x81\x02abc").unwrap();
        assert_eq!((element.contents, rest), (&b"ab"[..], &b"c"[..]));
    }

    #[test]
    fn a_time_has_a_century() {
        let read = |tag, text: &str| {
            let length = u8::try_from(text.len()).unwrap();
            let octets = [&[tag, length], text.as_bytes()].concat();
            time(Element::read(&octets).unwrap().0).map(Stamp::rfc2822)
        };
        for (tag, text, date) in [
            (
                UTC_TIME,
                "490203040506Z",
                Some("Wed, 03 Feb 2049 04:05:06 +0000"),
            ),
            (
                UTC_TIME,
                "500203040506Z",
                Some("Fri, 03 Feb 1950 04:05:06 +0000"),
            ),
            (
                GENERALIZED_TIME,
                "20500203040506Z",
                Some("Thu, 03 Feb 2050 04:05:06 +0000"),
            ),
            (UTC_TIME, "491303040506Z", None),
            (UTC_TIME, "", None),
            (OID, "490203040506Z", None),
        ] {
            assert_eq!(read(tag, text).as_deref(), date, "{text}");
        }
    }

    #[test]
    fn a_name_cannot_forge_a_log_line() {
        assert_eq!(escaped(b"a,CN=b\r\nc"), "a\\,CN\\=b\\r\\nc");
    }
}
