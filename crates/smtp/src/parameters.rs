//! The parameters of MAIL and RCPT, each read by the rule of its extension.
//!
//! A parameter of an extension that is not offered is unknown: 555 (RFC 5321 4.1.1.11). One that is offered and whose
//! value is missing, malformed, or given twice gets 501.

use std::fmt;

use crate::deliver_by::DeliverBy;
use crate::dsn::{EnvelopeId, Notify, OriginalRecipient, Ret, xtext_decode};
use crate::path::{PathError, ReversePath};
use crate::peer_id::PeerId;
use crate::priority::Priority;
use crate::replies;
use crate::reply::Reply;

/// The longest value of AUTH=, in octets as it is written (RFC 4954 5 adds 500 to a MAIL line).
const MAX_SUBMITTER: usize = 500;

/// The extensions whose commands and parameters are read. SIZE and BODY always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// ETRN (RFC 1985).
    pub etrn: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// AUTH (RFC 4954).
    pub auth: bool,
    /// MT-PRIORITY (RFC 6710).
    pub mt_priority: bool,
    /// DELIVERBY (RFC 2852).
    pub deliver_by: bool,
    /// XLINKMAIL, between two relays of this project: `MAIL FROM:<...> XLMID=uuid`.
    pub xlinkmail: bool,
}

#[cfg(test)]
impl Extensions {
    pub(crate) const ALL: Extensions = Extensions {
        chunking: true,
        dsn: true,
        smtputf8: true,
        etrn: true,
        starttls: true,
        auth: true,
        mt_priority: true,
        deliver_by: true,
        xlinkmail: true,
    };
}

/// A parameter of MAIL or RCPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// `SIZE=n` (RFC 1870).
    Size,
    /// `BODY=7BIT` or `BODY=8BITMIME` (RFC 6152).
    Body,
    /// `SMTPUTF8` (RFC 6531 3.4).
    Smtputf8,
    /// `RET=FULL` or `RET=HDRS` (RFC 3461 4.3).
    Ret,
    /// `ENVID=xtext` (RFC 3461 4.4).
    EnvelopeId,
    /// `AUTH=xtext` (RFC 4954 5).
    Auth,
    /// `MT-PRIORITY=n` (RFC 6710 4.1).
    Priority,
    /// `BY=seconds;mode` (RFC 2852 4).
    DeliverBy,
    /// `XLMID=uuid`, of XLINKMAIL.
    PeerId,
    /// `NOTIFY=...` (RFC 3461 4.1).
    Notify,
    /// `ORCPT=type;xtext` (RFC 3461 4.2).
    OriginalRecipient,
}

impl Parameter {
    const OF_MAIL: [Parameter; 9] = [
        Parameter::Size,
        Parameter::Body,
        Parameter::Smtputf8,
        Parameter::Ret,
        Parameter::EnvelopeId,
        Parameter::Auth,
        Parameter::Priority,
        Parameter::DeliverBy,
        Parameter::PeerId,
    ];
    const OF_RCPT: [Parameter; 2] = [Parameter::Notify, Parameter::OriginalRecipient];

    /// The keyword, in upper case.
    pub fn keyword(self) -> &'static str {
        match self {
            Parameter::Size => "SIZE",
            Parameter::Body => "BODY",
            Parameter::Smtputf8 => "SMTPUTF8",
            Parameter::Ret => "RET",
            Parameter::EnvelopeId => "ENVID",
            Parameter::Auth => "AUTH",
            Parameter::Priority => "MT-PRIORITY",
            Parameter::DeliverBy => "BY",
            Parameter::PeerId => "XLMID",
            Parameter::Notify => "NOTIFY",
            Parameter::OriginalRecipient => "ORCPT",
        }
    }

    fn is_offered(self, extensions: &Extensions) -> bool {
        match self {
            Parameter::Size | Parameter::Body => true,
            Parameter::Smtputf8 => extensions.smtputf8,
            Parameter::Ret
            | Parameter::EnvelopeId
            | Parameter::Notify
            | Parameter::OriginalRecipient => extensions.dsn,
            Parameter::Auth => extensions.auth,
            Parameter::Priority => extensions.mt_priority,
            Parameter::DeliverBy => extensions.deliver_by,
            Parameter::PeerId => extensions.xlinkmail,
        }
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

/// The parameters of one MAIL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// The size the client announces, in octets before dot-stuffing.
    pub size: Option<u64>,
    /// `BODY=8BITMIME`: octets above 127 may come.
    pub eight_bit: bool,
    /// SMTPUTF8: addresses and header may hold UTF-8.
    pub smtputf8: bool,
    /// How much of the message reports return.
    pub ret: Option<Ret>,
    /// The name of the envelope in reports.
    pub envelope_id: Option<EnvelopeId>,
    /// Who submitted the message first, as the client has it; `<>` says that it does not know. To be believed only of a
    /// client that is trusted (RFC 4954 5).
    pub submitter: Option<ReversePath>,
    /// How urgent the client says it is; whether that counts is the shell's to decide (RFC 6710 4.1).
    pub priority: Option<Priority>,
    /// By when it is to be delivered.
    pub deliver_by: Option<DeliverBy>,
    /// The id of the message at the relay it comes from.
    pub peer_id: Option<PeerId>,
}

impl MailParameters {
    /// Reads what follows the path. Errors: the reply that refuses it.
    pub fn parse(rest: &[u8], extensions: &Extensions) -> Result<MailParameters, Reply> {
        let mut read = MailParameters::default();
        for_each(rest, &Parameter::OF_MAIL, extensions, |parameter, value| {
            read.take(parameter, value)
        })?;
        Ok(read)
    }

    fn take(&mut self, parameter: Parameter, value: Option<&[u8]>) -> Option<()> {
        match parameter {
            Parameter::Size => self.size = Some(decimal(value?)?),
            Parameter::Body => {
                let value = value?;
                self.eight_bit = value.eq_ignore_ascii_case(b"8BITMIME");
                if !self.eight_bit && !value.eq_ignore_ascii_case(b"7BIT") {
                    return None;
                }
            }
            Parameter::Smtputf8 => {
                if value.is_some() {
                    return None;
                }
                self.smtputf8 = true;
            }
            Parameter::Ret => self.ret = Some(Ret::parse(value?)?),
            Parameter::EnvelopeId => self.envelope_id = Some(EnvelopeId::parse(value?)?),
            Parameter::Auth => self.submitter = Some(submitter(value?)?),
            Parameter::Priority => self.priority = Some(Priority::parse(value?)?),
            Parameter::DeliverBy => self.deliver_by = Some(DeliverBy::parse(value?)?),
            Parameter::PeerId => self.peer_id = Some(PeerId::parse(value?)?),
            Parameter::Notify | Parameter::OriginalRecipient => return None,
        }
        Some(())
    }
}

/// The parameters of one RCPT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptParameters {
    /// Which reports are wanted; none given is FAILURE, and DELAY as the relay sees fit (RFC 3461 4.1).
    pub notify: Option<Notify>,
    /// The recipient as the sender wrote it.
    pub original: Option<OriginalRecipient>,
}

impl RcptParameters {
    /// Reads what follows the path; `utf8` says whether MAIL had SMTPUTF8. Errors: the reply that refuses it.
    pub fn parse(
        rest: &[u8],
        extensions: &Extensions,
        utf8: bool,
    ) -> Result<RcptParameters, Reply> {
        let mut read = RcptParameters::default();
        for_each(rest, &Parameter::OF_RCPT, extensions, |parameter, value| {
            match parameter {
                Parameter::Notify => read.notify = Some(Notify::parse(value?)?),
                Parameter::OriginalRecipient => {
                    read.original = Some(OriginalRecipient::parse(value?, utf8)?);
                }
                _ => return None,
            }
            Some(())
        })?;
        Ok(read)
    }
}

/// Gives each `KEYWORD[=value]` to `take`, which gives nothing if the value is bad.
fn for_each(
    rest: &[u8],
    known: &[Parameter],
    extensions: &Extensions,
    mut take: impl FnMut(Parameter, Option<&[u8]>) -> Option<()>,
) -> Result<(), Reply> {
    let mut seen = Vec::new();
    for word in words(rest) {
        let mut halves = word.splitn(2, |byte| *byte == b'=');
        let keyword = halves.next().unwrap_or_default();
        let parameter = known
            .iter()
            .find(|known| keyword.eq_ignore_ascii_case(known.keyword().as_bytes()))
            .filter(|known| known.is_offered(extensions))
            .ok_or_else(replies::unknown_parameter)?;
        let is_second = seen.contains(parameter);
        if is_second || take(*parameter, halves.next()).is_none() {
            return Err(replies::bad_parameter(*parameter));
        }
        seen.push(*parameter);
    }
    Ok(())
}

/// The words of a line, whatever number of spaces is between them.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
}

/// One to twenty digits that fit 64 bits (RFC 1870 5, RFC 3030 2).
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// `<>`, or a mailbox without brackets, in xtext (RFC 4954 5).
fn submitter(value: &[u8]) -> Option<ReversePath> {
    if value.len() > MAX_SUBMITTER {
        return None;
    }
    let decoded = xtext_decode(value)?;
    match ReversePath::parse_utf8(&decoded) {
        Ok(ReversePath::Null) => None,
        Ok(path) => Some(path),
        Err(PathError::NoDomain) if decoded == b"<>" => Some(ReversePath::Null),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0193a5c0-4b7e-7c3a-9f00-00000000002A";

    fn mail(rest: &str) -> Result<MailParameters, Reply> {
        MailParameters::parse(rest.as_bytes(), &Extensions::ALL)
    }

    #[test]
    fn every_parameter_is_read() {
        let read = mail(&format!(
            " SIZE=10 body=8BITMIME smtputf8 RET=hdrs ENVID=a+20b AUTH=e+3Dmc2@b.example mt-priority=-3 by=+60;nt \
             XLMID={ID}"
        ))
        .unwrap();
        assert_eq!(
            (read.size, read.eight_bit, read.smtputf8),
            (Some(10), true, true)
        );
        assert_eq!(read.ret, Some(Ret::Headers));
        assert_eq!(read.envelope_id.unwrap().as_str(), "a b");
        assert_eq!(read.submitter.unwrap().to_string(), "e=mc2@b.example");
        assert_eq!(read.priority, Priority::new(-3));
        assert_eq!(read.deliver_by.unwrap().to_string(), "60;NT");
        assert_eq!(read.peer_id.unwrap().to_string(), ID.to_ascii_lowercase());
        assert_eq!(mail(" AUTH=<>").unwrap().submitter, Some(ReversePath::Null));
        let read = RcptParameters::parse(
            b" NOTIFY=NEVER ORCPT=rfc822;a@b.example",
            &Extensions::ALL,
            false,
        );
        assert_eq!(read.unwrap().notify, Some(Notify::NEVER));
    }

    #[test]
    fn a_bad_value_is_501_and_what_is_not_offered_is_555() {
        for rest in [
            "SIZE=1 SIZE=1",
            "SMTPUTF8=yes",
            "RET",
            "ENVID=",
            "AUTH=",
            "AUTH=nobody",
            "AUTH=<a@b.example>",
            "MT-PRIORITY",
            "MT-PRIORITY=10",
            "MT-PRIORITY=1 MT-PRIORITY=1",
            "BY",
            "BY=60",
            "BY=0;R",
            "BY=60;N BY=60;N",
            "XLMID=0193a5c04b7e7c3a9f00000000000002A",
            "XLMID=0193a5c0-4b7e-7c3a-9f00-00000000002G",
            "XLMID=0193a5c0-4b7e-7c3a-9f0000000000-002A",
        ] {
            assert_eq!(mail(rest).unwrap_err().code, 501, "{rest}");
        }
        let none = Extensions::default();
        for rest in [
            "SMTPUTF8",
            "RET=FULL",
            "ENVID=a",
            "AUTH=<>",
            "MT-PRIORITY=3",
            "BY=60;N",
            "XLMID=x",
            "NOTIFY=NEVER",
        ] {
            assert_eq!(
                MailParameters::parse(rest.as_bytes(), &none)
                    .unwrap_err()
                    .code,
                555
            );
        }
        for rest in ["NOTIFY=NEVER", "ORCPT=rfc822;a"] {
            let reply = RcptParameters::parse(rest.as_bytes(), &none, false).unwrap_err();
            assert_eq!(reply.code, 555);
        }
        assert_eq!(
            RcptParameters::parse(b"SIZE=1", &Extensions::ALL, false)
                .unwrap_err()
                .code,
            555
        );
    }
}
