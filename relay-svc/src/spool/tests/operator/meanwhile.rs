//! What an operator changes while others read, send or route it.

use super::*;

async fn what_was_read_ahead_is_not_sent_as_it_stood_and_what_is_in_a_session_is_left_alone(
    place: Place,
) {
    let spool = place.open().await;
    let (operator, hands) = operator(&spool);
    for address in ["a@far.example", "b@far.example", "c@far.example"] {
        accept(&spool, b"x\r\n", message(&[(address, "link:isp")])).await;
    }
    let hop = NextHop::parse("link:isp").unwrap();
    let feed = Feed::of_due(spool.clone(), &hop, hands);
    let in_session = feed.take(1).await.unwrap();
    assert_eq!(in_session[0].due.seq, 1);
    let mut dry = order(Action::Delete, to("far.example"));
    dry.validate_only = true;
    assert_eq!(
        counts(&operator.carry_out(&dry).await.unwrap()),
        (2, 2, 1, 0)
    );
    let done = operator
        .carry_out(&order(Action::Delete, to("a@far.example")))
        .await
        .unwrap();
    assert_eq!(counts(&done), (0, 0, 1, 0));
    let done = operator
        .carry_out(&order(Action::Delete, to("b@far.example")))
        .await
        .unwrap();
    assert_eq!(counts(&done), (1, 1, 0, 0));
    let next = feed.take(9).await.unwrap();
    assert_eq!(next.iter().map(|one| one.due.seq).collect::<Vec<_>>(), [3]);
    // What is put back can be changed again.
    for message in next {
        feed.put_back(message).await;
    }
    let done = operator
        .carry_out(&order(Action::Hold, to("c@far.example")))
        .await
        .unwrap();
    assert_eq!(counts(&done), (1, 1, 0, 0));
    assert!(feed.take(9).await.unwrap().is_empty());
}

async fn an_outcome_of_what_was_put_on_hold_meanwhile_is_recorded(place: Place) {
    let spool = place.open().await;
    let id = accept(&spool, b"x\r\n", message(&[("a@far.example", "link:isp")]))
        .await
        .id;
    change(&spool, "UPDATE recipients SET state = 7").await;
    spool
        .settle(1, vec![given(0, retry(1, false))], None)
        .await
        .unwrap();
    assert_eq!(stands(&spool, id, 0).await.0, RecipientState::OnHold);
    spool.settle(1, vec![delivered(0)], None).await.unwrap();
    assert_eq!(stands(&spool, id, 0).await.0, RecipientState::Delivered);
    // And nothing of what was deleted.
    change(&spool, "UPDATE recipients SET state = 4").await;
    spool.settle(1, vec![delivered(0)], None).await.unwrap();
    assert_eq!(stands(&spool, id, 0).await.0, RecipientState::Discarded);
}

async fn changed_routes_move_what_is_on_hold_and_leave_it_there(place: Place) {
    let spool = place.open().await;
    let new = message(&[
        ("a@far.example", "link:old"),
        ("x@nowhere.test", "link:old"),
    ]);
    let id = accept(&spool, b"x\r\n", new).await.id;
    change(&spool, "UPDATE recipients SET state = 7").await;
    let mut routes = Routes::default();
    let pattern = Pattern::parse("far.example").unwrap();
    let isp = Target::Hop(NextHop::parse("link:isp").unwrap());
    routes.insert(pattern, isp).unwrap();
    assert_eq!(spool.reroute(routes).await.unwrap(), 1);
    for (idx, expected) in [(0, "link:isp"), (1, "link:old")] {
        let (state, hop, ..) = stands(&spool, id, idx).await;
        assert_eq!((state, hop.as_str()), (RecipientState::OnHold, expected));
    }
}

#[tokio::test]
async fn another_replica_reads_anew_what_it_had_read_ahead() {
    let Some(place) = Place::database().await else {
        return;
    };
    let (here, there) = (place.open().await, place.open().await);
    for address in ["a@far.example", "b@far.example"] {
        accept(&here, b"x\r\n", message(&[(address, "link:isp")])).await;
    }
    let hop = NextHop::parse("link:isp").unwrap();
    let feed = Feed::of_due(there.clone(), &hop, InHand::default());
    let in_session = feed.take(1).await.unwrap();
    assert_eq!(in_session[0].due.seq, 1);
    let mut woken = there.watch_hop("link:isp");
    // Its watch has looked once before it can see a change.
    tokio::time::timeout(Duration::from_secs(10), woken.changed())
        .await
        .unwrap()
        .unwrap();
    let before = there.steered();
    let (operator, _) = operator(&here);
    let delete = order(Action::Delete, to("b@far.example"));
    operator.carry_out(&delete).await.unwrap();
    let seen = async {
        while there.steered() == before {
            woken.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen)
        .await
        .unwrap();
    assert!(feed.take(9).await.unwrap().is_empty());
}

on_both![
    what_was_read_ahead_is_not_sent_as_it_stood_and_what_is_in_a_session_is_left_alone,
    an_outcome_of_what_was_put_on_hold_meanwhile_is_recorded,
    changed_routes_move_what_is_on_hold_and_leave_it_there
];
