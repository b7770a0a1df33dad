//! Mail for `report` routes.

use super::*;

const REPORT: [(&str, &str); 2] = [
    ("probe-1@branch.example", "report"),
    ("user@branch.example", "smtp://127.0.0.1:25"),
];

async fn all(spool: &Spool, state: Option<ReportState>) -> Vec<StoredReport> {
    spool.reports(0, state, 9).await.unwrap()
}

async fn a_report_waits_until_it_is_acknowledged_and_can_be_read_until_it_is_forgotten(
    place: Place,
) {
    let spool = place.open().await;
    let large = vec![b'x'; 100_000];
    let new = message(&REPORT[..1]);
    let id = accept(&spool, &large, new).await.id;
    accept(&spool, b"no report\r\n", message(&REPORT[1..])).await;
    let waiting = all(&spool, Some(ReportState::Unacknowledged)).await;
    assert_eq!((waiting.len(), waiting[0].id), (1, id));
    assert_eq!(waiting[0].recipients, ["probe-1@branch.example"]);
    let mut woken = spool.watch_hop("report");
    woken.mark_unchanged();

    for consumer in ["first", "second"] {
        let settled = spool
            .acknowledge(id, consumer.into())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(settled.state, ReportState::Acknowledged);
        assert_eq!(settled.acknowledged_by, "first");
    }

    assert!(woken.has_changed().unwrap());
    assert!(
        all(&spool, Some(ReportState::Unacknowledged))
            .await
            .is_empty()
    );
    assert_eq!(all(&spool, Some(ReportState::Acknowledged)).await.len(), 1);
    assert_eq!(read(&spool, waiting[0].seq).await, large);
    assert_eq!(
        spool
            .acknowledge(MessageId::new(), "x".into())
            .await
            .unwrap()
            .map(|_| ()),
        None
    );

    // Its file outlives a restart, and goes with its row.
    spool.keep_clock().await.unwrap();
    drop((spool, woken));
    let spool = place.open().await;
    place.has_bodies(&spool, 1).await;
    assert_eq!(spool.forget(Duration::ZERO).await.unwrap(), 1);
    place.has_bodies(&spool, 0).await;
    assert!(spool.report(id).await.unwrap().is_none());
}

async fn a_message_that_is_also_for_others_is_a_report_all_the_same(place: Place) {
    let spool = place.open().await;
    let id = accept(&spool, b"both\r\n", message(&REPORT)).await.id;
    let settled = spool
        .acknowledge(id, "monitor".into())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(settled.recipients, ["probe-1@branch.example"]);
    assert_eq!(spool.queued("smtp://127.0.0.1:25".into()).await.unwrap(), 1);
    assert_eq!(spool.forget(Duration::ZERO).await.unwrap(), 0);
}

async fn a_report_that_nobody_fetches_is_given_up(place: Place) {
    let spool = place.open().await;
    let id = accept(&spool, b"x\r\n", message(&REPORT[..1])).await.id;
    let damaged = accept(&spool, b"x\r\n", message(&REPORT[..1])).await.id;
    change(
        &spool,
        "UPDATE messages SET origin = 'pigeon' WHERE seq = 2",
    )
    .await;
    let day = Duration::from_secs(86_400);
    assert!(spool.expire_reports(day).await.unwrap().is_empty());
    let given_up = spool.expire_reports(Duration::ZERO).await.unwrap();
    assert_eq!(given_up, [id, damaged]);
    assert_eq!(all(&spool, Some(ReportState::Expired)).await.len(), 1);
    assert!(
        spool
            .expire_reports(Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
    );
}

on_both![
    a_report_waits_until_it_is_acknowledged_and_can_be_read_until_it_is_forgotten,
    a_message_that_is_also_for_others_is_a_report_all_the_same,
    a_report_that_nobody_fetches_is_given_up
];
