//! Which mail a filter takes.

use super::*;

async fn a_filter_takes_what_fits_all_that_it_says(place: Place) {
    let spool = place.open().await;
    let sent = |from: ReversePath, accepted, recipients: &[(&str, &str)]| NewMessage {
        reverse_path: from,
        accepted: Stamp(accepted),
        ..message(recipients)
    };
    let alice = || ReversePath::Mailbox(mailbox("alice@branch.example"));
    let first = accept(
        &spool,
        b"1\r\n",
        sent(alice(), 10, &[("a@far.example", "link:isp")]),
    )
    .await;
    accept(
        &spool,
        &[b'2'; 200],
        sent(
            ReversePath::Null,
            20,
            &[
                ("b@far.example", "link:vsat"),
                ("a@near.far.example", "link:isp"),
            ],
        ),
    )
    .await;
    accept(
        &spool,
        b"3\r\n",
        sent(alice(), 30, &[("c@ship.example", "hold")]),
    )
    .await;
    change(&spool, "UPDATE recipients SET state = 2 WHERE seq = 1").await;
    let any = MessageFilter::default;
    for (what, filter, expected) in [
        ("all", any(), &[1, 2, 3][..]),
        (
            "ids",
            MessageFilter {
                ids: vec![first.id, MessageId::new()],
                ..any()
            },
            &[1],
        ),
        (
            "state",
            MessageFilter {
                state: Some(RecipientState::Held),
                ..any()
            },
            &[3],
        ),
        (
            "id and state",
            MessageFilter {
                ids: vec![first.id],
                state: Some(RecipientState::Held),
                ..any()
            },
            &[],
        ),
        (
            "route",
            MessageFilter {
                route: Some("link:isp".into()),
                ..any()
            },
            &[1, 2],
        ),
        (
            "route and state",
            MessageFilter {
                route: Some("link:isp".into()),
                state: Some(RecipientState::Queued),
                ..any()
            },
            &[2],
        ),
        ("recipient", to("a@far.example"), &[1]),
        ("domain", to("far.example"), &[1, 2]),
        ("below", to("*.far.example"), &[2]),
        // One recipient has to fit, not two of them together.
        (
            "both",
            MessageFilter {
                route: Some("link:vsat".into()),
                ..to("*.far.example")
            },
            &[],
        ),
        (
            "null",
            MessageFilter {
                sender: Some(SenderPattern::Null),
                ..any()
            },
            &[2],
        ),
        (
            "sender",
            MessageFilter {
                sender: Some(SenderPattern::Like(like("al*@branch.example"))),
                ..any()
            },
            &[1, 3],
        ),
        (
            "old",
            MessageFilter {
                accepted_before: Some(Stamp(20)),
                ..any()
            },
            &[1],
        ),
        (
            "large",
            MessageFilter {
                larger_than: Some(199),
                ..any()
            },
            &[2],
        ),
        (
            "not so large",
            MessageFilter {
                larger_than: Some(200),
                ..any()
            },
            &[],
        ),
    ] {
        // Also one by one, going on from where the page before ended.
        for limit in [9, 1] {
            let (mut found, mut next) = (Vec::new(), Some(FilterPlace::default()));
            while let Some(place) = next {
                let place = FilterPlace::of_number(place.to_number());
                let (page, more) = spool.search(filter.clone(), place, limit).await.unwrap();
                assert!(page.len() <= limit);
                found.extend(page.iter().map(|message| message.seq));
                next = more;
            }
            assert_eq!(found, expected, "{what}, {limit} at once");
        }
    }
}

async fn a_look_for_what_is_rare_ends_and_misses_nothing(place: Place) {
    let spool = place.open().await;
    for _ in 0..12 {
        accept(&spool, b"x\r\n", message(&[("a@far.example", "link:isp")])).await;
    }
    // 1,000 recipients each: looks end in the middle of messages.
    let many = "INSERT INTO recipients (seq, idx, address, hop, state, due_ms) VALUES (?1, ?2, ?3, 'link:isp', 1, 0)";
    for seq in 1..=12_i64 {
        let insert = move |db: &Db<'_>| {
            for idx in 1..1000_i64 {
                let rare = seq == 12 && idx == 999;
                let address: &[u8] = if rare {
                    b"rare@far.example"
                } else {
                    b"a@far.example"
                };
                db.execute(many, &[seq.into(), idx.into(), address.into()])?;
            }
            Ok(())
        };
        spool.write(insert).await.unwrap();
    }
    for state in [None, Some(RecipientState::Queued)] {
        let filter = MessageFilter {
            state,
            ..to("rare@far.example")
        };
        let start = FilterPlace::default();
        let (found, next) = spool.search(filter.clone(), start, 9).await.unwrap();
        assert!(found.is_empty());
        let (found, next) = spool.search(filter, next.unwrap(), 9).await.unwrap();
        assert_eq!((found.len(), found[0].seq, next), (1, 12, None));
    }
    let (operator, _) = operator(&spool);
    let mut hold = order(Action::Hold, to("a@far.example"));
    hold.validate_only = true;
    let done = operator.carry_out(&hold).await.unwrap();
    assert_eq!(counts(&done), (12, 11_999, 0, 0));
    hold.validate_only = false;
    let done = operator.carry_out(&hold).await.unwrap();
    assert_eq!(counts(&done), (12, 11_999, 0, 0));
    assert_eq!(
        counts(&operator.carry_out(&hold).await.unwrap()),
        (0, 0, 0, 0)
    );
}

on_both![
    a_filter_takes_what_fits_all_that_it_says,
    a_look_for_what_is_rare_ends_and_misses_nothing
];
