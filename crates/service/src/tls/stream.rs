//! A connection with or without TLS, as one type.
//!
//! Written octets may wait inside of TLS until they are flushed. `tokio::io::split` gives the two halves.

use std::{
    fmt, io,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::{RecvFlags, recv};
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::timeout,
};
use tokio_rustls::{client, server};

use super::{PeerCertificate, Trust};

/// What a handshake came to, for logs, policies and the `Received` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The name of the cipher suite in the registry, such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// Whether it goes on from an earlier session, without certificates on the wire.
    pub resumed: bool,
    /// What the other side showed.
    pub peer: Option<PeerCertificate>,
    /// What that is worth.
    pub trust: Trust,
    /// The name that the client asked for (SNI); on the server's side alone.
    pub asked_for: Option<String>,
}

impl Session {
    fn of(state: &CommonState, trust: Trust) -> Self {
        let cipher = state.negotiated_cipher_suite().map(|suite| {
            // rustls marks those of TLS 1.3; the registry does not.
            format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)
        });
        let own = state.peer_certificates().and_then(<[_]>::first);
        Self {
            version: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            cipher: cipher.unwrap_or_default(),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            peer: own.map(PeerCertificate::of),
            trust,
            asked_for: None,
        }
    }
}

impl fmt::Display for Session {
    /// One line for a log, such as `TLSv1.3 TLS_AES_256_GCM_SHA384, verified by its issuer, resumed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, {}", self.version, self.cipher, self.trust)?;
        f.write_str(if self.resumed { ", resumed" } else { "" })
    }
}

/// What an idle connection looks like, without reading from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Nothing came: it can be used.
    Quiet,
    /// Something came that nobody asked for, such as a 421 or the end of TLS.
    DataWaiting,
    /// The other side closed it, or it broke.
    Closed,
}

/// A connection in the clear, or with TLS as the server or the client.
#[derive(Debug)]
pub struct MaybeTls<S> {
    inner: Inner<S>,
    session: Option<Box<Session>>,
}

#[derive(Debug)]
enum Inner<S> {
    Plain(S),
    Server(Box<server::TlsStream<S>>),
    Client(Box<client::TlsStream<S>>),
}

impl<S> MaybeTls<S> {
    /// In the clear.
    pub fn plain(stream: S) -> Self {
        Self {
            inner: Inner::Plain(stream),
            session: None,
        }
    }

    pub(super) fn server(stream: server::TlsStream<S>, trust: Trust) -> Self {
        let connection = stream.get_ref().1;
        let mut session = Session::of(connection, trust);
        session.asked_for = connection.server_name().map(str::to_owned);
        Self {
            inner: Inner::Server(Box::new(stream)),
            session: Some(Box::new(session)),
        }
    }

    pub(super) fn client(stream: client::TlsStream<S>, trust: Trust) -> Self {
        let session = Session::of(stream.get_ref().1, trust);
        Self {
            inner: Inner::Client(Box::new(stream)),
            session: Some(Box::new(session)),
        }
    }

    /// What the handshake came to; None in the clear.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        self.session.is_some()
    }

    /// The socket below, for its addresses and options. Do not read from it or write to it under TLS.
    pub fn socket(&self) -> &S {
        match &self.inner {
            Inner::Plain(stream) => stream,
            Inner::Server(stream) => stream.get_ref().0,
            Inner::Client(stream) => stream.get_ref().0,
        }
    }

    /// The stream in the clear, to shake hands over it; itself if it has TLS already.
    ///
    /// # Errors
    /// TLS inside of TLS is not done (RFC 3207 4.2).
    pub fn into_plain(self) -> Result<S, Self> {
        match self.inner {
            Inner::Plain(stream) => Ok(stream),
            inner => Err(Self {
                inner,
                session: self.session,
            }),
        }
    }

    /// Whether TLS holds octets that were not read yet, or has seen its end.
    fn holds_input(&self) -> bool {
        match &self.inner {
            Inner::Plain(_) => false,
            Inner::Server(stream) => !stream.get_ref().1.wants_read(),
            Inner::Client(stream) => !stream.get_ref().1.wants_read(),
        }
    }
}

impl<S: AsFd> MaybeTls<S> {
    /// Looks at an idle connection without reading, and without asking the run time, which may not have heard yet.
    ///
    /// Under TLS 1.3 tickets of the server count as data until something was read after the handshake.
    pub fn liveness(&self) -> Liveness {
        if self.holds_input() {
            return Liveness::DataWaiting;
        }
        let mut octet = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(self.socket().as_fd(), &mut octet, flags) {
            Ok((_, 0)) => Liveness::Closed,
            Ok(_) => Liveness::DataWaiting,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Liveness::Quiet,
            Err(_) => Liveness::Closed,
        }
    }

    /// Whether nothing came and it is open: it can be used again.
    pub fn is_idle(&self) -> bool {
        self.liveness() == Liveness::Quiet
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> MaybeTls<S> {
    /// Flushes, says close_notify (RFC 8446 6.1) and closes, but waits no longer than `within` for a peer that does not
    /// read. What then is left is lost with the connection.
    pub async fn close(mut self, within: Duration) {
        // The session is over either way: an error here changes nothing for it.
        let _ = timeout(within, self.shutdown()).await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MaybeTls<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match &mut self.inner {
            Inner::Plain(stream) => return Pin::new(stream).poll_read(cx, buffer),
            Inner::Server(stream) => Pin::new(stream).poll_read(cx, buffer),
            Inner::Client(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        // Many close without close_notify. SMTP marks its own ends: a cut is an unfinished line or text, never a whole one.
        Poll::Ready(match ready!(read) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            read => read,
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MaybeTls<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_write(cx, octets),
            Inner::Server(stream) => Pin::new(stream).poll_write(cx, octets),
            Inner::Client(stream) => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Server(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Client(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Server(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Client(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Plain(stream) => stream.is_write_vectored(),
            Inner::Server(stream) => stream.is_write_vectored(),
            Inner::Client(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, octets),
            Inner::Server(stream) => Pin::new(stream).poll_write_vectored(cx, octets),
            Inner::Client(stream) => Pin::new(stream).poll_write_vectored(cx, octets),
        }
    }
}
