//! DANE for SMTP (RFC 7672, RFC 7671, RFC 6698): a chain against the TLSA records of a next hop. Pure.
//!
//! Who looks the records up answers for DNSSEC: only records from a validated answer may come here.

use rustls::{
    CertificateError, RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, Der, ServerName, TrustAnchor, UnixTime},
    server::ParsedCertificate,
};
use sha2::{Digest, Sha512};

use super::{
    TlsError,
    x509::{Parts, PeerCertificate, sequence, sha256},
};

/// A TLSA record as it stands in DNS (RFC 6698 2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tlsa {
    /// 2: DANE-TA, an authority of the chain; 3: DANE-EE, the server's own certificate. Others are not for SMTP.
    pub usage: u8,
    /// 0: the whole certificate; 1: its public key.
    pub selector: u8,
    /// 0: as it is; 1: SHA-256; 2: SHA-512.
    pub matching: u8,
    /// What it must be equal to.
    pub data: Vec<u8>,
}

const DANE_TA: u8 = 2;
const DANE_EE: u8 = 3;

impl Tlsa {
    /// Whether SMTP can use it: RFC 7672 3.1.3 leaves usages 0 and 1 out; unknown values and wrong lengths say nothing.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let length = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == 32,
            2 => self.data.len() == 64,
            _ => false,
        };
        matches!(self.usage, DANE_TA | DANE_EE) && self.selector <= 1 && length
    }

    fn matches(&self, certificate: &CertificateDer<'_>) -> bool {
        let selected: &[u8] = match self.selector {
            0 => certificate,
            _ => match Parts::read(certificate) {
                Some(parts) => parts.key,
                None => return false,
            },
        };
        match self.matching {
            0 => selected == self.data,
            1 => sha256(selected)[..] == self.data,
            2 => Sha512::digest(selected)[..] == self.data,
            _ => false,
        }
    }
}

/// The chain is none that DNS names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DaneError {
    /// No record fits.
    #[error(
        "the certificate is none that the {records} TLSA records of the next hop name; it is cert-sha256:{certificate} with spki-sha256:{key}"
    )]
    NoMatch {
        /// Usable records.
        records: usize,
        /// SHA-256 of the certificate that came.
        certificate: String,
        /// SHA-256 of its key.
        key: String,
    },
    /// A record names an authority of the chain, but the chain or the name is not good.
    #[error("a TLSA record names the issuer, but {0}")]
    Chain(String),
}

/// The records that count: usable, and of each usage and selector only the strongest digest (RFC 7671 9), so that who can
/// make collisions of a weaker one gains nothing. Empty: TLS is demanded, and nobody is verified (RFC 7672 2.2).
#[must_use]
pub fn usable(records: &[Tlsa]) -> Vec<Tlsa> {
    let usable = || records.iter().filter(|record| record.is_usable());
    let beaten = |record: &Tlsa| {
        record.matching == 1
            && usable().any(|other| {
                (other.usage, other.selector, other.matching) == (record.usage, record.selector, 2)
            })
    };
    usable().filter(|record| !beaten(record)).cloned().collect()
}

/// Verifies a chain, the server's own certificate first, as it came; the signature of the handshake is verified apart.
///
/// Usage 3: the certificate alone decides; name and dates say nothing (RFC 7672 3.1.1). Usage 2: the chain must lead to
/// the named authority, be in date, and be for one of `names`: the host, and the next hop's domain (RFC 7672 3.2.2).
///
/// # Errors
/// No record fits. With no usable record at all nothing fits: see [`usable`].
pub fn verify(
    records: &[Tlsa],
    chain: &[CertificateDer<'_>],
    names: &[ServerName<'_>],
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), DaneError> {
    let records = usable(records);
    let no_match = || {
        let found = chain.first().map(PeerCertificate::of);
        DaneError::NoMatch {
            records: records.len(),
            certificate: found.clone().map(|c| c.fingerprint).unwrap_or_default(),
            key: found.and_then(|c| c.key_fingerprint).unwrap_or_default(),
        }
    };
    let Some((own, above)) = chain.split_first() else {
        return Err(no_match());
    };
    let mut refused = None;
    for record in &records {
        if record.usage == DANE_EE {
            if record.matches(own) {
                return Ok(());
            }
            continue;
        }
        let anchors = anchors(record, own, above);
        if anchors.is_empty() {
            continue;
        }
        match chain_to(anchors, own, above, names, now, algorithms) {
            Ok(()) => return Ok(()),
            Err(why) => refused = Some(why),
        }
    }
    Err(refused.map_or_else(no_match, |why| DaneError::Chain(why.to_string())))
}

/// What a record of usage 2 makes a trust anchor: a certificate that came and fits, or what the record itself holds in
/// full, which need not come (RFC 7671 5.2.2, 5.2.3).
fn anchors(record: &Tlsa, own: &CertificateDer<'_>, above: &[CertificateDer<'_>]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    for certificate in above.iter().filter(|came| record.matches(came)) {
        let _ = store.add(certificate.clone());
    }
    if !store.is_empty() || record.matching != 0 {
        return store;
    }
    if record.selector == 0 {
        let _ = store.add(CertificateDer::from(record.data.as_slice()));
    } else if let Some(key) = sequence(&record.data) {
        // A bare key has no name: it is tried as that of whoever issued what came.
        let issuers = std::iter::once(own)
            .chain(above)
            .filter_map(|certificate| Parts::read(certificate).map(|parts| parts.issuer));
        store.extend(issuers.map(|issuer| TrustAnchor {
            subject: Der::from(issuer.to_vec()),
            subject_public_key_info: Der::from(key.to_vec()),
            name_constraints: None,
        }));
    }
    store
}

fn chain_to(
    anchors: RootCertStore,
    own: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    names: &[ServerName<'_>],
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), TlsError> {
    let own = ParsedCertificate::try_from(own)?;
    // A record of usage 2 with the whole certificate or key may name nobody who issued the chain: that is no issuer.
    verify_server_cert_signed_by_trust_anchor(&own, &anchors, above, now, algorithms.all)?;
    let mut wrong = TlsError::from(CertificateError::NotValidForName);
    for name in names {
        match verify_server_name(&own, name) {
            Ok(()) => return Ok(()),
            Err(error) => wrong = error.into(),
        }
    }
    Err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(usage: u8, selector: u8, matching: u8, length: usize) -> Tlsa {
        Tlsa {
            usage,
            selector,
            matching,
            data: vec![7; length],
        }
    }

    #[test]
    fn usages_of_the_web_and_odd_records_do_not_count() {
        for (given, counts) in [
            (record(3, 1, 1, 32), true),
            (record(2, 0, 2, 64), true),
            (record(3, 0, 0, 1), true),
            (record(3, 0, 0, 0), false),
            (record(0, 1, 1, 32), false),
            (record(1, 1, 1, 32), false),
            (record(3, 2, 1, 32), false),
            (record(3, 1, 3, 32), false),
            (record(3, 1, 1, 31), false),
            (record(3, 1, 2, 32), false),
        ] {
            assert_eq!(given.is_usable(), counts, "{given:?}");
        }
    }

    #[test]
    fn a_stronger_digest_beats_the_weaker_of_the_same_kind() {
        let (weak, strong) = (record(3, 1, 1, 32), record(3, 1, 2, 64));
        let other = record(2, 1, 1, 32);
        assert_eq!(
            usable(&[weak, strong.clone(), other.clone()]),
            [strong, other]
        );
    }
}
