//! The connections to PostgreSQL.
//!
//! A few, each used by one change or look-up at a time, on a thread that may block. A change is a transaction
//! (READ COMMITTED), run again when it met another one: after a serialization failure, a deadlock, or a row that another
//! transaction made in the meantime and that the next run finds. When a connection breaks it is run again on a new one; when
//! it broke while committing, the change may have been done, and the next run is told so ([`Session::may_be_done`]).
//!
//! Each wait ends: a connect, a statement, a lock. What cannot be done for want of a server is [`SpoolError::Unavailable`].

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};

use super::{
    Db,
    postgres_session::{Session, failed, in_time, translate},
};
use crate::spool::SpoolError;

/// So many changes and look-ups run at once.
const CONNECTIONS: usize = 12;
/// A connect may take so long, with TLS and authentication.
const CONNECT: Duration = Duration::from_secs(5);
/// What the server is told of it, and of whoever holds locks and says nothing, such as a process that was stopped.
const BOUNDS: [(&str, &str); 3] = [
    ("statement_timeout", "30s"),
    ("lock_timeout", "20s"),
    ("idle_in_transaction_session_timeout", "20s"),
];
/// More than there are statements.
const STATEMENTS: usize = 256;
/// A change that met others is run again so often.
const MEETINGS: u32 = 20;
/// The pauses before a change is run again whose connection broke.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];

/// The connections to a server.
pub(in crate::spool) struct Pool {
    options: PgConnectOptions,
    handle: Handle,
    kept: Mutex<Vec<PgConnection>>,
    turns: Arc<Semaphore>,
    /// As PostgreSQL wants them, by the port's text and the column to be given back.
    statements: RwLock<HashMap<(&'static str, &'static str), Arc<str>>>,
}

/// Whether a look-up or a change is to be run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    LookUp,
    Change,
}

/// How a run ended that is not over.
enum Broke {
    /// It met another change.
    Met(SpoolError),
    /// The connection broke; maybe after the commit.
    Lost { error: SpoolError, in_commit: bool },
}

impl Pool {
    /// Connections to be made when they are needed, in this runtime.
    pub(in crate::spool) fn new(options: PgConnectOptions) -> Arc<Self> {
        let options = options
            .statement_cache_capacity(STATEMENTS)
            .application_name("linkmail")
            .options(BOUNDS)
            .disable_statement_logging();
        Arc::new(Self {
            options,
            handle: Handle::current(),
            kept: Mutex::new(Vec::new()),
            turns: Arc::new(Semaphore::new(CONNECTIONS)),
            statements: RwLock::default(),
        })
    }

    /// Runs a change in a transaction; after `Ok` it is committed.
    pub(in crate::spool) async fn change<T, F>(self: &Arc<Self>, change: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: Fn(&Db<'_>) -> Result<T, SpoolError> + Send + 'static,
    {
        self.run(Kind::Change, change).await
    }

    /// Runs a look-up, each of its statements by itself.
    pub(in crate::spool) async fn look_up<T, F>(
        self: &Arc<Self>,
        look_up: F,
    ) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: Fn(&Db<'_>) -> Result<T, SpoolError> + Send + 'static,
    {
        self.run(Kind::LookUp, look_up).await
    }

    async fn run<T, F>(self: &Arc<Self>, kind: Kind, work: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: Fn(&Db<'_>) -> Result<T, SpoolError> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| SpoolError::Closed)?;
        let pool = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            pool.until_done(kind, &work)
        });
        task.await.map_err(|_| SpoolError::Closed)?
    }

    fn until_done<T>(
        &self,
        kind: Kind,
        work: &impl Fn(&Db<'_>) -> Result<T, SpoolError>,
    ) -> Result<T, SpoolError> {
        let (mut again, mut met, mut pauses) = (false, 0, PAUSES.into_iter());
        loop {
            let pause = match self.once(kind, work, again) {
                Ok(result) => return result,
                Err(Broke::Met(error)) if met >= MEETINGS => return Err(error),
                Err(Broke::Met(_)) => {
                    met += 1;
                    Duration::from_millis(u64::from(met))
                }
                Err(Broke::Lost { error, in_commit }) => {
                    again |= in_commit;
                    // They were made to the server as it was.
                    self.kept().clear();
                    pauses.next().ok_or(error)?
                }
            };
            std::thread::sleep(pause);
        }
    }

    /// One run. What the work itself says is its result; only what another run may mend is not.
    fn once<T>(
        &self,
        kind: Kind,
        work: &impl Fn(&Db<'_>) -> Result<T, SpoolError>,
        again: bool,
    ) -> Result<Result<T, SpoolError>, Broke> {
        let before = |error| Broke::of(error, false);
        let kept = self.kept().pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().map_err(before)?,
        };
        let session = Session {
            pool: self,
            connection: RefCell::new(&mut connection),
            again,
        };
        let db = Db::Postgres(&session);
        if kind == Kind::Change {
            session
                .plain("BEGIN ISOLATION LEVEL READ COMMITTED")
                .map_err(before)?;
        }
        let result = work(&db);
        let broke = match &result {
            Err(SpoolError::Unavailable(_)) => true,
            Err(SpoolError::Database(error)) => error.met_another(),
            _ => false,
        };
        if kind == Kind::Change {
            match &result {
                Ok(_) => session
                    .plain("COMMIT")
                    .map_err(|error| Broke::of(error, true))?,
                // A connection that cannot be rolled back is dropped, and its transaction with it.
                Err(_) if session.plain("ROLLBACK").is_err() => return broken(result, broke),
                Err(_) => {}
            }
        }
        if !matches!(result, Err(SpoolError::Unavailable(_))) {
            self.kept().push(connection);
        }
        broken(result, broke)
    }

    /// Begins nothing any more; returns when nothing is under way.
    pub(in crate::spool) async fn close(&self) {
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        let turns = self.turns.acquire_many(all).await;
        self.turns.close();
        drop(turns);
    }

    /// Where its work runs.
    pub(in crate::spool) fn runtime(&self) -> &Handle {
        &self.handle
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<PgConnection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> Result<PgConnection, SpoolError> {
        let connected = self
            .handle
            .block_on(timeout(CONNECT, self.options.connect()));
        let mut connection = in_time(connected).map_err(failed)?;
        let session = Session {
            pool: self,
            connection: RefCell::new(&mut connection),
            again: false,
        };
        // A commit that is not synced is none, whatever the server's own setting is.
        let sql = "SELECT set_config('synchronous_commit', 'on', false) \
                   WHERE current_setting('synchronous_commit') = 'off'";
        session.fetch(sql, "", &[])?;
        Ok(connection)
    }

    pub(super) fn translated(&self, sql: &'static str, number: &'static str) -> Arc<str> {
        let key = (sql, number);
        let known = self.statements.read();
        if let Some(known) = known.unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(known);
        }
        let mut text = translate(sql);
        if !number.is_empty() {
            text.push_str(" RETURNING ");
            text.push_str(number);
        }
        let text: Arc<str> = text.into();
        let statements = self.statements.write();
        statements
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, Arc::clone(&text));
        text
    }
}

fn broken<T>(result: Result<T, SpoolError>, broke: bool) -> Result<Result<T, SpoolError>, Broke> {
    match result {
        Err(error) if broke => Err(Broke::of(error, false)),
        result => Ok(result),
    }
}

impl Broke {
    fn of(error: SpoolError, in_commit: bool) -> Self {
        match error {
            SpoolError::Database(ref database) if database.met_another() => Self::Met(error),
            error => Self::Lost { error, in_commit },
        }
    }
}
