//! What a move takes along, and who may write to its database.

use super::{super::tests::place::Place, *};
use crate::spool::Spool;

/// Where a server was started for the tests.
async fn server() -> Option<PgConnectOptions> {
    match Place::database().await? {
        Place::Database(options) => Some(*options),
        Place::Folder(_) => None,
    }
}

fn spool() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    drop(schema::open(folder.path()).unwrap());
    folder
}

#[tokio::test]
async fn only_the_newest_of_two_moves_goes_on() {
    let Some(options) = server().await else {
        return;
    };
    let folder = spool();
    let source = schema::open(folder.path()).unwrap();
    make_tables(&options, "here").await.unwrap();
    let mut moves = Vec::new();
    for token in ["first", "second"] {
        let mut one = Destination::connect(&options, "here", token.to_owned())
            .await
            .unwrap();
        let tables = catalog::tables(&source, &one.columns().await.unwrap()).unwrap();
        assert!(matches!(one.begin(&tables).await, Ok(Begun::Empty)));
        moves.push(one);
    }
    let begun = moves[0].batch().await;
    assert!(matches!(begun, Err(MoveError::Overtaken(_))), "{begun:?}");
    let copied = moves[0].copied().await;
    assert!(matches!(copied, Err(MoveError::Overtaken(_))), "{copied:?}");
    moves[1].batch().await.unwrap();
    moves[1].commit().await.unwrap();
    let refused = Spool::connect(options).await.err();
    assert!(matches!(refused, Some(SpoolError::HalfMoved { .. })));
}

#[tokio::test]
async fn texts_and_octets_arrive_as_they_are_and_what_postgresql_cannot_have_is_replaced() {
    let Some(options) = server().await else {
        return;
    };
    let folder = spool();
    let source = schema::open(folder.path()).unwrap();
    let sql = "INSERT INTO messages (id, accepted_ms, reverse_path, origin, size, eight_bit, hash, traceparent, done_ms) \
               VALUES (x'00ff5c', -1, x'0009', ?1, 9223372036854775807, 0, x'', 'a' || char(0) || 'b', NULL)";
    source.execute(sql, ["tab\tline\n\\N ü"]).unwrap();
    let sql = "INSERT INTO bodies VALUES (1, zeroblob(9000000))";
    source.execute(sql, []).unwrap();
    drop(source);
    let moved = move_to(folder.path(), options.clone(), "here").await;
    // The hash of that body is wrong here already.
    let moved = moved.unwrap().unwrap();
    assert_eq!((moved.messages, moved.damages), (1, 1));
    let spool = Spool::connect(options).await.unwrap();
    let sql = "SELECT id, accepted_ms, reverse_path, origin, size, traceparent, done_ms, octet_length(content) \
               FROM messages JOIN bodies USING (seq)";
    let row = spool.read(move |db| {
        db.row(sql, &[], |row| {
            assert_eq!(row.get::<Vec<u8>>(0)?, b"\x00\xff\\");
            assert_eq!(row.get::<i64>(1)?, -1);
            assert_eq!(row.get::<Vec<u8>>(2)?, b"\0\t");
            assert_eq!(row.get::<String>(3)?, "tab\tline\n\\N ü");
            assert_eq!(row.get::<i64>(4)?, i64::MAX);
            assert_eq!(row.get::<String>(5)?, "a\u{fffd}b");
            assert_eq!(row.get::<Option<i64>>(6)?, None);
            assert_eq!(row.get::<i64>(7)?, 9_000_000);
            Ok(())
        })
    });
    assert!(row.await.unwrap().is_some());
}
