//! The database that a spool is moved into: one connection, on which each change first looks whether the move is still ours.
//!
//! Batches are not waited for on the server's disk; the last change of the move is, and with it all before.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection as _, Row as _,
    postgres::{PgConnectOptions, PgConnection, PgRow},
};
use tokio::time::timeout;

use super::{
    MOVING, MoveError,
    catalog::{ServerColumn, Table},
};

/// A connect may take so long.
const CONNECT: Duration = Duration::from_secs(10);
/// And a statement, or a batch.
const STATEMENT: Duration = Duration::from_secs(60);
/// A look at everything, such as a count of a million rows or a hash of as many bodies.
const LOOK: Duration = Duration::from_secs(3600);

/// Whether a move can be begun.
pub(super) enum Begun {
    /// The tables are empty, and marked as ours.
    Empty,
    /// This one has rows.
    Filled(String),
    /// Relays run on it.
    Used,
}

pub(super) struct Destination {
    connection: PgConnection,
    to: String,
    token: String,
}

impl Destination {
    pub(super) async fn connect(
        options: &PgConnectOptions,
        to: &str,
        token: String,
    ) -> Result<Self, MoveError> {
        let options = options.clone().application_name("linkmail move");
        let connected = timeout(CONNECT, PgConnection::connect_with(&options)).await;
        let connection = connected
            .map_err(|_| MoveError::TimedOut(to.to_owned()))?
            .map_err(|source| server(to, source))?;
        Ok(Self {
            connection,
            to: to.to_owned(),
            token,
        })
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn name(&self) -> &str {
        &self.to
    }

    /// Waits for no more than `limit`.
    pub(super) async fn within<T>(
        &mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, MoveError> {
        let done = timeout(limit, work(&mut self.connection)).await;
        done.map_err(|_| MoveError::TimedOut(self.to.clone()))?
            .map_err(|source| server(&self.to, source))
    }

    pub(super) async fn plain(&mut self, sql: String) -> Result<(), MoveError> {
        let run = async |connection: &mut PgConnection| {
            let sql = sqlx::raw_sql(AssertSqlSafe(sql));
            sql.execute(connection).await.map(drop)
        };
        self.within(STATEMENT, run).await
    }

    /// The rows of a look at everything.
    pub(super) async fn look(
        &mut self,
        sql: String,
        after: Option<i64>,
    ) -> Result<Vec<PgRow>, MoveError> {
        let run = async |connection: &mut PgConnection| {
            let mut query = sqlx::query(AssertSqlSafe(sql));
            if let Some(after) = after {
                query = query.bind(after);
            }
            query.fetch_all(connection).await
        };
        self.within(LOOK, run).await
    }

    /// The one number of an answer.
    pub(super) async fn number(&mut self, sql: String) -> Result<i64, MoveError> {
        let rows = self.look(sql, None).await?;
        let number = rows.first().map(|row| row.try_get(0));
        number
            .unwrap_or(Err(sqlx::Error::RowNotFound))
            .map_err(|source| server(&self.to, source))
    }

    /// The tables of the spool as the server knows them.
    pub(super) async fn columns(&mut self) -> Result<Vec<ServerColumn>, MoveError> {
        let sql = "SELECT table_name::text, column_name::text, data_type::text, is_identity::text = 'YES' \
                   FROM information_schema.columns WHERE table_schema = current_schema()";
        let rows = self.look(sql.to_owned(), None).await?;
        let read = |row: &PgRow| {
            Ok(ServerColumn {
                table: row.try_get(0)?,
                column: row.try_get(1)?,
                kind: row.try_get(2)?,
                is_numbered: row.try_get::<Option<bool>, _>(3)?.unwrap_or(false),
            })
        };
        let read: Result<_, sqlx::Error> = rows.iter().map(read).collect();
        read.map_err(|source| server(&self.to, source))
    }

    /// Marks the database as half a spool, once it is sure that it is none: relays that start look under the same lock.
    pub(super) async fn begin(&mut self, tables: &[Table]) -> Result<Begun, MoveError> {
        self.plain("BEGIN; LOCK TABLE linkmail_schema IN ACCESS EXCLUSIVE MODE".into())
            .await?;
        let begun = self.begin_locked(tables).await;
        let is_empty = matches!(begun, Ok(Begun::Empty));
        let end = if is_empty { "COMMIT" } else { "ROLLBACK" };
        self.plain(end.into()).await?;
        begun
    }

    async fn begin_locked(&mut self, tables: &[Table]) -> Result<Begun, MoveError> {
        let used = "SELECT count(*) FROM leases \
                    WHERE expires_ms > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
        if self.number(used.into()).await? > 0 {
            return Ok(Begun::Used);
        }
        let interrupted = format!("SELECT count(*) FROM meta WHERE key = '{MOVING}'");
        let was_interrupted = self.number(interrupted).await? > 0;
        let own = tables.iter().map(Table::quoted);
        let all = own.chain(["large_bodies".into(), "body_chunks".into()]);
        let all: Vec<_> = all.filter(|name| name != "\"meta\"").collect();
        if was_interrupted {
            self.plain(format!("TRUNCATE {} CASCADE", all.join(", ")))
                .await?;
        }
        for name in &all {
            let filled = format!("SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT 1) AS one");
            if self.number(filled).await? > 0 {
                return Ok(Begun::Filled(name.replace('"', "")));
            }
        }
        let value = format!("copying {}", self.token);
        let sql = format!(
            "INSERT INTO meta (key, value) VALUES ('{MOVING}', '{value}') \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        );
        self.plain(sql).await?;
        Ok(Begun::Empty)
    }

    /// Begins a change that is part of the move, if that is still ours.
    pub(super) async fn batch(&mut self) -> Result<(), MoveError> {
        let begin = "BEGIN; SET LOCAL synchronous_commit = off";
        self.plain(begin.into()).await?;
        let value = format!("copying {}", self.token);
        let sql =
            format!("SELECT 1 FROM meta WHERE key = '{MOVING}' AND value = '{value}' FOR SHARE");
        if self.look(sql, None).await?.is_empty() {
            self.plain("ROLLBACK".into()).await?;
            return Err(MoveError::Overtaken(self.to.clone()));
        }
        Ok(())
    }

    /// Ends such a change.
    pub(super) async fn commit(&mut self) -> Result<(), MoveError> {
        self.plain("COMMIT".into()).await
    }

    /// Copies rows, in the binary format of COPY.
    pub(super) async fn copy_in(&mut self, sql: &str, rows: Vec<u8>) -> Result<(), MoveError> {
        let run = async |connection: &mut PgConnection| {
            let mut copy = connection.copy_in_raw(sql).await?;
            copy.send(rows).await?;
            copy.finish().await.map(drop)
        };
        self.within(STATEMENT, run).await
    }

    /// Everything is there: the move can be ended, and not be begun anew by mistake.
    pub(super) async fn copied(&mut self) -> Result<(), MoveError> {
        let (old, new) = (
            format!("copying {}", self.token),
            format!("copied {}", self.token),
        );
        let sql =
            format!("UPDATE meta SET value = '{new}' WHERE key = '{MOVING}' AND value = '{old}'");
        match self.change_synced(sql).await? {
            true => Ok(()),
            false => Err(MoveError::Overtaken(self.to.clone())),
        }
    }

    /// Lets relays start on it; `false` if there was nothing to end.
    pub(super) async fn end(&mut self) -> Result<bool, MoveError> {
        let there = "SELECT count(*) FROM information_schema.tables \
                     WHERE table_schema = current_schema() AND table_name = 'meta'";
        if self.number(there.into()).await? == 0 {
            return Ok(false);
        }
        let value = format!("copied {}", self.token);
        let sql = format!("DELETE FROM meta WHERE key = '{MOVING}' AND value = '{value}'");
        self.change_synced(sql).await
    }

    /// Whether it changed a row. What was committed before is synced with it.
    async fn change_synced(&mut self, sql: String) -> Result<bool, MoveError> {
        self.plain("SET synchronous_commit = on".into()).await?;
        let run = async |connection: &mut PgConnection| {
            let done = sqlx::query(AssertSqlSafe(sql)).execute(connection).await?;
            Ok(done.rows_affected() > 0)
        };
        self.within(STATEMENT, run).await
    }
}

pub(super) fn server(to: &str, source: sqlx::Error) -> MoveError {
    MoveError::Server {
        to: to.to_owned(),
        source,
    }
}
