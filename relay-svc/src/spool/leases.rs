//! Leases: which replica works for what, such as a link or a host.
//!
//! On PostgreSQL a lease is a row: its owner, a token that grows with each owner, and when it expires by the server's clock.
//! It is claimed when nobody has it or it has expired, renewed at a third of its time, and given back. A handle of the spool
//! that stands under a lease ([`Spool::under`]) checks it in the transaction of each change, and locks its row there, so that
//! it changes hands before that change or after it; and it reads nothing any more once the lease has expired by its own
//! clock. So a process that was stopped and goes on records nothing and begins nothing.
//!
//! A lease can be asked back ([`Spool::claim_from`]): its owner hears of it at the next renewal, ends what is under way, still
//! under the lease, and nobody but who asked gets it then.
//!
//! On SQLite the lock of the folder is the lease for everything: a claim succeeds at once and costs nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Engine, Spool, SpoolError, db::Db, store::millis};

/// A lease that is not renewed ends after so long.
const TIME: Duration = Duration::from_secs(15);
/// A lease that another has is asked for again so often.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// A lease that is wanted back is asked for again so often.
const ASK_BACK: Duration = Duration::from_millis(500);
/// And it is kept for who wants it for so long after he last asked.
const WANTED: Duration = Duration::from_secs(10);
/// While the server does not answer, it is renewed again after so long.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// The server's clock, in milliseconds.
macro_rules! now {
    () => {
        "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
    };
}
pub(super) use now;

/// A lease that this process has. Dropped, it is given back.
pub struct Lease {
    held: Option<Arc<Held>>,
    /// Cancelled when the lease was lost, or asked back.
    ends: CancellationToken,
    done: CancellationToken,
    renewal: Option<JoinHandle<()>>,
}

/// What the renewal and the handles under a lease know of it.
pub(super) struct Held {
    name: String,
    owner: String,
    token: i64,
    until: Mutex<Instant>,
    lost: CancellationToken,
    /// Also cancelled when it was asked back: it is good until it is given up then.
    ends: CancellationToken,
}

impl Lease {
    /// Cancelled once the lease is lost, or asked back: what is under way is brought to its end, and the lease dropped. Never
    /// on SQLite.
    #[must_use]
    pub fn ends(&self) -> &CancellationToken {
        &self.ends
    }

    /// Cancelled once the lease is lost: nothing can be recorded under it any more. Never on SQLite.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        self.held.as_ref().map_or(&self.ends, |held| &held.lost)
    }

    /// Gives it back; others, and we, can claim it at once then.
    pub async fn give_back(mut self) {
        self.done.cancel();
        if let Some(renewal) = self.renewal.take() {
            let _ = renewal.await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.done.cancel();
    }
}

impl Held {
    /// Whether it has not expired by our clock, which was read before the server's.
    fn is_valid(&self) -> bool {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) > Instant::now()
            && !self.lost.is_cancelled()
    }

    /// For a look-up, which needs no more than our own clock.
    pub(super) fn look(&self) -> Result<(), SpoolError> {
        if self.is_valid() {
            return Ok(());
        }
        self.lose();
        Err(SpoolError::LeaseLost)
    }

    /// In the transaction of a change: the lease does not change hands before its end. A renewal does not wait for it.
    pub(super) fn check(&self, db: &Db<'_>) -> Result<(), SpoolError> {
        let sql = concat!(
            "SELECT 1 FROM leases WHERE name = ?1 AND owner = ?2 AND token = ?3 AND expires_ms > ",
            now!(),
            " FOR KEY SHARE"
        );
        if db.exists(sql, &self.key())? {
            return Ok(());
        }
        self.lose();
        Err(SpoolError::LeaseLost)
    }

    fn lose(&self) {
        self.lost.cancel();
        self.ends.cancel();
    }

    /// By which its rows are known.
    pub(super) fn name_and_token(&self) -> (&str, i64) {
        (&self.name, self.token)
    }

    fn key(&self) -> [super::db::Value<'_>; 3] {
        [(&self.name).into(), (&self.owner).into(), self.token.into()]
    }

    /// Renews it until it is lost or `done`; gives it back then.
    async fn keep(self: Arc<Self>, spool: Spool, done: CancellationToken) {
        let mut pause = TIME / 3;
        loop {
            tokio::select! {
                () = done.cancelled() => break,
                () = self.lost.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let asked = Instant::now();
            pause = match spool.extend(Arc::clone(&self), TIME).await {
                Ok(Some(wanted)) => {
                    if wanted {
                        self.ends.cancel();
                    }
                    *self.until.lock().unwrap_or_else(PoisonError::into_inner) = asked + TIME;
                    TIME / 3
                }
                Ok(None) => {
                    tracing::warn!(lease = self.name, "another replica has taken over");
                    return self.lose();
                }
                Err(_) if self.is_valid() => RENEW_AGAIN,
                Err(error) => {
                    tracing::warn!(lease = self.name, %error, "the lease could not be renewed in time");
                    return self.lose();
                }
            };
        }
        self.lose();
        // What is not given back expires.
        let _ = spool.extend(self, Duration::ZERO).await;
    }
}

impl Spool {
    /// Claims a lease, if no other replica has it.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn claim(&self, name: &str) -> Result<Option<Lease>, SpoolError> {
        self.claim_as(name, "").await
    }

    /// Claims a lease from whoever has it, as soon as he has brought what he does to its end; `None` if cancelled before.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn claim_from(
        &self,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<Option<Lease>, SpoolError> {
        // Not the owner: also our own workers are kept from it.
        let wanted_by = uuid::Uuid::new_v4().to_string();
        loop {
            if let Some(lease) = self.claim_as(name, &wanted_by).await? {
                return Ok(Some(lease));
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                () = tokio::time::sleep(ASK_BACK) => {}
            }
        }
    }

    async fn claim_as(&self, name: &str, wanted_by: &str) -> Result<Option<Lease>, SpoolError> {
        let (ends, done) = (CancellationToken::new(), CancellationToken::new());
        let Engine::Shared(shared) = &self.inner.engine else {
            return Ok(Some(Lease {
                held: None,
                ends,
                done,
                renewal: None,
            }));
        };
        let (asked, owner) = (Instant::now(), shared.owner.clone());
        let (named, wanted_by) = (name.to_owned(), wanted_by.to_owned());
        let spool = self.unbound();
        let claimed = spool.write(move |db| claim(db, &named, &owner, &wanted_by));
        let Some(token) = claimed.await? else {
            return Ok(None);
        };
        let held = Arc::new(Held {
            name: name.to_owned(),
            owner: shared.owner.clone(),
            token,
            until: Mutex::new(asked + TIME),
            lost: CancellationToken::new(),
            ends: ends.clone(),
        });
        let renewal = Arc::clone(&held).keep(spool, done.clone());
        let renewal = shared.renewals.spawn(renewal);
        Ok(Some(Lease {
            held: Some(held),
            ends,
            done,
            renewal: Some(renewal),
        }))
    }

    /// Claims a lease as soon as no other replica has it; `None` if cancelled before.
    pub async fn claimed(&self, name: &str, cancel: &CancellationToken) -> Option<Lease> {
        while !cancel.is_cancelled() {
            match self.claim(name).await {
                Ok(Some(lease)) => return Some(lease),
                Ok(None) => {}
                Err(error) => tracing::error!(lease = name, %error, "the lease cannot be claimed"),
            }
            tokio::select! {
                () = cancel.cancelled() => return None,
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        }
        None
    }

    /// The spool under a lease: once that is lost, nothing is read and nothing recorded through it.
    #[must_use]
    pub fn under(&self, lease: &Lease) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            lease: lease.held.clone(),
        }
    }

    /// Whether its lease has ended, by our own clock. Without a lease there is none that could.
    #[must_use]
    pub fn has_lapsed(&self) -> bool {
        self.lease.as_ref().is_some_and(|held| held.look().is_err())
    }

    /// Returns once its lease has ended, by our own clock or by what the database said; without a lease never.
    pub async fn lapsed(&self) {
        let Some(held) = &self.lease else {
            return std::future::pending().await;
        };
        while !self.has_lapsed() {
            let until = *held.until.lock().unwrap_or_else(PoisonError::into_inner);
            tokio::select! {
                () = held.lost.cancelled() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// The spool under no lease.
    pub(super) fn unbound(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            lease: None,
        }
    }

    /// If it was still ours: whether somebody wants it back.
    async fn extend(&self, held: Arc<Held>, time: Duration) -> Result<Option<bool>, SpoolError> {
        let sql = concat!(
            "UPDATE leases SET expires_ms = ",
            now!(),
            " + ?4 WHERE name = ?1 AND owner = ?2 AND token = ?3 AND expires_ms > ",
            now!()
        );
        let wanted = concat!(
            "SELECT 1 FROM leases WHERE name = ?1 AND wanted_by <> '' AND wanted_ms > ",
            now!(),
            " - ?2"
        );
        self.write(move |db| {
            let [name, owner, token] = held.key();
            let time = millis(time).into();
            if db.execute(sql, &[name, owner, token, time])? == 0 {
                return Ok(None);
            }
            db.exists(wanted, &[name, millis(WANTED).into()]).map(Some)
        })
        .await
    }
}

/// The token, if it was free, and nobody else wants it. A change of its owner that is being committed at this moment keeps
/// it. Whoever names himself in `wanted_by` wants it from now on.
fn claim(db: &Db<'_>, name: &str, owner: &str, wanted_by: &str) -> Result<Option<i64>, SpoolError> {
    let sql = "INSERT INTO leases (name, owner, token, expires_ms) VALUES (?1, '', 0, 0) ON CONFLICT (name) DO NOTHING";
    db.execute(sql, &[name.into()])?;
    let free = concat!(
        "SELECT token FROM leases WHERE name = ?1 AND expires_ms <= ",
        now!(),
        " AND (wanted_by IN ('', ?2) OR wanted_ms <= ",
        now!(),
        " - ?3) FOR UPDATE SKIP LOCKED"
    );
    let wanted = millis(WANTED).into();
    let found = db.row(free, &[name.into(), wanted_by.into(), wanted], |row| {
        row.get::<i64>(0)
    })?;
    let Some(token) = found else {
        let want = concat!(
            "UPDATE leases SET wanted_by = ?2, wanted_ms = ",
            now!(),
            " WHERE name = ?1 AND (wanted_by IN ('', ?2) OR wanted_ms <= ",
            now!(),
            " - ?3)"
        );
        if !wanted_by.is_empty() {
            db.execute(want, &[name.into(), wanted_by.into(), wanted])?;
        }
        return Ok(None);
    };
    let take = concat!(
        "UPDATE leases SET owner = ?2, token = ?3, wanted_by = '', expires_ms = ",
        now!(),
        " + ?4 WHERE name = ?1"
    );
    let (token, time) = (token + 1, millis(TIME));
    db.execute(
        take,
        &[name.into(), owner.into(), token.into(), time.into()],
    )?;
    Ok(Some(token))
}
