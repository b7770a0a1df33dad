//! Where a test has its spool: on each engine in turn. The server is named by LINKMAIL_TEST_POSTGRES, as `postgres://…` of
//! an administrator; each test makes a database of its own there.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection as _, postgres::PgConnectOptions};
use tempfile::TempDir;

use super::super::{Spool, SpoolError, db::Value, embedded};

/// Each of these tests on each engine.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::spool::tests::place::Place::folder()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                if let Some(place) = $crate::spool::tests::place::Place::database().await {
                    super::$test(place).await;
                }
            })*
        }
    };
}
pub(in crate::spool) use on_both;

pub(in crate::spool) enum Place {
    Folder(TempDir),
    Database(Box<PgConnectOptions>),
}

impl Place {
    pub(in crate::spool) fn folder() -> Self {
        Self::Folder(tempfile::tempdir().unwrap())
    }

    /// `None` where no server was started for the tests.
    pub(in crate::spool) async fn database() -> Option<Self> {
        let Ok(server) = std::env::var("LINKMAIL_TEST_POSTGRES") else {
            let required = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!required, "LINKMAIL_TEST_POSTGRES names no server");
            eprintln!("not run on PostgreSQL: LINKMAIL_TEST_POSTGRES names no server");
            return None;
        };
        let options: PgConnectOptions = server.parse().unwrap();
        let name = format!("t{}", uuid::Uuid::new_v4().as_simple());
        let mut administrator = options.connect().await.unwrap();
        let sql = format!("CREATE DATABASE {name}");
        let made = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut administrator);
        made.await.unwrap();
        administrator.close().await.unwrap();
        Some(Self::Database(Box::new(options.database(&name))))
    }

    /// Opens the spool; once the one before is gone, where there can be only one.
    pub(in crate::spool) async fn open(&self) -> Spool {
        match self {
            Self::Folder(folder) => {
                embedded::tests::unlocked(folder.path()).await;
                Spool::open(folder.path()).unwrap()
            }
            Self::Database(options) => Spool::connect(*options.clone()).await.unwrap(),
        }
    }

    /// Waits until so many large bodies lie there.
    pub(in crate::spool) async fn has_bodies(&self, spool: &Spool, expected: usize) {
        let count = async || match self {
            Self::Folder(folder) => {
                let bodies = std::fs::read_dir(folder.path().join("bodies"));
                bodies.unwrap().count()
            }
            Self::Database(_) => {
                let sql = "SELECT count(*) FROM large_bodies";
                let count = spool.read(move |db| db.value::<i64>(sql, &[])).await;
                usize::try_from(count.unwrap()).unwrap()
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(5), async {
            while count().await != expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let found = waited.await;
        assert!(
            found.is_ok(),
            "{} large bodies, not {expected}",
            count().await
        );
    }
}

/// Changes rows behind the back of the spool; says how many.
pub(in crate::spool) async fn change(spool: &Spool, sql: &'static str) -> u64 {
    change_with(spool, sql, |sql, db| db.execute(sql, &[])).await
}

/// The same with octets.
pub(in crate::spool) async fn change_octets(
    spool: &Spool,
    sql: &'static str,
    octets: &'static [u8],
) -> u64 {
    change_with(spool, sql, |sql, db| {
        db.execute(sql, &[Value::Blob(octets)])
    })
    .await
}

async fn change_with(
    spool: &Spool,
    sql: &'static str,
    run: impl Fn(&'static str, &super::super::Db<'_>) -> Result<u64, SpoolError> + Send + 'static,
) -> u64 {
    spool.write(move |db| run(sql, db)).await.unwrap()
}
