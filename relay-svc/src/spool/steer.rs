//! What an operator changes: recipients are held, taken up again, tried now, sent another way, or deleted.
//!
//! A step is one commit. Each recipient is changed only if it still stands as it was selected, and each change has its row in
//! the history. Replicas that share a spool see by a counter that something was changed, within a second, and read anew what
//! they had read ahead; a feed of this process has it taken back before (`outbound::InHand`).

use super::{
    Due, RecipientState, Selected, Spool, SpoolError, Tick,
    age::Now,
    db::{Db, Value},
    due,
    history::{self, PastAttempt},
    nodes,
    store::{close_if_done, lock, millis},
};
use crate::{clock::Stamp, names::NextHop};

/// What is said of mail that was deleted.
const DELETED: &str = "deleted by an operator";
/// The counter of changes, in `meta`.
pub(super) const STEERED: &str = "steered";

/// What is done to recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Kept until they are released.
    Hold,
    /// Taken up again, due now.
    Release,
    /// Due now, and the backoff begins anew.
    Expedite,
    /// Sent another way, due there now.
    Reroute,
    /// Given up, and nobody is told.
    Delete,
}

impl Step {
    /// The word for it in the history.
    fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "held",
            Self::Release => "released",
            Self::Expedite => "expedited",
            Self::Reroute => "rerouted",
            Self::Delete => "deleted",
        }
    }
}

/// A recipient that is to be changed.
#[derive(Debug, Clone)]
pub struct Steered {
    /// As it was selected.
    pub recipient: Selected,
    /// Where it goes then; of [`Step::Release`] and [`Step::Reroute`].
    pub to: Option<NextHop>,
}

/// When it is changed: by the spool's clock, and for the history.
#[derive(Clone, Copy)]
struct Times {
    now: Now,
    wall: Stamp,
}

impl Spool {
    /// Changes recipients, in one commit; gives those that were changed: others had gone on.
    ///
    /// # Errors
    /// The database cannot be written; nothing is changed then.
    pub async fn steer(
        &self,
        step: Step,
        steered: Vec<Steered>,
        operator: String,
    ) -> Result<Vec<Selected>, SpoolError> {
        let times = Times {
            now: self.now(),
            wall: Stamp::now(),
        };
        let written = self.write(move |db| change(db, step, &steered, &operator, times));
        let (changed, files) = written.await?;
        for file in files {
            self.remove_body(&file).await;
        }
        let hops = changed.iter().map(|(_, hop)| hop.as_str());
        self.inner.signals.wake(hops);
        Ok(changed
            .into_iter()
            .map(|(recipient, _)| recipient)
            .collect())
    }

    /// Some recipients of a message, to be given up: those at these places of its envelope that are in a state for a next hop.
    ///
    /// # Errors
    /// The database cannot be read, or the message is damaged.
    pub async fn waiting_at(
        &self,
        seq: i64,
        hop: String,
        state: RecipientState,
        places: Vec<i64>,
    ) -> Result<Due, SpoolError> {
        self.read(move |db| {
            let mut due = due::load_due(db, seq, &hop, state, Tick::END)?;
            due.recipients.retain(|one| places.contains(&one.idx));
            Ok(due)
        })
        .await
    }

    /// Grows each time an operator changed something at another replica.
    #[must_use]
    pub fn steered(&self) -> u64 {
        self.inner.signals.steered()
    }
}

/// A recipient that was changed, with the next hop that is to be woken.
type Changed = (Selected, String);

/// What was changed, and the files of bodies that are to be removed.
fn change(
    db: &Db<'_>,
    step: Step,
    steered: &[Steered],
    operator: &str,
    times: Times,
) -> Result<(Vec<Changed>, Vec<String>), SpoolError> {
    let (mut changed, mut files) = (Vec::new(), Vec::new());
    for message in steered.chunk_by(|one, next| one.recipient.seq == next.recipient.seq) {
        let seq = message.first().map_or(0, |one| one.recipient.seq);
        lock(db, seq)?;
        let before = changed.len();
        for one in message {
            if let Some(hop) = apply(db, step, one, times)? {
                history::add(
                    db,
                    seq,
                    one.recipient.idx,
                    &entry(step, one, operator, times),
                )?;
                changed.push((one.recipient.clone(), hop));
            }
        }
        if step == Step::Delete && changed.len() > before {
            files.extend(close_if_done(db, seq, times.now.clock)?);
        }
    }
    if !changed.is_empty() {
        let count = "INSERT INTO meta (key, value) VALUES (?1, '1') ON CONFLICT (key) DO UPDATE \
                     SET value = CAST(CAST(meta.value AS BIGINT) + 1 AS TEXT)";
        db.execute(count, &[STEERED.into()])?;
    }
    Ok((changed, files))
}

/// The next hop of a recipient that was changed; nothing if it does not stand any more as it was selected.
fn apply(
    db: &Db<'_>,
    step: Step,
    one: &Steered,
    times: Times,
) -> Result<Option<String>, SpoolError> {
    let of = &one.recipient;
    let hop = one
        .to
        .as_ref()
        .map_or_else(|| of.hop.clone(), NextHop::to_string);
    let stands: [Value<'_>; 4] = [
        of.seq.into(),
        of.idx.into(),
        (of.state as i64).into(),
        (&of.hop).into(),
    ];
    let run = |sql, further: &[Value<'_>]| db.execute(sql, &[&stands, further].concat());
    let (due, since) = (times.now.tick.0.into(), millis(times.now.clock).into());
    let state = waiting(step, one) as i64;
    if let Some(NextHop::Hold(node)) = &one.to {
        nodes::know(db, node, times.now.clock)?;
    }
    let changed = match step {
        Step::Hold => run(
            "UPDATE recipients SET state = 7 WHERE seq = ?1 AND idx = ?2 AND state = ?3 AND hop = ?4",
            &[],
        ),
        Step::Release => run(
            "UPDATE recipients SET state = ?5, hop = ?6, due_ms = ?7, since_ms = ?8, settled_ms = NULL, host = '', \
             last_reply = CASE WHEN state = 5 THEN '' ELSE last_reply END \
             WHERE seq = ?1 AND idx = ?2 AND state = ?3 AND hop = ?4",
            &[state.into(), (&hop).into(), due, since],
        ),
        Step::Expedite => run(
            "UPDATE recipients SET due_ms = ?5, attempts_before = attempts \
             WHERE seq = ?1 AND idx = ?2 AND state = ?3 AND hop = ?4",
            &[due],
        ),
        Step::Reroute => run(
            "UPDATE recipients SET state = ?5, hop = ?6, due_ms = ?7, since_ms = ?8, settled_ms = NULL, host = '', \
             last_reply = CASE WHEN state = 5 THEN '' ELSE last_reply END, attempts_before = attempts \
             WHERE seq = ?1 AND idx = ?2 AND state = ?3 AND hop = ?4",
            &[state.into(), (&hop).into(), due, since],
        ),
        Step::Delete => run(
            "UPDATE recipients SET state = 4, last_reply = ?5, settled_ms = ?6, host = '' \
             WHERE seq = ?1 AND idx = ?2 AND state = ?3 AND hop = ?4",
            &[DELETED.into(), times.wall.0.into()],
        ),
    };
    Ok((changed? > 0).then_some(hop))
}

/// The state in which a recipient waits then. What is on hold stays so, wherever it goes.
fn waiting(step: Step, one: &Steered) -> RecipientState {
    match &one.to {
        Some(_) if step == Step::Reroute && one.recipient.state == RecipientState::OnHold => {
            RecipientState::OnHold
        }
        Some(hop) => RecipientState::waiting_for(hop),
        None => one.recipient.state,
    }
}

fn entry(step: Step, one: &Steered, operator: &str, times: Times) -> PastAttempt {
    let of = &one.recipient;
    let reply = match step {
        Step::Release if of.state == RecipientState::SetAside => of.last_reply.clone(),
        Step::Reroute if of.last_reply.is_empty() => format!("from {}", of.hop),
        Step::Reroute => format!("from {}: {}", of.hop, of.last_reply),
        Step::Delete => of.last_reply.clone(),
        Step::Hold | Step::Release | Step::Expedite => String::new(),
    };
    PastAttempt {
        at: times.wall,
        outcome: step.as_str().to_owned(),
        host: String::new(),
        reply,
        operator: operator.to_owned(),
    }
}
