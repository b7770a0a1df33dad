//! What the keeper of a link and the other replicas tell each other: windows and what comes in them, calls, views.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    arrivals::Arrivals,
    cycle::LinkView,
    link::LinkState,
    names::CycleId,
    spool::{Answer, Call, OpenCycle},
};

/// The keeper of the link `isp`, and another replica. `None` where no server was started for the tests.
struct Replicas {
    keeper: Spool,
    lease: Lease,
    other: Spool,
}

async fn replicas() -> Option<Replicas> {
    let place = Place::database().await?;
    let (keeper, other) = (place.open().await, place.open().await);
    let lease = keeper.claim("link:isp").await.unwrap().unwrap();
    let keeper = keeper.under(&lease);
    Some(Replicas {
        keeper,
        lease,
        other,
    })
}

fn isp() -> LinkName {
    LinkName::parse("isp").unwrap()
}

fn window(cycle: CycleId) -> OpenCycle {
    OpenCycle {
        link: isp(),
        cycle,
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
    }
}

/// Waits until it is so.
async fn until(mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("in time");
}

#[tokio::test]
async fn what_comes_by_another_replica_is_in_the_tally_of_the_cycle() {
    let Some(Replicas {
        keeper,
        lease: _lease,
        other,
    }) = replicas().await
    else {
        return;
    };
    let stop = CancellationToken::new();
    let (ours, theirs) = (Arrivals::on(&keeper), Arrivals::on(&other));
    for arrivals in [&ours, &theirs] {
        tokio::spawn(arrivals.clone().exchange(stop.clone()));
    }
    assert_eq!(theirs.begin(&isp()).await.cycle(), None);
    let cycle = CycleId::new();
    let open = ours.open(&isp(), cycle, opentelemetry::Context::new());
    keeper.open_window(window(cycle)).await.unwrap();
    // Seen at once, whatever was exchanged.
    let arrival = theirs.begin(&isp()).await;
    assert_eq!(arrival.cycle(), Some(cycle));
    let begun = open.tally().last;
    until(|| open.tally().open == 1).await;
    assert!(open.tally().last > begun, "it is not quiet");
    ours.begin(&isp()).await.accepted(30);
    arrival.accepted(70);
    drop(arrival);
    until(|| open.tally().open == 0 && open.tally().messages == 2).await;
    assert_eq!(open.tally().bytes, 100);
    // A client that goes on, without a transaction.
    let last = open.tally().last;
    theirs.touch(&isp());
    until(|| open.tally().last > last).await;
    let untold = NewMessage {
        cycle: Some(cycle),
        ..message(&[("b@else.example", "link:isp")])
    };
    accept(&other, b"12345\r\n", untold).await;
    assert_eq!(keeper.close_window(cycle).await.unwrap(), Some((1, 7)));
    assert_eq!(theirs.begin(&isp()).await.cycle(), None);
    stop.cancel();
}

#[tokio::test]
async fn a_window_is_open_no_longer_than_its_lease_and_a_replica_that_is_gone_has_nothing_under_way()
 {
    let Some(Replicas {
        keeper,
        lease: _lease,
        other,
    }) = replicas().await
    else {
        return;
    };
    let cycle = CycleId::new();
    keeper.open_window(window(cycle)).await.unwrap();
    let came = Came {
        messages: 2,
        bytes: 9,
        open: 1,
        stirs: 5,
    };
    let known = other.exchange_arrivals(vec![(cycle, came)], Vec::new());
    assert_eq!(known.await.unwrap().open, [window(cycle)]);
    let seen = async || {
        let known = keeper.exchange_arrivals(Vec::new(), vec![cycle]).await;
        known.unwrap().elsewhere[&cycle]
    };
    assert_eq!(seen().await, came);
    change(&keeper, "UPDATE arrivals SET at_ms = at_ms - 60000").await;
    assert_eq!(seen().await, Came { open: 0, ..came });
    change(&other, "UPDATE leases SET expires_ms = 0").await;
    assert_eq!(other.window_over(&isp()).await.unwrap(), None);
}

#[tokio::test]
async fn a_call_that_is_handed_on_starts_one_cycle_and_none_once_it_is_withdrawn() {
    let Some(Replicas {
        keeper,
        lease: _lease,
        other,
    }) = replicas().await
    else {
        return;
    };
    let id = RequestId::parse("6ba7b810-9dad-11d1-80b4-00c04fd430c8").unwrap();
    let call = Call {
        trigger: Trigger::Probe,
        request: Some(RequestKey::new(id, [b"links/isp".as_slice()])),
        caller: window(CycleId::new()).traceparent,
    };
    let mut called = keeper.watch_calls();
    let first = other.hand_on(&isp(), call.clone()).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(5), called.changed()).await;
    waited.expect("the keeper is woken").unwrap();
    assert_eq!(keeper.calls(&isp()).await.unwrap(), [(first, call.clone())]);
    let record = Record::begin(isp(), Trigger::Probe, NOW);
    let begun = keeper.begin_cycle(&record, call.request.clone(), Some(first));
    assert!(begun.await.unwrap());
    assert!(keeper.calls(&isp()).await.unwrap().is_empty());
    let started = Some(Answer::Started(record.id));
    assert_eq!(other.answer_to(first).await.unwrap(), started);
    // What comes later does not change it.
    let late = keeper.answer_call(first, Answer::Busy(record.id));
    late.await.unwrap();
    assert_eq!(other.withdraw(first).await.unwrap(), started);

    let again = Call {
        request: None,
        ..call
    };
    let second = other.hand_on(&isp(), again).await.unwrap();
    assert_eq!(other.withdraw(second).await.unwrap(), None);
    let record = Record::begin(isp(), Trigger::Api, NOW);
    let begun = keeper.begin_cycle(&record, None, Some(second)).await;
    assert!(!begun.unwrap(), "nobody waits for it");
    assert!(keeper.cycle(record.id).await.unwrap().is_none());
}

#[tokio::test]
async fn calls_that_are_waited_for_no_longer_are_not_taken_and_forgotten() {
    let Some(Replicas {
        keeper,
        lease: _lease,
        other,
    }) = replicas().await
    else {
        return;
    };
    let call = Call {
        trigger: Trigger::Api,
        request: None,
        caller: String::new(),
    };
    other.hand_on(&isp(), call.clone()).await.unwrap();
    change(&other, "UPDATE calls SET asked_ms = asked_ms - 26000").await;
    assert!(keeper.calls(&isp()).await.unwrap().is_empty());
    change(&other, "UPDATE calls SET asked_ms = asked_ms - 60000").await;
    other.hand_on(&isp(), call).await.unwrap();
    assert_eq!(change(&other, "UPDATE calls SET reason = ''").await, 1);
}

#[tokio::test]
async fn a_link_is_shown_as_its_keeper_sees_it_while_it_has_one() {
    let Some(Replicas {
        keeper,
        lease,
        other,
    }) = replicas().await
    else {
        return;
    };
    assert_eq!(other.link_view(&isp()).await.unwrap(), None);
    let mut view = LinkView {
        state: LinkState::Dialling,
        since: NOW,
        next: None,
    };
    for state in [LinkState::Up, LinkState::Down] {
        view.state = state;
        view.next = Some(NOW.plus(Duration::from_secs(60)));
        keeper.show_link(&isp(), view).await.unwrap();
        assert_eq!(other.link_view(&isp()).await.unwrap(), Some(view));
    }
    lease.give_back().await;
    assert_eq!(other.link_view(&isp()).await.unwrap(), None);
}
