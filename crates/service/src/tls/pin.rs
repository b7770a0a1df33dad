//! Pinned certificates and keys (RFC 7469 2.4 for the digest of a key; here for one next hop, by its configuration).

use std::{fmt, str::FromStr};

use rustls::pki_types::CertificateDer;

use super::x509::{Parts, PeerCertificate, hex, sha256};

/// What the certificate of a next hop must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// SHA-256 of the public key (SubjectPublicKeyInfo in DER): `spki-sha256:HEX`. Outlives renewals that keep the key.
    Key([u8; 32]),
    /// SHA-256 of the certificate in DER: `cert-sha256:HEX`.
    Certificate([u8; 32]),
}

impl Pin {
    fn matches(&self, certificate: &CertificateDer<'_>) -> bool {
        match self {
            Self::Certificate(digest) => sha256(certificate) == *digest,
            Self::Key(digest) => {
                Parts::read(certificate).is_some_and(|parts| sha256(parts.key) == *digest)
            }
        }
    }
}

/// Whether the certificate of the server itself is one of the pinned.
pub(super) fn check(pins: &[Pin], certificate: &CertificateDer<'_>) -> Result<(), PinMismatch> {
    if pins.iter().any(|pin| pin.matches(certificate)) {
        return Ok(());
    }
    let found = PeerCertificate::of(certificate);
    Err(PinMismatch {
        certificate: found.fingerprint,
        key: found.key_fingerprint.unwrap_or_default(),
    })
}

/// The certificate is none of the pinned ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the certificate is none of the pinned ones; it is cert-sha256:{certificate} with spki-sha256:{key}"
)]
pub struct PinMismatch {
    /// SHA-256 of the certificate that came.
    pub certificate: String,
    /// SHA-256 of its key.
    pub key: String,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(digest) => write!(f, "spki-sha256:{}", hex(digest)),
            Self::Certificate(digest) => write!(f, "cert-sha256:{}", hex(digest)),
        }
    }
}

impl FromStr for Pin {
    type Err = NotAPin;

    /// Colons between the digits are allowed, as `openssl x509 -fingerprint -sha256` prints them.
    fn from_str(text: &str) -> Result<Self, NotAPin> {
        let wrong = || NotAPin(text.to_owned());
        let (form, digits) = text.split_once(':').ok_or_else(wrong)?;
        let digest = digest(digits).ok_or_else(wrong)?;
        match form {
            "spki-sha256" => Ok(Self::Key(digest)),
            "cert-sha256" => Ok(Self::Certificate(digest)),
            _ => Err(wrong()),
        }
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|character| *character != ':')
        .map(|character| {
            character
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect::<Option<_>>()?;
    if digits.len() != 64 {
        return None;
    }
    let octets: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    octets.try_into().ok()
}

/// Text that is no [`Pin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no pin; expected \"spki-sha256:\" or \"cert-sha256:\" and 64 hexadecimal digits (openssl x509 -in FILE -noout -fingerprint -sha256)"
)]
pub struct NotAPin(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_as_it_is_shown_and_as_openssl_prints_it() {
        let plain = format!("cert-sha256:{}", "0f".repeat(32));
        assert_eq!(plain.parse::<Pin>().unwrap().to_string(), plain);
        let colons = format!("cert-sha256:{}", ["0F"; 32].join(":"));
        assert_eq!(colons.parse::<Pin>().unwrap().to_string(), plain);
        for wrong in ["", "0f", "sha1:0f", "spki-sha256:0f", "spki-sha256:zz"] {
            assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
        }
    }
}
