//! The embedded engine against a folder on disk.

use std::{path::Path, time::Duration};

use linkmail_smtp::{Mailbox, ReversePath};
use rusqlite::Connection;

use super::*;
use crate::{
    clock::Stamp,
    cycle::{Outcome, Record, Trigger},
    names::{LinkName, MessageId, NextHop, RequestId},
    queue::Settlement,
    route::{Pattern, Routes},
};

const NOW: Stamp = Stamp(1_795_458_600_000);

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text.as_bytes()).unwrap()
}

fn message(recipients: &[(&str, &str)]) -> NewMessage {
    let recipients = recipients.iter().map(|(address, hop)| NewRecipient {
        address: mailbox(address),
        hop: NextHop::parse(hop).unwrap(),
    });
    NewMessage {
        id: MessageId::new(),
        reverse_path: ReversePath::Mailbox(mailbox("a@branch.example")),
        recipients: recipients.collect(),
        origin: Origin::Smtp,
        link: None,
        cycle: None,
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        accepted: NOW,
        request: None,
    }
}

async fn draft(spool: &Spool, content: &[u8]) -> Draft {
    let mut draft = spool.draft();
    for piece in content.chunks(10_000) {
        draft.write(piece).await.unwrap();
    }
    draft
}

async fn accept(spool: &Spool, content: &[u8], message: NewMessage) -> Accepted {
    spool
        .accept(draft(spool, content).await, message)
        .await
        .unwrap()
}

async fn read(spool: &Spool, seq: i64) -> Vec<u8> {
    spool
        .body(seq)
        .await
        .unwrap()
        .head(usize::MAX)
        .await
        .unwrap()
}

fn bodies(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("bodies")).unwrap().count()
}

fn delivered(idx: i64) -> Settled {
    Settled {
        idx,
        settlement: Settlement::Delivered {
            reply: "250 OK".into(),
        },
    }
}

#[tokio::test]
async fn what_was_accepted_is_there_after_the_spool_was_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let (first, second) = {
        let spool = Spool::open(folder.path()).unwrap();
        let small = accept(
            &spool,
            b"Subject: x\r\n\r\n\xff\r\n",
            message(&[("b@else.example", "link:isp")]),
        )
        .await;
        (
            small,
            accept(&spool, &large, message(&[("c@else.example", "link:isp")])).await,
        )
    };
    assert_eq!((first.size, second.size), (17, 200_000));
    assert_eq!(
        bodies(folder.path()),
        1,
        "only the large body lies in a file"
    );
    let spool = reopened(folder.path()).await;
    let due = spool.due("link:isp".into(), NOW, 10).await.unwrap();
    assert_eq!(
        due.iter().map(|d| d.id).collect::<Vec<_>>(),
        [first.id, second.id]
    );
    assert!(due[0].eight_bit);
    assert_eq!(due[0].reverse_path.to_string(), "a@branch.example");
    assert_eq!(
        due[0].traceparent,
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    );
    assert_eq!(
        read(&spool, due[0].seq).await,
        b"Subject: x\r\n\r\n\xff\r\n"
    );
    assert_eq!(read(&spool, due[1].seq).await, large);
}

/// The lock of the spool before goes with its last handle, which its threads may hold for a moment.
async fn reopened(folder: &Path) -> Spool {
    for _ in 0..500 {
        match Spool::open(folder) {
            Err(SpoolError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            other => return other.unwrap(),
        }
    }
    panic!("the spool is still in use");
}

#[tokio::test]
async fn two_processes_cannot_use_one_spool() {
    let folder = tempfile::tempdir().unwrap();
    let _spool = Spool::open(folder.path()).unwrap();
    assert!(matches!(
        Spool::open(folder.path()),
        Err(SpoolError::InUse { .. })
    ));
}

#[tokio::test]
async fn a_draft_that_is_dropped_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let large = draft(&spool, &[b'x'; 300_000]).await;
    assert_eq!(bodies(folder.path()), 1);
    drop(large);
    assert_eq!(bodies(folder.path()), 0);
    assert!(
        spool
            .list(ListFilter {
                limit: 9,
                ..ListFilter::default()
            })
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn bodies_that_no_message_names_are_swept_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let kept = {
        let spool = Spool::open(folder.path()).unwrap();
        accept(
            &spool,
            &[b'x'; 100_000],
            message(&[("b@else.example", "link:isp")]),
        )
        .await
    };
    std::fs::write(
        folder.path().join("bodies/deadbeef"),
        "renamed, never committed",
    )
    .unwrap();
    std::fs::write(folder.path().join("bodies/cafe.part"), "half written").unwrap();
    let spool = reopened(folder.path()).await;
    assert_eq!(bodies(folder.path()), 1);
    let due = spool.due("link:isp".into(), NOW, 1).await.unwrap();
    assert_eq!(
        (due[0].id, read(&spool, due[0].seq).await.len()),
        (kept.id, 100_000)
    );
}

#[tokio::test]
async fn a_repeated_call_gets_the_first_message_and_other_content_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let id = RequestId::parse("8d2f3a30-7f3c-4d06-9a0e-1f6f8a6e7c11").unwrap();
    let with = |content: &[u8]| NewMessage {
        request: Some(RequestKey::new(id, [content])),
        ..message(&[("b@else.example", "link:isp")])
    };
    let first = accept(&spool, b"one\r\n", with(b"one\r\n")).await;
    let again = accept(&spool, b"one\r\n", with(b"one\r\n")).await;
    assert_eq!(first, again);
    let other = spool
        .accept(draft(&spool, b"two\r\n").await, with(b"two\r\n"))
        .await;
    assert!(matches!(other, Err(SpoolError::Request(_))), "{other:?}");
    assert_eq!(spool.queued("link:isp".into()).await.unwrap(), 1);
}

#[tokio::test]
async fn changes_that_wait_together_are_kept_or_refused_each_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let twin = message(&[("b@else.example", "link:isp")]);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (spool, new) = (
            spool.clone(),
            if n % 10 == 0 {
                twin.clone()
            } else {
                message(&[("b@else.example", "link:isp")])
            },
        );
        tasks.spawn(async move {
            spool
                .accept(draft(&spool, b"x\r\n").await, new)
                .await
                .is_ok()
        });
    }
    let kept = tasks.join_all().await.into_iter().filter(|ok| *ok).count();
    // Ten share an identity: one of them is kept, and the nine that fail take nothing else with them.
    assert_eq!(kept, 91);
    assert_eq!(spool.queued("link:isp".into()).await.unwrap(), 91);
}

#[tokio::test]
async fn an_outcome_is_recorded_once_with_its_report_and_frees_the_body_with_the_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let both = message(&[
        ("b@else.example", "link:isp"),
        ("c@else.example", "link:isp"),
    ]);
    accept(&spool, &[b'x'; 100_000], both).await;
    let seq = spool.due("link:isp".into(), NOW, 1).await.unwrap()[0].seq;
    spool
        .settle(seq, vec![delivered(0)], None, NOW)
        .await
        .unwrap();
    assert_eq!(
        spool.due("link:isp".into(), NOW, 9).await.unwrap()[0]
            .recipients
            .len(),
        1
    );
    assert_eq!(bodies(folder.path()), 1);

    let report = message(&[("a@branch.example", "smtp://127.0.0.1:25")]);
    let bounced = Settled {
        idx: 1,
        settlement: Settlement::Bounced {
            reply: "550 no".into(),
        },
    };
    spool
        .settle(
            seq,
            vec![bounced],
            Some((b"report\r\n".to_vec(), report)),
            NOW,
        )
        .await
        .unwrap();
    assert_eq!(bodies(folder.path()), 0);
    assert!(
        spool
            .due("link:isp".into(), NOW, 9)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(spool.queued("smtp://127.0.0.1:25".into()).await.unwrap(), 1);

    // A late word on a recipient whose outcome is recorded changes nothing.
    let late = Settlement::Retry {
        due: NOW,
        attempts: 9,
        waited: Duration::ZERO,
        tried: NOW,
        reply: "late".into(),
    };
    spool
        .settle(
            seq,
            vec![Settled {
                idx: 0,
                settlement: late,
            }],
            None,
            NOW,
        )
        .await
        .unwrap();
    let listed = spool
        .list(ListFilter {
            limit: 9,
            ..ListFilter::default()
        })
        .await
        .unwrap();
    let states: Vec<_> = listed[0]
        .recipients
        .iter()
        .map(|r| (r.state, r.attempts))
        .collect();
    assert_eq!(
        states,
        [(RecipientState::Delivered, 1), (RecipientState::Bounced, 1)]
    );

    assert_eq!(spool.forget(NOW).await.unwrap(), 0);
    assert_eq!(
        spool
            .forget(NOW.plus(Duration::from_secs(1)))
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn what_is_due_comes_in_order_and_the_backlog_says_what_is_not_due_yet() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    for age in [30, 10, 20] {
        let accepted = NOW.minus(Duration::from_secs(age));
        accept(
            &spool,
            b"x\r\n",
            NewMessage {
                accepted,
                ..message(&[("b@else.example", "link:isp")])
            },
        )
        .await;
    }
    accept(
        &spool,
        b"x\r\n",
        message(&[("b@else.example", "link:other")]),
    )
    .await;
    let due = spool.due("link:isp".into(), NOW, 2).await.unwrap();
    assert_eq!(
        due.iter()
            .map(|d| NOW.since(d.accepted).as_secs())
            .collect::<Vec<_>>(),
        [30, 20]
    );
    let later = NOW.plus(Duration::from_secs(300));
    let retry = Settlement::Retry {
        due: later,
        attempts: 1,
        waited: Duration::ZERO,
        tried: NOW,
        reply: "451".into(),
    };
    spool
        .settle(
            due[0].seq,
            vec![Settled {
                idx: 0,
                settlement: retry,
            }],
            None,
            NOW,
        )
        .await
        .unwrap();
    let backlog = spool.backlog("link:isp".into(), NOW, 100).await.unwrap();
    let oldest_due = Some(NOW.minus(Duration::from_secs(20)));
    assert_eq!(
        backlog,
        Backlog {
            due: 2,
            oldest_due,
            next_due: Some(later)
        }
    );
    assert_eq!(
        spool
            .backlog("link:isp".into(), later, 1)
            .await
            .unwrap()
            .due,
        1,
        "the count stops at its cap"
    );
    assert_eq!(
        spool.due("link:isp".into(), later, 9).await.unwrap().len(),
        3
    );
}

#[tokio::test]
async fn a_damaged_row_is_set_aside_and_does_not_stop_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    accept(&spool, b"x\r\n", message(&[("b@else.example", "link:isp")])).await;
    let good = accept(&spool, b"x\r\n", message(&[("c@else.example", "link:isp")])).await;
    let other = Connection::open(folder.path().join("spool.sqlite")).unwrap();
    other
        .execute("UPDATE recipients SET address = x'ff' WHERE seq = 1", [])
        .unwrap();
    let due = spool.due("link:isp".into(), NOW, 9).await.unwrap();
    assert_eq!(due.iter().map(|d| d.id).collect::<Vec<_>>(), [good.id]);
    let aside = ListFilter {
        limit: 9,
        state: Some(RecipientState::SetAside),
        after: 0,
    };
    assert_eq!(spool.list(aside).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_body_that_is_not_what_was_accepted_is_noticed_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    accept(
        &spool,
        b"Subject: pay 100\r\n",
        message(&[("b@else.example", "link:isp")]),
    )
    .await;
    let other = Connection::open(folder.path().join("spool.sqlite")).unwrap();
    other
        .execute(
            "UPDATE bodies SET content = CAST('Subject: pay 900' || char(13, 10) AS BLOB)",
            [],
        )
        .unwrap();
    let mut body = spool.body(1).await.unwrap();
    assert_eq!(body.next().await.unwrap().len(), 18);
    assert_eq!(
        body.next().await.unwrap_err().kind(),
        std::io::ErrorKind::InvalidData
    );
}

#[tokio::test]
async fn queued_mail_follows_changed_routes() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    accept(
        &spool,
        b"x\r\n",
        message(&[
            ("b@else.example", "link:isp"),
            ("c@kept.example", "link:isp"),
        ]),
    )
    .await;
    let mut routes = Routes::default();
    for (pattern, hop) in [("else.example", "link:vsat"), ("kept.example", "link:isp")] {
        routes
            .insert(
                Pattern::parse(pattern).unwrap(),
                NextHop::parse(hop).unwrap(),
            )
            .unwrap();
    }
    assert_eq!(spool.reroute(routes.clone()).await.unwrap(), 1);
    assert_eq!(spool.reroute(routes).await.unwrap(), 0);
    assert_eq!(
        spool.due("link:vsat".into(), NOW, 9).await.unwrap()[0].recipients[0].address,
        mailbox("b@else.example")
    );
    assert_eq!(
        spool.due("link:isp".into(), NOW, 9).await.unwrap()[0].recipients[0].address,
        mailbox("c@kept.example")
    );
}

#[tokio::test]
async fn mail_that_no_route_takes_any_more_is_set_aside_until_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    accept(&spool, b"x\r\n", message(&[("b@else.example", "link:isp")])).await;
    let mut routes = Routes::default();
    assert_eq!(spool.reroute(routes.clone()).await.unwrap(), 1);
    assert!(
        spool
            .due("link:isp".into(), NOW, 9)
            .await
            .unwrap()
            .is_empty()
    );
    routes
        .insert(Pattern::Any, NextHop::parse("link:isp").unwrap())
        .unwrap();
    assert_eq!(spool.reroute(routes).await.unwrap(), 1);
    assert_eq!(spool.due("link:isp".into(), NOW, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_refused_or_repeated_large_message_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let id = RequestId::parse("8d2f3a30-7f3c-4d06-9a0e-1f6f8a6e7c11").unwrap();
    let large = vec![b'x'; 100_000];
    for argument in ["same", "same", "other"] {
        let request = Some(RequestKey::new(id, [argument.as_bytes()]));
        let new = NewMessage {
            request,
            ..message(&[("b@else.example", "link:isp")])
        };
        let accepted = spool.accept(draft(&spool, &large).await, new).await;
        assert_eq!(accepted.is_ok(), argument == "same");
    }
    assert_eq!(bodies(folder.path()), 1);
}

#[tokio::test]
async fn a_spool_whose_database_is_gone_keeps_its_bodies() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bodies")).unwrap();
    std::fs::write(folder.path().join("bodies/cafe"), "a message").unwrap();
    let error = Spool::open(folder.path()).err().unwrap();
    assert!(
        error.to_string().contains("spool.sqlite is missing"),
        "{error}"
    );
    assert_eq!(bodies(folder.path()), 1);
}

#[tokio::test]
async fn the_journal_gives_every_change_after_a_revision_and_says_when_it_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let link = LinkName::parse("isp").unwrap();
    let mut record = Record::begin(link.clone(), Trigger::Api, NOW);
    spool.begin_cycle(&record, None).await.unwrap();
    record.finish(
        Outcome::Complete,
        String::new(),
        NOW.plus(Duration::from_secs(9)),
    );
    spool.save_cycle(&record, "ended", NOW).await.unwrap();
    let Since::Entries(entries) = spool.journal(Some(link.clone()), 0, 9).await.unwrap() else {
        panic!()
    };
    let told: Vec<_> = entries
        .iter()
        .map(|e| (e.revision, e.event.as_str(), e.record.outcome))
        .collect();
    assert_eq!(
        told,
        [
            (1, "started by api", None),
            (2, "ended", Some(Outcome::Complete))
        ]
    );
    assert_eq!(spool.last_complete(link.clone()).await.unwrap(), record.end);
    assert!(spool.open_cycles().await.unwrap().is_empty());
    let other = Connection::open(folder.path().join("spool.sqlite")).unwrap();
    other
        .execute("DELETE FROM journal WHERE revision = 1", [])
        .unwrap();
    assert!(matches!(
        spool.journal(None, 0, 9).await.unwrap(),
        Since::Compacted { oldest: 1 }
    ));
    let Since::Entries(entries) = spool.journal(None, 1, 9).await.unwrap() else {
        panic!()
    };
    assert_eq!(entries.len(), 1);
}
