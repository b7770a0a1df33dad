//! What time alone does to mail that waits: senders are told that it is late, or it is given up (`queue::late`).
//!
//! One task looks which next hops have such mail; what is to be done is done by whoever serves the next hop, at a moment at
//! which nothing of it is being sent. So nobody is told that a message failed which is on its way.

use std::{sync::Arc, time::Duration};

use opentelemetry::Context;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Forwarder, settle::Attempt};
use crate::{
    clock::Stamp,
    names::NextHop,
    queue::{
        Settlement,
        late::{Lateness, Verdict, Waiting},
    },
    report::{LastWord, Told, Tried},
    spool::{Due, DueRecipient, Settled, Spool, SpoolError},
};

/// The times of senders are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The longest and shortest time between two looks at all that waits.
const WALK_EVERY: (Duration, Duration) = (Duration::from_secs(1800), Duration::from_millis(200));
/// So many messages are loaded at once.
const BATCH: u32 = 50;
/// Whoever serves a next hop judges for so long at a time, and goes on after what else he has to do.
const TURN: Duration = Duration::from_secs(2);

/// Looks for next hops with mail that is late, and tells whoever serves them; until cancelled.
pub async fn watch(spool: Spool, limits: Lateness, cancel: CancellationToken) {
    let shortest = limits.warn_after.unwrap_or(limits.line_gone);
    let every = (shortest.min(limits.line_gone) / 8).clamp(WALK_EVERY.1, WALK_EVERY.0);
    let mut walk = Instant::now();
    while !cancel.is_cancelled() {
        let mut hops = spool.overdue_hops().await;
        let walks = walk <= Instant::now();
        if walks {
            hops = match (hops, spool.late_hops(limits).await) {
                (Ok(overdue), Ok(late)) => Ok([overdue, late].concat()),
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
            walk = Instant::now() + every;
        }
        match hops {
            Ok(hops) => spool.note_late(hops, walks),
            Err(error) => tracing::error!(%error, "mail that is late cannot be looked for"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY.min(every)) => {}
        }
    }
}

impl Forwarder {
    /// Does what time has decided of the mail for a next hop, if [`watch`] has found some; of much of it a part. Nothing of
    /// it is being sent.
    ///
    /// # Errors
    /// The spool cannot be read or written.
    pub async fn judge_late(&self, hop: &NextHop) -> Result<(), SpoolError> {
        if !self.spool.take_late(&hop.to_string()) {
            return Ok(());
        }
        self.record_leftovers(&hop.to_string()).await?;
        let (begun, mut after) = (Instant::now(), 0);
        loop {
            let late = self.spool.late(hop, self.late, after, BATCH).await?;
            let Some(last) = late.last() else {
                return Ok(());
            };
            after = last.seq;
            for message in late {
                self.judge_one(hop, message).await?;
                if begun.elapsed() > TURN {
                    self.spool.note_late(vec![hop.to_string()], false);
                    return Ok(());
                }
            }
        }
    }

    async fn judge_one(&self, hop: &NextHop, message: Due) -> Result<(), SpoolError> {
        let spent = message.spent(self.spool.tick());
        let clock = self.spool.clock();
        let null_sender = message.reverse_path.mailbox().is_none();
        let judged = |recipient: &DueRecipient| {
            let waiting = Waiting {
                spent,
                waited: clock.saturating_sub(recipient.since),
                deliver_by: message.wish.deliver_by,
                notify: recipient.wish.notify,
                is_noted: recipient.is_late,
                null_sender,
            };
            waiting.judge(&self.late)
        };
        let of = |wanted: &[Verdict]| {
            let recipients = message.recipients.iter();
            let those = recipients.filter(|one| wanted.contains(&judged(one)));
            Due {
                recipients: those.cloned().collect(),
                ..message.clone()
            }
        };
        let lost = of(&[Verdict::TooLate]);
        if !lost.recipients.is_empty() {
            let why = "the time by which it was to be delivered is over";
            self.give_up(hop, &lost, why).await?;
        }
        let gone = of(&[Verdict::LineGone]);
        if !gone.recipients.is_empty() {
            let age = in_words(self.late.line_gone);
            let why = match hop {
                NextHop::Oversize(_) => {
                    format!("it is large, and did not go in the hours of such mail for {age}")
                }
                _ => format!("its way was not there for {age}"),
            };
            self.give_up(hop, &gone, &why).await?;
        }
        let late = of(&[Verdict::TellLate, Verdict::NoteLate]);
        let told = of(&[Verdict::TellLate]);
        self.note_late(hop, late, &told.recipients).await
    }

    /// Records that recipients are late, with the report that tells of some of them.
    async fn note_late(
        &self,
        hop: &NextHop,
        late: Due,
        told: &[DueRecipient],
    ) -> Result<(), SpoolError> {
        if late.recipients.is_empty() {
            return Ok(());
        }
        let at = Stamp::now();
        let settled = late.recipients.iter().map(|recipient| Settled {
            idx: recipient.idx,
            settlement: Settlement::Late { at },
            by: Arc::default(),
        });
        let settled = settled.collect();
        let told: Vec<Told> = told
            .iter()
            .map(|one| self.delayed(hop, &late, one, at))
            .collect();
        tracing::info!(id = %late.id, recipients = late.recipients.len(), told = told.len(), "recipients late");
        let attempt = Attempt::new(late, hop.to_string(), &self.hostname, Context::new());
        let report = self.report(&attempt, &told, at).await;
        self.record(&attempt, settled, report).await
    }

    fn delayed(&self, hop: &NextHop, message: &Due, recipient: &DueRecipient, at: Stamp) -> Told {
        let words = match (recipient.last_reply.as_str(), hop) {
            ("", NextHop::Oversize(_)) => "it is large, and waits for the hours of such mail",
            ("", _) => "its way was not there yet",
            (last, _) => last,
        };
        let waited = self.spool.clock().saturating_sub(recipient.since);
        let tried = match recipient.tried {
            None => Tried::Never,
            Some(tried) => Tried::At(at.minus(self.spool.clock().saturating_sub(tried))),
        };
        let left = message.left(self.spool.tick());
        let own = at.plus(self.late.line_gone.saturating_sub(waited));
        // The site's own limit, or the sender's if that is nearer.
        let until = match left.filter(|by| by.mode() == linkmail_smtp::ByMode::Return) {
            Some(by) => {
                let seconds = u64::try_from(by.seconds()).unwrap_or(0);
                own.min(at.plus(Duration::from_secs(seconds)))
            }
            None => own,
        };
        let told = Told::delayed(
            recipient.address.clone(),
            &LastWord::Words(words),
            tried,
            Some(until),
        );
        told.with_original(recipient.wish.original.clone())
    }
}

/// A duration for people, in the largest unit of which it has at least two.
pub(crate) fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
