//! The ledger on a folder on disk.

use super::*;
use crate::{
    clock::Stamp,
    names::{MonitorName, RequestId},
    probe::Probe,
    world::{START, monitor},
};

const DAY: i64 = 86_400_000;

fn name() -> MonitorName {
    MonitorName::parse("branch").unwrap()
}

async fn opened(folder: &Path) -> Ledger {
    let ledger = Ledger::open(folder).unwrap();
    ledger.enrol(vec![name()], START).await.unwrap();
    ledger
}

fn day(number: i64) -> Stamp {
    Stamp(START.0 + number * DAY)
}

async fn begin(ledger: &Ledger, at: Stamp) -> Probe {
    let probe = Probe::new(name(), String::new(), at);
    ledger.begin(probe, None, at).await.unwrap()
}

#[tokio::test]
async fn one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    let error = Ledger::open(folder.path()).err().unwrap();
    assert!(
        error
            .to_string()
            .contains("another monitor-svc is using this state folder")
    );
    drop(ledger);
    opened(folder.path()).await;
}

#[test]
fn a_folder_that_cannot_be_made_is_told() {
    let error = Ledger::open(Path::new("/dev/null/x")).err().unwrap();
    let told = error.to_string();
    assert!(
        told.starts_with("/dev/null/x: cannot be used as the state folder: "),
        "{told}"
    );
}

#[tokio::test]
async fn old_probes_are_forgotten_but_not_the_newest_thousand() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    for number in 0..1010 {
        let probe = begin(&ledger, Stamp(START.0 + number)).await;
        let refused = crate::probe::Progress::Refused("x".into());
        let monitor = Arc::new(monitor());
        ledger
            .progress(probe.id, refused, monitor, None, START)
            .await
            .unwrap();
    }
    let count = async || ledger.probes(None, i64::MAX, 5000).await.unwrap().len();
    ledger.tidy(name(), day(89)).await.unwrap();
    assert_eq!(count().await, 1010);
    ledger.tidy(name(), day(91)).await.unwrap();
    assert_eq!(count().await, 1000);
}

#[tokio::test]
async fn what_was_never_submitted_fails_and_what_was_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    let (never, sent) = (begin(&ledger, START).await, begin(&ledger, START).await);
    let submitted = crate::probe::Progress::Submitted {
        submitted: crate::probe::Submitted {
            message: "messages/1".into(),
            accepted: START,
            at: START,
        },
        dial: false,
    };
    let monitor = Arc::new(monitor());
    ledger
        .progress(sent.id, submitted, monitor, None, START)
        .await
        .unwrap();
    assert!(ledger.tidy(name(), day(6)).await.unwrap().is_empty());
    let given_up = ledger.tidy(name(), day(7)).await.unwrap();
    let fates: Vec<_> = given_up
        .iter()
        .map(|probe| (probe.id, probe.fate.as_str()))
        .collect();
    assert_eq!(fates, [(never.id, "failed"), (sent.id, "lost")]);
    assert!(ledger.tidy(name(), day(8)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_request_id_is_for_one_monitor_and_for_seven_days() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    let key = RequestKey {
        id: RequestId::new(),
        monitor: name(),
    };
    let probe = begin(&ledger, START).await;
    let joined = ledger.join(probe.id, vec![key.clone()], START);
    assert!(joined.await.unwrap().is_empty());
    assert_eq!(ledger.requested(key.clone()).await.unwrap(), Some(probe.id));
    let other = RequestKey {
        monitor: MonitorName::parse("other").unwrap(),
        ..key.clone()
    };
    let error = ledger.requested(other).await.err().unwrap();
    assert!(matches!(error, LedgerError::Request(_)), "{error}");
    ledger.tidy(name(), day(8)).await.unwrap();
    assert_eq!(ledger.requested(key).await.unwrap(), None);
}

#[tokio::test]
async fn the_journal_keeps_the_newest_changes_and_says_where_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    let note = |ledger: &Ledger| {
        let ledger = ledger.clone();
        async move {
            let noted = ledger.write(|books| {
                let standing = books.known(&name())?;
                for number in 0..JOURNAL_KEPT {
                    books.note(&standing, None, &number.to_string(), START)?;
                }
                Ok(())
            });
            noted.await.unwrap();
        }
    };
    note(&ledger).await;
    let newest = ledger.newest_revision().await.unwrap();
    assert_eq!(newest, JOURNAL_KEPT + 1);
    assert_eq!(*ledger.watch().borrow(), newest);
    let Since::Entries(entries) = ledger.journal(None, 1, 10).await.unwrap() else {
        panic!("compacted");
    };
    assert_eq!((entries.len(), entries[0].revision), (10, 2));
    let since = ledger.journal(None, 0, 10).await.unwrap();
    assert!(matches!(since, Since::Compacted { oldest: 1 }), "{since:?}");
}

/// The wall clock was set back while the monitor did not run.
#[tokio::test]
async fn nothing_lies_in_the_future_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    begin(&ledger, day(5)).await;
    assert_eq!(ledger.newest_time().await.unwrap(), day(5));
    ledger.enrol(vec![name()], day(2)).await.unwrap();
    let (standing, _) = ledger.standing(name()).await.unwrap();
    assert_eq!(standing.last_run, Some(day(2)));
    assert_eq!(standing.since, START);
}

/// The same: a notice does not wait for a time long to come, and nothing is awaited or kept for longer than it should.
#[tokio::test]
async fn nothing_is_due_in_the_future_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    let changed = ledger.evaluate(Arc::new(monitor()), String::new(), day(400));
    assert!(changed.await.unwrap().is_some());
    let notice = ledger.waiting().await.unwrap().remove(0);
    ledger.postpone(notice.seq, day(401)).await.unwrap();
    let probe = begin(&ledger, day(400)).await;
    let key = RequestKey {
        id: RequestId::new(),
        monitor: name(),
    };
    let joined = ledger.join(probe.id, vec![key.clone()], day(400));
    joined.await.unwrap();
    let seen = ledger
        .write(|books| books.execute("INSERT INTO reports VALUES ('reports/1', ?1)", [day(400).0]));
    seen.await.unwrap();

    ledger.enrol(vec![name()], day(2)).await.unwrap();
    let notice = ledger.waiting().await.unwrap().remove(0);
    assert_eq!((notice.created, notice.next), (day(2), day(2)));
    let known = ledger.probe(probe.id).await.unwrap().unwrap();
    assert_eq!(known.created, day(2));
    assert!(ledger.tidy(name(), day(8)).await.unwrap().is_empty());
    assert_eq!(ledger.tidy(name(), day(9)).await.unwrap()[0].id, probe.id);
    ledger.tidy(name(), day(33)).await.unwrap();
    assert_eq!(ledger.requested(key).await.unwrap(), None);
    let seen = ledger.read(|books| books.one::<i64>("SELECT count(*) FROM reports", []));
    assert_eq!(seen.await.unwrap(), Some(0));
}

/// A monitor that is no longer configured has no keeper that would ask for its message.
#[tokio::test]
async fn what_a_monitor_that_is_gone_awaited_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    let probe = begin(&ledger, START).await;
    ledger.enrol(vec![name()], day(8)).await.unwrap();
    let fate = async || ledger.probe(probe.id).await.unwrap().unwrap().fate;
    assert_eq!(fate().await.as_str(), "open");
    ledger.enrol(Vec::new(), day(8)).await.unwrap();
    assert_eq!(fate().await.as_str(), "failed");
}

/// SQLite's own limit stands in for a full disk: the same error, the same path.
#[tokio::test]
async fn a_full_disk_is_told_changes_nothing_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    let pages = |ledger: &Ledger, sql: &'static str| {
        let connection = ledger.inner.connection.lock().unwrap();
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    pages(&ledger, "PRAGMA max_page_count = 1");
    let mut begun = 0;
    let error = loop {
        let probe = Probe::new(name(), "x".repeat(3000), START);
        match ledger.begin(probe, None, START).await {
            Ok(_) => begun += 1,
            Err(error) => break error,
        }
        assert!(begun < 100);
    };
    assert!(matches!(error, LedgerError::Full), "{error}");
    assert_eq!(error.to_string(), "the disk of the ledger is full");
    let probes = ledger.probes(None, i64::MAX, 1000).await.unwrap();
    assert_eq!(probes.len(), begun);
    pages(&ledger, "PRAGMA max_page_count = 1000000");
    begin(&ledger, START).await;
}
