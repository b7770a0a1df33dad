//! Against a foreign implementation. Without the tool this is a failure in CI, and nothing elsewhere.

use std::process::{Command, Stdio};

use linkmail_service::tls::{ClientSettings, Mode, TlsError, Trust};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command as Spawn,
};

use crate::{
    authority::Authority,
    peer::{PATIENCE, client, server, trusting},
};

const HOST: &str = "mx.branch.example";

fn is_installed() -> bool {
    let found = Command::new("openssl")
        .arg("version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    assert!(
        found || std::env::var_os("CI").is_none(),
        "openssl is missing; tests/run installs it"
    );
    found
}

#[tokio::test]
async fn openssl_as_the_client_is_served() {
    if !is_installed() {
        return;
    }
    let authority = Authority::new("root");
    let site = authority.issue("site.example").files;
    let mut files = authority.issue(HOST).server();
    files.client_roots = Some(authority.roots());
    let ours = server(files);
    for version in ["-tls1_3", "-tls1_2"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut theirs = Spawn::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", version])
            .args(["-connect", &address, "-servername", HOST])
            .args(["-verify_hostname", HOST, "-CAfile"])
            .arg(authority.roots())
            .arg("-cert")
            .arg(&site.certificate)
            .arg("-key")
            .arg(&site.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let talk = async {
            let (socket, _) = listener.accept().await.unwrap();
            let mut stream = ours.accept(socket, PATIENCE).await.unwrap();
            let session = stream.session().unwrap();
            assert_eq!(
                session.version.replace("TLSv", "-tls").replace('.', "_"),
                version
            );
            assert_eq!(session.trust, Trust::Roots);
            assert_eq!(session.asked_for.as_deref(), Some(HOST));
            stream.write_all(b"220 hello\n").await.unwrap();
            stream.flush().await.unwrap();
            let mut out = BufReader::new(theirs.stdout.take().unwrap());
            let mut line = String::new();
            out.read_line(&mut line).await.unwrap();
            assert_eq!(line, "220 hello\n");
            let mut input = theirs.stdin.take().unwrap();
            input.write_all(b"EHLO x\n").await.unwrap();
            let mut octets = [0; 7];
            stream.read_exact(&mut octets).await.unwrap();
            assert_eq!(&octets, b"EHLO x\n");
            stream.close(PATIENCE).await;
        };
        tokio::time::timeout(PATIENCE, talk).await.unwrap();
    }
}

#[tokio::test]
async fn openssl_as_the_server_is_reached_and_resumed() {
    if !is_installed() {
        return;
    }
    let (authority, stranger) = (Authority::new("root"), Authority::new("stranger"));
    let own = authority.issue(HOST).files;
    for (flag, version) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let mut theirs = Spawn::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-rev", flag, "-cert"])
            .arg(&own.certificate)
            .arg("-key")
            .arg(&own.key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(theirs.stdout.take().unwrap()).lines();
        let talk = async {
            let port = loop {
                let line = out.next_line().await.unwrap().unwrap();
                if let Some((_, port)) = line.split_once("ACCEPT 127.0.0.1:") {
                    break port.parse::<u16>().unwrap();
                }
            };
            // What it tells about each session must not fill the pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = out.next_line().await {} });
            let socket = || async { TcpStream::connect(("127.0.0.1", port)).await.unwrap() };
            let tls = client(&trusting(&authority));
            for resumed in [false, true] {
                let mut stream = tls.connect(socket().await, HOST, PATIENCE).await.unwrap();
                stream.write_all(b"abc\n").await.unwrap();
                stream.flush().await.unwrap();
                let mut octets = [0; 4];
                stream.read_exact(&mut octets).await.unwrap();
                assert_eq!(&octets, b"cba\n");
                let session = stream.session().unwrap();
                assert_eq!((session.version, session.resumed), (version, resumed));
                stream.close(PATIENCE).await;
            }
            let distrusting = client(&trusting(&stranger));
            let error = distrusting.connect(socket().await, HOST, PATIENCE).await;
            assert_eq!(error.unwrap_err(), TlsError::UnknownIssuer);
            let any = client(&ClientSettings::new(Mode::Opportunistic));
            any.connect(socket().await, HOST, PATIENCE).await.unwrap();
        };
        tokio::time::timeout(PATIENCE, talk).await.unwrap();
    }
}
