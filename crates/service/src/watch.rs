//! A watch over a journal: a reader at its own pace, which loses nothing and holds nothing up.
//!
//! Each change of a resource is a row of a journal with a revision that only grows. A watcher gets the resources as they
//! stand, then every change, and a bookmark now and then; with a revision it resumes behind it, also over a restart.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::errors::ErrorDomain;

/// A watcher hears so often where the journal stands, whatever else it hears.
const BOOKMARK: Duration = Duration::from_secs(30);
/// A client that does not read is told the end of its stream for so long.
const LAST_WORD: Duration = Duration::from_secs(5);
/// So many changes are read at once, and as many wait for a slow watcher.
pub const BATCH: u32 = 64;

/// What the journal holds after a revision.
#[derive(Debug, Clone)]
pub enum Since<T> {
    /// The changes, oldest first, with their revisions, up to [`BATCH`].
    Entries(Vec<(i64, T)>),
    /// Some of them are no longer kept; this is the oldest revision that can be resumed from.
    Compacted {
        /// Pass this, or a later one.
        oldest: i64,
    },
}

/// A journal of changes, as one watcher sees it.
pub trait Journal: Send + Sync + 'static {
    /// What is told: a snapshot, a change, or a bookmark.
    type Answer: Send + 'static;

    /// Wakes when the journal grows.
    fn grown(&self) -> watch::Receiver<i64>;
    /// The newest revision; 0 while the journal is empty.
    fn newest(&self) -> impl Future<Output = Result<i64, Status>> + Send;
    /// The changes behind a revision.
    fn since(
        &self,
        revision: i64,
    ) -> impl Future<Output = Result<Since<Self::Answer>, Status>> + Send;
    /// The resources as they stand; `revision` is where changes follow.
    fn snapshot(
        &self,
        revision: i64,
    ) -> impl Future<Output = Result<Vec<Self::Answer>, Status>> + Send;
    /// That the journal stands at this revision.
    fn bookmark(&self, revision: i64) -> Self::Answer;
}

/// Follows a journal until the client leaves or the service stops.
///
/// # Errors
/// `since` is negative.
pub fn follow<J: Journal>(
    domain: ErrorDomain,
    journal: J,
    since: Option<i64>,
    stopping: CancellationToken,
) -> Result<ReceiverStream<Result<J::Answer, Status>>, Status> {
    if since.is_some_and(|revision| revision < 0) {
        return Err(domain.invalid("since_revision", "must not be negative"));
    }
    let (answers, stream) = mpsc::channel(BATCH as usize);
    let watch = Watch {
        domain,
        journal,
        answers,
    };
    tokio::spawn(watch.run(since, stopping));
    Ok(ReceiverStream::new(stream))
}

/// One watcher.
struct Watch<J: Journal> {
    domain: ErrorDomain,
    journal: J,
    answers: mpsc::Sender<Result<J::Answer, Status>>,
}

/// Why a watch ends.
enum End {
    /// The client has gone.
    Gone,
    /// The client is told.
    Failed(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl<J: Journal> Watch<J> {
    async fn run(self, since: Option<i64>, stopping: CancellationToken) {
        let end = tokio::select! {
            end = self.changes(since) => match end {
                Ok(never) => match never {},
                Err(end) => end,
            },
            () = self.answers.closed() => End::Gone,
            () = stopping.cancelled() => {
                End::Failed(self.domain.unavailable("SHUTTING_DOWN", "the service is stopping"))
            }
        };
        if let End::Failed(status) = end {
            // A client that has gone, or does not read, needs no word.
            let _ = timeout(LAST_WORD, self.answers.send(Err(status))).await;
        }
    }

    async fn changes(&self, since: Option<i64>) -> Result<std::convert::Infallible, End> {
        let mut grown = self.journal.grown();
        let mut revision = match since {
            Some(revision) => self.of_this_journal(revision).await?,
            None => self.snapshot().await?,
        };
        let mut bookmark = Instant::now() + BOOKMARK;
        loop {
            grown.mark_unchanged();
            // Read before the changes are looked for: up to here what is watched has none that is not found now. So the
            // place of something quiet does not fall behind what the journal keeps.
            let newest = self.journal.newest().await?;
            let entries = self.entries(revision).await?;
            let more = !entries.is_empty();
            if !more {
                revision = revision.max(newest);
            }
            for (at, answer) in entries {
                revision = at;
                self.tell(answer).await?;
            }
            if Instant::now() >= bookmark {
                self.tell(self.journal.bookmark(revision)).await?;
                bookmark = Instant::now() + BOOKMARK;
            }
            if !more {
                // Late or not, the journal is looked at again.
                let _ = timeout_at(bookmark, grown.changed()).await;
            }
        }
    }

    /// A revision that was not made yet is of a journal that is gone: the client would wait for ever.
    async fn of_this_journal(&self, revision: i64) -> Result<i64, End> {
        let newest = self.journal.newest().await?;
        if revision <= newest {
            return Ok(revision);
        }
        let message = format!(
            "there is no revision {revision}, the newest is {newest}: list, then watch anew"
        );
        Err(self.compacted(newest, message))
    }

    /// The resources as they stand, and the revision behind which changes follow.
    async fn snapshot(&self) -> Result<i64, End> {
        // Taken first: a change between the two is told twice rather than never.
        let revision = self.journal.newest().await?;
        for answer in self.journal.snapshot(revision).await? {
            self.tell(answer).await?;
        }
        Ok(revision)
    }

    async fn entries(&self, after: i64) -> Result<Vec<(i64, J::Answer)>, End> {
        match self.journal.since(after).await? {
            Since::Entries(entries) => Ok(entries),
            Since::Compacted { oldest } => {
                let message = format!(
                    "changes before revision {oldest} are no longer kept: list, then watch anew"
                );
                Err(self.compacted(oldest, message))
            }
        }
    }

    fn compacted(&self, oldest: i64, message: String) -> End {
        let oldest = oldest.to_string();
        let metadata = [("oldest_revision", oldest.as_str())];
        let code = Code::OutOfRange;
        let status = self
            .domain
            .error(code, "REVISION_COMPACTED", message, &metadata);
        End::Failed(status)
    }

    async fn tell(&self, answer: J::Answer) -> Result<(), End> {
        self.answers.send(Ok(answer)).await.map_err(|_| End::Gone)
    }
}
