//! Sends what a feed gives over one session, many messages in flight, and records what becomes of each.
//!
//! While replies come in, outcomes are recorded beside the session, and the next messages go out: the line is not kept
//! waiting for the disk. Memory: what the session's flight allows, and one recipient list for each message of it.

mod give;

use std::{collections::HashMap, sync::Arc};

use linkmail_smtp::{FlightLimits, Transaction};
use opentelemetry::{Context, KeyValue, trace::TraceContextExt};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    End, Event, Feed, Forwarder, Session, Tally,
    settle::{Attempt, Part},
    share::Share,
};
use crate::{
    queue::Outcome,
    spool::{Body, SpoolError},
    telemetry,
};

/// Why forwarding stopped.
#[derive(Debug)]
pub enum Stop {
    /// Nothing is due any more.
    Idle,
    /// More is due, and has been for long: it is others' turn.
    Stretch,
    /// The session takes no more, for no fault of the host: it takes so many, or a message could not be sent to its end.
    Exhausted,
    /// The session ended.
    Ended(End),
    /// The relay is stopping.
    Cancelled,
    /// An outcome could not be recorded, or the spool not be read.
    Spool(SpoolError),
}

/// What was done, and why it stopped.
#[derive(Debug)]
pub struct Drained {
    /// What was done.
    pub tally: Tally,
    /// Why it stopped.
    pub stop: Stop,
    /// The place of the last message that was taken.
    pub last: Option<i64>,
    /// The places of those messages of which a recipient was not tried, or whose outcomes are not on record.
    pub untried: Vec<i64>,
}

/// What sending needs to know beside the feed and the session.
pub struct Terms<'a> {
    /// The span of the session.
    pub parent: &'a Context,
    /// No message is begun after this.
    pub until: Instant,
    /// So many messages and octets are taken before the first outcome, so that other sessions have their part.
    pub share: FlightLimits,
    /// No message is begun once this is cancelled.
    pub cancel: &'a CancellationToken,
    /// Is told after each message.
    pub told: &'a watch::Sender<Tally>,
    /// Another host is tried when this session fails: what failed with it waits for that one.
    pub has_other_host: bool,
}

impl Forwarder {
    /// Sends until nothing is due, including what arrives meanwhile. What is under way when it stops for another reason
    /// is brought to its end; but once the lease that it works under has ended, nothing more is written, and what was
    /// written is in doubt.
    pub async fn drain(&self, feed: &Feed, session: &mut Session, terms: &Terms<'_>) -> Drained {
        let mut drain = Drain {
            forwarder: self,
            feed,
            terms,
            parts: HashMap::new(),
            bodies: HashMap::new(),
            waiting: Vec::new(),
            settling: JoinSet::new(),
            skipped: Vec::new(),
            fault: None,
            dry: false,
            stop: None,
            tally: Tally::default(),
            last: None,
            untried: Vec::new(),
            share: Share::new(terms.share),
        };
        let stop = drain.run(session).await;
        Drained {
            tally: drain.tally,
            stop,
            last: drain.last,
            untried: drain.untried,
        }
    }
}

/// A transaction that was given to the session.
struct Given {
    message: Arc<Sending>,
    part: Part,
}

/// A message that is being sent, in one transaction or more.
struct Sending {
    attempt: Mutex<Attempt>,
    size: u64,
    seq: i64,
    span: Context,
}

/// What one part came to, once it is recorded.
struct Recorded {
    message: Arc<Sending>,
    result: Result<Option<Tally>, SpoolError>,
}

struct Drain<'a> {
    forwarder: &'a Forwarder,
    feed: &'a Feed,
    terms: &'a Terms<'a>,
    /// By the session's number of the transaction.
    parts: HashMap<u64, Given>,
    /// Of messages that are sent piece by piece.
    bodies: HashMap<u64, Body>,
    /// Parts of messages that the session has no room for yet, the next one last.
    waiting: Vec<(Arc<Sending>, Part, Transaction)>,
    settling: JoinSet<Recorded>,
    /// Messages that cannot be read now; they stay in hand, so that they are not taken again and again.
    skipped: Vec<Arc<Sending>>,
    /// Why the last of them cannot.
    fault: Option<SpoolError>,
    /// The feed had nothing the last time.
    dry: bool,
    stop: Option<Stop>,
    tally: Tally,
    last: Option<i64>,
    untried: Vec<i64>,
    share: Share,
}

impl Drain<'_> {
    async fn run(&mut self, session: &mut Session) -> Stop {
        // What was delivered and is not on record would be sent again: it is recorded first.
        if let Err(error) = self.forwarder.record_leftovers(self.feed.hop()).await {
            return Stop::Spool(error);
        }
        let mut woken = self.feed.spool().watch_hop(self.feed.hop());
        // A session that opens late begins nothing.
        if self.terms.cancel.is_cancelled() {
            self.stop = Some(Stop::Cancelled);
        } else if Instant::now() >= self.terms.until {
            self.stop = Some(Stop::Stretch);
        }
        let mut has_lapsed = false;
        loop {
            if !has_lapsed && self.feed.spool().has_lapsed() {
                has_lapsed = true;
                self.stop = Some(Stop::Spool(SpoolError::LeaseLost));
                session.abandon("another replica may have taken over");
            }
            self.fill(session).await;
            tokio::select! {
                biased;
                // Asked before the session goes on: a process that was stopped writes nothing more.
                () = self.feed.spool().lapsed(), if !has_lapsed => {}
                Some(recorded) = self.settling.join_next() => self.recorded(recorded),
                event = session.next() => match event {
                    Event::Outcome(number, outcomes) => self.outcome(number, outcomes),
                    Event::Body(number) => self.piece(session, number).await,
                    Event::Etrn(_) | Event::Asked(_) => {}
                    Event::Idle if self.is_over(session) => break,
                    // What is on its way to the disk is waited for: without it there is nothing to wait for here.
                    Event::Idle => {
                        self.dry = false;
                        if let Some(recorded) = self.settling.join_next().await {
                            self.recorded(recorded);
                        }
                    }
                    Event::Closed if session.ended_by_message() => {
                        self.stop.get_or_insert(Stop::Exhausted);
                        break;
                    }
                    Event::Closed => {
                        let end = session.end().cloned();
                        let end = end.unwrap_or_else(|| End::Failed("the session ended".into()));
                        // That it takes no more was known before; how it ended is not.
                        if matches!(self.stop, None | Some(Stop::Exhausted)) {
                            self.stop = Some(Stop::Ended(end));
                        }
                        break;
                    }
                },
                _ = woken.changed(), if self.dry => self.dry = false,
                () = self.terms.cancel.cancelled(), if self.stop.is_none() => self.stop = Some(Stop::Cancelled),
                () = sleep_until(self.terms.until), if self.stop.is_none() => self.stop = Some(Stop::Stretch),
            }
        }
        for (message, part, _) in std::mem::take(&mut self.waiting) {
            let why = "the session took no more messages".to_owned();
            let outcomes = vec![Outcome::NotAttempted(why); part.len()];
            self.settle(message, part, outcomes);
        }
        while let Some(recorded) = self.settling.join_next().await {
            self.recorded(recorded);
        }
        match (self.stop.take(), self.fault.take()) {
            // Many hosts take so many messages in one session, and say so by ending it.
            (Some(Stop::Ended(_)), None) if session.was_dismissed() && self.tally.progressed() => {
                Stop::Exhausted
            }
            // The session died of the message, and would again.
            (Some(Stop::Exhausted), Some(error)) if !self.tally.moved() => Stop::Spool(error),
            (Some(stop), _) => stop,
            (None, Some(error)) => Stop::Spool(error),
            (None, None) => Stop::Idle,
        }
    }

    /// Whether an idle session has nothing to wait for.
    fn is_over(&mut self, session: &Session) -> bool {
        if session.room().is_none() {
            self.stop.get_or_insert(Stop::Exhausted);
            return true;
        }
        self.waiting.is_empty() && (self.stop.is_some() || self.dry)
    }

    fn outcome(&mut self, number: u64, mut outcomes: Vec<Outcome>) {
        self.bodies.remove(&number);
        let Some(Given { message, mut part }) = self.parts.remove(&number) else {
            return;
        };
        self.share.done(message.size);
        if self.terms.has_other_host {
            outcomes = outcomes.into_iter().map(left_for_another).collect();
        }
        match part.fault.take() {
            Some(error) => self.unreadable(message, part, error),
            None => self.settle(message, part, outcomes),
        }
    }

    /// Records the outcomes of a part beside the session.
    fn settle(&mut self, message: Arc<Sending>, part: Part, outcomes: Vec<Outcome>) {
        let forwarder = self.forwarder.clone();
        self.settling.spawn(async move {
            let mut attempt = message.attempt.lock().await;
            let result = forwarder.settle(&mut attempt, &part, &outcomes).await;
            drop(attempt);
            Recorded { message, result }
        });
    }

    fn recorded(&mut self, recorded: Result<Recorded, tokio::task::JoinError>) {
        let Recorded { message, result } = match recorded {
            Ok(recorded) => recorded,
            Err(error) => {
                tracing::error!(%error, "recording an outcome failed by a defect of its own");
                self.stop.get_or_insert(Stop::Spool(SpoolError::Closed));
                return;
            }
        };
        let failed = match result {
            // Other parts of it are under way.
            Ok(None) => return,
            Ok(Some(recipients)) => {
                let is_skipped = self.skipped.iter().any(|m| Arc::ptr_eq(m, &message));
                if recipients.untried > 0 && !is_skipped {
                    self.untried.push(message.seq);
                }
                let outcome = recipients.outcome();
                let attribute = KeyValue::new(telemetry::DELIVERY, outcome);
                message.span.span().set_attribute(attribute);
                // A message of which recipients are left counts once, with the last of them.
                let accepted = recipients.delivered > 0 && recipients.untried == 0;
                let done = Tally {
                    sent: u32::from(accepted),
                    sent_bytes: if accepted { message.size } else { 0 },
                    ..recipients
                };
                self.tally.add(&done);
                self.terms.told.send_modify(|tally| tally.add(&done));
                (!accepted).then(|| (outcome, "not accepted for any recipient".to_owned()))
            }
            Err(error) => {
                let failed = Some(("spool", error.to_string()));
                self.untried.push(message.seq);
                self.stop.get_or_insert(Stop::Spool(error));
                failed
            }
        };
        telemetry::end(&message.span, failed);
    }
}

/// What failed with its session is not tried yet where another host may take it (RFC 5321 5.1).
fn left_for_another(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed(why) => Outcome::NotAttempted(why),
        Outcome::Refused(reply) if reply.code == 421 => Outcome::NotAttempted(reply.to_string()),
        outcome => outcome,
    }
}
