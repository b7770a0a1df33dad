//! What lies there after a restart, a crash, a refusal, damage.

use super::*;

async fn what_was_accepted_is_there_after_the_spool_was_opened_again(place: Place) {
    let large: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let (first, second) = {
        let spool = place.open().await;
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
    let spool = place.open().await;
    // Only the large body lies beside the messages.
    place.has_bodies(&spool, 1).await;
    let due = spool.due("link:isp".into(), Tick::END, 10).await.unwrap();
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

#[tokio::test]
async fn two_processes_cannot_use_one_spool() {
    let folder = tempfile::tempdir().unwrap();
    let _spool = Spool::open(folder.path()).unwrap();
    assert!(matches!(
        Spool::open(folder.path()),
        Err(SpoolError::InUse { .. })
    ));
}

async fn a_draft_that_is_dropped_leaves_nothing_behind(place: Place) {
    let spool = place.open().await;
    let large = draft(&spool, &[b'x'; 300_000]).await;
    place.has_bodies(&spool, 1).await;
    drop(large);
    place.has_bodies(&spool, 0).await;
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
    embedded::tests::unlocked(folder.path()).await;
    let spool = Spool::open(folder.path()).unwrap();
    assert_eq!(
        std::fs::read_dir(folder.path().join("bodies"))
            .unwrap()
            .count(),
        1
    );
    let due = spool.due("link:isp".into(), Tick::END, 1).await.unwrap();
    assert_eq!(
        (due[0].id, read(&spool, due[0].seq).await.len()),
        (kept.id, 100_000)
    );
}

async fn a_refused_or_repeated_large_message_leaves_no_file(place: Place) {
    let spool = place.open().await;
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
    place.has_bodies(&spool, 1).await;
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
    assert_eq!(
        std::fs::read_dir(folder.path().join("bodies"))
            .unwrap()
            .count(),
        1
    );
}

async fn a_body_that_is_not_what_was_accepted_is_noticed_at_its_end(place: Place) {
    let spool = place.open().await;
    accept(
        &spool,
        b"Subject: pay 100\r\n",
        message(&[("b@else.example", "link:isp")]),
    )
    .await;
    change_octets(
        &spool,
        "UPDATE bodies SET content = ?1",
        b"Subject: pay 900\r\n",
    )
    .await;
    let mut body = spool.body(1).await.unwrap();
    assert_eq!(body.next().await.unwrap().len(), 18);
    assert_eq!(
        body.next().await.unwrap_err().kind(),
        std::io::ErrorKind::InvalidData
    );
}

on_both![
    what_was_accepted_is_there_after_the_spool_was_opened_again,
    a_draft_that_is_dropped_leaves_nothing_behind,
    a_refused_or_repeated_large_message_leaves_no_file,
    a_body_that_is_not_what_was_accepted_is_noticed_at_its_end
];
