//! What time has decided of mail that waits.

use super::*;

async fn what_is_overdue_is_looked_for_and_nothing_that_needs_no_judge(place: Place) {
    let spool = place.open().await;
    for (by, hop) in [
        ("0;N", "link:isp"),
        ("-5;N", "link:isp"),
        ("600;R", "report"),
        ("600;N", "link:vsat"),
        ("600;R", "link:isp"),
    ] {
        let mut new = message(&[("b@else.example", hop)]);
        new.wish.deliver_by = DeliverBy::parse(by.as_bytes());
        accept(&spool, b"x\r\n", new).await;
    }
    assert_eq!(spool.overdue_hops().await.unwrap(), [""; 0]);
    let over = "UPDATE messages SET deadline_ms = -1 WHERE deadline_ms IS NOT NULL";
    assert_eq!(change(&spool, over).await, 3);
    let mut hops = spool.overdue_hops().await.unwrap();
    hops.sort();
    assert_eq!(hops, ["link:isp", "link:vsat"]);
    // That it is late is on record: with N that is all.
    change(&spool, "UPDATE recipients SET late_ms = 1").await;
    assert_eq!(spool.overdue_hops().await.unwrap(), ["link:isp"]);

    // What one look found stays until it is taken, or another look at all does not find it.
    spool.note_late(vec!["link:isp".into(), "link:vsat".into()], true);
    spool.note_late(Vec::new(), false);
    assert!(spool.take_late("link:isp") && !spool.take_late("link:isp"));
    spool.note_late(Vec::new(), true);
    assert!(!spool.take_late("link:vsat"));
}

on_both![what_is_overdue_is_looked_for_and_nothing_that_needs_no_judge];
