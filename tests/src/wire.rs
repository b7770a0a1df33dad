//! A connection that may pass from clear to TLS, at either end.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

/// A TCP connection, in clear or inside TLS.
#[derive(Debug)]
pub enum Wire {
    /// In clear.
    Clear(TcpStream),
    /// Inside TLS, at the end that began it.
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Inside TLS, at the end that has the certificate.
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Wire {
    /// The handshake of a client that looks for a server of that name. Errors: it fails, or TLS is on already.
    pub fn connect(
        self,
        config: &Arc<ClientConfig>,
        name: &ServerName<'static>,
    ) -> io::Result<Wire> {
        let mut stream = self.in_clear()?;
        let mut connection =
            ClientConnection::new(config.clone(), name.clone()).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Wire::Client(Box::new(StreamOwned::new(connection, stream))))
    }

    /// The handshake of a server. Errors: it fails, or TLS is on already.
    pub fn accept(self, config: &Arc<ServerConfig>) -> io::Result<Wire> {
        let mut stream = self.in_clear()?;
        let mut connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Wire::Server(Box::new(StreamOwned::new(connection, stream))))
    }

    fn in_clear(self) -> io::Result<TcpStream> {
        match self {
            Wire::Clear(stream) => Ok(stream),
            Wire::Client(_) | Wire::Server(_) => Err(io::Error::other("TLS is on already")),
        }
    }

    /// Says that nothing more comes, where TLS has a word for it. Errors: those of the connection.
    pub fn say_goodbye(&mut self) -> io::Result<()> {
        match self {
            Wire::Clear(_) => return Ok(()),
            Wire::Client(tls) => tls.conn.send_close_notify(),
            Wire::Server(tls) => tls.conn.send_close_notify(),
        }
        self.flush()
    }

    /// What carries it.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Wire::Clear(stream) => stream,
            Wire::Client(tls) => &tls.sock,
            Wire::Server(tls) => &tls.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Clear(stream) => stream.read(into),
            Wire::Client(tls) => tls.read(into),
            Wire::Server(tls) => tls.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Clear(stream) => stream.write(bytes),
            Wire::Client(tls) => tls.write(bytes),
            Wire::Server(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Clear(stream) => stream.flush(),
            Wire::Client(tls) => tls.flush(),
            Wire::Server(tls) => tls.flush(),
        }
    }
}
