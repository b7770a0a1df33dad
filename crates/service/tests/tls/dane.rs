//! Chains against TLSA records, pure and in a handshake.

use std::{slice, time::Duration};

use linkmail_service::tls::{
    ClientTls, Mode, TlsError, Trust,
    dane::{DaneError, Tlsa, verify},
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256, Sha512};

use crate::{
    authority::Authority,
    peer::{meet, server},
};

const HOST: &str = "mx.branch.example";
const DOMAIN: &str = "branch.example";

fn record(usage: u8, selector: u8, matching: u8, of: &[u8]) -> Tlsa {
    let data = match matching {
        0 => of.to_vec(),
        1 => Sha256::digest(of).to_vec(),
        _ => Sha512::digest(of).to_vec(),
    };
    Tlsa {
        usage,
        selector,
        matching,
        data,
    }
}

fn check(
    records: &[Tlsa],
    chain: &[CertificateDer<'static>],
    names: &[&str],
) -> Result<(), DaneError> {
    let names: Vec<_> = names
        .iter()
        .map(|name| ServerName::try_from((*name).to_owned()).unwrap())
        .collect();
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    // Some day in 2030.
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_000));
    verify(records, chain, &names, now, &algorithms)
}

#[test]
fn a_record_for_the_certificate_itself_asks_for_no_name_and_no_date() {
    let authority = Authority::new("root");
    let own = authority.expired("other.example");
    let chain = [own.der.clone()];
    for selector in [0, 1] {
        let of: &[u8] = if selector == 0 { &own.der } else { &own.spki };
        for matching in [0, 1, 2] {
            let fits = record(3, selector, matching, of);
            assert_eq!(check(&[fits], &chain, &[HOST]), Ok(()));
            let not = record(3, selector, matching, b"another");
            let error = check(&[not], &chain, &[HOST]).unwrap_err();
            assert!(matches!(error, DaneError::NoMatch { records: 1, .. }));
        }
    }
    let both = [record(3, 1, 1, b"old key"), record(3, 1, 1, &own.spki)];
    assert_eq!(check(&both, &chain, &[HOST]), Ok(()));
    // The stronger digest alone counts, or a forger of the weaker would gain by it.
    let both = [record(3, 1, 2, b"another"), record(3, 1, 1, &own.spki)];
    assert!(check(&both, &chain, &[HOST]).is_err());
    assert!(check(&[], &chain, &[HOST]).is_err());
    assert!(check(&[record(3, 1, 1, &own.spki)], &[], &[HOST]).is_err());
}

#[test]
fn a_record_for_an_authority_asks_for_a_chain_to_it_and_for_a_name() {
    let (authority, stranger) = (Authority::new("root"), Authority::new("stranger"));
    let own = authority.issue(HOST);
    let chain = [own.der.clone(), authority.der()];
    for (selector, of) in [(0, authority.der().to_vec()), (1, authority.spki())] {
        for matching in [0, 1, 2] {
            let fits = record(2, selector, matching, &of);
            assert_eq!(check(slice::from_ref(&fits), &chain, &[HOST]), Ok(()));
            let names = ["other.example", HOST];
            assert_eq!(check(slice::from_ref(&fits), &chain, &names), Ok(()));
            let error = check(slice::from_ref(&fits), &chain, &["other.example"]).unwrap_err();
            assert!(
                error.to_string().contains("not for other.example"),
                "{error}"
            );
            // What is in the record in full need not come; a digest says nothing without what it is of.
            let alone = check(&[fits], &chain[..1], &[HOST]);
            assert_eq!(alone.is_ok(), matching == 0, "{selector} {matching}");
        }
    }
    let expired = [authority.expired(HOST).der, authority.der()];
    let fits = record(2, 0, 1, &authority.der());
    let error = check(slice::from_ref(&fits), &expired, &[HOST]).unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    // The named authority comes along, but did not issue the certificate.
    let foreign = [stranger.issue(HOST).der, authority.der()];
    assert!(matches!(
        check(&[fits], &foreign, &[HOST]),
        Err(DaneError::Chain(_))
    ));
    let unknown = record(2, 0, 1, &stranger.der());
    assert!(matches!(
        check(&[unknown], &chain, &[HOST]),
        Err(DaneError::NoMatch { .. })
    ));
}

#[test]
fn a_damaged_certificate_fits_nothing_and_breaks_nothing() {
    let authority = Authority::new("root");
    let own = authority.issue(HOST).der;
    let records = [record(3, 0, 1, &own), record(2, 1, 0, &authority.spki())];
    assert_eq!(check(&records, slice::from_ref(&own), &[HOST]), Ok(()));
    let cut = (0..own.len()).map(|length| own[..length].to_vec());
    let changed = (0..own.len()).flat_map(|at| {
        let own = &own;
        [0x01, 0x80, 0xff].map(move |mask| {
            let mut octets = own.to_vec();
            octets[at] ^= mask;
            octets
        })
    });
    for octets in cut.chain(changed) {
        let damaged = [CertificateDer::from(octets)];
        assert!(check(&records, &damaged, &[HOST]).is_err());
    }
}

fn by(records: &[Tlsa], host: &str, domain: &str) -> ClientTls {
    ClientTls::dane(host, Some(domain), records).unwrap()
}

#[tokio::test]
async fn records_decide_in_a_handshake_and_sessions_belong_to_them() {
    let authority = Authority::new("root");
    let own = authority.issue("mx.elsewhere.example");
    let server = server(own.server());
    // No roots are trusted here that would vouch for it. The host that is connected to need not be what the records are of.
    let fits = by(&[record(3, 1, 1, &own.spki)], HOST, DOMAIN);
    assert_eq!((fits.mode(), fits.may_go_clear()), (Mode::Require, false));
    for resumed in [false, true] {
        let (near, far) = meet(&fits, &server, "192.0.2.1").await;
        let near = near.unwrap();
        assert_eq!(near.session().unwrap().trust, Trust::Dane);
        assert_eq!(near.session().unwrap().resumed, resumed);
        let far = far.unwrap();
        assert_eq!(far.session().unwrap().asked_for.as_deref(), Some(HOST));
    }
    let not = by(&[record(3, 1, 1, b"another")], HOST, DOMAIN);
    let error = meet(&not, &server, HOST).await.0.unwrap_err();
    assert!(matches!(error, TlsError::Dane(_)), "{error}");
    let issuer = [record(2, 0, 1, &authority.der())];
    let (near, _) = meet(&by(&issuer, HOST, DOMAIN), &server, HOST).await;
    assert!(matches!(
        near.unwrap_err(),
        TlsError::Dane(DaneError::Chain(_))
    ));
    let elsewhere = by(&issuer, "mx.elsewhere.example", DOMAIN);
    meet(&elsewhere, &server, HOST).await.0.unwrap();
    // Unusable records alone: TLS, and nobody verified.
    let unusable = by(&[record(1, 1, 1, b"another")], HOST, DOMAIN);
    assert!(!unusable.may_go_clear());
    let near = meet(&unusable, &server, HOST).await.0.unwrap();
    assert_eq!(near.session().unwrap().trust, Trust::Unverified);
}

#[tokio::test]
async fn a_certificate_may_name_the_domain_in_place_of_the_host() {
    let authority = Authority::new("root");
    let own = authority.issue("branch.example");
    let server = server(own.server());
    let issuer = [record(2, 1, 1, &authority.spki())];
    for (domain, trusted) in [(DOMAIN, true), ("other.example", false)] {
        let (near, _) = meet(&by(&issuer, HOST, domain), &server, HOST).await;
        assert_eq!(near.is_ok(), trusted, "{domain}");
    }
}
