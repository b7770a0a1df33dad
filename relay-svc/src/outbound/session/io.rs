//! The socket of a session: writing and reading at once, each wait bounded.

use std::{io, pin::Pin, task::Poll, time::Duration};

use linkmail_service::tls::{MaybeTls, TlsError};
use linkmail_smtp::ClientPhase;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep_until, timeout_at},
};

use super::Session;

/// The wait for what a side said before it closed, and how much of it is read.
const LAST_WORDS: (Duration, usize) = (Duration::from_secs(2), 256 * 1024);
/// So much is read at once.
pub(super) const READ: usize = 16 * 1024;

impl Session {
    pub(super) fn must_write(&self) -> bool {
        self.unwritten() > 0 || self.unflushed
    }

    pub(super) fn unwritten(&self) -> usize {
        self.out.len() - self.written
    }

    pub(super) fn queue(&mut self, octets: Vec<u8>) {
        if self.unwritten() == 0 {
            self.moved = Instant::now();
            self.out = octets;
        } else {
            self.out.drain(..self.written);
            self.out.extend_from_slice(&octets);
        }
        self.written = 0;
    }

    /// Writes and reads until one of the two has moved. `awaited` is the reply that comes next, if one does.
    pub(super) async fn exchange(&mut self, awaited: Option<ClientPhase>) {
        self.exchange_into(&mut [0; READ], awaited).await;
    }

    /// Writes and reads nothing: what comes next belongs to the handshake, and in clear is an injection (RFC 3207 6).
    pub(super) async fn write_alone(&mut self) {
        self.exchange_into(&mut [], None).await;
    }

    async fn exchange_into(&mut self, octets: &mut [u8], awaited: Option<ClientPhase>) {
        let patience = self.host.patience;
        let writing = self.must_write();
        let block = writing.then(|| patience.of(ClientPhase::DataBlock));
        let wait = block.max(awaited.map(|phase| patience.of(phase)));
        let wait = wait.unwrap_or_else(|| patience.of(ClientPhase::Quit));
        let Some(stream) = &mut self.stream else {
            return self.broken("the connection is gone");
        };
        let out = &self.out[self.written..];
        let moved = tokio::select! {
            moved = either_way(stream, octets, out, self.unflushed) => moved,
            () = sleep_until(self.moved + wait) => {
                return match awaited {
                    Some(_) => {
                        self.smtp.not_written(self.unwritten());
                        self.smtp.time_out();
                    }
                    None => self.broken("timed out sending data"),
                };
            }
        };
        match moved {
            Moved::Read(Ok(0)) => self.broken("the connection was closed by the other side"),
            Moved::Read(Ok(count)) => {
                self.acknowledge();
                self.recorder.server(&octets[..count]);
                self.smtp.receive(&octets[..count]);
            }
            Moved::Read(Err(error)) if self.smtp.is_encrypted() => {
                self.broken(&TlsError::from(error).to_string());
            }
            Moved::Read(Err(error)) => self.broken(&error.to_string()),
            Moved::Wrote(Ok(count)) if count > 0 => {
                self.written += count;
                self.unflushed = true;
                self.moved = Instant::now();
                if self.unwritten() == 0 {
                    // What a flight needed is not kept.
                    (self.out, self.written) = (Vec::new(), 0);
                }
            }
            Moved::Wrote(Ok(_)) => self.lost("the connection takes no more data").await,
            Moved::Flushed(Ok(())) => self.unflushed = false,
            Moved::Wrote(Err(error)) | Moved::Flushed(Err(error)) => {
                self.lost(&error.to_string()).await;
            }
        }
    }

    /// Has the kernel acknowledge at once what was read. A server that gathers its replies holds the last of them back until
    /// the ones before are acknowledged; if it closes then, as with 421 in mid-flight, they are lost, and what they answered
    /// would be in doubt.
    fn acknowledge(&self) {
        if let Some(stream) = &self.stream {
            let _ = SockRef::from(stream.socket()).set_tcp_quickack(true);
        }
    }

    /// Writing failed. What the other side said before it closed, often a 421 or 554, is still there to be read.
    async fn lost(&mut self, reason: &str) {
        let until = Instant::now() + LAST_WORDS.0;
        let mut octets = [0; 4096];
        let mut room = LAST_WORDS.1;
        if let Some(stream) = &mut self.stream {
            while room > 0
                && let Ok(Ok(count @ 1..)) = timeout_at(until, stream.read(&mut octets)).await
            {
                room = room.saturating_sub(count);
                self.recorder.server(&octets[..count]);
                self.smtp.receive(&octets[..count]);
            }
        }
        self.broken(reason);
    }

    pub(super) fn broken(&mut self, reason: &str) {
        self.smtp.not_written(self.unwritten());
        (self.out, self.written, self.unflushed) = (Vec::new(), 0, false);
        self.trouble
            .get_or_insert_with(|| format!("{}: {reason}", self.peer));
        self.smtp.end_of_input();
    }
}

/// What [`either_way`] did.
enum Moved {
    Read(io::Result<usize>),
    Wrote(io::Result<usize>),
    Flushed(io::Result<()>),
}

/// Reads, or writes some of `out`, or flushes what was written: whichever comes first, reading before all. Without room for
/// `octets` nothing is read.
async fn either_way(
    stream: &mut MaybeTls<TcpStream>,
    octets: &mut [u8],
    out: &[u8],
    unflushed: bool,
) -> Moved {
    std::future::poll_fn(|context| {
        let mut read = ReadBuf::new(octets);
        if read.capacity() > 0
            && let Poll::Ready(result) = Pin::new(&mut *stream).poll_read(context, &mut read)
        {
            return Poll::Ready(Moved::Read(result.map(|()| read.filled().len())));
        }
        if !out.is_empty() {
            Pin::new(&mut *stream)
                .poll_write(context, out)
                .map(Moved::Wrote)
        } else if unflushed {
            Pin::new(&mut *stream)
                .poll_flush(context)
                .map(Moved::Flushed)
        } else {
            Poll::Pending
        }
    })
    .await
}
