//! A message with everything that SMTP said of it, for whoever takes it elsewhere; and one that comes from there.

use linkmail_smtp::{
    DeliverBy, ReversePath,
    dsn::{EnvelopeId, Notify, OriginalRecipient, Ret},
};

use super::{
    MessageWish, RecipientState, RecipientWish, Spool, SpoolError,
    db::{Db, Row},
    due, look,
};
use crate::{clock::Stamp, names::MessageId};

/// What is stored of a message beside its body.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Its place in the spool.
    pub seq: i64,
    /// When it was accepted.
    pub accepted: Stamp,
    /// The reverse path.
    pub reverse_path: ReversePath,
    /// What the sender asked for.
    pub wish: MessageWish,
    /// Whether its header needs SMTPUTF8 (RFC 6532).
    pub utf8_header: bool,
    /// Octets of the body.
    pub size: u64,
    /// SHA-256 of the body.
    pub hash: Vec<u8>,
    /// Whether the body is still kept.
    pub has_body: bool,
    /// In the order of the envelope.
    pub recipients: Vec<EnvelopeRecipient>,
}

/// What is stored of a recipient.
#[derive(Debug, Clone)]
pub struct EnvelopeRecipient {
    /// The address, as the client wrote it.
    pub address: Vec<u8>,
    /// Its state.
    pub state: RecipientState,
    /// What the sender asked for.
    pub wish: RecipientWish,
}

impl Spool {
    /// The envelope of a message, if it is there.
    ///
    /// # Errors
    /// It is damaged, or the database cannot be read.
    pub async fn envelope(&self, id: MessageId) -> Result<Option<Envelope>, SpoolError> {
        self.read(move |db| look::place_of(db, id)?.map(|seq| load(db, seq)).transpose())
            .await
    }
}

fn load(db: &Db<'_>, seq: i64) -> Result<Envelope, SpoolError> {
    let message = "SELECT m.accepted_ms, m.reverse_path, m.ret, m.envelope_id, m.utf8_header, m.priority, m.deliver_by, \
                   m.size, m.hash, m.body_file, b.seq FROM messages m LEFT JOIN bodies b USING (seq) WHERE m.seq = ?1";
    let recipients =
        "SELECT address, state, notify, original FROM recipients WHERE seq = ?1 ORDER BY idx";
    let found = db.row(message, &[seq.into()], |row| envelope(row, seq))?;
    let found = found.ok_or_else(|| SpoolError::Damaged(format!("message {seq} has no row")))?;
    Ok(Envelope {
        recipients: db.query(recipients, &[seq.into()], recipient)?,
        ..found
    })
}

fn envelope(row: &Row<'_>, seq: i64) -> Result<Envelope, SpoolError> {
    let (file, inline): (Option<String>, Option<i64>) = (row.get(9)?, row.get(10)?);
    Ok(Envelope {
        seq,
        accepted: Stamp(row.get(0)?),
        reverse_path: look::reverse_path(row, 1)?,
        wish: MessageWish {
            ret: parsed(row, 2, Ret::parse)?,
            envelope_id: parsed(row, 3, EnvelopeId::parse)?,
            priority: due::priority(row.get(5)?)?,
            deliver_by: parsed(row, 6, DeliverBy::parse)?,
        },
        utf8_header: row.get(4)?,
        size: look::unsigned(row.get(7)?),
        hash: row.get(8)?,
        has_body: file.is_some() || inline.is_some(),
        recipients: Vec::new(),
    })
}

fn recipient(row: &Row<'_>) -> Result<EnvelopeRecipient, SpoolError> {
    Ok(EnvelopeRecipient {
        address: row.get(0)?,
        state: RecipientState::read(row.get(1)?)?,
        wish: RecipientWish {
            notify: parsed(row, 2, Notify::parse)?,
            original: parsed(row, 3, |text| OriginalRecipient::parse(text, true))?,
        },
    })
}

/// A value that may be missing, but not be wrong.
fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, SpoolError> {
    let text: Option<String> = row.get(column)?;
    let Some(text) = text else { return Ok(None) };
    let value = parse(text.as_bytes());
    value
        .map(Some)
        .ok_or_else(|| SpoolError::Damaged(format!("{text:?}")))
}
