//! What a session is given: messages from the feed while there is room, each in its transactions, and their bodies.

use std::sync::Arc;

use linkmail_smtp::{Content, Transaction};
use tokio::sync::Mutex;

use super::{
    super::{
        Session,
        feed::InHandMessage,
        parts,
        settle::{Attempt, Part},
    },
    Drain, Given, Sending, Stop,
};
use crate::{
    queue::Outcome,
    spool::{Body, SpoolError},
    telemetry,
};

/// So many messages are taken from the feed at once.
const BATCH: usize = 50;
/// While so many outcomes wait to be recorded, no further message is begun.
const SETTLING: usize = 100;

impl Drain<'_> {
    /// Gives the session what it has room for.
    pub(super) async fn fill(&mut self, session: &mut Session) {
        while let Some(room) = session.room() {
            if let Some((message, part, transaction)) = self.waiting.pop() {
                self.give(session, message, part, transaction, None).await;
                continue;
            }
            // Sending does not run ahead of the disk: what a crash repeats is what was in flight.
            if self.stop.is_some() || self.dry || self.settling.len() >= SETTLING {
                return;
            }
            let share = self.share.left();
            if share == 0 {
                return;
            }
            let taken = match self.feed.take(room.messages.min(BATCH).min(share)).await {
                Ok(taken) => taken,
                Err(error) => {
                    self.stop = Some(Stop::Spool(error));
                    return;
                }
            };
            self.dry = taken.is_empty();
            let mut taken = taken.into_iter();
            while let Some(message) = taken.next() {
                let fits = session
                    .room()
                    .is_some_and(|room| message.due.size <= room.bytes || self.parts.is_empty());
                let left = match fits && self.share.left() > 0 {
                    true => {
                        let left = self.begin(session, message).await;
                        if left.is_some() {
                            self.stop = Some(Stop::Exhausted);
                        }
                        left
                    }
                    false => Some(message),
                };
                if let Some(message) = left {
                    // Back in their order, the first on top.
                    for message in taken.by_ref().collect::<Vec<_>>().into_iter().rev() {
                        self.feed.put_back(message).await;
                    }
                    self.feed.put_back(message).await;
                    return;
                }
            }
        }
    }

    /// Begins a message: one transaction for each hundred recipients, or for as many as the host takes. A host that has seen
    /// all the domains that it takes in a session gets none of it: it is given back.
    async fn begin(
        &mut self,
        session: &mut Session,
        message: InHandMessage,
    ) -> Option<InHandMessage> {
        let recipients = message.due.recipients.iter();
        let domains: Vec<_> = recipients.map(|one| one.address.domain()).collect();
        let parts = parts::divide(&domains, session.most());
        let now = self.feed.spool().tick();
        let of_part = |places: &Vec<usize>| parts::transaction(&message.due, places, now);
        let transactions: Vec<_> = parts.iter().map(of_part).collect();
        if transactions
            .first()
            .is_some_and(|first| !session.takes_domains_of(first))
        {
            return Some(message);
        }
        let InHandMessage { due, body, hand } = message;
        self.last = self.last.max(Some(due.seq));
        self.share.take(due.size);
        let created = telemetry::from_text(&due.traceparent);
        let span = self.forwarder.span(&due, self.terms.parent, &created);
        let host = session.peer().host.clone();
        let (size, seq) = (due.size, due.seq);
        let hop = self.feed.hop().to_owned();
        let attempt = Attempt::new(due, hop, &host, span.clone());
        let attempt = attempt.in_parts(parts.len(), hand);
        let message = Arc::new(Sending {
            attempt: Mutex::new(attempt),
            size,
            seq,
            span,
        });
        let parts = parts.into_iter().map(Part::of);
        let all: Vec<_> = parts.zip(transactions).collect();
        self.waiting.extend(
            all.into_iter()
                .rev()
                .map(|(part, transaction)| (message.clone(), part, transaction)),
        );
        if let Some((message, part, transaction)) = self.waiting.pop() {
            self.give(session, message, part, transaction, body).await;
        }
        None
    }

    /// Gives the session one transaction, with its content if that is small. The body is read unless it is at hand.
    async fn give(
        &mut self,
        session: &mut Session,
        message: Arc<Sending>,
        mut part: Part,
        transaction: Transaction,
        body: Option<Body>,
    ) {
        if !session.takes_domains_of(&transaction) {
            self.stop.get_or_insert(Stop::Exhausted);
            let why = "the host takes no further domain in this session".to_owned();
            let outcomes = vec![Outcome::NotAttempted(why); part.len()];
            return self.settle(message, part, outcomes);
        }
        let read = async {
            let mut body = match body {
                Some(body) => body,
                None => self.feed.spool().body(message.seq).await?,
            };
            let whole = body.whole().await?;
            Ok((body, whole))
        };
        let (body, content) = match read.await {
            Ok((_, Some(octets))) => (None, Content::Whole(octets)),
            Ok((body, None)) => (Some(body), Content::Streamed),
            Err(error) => {
                self.share.done(message.size);
                return self.unreadable(message, part, error);
            }
        };
        part.takes = session.takes();
        let number = session.give(transaction, content);
        self.parts.insert(number, Given { message, part });
        if let Some(body) = body {
            self.bodies.insert(number, body);
        }
    }

    /// A body that cannot be read. A fault of the message sets it aside; one of the machine, such as too many open files,
    /// leaves it for the next time, and keeps nothing else waiting.
    pub(super) fn unreadable(&mut self, message: Arc<Sending>, part: Part, error: SpoolError) {
        let outcome = if error.is_of_the_message() {
            Outcome::Unsendable(format!("the stored body cannot be read: {error}"))
        } else {
            tracing::error!(seq = message.seq, %error, "a message cannot be read now");
            let why = format!("the stored body cannot be read now: {error}");
            self.skipped.push(message.clone());
            self.fault = Some(error);
            Outcome::NotAttempted(why)
        };
        let outcomes = vec![outcome; part.len()];
        self.settle(message, part, outcomes);
    }

    /// The next piece of a message that is sent piece by piece, or its end.
    pub(super) async fn piece(&mut self, session: &mut Session, number: u64) {
        let Some(body) = self.bodies.get_mut(&number) else {
            return session.abandon_body("its body is not at hand");
        };
        match body.next().await {
            Ok(piece) if piece.is_empty() => {
                session.end_body();
                self.bodies.remove(&number);
            }
            Ok(piece) => session.body(&piece),
            Err(error) => {
                let error = SpoolError::from(error);
                session.abandon_body(&format!("the stored body cannot be read: {error}"));
                self.bodies.remove(&number);
                if let Some(Given { part, .. }) = self.parts.get_mut(&number) {
                    part.fault = Some(error);
                }
            }
        }
    }
}
