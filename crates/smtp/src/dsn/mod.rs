//! The parameters of the DSN extension (RFC 3461): how much of a message comes back in a report, under what name, and
//! which reports are wanted for whom.
//!
//! Each value is kept decoded and written again by `encode`, so that what is passed on is well formed whatever came in.

mod xtext;

use std::fmt;

pub use xtext::{xtext_decode, xtext_encode};

use xtext::{unitext_decode, unitext_encode};

/// The longest value of ENVID, in octets as it is written (RFC 3461 4.4).
pub const MAX_ENVELOPE_ID: usize = 100;
/// The longest value of ORCPT, in octets as it is written (RFC 3461 4.2).
pub const MAX_ORIGINAL_RECIPIENT: usize = 500;

/// How much of the message a report of failure returns (RFC 3461 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header.
    Headers,
}

impl Ret {
    /// Reads `FULL` or `HDRS`, in any case.
    pub fn parse(value: &[u8]) -> Option<Ret> {
        if value.eq_ignore_ascii_case(b"FULL") {
            Some(Ret::Full)
        } else if value.eq_ignore_ascii_case(b"HDRS") {
            Some(Ret::Headers)
        } else {
            None
        }
    }

    /// The value of `RET=`.
    pub fn encode(self) -> &'static str {
        match self {
            Ret::Full => "FULL",
            Ret::Headers => "HDRS",
        }
    }
}

/// The sender's own name for the envelope, which reports quote (RFC 3461 4.4). Printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EnvelopeId(String);

impl EnvelopeId {
    /// Reads the value of `ENVID=`: xtext of at most [`MAX_ENVELOPE_ID`] octets that stands for printable ASCII.
    pub fn parse(value: &[u8]) -> Option<EnvelopeId> {
        if value.is_empty() || value.len() > MAX_ENVELOPE_ID {
            return None;
        }
        printable(xtext_decode(value)?).map(EnvelopeId)
    }

    /// The name itself. None if it is empty, not printable ASCII, or too long once it is written.
    pub fn new(name: &str) -> Option<EnvelopeId> {
        EnvelopeId::parse(xtext_encode(name.as_bytes()).as_bytes())
    }

    /// The name, decoded.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of `ENVID=`, as xtext.
    pub fn encode(&self) -> String {
        xtext_encode(self.0.as_bytes())
    }
}

/// Which reports are wanted about a recipient (RFC 3461 4.1). All false is `NEVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notify {
    /// When the message was delivered.
    pub success: bool,
    /// When it could not be delivered.
    pub failure: bool,
    /// When it is late.
    pub delay: bool,
}

impl Notify {
    /// No report at all.
    pub const NEVER: Notify = Notify {
        success: false,
        failure: false,
        delay: false,
    };

    /// Reads `NEVER`, or a list of `SUCCESS`, `FAILURE` and `DELAY`, in any case.
    pub fn parse(value: &[u8]) -> Option<Notify> {
        if value.eq_ignore_ascii_case(b"NEVER") {
            return Some(Notify::NEVER);
        }
        let mut notify = Notify::NEVER;
        for word in value.split(|byte| *byte == b',') {
            let wanted = match word.to_ascii_uppercase().as_slice() {
                b"SUCCESS" => &mut notify.success,
                b"FAILURE" => &mut notify.failure,
                b"DELAY" => &mut notify.delay,
                _ => return None,
            };
            *wanted = true;
        }
        Some(notify)
    }

    /// The value of `NOTIFY=`.
    pub fn encode(self) -> String {
        let words: Vec<&str> = [
            (self.success, "SUCCESS"),
            (self.failure, "FAILURE"),
            (self.delay, "DELAY"),
        ]
        .into_iter()
        .filter_map(|(wanted, word)| wanted.then_some(word))
        .collect();
        if words.is_empty() {
            "NEVER".to_owned()
        } else {
            words.join(",")
        }
    }
}

/// The recipient as the sender wrote it, before anybody forwarded or rewrote it (RFC 3461 4.2).
///
/// Of the type `utf-8` the address is UTF-8 (RFC 6533 3); of every other type it is printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginalRecipient {
    address_type: String,
    address: String,
}

impl OriginalRecipient {
    /// Reads the value of `ORCPT=`: `type;xtext`, at most [`MAX_ORIGINAL_RECIPIENT`] octets.
    ///
    /// Of the type `utf-8` the 7-bit form is read always, octets above 127 only with `utf8`, that is, in a transaction
    /// with SMTPUTF8 (RFC 6533 3).
    pub fn parse(value: &[u8], utf8: bool) -> Option<OriginalRecipient> {
        if value.len() > MAX_ORIGINAL_RECIPIENT {
            return None;
        }
        let at = memchr::memchr(b';', value)?;
        let (address_type, written) = (&value[..at], &value[at + 1..]);
        let is_atom =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*-/?^_`{|}~".contains(byte);
        if address_type.is_empty() || written.is_empty() || !address_type.iter().all(is_atom) {
            return None;
        }
        let address = if address_type.eq_ignore_ascii_case(b"utf-8") {
            unitext_decode(written, utf8)?
        } else {
            printable(xtext_decode(written)?)?
        };
        Some(OriginalRecipient {
            address_type: String::from_utf8(address_type.to_vec()).ok()?,
            address,
        })
    }

    /// The type of the address, such as `rfc822`, as it was written.
    pub fn address_type(&self) -> &str {
        &self.address_type
    }

    /// The address, decoded.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The value of `ORCPT=`. With `utf8`, for a transaction with SMTPUTF8, an address of the type `utf-8` keeps its
    /// octets above 127; without it they are written as `\x{...}` (RFC 6533 3).
    pub fn encode(&self, utf8: bool) -> String {
        let address = if self.address_type.eq_ignore_ascii_case("utf-8") {
            unitext_encode(&self.address, utf8)
        } else {
            xtext_encode(self.address.as_bytes())
        };
        format!("{};{address}", self.address_type)
    }
}

/// `type;address`, decoded, as it stands in a report (RFC 3464 2.3.1).
impl fmt::Display for OriginalRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.address_type, self.address)
    }
}

fn printable(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    text.bytes()
        .all(|byte| (32..=126).contains(&byte))
        .then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ret_and_notify_know_their_words() {
        assert_eq!(Ret::parse(b"hdrs").map(Ret::encode), Some("HDRS"));
        assert_eq!(Ret::parse(b"Full").map(Ret::encode), Some("FULL"));
        assert_eq!(Ret::parse(b"HALF"), None);
        for (written, again) in [
            ("never", "NEVER"),
            ("DELAY,success", "SUCCESS,DELAY"),
            ("FAILURE", "FAILURE"),
        ] {
            let notify = Notify::parse(written.as_bytes()).unwrap();
            assert_eq!(notify.encode(), again);
        }
        for written in ["", "NEVER,DELAY", "SUCCESS,", "SUCCESS DELAY", "ALWAYS"] {
            assert_eq!(Notify::parse(written.as_bytes()), None, "{written}");
        }
    }

    #[test]
    fn an_envelope_id_is_decoded_and_written_again() {
        for (written, name) in [("QQ314159", "QQ314159"), ("a+2Bb+3Dc+20d", "a+b=c d")] {
            let id = EnvelopeId::parse(written.as_bytes()).unwrap();
            assert_eq!((id.as_str(), id.encode().as_str()), (name, written));
            assert_eq!(EnvelopeId::new(name), Some(id));
        }
        let long = "x".repeat(MAX_ENVELOPE_ID + 1);
        for written in [
            "",
            "a+",
            "a+2",
            "a+2b",
            "a=b",
            "a+0D+0Ab",
            "a+FF",
            "caf\u{e9}",
            &long,
        ] {
            assert_eq!(EnvelopeId::parse(written.as_bytes()), None, "{written}");
        }
        assert_eq!(EnvelopeId::new(&"+".repeat(40)), None, "too long as xtext");
    }

    #[test]
    fn an_original_recipient_has_a_type() {
        let read = |written: &str| OriginalRecipient::parse(written.as_bytes(), false);
        let rfc822 = read("RFC822;Bob+2Btag@b.example").unwrap();
        assert_eq!(rfc822.address(), "Bob+tag@b.example");
        assert_eq!(rfc822.encode(true), "RFC822;Bob+2Btag@b.example");
        assert_eq!(rfc822.to_string(), "RFC822;Bob+tag@b.example");
        let long = format!("rfc822;{}", "x".repeat(MAX_ORIGINAL_RECIPIENT));
        for written in [
            "",
            "rfc822",
            "rfc822;",
            ";a",
            "rfc 822;a",
            "rfc822;a b",
            "rfc822;a+0Ab",
            "rfc822;a+C3+A9",
            "utf-8;a\u{e9}",
            &long,
        ] {
            assert_eq!(read(written), None, "{written}");
        }
    }

    #[test]
    fn an_original_recipient_in_utf8_has_two_forms() {
        let seven_bit = "utf-8;jos\\x{E9}\\x{2B}x@b.example";
        let eight_bit = "utf-8;jos\u{e9}\\x{2B}x@b.example";
        let read = OriginalRecipient::parse(seven_bit.as_bytes(), false).unwrap();
        assert_eq!(read.address(), "jos\u{e9}+x@b.example");
        assert_eq!(
            OriginalRecipient::parse(eight_bit.as_bytes(), true),
            Some(read.clone())
        );
        assert_eq!(
            (read.encode(false), read.encode(true)),
            (seven_bit.into(), eight_bit.into())
        );
        for written in [
            "utf-8;a+2Bb",
            "utf-8;a\\x{0D}",
            "utf-8;a\\x{D800}",
            "utf-8;a\\x{e9}",
            "utf-8;a\\xE9",
            "utf-8;a\u{85}",
        ] {
            assert_eq!(
                OriginalRecipient::parse(written.as_bytes(), true),
                None,
                "{written}"
            );
        }
    }
}
