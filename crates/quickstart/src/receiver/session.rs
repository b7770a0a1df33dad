//! One session with a client: the pure server session over a socket, with a named timer for each wait.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use linkmail_service::{clock::Stamp, linger};
use linkmail_smtp::{ForwardPath, Reply, ReversePath, ServerSession, ServerStep, replies};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Arrival, Notice, Shared, draft::Draft};

/// The wait for a command or for data (RFC 5321 4.5.3.2.7).
const READ: Duration = Duration::from_secs(300);
/// The wait for a client to take our replies.
const WRITE: Duration = Duration::from_secs(60);
/// The wait for whoever takes the notices; then the client hears 451.
const TELL: Duration = Duration::from_secs(30);

pub(super) struct Session {
    shared: Arc<Shared>,
    listener: SocketAddr,
    peer: SocketAddr,
    notices: mpsc::Sender<Notice>,
    smtp: ServerSession,
    transaction: Option<Transaction>,
}

struct Transaction {
    reverse_path: ReversePath,
    recipients: Vec<ForwardPath>,
    draft: Option<Draft>,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        listener: SocketAddr,
        peer: SocketAddr,
        notices: mpsc::Sender<Notice>,
    ) -> Self {
        Self {
            smtp: ServerSession::new(Arc::clone(&shared.smtp)),
            shared,
            listener,
            peer,
            notices,
            transaction: None,
        }
    }

    /// Speaks with the client until either side ends it.
    pub(super) async fn run(mut self, mut stream: TcpStream, cancel: &CancellationToken) {
        let _ = stream.set_nodelay(true);
        loop {
            match self.smtp.step() {
                ServerStep::Write(octets) => {
                    if !matches!(timeout(WRITE, stream.write_all(&octets)).await, Ok(Ok(()))) {
                        return;
                    }
                }
                ServerStep::Read => self.read(&mut stream, cancel).await,
                // TLS is not offered, so a handshake is not asked for.
                ServerStep::StartTls | ServerStep::Close => break,
                step => self.transact(step).await,
            }
        }
        drop(self);
        linger::close(stream).await;
    }

    async fn read(&mut self, stream: &mut TcpStream, cancel: &CancellationToken) {
        let mut octets = vec![0; 16 * 1024];
        tokio::select! {
            biased;
            () = cancel.cancelled() => self.smtp.shut_down(),
            read = timeout(READ, stream.read(&mut octets)) => match read {
                Ok(Ok(count @ 1..)) => self.smtp.receive(&octets[..count]),
                Ok(Ok(_) | Err(_)) => self.smtp.end_of_input(),
                Err(_) => self.smtp.time_out(),
            },
        }
    }

    /// The steps that are about a message.
    async fn transact(&mut self, step: ServerStep) {
        match step {
            ServerStep::Mail { reverse_path, .. } => {
                self.transaction = Some(Transaction {
                    reverse_path,
                    recipients: Vec::new(),
                    draft: None,
                });
                self.smtp.answer(replies::sender_ok());
            }
            ServerStep::Recipient {
                forward_path: recipient,
                ..
            } => {
                let refusals = &self.shared.refusals;
                let answer = match refusals.iter().find_map(|one| one.reply_to(&recipient)) {
                    Some(refused) => {
                        // Told for people only, so nobody waits for it.
                        let _ = self.notices.try_send(Notice::Refused {
                            recipient: recipient.to_string(),
                            reply: refused.to_string(),
                        });
                        refused
                    }
                    None => {
                        if let Some(transaction) = &mut self.transaction {
                            transaction.recipients.push(recipient);
                        }
                        replies::recipient_ok()
                    }
                };
                self.smtp.answer(answer);
            }
            ServerStep::BeginData => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.draft = Some(Draft::open(self.shared.folder.as_deref()).await);
                }
                self.smtp.answer(replies::start_data());
            }
            ServerStep::Body(octets) => {
                let draft = self.transaction.as_mut().and_then(|t| t.draft.as_mut());
                if let Some(draft) = draft {
                    draft.write(&octets).await;
                }
            }
            ServerStep::EndOfData => {
                let answer = self.accept().await;
                self.smtp.answer(answer);
            }
            ServerStep::Abort(_) => self.transaction = None,
            // Not offered, so it does not come; refused all the same.
            ServerStep::Etrn(_) | ServerStep::Auth { .. } | ServerStep::AuthResponse(_) => {
                self.smtp.answer(replies::not_implemented());
            }
            ServerStep::Write(_) | ServerStep::Read | ServerStep::StartTls | ServerStep::Close => {}
        }
    }

    /// Keeps the message and tells of it.
    async fn accept(&mut self) -> Reply {
        let Some(mut transaction) = self.transaction.take() else {
            return replies::spool_unavailable();
        };
        let Some(mut draft) = transaction.draft.take() else {
            return replies::spool_unavailable();
        };
        let file = match draft.keep().await {
            Ok(file) => file,
            Err(error) => {
                eprintln!("linkmail-quickstart: a message could not be kept: {error}");
                return replies::spool_unavailable();
            }
        };
        let arrival = self.arrival(transaction, &draft, file);
        let id = arrival.message_id.clone();
        match timeout(TELL, self.notices.send(Notice::Arrived(arrival))).await {
            Ok(Ok(())) => replies::message_accepted(&id),
            Ok(Err(_)) | Err(_) => replies::spool_unavailable(),
        }
    }

    fn arrival(&self, transaction: Transaction, draft: &Draft, file: Option<PathBuf>) -> Arrival {
        let recipients = transaction.recipients.iter().map(ForwardPath::to_string);
        Arrival {
            listener: self.listener,
            peer: self.peer,
            reverse_path: transaction.reverse_path.to_string(),
            recipients: recipients.collect(),
            size: draft.size,
            message_id: draft.header.field("Message-ID"),
            subject: draft.header.field("Subject"),
            received_ms: Stamp::now().0,
            file,
        }
    }
}
