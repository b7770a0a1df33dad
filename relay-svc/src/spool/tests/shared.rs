//! What only a database that replicas share needs: changes that meet, leases, a server that goes away.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use sqlx::{ConnectOptions, Connection as _};

use super::{
    super::{Engine, cycles, db::Db, store},
    *,
};

/// Two replicas on one database; `None` where no server was started for the tests.
async fn replicas() -> Option<[Spool; 2]> {
    let place = Place::database().await?;
    Some([place.open().await, place.open().await])
}

/// Ends all connections of a replica, as a server that is restarted does.
async fn break_connections(place: &Place) {
    let Place::Database(options) = place else {
        panic!()
    };
    let mut administrator = options
        .clone()
        .database("postgres")
        .connect()
        .await
        .unwrap();
    let name = options.get_database().unwrap();
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    let ended = sqlx::query(sql).bind(name).execute(&mut administrator);
    ended.await.unwrap();
    administrator.close().await.unwrap();
}

#[tokio::test]
async fn a_call_that_two_replicas_get_at_once_makes_one_message() {
    let Some(replicas) = replicas().await else {
        return;
    };
    for _ in 0..20 {
        let id = RequestId::parse(&uuid::Uuid::new_v4().to_string()).unwrap();
        let accept = async |spool: &Spool| {
            let new = NewMessage {
                request: Some(RequestKey::new(id, [b"x".as_slice()])),
                ..message(&[("b@else.example", "link:isp")])
            };
            accept(spool, b"x\r\n", new).await.id
        };
        let (one, other) = tokio::join!(accept(&replicas[0]), accept(&replicas[1]));
        assert_eq!(one, other);
    }
    assert_eq!(replicas[0].queued("link:isp".into()).await.unwrap(), 20);
}

/// Two changes: the first is held before its commit until the other one waits for it, or is done.
async fn meet<A, B>(spool: &Spool, first: A, other: B)
where
    A: Fn(&Db<'_>) -> Result<(), SpoolError> + Send + 'static,
    B: Fn(&Db<'_>) -> Result<(), SpoolError> + Send + 'static,
{
    let (begun, begins) = tokio::sync::oneshot::channel();
    let begun = std::sync::Mutex::new(Some(begun));
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    let held = spool.write(move |db| {
        first(db)?;
        begun.lock().unwrap().take().unwrap().send(()).unwrap();
        let waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while !is_done.load(Ordering::SeqCst) && !db.exists(waits, &[])? {
            // What was seen of the others is kept for the transaction otherwise.
            db.exists("SELECT pg_stat_clear_snapshot()", &[])?;
        }
        Ok(())
    });
    let meets = async {
        begins.await.unwrap();
        spool.write(other).await.unwrap();
        done.store(true, Ordering::SeqCst);
    };
    let (held, ()) = tokio::join!(held, meets);
    held.unwrap();
}

#[tokio::test]
async fn outcomes_that_meet_close_the_message_once() {
    let Some([spool, _]) = replicas().await else {
        return;
    };
    let to = [
        ("b@else.example", "link:isp"),
        ("c@else.example", "link:isp"),
    ];
    accept(&spool, b"x\r\n", message(&to)).await;
    let settle = |idx| {
        move |db: &Db<'_>| {
            let now = age::Now {
                clock: Duration::ZERO,
                tick: Tick(0),
            };
            store::settle(db, 1, &[delivered(idx)], None, now).map(drop)
        }
    };
    meet(&spool, settle(0), settle(1)).await;
    let sql = "SELECT count(*) FROM messages WHERE done_ms IS NULL";
    let open = spool.read(move |db| db.value::<i64>(sql, &[])).await;
    assert_eq!(
        open.unwrap(),
        0,
        "the last of two outcomes closes a message"
    );
}

#[tokio::test]
async fn a_reader_of_the_journal_misses_no_revision_that_is_committed_late() {
    let Some([spool, _]) = replicas().await else {
        return;
    };
    let newest = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = |event: &'static str| {
        let newest = Arc::clone(&newest);
        let record = Record::begin(LinkName::parse("isp").unwrap(), Trigger::Api, NOW);
        move |db: &Db<'_>| {
            let revision = cycles::note(db, &record, event, NOW)?;
            newest.lock().unwrap().push(revision);
            Ok(())
        }
    };
    let (first, second) = (note("first"), note("second"));
    let second = move |db: &Db<'_>| {
        second(db)?;
        // What is committed by now is all up to its own revision.
        let sql = "SELECT count(*) FROM journal";
        assert_eq!(db.value::<i64>(sql, &[])?, 2);
        Ok(())
    };
    meet(&spool, first, second).await;
    assert_eq!(spool.newest_revision().await.unwrap(), 2);
    assert_eq!(*newest.lock().unwrap(), [1, 2]);
}

#[tokio::test]
async fn a_lease_has_one_owner_and_what_another_one_records_is_refused() {
    let Some(replicas) = replicas().await else {
        return;
    };
    accept(
        &replicas[0],
        b"x\r\n",
        message(&[("b@else.example", "link:isp")]),
    )
    .await;
    let first = replicas[0].claim("link:isp").await.unwrap().unwrap();
    assert!(replicas[1].claim("link:isp").await.unwrap().is_none());
    assert!(replicas[0].claim("link:isp").await.unwrap().is_none());
    let late = replicas[0].under(&first);
    assert_eq!(late.queued("link:isp".into()).await.unwrap(), 1);
    // As if its owner had been stopped for longer than it holds.
    change(&replicas[0], "UPDATE leases SET expires_ms = 0").await;
    let second = replicas[1].claim("link:isp").await.unwrap().unwrap();
    let settled = late.settle(1, vec![delivered(0)], None).await;
    assert!(matches!(settled, Err(SpoolError::LeaseLost)), "{settled:?}");
    assert!(first.lost().is_cancelled());
    let read = late.queued("link:isp".into()).await;
    assert!(matches!(read, Err(SpoolError::LeaseLost)), "{read:?}");
    let new = replicas[1].under(&second);
    new.settle(1, vec![delivered(0)], None).await.unwrap();
    drop(second);
    // It is given back: nobody waits for its end.
    let never = tokio_util::sync::CancellationToken::new();
    let again = replicas[0].claimed("link:isp", &never);
    let again = tokio::time::timeout(Duration::from_secs(10), again).await;
    assert!(again.unwrap().is_some());
}

#[tokio::test]
async fn connections_that_break_are_made_anew_and_nothing_is_stored_twice() {
    let Some(place) = Place::database().await else {
        return;
    };
    let spool = place.open().await;
    let large = vec![b'x'; 200_000];
    for n in 0..5 {
        accept(&spool, &large, message(&[("b@else.example", "link:isp")])).await;
        break_connections(&place).await;
        assert_eq!(spool.queued("link:isp".into()).await.unwrap(), n + 1);
        break_connections(&place).await;
    }
    let seq = spool.due("link:isp".into(), Tick::END, 1).await.unwrap()[0].seq;
    break_connections(&place).await;
    assert_eq!(read(&spool, seq).await, large);
}

#[tokio::test]
async fn a_message_that_may_have_been_stored_is_looked_for_before_it_is_stored_again() {
    let Some(place) = Place::database().await else {
        return;
    };
    let spool = place.open().await;
    let Engine::Shared(shared) = &spool.inner.engine else {
        panic!()
    };
    let runs = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&runs);
    // It breaks the connection under its own commit, the first time.
    let sql = "SELECT pg_terminate_backend(pg_backend_pid())";
    let change = move |db: &Db<'_>| {
        seen.lock().unwrap().push(db.may_be_done());
        if seen.lock().unwrap().len() == 1 {
            db.execute("CREATE TABLE deferred (x BIGINT)", &[])?;
            db.execute(
                "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'",
                &[],
            )?;
            db.execute(
                "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED \
                 FOR EACH ROW EXECUTE FUNCTION broken()",
                &[],
            )?;
            db.execute("INSERT INTO deferred (x) VALUES (1)", &[])?;
        }
        Ok(sql)
    };
    shared.pool.change(change).await.unwrap();
    assert_eq!(*runs.lock().unwrap(), [false, true]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_to_be_and_nothing_hangs() {
    let nowhere = "postgres://linkmail@localhost/x?host=/nonexistent"
        .parse()
        .unwrap();
    let error = Spool::connect(nowhere).await.err().unwrap();
    assert!(matches!(error, SpoolError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let Some(place) = Place::database().await else {
        return;
    };
    let spool = place.open().await;
    change(&spool, "INSERT INTO linkmail_schema (version) VALUES (99)").await;
    let Place::Database(options) = place else {
        panic!()
    };
    let error = Spool::connect(*options).await.err().unwrap().to_string();
    assert!(
        error.contains("written by a newer version (schema 99; this one knows 5)"),
        "{error}"
    );
}

#[tokio::test]
async fn what_one_replica_accepts_wakes_the_other() {
    let Some(replicas) = replicas().await else {
        return;
    };
    let mut woken = replicas[1].watch_hop("link:isp");
    let mut journal = replicas[1].watch_journal();
    // The watcher looks each second, and begins with what is newest then.
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            accept(
                &replicas[0],
                b"x\r\n",
                message(&[("b@else.example", "link:isp")]),
            )
            .await;
            let moment = Duration::from_millis(1500);
            if tokio::time::timeout(moment, woken.changed()).await.is_ok() {
                break;
            }
        }
        let record = Record::begin(LinkName::parse("isp").unwrap(), Trigger::Api, NOW);
        replicas[0].begin_cycle(&record, None, None).await.unwrap();
        journal.wait_for(|newest| *newest == 1).await.unwrap();
    });
    waited.await.unwrap();
}

#[tokio::test]
async fn the_clock_of_a_shared_spool_moves_by_what_the_server_measured() {
    let Some(replicas) = replicas().await else {
        return;
    };
    replicas[0].keep_clock().await.unwrap();
    let (reading, due) = (replicas[0].clock(), replicas[0].tick());
    // As if the last reading lay a minute back, and then a year.
    for (at, most) in [
        (
            "UPDATE meta SET value = CAST(CAST(value AS BIGINT) - 60000 AS TEXT) WHERE key = 'clock_at_ms'",
            65,
        ),
        ("UPDATE meta SET value = '1' WHERE key = 'clock_at_ms'", 155),
    ] {
        change(&replicas[0], at).await;
        // Two replicas keep it, and it moves once.
        for spool in &replicas {
            spool.keep_clock().await.unwrap();
        }
        let moved = (replicas[1].clock() - reading).as_secs();
        assert!((most - 10..=most).contains(&moved), "{moved} s");
    }
    // What is due comes nearer by a day besides, for a rest of all replicas cannot be told from a step.
    let moved = replicas[1].tick().since(due).as_secs();
    let most = 155 + age::LONGEST_REST.as_secs();
    assert!((most - 10..=most).contains(&moved), "{moved} s");
}

#[tokio::test]
async fn mail_is_routed_anew_once_whoever_sends_it_has_ended_what_he_had_in_hand() {
    let Some([sender, starting]) = replicas().await else {
        return;
    };
    for _ in 0..2 {
        let to = [("b@else.example", "link:isp")];
        accept(&sender, b"x\r\n", message(&to)).await;
    }
    let lease = sender.claim("link:isp").await.unwrap().unwrap();
    let mut routes = Routes::default();
    let other = Target::Hop(NextHop::parse("link:other").unwrap());
    routes.insert(Pattern::Any, other).unwrap();
    let never = tokio_util::sync::CancellationToken::new();
    let rerouted = starting.reroute_shared(&routes, &never);
    let sends = async {
        lease.ends().cancelled().await;
        // It is good until it is given up.
        let under = sender.under(&lease);
        let settled = under.settle(1, vec![delivered(0)], None);
        settled.await.unwrap();
        assert!(!lease.lost().is_cancelled());
        lease.give_back().await;
    };
    let both = async { tokio::join!(rerouted, sends) };
    let (moved, ()) = tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .unwrap();
    assert_eq!(moved.unwrap(), 1);
    assert_eq!(sender.queued("link:isp".into()).await.unwrap(), 0);
    assert_eq!(sender.queued("link:other".into()).await.unwrap(), 1);
    assert_eq!(starting.reroute_shared(&routes, &never).await.unwrap(), 0);
    // What is wanted is kept for who wants it, and not for ever.
    let wanted = "UPDATE leases SET wanted_by = 'somebody', wanted_ms = 9000000000000";
    change(&sender, wanted).await;
    assert!(sender.claim("link:isp").await.unwrap().is_none());
    change(&sender, "UPDATE leases SET wanted_ms = 0").await;
    assert!(sender.claim("link:isp").await.unwrap().is_some());
}
