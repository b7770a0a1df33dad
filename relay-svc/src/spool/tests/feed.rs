//! What a feed hands out to sessions, and with which bodies.

use super::{
    held::{hold, node},
    *,
};
use rusqlite::Connection;

use crate::outbound::{Feed, InHand, InHandMessage, Left};

/// Up to `limit` messages that a feed hands out.
async fn taken(feed: &Feed, limit: usize) -> Vec<InHandMessage> {
    feed.take(limit).await.unwrap()
}

fn places(messages: &[InHandMessage]) -> Vec<i64> {
    messages.iter().map(|message| message.due.seq).collect()
}

async fn what_sessions_leave_is_handed_out_in_the_next_turn_and_nothing_else_is(place: Place) {
    let spool = place.open().await;
    for _ in 0..8 {
        hold(&spool, &["a@ship.example"]).await;
    }
    let turn = |left| {
        let (spool, hands) = (spool.clone(), InHand::default());
        Feed::of_held(spool, &node("ship.example"), left, 7, hands)
    };
    let feed = turn(Left::default());
    assert_eq!(feed.weight(2000).await.unwrap(), (7, 42));
    assert_eq!(feed.weight(3).await.unwrap(), (3, 18));
    // One session has the first four and gives two of them back, while another has the next two.
    let (mut one, other) = (taken(&feed, 4).await, taken(&feed, 2).await);
    assert_eq!(
        (places(&one), places(&other)),
        (vec![1, 2, 3, 4], vec![5, 6])
    );
    for message in one.split_off(2).into_iter().rev() {
        feed.put_back(message).await;
    }
    // Of what they kept only the second place was not tried.
    let left = feed.left(vec![2]).await;
    assert_eq!(left.again, [2, 3, 4, 7]);
    drop((one, other, feed));

    let feed = turn(left);
    assert_eq!(feed.weight(2000).await.unwrap(), (4, 24));
    assert_eq!(places(&taken(&feed, 50).await), [2, 3, 4, 7]);
    let left = feed.left(Vec::new()).await;
    assert!(left.again.is_empty());
    assert!(taken(&turn(left), 50).await.is_empty());
}

async fn a_message_for_two_nodes_is_released_for_both_at_once(place: Place) {
    let spool = place.open().await;
    hold(&spool, &["a@ship.example", "b@clinic.example"]).await;
    let hands = InHand::default();
    let feed = |name| {
        let hands = hands.clone();
        Feed::of_held(spool.clone(), &node(name), Left::default(), 1, hands)
    };
    let (ship, clinic) = (feed("ship.example"), feed("clinic.example"));
    let (one, other) = (taken(&ship, 9).await, taken(&clinic, 9).await);
    assert_eq!((places(&one), places(&other)), (vec![1], vec![1]));
}

#[tokio::test]
async fn what_could_not_be_read_is_handed_out_again_and_in_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    for _ in 0..5 {
        hold(&spool, &["a@ship.example"]).await;
    }
    let (name, hands) = (node("ship.example"), InHand::default());
    let feed = Feed::of_held(spool, &name, Left::default(), 5, hands);
    let database = Connection::open(folder.path().join("spool.sqlite")).unwrap();
    let rename = |from, to| {
        let sql = format!("ALTER TABLE recipients RENAME COLUMN {from} TO {to}");
        database.execute_batch(&sql).unwrap();
    };
    // Places are still found, and no message can be read.
    rename("address", "elsewhere");
    let failed = feed.take(2).await;
    assert!(matches!(failed, Err(SpoolError::Database(_))));
    assert_eq!(feed.left(Vec::new()).await.again, [1, 2, 3, 4, 5]);

    rename("elsewhere", "address");
    let first = taken(&feed, 2).await;
    assert_eq!(places(&first), [1, 2]);
    // What was read ahead is not handed out yet.
    assert_eq!(feed.left(Vec::new()).await.again, [3, 4, 5]);
    assert_eq!(places(&taken(&feed, 9).await), [3, 4, 5]);
}

/// Messages of these sizes for a smart host, in their order; each has octets of its own.
async fn due_messages(spool: &Spool, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut contents = Vec::new();
    for (octet, size) in (b'a'..).zip(sizes) {
        let content = vec![octet; *size];
        accept(spool, &content, message(&[("b@far.example", "link:isp")])).await;
        contents.push(content);
    }
    contents
}

fn feed_of_isp(spool: &Spool) -> Feed {
    let hop = NextHop::parse("link:isp").unwrap();
    Feed::of_due(spool.clone(), &hop, InHand::default())
}

#[tokio::test]
async fn bodies_come_with_their_messages_a_megabyte_at_once() {
    let rest = (1 << 20) - 10 * INLINE_LIMIT;
    let full = [&[INLINE_LIMIT; 10][..], &[rest, 1]].concat();
    let one_too_many = [&[INLINE_LIMIT; 10][..], &[rest - 1, 1, 1]].concat();
    for (sizes, at_once) in [
        // As many octets as are read at once, to the last one, and more.
        (full, vec![11, 1]),
        (one_too_many, vec![12, 1]),
        // What lies in a file is read from there.
        (vec![10, 4 * INLINE_LIMIT, 10], vec![3]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let contents = due_messages(&spool, &sizes).await;
        let feed = feed_of_isp(&spool);
        let mut all = Vec::new();
        for count in at_once {
            let messages = taken(&feed, 99).await;
            assert_eq!(messages.len(), count, "of {sizes:?}");
            all.extend(messages);
        }
        assert!(taken(&feed, 9).await.is_empty());
        for (message, content) in all.into_iter().zip(contents) {
            let is_small = content.len() <= INLINE_LIMIT;
            assert_eq!(message.body.is_some(), is_small, "of {sizes:?}");
            let body = match message.body {
                Some(body) => body,
                None => spool.body(message.due.seq).await.unwrap(),
            };
            assert_eq!(body.head(usize::MAX).await.unwrap(), content);
        }
    }
}

#[tokio::test]
async fn a_damaged_body_spoils_none_that_was_read_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let contents = due_messages(&spool, &[10, 20, 30]).await;
    let database = Connection::open(folder.path().join("spool.sqlite")).unwrap();
    database
        .execute("UPDATE messages SET hash = zeroblob(32) WHERE seq = 2", [])
        .unwrap();
    let mut read = Vec::new();
    for message in taken(&feed_of_isp(&spool), 9).await {
        let whole = message.body.unwrap().whole().await;
        read.push(whole.map_err(SpoolError::from));
    }
    let [first, second, third] = read.try_into().ok().unwrap();
    assert_eq!(first.unwrap().as_ref(), Some(&contents[0]));
    assert!(second.unwrap_err().is_of_the_message());
    assert_eq!(third.unwrap().as_ref(), Some(&contents[2]));
}

on_both![
    what_sessions_leave_is_handed_out_in_the_next_turn_and_nothing_else_is,
    a_message_for_two_nodes_is_released_for_both_at_once,
];
