//! Large mail of a link: a queue of its own, chosen by the size that is stored, and chosen anew when limits change.

use super::*;

const LINK: &str = "link:isp";
const LARGE: &str = "oversize:isp";

fn isp() -> LinkName {
    LinkName::parse("isp").unwrap()
}

fn limit(spool: &Spool, above: u64) {
    spool.limit_sizes([(isp(), above)].into_iter().collect());
}

fn all_over_the_link() -> Routes {
    let mut routes = Routes::default();
    let target = Target::Hop(NextHop::parse(LINK).unwrap());
    routes.insert(Pattern::Any, target).unwrap();
    routes
}

async fn due(spool: &Spool, hop: &str) -> Vec<Due> {
    spool.due(hop.into(), Tick::END, 9).await.unwrap()
}

async fn ids(spool: &Spool, hop: &str) -> Vec<MessageId> {
    due(spool, hop).await.iter().map(|one| one.id).collect()
}

async fn large_mail_waits_in_a_queue_of_its_own_and_counts_once(place: Place) {
    let spool = place.open().await;
    limit(&spool, 1000);
    let mut woken = spool.watch_hop(LINK);
    woken.mark_unchanged();
    let two = [("b@else.example", LINK), ("c@else.example", LINK)];
    let small = accept(&spool, &[b'x'; 1000], message(&two)).await;
    let large = accept(&spool, &[b'x'; 1001], message(&two)).await;
    assert_eq!(ids(&spool, LINK).await, [small.id]);
    assert_eq!(ids(&spool, LARGE).await, [large.id]);
    assert_eq!(due(&spool, LARGE).await[0].recipients.len(), 2);
    let backlog = spool.backlog(LINK.into(), Tick::END, 9).await.unwrap();
    assert_eq!(backlog.due, 1, "what may go");
    assert_eq!(spool.queued_over(&isp()).await.unwrap(), 2);
    // One of its recipients goes without waiting: it is one message all the same.
    let by_hand = "UPDATE recipients SET hop = 'link:isp' WHERE hop = 'oversize:isp' AND idx = 1";
    assert_eq!(change(&spool, by_hand).await, 1);
    assert_eq!(spool.queued_over(&isp()).await.unwrap(), 2);
    assert_eq!(ids(&spool, LINK).await, [small.id, large.id]);
    // Who keeps the link is told of both.
    assert!(woken.has_changed().unwrap());
    woken.mark_unchanged();
    spool.note_late(vec![LARGE.into()], true);
    assert!(woken.has_changed().unwrap());
    assert!(spool.take_late(LARGE) && !spool.take_late(LINK));
}

async fn a_large_report_waits_like_all_large_mail(place: Place) {
    let spool = place.open().await;
    limit(&spool, 1000);
    accept(&spool, b"x\r\n", message(&[("b@else.example", LINK)])).await;
    let seq = due(&spool, LINK).await[0].seq;
    let report = message(&[("a@far.example", LINK)]);
    let (id, content) = (report.id, draft(&spool, &[b'x'; 2000]).await);
    let settled = spool.settle(seq, vec![delivered(0)], Some((content, report)));
    settled.await.unwrap();
    assert_eq!(ids(&spool, LARGE).await, [id]);
}

async fn changed_limits_move_what_waits_in_both_directions(place: Place) {
    let spool = place.open().await;
    let routes = all_over_the_link();
    assert_eq!(spool.reroute(routes.clone()).await.unwrap(), 0);
    let small = accept(&spool, &[b'x'; 500], message(&[("b@else.example", LINK)])).await;
    let mut urgent = message(&[("b@else.example", LINK)]);
    urgent.wish.priority = Priority::new(4).unwrap();
    let large = accept(&spool, &[b'x'; 5000], urgent).await;
    let seq = due(&spool, LINK).await[0].seq;
    let tried = Settlement::Retry {
        in_doubt: false,
        wait: Duration::from_secs(60),
        attempts: 3,
        waited: Duration::from_secs(100),
        tried: Duration::ZERO,
        reply: "451 later".into(),
    };
    let settlement = Settled {
        idx: 0,
        settlement: tried,
        by: Arc::default(),
    };
    spool.settle(seq, vec![settlement], None).await.unwrap();
    let before = due(&spool, LINK).await[0].clone();

    limit(&spool, 1000);
    assert_eq!(spool.reroute(routes.clone()).await.unwrap(), 1);
    assert_eq!(ids(&spool, LINK).await, [small.id]);
    let moved = due(&spool, LARGE).await[0].clone();
    // Its place, its priority, its attempts, and when it is due; how long it waits at its next hop begins anew.
    let mut kept = before.clone();
    kept.recipients[0].since = moved.recipients[0].since;
    kept.recipients[0].last_reply.clear();
    assert_eq!(format!("{moved:?}"), format!("{kept:?}"));
    assert_eq!((moved.id, moved.recipients[0].attempts), (large.id, 3));

    // Once for each change: what was sent on its way by hand stays there.
    let by_hand = "UPDATE recipients SET hop = 'link:isp' WHERE hop = 'oversize:isp'";
    assert_eq!(change(&spool, by_hand).await, 1);
    assert_eq!(spool.reroute(routes.clone()).await.unwrap(), 0);
    assert_eq!(ids(&spool, LINK).await, [large.id, small.id]);

    limit(&spool, 499);
    assert_eq!(spool.reroute(routes.clone()).await.unwrap(), 2);
    limit(&spool, 4999);
    assert_eq!(spool.reroute(routes.clone()).await.unwrap(), 1);
    spool.limit_sizes(SizeLimits::default());
    assert_eq!(spool.reroute(routes).await.unwrap(), 1);
    assert_eq!(ids(&spool, LINK).await, [large.id, small.id]);
    assert_eq!(ids(&spool, LARGE).await, []);
}

on_both![
    large_mail_waits_in_a_queue_of_its_own_and_counts_once,
    a_large_report_waits_like_all_large_mail,
    changed_limits_move_what_waits_in_both_directions,
];
