//! Bodies: written while they arrive, read while they are sent, never wholly in memory above [`INLINE_LIMIT`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::{
    INLINE_LIMIT, PIECE, SpoolError,
    chunks::{Chunks, PartChunks},
    db::{Db, Pool},
    room::Room,
    writer::sync_failed,
};

/// The end of the name of a file that no row names yet.
const UNFINISHED: &str = ".part";

/// The body of a message that is being received. Dropped without being accepted, it leaves nothing behind.
pub struct Draft {
    store: Store,
    /// Where it may not use all that is free.
    room: Option<Room>,
    hash: Sha256,
    size: u64,
    eight_bit: bool,
    memory: Vec<u8>,
    file: Option<PartFile>,
    chunks: Option<PartChunks>,
}

/// Where large bodies lie.
#[derive(Clone)]
pub(super) enum Store {
    /// In files of this folder.
    Folder(PathBuf),
    /// In a table, in pieces.
    Chunks(Arc<Pool>),
}

struct PartFile {
    path: PathBuf,
    file: File,
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // After acceptance the file has its final name, and this finds nothing.
        let _ = fs::remove_file(&self.path);
    }
}

/// A body that is complete and, where it lies in a file, synced under its final name.
pub(super) enum Finished {
    Inline(Vec<u8>),
    Large(String),
}

impl Finished {
    /// The name under which it lies beside the tables of messages.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Large(name) => Some(name),
            Self::Inline(_) => None,
        }
    }
}

/// What is known of a finished body.
pub(super) struct Facts {
    pub(super) size: u64,
    pub(super) eight_bit: bool,
    pub(super) hash: [u8; 32],
}

impl Draft {
    pub(super) fn new(store: Store, room: Option<Room>) -> Self {
        Self {
            store,
            room,
            hash: Sha256::new(),
            size: 0,
            eight_bit: false,
            memory: Vec::new(),
            file: None,
            chunks: None,
        }
    }

    /// Octets so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends octets; above [`INLINE_LIMIT`] they go to a file.
    ///
    /// # Errors
    /// The file cannot be written; a full disk is [`SpoolError::Full`].
    pub async fn write(&mut self, octets: &[u8]) -> Result<(), SpoolError> {
        self.hash.update(octets);
        self.size += octets.len() as u64;
        self.eight_bit |= !octets.is_ascii();
        self.memory.extend_from_slice(octets);
        let most = match self.file.is_none() && self.chunks.is_none() {
            true => INLINE_LIMIT,
            false => PIECE,
        };
        if self.memory.len() > most {
            if let Some(room) = &self.room {
                room.check()?;
            }
            match self.store.clone() {
                Store::Folder(folder) => self.spill(&folder).await.map_err(full_or_io)?,
                Store::Chunks(pool) => self.spill_chunks(&pool).await?,
            }
        }
        Ok(())
    }

    /// Whole pieces; what is left waits for more.
    async fn spill_chunks(&mut self, pool: &Arc<Pool>) -> Result<(), SpoolError> {
        if self.chunks.is_none() {
            self.chunks = Some(PartChunks::begin(Arc::clone(pool)).await?);
        }
        while let (Some(chunks), true) = (&mut self.chunks, self.memory.len() >= PIECE) {
            let rest = self.memory.split_off(PIECE);
            chunks
                .push(std::mem::replace(&mut self.memory, rest))
                .await?;
        }
        Ok(())
    }

    async fn spill(&mut self, folder: &Path) -> io::Result<()> {
        if self.file.is_none() {
            let path = folder.join(format!("{}{UNFINISHED}", uuid::Uuid::new_v4().as_simple()));
            let file = File::create(&path).await?;
            self.file = Some(PartFile { path, file });
        }
        if let Some(part) = &mut self.file {
            part.file.write_all(&self.memory).await?;
            part.file.flush().await?;
        }
        self.memory.clear();
        Ok(())
    }

    /// Makes the body durable where it lies in a file, and gives what its row needs.
    pub(super) async fn finish(mut self) -> Result<(Finished, Facts), SpoolError> {
        if let (Store::Folder(folder), true) = (self.store.clone(), self.file.is_some()) {
            self.spill(&folder).await.map_err(full_or_io)?;
        }
        let facts = Facts {
            size: self.size,
            eight_bit: self.eight_bit,
            hash: self.hash.finalize().into(),
        };
        if let Some(mut chunks) = self.chunks.take() {
            if !self.memory.is_empty() {
                chunks.push(self.memory).await?;
            }
            return Ok((Finished::Large(chunks.keep()), facts));
        }
        let (Some(part), Store::Folder(folder)) = (self.file.take(), self.store) else {
            return Ok((Finished::Inline(self.memory), facts));
        };
        // A full disk may show only now. What was to be synced is thrown away with the file then.
        if let Err(error) = part.file.sync_data().await {
            return Err(match full_or_io(error) {
                SpoolError::Full => SpoolError::Full,
                error => sync_failed(&error),
            });
        }
        let name = part
            .path
            .file_name()
            .map(|n| n.to_string_lossy().replace(UNFINISHED, ""))
            .unwrap_or_default();
        let target = name.clone();
        let task = tokio::task::spawn_blocking(move || {
            let bodies = fs::File::open(&folder)?;
            fs::rename(&part.path, folder.join(target))?;
            if let Err(error) = bodies.sync_all() {
                sync_failed(&error.into());
            }
            Ok(())
        });
        task.await
            .map_err(|_| SpoolError::Closed)?
            .map_err(full_or_io)?;
        Ok((Finished::Large(name), facts))
    }
}

fn full_or_io(error: io::Error) -> SpoolError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SpoolError::Full,
        _ => SpoolError::Io(error),
    }
}

/// A stored body, read piece by piece and checked against the hash in its row.
pub struct Body {
    source: Source,
    hash: Sha256,
    expected: Vec<u8>,
}

enum Source {
    /// At most [`INLINE_LIMIT`] octets; taken by the first read.
    Inline(Vec<u8>),
    File(File),
    Chunks(Chunks),
}

impl Body {
    pub(super) fn inline(content: Vec<u8>, expected: Vec<u8>) -> Self {
        Self {
            source: Source::Inline(content),
            hash: Sha256::new(),
            expected,
        }
    }

    pub(super) async fn open(
        store: Store,
        name: String,
        expected: Vec<u8>,
    ) -> Result<Self, SpoolError> {
        let source = match store {
            Store::Folder(folder) => Source::File(File::open(folder.join(name)).await?),
            Store::Chunks(pool) => Source::Chunks(Chunks::new(pool, name)),
        };
        Ok(Self {
            source,
            hash: Sha256::new(),
            expected,
        })
    }

    /// The whole of a body that lies in the database; nothing when it lies in a file.
    ///
    /// # Errors
    /// It is not what was accepted.
    pub async fn whole(&mut self) -> io::Result<Option<Vec<u8>>> {
        if !matches!(self.source, Source::Inline(_)) {
            return Ok(None);
        }
        let octets = self.next().await?;
        // An empty body was checked by that.
        if !octets.is_empty() {
            self.next().await?;
        }
        Ok(Some(octets))
    }

    /// The next piece, of a body in the database all of it; empty at the end.
    ///
    /// # Errors
    /// The file cannot be read, or, at the end, the body is not what was accepted.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        let piece = match &mut self.source {
            Source::Inline(octets) => std::mem::take(octets),
            Source::File(file) => {
                let mut piece = vec![0; PIECE];
                let read = file.read(&mut piece).await?;
                piece.truncate(read);
                piece
            }
            Source::Chunks(chunks) => chunks.next().await.map_err(io::Error::other)?,
        };
        if !piece.is_empty() {
            self.hash.update(&piece);
        } else if self.hash.finalize_reset().as_slice() != self.expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not what was accepted: its hash differs",
            ));
        }
        Ok(piece)
    }

    /// At most `limit` octets from the start, for the header of a report.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn head(mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        while head.len() < limit {
            let piece = self.next().await?;
            if piece.is_empty() {
                break;
            }
            head.extend_from_slice(&piece);
        }
        head.truncate(limit);
        Ok(head)
    }
}

/// Whether there are bodies that were complete.
pub(super) fn any(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder.join("bodies"))? {
        if !entry?.file_name().to_string_lossy().ends_with(UNFINISHED) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes body files that no row names: left by a crash between rename and commit, or between commit and removal.
pub(super) fn sweep(folder: &Path, db: &Db<'_>) -> Result<(), SpoolError> {
    let known = "SELECT 1 FROM messages WHERE body_file = ?1";
    for entry in fs::read_dir(folder.join("bodies"))? {
        let entry = entry?;
        let name = entry.file_name();
        let named = match name.to_str() {
            Some(name) if !name.ends_with(UNFINISHED) => db.exists(known, &[name.into()])?,
            _ => false,
        };
        if !named {
            fs::remove_file(entry.path())?;
            tracing::info!(file = %name.to_string_lossy(), "spool: removed a body that no message names");
        }
    }
    Ok(())
}
