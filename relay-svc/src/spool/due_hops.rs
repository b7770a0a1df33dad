//! Which next hops of many have mail that is due: those whose names begin alike, such as `mx:`.

use super::{Spool, SpoolError, Tick, lanes};

/// The next hops with mail that is due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DueHops {
    /// In alphabetical order.
    pub hops: Vec<String>,
    /// When mail of those that were passed over becomes due.
    pub next_due: Option<Tick>,
}

impl Spool {
    /// Up to `limit` next hops that begin with `prefix`, stand behind `after`, and have mail that is due.
    ///
    /// Some looks into the index for each next hop that is passed, however much mail waits for it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn due_hops(
        &self,
        prefix: &'static str,
        after: String,
        now: Tick,
        limit: usize,
    ) -> Result<DueHops, SpoolError> {
        self.read(move |db| {
            let mut found = DueHops::default();
            let mut at = if after.is_empty() {
                prefix.to_owned()
            } else {
                after.clone()
            };
            while found.hops.len() < limit {
                let next = db.row(NEXT, &[(&at).into()], |row| row.get::<String>(0))?;
                let Some(hop) = next.filter(|hop| hop.starts_with(prefix)) else {
                    break;
                };
                let lanes = lanes::of(db, &hop)?;
                let Some(due) = lanes.iter().map(|lane| lane.first).min() else {
                    at = hop;
                    continue;
                };
                if due <= now {
                    found.hops.push(hop.clone());
                } else {
                    found.next_due = Some(found.next_due.map_or(due, |next| next.min(due)));
                }
                at = hop;
            }
            Ok(found)
        })
        .await
    }
}

/// The next hop behind one.
const NEXT: &str = "SELECT hop FROM recipients INDEXED BY recipients_turn WHERE state = 1 AND hop > ?1 ORDER BY hop LIMIT 1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::place::{Place, change_octets, on_both};

    /// Next hops of recipients, each with the state and when it is due.
    const RECIPIENTS: [(&str, i64, i64); 11] = [
        ("link:isp", 1, 10),
        ("mx:a.example", 1, 10),
        ("mx:a.example", 1, 11),
        ("mx:a.example", 1, 90),
        ("mx:b.example", 1, 50),
        ("mx:b.example", 1, 60),
        ("mx:c.example", 1, 20),
        ("mx:d.example", 2, 10),
        ("mx:e.example", 1, 30),
        ("report", 1, 10),
        ("smtp://a:25", 1, 10),
    ];

    async fn each_hop_with_due_mail_is_found_once_and_none_beside_them(place: Place) {
        let spool = place.open().await;
        let message = "INSERT INTO messages (seq, id, accepted_ms, reverse_path, origin, size, eight_bit, hash, traceparent) \
                       VALUES (1, ?1, 0, ?1, 'smtp', 0, 0, ?1, '')";
        change_octets(&spool, message, &[1]).await;
        for (idx, (hop, state, due)) in (0_i64..).zip(RECIPIENTS) {
            let sql = "INSERT INTO recipients (seq, idx, address, hop, state, due_ms) VALUES (1, ?1, ?5, ?2, ?3, ?4)";
            let row = move |db: &super::super::Db<'_>| {
                let address = b"x".into();
                db.execute(
                    sql,
                    &[idx.into(), hop.into(), state.into(), due.into(), address],
                )
            };
            spool.write(row).await.unwrap();
        }
        for (after, now, limit, hops, next) in [
            ("", 30, 9, &["a", "c", "e"][..], Some(50)),
            ("", 30, 2, &["a", "c"], Some(50)),
            ("mx:a.example", 30, 9, &["c", "e"], Some(50)),
            ("mx:c.example", 30, 9, &["e"], None),
            ("mx:e.example", 30, 9, &[], None),
            ("", 5, 9, &[], Some(10)),
            ("", 100, 9, &["a", "b", "c", "e"], None),
        ] {
            let found = spool
                .due_hops("mx:", after.to_owned(), Tick(now), limit)
                .await
                .unwrap();
            let hops: Vec<_> = hops.iter().map(|hop| format!("mx:{hop}.example")).collect();
            let next_due = next.map(Tick);
            assert_eq!(
                found,
                DueHops { hops, next_due },
                "after {after:?} at {now}"
            );
        }
    }

    #[test]
    fn the_next_hop_is_found_by_one_look_into_the_index() {
        let folder = tempfile::tempdir().unwrap();
        let other = crate::spool::schema::open(folder.path()).unwrap();
        let plan = format!("EXPLAIN QUERY PLAN {NEXT}");
        let plan: String = other
            .query_row(&plan, ["mx:"], |row| row.get("detail"))
            .unwrap();
        assert!(plan.starts_with("SEARCH recipients USING"), "{plan}");
    }

    on_both![each_hop_with_due_mail_is_found_once_and_none_beside_them];
}
