//! Plays over TCP, with the same files as against the pure sessions: against a server that listens, or against a client that
//! connects. `!tls` is a handshake of rustls.
//!
//! What the other end stored or found cannot be seen from here: `-- then --` is left to the caller. Files that need time to
//! pass ([`Transcript::is_pure`]) fail at their `!wait`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::player::{self, Failure, Side};
use crate::pure::take_line;
use crate::transcript::{Speaker, Transcript};
use crate::wire::Wire;

/// How long a line that the file expects may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long is looked for a line that the file does not expect.
const GRACE: Duration = Duration::from_millis(50);

/// How this end makes its half of a handshake.
#[derive(Clone, Debug)]
pub enum Handshake {
    /// As the client of a server of that name.
    Client(Arc<ClientConfig>, ServerName<'static>),
    /// As the server.
    Server(Arc<ServerConfig>),
}

impl Handshake {
    /// Makes it. Errors: it fails, or TLS is on already.
    pub fn over(&self, wire: Wire) -> std::io::Result<Wire> {
        match self {
            Handshake::Client(config, name) => wire.connect(config, name),
            Handshake::Server(config) => wire.accept(config),
        }
    }
}

/// What is driven, at the other end of a connection.
#[derive(Debug)]
pub struct SocketSide {
    speaker: Speaker,
    /// Nothing once a handshake failed.
    wire: Option<Wire>,
    handshake: Option<Handshake>,
    unread: Vec<u8>,
    closed: bool,
}

/// Plays one file against the server at `address`. Errors: the first difference, or no connection.
pub fn play(path: &Path, address: SocketAddr) -> Result<(), Failure> {
    play_server(&Transcript::read(path)?, address, None)
}

/// Plays against the server at `address`, with `handshake` where the transcript has TLS. Errors: the first difference, no
/// connection, or a handshake that fails.
pub fn play_server(
    transcript: &Transcript,
    address: SocketAddr,
    handshake: Option<Handshake>,
) -> Result<(), Failure> {
    let mut side = SocketSide::connect(address, handshake)
        .map_err(|error| transcript.failure(1, "a connection", &error.to_string()))?;
    if transcript.begins_with_tls() && !side.start_tls() {
        return Err(transcript.failure(1, "TLS from the start", "a handshake that fails"));
    }
    player::play(transcript, &mut side)
}

/// Plays against the client that connects to `listener`. Errors: the first difference, or nobody comes.
pub fn play_client(
    transcript: &Transcript,
    listener: &TcpListener,
    handshake: Option<Handshake>,
) -> Result<(), Failure> {
    let mut side = SocketSide::accept(listener, handshake)
        .map_err(|error| transcript.failure(1, "a client", &error.to_string()))?;
    player::play(transcript, &mut side)
}

impl SocketSide {
    /// A server that is connected to. Errors: nobody listens there.
    pub fn connect(
        address: SocketAddr,
        handshake: Option<Handshake>,
    ) -> std::io::Result<SocketSide> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        SocketSide::over(stream, Speaker::Server, handshake)
    }

    /// The next client that connects. Errors: those of the listener.
    pub fn accept(
        listener: &TcpListener,
        handshake: Option<Handshake>,
    ) -> std::io::Result<SocketSide> {
        let (stream, _) = listener.accept()?;
        SocketSide::over(stream, Speaker::Client, handshake)
    }

    fn over(
        stream: TcpStream,
        speaker: Speaker,
        handshake: Option<Handshake>,
    ) -> std::io::Result<SocketSide> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(SocketSide {
            speaker,
            wire: Some(Wire::Clear(stream)),
            handshake,
            unread: Vec::new(),
            closed: false,
        })
    }

    /// Reads until a whole line is there, the other end closes, or `patience` is over.
    fn fill(&mut self, patience: Duration) {
        let has_line = |bytes: &[u8]| bytes.windows(2).any(|pair| pair == b"\r\n");
        let Some(wire) = &mut self.wire else { return };
        if wire.socket().set_read_timeout(Some(patience)).is_err() {
            return;
        }
        let mut piece = [0; 4096];
        while !self.closed && !has_line(&self.unread) {
            match wire.read(&mut piece) {
                Ok(0) => self.closed = true,
                Ok(count) => self.unread.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return;
                }
                Err(_) => self.closed = true,
            }
        }
    }
}

impl Side for SocketSide {
    fn speaker(&self) -> Speaker {
        self.speaker
    }

    /// The other end may close while it is spoken to; what it said before is still read.
    fn receive(&mut self, bytes: &[u8]) {
        if let Some(wire) = &mut self.wire {
            let _ = wire.write_all(bytes).and_then(|()| wire.flush());
        }
    }

    fn end_of_input(&mut self) {
        if let Some(wire) = &mut self.wire {
            let _ = wire.say_goodbye();
            let _ = wire.socket().shutdown(Shutdown::Write);
        }
    }

    fn wait(&mut self, _time: Duration) -> bool {
        false
    }

    fn start_tls(&mut self) -> bool {
        let (Some(wire), Some(handshake)) = (self.wire.take(), &self.handshake) else {
            return false;
        };
        // What came in clear ahead of the handshake is not of this session.
        if !self.unread.is_empty() || wire.socket().set_read_timeout(Some(PATIENCE)).is_err() {
            return false;
        }
        self.wire = handshake.over(wire).ok();
        self.wire.is_some()
    }

    fn next_line(&mut self) -> Option<Vec<u8>> {
        self.fill(PATIENCE);
        take_line(&mut self.unread)
    }

    fn leftover(&mut self) -> Option<Vec<u8>> {
        self.fill(GRACE);
        take_line(&mut self.unread)
    }

    fn is_closed(&mut self) -> bool {
        self.closed
    }

    fn facts(&mut self) -> Option<Vec<String>> {
        None
    }
}
