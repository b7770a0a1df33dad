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
            return self.broken("the connection is gone", Loss::Line);
        };
        let out = &self.out[self.written..];
        let moved = tokio::select! {
            moved = either_way(stream, octets, out, self.unflushed) => moved,
            () = sleep_until(self.moved + wait) => return self.timed_out(awaited),
        };
        match moved {
            Moved::Read(Ok(0)) => {
                self.broken("the connection was closed by the other side", Loss::Closed);
            }
            Moved::Read(Ok(count)) => {
                self.acknowledge();
                self.recorder.server(&octets[..count]);
                self.smtp.receive(&octets[..count]);
            }
            Moved::Read(Err(error)) => {
                let loss = Loss::of(&error);
                let reason = match self.smtp.is_encrypted() {
                    true => TlsError::from(error).to_string(),
                    false => error.to_string(),
                };
                self.broken(&reason, loss);
            }
            Moved::Wrote(Ok(count)) if count > 0 => {
                self.written += count;
                self.unflushed = true;
                self.moved = Instant::now();
                if self.unwritten() == 0 {
                    // What a flight needed is not kept.
                    (self.out, self.written) = (Vec::new(), 0);
                }
            }
            Moved::Wrote(Ok(_)) => {
                let reason = "the connection takes no more data";
                self.lost(reason, Loss::Line).await;
            }
            Moved::Flushed(Ok(())) => self.unflushed = false,
            Moved::Wrote(Err(error)) | Moved::Flushed(Err(error)) => {
                self.lost(&error.to_string(), Loss::of(&error)).await;
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
    async fn lost(&mut self, reason: &str, loss: Loss) {
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
        self.broken(reason, loss);
    }

    /// Nothing moved for too long. A line that is dead in the middle of a message looks like this, too: it is no close.
    fn timed_out(&mut self, awaited: Option<ClientPhase>) {
        self.smtp.not_written(self.unwritten());
        if awaited.is_none() {
            let what = || format!("{}: timed out sending data", self.peer);
            self.trouble.get_or_insert_with(what);
        }
        self.smtp.time_out();
    }

    pub(super) fn broken(&mut self, reason: &str, loss: Loss) {
        self.smtp.not_written(self.unwritten());
        (self.out, self.written, self.unflushed) = (Vec::new(), 0, false);
        self.trouble
            .get_or_insert_with(|| format!("{}: {reason}", self.peer));
        match loss {
            Loss::Closed => self.smtp.end_of_input(),
            Loss::Line => self.smtp.line_lost(),
        }
    }
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The other side, in good order or by a reset.
    Closed,
    /// The line: the system gave it up, such as by ETIMEDOUT or EHOSTUNREACH, or what came was garbled.
    Line,
}

impl Loss {
    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as K;
        match error.kind() {
            // Under TLS a close without a word (RFC 8446 6.1), which is common, is an unexpected end.
            K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof => {
                Self::Closed
            }
            _ => Self::Line,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_the_hosts_and_what_the_system_gives_up_is_the_lines() {
        // By their numbers in Linux, as the system gives them.
        let (epipe, reset, down, unreachable, timed_out, no_host) = (32, 104, 100, 101, 110, 113);
        let of = |number| Loss::of(&io::Error::from_raw_os_error(number));
        for closed in [epipe, reset] {
            assert_eq!(of(closed), Loss::Closed, "{closed}");
        }
        for lost in [down, unreachable, timed_out, no_host] {
            assert_eq!(of(lost), Loss::Line, "{lost}");
        }
        // What rustls makes of a record that is not one, and of a close without a word.
        let tls = |kind| Loss::of(&io::Error::new(kind, "tls"));
        assert_eq!(tls(io::ErrorKind::InvalidData), Loss::Line);
        assert_eq!(tls(io::ErrorKind::UnexpectedEof), Loss::Closed);
    }
}
