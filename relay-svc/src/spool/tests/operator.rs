//! The history of attempts, and what an operator changes.

use super::*;
use crate::{
    config,
    operator::{Action, Done, Operator, Order},
    outbound::{Feed, Forwarder, InHand, Unrecorded},
    route::AddressPattern,
    telemetry::Instruments,
};

mod filter;
mod meanwhile;

const CONFIG: &str = r#"
hostname = "relay.branch.example"
state = "STATE"
[[listener]]
address = "127.0.0.1:2525"
[[route]]
domains = ["branch.example"]
to = "smtp://127.0.0.1:2526"
[[route]]
domains = ["ship.example"]
to = "hold"
release_to = "smtp://127.0.0.1:2527"
etrn_from = ["127.0.0.1/32"]
[[route]]
domains = ["*.example"]
to = "link:isp"
[[link]]
name = "isp"
smart_host = "smtp://127.0.0.1:9"
dial = { driver = "implicit" }
[[link]]
name = "vsat"
smart_host = "smtp://127.0.0.1:9"
dial = { driver = "implicit" }
"#;

/// An operator of a relay with this spool; and what its feeds have in hand.
fn operator(spool: &Spool) -> (Operator, InHand) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    let text = CONFIG.replace("STATE", &folder.path().display().to_string());
    std::fs::write(&file, text).unwrap();
    let config = config::load(&file).unwrap();
    let hands = InHand::default();
    let forwarder = Forwarder {
        spool: spool.clone(),
        policy: config.policy,
        retry: config.retry,
        late: config.late,
        hostname: config.hostname,
        postmaster: config.postmaster,
        flight: linkmail_smtp::FlightLimits::default(),
        hosts: config.hosts,
        instruments: Instruments::default(),
        unrecorded: Unrecorded::default(),
        in_hand: hands.clone(),
    };
    let links = config.links.iter();
    let links = links.map(|link| NextHop::Link(link.name.clone()));
    (Operator::new(forwarder, links), hands)
}

fn order(action: Action, filter: MessageFilter) -> Order {
    Order {
        action,
        filter,
        validate_only: false,
        place: FilterPlace::default(),
        operator: "192.0.2.7".into(),
    }
}

/// (messages, recipients, skipped, unfit)
fn counts(done: &Done) -> (u64, u64, u64, u64) {
    assert_eq!(done.next, None);
    (
        done.messages,
        done.recipients,
        done.skipped_recipients,
        done.unfit_recipients,
    )
}

fn like(text: &str) -> AddressPattern {
    AddressPattern::parse(text).unwrap()
}

fn to(address: &str) -> MessageFilter {
    MessageFilter {
        recipient: Some(like(address)),
        ..MessageFilter::default()
    }
}

/// What stands of a recipient of a message: state, next hop, last reply, and the words of its history.
async fn stands(
    spool: &Spool,
    id: MessageId,
    idx: usize,
) -> (RecipientState, String, String, Vec<String>) {
    let message = spool.message(id).await.unwrap().unwrap();
    let row = &message.recipients[idx];
    let words = |past: &PastAttempt| {
        let by = if past.operator.is_empty() {
            &past.host
        } else {
            &past.operator
        };
        format!("{} {by}: {}", past.outcome, past.reply)
    };
    let history = row.history.iter().map(words).collect();
    (row.state, row.hop.clone(), row.last_reply.clone(), history)
}

fn given(idx: i64, settlement: Settlement) -> Settled {
    let by = GivenBy {
        host: "mx.far.example".into(),
        operator: String::new(),
    };
    Settled {
        idx,
        settlement,
        by: Arc::new(by),
    }
}

fn retry(attempts: u32, in_doubt: bool) -> Settlement {
    Settlement::Retry {
        wait: Duration::from_secs(300),
        attempts,
        waited: Duration::ZERO,
        tried: Duration::ZERO,
        in_doubt,
        reply: format!("451 {attempts}"),
    }
}

async fn what_is_tried_again_has_a_history_and_what_is_delivered_at_once_has_none(place: Place) {
    let spool = place.open().await;
    let both = message(&[("a@far.example", "link:isp"), ("b@far.example", "link:isp")]);
    let id = accept(&spool, b"x\r\n", both).await.id;
    let settle = async |settlement: Settlement, idx| {
        spool
            .settle(1, vec![given(idx, settlement)], None)
            .await
            .unwrap();
    };
    let delivered = || Settlement::Delivered {
        reply: "250 OK".into(),
    };
    settle(delivered(), 0).await;
    for attempt in 1..=102 {
        settle(retry(attempt, attempt == 101), 1).await;
    }
    settle(delivered(), 1).await;
    let message = spool.message(id).await.unwrap().unwrap();
    let [first, second] = &message.recipients[..] else {
        panic!("{message:?}")
    };
    assert_eq!(
        (first.history.len(), first.host.as_str()),
        (0, "mx.far.example")
    );
    assert!(first.settled.is_some() && second.settled.is_some());
    let told: Vec<_> = second
        .history
        .iter()
        .map(|past| past.reply.as_str())
        .collect();
    assert_eq!((told.len(), told[0], told[99]), (100, "451 3", "451 102"));
    let outcomes = [&second.history[98].outcome, &second.history[99].outcome];
    assert_eq!(outcomes, ["in_doubt", "deferred"]);
    // A list has the outcomes alone, and the history goes with the message.
    let filter = MessageFilter::default();
    let (listed, _) = spool
        .search(filter, FilterPlace::default(), 9)
        .await
        .unwrap();
    assert!(listed[0].recipients[1].history.is_empty());
    change(&spool, "DELETE FROM messages").await;
    let sql = "SELECT count(*) FROM attempts";
    assert_eq!(
        spool
            .read(move |db| db.value::<i64>(sql, &[]))
            .await
            .unwrap(),
        0
    );
}

async fn mail_is_held_and_taken_up_again_and_its_waits_begin_anew(place: Place) {
    let spool = place.open().await;
    let (operator, _) = operator(&spool);
    let new = message(&[
        ("a@far.example", "link:isp"),
        ("c@ship.example", "hold"),
        ("d@gone.example", "link:old"),
    ]);
    let id = accept(&spool, b"x\r\n", new).await.id;
    spool
        .settle(1, vec![given(0, retry(1, false))], None)
        .await
        .unwrap();
    let carry_out =
        async |action, filter| counts(&operator.carry_out(&order(action, filter)).await.unwrap());
    let by = "192.0.2.7: ";

    assert_eq!(
        carry_out(Action::Hold, MessageFilter::default()).await,
        (1, 3, 0, 0)
    );
    let (state, hop, _, history) = stands(&spool, id, 0).await;
    assert_eq!((state, hop.as_str()), (RecipientState::OnHold, "link:isp"));
    assert_eq!(
        history,
        [
            "deferred mx.far.example: 451 1".to_owned(),
            format!("held {by}")
        ]
    );
    let later = Tick(spool.tick().0 + 1_000_000);
    assert!(
        spool
            .due("link:isp".into(), later, 9)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        carry_out(Action::Expedite, MessageFilter::default()).await,
        (0, 0, 0, 0)
    );

    // What goes where nobody works any more goes by the routes.
    assert_eq!(
        carry_out(Action::Release, MessageFilter::default()).await,
        (1, 3, 0, 0)
    );
    for (idx, state, hop) in [
        (0, RecipientState::Queued, "link:isp"),
        (1, RecipientState::Held, "hold:ship.example"),
        (2, RecipientState::Queued, "link:isp"),
    ] {
        let now = stands(&spool, id, idx).await;
        assert_eq!((now.0, now.1.as_str()), (state, hop), "{idx}");
    }
    let due = spool.due("link:isp".into(), spool.tick(), 9).await.unwrap();
    let first = &due[0].recipients[0];
    assert_eq!((first.attempts, first.attempts_before), (1, 0));

    spool
        .settle(1, vec![given(0, retry(2, false))], None)
        .await
        .unwrap();
    assert_eq!(
        carry_out(Action::Expedite, to("a@far.example")).await,
        (1, 1, 0, 0)
    );
    let due = spool.due("link:isp".into(), spool.tick(), 9).await.unwrap();
    let first = &due[0].recipients[0];
    assert_eq!((first.attempts, first.attempts_before), (2, 2));
    assert!(
        operator
            .is_of_held(&order(Action::Expedite, to("ship.example")))
            .await
            .unwrap()
    );
    assert!(
        !operator
            .is_of_held(&order(Action::Expedite, to("far.example")))
            .await
            .unwrap()
    );

    // What was set aside goes on, too, and why it was stays on record.
    change(
        &spool,
        "UPDATE recipients SET state = 5, last_reply = 'damaged' WHERE idx = 0",
    )
    .await;
    assert_eq!(
        carry_out(Action::Release, to("a@far.example")).await,
        (1, 1, 0, 0)
    );
    let (state, _, reply, history) = stands(&spool, id, 0).await;
    assert_eq!((state, reply.as_str()), (RecipientState::Queued, ""));
    assert_eq!(history.last().unwrap(), &format!("released {by}damaged"));
}

async fn mail_is_sent_another_way(place: Place) {
    let spool = place.open().await;
    let (operator, _) = operator(&spool);
    let new = message(&[
        ("a@far.example", "link:isp"),
        ("b@far.example", "link:isp"),
        ("x@nowhere.test", "link:isp"),
    ]);
    let id = accept(&spool, b"x\r\n", new).await.id;
    let mut woken = spool.watch_hop("link:vsat");
    woken.mark_unchanged();
    let carry_out =
        async |action, filter| counts(&operator.carry_out(&order(action, filter)).await.unwrap());
    assert_eq!(
        carry_out(Action::Hold, to("b@far.example")).await,
        (1, 1, 0, 0)
    );
    assert!(!woken.has_changed().unwrap());
    let vsat = Action::Reroute {
        to: Some(operator.hop("link:vsat").unwrap()),
    };
    assert_eq!(
        carry_out(vsat.clone(), to("far.example")).await,
        (1, 2, 0, 0)
    );
    assert!(
        woken.has_changed().unwrap(),
        "who sends by it is to be woken"
    );
    assert_eq!(carry_out(vsat, to("far.example")).await, (0, 0, 0, 0));
    let (state, hop, _, history) = stands(&spool, id, 0).await;
    assert_eq!((state, hop.as_str()), (RecipientState::Queued, "link:vsat"));
    assert_eq!(history, ["rerouted 192.0.2.7: from link:isp"]);
    let (state, hop, ..) = stands(&spool, id, 1).await;
    assert_eq!((state, hop.as_str()), (RecipientState::OnHold, "link:vsat"));
    let by_routes = Action::Reroute { to: None };
    assert_eq!(
        carry_out(by_routes, MessageFilter::default()).await,
        (1, 2, 0, 1)
    );
    assert_eq!(stands(&spool, id, 0).await.1, "link:isp");
    for wrong in ["link:none", "hold", "report", "smtp://127.0.0.1:2527", ""] {
        let error = operator.hop(wrong).unwrap_err();
        assert!(
            error.ends_with("one of link:isp, link:vsat, smtp://127.0.0.1:2526"),
            "{error}"
        );
    }
}

async fn mail_is_given_up_with_a_report_or_without(place: Place) {
    let spool = place.open().await;
    let (operator, _) = operator(&spool);
    let carry_out =
        async |action, filter| counts(&operator.carry_out(&order(action, filter)).await.unwrap());
    let body = [b"Subject: x\r\n\r\n".as_slice(), &[b'x'; 100_000], b"\r\n"].concat();
    let id = accept(
        &spool,
        &body,
        message(&[("a@far.example", "link:isp"), ("b@far.example", "link:isp")]),
    )
    .await
    .id;
    place.has_bodies(&spool, 1).await;
    assert_eq!(
        carry_out(Action::Delete, to("a@far.example")).await,
        (1, 1, 0, 0)
    );
    let (state, _, reply, history) = stands(&spool, id, 0).await;
    assert_eq!(
        (state, reply.as_str()),
        (RecipientState::Discarded, "deleted by an operator")
    );
    assert_eq!(history, ["deleted 192.0.2.7: "]);
    place.has_bodies(&spool, 1).await;

    change(&spool, "UPDATE recipients SET state = 7 WHERE idx = 1").await;
    let bounce = Action::Bounce {
        reason: "the box is closed".into(),
    };
    assert_eq!(
        carry_out(bounce.clone(), MessageFilter::default()).await,
        (1, 1, 0, 0)
    );
    let why = "returned by an operator: the box is closed";
    let (state, _, reply, history) = stands(&spool, id, 1).await;
    assert_eq!((state, reply.as_str()), (RecipientState::Bounced, why));
    assert_eq!(history, [format!("returned 192.0.2.7: {why}")]);
    let message_now = spool.message(id).await.unwrap().unwrap();
    assert_eq!(message_now.recipients[1].attempts, 0, "it was no attempt");
    // The body goes with the last one, and the report is there.
    let hop = "smtp://127.0.0.1:2526".to_owned();
    let reports = spool.due(hop, spool.tick(), 9).await.unwrap();
    let text = String::from_utf8(read(&spool, reports[0].seq).await).unwrap();
    for part in [
        "Status: 5.0.0",
        why,
        "Final-Recipient: rfc822; b@far.example",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("a@far.example"), "{text}");
    assert_eq!(carry_out(bounce, to("far.example")).await, (0, 0, 0, 0));
    // The last outcome of a message frees its body also where nobody is told.
    let id = accept(&spool, &body, message(&[("c@ship.example", "hold")]))
        .await
        .id;
    assert_eq!(
        carry_out(Action::Delete, to("ship.example")).await,
        (1, 1, 0, 0)
    );
    assert_eq!(stands(&spool, id, 0).await.0, RecipientState::Discarded);
    let sql = "SELECT count(*) FROM messages WHERE done_ms IS NULL AND origin <> 'report'";
    assert_eq!(
        spool
            .read(move |db| db.value::<i64>(sql, &[]))
            .await
            .unwrap(),
        0
    );
}

on_both![
    what_is_tried_again_has_a_history_and_what_is_delivered_at_once_has_none,
    mail_is_held_and_taken_up_again_and_its_waits_begin_anew,
    mail_is_sent_another_way,
    mail_is_given_up_with_a_report_or_without,
];
