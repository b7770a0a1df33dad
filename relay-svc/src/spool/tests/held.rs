//! Held mail, and the requests for its release.

use super::*;

pub(super) fn node(name: &str) -> Node {
    Node::of(&name.parse().unwrap())
}

pub(super) async fn hold(spool: &Spool, addresses: &[&str]) {
    let recipients: Vec<_> = addresses.iter().map(|address| (*address, "hold")).collect();
    accept(spool, b"held\r\n", message(&recipients)).await;
}

async fn ask(spool: &Spool, scope: NodeScope) -> u64 {
    spool.request_release(scope, |_| true, NOW).await.unwrap()
}

async fn request(spool: &Spool, name: &str) -> Option<ReleaseRequest> {
    spool.release_request(node(name)).await.unwrap()
}

/// The nodes whose release was requested and is not over.
async fn open(spool: &Spool) -> Vec<Node> {
    let (open, more) = spool.open_releases(0, 9).await.unwrap();
    assert_eq!(more, None);
    open
}

/// The places of what a request asks for.
async fn asked_for(spool: &Spool, name: &str) -> Vec<i64> {
    let Some(request) = request(spool, name).await else {
        return Vec::new();
    };
    let held = spool.held(&node(name), 0, request.upto, 100).await.unwrap();
    held.iter().map(|message| message.seq).collect()
}

async fn a_request_asks_for_what_is_held_now_and_for_nothing_that_comes_later(place: Place) {
    let spool = place.open().await;
    let one = || NodeScope::One(node("ship.example"));
    assert_eq!(ask(&spool, one()).await, 0);
    assert_eq!(request(&spool, "ship.example").await, None);
    hold(&spool, &["a@ship.example", "b@ship.example"]).await;
    hold(&spool, &["a@else.example"]).await;

    assert_eq!(ask(&spool, one()).await, 1, "a message counts once");

    assert_eq!(spool.asked().await, [node("ship.example")].into());
    hold(&spool, &["c@ship.example"]).await;
    assert_eq!(asked_for(&spool, "ship.example").await, [1]);
    assert_eq!(open(&spool).await, [node("ship.example")]);
    assert!(
        spool
            .due("hold:ship.example".into(), Tick::END, 9)
            .await
            .unwrap()
            .is_empty()
    );

    // A request that comes while the first one is carried out stays open behind it.
    let first = request(&spool, "ship.example").await.unwrap();
    assert_eq!(ask(&spool, one()).await, 2);
    spool
        .finish_release(node("ship.example"), first, "1 sent".into())
        .await
        .unwrap();
    assert_eq!(asked_for(&spool, "ship.example").await, [1, 3]);
    let second = request(&spool, "ship.example").await.unwrap();
    spool
        .finish_release(node("ship.example"), second, "all sent".into())
        .await
        .unwrap();
    assert!(open(&spool).await.is_empty());
    let shown = spool.node(node("ship.example")).await.unwrap().unwrap();
    assert_eq!(
        (shown.messages, shown.bytes, shown.releasing),
        (2, 12, false)
    );
    assert_eq!(shown.last_release, "all sent");
}

async fn a_request_is_there_after_a_restart(place: Place) {
    let spool = place.open().await;
    hold(&spool, &["a@ship.example"]).await;
    ask(&spool, NodeScope::One(node("ship.example"))).await;
    drop(spool);
    let spool = place.open().await;
    assert_eq!(asked_for(&spool, "ship.example").await, [1]);
}

async fn nodes_below_one_are_found_and_only_those_that_may_be_asked_for(place: Place) {
    let spool = place.open().await;
    for address in [
        "a@ship.example",
        "a@deck.ship.example",
        "a@low.deck.ship.example",
        "a@airship.example",
        "a@ship.example.org",
        "a@ship-yard.example",
    ] {
        hold(&spool, &[address]).await;
    }
    let scope = || NodeScope::AtOrBelow(node("ship.example"));
    assert_eq!(ask(&spool, scope()).await, 3);
    let open = open(&spool).await;
    assert_eq!(open.len(), 3, "{open:?}");
    let may = |asked: &Node| *asked == node("low.deck.ship.example");
    assert_eq!(spool.request_release(scope(), may, NOW).await.unwrap(), 1);
}

async fn an_attempt_that_fails_leaves_mail_held_and_an_outcome_ends_it(place: Place) {
    let spool = place.open().await;
    hold(&spool, &["a@ship.example"]).await;
    let retry = Settlement::Retry {
        in_doubt: false,
        wait: Duration::from_secs(9),
        attempts: 1,
        waited: Duration::ZERO,
        tried: Duration::ZERO,
        reply: "451 not now".into(),
    };
    let settled = |settlement| {
        vec![Settled {
            idx: 0,
            settlement,
            by: Arc::default(),
        }]
    };
    spool.settle(1, settled(retry), None).await.unwrap();
    let listed = |spool: Spool| async move {
        let filter = ListFilter {
            limit: 9,
            ..ListFilter::default()
        };
        spool.list(filter).await.unwrap()
    };
    let held = &listed(spool.clone()).await[0].recipients[0];
    assert_eq!((held.state, held.attempts), (RecipientState::Held, 1));
    ask(&spool, NodeScope::One(node("ship.example"))).await;
    assert_eq!(asked_for(&spool, "ship.example").await, [1]);

    let report = Some((
        draft(&spool, b"report\r\n").await,
        message(&[("a@else.example", "link:isp")]),
    ));
    spool.settle(1, vec![delivered(0)], None).await.unwrap();
    assert!(asked_for(&spool, "ship.example").await.is_empty());
    // It had its outcome: nobody is told of another one.
    let bounced = Settlement::Bounced {
        reply: "550".into(),
    };
    spool.settle(1, settled(bounced), report).await.unwrap();
    assert_eq!(listed(spool.clone()).await.len(), 1);
}

async fn what_is_held_ages_by_the_clock_of_the_spool(place: Place) {
    let spool = place.open().await;
    hold(&spool, &["a@ship.example", "a@deck.ship.example"]).await;
    let day = Duration::from_secs(86_400);
    let from_the_first = HeldPlace::default;
    assert!(
        spool
            .held_too_long(day, from_the_first(), 9)
            .await
            .unwrap()
            .messages
            .is_empty()
    );
    spool.keep_clock().await.unwrap();
    // As if the relay had run for two days.
    let days = "UPDATE meta SET value = CAST(CAST(value AS BIGINT) + 172800000 AS TEXT) WHERE key = 'clock_ms'";
    assert_eq!(change(&spool, days).await, 1);
    drop(spool);
    let spool = place.open().await;
    hold(&spool, &["b@ship.example"]).await;
    let first = spool.held_too_long(day, from_the_first(), 1).await.unwrap();
    let second = spool
        .held_too_long(day, first.next.unwrap(), 9)
        .await
        .unwrap();
    assert_eq!(second.next, None);
    let old: Vec<_> = first.messages.into_iter().chain(second.messages).collect();
    let mut told: Vec<_> = old
        .iter()
        .map(|(node, message)| (node.to_string(), message.seq, message.recipients.len()))
        .collect();
    told.sort();
    let expected = [
        ("deck.ship.example".to_owned(), 1, 1),
        ("ship.example".to_owned(), 1, 1),
    ];
    assert_eq!(told, expected);
}

async fn nodes_of_no_use_are_forgotten(place: Place) {
    let spool = place.open().await;
    spool
        .know_nodes(vec![node("named.example"), node("old.example")])
        .await
        .unwrap();
    hold(&spool, &["a@ship.example"]).await;
    let named = |asked: &Node| *asked == node("named.example");
    let day = Duration::from_secs(86_400);
    spool.forget_nodes(named, day).await.unwrap();
    assert_eq!(spool.nodes(0, 9).await.unwrap().len(), 3);
    spool.forget_nodes(named, Duration::ZERO).await.unwrap();
    let left = spool.nodes(0, 9).await.unwrap();
    let left: Vec<_> = left.iter().map(|held| held.node.to_string()).collect();
    assert_eq!(left, ["named.example", "ship.example"]);
}

async fn mail_that_is_routed_to_a_hold_ages_from_then_on(place: Place) {
    let spool = place.open().await;
    accept(&spool, b"x\r\n", message(&[("a@ship.example", "link:isp")])).await;
    let days = "INSERT INTO meta (key, value) VALUES ('clock_ms', '864000000') \
                ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    assert_eq!(change(&spool, days).await, 1);
    drop(spool);
    let spool = place.open().await;
    let hold = Target::Hold(Hold {
        release_to: HostPort::parse_url("smtp://mx.ship.example").unwrap(),
        connections: 16,
        etrn_from: Vec::new(),
        etrn_by: Vec::new(),
    });
    let mut routes = Routes::default();
    routes
        .insert(Pattern::parse("ship.example").unwrap(), hold)
        .unwrap();
    assert_eq!(spool.reroute(routes).await.unwrap(), 1);
    let day = Duration::from_secs(86_400);
    let old = spool
        .held_too_long(day, HeldPlace::default(), 9)
        .await
        .unwrap();
    assert!(
        old.messages.is_empty(),
        "it waited for a line, and was not held"
    );
    assert_eq!(ask(&spool, NodeScope::One(node("ship.example"))).await, 1);
}

/// A look-up that does not use its index reads every message of a provider.
#[tokio::test]
async fn look_ups_of_held_mail_and_reports_use_their_indexes() {
    let folder = tempfile::tempdir().unwrap();
    let _spool = Spool::open(folder.path()).unwrap();
    let other = rusqlite::Connection::open(folder.path().join("spool.sqlite")).unwrap();
    for (sql, index) in [
        (
            "SELECT seq, node FROM nodes INDEXED BY nodes_open WHERE requested > done AND seq > 1 ORDER BY seq LIMIT 2",
            "SEARCH nodes USING INDEX nodes_open",
        ),
        (
            "SELECT DISTINCT since_ms, seq, hop FROM recipients INDEXED BY recipients_held_since WHERE state = 6 AND \
             since_ms <= 1 AND (since_ms, seq, hop) > (2, 3, 4) ORDER BY since_ms, seq, hop LIMIT 4",
            "SEARCH recipients USING COVERING INDEX recipients_held_since",
        ),
        (
            "SELECT seq, address FROM recipients INDEXED BY recipients_unread WHERE hop = 'report' AND state = 1 AND \
             seq > 1 ORDER BY seq",
            "SEARCH recipients USING INDEX recipients_unread",
        ),
    ] {
        let mut plan = other.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps = plan.query_map([], |row| row.get::<_, String>(3)).unwrap();
        let steps: Vec<String> = steps.map(Result::unwrap).collect();
        assert!(steps[0].starts_with(index), "{steps:?}");
        assert!(
            !steps.iter().any(|step| step.contains("TEMP B-TREE")),
            "{steps:?}"
        );
    }
}

async fn damaged_messages_hide_none_behind_them(place: Place) {
    let spool = place.open().await;
    for _ in 0..4 {
        hold(&spool, &["a@ship.example"]).await;
    }
    change(
        &spool,
        "UPDATE messages SET origin = 'pigeon' WHERE seq <= 3",
    )
    .await;
    let found = spool.held(&node("ship.example"), 0, 9, 2).await.unwrap();
    assert_eq!(
        found.iter().map(|message| message.seq).collect::<Vec<_>>(),
        [4]
    );
}

on_both![
    a_request_asks_for_what_is_held_now_and_for_nothing_that_comes_later,
    a_request_is_there_after_a_restart,
    nodes_below_one_are_found_and_only_those_that_may_be_asked_for,
    an_attempt_that_fails_leaves_mail_held_and_an_outcome_ends_it,
    what_is_held_ages_by_the_clock_of_the_spool,
    nodes_of_no_use_are_forgotten,
    mail_that_is_routed_to_a_hold_ages_from_then_on,
    damaged_messages_hide_none_behind_them
];
