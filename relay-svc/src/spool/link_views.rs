//! The links as their keepers see them, in a database that replicas share, so that any of them can show them.

use super::{Spool, SpoolError, leases::now};
use crate::{cycle::LinkView, names::LinkName};

impl Spool {
    /// Shows a link to the other replicas, under the lease of its keeper.
    ///
    /// # Errors
    /// The database cannot be written, or the lease is lost.
    pub async fn show_link(&self, link: &LinkName, view: LinkView) -> Result<(), SpoolError> {
        let Some(held) = self.lease.clone() else {
            return Ok(());
        };
        let sql = "INSERT INTO link_views (link, view, lease, token) VALUES (?1, ?2, ?3, ?4) \
                   ON CONFLICT (link) DO UPDATE SET view = excluded.view, lease = excluded.lease, token = excluded.token";
        let link = link.clone();
        let json = serde_json::to_string(&view).map_err(|error| damaged(&error))?;
        self.write(move |db| {
            let (lease, token) = held.name_and_token();
            let row = [
                link.as_str().into(),
                (&json).into(),
                lease.into(),
                token.into(),
            ];
            db.execute(sql, &row).map(drop)
        })
        .await
    }

    /// A link as its keeper sees it, whichever replica that is in; `None` while it has none.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn link_view(&self, link: &LinkName) -> Result<Option<LinkView>, SpoolError> {
        let sql = concat!(
            "SELECT v.view FROM link_views v JOIN leases l ON l.name = v.lease AND l.token = v.token \
             WHERE v.link = ?1 AND l.expires_ms > ",
            now!()
        );
        let link = link.clone();
        let json =
            self.read(move |db| db.row(sql, &[link.as_str().into()], |row| row.get::<String>(0)));
        let view = json.await?.map(|json| serde_json::from_str(&json));
        view.transpose().map_err(|error| damaged(&error))
    }
}

fn damaged(error: &serde_json::Error) -> SpoolError {
    SpoolError::Damaged(format!("link: {error}"))
}
