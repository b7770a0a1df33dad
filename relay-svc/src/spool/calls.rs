//! Calls for cycles that are handed on to the keeper of the link, in a database that replicas share.
//!
//! A call is a row. Whoever asked waits for its answer, and withdraws it when he waits no longer; the keeper takes what has
//! no answer yet. That a cycle begins is committed together with the answer that it did, so a call starts one cycle at most,
//! whichever keeper takes it, and none once it was withdrawn.

use std::time::Duration;

use super::{
    Engine, RequestKey, Spool, SpoolError,
    db::{Db, Row},
    leases::now,
    store::millis,
};
use crate::{
    cycle::Trigger,
    names::{CycleId, LinkName},
};

/// A call that was handed on is waited for so long. It is longer than another replica needs to take over a link.
pub const CALL_WAIT: Duration = Duration::from_secs(25);

/// The identity of a call that was handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallId(uuid::Uuid);

/// A call for a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What the cycle is for.
    pub trigger: Trigger,
    /// The identity that the caller gave it.
    pub request: Option<RequestKey>,
    /// The span of the call, as a `traceparent`.
    pub caller: String,
}

/// What the keeper answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This cycle is the call's.
    Started(CycleId),
    /// This one is running.
    Busy(CycleId),
    /// The request id was used with other arguments.
    Conflict,
    /// It could not be kept, for this reason.
    Failed(String),
}

impl Answer {
    fn parts(&self) -> (&'static str, Option<&CycleId>, &str) {
        match self {
            Self::Started(cycle) => ("started", Some(cycle), ""),
            Self::Busy(cycle) => ("busy", Some(cycle), ""),
            Self::Conflict => ("conflict", None, ""),
            Self::Failed(reason) => ("failed", None, reason),
        }
    }

    fn read(row: &Row<'_>) -> Result<Option<Self>, SpoolError> {
        let Some(word) = row.get::<Option<String>>(0)? else {
            return Ok(None);
        };
        let cycle = row.get::<Option<Vec<u8>>>(1)?;
        let cycle = cycle.and_then(|id| CycleId::from_bytes(&id));
        match (word.as_str(), cycle) {
            ("started", Some(cycle)) => Ok(Some(Self::Started(cycle))),
            ("busy", Some(cycle)) => Ok(Some(Self::Busy(cycle))),
            ("conflict", _) => Ok(Some(Self::Conflict)),
            ("failed", _) => Ok(Some(Self::Failed(row.get(2)?))),
            _ => Err(SpoolError::Damaged(format!("the answer {word:?}"))),
        }
    }
}

const ANSWER: &str = "SELECT answer, cycle, reason FROM calls WHERE id = ?1";

impl Spool {
    /// Hands a call on to the keeper of a link.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn hand_on(&self, link: &LinkName, call: Call) -> Result<CallId, SpoolError> {
        let (id, link) = (CallId(uuid::Uuid::now_v7()), link.clone());
        self.write(move |db| {
            forget(db)?;
            hand_on(db, id, &link, &call)
        })
        .await?;
        self.inner.signals.called();
        Ok(id)
    }

    /// What it was answered, if it was.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn answer_to(&self, call: CallId) -> Result<Option<Answer>, SpoolError> {
        self.read(move |db| {
            Ok(db
                .row(ANSWER, &[call.key().into()], Answer::read)?
                .flatten())
        })
        .await
    }

    /// Takes a call back; what it was answered, if that came first.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn withdraw(&self, call: CallId) -> Result<Option<Answer>, SpoolError> {
        let locked = "SELECT answer, cycle, reason FROM calls WHERE id = ?1 FOR UPDATE";
        self.write(move |db| {
            let answer = db.row(locked, &[call.key().into()], Answer::read)?;
            let sql = "DELETE FROM calls WHERE id = ?1";
            db.execute(sql, &[call.key().into()])?;
            Ok(answer.flatten())
        })
        .await
    }

    /// Wakes while calls wait for a keeper, whichever it is.
    #[must_use]
    pub fn watch_calls(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.signals.calls().subscribe()
    }

    /// The calls for cycles of a link that have no answer and are still waited for, oldest first. None where this process is
    /// the only one.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn calls(&self, link: &LinkName) -> Result<Vec<(CallId, Call)>, SpoolError> {
        if !matches!(self.inner.engine, Engine::Shared(_)) {
            return Ok(Vec::new());
        }
        let sql = concat!(
            "SELECT id, trigger, request, digest, caller FROM calls WHERE link = ?1 AND answer IS NULL AND asked_ms > ",
            now!(),
            " - ?2 ORDER BY asked_ms, id LIMIT 100"
        );
        let link = link.clone();
        self.read(move |db| db.query(sql, &[link.as_str().into(), millis(CALL_WAIT).into()], call))
            .await
    }

    /// Answers a call that has no answer yet.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn answer_call(&self, call: CallId, answer: Answer) -> Result<(), SpoolError> {
        self.write(move |db| set_answer(db, call, &answer).map(drop))
            .await
    }
}

impl CallId {
    fn key(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Whether calls wait for a keeper.
pub(super) fn any(db: &Db<'_>) -> Result<bool, SpoolError> {
    let sql = concat!(
        "SELECT 1 FROM calls WHERE answer IS NULL AND asked_ms > ",
        now!(),
        " - ?1 LIMIT 1"
    );
    db.exists(sql, &[millis(CALL_WAIT).into()])
}

/// A cycle begins by this call, in the transaction of `db`: says whether it may. It may not once the call was withdrawn.
pub(super) fn starts(db: &Db<'_>, call: CallId, cycle: CycleId) -> Result<bool, SpoolError> {
    let answer = Answer::Started(cycle);
    if set_answer(db, call, &answer)? {
        return Ok(true);
    }
    let ours = db.may_be_done()
        && db
            .row(ANSWER, &[call.key().into()], Answer::read)?
            .flatten()
            == Some(answer);
    Ok(ours)
}

fn set_answer(db: &Db<'_>, call: CallId, answer: &Answer) -> Result<bool, SpoolError> {
    let sql =
        "UPDATE calls SET answer = ?2, cycle = ?3, reason = ?4 WHERE id = ?1 AND answer IS NULL";
    let (word, cycle, reason) = answer.parts();
    let row = [
        call.key().into(),
        word.into(),
        cycle.map(CycleId::as_bytes).into(),
        reason.into(),
    ];
    Ok(db.execute(sql, &row)? > 0)
}

fn hand_on(db: &Db<'_>, id: CallId, link: &LinkName, call: &Call) -> Result<(), SpoolError> {
    let sql = concat!(
        "INSERT INTO calls (id, link, trigger, request, digest, caller, asked_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ",
        now!(),
        ") ON CONFLICT (id) DO NOTHING"
    );
    let parts = call.request.as_ref().map(RequestKey::parts);
    let row = [
        id.key().into(),
        link.as_str().into(),
        call.trigger.as_str().into(),
        parts.map(|(request, _)| request).into(),
        parts.map(|(_, digest)| digest).into(),
        (&call.caller).into(),
    ];
    db.execute(sql, &row).map(drop)
}

/// Those that nobody waits for any more: whoever asked died.
fn forget(db: &Db<'_>) -> Result<(), SpoolError> {
    let sql = concat!("DELETE FROM calls WHERE asked_ms < ", now!(), " - ?1");
    db.execute(sql, &[(3 * millis(CALL_WAIT)).into()]).map(drop)
}

fn call(row: &Row<'_>) -> Result<(CallId, Call), SpoolError> {
    let damaged = |what: &str| SpoolError::Damaged(format!("{what} of a call"));
    let id = uuid::Uuid::from_slice(&row.get::<Vec<u8>>(0)?).map_err(|_| damaged("the id"))?;
    let trigger = match row.get::<String>(1)?.as_str() {
        "api" => Trigger::Api,
        "probe" => Trigger::Probe,
        _ => return Err(damaged("the trigger")),
    };
    let request = row.get::<Option<Vec<u8>>>(2)?;
    let digest = row.get::<Option<Vec<u8>>>(3)?;
    let request = request
        .zip(digest)
        .map(|(id, digest)| RequestKey::read(&id, digest).ok_or_else(|| damaged("the request id")));
    let call = Call {
        trigger,
        request: request.transpose()?,
        caller: row.get(4)?,
    };
    Ok((CallId(id), call))
}
