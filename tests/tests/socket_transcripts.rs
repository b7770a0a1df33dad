//! Plays every transcript over a socket: those of the server against the pure server behind a listener, those of the client
//! against the pure client behind a connection, and `!tls` as a handshake of rustls between the two ends.
//!
//! What a file says of the outcome is compared here too: the driven end hands it over when its session has ended.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod identity;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;

use identity::{IDENTITY, Identity};
use linkmail_tests::client::PureClient;
use linkmail_tests::pure::PureServer;
use linkmail_tests::socket::{self, Handshake};
use linkmail_tests::transcript::{Mark, Speaker};
use linkmail_tests::wire::Wire;
use linkmail_tests::{Drives, Side, Transcript, transcripts_below, ways};
use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

/// The half of who shows our certificate.
static SERVER: LazyLock<Handshake> = LazyLock::new(|| {
    let CertifiedKey { cert, signing_key } = &IDENTITY.0;
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    Handshake::Server(Arc::new(config))
});

/// A pure session at the end of a connection, until it has closed; what is true then.
fn carried(mut side: impl Side, mut wire: Wire, handshake: &Handshake) -> Vec<String> {
    let mut piece = [0; 65536];
    loop {
        while let Some(line) = side.next_line() {
            // A peer that has gone is noticed when it is read.
            let _ = wire.write_all(&line);
        }
        let _ = wire.flush();
        if side.is_closed() {
            break;
        }
        if side.start_tls() {
            match handshake.over(wire) {
                Ok(secret) => wire = secret,
                // A file may end behind STARTTLS.
                Err(_) => return side.facts().unwrap(),
            }
            continue;
        }
        match wire.read(&mut piece) {
            Ok(0) | Err(_) => side.end_of_input(),
            Ok(count) => side.receive(&piece[..count]),
        }
    }
    // To close on unread input would be a reset, and the peer could lose what it has not read yet.
    let _ = wire.say_goodbye();
    let _ = wire.socket().shutdown(Shutdown::Write);
    while matches!(wire.read(&mut piece), Ok(1..)) {}
    side.facts().unwrap()
}

/// The pure server of a transcript behind a listener, for one session.
fn listening(transcript: Transcript) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let session = std::thread::spawn(move || {
        let mut wire = Wire::Clear(listener.accept().unwrap().0);
        if transcript.begins_with_tls() {
            wire = SERVER.over(wire).unwrap();
        }
        carried(PureServer::new(&transcript).unwrap(), wire, &SERVER)
    });
    (address, session)
}

fn play_server(transcript: &Transcript) -> Result<(), String> {
    let (address, session) = listening(transcript.clone());
    socket::play_server(transcript, address, Some(IDENTITY.connecting()))
        .map_err(|failure| failure.to_string())?;
    compare(transcript, Speaker::Server, session)
}

fn play_client(transcript: &Transcript) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mirrored = transcript.clone();
    let session = std::thread::spawn(move || {
        let wire = Wire::Clear(TcpStream::connect(address).unwrap());
        let client = PureClient::new(&mirrored).unwrap();
        carried(client, wire, &IDENTITY.connecting())
    });
    socket::play_client(transcript, &listener, Some(SERVER.clone()))
        .map_err(|failure| failure.to_string())?;
    compare(transcript, Speaker::Client, session)
}

/// What the file says is true then, and what was.
fn compare(
    transcript: &Transcript,
    speaker: Speaker,
    session: JoinHandle<Vec<String>>,
) -> Result<(), String> {
    let found = session.join().unwrap();
    let expected = transcript.then_of(speaker).into_iter();
    let expected: Vec<String> = expected.map(|fact| fact.text.clone()).collect();
    if found == expected {
        return Ok(());
    }
    let path = transcript.path.display();
    Err(format!(
        "{path}\n  expected {expected:#?}\n  got      {found:#?}"
    ))
}

fn transcripts() -> Vec<Transcript> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let files = transcripts_below(&folder).unwrap();
    let read = files.iter().map(|file| Transcript::read(file).unwrap());
    read.filter(|transcript| !transcript.is_pure()).collect()
}

/// Plays all, each on a thread of its own, since each ends by listening whether more is said. Gives how many.
fn play_all(
    transcripts: impl IntoIterator<Item = Transcript>,
    play: fn(&Transcript) -> Result<(), String>,
) -> usize {
    let started = transcripts
        .into_iter()
        .map(|transcript| std::thread::spawn(move || play(&transcript)));
    let started: Vec<_> = started.collect();
    let played = started.len();
    let ended = started.into_iter().map(|thread| thread.join().unwrap());
    let failures: Vec<String> = ended.filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    played
}

#[test]
fn every_server_transcript_plays_over_a_socket() {
    let ours = transcripts()
        .into_iter()
        .filter(|transcript| transcript.drives() != Drives::Client);
    let played = play_all(ours, play_server);
    assert!(played >= 85, "{played}");
}

#[test]
fn every_client_transcript_plays_over_a_socket() {
    let ours = transcripts()
        .into_iter()
        .filter(|transcript| transcript.drives() != Drives::Server);
    let played = play_all(ours, play_client);
    assert!(played >= 50, "{played}");
}

fn smuggling() -> Vec<Transcript> {
    let in_folder = |transcript: &Transcript| {
        let folder = transcript.path.parent().unwrap();
        folder.ends_with("smuggling")
    };
    transcripts().into_iter().filter(in_folder).collect()
}

#[test]
fn smuggling_by_other_ways_plays_over_a_socket() {
    let made = smuggling()
        .iter()
        .flat_map(ways::by_other_ways)
        .collect::<Vec<_>>();
    assert_eq!(play_all(made, play_server), 5 * 16);
}

#[test]
fn smuggling_is_not_sent_over_a_socket() {
    let made = smuggling();
    let made = made
        .iter()
        .flat_map(|it| ways::sent_by_every_way(it).unwrap());
    assert_eq!(play_all(made.collect::<Vec<_>>(), play_client), 8 * 15);
}

#[test]
fn a_handshake_that_fails_is_told_at_its_line() {
    let all = transcripts();
    let path = |transcript: &&Transcript| transcript.path.ends_with("rfc/rfc3207-starttls.smtp");
    let transcript = all.iter().find(path).unwrap();
    let line = transcript
        .session
        .iter()
        .find(|entry| entry.mark == Mark::Tls);
    let line = line.unwrap().line;
    for handshake in [None, Some(Identity::new().connecting())] {
        let (address, session) = listening(transcript.clone());
        let failure = socket::play_server(transcript, address, handshake).unwrap_err();
        assert_eq!(
            (failure.line, failure.got.as_str()),
            (line, "one that does not")
        );
        assert_eq!(session.join().unwrap(), Vec::<String>::new());
    }
}
