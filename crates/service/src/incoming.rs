//! Accepted gRPC connections: filtered, limited in number, and closable from outside.
//!
//! Dropping tonic's server does not close its connections, since each runs in a task of its own; so
//! each connection carries a token that makes its reads and writes fail.
//! Accept errors are waited out here: tonic would spin on a full descriptor table.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::allow::{Peer, PeerFilter};
use crate::listen::SocketFile;

/// The pause after a failed accept, such as when no descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// So many connections are open at once; one more is closed as it comes.
const CONNECTIONS: usize = 256;

#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Removed with the listener.
        _file: SocketFile,
    },
}

/// The stream of connections that tonic serves. Made by [`crate::listen::GrpcListener::incoming`].
#[derive(Debug)]
pub struct Incoming {
    socket: Socket,
    filter: PeerFilter,
    places: Arc<Semaphore>,
    pause: Option<Pin<Box<Sleep>>>,
    abort: CancellationToken,
}

impl Incoming {
    pub(crate) fn new(socket: Socket, filter: PeerFilter) -> Self {
        Incoming {
            socket,
            filter,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            pause: None,
            abort: CancellationToken::new(),
        }
    }

    /// Cancelled, it breaks every connection that came from here.
    pub(crate) fn abort_token(&self) -> CancellationToken {
        self.abort.clone()
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Wire, Peer)>> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = ready!(listener.poll_accept(cx))?;
                // Small messages both ways: waiting to fill a segment only adds delay. A client
                // that is gone already fails here, and is found out when it is read.
                let _ = stream.set_nodelay(true);
                Poll::Ready(Ok((Wire::Tcp(stream), Peer::Tcp(address))))
            }
            Socket::Unix { listener, .. } => {
                let (stream, _) = ready!(listener.poll_accept(cx))?;
                Poll::Ready(Ok((Wire::Unix(stream), Peer::Unix)))
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.poll_accept(cx)) {
                Ok((_, peer)) if !self.filter.allows(&peer) => {
                    tracing::warn!(%peer, "gRPC connection refused: not in grpc.allow");
                }
                Ok((stream, peer)) => match Arc::clone(&self.places).try_acquire_owned() {
                    Ok(place) => {
                        return Poll::Ready(Some(Ok(Connection {
                            stream,
                            peer,
                            aborted: Box::pin(self.abort.clone().cancelled_owned()),
                            _place: place,
                        })));
                    }
                    Err(_) => {
                        tracing::warn!(%peer, open = CONNECTIONS, "gRPC connection refused: too many are open");
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "gRPC connection not accepted");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

#[derive(Debug)]
enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: Wire,
    peer: Peer,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Given back when the connection ends.
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// The inner stream, or an error once the connection was aborted.
    fn stream(&mut self, cx: &mut Context<'_>) -> io::Result<&mut Wire> {
        match self.aborted.as_mut().poll(cx) {
            Poll::Pending => Ok(&mut self.stream),
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.stream(cx)? {
            Wire::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Wire::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.stream(cx)? {
            Wire::Tcp(stream) => Pin::new(stream).poll_write(cx, octets),
            Wire::Unix(stream) => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream(cx)? {
            Wire::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream(cx)? {
            Wire::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Wire::Tcp(stream) => stream.is_write_vectored(),
            Wire::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.stream(cx)? {
            Wire::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, octets),
            Wire::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, octets),
        }
    }
}
