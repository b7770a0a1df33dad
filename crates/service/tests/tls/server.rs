//! What a server shows, also after its files changed, and what it makes of a client's certificate.

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc, time::Duration};

use linkmail_service::tls::{
    ClientSettings, ClientTls, FileError, IdentityFiles, Mode, Reload, ReloadingIdentity,
    ServerFiles, ServerTls, TlsError, Trust,
};
use rustls::{ClientConfig, ServerConfig, version::TLS12};
use tokio::io::duplex;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::{
    authority::{Authority, Issued},
    peer::{PATIENCE, client, meet, server, trusting},
};

const HOST: &str = "mx.branch.example";

async fn shown(server: &ServerTls, host: &str) -> String {
    let tls = client(&ClientSettings::new(Mode::Opportunistic));
    let (near, _) = meet(&tls, server, host).await;
    near.unwrap()
        .session()
        .unwrap()
        .peer
        .clone()
        .unwrap()
        .subject
}

#[tokio::test]
async fn the_name_that_is_asked_for_chooses_the_identity() {
    let authority = Authority::new("root");
    let mut files = authority.issue(HOST).server();
    files.by_name = vec![
        authority.issue("in.site.example").files,
        authority.issue("*.wild.example").files,
    ];
    let server = server(files);
    for (host, subject) in [
        (HOST, HOST),
        ("in.site.example", "in.site.example"),
        ("a.wild.example", "*.wild.example"),
        ("unknown.example", HOST),
        ("192.0.2.1", HOST),
    ] {
        assert_eq!(shown(&server, host).await, format!("CN={subject}"));
    }
}

#[test]
fn the_first_end_of_all_is_told() {
    let authority = Authority::new("root");
    let mut files = authority.issue(HOST).server();
    let ends = |files: &ServerFiles| {
        let identity = ReloadingIdentity::load(files.clone()).unwrap();
        identity.expires().unwrap().rfc2822()
    };
    // The default of rcgen.
    assert_eq!(ends(&files), "Sun, 01 Jan 4096 00:00:00 +0000");
    files.by_name = vec![authority.expired("old.example").files];
    assert_eq!(ends(&files), "Sun, 03 Feb 2002 00:00:00 +0000");
}

/// As Kubernetes lays out a mounted secret: the names lead through `..data`, which is replaced by a rename.
fn mount(at: &Path, generation: &str, issued: &Issued) {
    let folder = at.join(generation);
    fs::create_dir(&folder).unwrap();
    fs::copy(&issued.files.certificate, folder.join("tls.crt")).unwrap();
    fs::copy(&issued.files.key, folder.join("tls.key")).unwrap();
    let next = at.join("..data_tmp");
    symlink(generation, &next).unwrap();
    fs::rename(next, at.join("..data")).unwrap();
}

fn mounted(at: &Path) -> ServerFiles {
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), at.join(name)).unwrap();
    }
    ServerFiles {
        default: IdentityFiles {
            certificate: at.join("tls.crt"),
            key: at.join("tls.key"),
        },
        by_name: Vec::new(),
        client_roots: None,
    }
}

#[tokio::test]
async fn a_swapped_link_is_taken_up_and_a_bad_file_keeps_the_old() {
    let authority = Authority::new("root");
    let (first, second) = (
        authority.issue("first.example"),
        authority.issue("second.example"),
    );
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    mount(at, "1", &first);
    let identity = Arc::new(ReloadingIdentity::load(mounted(at)).unwrap());
    let server = ServerTls::new(Arc::clone(&identity)).unwrap();
    assert_eq!(shown(&server, HOST).await, "CN=first.example");
    assert_eq!(identity.reload(), Ok(Reload::Unchanged));
    mount(at, "2", &second);
    assert_eq!(identity.reload(), Ok(Reload::Changed));
    assert_eq!(shown(&server, HOST).await, "CN=second.example");
    // A certificate without its key, as between the two writes of a renewal.
    fs::copy(&first.files.certificate, at.join("2/tls.crt")).unwrap();
    assert!(matches!(identity.reload(), Err(FileError::Mismatch { .. })));
    fs::write(at.join("2/tls.crt"), "nothing").unwrap();
    let error = identity.reload().unwrap_err().to_string();
    assert!(error.contains("tls.crt: holds no certificate"), "{error}");
    fs::remove_file(at.join("2/tls.key")).unwrap();
    assert!(identity.reload().is_err());
    assert_eq!(shown(&server, HOST).await, "CN=second.example");
    mount(at, "3", &first);
    assert_eq!(identity.reload(), Ok(Reload::Changed));
    assert_eq!(shown(&server, HOST).await, "CN=first.example");
}

#[tokio::test]
async fn the_keeper_takes_up_a_swap_by_the_clock_and_by_the_signal() {
    let authority = Authority::new("root");
    for by_signal in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        mount(folder.path(), "1", &authority.issue("first.example"));
        let identity = Arc::new(ReloadingIdentity::load(mounted(folder.path())).unwrap());
        let server = ServerTls::new(Arc::clone(&identity)).unwrap();
        let cancel = CancellationToken::new();
        let every = Duration::from_millis(if by_signal { 3_600_000 } else { 20 });
        let keeper = tokio::spawn(
            linkmail_service::fresh::keep_fresh(vec![identity], every, cancel.clone()).unwrap(),
        );
        mount(folder.path(), "2", &authority.issue("second.example"));
        if by_signal {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP)
                .unwrap();
        }
        let swapped = async {
            while shown(&server, HOST).await != "CN=second.example" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, swapped).await.unwrap();
        cancel.cancel();
        keeper.await.unwrap();
    }
}

#[tokio::test]
async fn a_clients_certificate_is_asked_for_and_never_ends_the_session() {
    let (authority, stranger) = (Authority::new("root"), Authority::new("stranger"));
    let asking = server(ServerFiles {
        client_roots: Some(authority.roots()),
        ..authority.issue(HOST).server()
    });
    let with = |issued: Option<Issued>| {
        client(&ClientSettings {
            identity: issued.map(|issued| issued.files),
            ..trusting(&authority)
        })
    };
    let known = authority.issue("site.example");
    let fingerprint = {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(&known.der);
        digest
            .iter()
            .map(|o| format!("{o:02x}"))
            .collect::<String>()
    };
    let tls = with(Some(known));
    // The second session is resumed, and its certificate counts as much.
    for resumed in [false, true] {
        let (_, far) = meet(&tls, &asking, HOST).await;
        let far = far.unwrap();
        let session = far.session().unwrap();
        assert_eq!((&session.trust, session.resumed), (&Trust::Roots, resumed));
        let peer = session.peer.as_ref().unwrap();
        assert_eq!(peer.subject, "CN=site.example");
        assert_eq!(peer.fingerprint, fingerprint);
    }
    let far = meet(&with(None), &asking, HOST).await.1.unwrap();
    assert_eq!(far.session().unwrap().trust, Trust::Unverified);
    assert_eq!(far.session().unwrap().peer, None);
    let tls = with(Some(stranger.issue("site.example")));
    let far = meet(&tls, &asking, HOST).await.1.unwrap();
    assert!(matches!(far.session().unwrap().trust, Trust::Refused(_)));
    // A server without roots for clients asks nobody.
    let silent = server(authority.issue(HOST).server());
    let tls = with(Some(authority.issue("site.example")));
    let far = meet(&tls, &silent, HOST).await.1.unwrap();
    assert_eq!(far.session().unwrap().peer, None);
}

fn ring() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[tokio::test]
async fn a_peer_of_tls_1_2_alone_is_served_and_reached() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let authority = Authority::new("root");
    let own = authority.issue(HOST);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let config = ClientConfig::builder_with_provider(ring())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = TlsConnector::from(Arc::new(config));
    let ours = server(own.server());
    for resumed in [false, true] {
        let (near, far) = duplex(1 << 16);
        let (near, far) = tokio::join!(
            old.connect(HOST.try_into().unwrap(), near),
            ours.accept(far, PATIENCE)
        );
        near.unwrap();
        let far = far.unwrap();
        assert_eq!(far.session().unwrap().version, "TLSv1.2");
        assert_eq!(far.session().unwrap().resumed, resumed);
    }
    let config = ServerConfig::builder_with_provider(ring())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&own.files.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&own.files.key).unwrap(),
        )
        .unwrap();
    let old = TlsAcceptor::from(Arc::new(config));
    let tls: ClientTls = client(&trusting(&authority));
    for resumed in [false, true] {
        let (near, far) = duplex(1 << 16);
        let (near, far) = tokio::join!(tls.connect(near, HOST, PATIENCE), old.accept(far));
        far.unwrap();
        let near = near.unwrap();
        assert_eq!(near.session().unwrap().version, "TLSv1.2");
        assert_eq!(near.session().unwrap().resumed, resumed);
    }
}

#[tokio::test]
async fn a_server_that_wants_our_certificate_says_so_at_the_first_read() {
    use rustls::{
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
        version::TLS13,
    };
    use tokio::io::AsyncReadExt;
    let authority = Authority::new("root");
    let own = authority.issue(HOST);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), ring());
    let config = ServerConfig::builder_with_provider(ring())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&own.files.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&own.files.key).unwrap(),
        )
        .unwrap();
    let theirs = TlsAcceptor::from(Arc::new(config));
    let with = ClientSettings {
        identity: Some(authority.issue("site.example").files),
        ..trusting(&authority)
    };
    for (settings, welcome) in [(trusting(&authority), false), (with, true)] {
        let tls = client(&settings);
        let (near, far) = duplex(1 << 16);
        let (near, far) = tokio::join!(tls.connect(near, HOST, PATIENCE), theirs.accept(far));
        assert_eq!(far.is_ok(), welcome);
        drop(far);
        let read = near.unwrap().read(&mut [0; 1]).await;
        let expected = "it requires a certificate of ours".to_owned();
        match read.map_err(TlsError::from) {
            Ok(end) => assert!(welcome && end == 0),
            Err(error) => assert_eq!(error, TlsError::Refused(expected)),
        }
    }
}

#[tokio::test]
async fn smtp_on_a_port_of_tls_is_told_as_such() {
    use tokio::io::AsyncWriteExt;
    let authority = Authority::new("root");
    let (mut near, far) = duplex(1 << 16);
    near.write_all(b"EHLO site.example\r\n").await.unwrap();
    let ours = server(authority.issue(HOST).server());
    let error = ours.accept(far, PATIENCE).await.unwrap_err();
    assert_eq!(error, TlsError::NotTls);
}
