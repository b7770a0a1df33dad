//! What was found out of the TLS policies of domains, kept for as long as it is of use. What an entry says is its owner's.

use super::{Spool, SpoolError, db::Db};
use crate::clock::Stamp;

/// Entries of so many domains are kept.
const DOMAINS: i64 = 10_000;

impl Spool {
    /// The entry of a domain, as it was given to [`Self::keep_policy`].
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn policy(&self, domain: &str) -> Result<Option<String>, SpoolError> {
        let domain = domain.to_owned();
        let sql = "SELECT entry FROM policies WHERE domain = ?1";
        self.read(move |db| db.row(sql, &[(&domain).into()], |row| row.get(0)))
            .await
    }

    /// Keeps an entry until `ends`, in place of the one that the domain had. Of too many those that end first go.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn keep_policy(
        &self,
        domain: &str,
        entry: String,
        ends: Stamp,
        now: Stamp,
    ) -> Result<(), SpoolError> {
        let domain = domain.to_owned();
        let sql = "INSERT INTO policies (domain, entry, ends_ms) VALUES (?1, ?2, ?3) \
                   ON CONFLICT (domain) DO UPDATE SET entry = excluded.entry, ends_ms = excluded.ends_ms";
        self.write(move |db| {
            db.execute(sql, &[(&domain).into(), (&entry).into(), ends.0.into()])?;
            trim(db, now, DOMAINS)
        })
        .await
    }
}

fn trim(db: &Db<'_>, now: Stamp, most: i64) -> Result<(), SpoolError> {
    db.execute("DELETE FROM policies WHERE ends_ms <= ?1", &[now.0.into()])?;
    let sql = "DELETE FROM policies WHERE domain IN \
               (SELECT domain FROM policies ORDER BY ends_ms DESC LIMIT 1000000 OFFSET ?1)";
    db.execute(sql, &[most.into()]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::place::{Place, on_both};

    async fn of_too_many_domains_those_that_end_first_go(place: Place) {
        let spool = place.open().await;
        for (domain, ends) in [("a", 30), ("b", 10), ("c", 40), ("d", 20), ("e", 50)] {
            let kept = spool.keep_policy(domain, String::new(), Stamp(ends), Stamp(0));
            kept.await.unwrap();
        }
        let left = async |now, most| {
            let left = spool.write(move |db| {
                trim(db, now, most)?;
                let sql = "SELECT domain FROM policies ORDER BY domain";
                db.query(sql, &[], |row| row.get::<String>(0))
            });
            left.await.unwrap().concat()
        };
        assert_eq!(left(Stamp(9), 5).await, "abcde");
        assert_eq!(left(Stamp(10), 5).await, "acde");
        assert_eq!(left(Stamp(10), 2).await, "ce");
    }

    on_both![of_too_many_domains_those_that_end_first_go];
}
