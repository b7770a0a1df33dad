//! Why there is no TLS, in words for an operator's log.

use std::{io, time::Duration};

use rustls::{
    AlertDescription, CertificateError, InvalidMessage, OtherError, PeerMisbehaved,
    pki_types::UnixTime,
};

use super::{dane::DaneError, pin::PinMismatch};
use crate::clock::Stamp;

/// What an error means for the attempt.
///
/// None of them allows going on in the clear: only [`super::ClientTls::may_go_clear`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The other side answered, and is not who it should be. An attempt.
    Untrusted,
    /// The other side answered, and there is no TLS to be had with it. An attempt.
    Incompatible,
    /// The connection was lost, or nothing came in time. What that means depends on where it stood: after a greeting it
    /// is an attempt, before one (implicit TLS) the line may be missing.
    Lost,
}

/// Why a handshake failed, or was not tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The next hop's name cannot stand in a certificate.
    #[error("{0:?} is no host name that a certificate could be for")]
    NoName(String),
    /// A certificate of the chain is out of date.
    #[error("the certificate expired on {0}")]
    Expired(String),
    /// A certificate of the chain is not good yet, or our clock is wrong.
    #[error("the certificate is valid from {0} on; is the clock right?")]
    NotYetValid(String),
    /// The chain does not end at a root that is trusted.
    #[error(
        "the certificate was issued by nobody who is trusted, or the server does not send its intermediate certificates"
    )]
    UnknownIssuer,
    /// The certificate is for other names.
    #[error("the certificate is not for {wanted}; it is for {}", names(has))]
    WrongName {
        /// The name that was looked for.
        wanted: String,
        /// The names that the certificate has.
        has: Vec<String>,
    },
    /// The certificate is none of those that are pinned.
    #[error("{0}")]
    Pin(#[from] PinMismatch),
    /// The certificate is none of those that DNS names.
    #[error("{0}")]
    Dane(#[from] DaneError),
    /// The certificate is wrong in another way.
    #[error("the certificate is not acceptable: {0}")]
    BadCertificate(String),
    /// The other side ended the handshake and said why.
    #[error("the other side refused the handshake: {0}")]
    Refused(String),
    /// What came is no TLS, such as SMTP in the clear.
    #[error("the other side does not speak TLS here")]
    NotTls,
    /// No common version or cipher, or a violation of the protocol.
    #[error("no TLS with the other side: {0}")]
    Protocol(String),
    /// The named timer.
    #[error("the TLS handshake took longer than {0:?}")]
    TimedOut(Duration),
    /// The connection broke.
    #[error("the connection was lost in the TLS handshake: {0}")]
    Lost(String),
}

impl TlsError {
    /// What it means for the attempt.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused(_) | Self::NotTls | Self::Protocol(_) => Class::Incompatible,
            Self::TimedOut(_) | Self::Lost(_) => Class::Lost,
            Self::NoName(_)
            | Self::Expired(_)
            | Self::NotYetValid(_)
            | Self::UnknownIssuer
            | Self::WrongName { .. }
            | Self::Pin(_)
            | Self::Dane(_)
            | Self::BadCertificate(_) => Class::Untrusted,
        }
    }

    /// A short word for it that does not change, for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoName(_) => "no_name",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongName { .. } => "wrong_name",
            Self::Pin(_) => "pin_mismatch",
            Self::Dane(_) => "dane_mismatch",
            Self::BadCertificate(_) => "bad_certificate",
            Self::Refused(_) => "refused",
            Self::NotTls => "not_tls",
            Self::Protocol(_) => "protocol",
            Self::TimedOut(_) => "timed_out",
            Self::Lost(_) => "lost",
        }
    }
}

/// tokio-rustls hands out what rustls said inside of an I/O error.
impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(said) => Self::from(rustls::Error::clone(said)),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Lost("closed by the other side".to_owned())
            }
            None => Self::Lost(error.to_string()),
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidCertificate(error) => Self::from(error),
            E::AlertReceived(alert) => Self::Refused(alert_words(alert)),
            E::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            E::NoCertificatesPresented => Self::BadCertificate("none was sent".to_owned()),
            E::PeerIncompatible(_)
            | E::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme) => {
                Self::Protocol(format!("no common version or cipher ({error})"))
            }
            error => Self::Protocol(error.to_string()),
        }
    }
}

impl From<CertificateError> for TlsError {
    fn from(error: CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::ExpiredContext { not_after, .. } => Self::Expired(date(not_after)),
            E::Expired => Self::Expired("an earlier day".to_owned()),
            E::NotValidYetContext { not_before, .. } => Self::NotYetValid(date(not_before)),
            E::NotValidYet => Self::NotYetValid("a later day".to_owned()),
            E::UnknownIssuer => Self::UnknownIssuer,
            E::BadSignature => Self::BadCertificate(
                "its signature is not that of the issuer it names; was the authority made anew under the same name?".to_owned(),
            ),
            E::NotValidForNameContext {
                expected,
                presented,
            } => Self::WrongName {
                wanted: expected.to_str().into_owned(),
                has: presented.iter().map(|name| bare(name)).collect(),
            },
            E::Other(OtherError(inner)) => {
                if let Some(pin) = inner.downcast_ref::<PinMismatch>() {
                    Self::Pin(pin.clone())
                } else if let Some(dane) = inner.downcast_ref::<DaneError>() {
                    Self::Dane(dane.clone())
                } else if inner.to_string() == "CaUsedAsEndEntity" {
                    Self::BadCertificate(
                        "it is that of an authority, and not of a server; pin it to trust it as it is".to_owned(),
                    )
                } else {
                    Self::BadCertificate(inner.to_string())
                }
            }
            error => Self::BadCertificate(error.to_string()),
        }
    }
}

/// The alerts that an operator can do something about, in words; the rest by the name in RFC 8446 6.2.
fn alert_words(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::ProtocolVersion => "it has no TLS version in common with us",
        AlertDescription::HandshakeFailure => "it has no cipher in common with us",
        AlertDescription::UnknownCA => "it does not trust the issuer of our certificate",
        AlertDescription::BadCertificate => "it does not accept our certificate",
        AlertDescription::CertificateExpired => "it finds our certificate expired",
        AlertDescription::CertificateRequired => "it requires a certificate of ours",
        AlertDescription::UnrecognisedName => "it does not serve the name it was asked for",
        other => return format!("alert {other:?}"),
    };
    words.to_owned()
}

fn names(has: &[String]) -> String {
    match has {
        [] => "no name at all".to_owned(),
        has => has.join(", "),
    }
}

/// rustls gives the names as `DnsName("mx.example")`.
fn bare(name: &str) -> String {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').to_owned()
}

/// A day and a time, as the log writes them.
pub(super) fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 1000);
    Stamp(seconds.saturating_mul(1000)).rfc2822()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_bare() {
        assert_eq!(bare("DnsName(\"mx.example\")"), "mx.example");
        assert_eq!(bare("IpAddress(192.0.2.1)"), "192.0.2.1");
        assert_eq!(bare("odd"), "odd");
    }

    #[test]
    fn only_what_never_came_is_lost() {
        for (error, class) in [
            (TlsError::NotTls, Class::Incompatible),
            (TlsError::UnknownIssuer, Class::Untrusted),
            (TlsError::Lost(String::new()), Class::Lost),
            (TlsError::TimedOut(Duration::ZERO), Class::Lost),
        ] {
            assert_eq!(error.class(), class, "{error}");
        }
    }
}
