//! Plays against a server that listens on TCP, with the same files as against the pure session.
//!
//! What the server stored cannot be seen from here: `-- then --` is left to the caller. Files that need time to pass
//! ([`Transcript::needs_clock`]) fail at their `!wait`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::player::{self, Failure, Side};
use crate::pure::take_line;
use crate::transcript::{Speaker, Transcript};

/// How long a line that the file expects may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long is looked for a line that the file does not expect.
const GRACE: Duration = Duration::from_millis(50);

/// A server at the other end of a connection.
#[derive(Debug)]
pub struct SocketServer {
    stream: TcpStream,
    unread: Vec<u8>,
    closed: bool,
}

/// Plays one file against the server at `address`. Errors: the first difference, or no connection.
pub fn play(path: &Path, address: SocketAddr) -> Result<(), Failure> {
    let transcript = Transcript::read(path)?;
    let mut server = SocketServer::connect(address)
        .map_err(|error| transcript.failure(1, "a connection", &error.to_string()))?;
    player::play(&transcript, &mut server)
}

impl SocketServer {
    /// Connects. Errors: nobody listens there.
    pub fn connect(address: SocketAddr) -> std::io::Result<SocketServer> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(SocketServer {
            stream,
            unread: Vec::new(),
            closed: false,
        })
    }

    /// Reads until a whole line is there, the server closes, or `patience` is over.
    fn fill(&mut self, patience: Duration) {
        let has_line = |bytes: &[u8]| bytes.windows(2).any(|pair| pair == b"\r\n");
        if self.stream.set_read_timeout(Some(patience)).is_err() {
            return;
        }
        let mut piece = [0; 4096];
        while !self.closed && !has_line(&self.unread) {
            match self.stream.read(&mut piece) {
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

impl Side for SocketServer {
    fn speaker(&self) -> Speaker {
        Speaker::Server
    }

    /// A server may close while it is spoken to; what it said before is still read.
    fn receive(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn end_of_input(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn wait(&mut self, _time: Duration) -> bool {
        false
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
