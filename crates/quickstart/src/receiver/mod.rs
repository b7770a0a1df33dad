//! A small SMTP receiver: it plays the mailbox server and the outside world, in the quick start and in tests.
//!
//! It takes mail for everyone except those whom it is told to refuse, and tells of each in a [`Notice`]. Memory
//! is bounded: of a message only its header is kept, and so many sessions are open at once as [`SESSIONS`] says. With a
//! folder each message is kept as a file.
//!
//! Limits: nothing is synced to disk, so 250 promises less than a mail server's does; no TLS, no ETRN; a message of more
//! than [`SIZE_LIMIT`] octets is refused.

mod arrival;
mod draft;
mod refusal;
mod session;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use linkmail_smtp::{ServerConfig, replies};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use arrival::{Arrival, Notice};
pub use refusal::{NotARefusal, Refusal};

/// Sessions at once over all listeners; one more is answered 421.
pub const SESSIONS: usize = 200;
/// The largest message, in octets. More than a relay takes unless it is told otherwise.
pub const SIZE_LIMIT: u64 = 64 * 1024 * 1024;
/// Recipients of one message.
const RECIPIENTS: usize = 1000;
/// The pause after the system refused to accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The wait for a client that is turned away to take its 421.
const TURN_AWAY: Duration = Duration::from_secs(5);

/// How a receiver behaves.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The name it greets with.
    pub hostname: String,
    /// Whom it refuses, and how.
    pub refusals: Vec<Refusal>,
    /// Where each message is kept as a file of its own; it must exist.
    pub folder: Option<PathBuf>,
}

/// Why a receiver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The address is taken, or not of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no such folder to keep messages in.
    #[error("{0} is not a folder: messages cannot be kept there")]
    NotAFolder(PathBuf),
}

/// A receiver that has its addresses and does not accept yet.
#[derive(Debug)]
pub struct Receiver {
    listeners: Vec<(SocketAddr, TcpListener)>,
    shared: Arc<Shared>,
}

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    smtp: Arc<ServerConfig>,
    refusals: Vec<Refusal>,
    folder: Option<PathBuf>,
    places: Arc<Semaphore>,
}

impl Receiver {
    /// Listens; port 0 lets the system choose.
    ///
    /// # Errors
    /// An address cannot be had, or the folder is none.
    pub async fn bind(addresses: &[SocketAddr], rules: Rules) -> Result<Self, ReceiverError> {
        let not_a_folder = |folder: &&Path| !folder.is_dir();
        if let Some(folder) = rules.folder.as_deref().filter(not_a_folder) {
            return Err(ReceiverError::NotAFolder(folder.to_owned()));
        }
        let mut listeners = Vec::new();
        for address in addresses {
            let refused = |source| ReceiverError::Listen {
                address: *address,
                source,
            };
            let listener = TcpListener::bind(address).await.map_err(refused)?;
            listeners.push((listener.local_addr().map_err(refused)?, listener));
        }
        let smtp = ServerConfig {
            hostname: rules.hostname,
            size_limit: SIZE_LIMIT,
            max_recipients: RECIPIENTS,
            ..ServerConfig::default()
        };
        Ok(Self {
            listeners,
            shared: Arc::new(Shared {
                smtp: Arc::new(smtp),
                refusals: rules.refusals,
                folder: rules.folder,
                places: Arc::new(Semaphore::new(SESSIONS)),
            }),
        })
    }

    /// The addresses as bound, with the real ports, in the order in which they were asked for.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(address, _)| *address).collect()
    }

    /// Receives until cancelled, and then until every session has heard its 421. Each message goes to `notices` before
    /// its client hears 250; a message that cannot be told there is answered 451.
    pub async fn serve(self, notices: mpsc::Sender<Notice>, cancel: CancellationToken) {
        let sessions = TaskTracker::new();
        for (address, listener) in self.listeners {
            let accepting = Accepting {
                address,
                shared: Arc::clone(&self.shared),
                notices: notices.clone(),
                cancel: cancel.clone(),
                sessions: sessions.clone(),
            };
            sessions.spawn(accepting.run(listener));
        }
        drop(notices);
        cancel.cancelled().await;
        sessions.close();
        sessions.wait().await;
    }
}

/// One listener at work.
struct Accepting {
    address: SocketAddr,
    shared: Arc<Shared>,
    notices: mpsc::Sender<Notice>,
    cancel: CancellationToken,
    sessions: TaskTracker,
}

impl Accepting {
    async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.cancel.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(place) = Arc::clone(&self.shared.places).try_acquire_owned() else {
                let hostname = self.shared.smtp.hostname.clone();
                self.sessions.spawn(turn_away(stream, hostname));
                continue;
            };
            let session = session::Session::new(
                Arc::clone(&self.shared),
                self.address,
                peer,
                self.notices.clone(),
            );
            let cancel = self.cancel.clone();
            self.sessions.spawn(async move {
                session.run(stream, &cancel).await;
                drop(place);
            });
        }
    }
}

async fn turn_away(mut stream: TcpStream, hostname: String) {
    let mut reply = Vec::new();
    replies::too_many_sessions(&hostname).encode(&mut reply);
    // A client that does not take its reply loses nothing but that.
    let _ = tokio::time::timeout(TURN_AWAY, async {
        stream.write_all(&reply).await?;
        stream.shutdown().await
    })
    .await;
}

#[cfg(test)]
mod tests;
