//! What is durable: messages with their envelopes, recipients with their fates, cycles, nodes with the requests for
//! their release, and the identities of calls.
//!
//! One commit point: a message exists once its row is committed. [`Spool::accept`] returns after that commit is
//! synced, so its caller may answer for the message (invariant 1). Small bodies lie in the database; a body above
//! [`INLINE_LIMIT`] is streamed to a file that is synced and renamed before its row is committed. Files without a
//! row are left by a crash and swept at start.
//!
//! The embedded engine is SQLite (WAL, `synchronous=FULL`) behind one writer thread that commits together what
//! waits together. One process at a time: the folder is locked.
//!
//! May touch: the state folder. Must not touch: sockets.
//!
//! Held mail and reports that nobody fetches are given up by a clock that counts while the relay runs (`age`), so that
//! no step of the wall clock ends them.
//!
//! Limits: waiting times are kept by the wall clock between attempts; a step of it can delay an attempt, and can
//! add at most one scheduled wait to the time after which a recipient is given up.

mod age;
mod body;
mod checkpoint;
mod cycles;
mod db;
mod due;
mod due_hops;
mod held;
mod look;
mod messages;
mod nodes;
mod policies;
mod repeats;
mod reports;
mod requests;
mod reroute;
mod room;
mod schema;
mod signals;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::Semaphore;

use db::Db;

pub use body::{Body, Draft};
pub use cycles::{JournalEntry, Since};
pub use due::DuePlace;
pub use due_hops::DueHops;
pub use held::{HeldPlace, TooOld};
pub use messages::{
    Accepted, Backlog, Due, DueRecipient, Handover, ListFilter, MessageWish, NewMessage,
    NewRecipient, Origin, RecipientRow, RecipientState, RecipientWish, Settled, StoredMessage,
};
pub use nodes::{HeldNode, ReleaseRequest};
pub use reports::{ReportState, StoredReport};
pub use requests::{RequestConflict, RequestKey};
use room::Room;

/// Bodies up to this many octets lie in the database; larger ones in files.
pub const INLINE_LIMIT: usize = 64 * 1024;

/// How many look-ups run at once, each on a connection of its own that is kept open.
const READERS: usize = 4;

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
    /// The disk is full; nothing was stored.
    #[error("the disk of the spool is full")]
    Full,
    /// The database refused.
    #[error("spool: {0}")]
    Database(rusqlite::Error),
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
            _ => Self::Database(error),
        }
    }
}

/// The spool of this process. Cheap to clone.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    room: Room,
    writer: writer::Writer,
    readers: Mutex<Vec<Connection>>,
    /// A turn for each look-up; it ends with the look-up, also when nobody waits for that any more.
    turns: Arc<Semaphore>,
    signals: signals::Signals,
    clock: age::SpoolClock,
    /// Held for the life of the process: the lock goes with the descriptor.
    _lock: File,
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
        let unusable = |source| SpoolError::Folder {
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder.join("bodies")).map_err(unusable)?;
        let lock = File::create(folder.join("lock")).map_err(unusable)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |_| SpoolError::InUse {
                path: folder.to_owned(),
            },
        )?;
        if !schema::exists(folder) && body::any(folder)? {
            return Err(SpoolError::DatabaseGone {
                path: folder.to_owned(),
            });
        }
        let connection = schema::open(folder)?;
        let db = db::Db::Sqlite(&connection);
        body::sweep(folder, &db)?;
        let clock = age::SpoolClock::resume(&db)?;
        let writer = writer::Writer::start(folder, connection, reserve)?;
        let inner = Inner {
            folder: folder.to_owned(),
            room: Room::new(folder, reserve),
            writer,
            readers: Mutex::new(Vec::new()),
            turns: Arc::new(Semaphore::new(READERS)),
            signals: signals::Signals::default(),
            clock,
            _lock: lock,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// A place for the body of a message that is being received.
    #[must_use]
    pub fn draft(&self) -> Draft {
        let room = self.inner.room.clone();
        Draft::new(self.inner.folder.join("bodies"), Some(room))
    }

    /// A place for the body of a message of our own: it may use the reserve.
    #[must_use]
    pub fn own_draft(&self) -> Draft {
        Draft::new(self.inner.folder.join("bodies"), None)
    }

    /// Wakes each time mail is queued for a next hop, or the fate of some of it changed. [`NextHop::MX`] stands for all
    /// domains whose mail goes to their exchangers.
    ///
    /// [`NextHop::MX`]: crate::names::NextHop::MX
    #[must_use]
    pub fn watch_hop(&self, hop: &str) -> tokio::sync::watch::Receiver<u64> {
        self.inner.signals.hop(hop).subscribe()
    }

    /// Wakes each time the journal of cycles grows; holds its newest revision that this process wrote.
    #[must_use]
    pub fn watch_journal(&self) -> tokio::sync::watch::Receiver<i64> {
        self.inner.signals.journal().subscribe()
    }

    /// Runs a change in the writer thread; returns after it is committed and synced.
    async fn write<T, F>(&self, change: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: Fn(&Db<'_>) -> Result<T, SpoolError> + Send + 'static,
    {
        self.inner
            .writer
            .run(move |connection| change(&Db::Sqlite(connection)))
            .await
    }

    /// Runs a look-up on a read connection, off the runtime's own threads.
    async fn read<T, F>(&self, look_up: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: Fn(&Db<'_>) -> Result<T, SpoolError> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let turn = Arc::clone(&inner.turns).acquire_owned().await;
        let turn = turn.map_err(|_| SpoolError::Closed)?;
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let kept = inner
                .readers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let connection = match kept {
                Some(connection) => connection,
                None => schema::open_reader(&inner.folder)?,
            };
            let result = look_up(&Db::Sqlite(&connection));
            let readers = inner.readers.lock();
            readers
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            result
        });
        task.await.map_err(|_| SpoolError::Closed)?
    }
}
