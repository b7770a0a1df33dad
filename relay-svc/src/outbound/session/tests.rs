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
use crate::outbound::hosts::{CONNECTIONS, Login, Patience, Sasl};

const PATIENCE: Duration = Duration::from_secs(30);

/// A host as the configuration has it, with TLS in this mode.
fn host(mode: Mode) -> Arc<Host> {
    Arc::new(Host {
        tls: ClientTls::new(&ClientSettings::new(mode)).unwrap(),
        login: None,
        patience: Patience::default(),
        connections: CONNECTIONS,
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

/// Offers STARTTLS, says this to it, and then what stands behind it; then the connection ends.
async fn breaks_off(listener: TcpListener, behind: &'static [u8]) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(MaybeTls::plain(stream));
    stream.write_all(b"220 mail.isp.example\r\n").await.unwrap();
    hears(&mut stream, "EHLO branch.example\r\n").await;
    let offer = b"250-mail.isp.example\r\n250 STARTTLS\r\n";
    stream.write_all(offer).await.unwrap();
    hears(&mut stream, "STARTTLS\r\n").await;
    stream.write_all(b"220 go\r\n").await.unwrap();
    let mut octet = [0];
    stream.read_exact(&mut octet).await.unwrap();
    stream.write_all(behind).await.unwrap();
}

#[tokio::test]
async fn a_host_whose_handshake_fails_may_be_spoken_to_in_clear() {
    for behind in [b"500 what?\r\n".as_slice(), b""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(breaks_off(listener, behind));
        let Err(not) = open(address, host(Mode::Opportunistic)).await else {
            panic!("a session");
        };
        assert!(not.may_go_clear, "{}", not.end);
        assert!(matches!(not.end, End::Failed(_)), "{}", not.end);
        served.await.unwrap();
    }
}

/// Refuses STARTTLS, and every sender with these words.
async fn insists(listener: TcpListener, refusal: &'static str) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(MaybeTls::plain(stream));
    stream.write_all(b"220 mail.isp.example\r\n").await.unwrap();
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let answer = match &line[..4] {
            "EHLO" => "250-mail.isp.example\r\n250-STARTTLS\r\n250 PIPELINING",
            "STAR" => "454 4.7.0 not now",
            "RSET" => "250 ok",
            "MAIL" => refusal,
            _ => "503 5.5.1 no",
        };
        let answered = stream.write_all(format!("{answer}\r\n").as_bytes()).await;
        if answered.is_err() {
            return;
        }
        line.clear();
    }
}

/// What two messages came to, and what the session did.
async fn two_messages(refusal: &'static str, mode: Mode) -> (Vec<Outcome>, Option<End>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(insists(listener, refusal));
    let mut session = open(address, host(mode)).await.unwrap();
    for _ in 0..2 {
        let recipient = linkmail_smtp::ForwardPath::parse(b"b@remote.example").unwrap();
        let transaction = Transaction {
            recipients: vec![recipient.into()],
            ..Transaction::default()
        };
        session.give(transaction, Content::Whole(b"x\r\n".to_vec()));
    }
    let mut outcomes = Vec::new();
    loop {
        match session.next().await {
            Event::Outcome(_, more) => {
                outcomes.extend(more);
                let is_refusal = matches!(outcomes.last(), Some(Outcome::Refused(_)));
                assert_eq!(session.room().is_some(), is_refusal);
            }
            Event::Idle | Event::Closed => break,
            event => panic!("{event:?}"),
        }
    }
    served.abort();
    (outcomes, session.end().cloned())
}

#[tokio::test]
async fn tls_that_was_given_up_and_is_wanted_is_no_refusal_of_a_message() {
    for refusal in [
        "530 5.7.0 Must issue a STARTTLS command first",
        "530 no",
        "554 5.7.10 encryption needed",
        "550 5.7.11 encryption needed",
    ] {
        let (outcomes, end) = two_messages(refusal, Mode::Opportunistic).await;
        let [Outcome::Failed(first), Outcome::NotAttempted(_)] = outcomes.as_slice() else {
            panic!("{refusal}: {outcomes:?}");
        };
        assert!(first.contains(refusal), "{first}");
        assert!(
            matches!(&end, Some(End::Failed(why)) if why.contains(refusal)),
            "{end:?}"
        );
    }
    for (refusal, mode) in [
        ("530 5.7.0 Must issue a STARTTLS command first", Mode::None),
        ("550 5.7.1 not you", Mode::Opportunistic),
    ] {
        let (outcomes, end) = two_messages(refusal, mode).await;
        assert!(
            matches!(
                outcomes.as_slice(),
                [Outcome::Refused(_), Outcome::Refused(_)]
            ),
            "{refusal}: {outcomes:?}"
        );
        assert_eq!(end, None);
    }
}
