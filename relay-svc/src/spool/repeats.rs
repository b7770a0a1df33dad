//! What other relays handed over under an id of theirs: a repeat is recognised by recipient, and not taken again.

use std::time::Duration;

use super::{
    NewMessage, NewRecipient, Spool, SpoolError, db::Db, messages::Handover, store::millis,
};
use crate::names::MessageId;

/// Those recipients of a message that its peer has not handed over before, which are remembered now; and, if none are left,
/// the identity that the message got the first time.
pub(super) fn take<'a>(
    db: &Db<'_>,
    message: &'a NewMessage,
    handover: &Handover,
    clock: Duration,
) -> Result<(Vec<&'a NewRecipient>, Option<MessageId>), SpoolError> {
    let known = "SELECT message FROM repeats WHERE peer = ?1 AND id = ?2 AND address = ?3";
    let remember =
        "INSERT INTO repeats (peer, id, address, message, since_ms) VALUES (?1, ?2, ?3, ?4, ?5)";
    let (mut fresh, mut first) = (Vec::new(), None);
    for recipient in &message.recipients {
        let (peer, id) = (&handover.peer, handover.id.octets());
        let address = recipient.address.to_bytes();
        let asked = [peer.into(), (&id).into(), (&address).into()];
        let found: Option<Vec<u8>> = db.row(known, &asked, |row| row.get(0))?;
        match found {
            Some(bytes) => {
                let id = MessageId::from_bytes(&bytes)
                    .ok_or_else(|| SpoolError::Damaged("the message of a repeat".into()))?;
                first.get_or_insert(id);
            }
            None => {
                let [peer, id, address] = asked;
                let message = message.id.as_bytes().into();
                db.execute(
                    remember,
                    &[peer, id, address, message, millis(clock).into()],
                )?;
                fresh.push(recipient);
            }
        }
    }
    let first = first.filter(|_| fresh.is_empty());
    Ok((fresh, first))
}

impl Spool {
    /// Forgets what was handed over longer ago than `age` by the spool's clock, some at a time.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_repeats(&self, age: Duration) -> Result<(), SpoolError> {
        let Some(before) = self.clock().checked_sub(age) else {
            return Ok(());
        };
        let sql = "DELETE FROM repeats WHERE (peer, id, address) IN \
                   (SELECT peer, id, address FROM repeats WHERE since_ms <= ?1 LIMIT 10000)";
        self.write(move |db| db.execute(sql, &[millis(before).into()]).map(drop))
            .await
    }
}
