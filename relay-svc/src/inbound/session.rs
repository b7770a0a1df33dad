//! One session with a client: the pure server session over a socket, with a named timer for each wait.

use std::{net::SocketAddr, time::Duration};

use linkmail_smtp::{
    MailParameters, RcptParameters, Recorder, Reply, ReversePath, ServerPhase, ServerSession,
    ServerStep, replies,
};
use opentelemetry::KeyValue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Inbound, etrn,
    transaction::{Envelope, Transaction},
};
use crate::{
    arrivals::Arrival,
    config::Listener,
    policy,
    spool::{Handover, MessageWish, RecipientWish},
};

/// The wait for a client to take our replies.
const WRITE: Duration = Duration::from_secs(60);
/// After our last word a client may still send so long, and so much, before the connection is cut: data that is
/// unread when a connection closes would destroy the reply on its way.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 1024 * 1024);
/// So many replies to a client over a link count as receiving going on, between one message and the next. A provider
/// needs the greeting, EHLO and perhaps RSET; a stranger with NOOP would keep the line dialled.
const IDLE_REPLIES: u8 = 4;

/// Speaks with one client until either side ends it.
pub(super) async fn run(
    inbound: &Inbound,
    listener: &Listener,
    mut stream: TcpStream,
    peer: SocketAddr,
    cancel: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let mut session = Session {
        inbound,
        listener,
        link: inbound.link_of(listener, peer),
        may_relay: policy::contains(&listener.relay_from, peer.ip()),
        peer,
        smtp: ServerSession::new(inbound.smtp.clone()),
        recorder: Recorder::new(),
        transaction: None,
        accepted: 0,
        idle_replies: IDLE_REPLIES,
        command_deadline: None,
        refused: false,
        trouble: None,
    };
    if policy::peer_of(&listener.repeats_from, peer.ip()).is_some() {
        session.smtp.trust_peer();
    }
    session.goes_on();
    session.converse(&mut stream, &cancel).await;
    session.close(stream).await;
}

struct Session<'a> {
    inbound: &'a Inbound,
    listener: &'a Listener,
    link: Option<crate::names::LinkName>,
    may_relay: bool,
    peer: SocketAddr,
    smtp: ServerSession,
    recorder: Recorder,
    transaction: Option<Transaction>,
    accepted: u32,
    /// Replies that still count as receiving going on although no transaction is open.
    idle_replies: u8,
    /// When the client must have sent its next command. Octets that make no command do not move it.
    command_deadline: Option<Instant>,
    /// Whether anything was answered with 4yz or 5yz.
    refused: bool,
    /// What went wrong with the session, if anything.
    trouble: Option<String>,
}

impl Session<'_> {
    async fn converse(&mut self, stream: &mut TcpStream, cancel: &CancellationToken) {
        loop {
            let step = self.smtp.step();
            if step != ServerStep::Read {
                self.command_deadline = None;
            }
            match step {
                ServerStep::Write(octets) => {
                    self.recorder.server(&octets);
                    self.replied();
                    self.refused |= octets
                        .split(|octet| *octet == b'\n')
                        .any(|line| matches!(line, [b'4' | b'5', ..]));
                    if !matches!(timeout(WRITE, stream.write_all(&octets)).await, Ok(Ok(()))) {
                        self.trouble = Some("the client does not take replies".into());
                        return;
                    }
                }
                ServerStep::Read => self.read(stream, cancel).await,
                // TLS is not offered, so a handshake is not asked for.
                ServerStep::StartTls | ServerStep::Close => return,
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
        };
        let peer = policy::peer_of(&self.listener.repeats_from, self.peer.ip());
        let handover = peer
            .zip(parameters.peer_id)
            .map(|(peer, id)| Handover { peer, id });
        let envelope = Envelope {
            reverse_path,
            wish,
            smtputf8: parameters.smtputf8,
            handover,
        };
        Transaction::begin(envelope, self.link.clone(), arrival)
    }

    /// The steps that are about a message, or about mail that is held.
    async fn transact(&mut self, step: ServerStep) {
        match step {
            ServerStep::Mail {
                reverse_path,
                parameters,
            } => {
                let context = self
                    .link
                    .as_ref()
                    .map(|link| self.inbound.arrivals.begin(link));
                self.transaction = Some(self.begin(reverse_path, parameters, context));
                self.smtp.answer(replies::sender_ok());
            }
            ServerStep::Recipient {
                forward_path,
                parameters: RcptParameters { notify, original },
            } => {
                let admitted = self.inbound.policy.recipient(&forward_path, self.may_relay);
                let answer = match admitted {
                    Ok(admitted) => {
                        if let Some(transaction) = &mut self.transaction {
                            transaction.add(admitted, RecipientWish { notify, original });
                        }
                        replies::recipient_ok()
                    }
                    Err(denied) => denied.reply(),
                };
                self.smtp.answer(answer);
            }
            ServerStep::BeginData => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.open(self.inbound, self.peer, &self.smtp).await;
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
                let answer = etrn::answer(self.inbound, &node, self.peer.ip()).await;
                self.smtp.answer(answer);
            }
            // Not offered, so it does not come.
            ServerStep::Auth { .. } | ServerStep::AuthResponse(_) => {
                self.smtp.answer(replies::not_implemented());
            }
            ServerStep::Write(_) | ServerStep::Read | ServerStep::StartTls | ServerStep::Close => {}
        }
    }

    async fn read(&mut self, stream: &mut TcpStream, cancel: &CancellationToken) {
        let (limit, deadline) = match self.smtp.phase() {
            ServerPhase::Command => {
                let limit = self.inbound.limits.command_timeout;
                (
                    limit,
                    *self
                        .command_deadline
                        .get_or_insert_with(|| Instant::now() + limit),
                )
            }
            ServerPhase::Data => {
                let limit = self.inbound.limits.data_timeout;
                (limit, Instant::now() + limit)
            }
        };
        let mut octets = [0; 16 * 1024];
        tokio::select! {
            biased;
            () = cancel.cancelled() => self.smtp.shut_down(),
            read = timeout_at(deadline, stream.read(&mut octets)) => match read {
                Ok(Ok(count @ 1..)) => {
                    self.recorder.client(&octets[..count]);
                    if self.smtp.phase() == ServerPhase::Data {
                        // Also of a message that is read over to its end, to be refused there.
                        self.goes_on();
                    }
                    self.smtp.receive(&octets[..count]);
                }
                Ok(Ok(_) | Err(_)) => self.smtp.end_of_input(),
                Err(_) => {
                    self.trouble = Some(format!("silent for {limit:?}"));
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
        let link = self.link.clone();
        match transaction.accept(self.inbound).await {
            Ok(accepted) => {
                self.accepted += 1;
                self.idle_replies = IDLE_REPLIES;
                tracing::info!(
                    id = %accepted.id,
                    peer = %self.peer,
                    size = accepted.size,
                    link = link.as_ref().map(crate::names::LinkName::as_str),
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

    async fn close(mut self, mut stream: TcpStream) {
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
                trouble = self.trouble,
                transcript = self.recorder.text(),
                "inbound session had refusals"
            );
        } else {
            tracing::debug!(peer = %self.peer, accepted = self.accepted, "inbound session ended");
        }
        drop(self);
        let _ = timeout(LINGER.0, async {
            let mut octets = [0; 4096];
            let mut rest = LINGER.1;
            stream.shutdown().await?;
            while rest > 0 {
                match stream.read(&mut octets).await? {
                    0 => break,
                    count => rest = rest.saturating_sub(count),
                }
            }
            std::io::Result::Ok(())
        })
        .await;
    }
}
