//! One session with a client: the pure server session over a socket, with a named timer for each wait.
//!
//! - `proof`: TLS and AUTH, and what a client may do by them.

mod proof;

use std::{io, mem::MaybeUninit, net::SocketAddr, pin::Pin, task::ready, time::Duration};

use linkmail_service::{linger, tls::MaybeTls};
use linkmail_smtp::{
    MailParameters, RcptParameters, Recorder, Reply, ReversePath, ServerPhase, ServerSession,
    ServerStep, replies,
};
use opentelemetry::KeyValue;
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Inbound,
    authority::Exchange,
    connection::Door,
    etrn,
    pace::Pace,
    transaction::{Envelope, Transaction},
};
use crate::{
    arrivals::Arrival,
    policy::Client,
    spool::{Handover, MessageWish, RecipientWish},
};

/// The wait for a client to take our replies.
const WRITE: Duration = Duration::from_secs(60);
/// So many replies to a client over a link count as receiving going on, between one message and the next. A provider
/// needs the greeting, EHLO, STARTTLS, EHLO again, AUTH with a challenge, and perhaps RSET; a stranger with NOOP would
/// keep the line dialled.
const IDLE_REPLIES: u8 = 8;

/// A client that must not speak first is given so long to do it.
const EARLY: Duration = Duration::from_secs(2);
/// So much is read at once.
const READ: usize = 16 * 1024;

/// Speaks with one client until either side ends it.
pub(super) async fn run(
    door: &Door,
    stream: TcpStream,
    peer: SocketAddr,
    cancel: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let mut session = Session::new(door, peer);
    session.goes_on();
    let mut stream = session.prepare(stream, &cancel).await;
    if let Some(begun) = stream.take() {
        stream = session.converse(begun, &cancel).await;
    }
    session.close(stream).await;
}

struct Session<'a> {
    door: &'a Door,
    inbound: &'a Inbound,
    link: Option<crate::names::LinkName>,
    /// Who it is, as far as it has been proved.
    client: Client,
    may_relay: bool,
    peer: SocketAddr,
    smtp: ServerSession,
    recorder: Recorder,
    transaction: Option<Transaction>,
    /// The AUTH command that waits for the client's response.
    exchange: Option<Box<Exchange>>,
    /// What the TLS handshake came to, in a line.
    tls: Option<String>,
    accepted: u32,
    /// Replies that still count as receiving going on although no transaction is open.
    idle_replies: u8,
    pace: Pace,
    /// Whether anything was answered with 4yz or 5yz.
    refused: bool,
    /// What went wrong with the session, if anything.
    trouble: Option<String>,
}

impl<'a> Session<'a> {
    fn new(door: &'a Door, peer: SocketAddr) -> Self {
        let inbound = &*door.inbound;
        let implicit = door.listener.tls.as_ref().is_some_and(|tls| tls.implicit);
        let mut session = Self {
            door,
            inbound,
            link: inbound.link_of(&door.listener, peer),
            client: Client::at(peer.ip()),
            may_relay: false,
            peer,
            smtp: if implicit {
                ServerSession::within_tls(door.smtp.clone())
            } else {
                ServerSession::new(door.smtp.clone())
            },
            recorder: Recorder::new(),
            transaction: None,
            exchange: None,
            tls: None,
            accepted: 0,
            idle_replies: IDLE_REPLIES,
            pace: Pace::new(inbound.limits, Instant::now()),
            refused: false,
            trouble: None,
        };
        session.weigh();
        session.trust();
        session
    }

    /// What comes before the greeting. None: the connection is gone.
    async fn prepare(
        &mut self,
        stream: TcpStream,
        cancel: &CancellationToken,
    ) -> Option<MaybeTls<TcpStream>> {
        let implicit = self.smtp.is_encrypted();
        let mut stream = if implicit {
            let stream = self.handshake(stream, cancel).await?;
            self.trust();
            stream
        } else {
            MaybeTls::plain(stream)
        };
        if self.door.listener.refuse_early_talkers {
            let early = tokio::select! {
                () = cancel.cancelled() => None,
                early = timeout(EARLY, read_some(&mut stream)) => early.ok(),
            };
            match early {
                Some(Ok(octets)) if !octets.is_empty() => {
                    self.trouble = Some("spoke before it was greeted".to_owned());
                    self.smtp.early_talker();
                }
                Some(_) => self.smtp.end_of_input(),
                None => {}
            }
        }
        Some(stream)
    }

    /// Goes on until the session ends; None if the connection is gone.
    async fn converse(
        &mut self,
        mut stream: MaybeTls<TcpStream>,
        cancel: &CancellationToken,
    ) -> Option<MaybeTls<TcpStream>> {
        loop {
            let step = self.smtp.step();
            if step != ServerStep::Read {
                self.pace.completed();
            }
            match step {
                ServerStep::Write(octets) => {
                    self.recorder.server(&octets);
                    self.replied();
                    self.refused |= octets
                        .split(|octet| *octet == b'\n')
                        .any(|line| matches!(line, [b'4' | b'5', ..]));
                    let written = timeout(WRITE, async {
                        stream.write_all(&octets).await?;
                        stream.flush().await
                    });
                    if !matches!(written.await, Ok(Ok(()))) {
                        self.trouble = Some("the client does not take replies".into());
                        return Some(stream);
                    }
                }
                ServerStep::Read => self.read(&mut stream, cancel).await,
                ServerStep::StartTls => {
                    let plain = stream.into_plain().ok()?;
                    stream = self.handshake(plain, cancel).await?;
                    self.smtp.tls_started();
                    self.trust();
                }
                ServerStep::Close => return Some(stream),
                step => self.transact(step).await,
            }
        }
    }

    fn begin(
        &self,
        reverse_path: ReversePath,
        parameters: MailParameters,
        arrival: Option<Arrival>,
    ) -> Transaction {
        let wish = MessageWish {
            ret: parameters.ret,
            envelope_id: parameters.envelope_id,
            priority: parameters
                .priority
                .filter(|_| self.may_relay)
                .unwrap_or_default(),
            deliver_by: parameters.deliver_by,
        };
        let handover = self
            .other_relay()
            .zip(parameters.peer_id)
            .map(|(peer, id)| Handover {
                peer: peer.key(),
                id,
            });
        let envelope = Envelope {
            reverse_path,
            wish,
            smtputf8: parameters.smtputf8,
            handover,
        };
        Transaction::begin(envelope, self.link.clone(), arrival)
    }

    /// The steps that are about a message, about mail that is held, or about who the client is.
    async fn transact(&mut self, step: ServerStep) {
        match step {
            ServerStep::Mail {
                reverse_path,
                parameters,
            } => {
                let admitted = self
                    .inbound
                    .admit_sender(&self.door.listener, reverse_path)
                    .await;
                let answer = match admitted {
                    Ok(reverse_path) => {
                        let arrival = match &self.link {
                            Some(link) => Some(self.inbound.arrivals.begin(link).await),
                            None => None,
                        };
                        let asked = parameters.priority.unwrap_or_default();
                        let begun = self.begin(reverse_path, parameters, arrival);
                        let given = begun.priority();
                        self.transaction = Some(begun);
                        if given == asked {
                            replies::sender_ok()
                        } else {
                            replies::priority_changed(given)
                        }
                    }
                    Err(refusal) => refusal,
                };
                self.smtp.answer(answer);
            }
            ServerStep::Recipient {
                forward_path,
                parameters: RcptParameters { notify, original },
            } => {
                let admitted = self.inbound.admit(&forward_path, self.may_relay).await;
                let answer = match admitted {
                    Ok(admitted) => {
                        if let Some(transaction) = &mut self.transaction {
                            transaction.add(admitted, RecipientWish { notify, original });
                        }
                        replies::recipient_ok()
                    }
                    Err(refusal) => refusal,
                };
                self.smtp.answer(answer);
            }
            ServerStep::BeginData => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.open(self.inbound, self.peer, &self.smtp).await;
                    let listener = &self.door.listener;
                    if listener.submission {
                        let senders = listener.sender_map.as_ref().map(|map| map.current());
                        transaction.starts_here(&self.door.smtp.hostname, senders);
                    }
                }
                self.smtp.answer(replies::start_data());
            }
            ServerStep::Body(octets) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.write(&octets).await;
                }
            }
            ServerStep::EndOfData => {
                let answer = match self.transaction.take() {
                    Some(transaction) => self.accept(transaction).await,
                    None => replies::spool_unavailable(),
                };
                self.smtp.answer(answer);
            }
            ServerStep::Abort(reason) => {
                if self
                    .transaction
                    .take()
                    .is_some_and(|transaction| transaction.has_data())
                {
                    tracing::info!(peer = %self.peer, ?reason, "message dropped");
                    self.trouble
                        .get_or_insert_with(|| format!("message dropped: {reason:?}"));
                }
            }
            ServerStep::Etrn(node) => {
                let answer = etrn::answer(self.inbound, &node, &self.client).await;
                self.smtp.answer(answer);
            }
            ServerStep::Auth { mechanism, initial } => self.begin_auth(&mechanism, initial).await,
            ServerStep::AuthResponse(response) => self.go_on_with_auth(&response).await,
            ServerStep::Write(_) | ServerStep::Read | ServerStep::StartTls | ServerStep::Close => {}
        }
    }

    async fn read(&mut self, stream: &mut MaybeTls<TcpStream>, cancel: &CancellationToken) {
        let (phase, begun) = (self.smtp.phase(), Instant::now());
        let (deadline, slow) = self.pace.deadline(phase, begun);
        tokio::select! {
            biased;
            () = cancel.cancelled() => self.smtp.shut_down(),
            read = timeout_at(deadline, read_some(stream)) => match read {
                Ok(Ok(octets)) if !octets.is_empty() => {
                    self.pace.received(phase, begun.elapsed(), octets.len());
                    self.recorder.client(&octets);
                    if phase == ServerPhase::Data {
                        // Also of a message that is read over to its end, to be refused there.
                        self.goes_on();
                    }
                    self.smtp.receive(&octets);
                }
                Ok(Ok(_) | Err(_)) => self.smtp.end_of_input(),
                Err(_) => {
                    self.trouble = Some(slow.to_string());
                    self.smtp.time_out();
                }
            },
        }
    }

    /// Tells the cycle, if one receives over the link, that receiving goes on.
    fn goes_on(&self) {
        if let Some(link) = &self.link {
            self.inbound.arrivals.touch(link);
        }
    }

    /// A command was completed, which is progress within a transaction, and only a few times outside of one.
    fn replied(&mut self) {
        if self.transaction.is_some() {
            self.goes_on();
        } else if let Some(left) = self.idle_replies.checked_sub(1) {
            self.idle_replies = left;
            self.goes_on();
        }
    }

    async fn accept(&mut self, transaction: Transaction) -> Reply {
        let (link, protocol) = (self.link.clone(), self.smtp.protocol());
        match transaction.accept(self.inbound).await {
            Ok(accepted) => {
                self.accepted += 1;
                self.idle_replies = IDLE_REPLIES;
                self.pace.message();
                tracing::info!(
                    id = %accepted.id,
                    peer = %self.peer,
                    size = accepted.size,
                    link = link.as_ref().map(crate::names::LinkName::as_str),
                    protocol,
                    tls = self.tls,
                    identity = self.client.name(),
                    "message accepted"
                );
                self.inbound
                    .instruments
                    .accepted
                    .add(1, &[KeyValue::new("origin", "smtp")]);
                replies::message_accepted(&accepted.id.to_string())
            }
            Err(reply) => {
                tracing::warn!(peer = %self.peer, %reply, "message refused");
                reply
            }
        }
    }

    async fn close(mut self, stream: Option<MaybeTls<TcpStream>>) {
        let refused = self.refused || self.trouble.is_some();
        let outcome = if self.trouble.is_some() {
            "failed"
        } else {
            "ended"
        };
        self.inbound
            .instruments
            .sessions
            .add(1, &[KeyValue::new("outcome", outcome)]);
        if refused {
            tracing::warn!(
                peer = %self.peer,
                accepted = self.accepted,
                tls = self.tls,
                identity = self.client.name(),
                trouble = self.trouble,
                transcript = self.recorder.text(),
                "inbound session had refusals"
            );
        } else {
            tracing::debug!(peer = %self.peer, accepted = self.accepted, "inbound session ended");
        }
        drop(self);
        if let Some(stream) = stream {
            linger::close(stream).await;
        }
    }
}

/// What the client sent; nothing if it has closed. The buffer is there only while something is read, so that a session
/// that waits has none.
async fn read_some(stream: &mut MaybeTls<TcpStream>) -> io::Result<Vec<u8>> {
    std::future::poll_fn(|context| {
        let mut octets = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut octets);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
        std::task::Poll::Ready(Ok(buffer.filled().to_vec()))
    })
    .await
}
