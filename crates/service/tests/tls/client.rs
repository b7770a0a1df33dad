//! What a next hop must show, in each mode.

use std::time::Duration;

use linkmail_service::tls::{Class, ClientSettings, Mode, Roots, TlsError, Trust};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use crate::{
    authority::Authority,
    peer::{PATIENCE, client, meet, server, trusting},
};

const HOST: &str = "mx.branch.example";

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn sha256(octets: &[u8]) -> String {
    hex(&Sha256::digest(octets))
}

#[test]
fn only_where_nobody_is_verified_mail_may_go_in_clear() {
    for mode in [
        Mode::None,
        Mode::Opportunistic,
        Mode::Require,
        Mode::Implicit,
    ] {
        let settings = ClientSettings {
            roots: Some(Roots::Public),
            ..ClientSettings::new(mode)
        };
        assert_eq!(
            client(&settings).may_go_clear(),
            !mode.verifies(),
            "{mode:?}"
        );
    }
}

#[tokio::test]
async fn a_good_chain_for_the_name_is_trusted() {
    let authority = Authority::new("root");
    let server = server(authority.issue(HOST).server());
    for mode in [Mode::Require, Mode::Implicit] {
        let settings = ClientSettings {
            mode,
            ..trusting(&authority)
        };
        // The final dot of DNS is not part of the name.
        for host in [HOST, "mx.branch.example."] {
            let (near, far) = meet(&client(&settings), &server, host).await;
            let (near, far) = (near.unwrap(), far.unwrap());
            let session = near.session().unwrap();
            assert_eq!(session.version, "TLSv1.3");
            assert!(session.cipher.starts_with("TLS_"), "{}", session.cipher);
            assert_eq!(session.trust, Trust::Roots);
            assert_eq!(
                session.to_string(),
                format!("TLSv1.3 {}, verified by its issuer", session.cipher)
            );
            assert_eq!(session.peer.as_ref().unwrap().subject, format!("CN={HOST}"));
            assert_eq!(far.session().unwrap().asked_for.as_deref(), Some(HOST));
        }
    }
}

#[tokio::test]
async fn a_bad_certificate_is_told_in_words() {
    let (authority, stranger) = (Authority::new("root"), Authority::new("stranger"));
    let tls = client(&trusting(&authority));
    let (near, far) = meet(&tls, &server(authority.expired(HOST).server()), HOST).await;
    assert_eq!(
        near.unwrap_err().to_string(),
        "the certificate expired on Sun, 03 Feb 2002 00:00:00 +0000"
    );
    assert_eq!(
        far.unwrap_err(),
        TlsError::Refused("it finds our certificate expired".to_owned())
    );
    let (near, _) = meet(&tls, &server(stranger.issue(HOST).server()), HOST).await;
    assert_eq!(near.unwrap_err(), TlsError::UnknownIssuer);
    let (near, _) = meet(
        &tls,
        &server(authority.issue("other.example").server()),
        HOST,
    )
    .await;
    let error = near.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate is not for mx.branch.example; it is for other.example"
    );
    assert_eq!(error.class(), Class::Untrusted);
    // An authority that was made anew under the old name.
    let again = Authority::new("root");
    let (near, _) = meet(&tls, &server(again.issue(HOST).server()), HOST).await;
    let error = near.unwrap_err().to_string();
    assert!(error.contains("made anew under the same name"), "{error}");
    let issued = authority.issue_with(HOST, |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let (near, _) = meet(&tls, &server(issued.server()), HOST).await;
    let error = near.unwrap_err().to_string();
    assert!(error.contains("it is that of an authority"), "{error}");
}

#[tokio::test]
async fn an_address_is_verified_and_not_asked_for() {
    let authority = Authority::new("root");
    let tls = client(&trusting(&authority));
    let server = server(authority.issue("192.0.2.1").server());
    let (near, far) = meet(&tls, &server, "192.0.2.1").await;
    near.unwrap();
    assert_eq!(far.unwrap().session().unwrap().asked_for, None);
    let (near, _) = meet(&tls, &server, "192.0.2.2").await;
    assert_eq!(
        near.unwrap_err().to_string(),
        "the certificate is not for 192.0.2.2; it is for 192.0.2.1"
    );
}

#[tokio::test]
async fn an_opportunistic_client_takes_any_certificate() {
    let authority = Authority::new("root");
    let tls = client(&ClientSettings::new(Mode::Opportunistic));
    for issued in [authority.expired(HOST), authority.issue("other.example")] {
        let (near, _) = meet(&tls, &server(issued.server()), HOST).await;
        assert_eq!(near.unwrap().session().unwrap().trust, Trust::Unverified);
    }
}

#[tokio::test]
async fn a_server_name_stands_in_for_the_host() {
    let authority = Authority::new("root");
    let settings = ClientSettings {
        server_name: Some("other.example".try_into().unwrap()),
        ..trusting(&authority)
    };
    let server = server(authority.issue("other.example").server());
    let (near, far) = meet(&client(&settings), &server, "192.0.2.1").await;
    near.unwrap();
    let asked = far.unwrap().session().unwrap().asked_for.clone();
    assert_eq!(asked.as_deref(), Some("other.example"));
}

#[tokio::test]
async fn a_pin_alone_decides_and_with_roots_both_must_fit() {
    let (authority, stranger) = (Authority::new("root"), Authority::new("stranger"));
    let issued = authority.expired(HOST);
    let shown = server(issued.server());
    let key = format!("spki-sha256:{}", sha256(&issued.spki));
    let certificate = format!("cert-sha256:{}", sha256(&issued.der));
    let wrong = format!("spki-sha256:{}", sha256(b"another"));
    let pinned = |pins: &[&str], roots: Option<Roots>| {
        client(&ClientSettings {
            pins: pins.iter().map(|pin| pin.parse().unwrap()).collect(),
            roots,
            ..ClientSettings::new(Mode::Require)
        })
    };
    for pins in [&[key.as_str()][..], &[&certificate], &[&wrong, &key]] {
        let (near, _) = meet(&pinned(pins, None), &shown, "anything.example").await;
        assert_eq!(near.unwrap().session().unwrap().trust, Trust::Pinned);
    }
    let (near, _) = meet(&pinned(&[&wrong], None), &shown, HOST).await;
    let error = near.unwrap_err();
    assert!(matches!(error, TlsError::Pin(_)), "{error}");
    assert!(error.to_string().contains(&certificate), "{error}");
    assert!(error.to_string().contains(&key), "{error}");
    let roots = |of: &Authority| Some(Roots::File(of.roots()));
    let (near, _) = meet(&pinned(&[&key], roots(&authority)), &shown, HOST).await;
    assert!(matches!(near.unwrap_err(), TlsError::Expired(_)));
    let issued = authority.issue(HOST);
    let key = format!("spki-sha256:{}", sha256(&issued.spki));
    let shown = server(issued.server());
    let (near, _) = meet(&pinned(&[&key], roots(&stranger)), &shown, HOST).await;
    assert_eq!(near.unwrap_err(), TlsError::UnknownIssuer);
    let (near, _) = meet(&pinned(&[&key], roots(&authority)), &shown, HOST).await;
    near.unwrap();
}

#[tokio::test]
async fn the_second_connection_resumes_the_first() {
    let authority = Authority::new("root");
    let server = server(authority.issue(HOST).server());
    let tls = client(&trusting(&authority));
    for resumed in [false, true, true] {
        let (near, far) = meet(&tls, &server, HOST).await;
        let (near, far) = (near.unwrap(), far.unwrap());
        assert_eq!(near.session().unwrap().resumed, resumed);
        assert_eq!(far.session().unwrap().resumed, resumed);
        assert!(near.session().unwrap().peer.is_some());
    }
}

#[tokio::test]
async fn a_session_is_resumed_after_many_others() {
    let authority = Authority::new("root");
    let server = server(authority.issue(HOST).server());
    let tls = client(&trusting(&authority));
    meet(&tls, &server, HOST).await.0.unwrap();
    // More than a server without tickets would remember.
    for _ in 0..140 {
        let other = client(&ClientSettings::new(Mode::Opportunistic));
        meet(&other, &server, HOST).await.0.unwrap();
    }
    let near = meet(&tls, &server, HOST).await.0.unwrap();
    assert!(near.session().unwrap().resumed);
}

#[tokio::test]
async fn smtp_in_place_of_tls_is_told_as_such() {
    let tls = client(&ClientSettings::new(Mode::Opportunistic));
    let (near, mut far) = duplex(1 << 16);
    far.write_all(b"220 mx.branch.example ESMTP\r\n")
        .await
        .unwrap();
    let error = tls.connect(near, HOST, PATIENCE).await.unwrap_err();
    assert_eq!(error, TlsError::NotTls);
    assert_eq!(error.class(), Class::Incompatible);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_by_the_timer_and_a_close_is_a_loss() {
    let tls = client(&ClientSettings::new(Mode::Opportunistic));
    let (near, mut far) = duplex(1 << 16);
    let patience = Duration::from_secs(60);
    let error = tls.connect(near, HOST, patience).await.unwrap_err();
    assert_eq!(error, TlsError::TimedOut(patience));
    let mut hello = Vec::new();
    far.read_to_end(&mut hello).await.unwrap();
    assert!(!hello.is_empty());
    let (near, far) = duplex(1 << 16);
    drop(far);
    let error = tls.connect(near, HOST, patience).await.unwrap_err();
    assert_eq!(error.class(), Class::Lost, "{error}");
}
