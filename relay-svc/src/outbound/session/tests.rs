//! A session against a server that does what no honest one does, over a socket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use linkmail_service::tls::{
    ClientSettings, ClientTls, IdentityFiles, MaybeTls, Mode, ReloadingIdentity, ServerFiles,
    ServerTls,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{super::WHOLE, io::READ, *};
use crate::outbound::hosts::{Login, Patience, Sasl};

const PATIENCE: Duration = Duration::from_secs(30);

/// A host as the configuration has it, with TLS in this mode.
fn host(mode: Mode) -> Arc<Host> {
    Arc::new(Host {
        tls: ClientTls::new(&ClientSettings::new(mode)).unwrap(),
        login: None,
        patience: Patience::default(),
    })
}

/// TLS with a certificate that nobody vouches for.
fn server_tls() -> ServerTls {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["mail.isp.example".to_owned()]).unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let files = ServerFiles {
        default: IdentityFiles {
            certificate: write("own.pem", made.cert.pem()),
            key: write("own.key", made.signing_key.serialize_pem()),
        },
        by_name: Vec::new(),
        client_roots: None,
    };
    ServerTls::new(Arc::new(ReloadingIdentity::load(files).unwrap())).unwrap()
}

/// A reply of so many octets, in lines with this text at the end.
fn reply(code: u16, octets: usize, end: &str) -> Vec<u8> {
    let last = format!("{code} {end}\r\n");
    let line = 128;
    let mut reply = format!("{code}-{}\r\n", "x".repeat(line - 6)).repeat(octets / line - 1);
    let padding = octets - reply.len() - last.len() - 6;
    reply.push_str(&format!("{code}-{}\r\n{last}", "x".repeat(padding)));
    assert_eq!(reply.len(), octets);
    reply.into_bytes()
}

async fn hears(stream: &mut BufReader<MaybeTls<TcpStream>>, expected: &str) {
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, expected);
}

/// Somebody on the way says everything up to the handshake before STARTTLS is there, each in a read of its own, and the head
/// of an answer to the EHLO under TLS behind it. The server itself is honest.
async fn injected(listener: TcpListener) {
    let tls = server_tls();
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(MaybeTls::plain(stream));
    stream.write_all(b"220 mail.isp.example\r\n").await.unwrap();
    hears(&mut stream, "EHLO branch.example\r\n").await;
    let mut said = reply(250, READ, "STARTTLS");
    said.extend(reply(220, READ, "go"));
    said.extend_from_slice(b"250-forged\r\n");
    stream.write_all(&said).await.unwrap();
    hears(&mut stream, "STARTTLS\r\n").await;
    let stream = stream.into_inner().into_plain().unwrap();
    if let Ok(stream) = tls.accept(stream, PATIENCE).await {
        let mut stream = BufReader::new(stream);
        hears(&mut stream, "EHLO branch.example\r\n").await;
        stream.write_all(b"250 mail.isp.example\r\n").await.unwrap();
    }
}

/// A session with whom listens there.
async fn open(address: SocketAddr, host: Arc<Host>) -> Result<Session, NotOpened> {
    let stream = TcpStream::connect(address).await.unwrap();
    let beginning = Beginning {
        hostname: "branch.example",
        flight: WHOLE,
        host,
        in_clear: false,
    };
    let peer = HostPort::exchanger(&address.ip().to_string(), address.port());
    Session::open(stream, peer, beginning).await
}

#[tokio::test]
async fn what_is_injected_before_the_handshake_is_no_answer_under_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(injected(listener));
    let Err(not) = open(address, host(Mode::Opportunistic)).await else {
        panic!("a session over forged words");
    };
    let end = not.end.to_string();
    assert!(end.contains("TLS"), "{end}");
    served.abort();
}

/// Offers STARTTLS and PLAIN, and gives all that was said under TLS.
async fn greedy(listener: TcpListener) -> String {
    let tls = server_tls();
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(MaybeTls::plain(stream));
    stream.write_all(b"220 mail.isp.example\r\n").await.unwrap();
    hears(&mut stream, "EHLO branch.example\r\n").await;
    let offer = b"250-mail.isp.example\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN\r\n";
    stream.write_all(offer).await.unwrap();
    hears(&mut stream, "STARTTLS\r\n").await;
    stream.write_all(b"220 go\r\n").await.unwrap();
    let stream = stream.into_inner().into_plain().unwrap();
    let stream = tls.accept(stream, PATIENCE).await.unwrap();
    let mut stream = BufReader::new(stream);
    hears(&mut stream, "EHLO branch.example\r\n").await;
    stream.write_all(offer).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    said
}

#[tokio::test]
async fn no_password_goes_to_a_server_that_was_not_verified() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(greedy(listener));
    let mut host = host(Mode::Opportunistic);
    Arc::get_mut(&mut host).unwrap().login = Some(Login {
        user: linkmail_sasl::Name::parse("branch").unwrap(),
        password_file: "/dev/null".into(),
        mechanisms: Sasl::DEFAULT.to_vec(),
    });
    let Err(not) = open(address, host).await else {
        panic!("a session");
    };
    let end = not.end.to_string();
    assert!(end.contains("was not verified"), "{end}");
    assert_eq!(served.await.unwrap(), "");
}
