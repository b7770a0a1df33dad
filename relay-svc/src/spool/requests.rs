//! The identities of calls (AIP-155): a repeat gets what the first one made.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{Spool, SpoolError, db::Db, store::millis};
use crate::names::RequestId;

/// How long an identity is remembered.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The same request id came with other arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request id was used before, with other arguments")]
pub struct RequestConflict;

/// The identity of a call, with what a repeat of it must agree in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    id: RequestId,
    digest: [u8; 32],
}

impl RequestKey {
    /// Of the call's arguments; each is framed by its length.
    #[must_use]
    pub fn new<'a>(id: RequestId, arguments: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for argument in arguments {
            hash.update((argument.len() as u64).to_be_bytes());
            hash.update(argument);
        }
        Self {
            id,
            digest: hash.finalize().into(),
        }
    }

    /// As it was handed on.
    pub(super) fn read(id: &[u8], digest: Vec<u8>) -> Option<Self> {
        Some(Self {
            id: RequestId::from_bytes(id)?,
            digest: digest.try_into().ok()?,
        })
    }

    /// To be handed on: the id and the digest.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        (self.id.as_bytes(), &self.digest)
    }
}

impl Spool {
    /// What the first call with this identity was answered, if it was.
    ///
    /// # Errors
    /// The identity was used with other arguments, or the database cannot be read.
    pub async fn answered(&self, key: RequestKey) -> Result<Option<Vec<u8>>, SpoolError> {
        self.read(move |db| find(db, &key)).await
    }

    /// Remembers what a call is answered. If another one with its identity was answered meanwhile, that stands.
    ///
    /// # Errors
    /// The identity was used with other arguments, or the database cannot be written.
    pub async fn remember_answer(
        &self,
        key: RequestKey,
        answer: Vec<u8>,
    ) -> Result<(), SpoolError> {
        let now = self.clock();
        let remembered = self.write(move |db| match find(db, &key)? {
            Some(_) => Ok(()),
            None => remember(db, &key, &answer, now),
        });
        remembered.await
    }
}

/// What the first call with this identity made, if there was one.
pub(super) fn find(db: &Db<'_>, key: &RequestKey) -> Result<Option<Vec<u8>>, SpoolError> {
    let sql = "SELECT target, digest FROM requests WHERE id = ?1";
    let found: Option<(Vec<u8>, Vec<u8>)> = db.row(sql, &[key.id.as_bytes().into()], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    match found {
        Some((_, other)) if other != key.digest => Err(RequestConflict.into()),
        Some((target, _)) => Ok(Some(target)),
        None => Ok(None),
    }
}

/// Remembers what the call made, and forgets what is older than seven days by the clock of the spool.
pub(super) fn remember(
    db: &Db<'_>,
    key: &RequestKey,
    target: &[u8],
    clock: Duration,
) -> Result<(), SpoolError> {
    if let Some(old) = clock.checked_sub(KEPT) {
        let sql = "DELETE FROM requests WHERE created_ms < ?1";
        db.execute(sql, &[millis(old).into()])?;
    }
    let id = key.id.as_bytes();
    db.execute(
        "INSERT INTO requests (id, target, digest, created_ms) VALUES (?1, ?2, ?3, ?4)",
        &[
            id.into(),
            target.into(),
            (&key.digest).into(),
            millis(clock).into(),
        ],
    )
    .map(drop)
}
