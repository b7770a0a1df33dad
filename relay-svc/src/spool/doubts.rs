//! What a replica had sent when its lease ended: it is counted, and decides nothing.

use super::{Spool, SpoolError};

impl Spool {
    /// Counts an attempt in doubt for each of these recipients (their `idx`) of a message. No outcome is recorded by it, and no
    /// time changed, so no lease is needed: whoever has that now goes on as it did.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn count_doubts(&self, seq: i64, recipients: Vec<i64>) -> Result<(), SpoolError> {
        if recipients.is_empty() {
            return Ok(());
        }
        let sql = "UPDATE recipients SET doubts = doubts + 1 WHERE seq = ?1 AND idx = ?2";
        let spool = self.unbound();
        let counted = spool.write(move |db| {
            for idx in &recipients {
                db.execute(sql, &[seq.into(), (*idx).into()])?;
            }
            Ok(())
        });
        counted.await
    }
}
