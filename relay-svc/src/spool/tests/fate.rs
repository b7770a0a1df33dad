//! What becomes of messages: repeats, outcomes, order, routes.

use super::*;

/// State and attempts of each recipient of the first message.
async fn states(spool: &Spool) -> Vec<(RecipientState, u32)> {
    let filter = ListFilter {
        limit: 1,
        ..ListFilter::default()
    };
    let listed = spool.list(filter).await.unwrap();
    listed[0]
        .recipients
        .iter()
        .map(|r| (r.state, r.attempts))
        .collect()
}

async fn a_repeated_call_gets_the_first_message_and_other_content_is_refused(place: Place) {
    let spool = place.open().await;
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

async fn changes_that_wait_together_are_kept_or_refused_each_for_itself(place: Place) {
    let spool = place.open().await;
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

async fn a_large_report_lies_in_a_file_and_one_that_is_not_stored_leaves_none(place: Place) {
    let spool = place.open().await;
    let to = ("b@else.example", "link:isp");
    let seq = {
        accept(&spool, b"x\r\n", message(&[to])).await;
        spool.due("link:isp".into(), Tick::END, 9).await.unwrap()[0].seq
    };
    let large = vec![b'y'; 200_000];
    for _ in 0..2 {
        let bounced = Settled {
            idx: 0,
            settlement: Settlement::Bounced {
                reply: "550 no".into(),
            },
            by: Arc::default(),
        };
        let report = message(&[("a@branch.example", "smtp://127.0.0.1:25")]);
        let report = Some((draft(&spool, &large).await, report));
        spool.settle(seq, vec![bounced], report).await.unwrap();
        place.has_bodies(&spool, 1).await;
    }
    let hop = "smtp://127.0.0.1:25".to_owned();
    let reports = spool.due(hop, Tick::END, 9).await.unwrap();
    assert_eq!((reports.len(), reports[0].size), (1, 200_000));
    assert_eq!(read(&spool, reports[0].seq).await, large);
}

async fn an_outcome_is_recorded_once_with_its_report_and_frees_the_body_with_the_last_one(
    place: Place,
) {
    let spool = place.open().await;
    let both = message(&[
        ("b@else.example", "link:isp"),
        ("c@else.example", "link:isp"),
    ]);
    accept(&spool, &[b'x'; 100_000], both).await;
    let seq = spool.due("link:isp".into(), Tick::END, 1).await.unwrap()[0].seq;
    spool.settle(seq, vec![delivered(0)], None).await.unwrap();
    assert_eq!(
        spool.due("link:isp".into(), Tick::END, 9).await.unwrap()[0]
            .recipients
            .len(),
        1
    );
    place.has_bodies(&spool, 1).await;

    let report = message(&[("a@branch.example", "smtp://127.0.0.1:25")]);
    let bounced = Settled {
        idx: 1,
        settlement: Settlement::Bounced {
            reply: "550 no".into(),
        },
        by: Arc::default(),
    };
    spool
        .settle(
            seq,
            vec![bounced],
            Some((draft(&spool, b"report\r\n").await, report)),
        )
        .await
        .unwrap();
    place.has_bodies(&spool, 0).await;
    assert!(
        spool
            .due("link:isp".into(), Tick::END, 9)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(spool.queued("smtp://127.0.0.1:25".into()).await.unwrap(), 1);
    let both = [(RecipientState::Delivered, 1), (RecipientState::Bounced, 1)];
    assert_eq!(states(&spool).await, both);
}

async fn what_is_due_comes_in_order_and_the_backlog_says_what_is_not_due_yet(place: Place) {
    let spool = place.open().await;
    for _ in 0..3 {
        accept(&spool, b"x\r\n", message(&[("b@else.example", "link:isp")])).await;
    }
    let now = Tick(1_000_000_000);
    let dues = "UPDATE recipients SET due_ms = 1000000000 - 1000 * CASE seq WHEN 1 THEN 30 WHEN 2 THEN 10 ELSE 20 END";
    assert_eq!(change(&spool, dues).await, 3);
    accept(
        &spool,
        b"x\r\n",
        message(&[("b@else.example", "link:other")]),
    )
    .await;
    let due = spool.due("link:isp".into(), now, 2).await.unwrap();
    let ages = due
        .iter()
        .map(|message| now.since(message.recipients[0].due).as_secs());
    assert_eq!(ages.collect::<Vec<_>>(), [30, 20]);
    spool.inner.clock.set(age::Hands {
        ran: Duration::from_secs(1_000_000),
        rested: Duration::ZERO,
    });
    let retry = Settlement::Retry {
        in_doubt: false,
        wait: Duration::from_secs(300),
        attempts: 1,
        waited: Duration::ZERO,
        tried: Duration::ZERO,
        reply: "451".into(),
    };
    spool
        .settle(
            due[0].seq,
            vec![Settled {
                idx: 0,
                settlement: retry,
                by: Arc::default(),
            }],
            None,
        )
        .await
        .unwrap();
    let backlog = spool.backlog("link:isp".into(), now, 100).await.unwrap();
    let oldest_due = Some(Tick(now.0 - 20_000));
    let next_due = backlog.next_due.unwrap();
    let wait = next_due.since(now).as_secs();
    assert!((300..310).contains(&wait), "{wait} s");
    assert_eq!(
        backlog,
        Backlog {
            due: 2,
            oldest_due,
            next_due: Some(next_due)
        }
    );
    assert_eq!(
        spool
            .backlog("link:isp".into(), next_due, 1)
            .await
            .unwrap()
            .due,
        1,
        "the count stops at its cap"
    );
    assert_eq!(
        spool
            .due("link:isp".into(), next_due, 9)
            .await
            .unwrap()
            .len(),
        3
    );
}

async fn a_damaged_row_is_set_aside_and_does_not_stop_the_rest(place: Place) {
    let spool = place.open().await;
    accept(&spool, b"x\r\n", message(&[("b@else.example", "link:isp")])).await;
    let good = accept(&spool, b"x\r\n", message(&[("c@else.example", "link:isp")])).await;
    change_octets(
        &spool,
        "UPDATE recipients SET address = ?1 WHERE seq = 1",
        &[0xff],
    )
    .await;
    let due = spool.due("link:isp".into(), Tick::END, 9).await.unwrap();
    assert_eq!(due.iter().map(|d| d.id).collect::<Vec<_>>(), [good.id]);
    let aside = ListFilter {
        limit: 9,
        state: Some(RecipientState::SetAside),
        after: 0,
    };
    assert_eq!(spool.list(aside).await.unwrap().len(), 1);
}

async fn queued_mail_follows_changed_routes(place: Place) {
    let spool = place.open().await;
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
                Target::Hop(NextHop::parse(hop).unwrap()),
            )
            .unwrap();
    }
    assert_eq!(spool.reroute(routes.clone()).await.unwrap(), 1);
    assert_eq!(spool.reroute(routes).await.unwrap(), 0);
    assert_eq!(
        spool.due("link:vsat".into(), Tick::END, 9).await.unwrap()[0].recipients[0].address,
        mailbox("b@else.example")
    );
    assert_eq!(
        spool.due("link:isp".into(), Tick::END, 9).await.unwrap()[0].recipients[0].address,
        mailbox("c@kept.example")
    );
}

async fn mail_that_no_route_takes_any_more_is_set_aside_until_one_does(place: Place) {
    let spool = place.open().await;
    accept(&spool, b"x\r\n", message(&[("b@else.example", "link:isp")])).await;
    let mut routes = Routes::default();
    assert_eq!(spool.reroute(routes.clone()).await.unwrap(), 1);
    assert!(
        spool
            .due("link:isp".into(), Tick::END, 9)
            .await
            .unwrap()
            .is_empty()
    );
    routes
        .insert(
            Pattern::Any,
            Target::Hop(NextHop::parse("link:isp").unwrap()),
        )
        .unwrap();
    assert_eq!(spool.reroute(routes).await.unwrap(), 1);
    assert_eq!(
        spool
            .due("link:isp".into(), Tick::END, 9)
            .await
            .unwrap()
            .len(),
        1
    );
}

async fn a_late_word_on_a_recipient_whose_outcome_is_recorded_changes_nothing(place: Place) {
    let spool = place.open().await;
    accept(&spool, b"x\r\n", message(&[("b@else.example", "link:isp")])).await;
    let seq = spool.due("link:isp".into(), Tick::END, 1).await.unwrap()[0].seq;
    spool.settle(seq, vec![delivered(0)], None).await.unwrap();
    let late = Settlement::Retry {
        in_doubt: false,
        wait: Duration::ZERO,
        attempts: 9,
        waited: Duration::ZERO,
        tried: Duration::ZERO,
        reply: "late".into(),
    };
    spool
        .settle(
            seq,
            vec![Settled {
                idx: 0,
                settlement: late,
                by: Arc::default(),
            }],
            None,
        )
        .await
        .unwrap();
    assert_eq!(states(&spool).await, [(RecipientState::Delivered, 1)]);
}

async fn finished_messages_are_forgotten_when_they_are_old_enough(place: Place) {
    let spool = place.open().await;
    accept(&spool, b"x\r\n", message(&[("b@else.example", "link:isp")])).await;
    let seq = spool.due("link:isp".into(), Tick::END, 1).await.unwrap()[0].seq;
    spool.settle(seq, vec![delivered(0)], None).await.unwrap();
    assert_eq!(spool.forget(Duration::from_secs(86_400)).await.unwrap(), 0);
    assert_eq!(spool.forget(Duration::ZERO).await.unwrap(), 1);
}

async fn what_a_peer_hands_over_again_is_not_taken_twice(place: Place) {
    let spool = place.open().await;
    let hop = "smtp://mail.branch.example:25";
    let id = PeerId::from_octets([7; 16]);
    let hand_over = async |peer: &str, recipients: &[(&str, &str)]| {
        let mut draft = spool.draft();
        draft.write(b"Subject: x\r\n").await.unwrap();
        let handover = Some(Handover {
            peer: peer.to_owned(),
            id,
        });
        let new = NewMessage {
            handover,
            ..message(recipients)
        };
        let own = new.id;
        (own, spool.accept(draft, new).await.unwrap().id)
    };
    let (a, b) = (("a@branch.example", hop), ("b@branch.example", hop));
    let (first, answered) = hand_over("isp", &[a]).await;
    assert_eq!(first, answered);
    let (_, answered) = hand_over("isp", &[a]).await;
    assert_eq!(answered, first, "the repeat has the first reply");
    // A recipient that was not taken the first time is taken now, and only it.
    let (second, answered) = hand_over("isp", &[a, b]).await;
    assert_eq!(answered, second);
    let stored = spool.message(second).await.unwrap().unwrap();
    let taken: Vec<_> = stored
        .recipients
        .iter()
        .map(|r| r.address.as_str())
        .collect();
    assert_eq!(taken, ["b@branch.example"]);
    // The id of one peer means nothing for another, however alike their names are.
    for other in [
        "other",
        "ISP",
        "isp ",
        "name:isp",
        "10.1.0.0/16",
        "name:10.1.0.0/16",
    ] {
        let (own, answered) = hand_over(other, &[a]).await;
        assert_eq!(answered, own, "{other}");
        assert_eq!(hand_over(other, &[a]).await.1, own, "{other}");
    }
    assert_eq!(hand_over("isp", &[a]).await.1, first);
    spool.forget_repeats(Duration::ZERO).await.unwrap();
    let (again, answered) = hand_over("isp", &[a]).await;
    assert_eq!(answered, again, "what was forgotten is new");
}

async fn what_the_sender_asked_for_is_kept_with_the_message(place: Place) {
    let spool = place.open().await;
    let hop = "smtp://mail.branch.example:25";
    let mut new = message(&[("a@branch.example", hop)]);
    new.wish = MessageWish {
        ret: Some(Ret::Headers),
        envelope_id: EnvelopeId::new("a+b c"),
        priority: Priority::new(-4).unwrap(),
        deliver_by: DeliverBy::parse(b"600;RT"),
    };
    new.utf8_header = true;
    let odd = "j\u{f6}rg@b\u{fc}cher.example";
    new.recipients[0].address = Mailbox::parse_utf8(odd.as_bytes()).unwrap();
    new.recipients[0].wish = RecipientWish {
        notify: Notify::parse(b"NEVER"),
        original: OriginalRecipient::parse(b"rfc822;x+2By@branch.example", false),
    };
    let (wish, of_recipient) = (new.wish.clone(), new.recipients[0].wish.clone());
    spool.accept(spool.draft(), new).await.unwrap();
    let due = spool.due(hop.to_owned(), Tick::END, 1).await.unwrap();
    assert_eq!(due[0].wish, wish);
    let end = due[0].deadline.unwrap();
    let left = |seconds: i64| due[0].left(Tick(end.0 - 1000 * seconds));
    assert_eq!(left(600), wish.deliver_by);
    assert_eq!(left(45), DeliverBy::parse(b"45;RT"));
    assert!(left(0).is_some_and(DeliverBy::is_lost));
    assert!(due[0].utf8_header);
    assert_eq!(due[0].recipients[0].address.to_string(), odd);
    let node = Node::of(due[0].recipients[0].address.domain());
    assert_eq!(node.as_str(), "xn--bcher-kva.example");
    assert_eq!(due[0].recipients[0].wish, of_recipient);
    assert!(!of_recipient.wants_failure() && RecipientWish::default().wants_failure());
}

on_both![
    a_repeated_call_gets_the_first_message_and_other_content_is_refused,
    changes_that_wait_together_are_kept_or_refused_each_for_itself,
    a_large_report_lies_in_a_file_and_one_that_is_not_stored_leaves_none,
    an_outcome_is_recorded_once_with_its_report_and_frees_the_body_with_the_last_one,
    what_is_due_comes_in_order_and_the_backlog_says_what_is_not_due_yet,
    a_damaged_row_is_set_aside_and_does_not_stop_the_rest,
    queued_mail_follows_changed_routes,
    mail_that_no_route_takes_any_more_is_set_aside_until_one_does,
    a_late_word_on_a_recipient_whose_outcome_is_recorded_changes_nothing,
    finished_messages_are_forgotten_when_they_are_old_enough,
    what_a_peer_hands_over_again_is_not_taken_twice,
    what_the_sender_asked_for_is_kept_with_the_message
];
