//! What other relays handed over under an id of theirs: a repeat is recognised by recipient, and not taken again.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::{NewMessage, NewRecipient, Spool, SpoolError, messages::Handover, store::millis};
use crate::names::MessageId;

/// Those recipients of a message that its peer has not handed over before, which are remembered now; and, if none are left,
/// the identity that the message got the first time.
pub(super) fn take<'a>(
    connection: &Connection,
    message: &'a NewMessage,
    handover: &Handover,
    clock: Duration,
) -> Result<(Vec<&'a NewRecipient>, Option<MessageId>), SpoolError> {
    let mut known = connection.prepare_cached(
        "SELECT message FROM repeats WHERE peer = ?1 AND id = ?2 AND address = ?3",
    )?;
    let mut remember = connection.prepare_cached(
        "INSERT INTO repeats (peer, id, address, message, since_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let (mut fresh, mut first) = (Vec::new(), None);
    for recipient in &message.recipients {
        let (id, address) = (handover.id.octets(), recipient.address.to_bytes());
        let found: Option<Vec<u8>> = known
            .query_row(params![handover.peer, id, address], |row| row.get(0))
            .optional()?;
        match found {
            Some(bytes) => {
                let id = MessageId::from_bytes(&bytes)
                    .ok_or_else(|| SpoolError::Damaged("the message of a repeat".into()))?;
                first.get_or_insert(id);
            }
            None => {
                let since = millis(clock);
                let message = message.id.as_bytes();
                remember.execute(params![handover.peer, id, address, message, since])?;
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
        self.write(move |connection| {
            connection
                .prepare_cached(
                    "DELETE FROM repeats WHERE (peer, id, address) IN \
                     (SELECT peer, id, address FROM repeats WHERE since_ms <= ?1 LIMIT 10000)",
                )?
                .execute([millis(before)])?;
            Ok(())
        })
        .await
    }
}
