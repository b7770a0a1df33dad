//! What is durable: messages with their envelopes, recipients with their fates, cycles, nodes with the requests for
//! their release, and the identities of calls.
//!
//! One commit point: a message exists once its row is committed. [`Spool::accept`] returns after that commit is
//! synced, so its caller may answer for the message (invariant 1). Small bodies lie in the database; a body above
//! [`INLINE_LIMIT`] is streamed to a file that is synced and renamed before its row is committed. Files without a
//! row are left by a crash and swept at start.
//!
//! One spool, two databases: its statements are written once, against the port `db`. The embedded engine is SQLite (WAL,
//! `synchronous=FULL`) behind one writer thread that commits together what waits together; one process at a time, the folder
//! is locked. The shared engine is PostgreSQL, for any number of replicas: who works for what is settled by leases
//! (`leases`), and what one of them commits wakes the others by a look each second (`shared`).
//!
//! May touch: the state folder, the database. Must not touch: mail's own sockets.
//!
//! Whatever waits does so by a clock of the spool's own (`age`), so that no step of the wall clock delays it or ends it.

mod age;
mod backup;
mod body;
mod calls;
mod checkpoint;
mod chunks;
mod cycles;
mod db;
mod doubts;
mod due;
mod due_hops;
mod embedded;
mod export;
mod filter;
mod gather;
mod held;
mod history;
mod lanes;
mod late;
mod leases;
mod link_views;
mod look;
mod messages;
mod moving;
mod nodes;
mod policies;
mod removal;
mod repeats;
mod reports;
mod requests;
mod reroute;
mod restore;
mod room;
mod schema;
mod shared;
mod signals;
mod sizes;
mod steer;
mod store;
#[cfg(test)]
mod tests;
mod wall;
mod windows;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::ErrorCode;
use sqlx::postgres::PgConnectOptions;

use db::Db;

pub use age::Tick;
pub use backup::{BackupError, Contents, back_up};
pub use body::{Body, Draft};
pub use calls::{Answer, CALL_WAIT, Call, CallId};
pub use cycles::{JournalEntry, Since};
pub use db::DatabaseError;
pub use due_hops::DueHops;
pub use export::{Envelope, EnvelopeRecipient};
pub use filter::{FilterPlace, MessageFilter, Selected, Selection, SenderPattern};
pub use held::{HeldPlace, TooOld};
pub use history::PastAttempt;
pub use lanes::{DuePlace, WaitingLane};
pub use leases::Lease;
pub use messages::{
    Accepted, Backlog, Due, DueRecipient, GivenBy, Handover, ListFilter, MessageWish, NewMessage,
    NewRecipient, Origin, RecipientRow, RecipientState, RecipientWish, Settled, StoredMessage,
};
pub use moving::{MoveError, move_to};
pub use nodes::{HeldNode, ReleaseRequest};
pub use reports::{ReportState, StoredReport};
pub use requests::{RequestConflict, RequestKey};
pub use restore::{RestoreError, restore};
pub use sizes::SizeLimits;
pub use steer::{Steered, Step};
pub use wall::is_plausible;
pub use windows::{Came, Exchanged, OpenCycle};

/// Bodies up to this many octets lie in the database; larger ones in files, or in pieces. A file costs two syncs more, whatever
/// its size; a body in the database is written twice, by way of the log.
pub const INLINE_LIMIT: usize = 96 * 1024;
/// A larger body is written and read in pieces of so many octets.
const PIECE: usize = 64 * 1024;

/// Why the spool could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The state folder cannot be made or written to.
    #[error("{path}: cannot be used as the state folder: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the spool.
    #[error("{path}: another relay-svc is using this state folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The spool was written by a newer version.
    #[error(
        "{path}: written by a newer version (schema {found}; this one knows {known}): upgrade relay-svc"
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// The schema version that was found.
        found: i64,
        /// The newest schema version that this program knows.
        known: i64,
    },
    /// There are bodies of messages, and no database that knows them.
    #[error(
        "{path}: bodies/ holds messages and spool.sqlite is missing: restore it, or empty bodies/ to start anew"
    )]
    DatabaseGone {
        /// The folder.
        path: PathBuf,
    },
    /// The spool was moved away from here.
    #[error("{path}: this spool was moved to {to}: set spool to that in the configuration")]
    Moved {
        /// The folder.
        path: PathBuf,
        /// Where it is now.
        to: String,
    },
    /// A spool was not moved into this database to its end.
    #[error(
        "{place}: a spool is being moved into this database, or that was interrupted: relay-svc spool move, begun again, ends it"
    )]
    HalfMoved {
        /// The database.
        place: String,
    },
    /// The disk is full; nothing was stored.
    #[error("the disk of the spool is full")]
    Full,
    /// The database refused.
    #[error("spool: {0}")]
    Database(DatabaseError),
    /// The server of the database does not answer, or not now. A change may have been done all the same.
    #[error("the database of the spool does not answer: {0}")]
    Unavailable(String),
    /// The server lets us not in, or has no such database.
    #[error("{place}: {reason}; check the user and the database of spool, and spool_password_file")]
    Refused {
        /// The database.
        place: String,
        /// What the server said.
        reason: String,
    },
    /// Another replica works for this now; nothing was recorded.
    #[error("another replica has taken over")]
    LeaseLost,
    /// A body file could not be written or read.
    #[error("spool: {0}")]
    Io(#[from] io::Error),
    /// A stored row does not make sense.
    #[error("spool: damaged row: {0}")]
    Damaged(String),
    /// The same request id came with other content, or for another thing.
    #[error(transparent)]
    Request(#[from] RequestConflict),
    /// The spool is closing.
    #[error("the spool is closed")]
    Closed,
}

impl SpoolError {
    /// Whether the fault lies with the one message, and would be there at every further try.
    #[must_use]
    pub fn is_of_the_message(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData
            ),
            _ => false,
        }
    }
}

impl From<rusqlite::Error> for SpoolError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Database(error.into()),
        }
    }
}

/// The spool of this process. Cheap to clone.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
    /// Without it nothing is read or changed through this handle.
    lease: Option<Arc<leases::Held>>,
}

struct Inner {
    engine: Engine,
    signals: signals::Signals,
    sizes: sizes::Sizes,
    clock: age::SpoolClock,
}

/// Where the spool lies.
enum Engine {
    /// In a folder, for this process alone.
    Embedded(embedded::Embedded),
    /// In a database that replicas share.
    Shared(shared::Shared),
}

impl Spool {
    /// Opens the spool in `folder`, making it if it is missing, and sweeps what a crash left.
    ///
    /// # Errors
    /// The folder cannot be used, another process uses it, or it was written by a newer version.
    pub fn open(folder: &Path) -> Result<Self, SpoolError> {
        Self::open_with(folder, 0)
    }

    /// The same; no mail is taken when less than `reserve` octets are free on its disk.
    ///
    /// # Errors
    /// As [`Spool::open`].
    pub fn open_with(folder: &Path, reserve: u64) -> Result<Self, SpoolError> {
        let (embedded, clock) = embedded::Embedded::open(folder, reserve)?;
        Ok(Self {
            inner: Arc::new(Inner {
                engine: Engine::Embedded(embedded),
                signals: signals::Signals::default(),
                sizes: sizes::Sizes::default(),
                clock,
            }),
            lease: None,
        })
    }

    /// Opens the spool in a PostgreSQL database, making its tables if they are missing.
    ///
    /// # Errors
    /// The server cannot be reached, or the spool was written by a newer version.
    pub async fn connect(options: PgConnectOptions) -> Result<Self, SpoolError> {
        let (shared, clock) = shared::Shared::open(options).await?;
        let inner = Arc::new(Inner {
            engine: Engine::Shared(shared),
            signals: signals::Signals::default(),
            sizes: sizes::Sizes::default(),
            clock,
        });
        tokio::spawn(shared::watch(Arc::downgrade(&inner)));
        Ok(Self { inner, lease: None })
    }

    /// Ends the use of the spool: its clock is kept; in a shared database leases are given back, and nothing is begun any
    /// more.
    pub async fn close(&self) {
        match &self.inner.engine {
            Engine::Shared(shared) => shared.close().await,
            Engine::Embedded(_) => {
                if let Err(error) = self.keep_clock().await {
                    tracing::warn!(%error, "the clock of the spool cannot be kept");
                }
            }
        }
    }

    /// A place for the body of a message that is being received.
    #[must_use]
    pub fn draft(&self) -> Draft {
        Draft::new(self.body_store(), self.room().cloned())
    }

    /// A place for the body of a message of our own: it may use the reserve.
    #[must_use]
    pub fn own_draft(&self) -> Draft {
        Draft::new(self.body_store(), None)
    }

    /// The disk it lies on, if it lies on one of this machine.
    fn room(&self) -> Option<&room::Room> {
        match &self.inner.engine {
            Engine::Embedded(embedded) => Some(&embedded.room),
            Engine::Shared(_) => None,
        }
    }

    fn body_store(&self) -> body::Store {
        match &self.inner.engine {
            Engine::Embedded(embedded) => body::Store::Folder(embedded.bodies()),
            Engine::Shared(shared) => body::Store::Chunks(Arc::clone(&shared.pool)),
        }
    }

    /// Wakes each time mail is queued for a next hop, or the fate of some of it changed. [`NextHop::MX`] stands for all
    /// domains whose mail goes to their exchangers, and a link for its large mail, too.
    ///
    /// [`NextHop::MX`]: crate::names::NextHop::MX
    #[must_use]
    pub fn watch_hop(&self, hop: &str) -> tokio::sync::watch::Receiver<u64> {
        self.inner.signals.hop(hop).subscribe()
    }

    /// There is late mail for these next hops; whoever serves them is woken.
    /// `is_all`: those that were told of before, and are not among them, have none any more.
    pub fn note_late(&self, hops: Vec<String>, is_all: bool) {
        self.inner.signals.note_late(hops, is_all);
    }

    /// Whether there is late mail for a next hop, of which nobody was told yet.
    #[must_use]
    pub fn take_late(&self, hop: &str) -> bool {
        self.inner.signals.take_late(hop)
    }

    /// Domains with late mail, of which nobody was told yet.
    #[must_use]
    pub fn late_domains(&self) -> Vec<String> {
        self.inner.signals.late_domains()
    }

    /// Wakes each time the journal of cycles grows; holds its newest revision that this process knows of.
    #[must_use]
    pub fn watch_journal(&self) -> tokio::sync::watch::Receiver<i64> {
        self.inner.signals.journal().subscribe()
    }

    /// Runs a change; returns after it is committed and synced. It may be run more than once before that.
    async fn write<T, F>(&self, change: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: Fn(&Db<'_>) -> Result<T, SpoolError> + Send + 'static,
    {
        match (&self.inner.engine, self.lease.clone()) {
            (Engine::Embedded(embedded), _) => {
                let change = move |connection: &_| change(&Db::Sqlite(connection));
                embedded.writer.run(change).await
            }
            (Engine::Shared(shared), None) => shared.pool.change(change).await,
            (Engine::Shared(shared), Some(lease)) => {
                let under = move |db: &Db<'_>| {
                    lease.check(db)?;
                    change(db)
                };
                shared.pool.change(under).await
            }
        }
    }

    /// Runs a look-up, off the runtime's own threads.
    async fn read<T, F>(&self, look_up: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: Fn(&Db<'_>) -> Result<T, SpoolError> + Send + 'static,
    {
        if let Some(lease) = &self.lease {
            lease.look()?;
        }
        match &self.inner.engine {
            Engine::Embedded(embedded) => embedded.read(look_up).await,
            Engine::Shared(shared) => shared.pool.look_up(look_up).await,
        }
    }
}
