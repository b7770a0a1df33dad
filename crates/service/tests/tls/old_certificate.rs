//! A server with a certificate of X.509 version 1, which webpki cannot read.

use std::sync::Arc;

use linkmail_service::tls::{
    ClientSettings, ClientTls, MaybeTls, Mode, TlsError, Trust, dane::Tlsa,
};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::ring::{default_provider, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use sha2::{Digest, Sha256};
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;

use crate::{
    authority::{Authority, Issued},
    peer::{PATIENCE, client},
};

const HOST: &str = "mx.branch.example";

/// A DER element.
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], length.as_slice(), contents].concat()
}

/// The DER elements that stand side by side, each with its tag, its contents and all of it.
fn elements(mut octets: &[u8]) -> Vec<(u8, &[u8], &[u8])> {
    let mut found = Vec::new();
    while !octets.is_empty() {
        let (start, length) = match octets[1] {
            0x81 => (3, usize::from(octets[2])),
            0x82 => (4, usize::from(octets[2]) << 8 | usize::from(octets[3])),
            short => (2, usize::from(short)),
        };
        let (whole, rest) = octets.split_at(start + length);
        found.push((whole[0], &whole[start..], whole));
        octets = rest;
    }
    found
}

/// The same certificate without its version and its extensions: one of version 1. Nobody verifies its signature.
fn of_version_1(certificate: &CertificateDer<'_>) -> CertificateDer<'static> {
    let [(_, parts, _)] = elements(certificate)[..] else {
        panic!("no certificate");
    };
    let parts = elements(parts);
    let kept: Vec<_> = elements(parts[0].1)
        .into_iter()
        .filter(|(tag, ..)| !matches!(tag, 0xa0 | 0xa3))
        .flat_map(|(.., whole)| whole.to_vec())
        .collect();
    let signed = element(0x30, &kept);
    element(0x30, &[&signed, parts[1].2, parts[2].2].concat()).into()
}

/// What a client gets of a server that shows `certificate` and has the key of `own`.
async fn reach(
    client: &ClientTls,
    certificate: &CertificateDer<'static>,
    own: &Issued,
    version: &'static SupportedProtocolVersion,
) -> Result<MaybeTls<DuplexStream>, TlsError> {
    let key = PrivateKeyDer::from_pem_file(&own.files.key).unwrap();
    let shown = CertifiedKey::new(vec![certificate.clone()], any_supported_type(&key).unwrap());
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    let server = TlsAcceptor::from(Arc::new(config));
    let (near, far) = duplex(1 << 16);
    let (near, _) = tokio::join!(client.connect(near, HOST, PATIENCE), server.accept(far));
    near
}

#[tokio::test]
async fn it_is_taken_where_its_key_is_named_and_the_key_is_proved() {
    let authority = Authority::new("root");
    let (own, other) = (authority.issue(HOST), authority.issue("other.example"));
    let old = of_version_1(&own.der);
    let record = Tlsa {
        usage: 3,
        selector: 1,
        matching: 1,
        data: Sha256::digest(&own.spki).to_vec(),
    };
    let dane = || ClientTls::dane(HOST, None, std::slice::from_ref(&record)).unwrap();
    let digits: String = record
        .data
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    let pinned = || {
        client(&ClientSettings {
            pins: vec![format!("spki-sha256:{digits}").parse().unwrap()],
            ..ClientSettings::new(Mode::Require)
        })
    };
    for (client, trust) in [(dane(), Trust::Dane), (pinned(), Trust::Pinned)] {
        let near = reach(&client, &old, &own, &TLS13).await.unwrap();
        assert_eq!(near.session().unwrap().trust, trust);
        // The limit that the docs name.
        reach(&client, &old, &own, &TLS12).await.unwrap_err();
    }
    for client in [dane(), pinned()] {
        let error = reach(&client, &old, &other, &TLS13).await.unwrap_err();
        assert!(!matches!(error, TlsError::Lost(_)), "{error}");
    }
}
